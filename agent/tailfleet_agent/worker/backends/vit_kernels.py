"""Which kernels a vision transformer launches: of its halves of a block, of its ends, and of each method.

Lists of :mod:`~tailfleet_agent.worker.backends.wave_model` kernels, as eager PyTorch would launch them; what they
cost is said there. Only shapes are known here: B images, n tokens, width C, H heads of width d = C/H, MLP width M.
The kernels of scoring and reduction follow what each method computes (``tailfleet_reduce``), step by step.
"""

from typing import Callable, Dict, List

from tailfleet_agent.worker.backends.wave_model import FusedAttention, Gemm, Kernel, Stream
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import Geometry

SORT = Stream(0, launches=2)
"""A sort or top-k of one score per token: nothing to compute, but two kernels."""


def fixed(geometry: Geometry, batch: int) -> List[Kernel]:
    """What a pass runs outside its blocks."""
    patches, width = geometry.tokens - geometry.prefix, geometry.dim
    pixels = geometry.channels * geometry.patch_size ** 2
    tokens = batch * geometry.tokens * width
    kernels: List[Kernel] = [
        Gemm(1, batch * patches, width, pixels),      # patch embedding
        Stream(2 * batch * patches * width),          # flatten and transpose
        Stream(2 * tokens),                           # prefix tokens in front
        Stream(2 * tokens),                           # + positions
        Stream(2 * tokens),                           # final norm
        Stream(2 * batch * width),                    # pool
    ]
    if geometry.classes:
        kernels.append(Gemm(1, batch, geometry.classes, width))
    return kernels


def attention(geometry: Geometry, batch: int, n: int, fused: bool, sized: bool = False) -> List[Kernel]:
    """The attention half of one block; ``sized``: with logits shifted by the log of each key's size."""
    tokens = batch * n * geometry.dim
    kernels: List[Kernel] = [Stream(2 * tokens), Gemm(1, batch * n, 3 * geometry.dim, geometry.dim)]
    if sized:
        kernels.append(Stream(2 * batch * n))
    if fused:
        kernels.append(FusedAttention(batch * geometry.heads, n, geometry.dim // geometry.heads))
    else:
        kernels.extend(_explicit(geometry, batch, n))
        if sized:
            kernels.append(Stream(2 * batch * geometry.heads * n * n))
    kernels.append(Stream(2 * tokens))                                 # heads side by side again
    kernels.append(Gemm(1, batch * n, geometry.dim, geometry.dim))     # projection
    kernels.append(Stream(3 * tokens))                                 # residual
    return kernels


def mlp(geometry: Geometry, batch: int, n: int) -> List[Kernel]:
    """The MLP half of one block."""
    rows, width, hidden = batch * n, geometry.dim, geometry.mlp_dim
    return [Stream(2 * rows * width), Gemm(1, rows, hidden, width), Stream(2 * rows * hidden),
            Gemm(1, rows, width, hidden), Stream(3 * rows * width)]


def attention_reduce(geometry: Geometry, batch: int, method: str, n: int, m: int, fused: bool,
                     sized: bool = False) -> List[Kernel]:
    """The attention half of one block that then leaves ``m`` of ``n`` tokens by ``method``.

    Raises ``InputError`` for a method whose kernels are not known here.
    """
    if m == n:
        return attention(geometry, batch, n, fused, sized)
    if method not in _REDUCTIONS:
        raise InputError("virtual boards do not know what method {!r} costs".format(method))
    # POMT scores by the whole attention matrix: only an explicit softmax has it.
    half = attention(geometry, batch, n, fused and method != "pomt", sized)
    return half + _REDUCTIONS[method](geometry, batch, n, m)


def _explicit(geometry: Geometry, batch: int, n: int) -> List[Kernel]:
    heads, width, square = batch * geometry.heads, geometry.dim // geometry.heads, batch * geometry.heads * n * n
    return [
        Stream(6 * batch * n * geometry.dim, launches=3),   # q, k, v made contiguous
        Gemm(heads, n, n, width),                           # q kᵀ
        Stream(2 * square),                                 # scale
        Stream(2 * square),                                 # softmax
        Gemm(heads, n, width, n),                           # · v
    ]


def _topk(geometry: Geometry, batch: int, n: int, m: int) -> List[Kernel]:
    heads, width = batch * geometry.heads, geometry.dim // geometry.heads
    return [
        Gemm(heads, 1, n, width), Stream(2 * heads * n), Stream(heads * n),       # the CLS row, mean over heads
        SORT, Stream(2 * batch * m * geometry.dim), Stream(2 * batch * m * geometry.dim),  # gather, prefix in front
    ]


def _pomt(geometry: Geometry, batch: int, n: int, m: int) -> List[Kernel]:
    heads, width = batch * geometry.heads, geometry.dim
    return [
        Stream(heads * n * n), Stream(batch * n * n),             # max over heads, sum over rows
        Stream(2 * batch * n, launches=2),                        # divided by each image's maximum
        Stream(batch * n * width), Stream(4 * batch * n, launches=3),  # values: max over heads, sum, softmax, +
        SORT,
        Stream(2 * batch * m * width),                            # gather the kept
        Stream(batch * (n - m) * width, launches=2),              # mean of the rest
        Stream(2 * batch * m * width),                            # side by side
    ]


def _tome(geometry: Geometry, batch: int, n: int, m: int) -> List[Kernel]:
    width, head = geometry.dim, geometry.dim // geometry.heads
    half = (n + 1) // 2
    return [
        Stream(batch * n * (width + head)), Stream(4 * batch * n * head, launches=2),  # mean over heads, normalised
        Stream(2 * batch * n * head, launches=2),                 # even and odd positions
        Gemm(batch, half, n - half, head), Stream(batch * half * (n - half), launches=2),  # similarity, best match
        SORT, Stream(4 * batch * half, launches=4),               # which a goes to which b
        Stream(2 * batch * n * width), Stream(2 * batch * n * width, launches=3),      # times size, taken apart
        Stream(3 * batch * (n - m) * width, launches=2),          # added to where they merge, with their sizes
        Stream(2 * batch * m * width), Stream(2 * batch * m * width, launches=2),      # side by side, over size
    ]


_REDUCTIONS: Dict[str, Callable[[Geometry, int, int, int], List[Kernel]]] = {
    "topk": _topk, "pomt": _pomt, "tome": _tome,
}
