"""Which kernels a vision transformer launches: of its halves of a block, of its ends, and of each method.

Lists of :mod:`~tailfleet_agent.worker.backends.wave_model` kernels, as eager PyTorch would launch them; what they
cost is said there. Only shapes are known here: B images, n tokens, width C, H heads of width d = C/H, MLP width M.
The kernels of scoring and reduction follow what each method computes (``tailfleet_reduce``), step by step.
"""

from typing import Callable, Dict, List

from tailfleet_agent.worker.backends.wave_model import FusedAttention, Gemm, Kernel, Stream
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import SIMILAR_DROPPED
from tailfleet_schema.workload import Geometry

SORT = Stream(0, launches=2)
"""A sort or top-k of one score per token: nothing to compute, but two kernels."""


def fixed(geometry: Geometry, batch: int) -> List[Kernel]:
    """What a pass runs outside its blocks."""
    patches, width = geometry.tokens - geometry.prefix, geometry.dim
    pixels = geometry.channels * geometry.patch_size**2
    tokens = batch * geometry.tokens * width
    kernels: List[Kernel] = [
        Gemm(1, batch * patches, width, pixels),  # patch embedding
        Stream(2 * batch * patches * width),  # flatten and transpose
        Stream(2 * tokens),  # prefix tokens in front
        Stream(2 * tokens),  # + positions
        Stream(2 * tokens),  # final norm
        Stream(2 * batch * width),  # pool
    ]
    if geometry.classes:
        kernels.append(Gemm(1, batch, geometry.classes, width))
    return kernels


def attention(geometry: Geometry, batch: int, n: int, fused: bool, sized: bool = False) -> List[Kernel]:
    """The attention half of one block; ``sized``: with logits shifted by the log of each key's size."""
    return [*_opening(geometry, batch, n), *_mixing(geometry, batch, n, n, fused, sized), *_closing(geometry, batch, n)]


def mlp(geometry: Geometry, batch: int, n: int) -> List[Kernel]:
    """The MLP half of one block."""
    rows, width, hidden = batch * n, geometry.dim, geometry.mlp_dim
    return [
        Stream(2 * rows * width),
        Gemm(1, rows, hidden, width),
        Stream(2 * rows * hidden),
        Gemm(1, rows, width, hidden),
        Stream(3 * rows * width),
    ]


def attention_reduce(
    geometry: Geometry, batch: int, method: str, n: int, m: int, fused: bool, sized: bool = False, passes: int = 0
) -> List[Kernel]:
    """The attention half of one block, and what leaves ``m`` of ``n`` tokens by ``method``, behind it or the block.

    ``passes`` are the block's ``importance_passes``. Raises ``InputError`` for a method that is not known here.
    """
    if m == n:
        return attention(geometry, batch, n, fused, sized)
    if method == "zero-tprune":
        return _zero_tprune(geometry, batch, n, m, sized, passes)
    if method not in _REDUCTIONS:
        raise InputError("virtual boards do not know what method {!r} costs".format(method))
    return _REDUCTIONS[method](geometry, batch, n, m, fused, sized)


def restored(geometry: Geometry, batch: int, n: int) -> List[Kernel]:
    """Putting ``n`` tokens back among all, in their places."""
    width = batch * geometry.dim
    return [Stream(2 * geometry.tokens * width), Stream(2 * n * width)]


def followed(geometry: Geometry, batch: int, n: int, m: int) -> List[Kernel]:
    """What a schedule that restores all tokens pays where ``m`` of ``n`` stay: the others are kept, and all places."""
    places = Stream(2 * batch * m, launches=2)
    return [places] if n == geometry.tokens else [*restored(geometry, batch, n), places]


def _opening(geometry: Geometry, batch: int, n: int) -> List[Kernel]:
    """Norm, and q, k, v."""
    return [Stream(2 * batch * n * geometry.dim), Gemm(1, batch * n, 3 * geometry.dim, geometry.dim)]


def _closing(geometry: Geometry, batch: int, n: int) -> List[Kernel]:
    """Projection and residual."""
    return [Gemm(1, batch * n, geometry.dim, geometry.dim), Stream(3 * batch * n * geometry.dim)]


def _mixing(geometry: Geometry, batch: int, queries: int, n: int, fused: bool, sized: bool) -> List[Kernel]:
    """``softmax(q kᵀ) v`` for ``queries`` of ``n`` tokens, and heads side by side again."""
    heads, width = batch * geometry.heads, geometry.dim // geometry.heads
    square = heads * queries * n
    kernels: List[Kernel] = [Stream(2 * batch * n)] if sized else []  # log of sizes
    if fused:
        kernels.append(FusedAttention(heads, queries, n, width))
    else:
        kernels += [
            Stream(6 * batch * n * geometry.dim, launches=3),  # q, k, v made contiguous
            Gemm(heads, queries, n, width),
            Stream(2 * square),  # q kᵀ, scaled
            Stream(2 * square),
            Gemm(heads, queries, width, n),  # softmax, · v
        ]
        if sized:
            kernels.append(Stream(2 * square))
    return [*kernels, Stream(2 * batch * queries * geometry.dim)]


def _chosen(batch: int, m: int) -> List[Kernel]:
    """The highest scores, and the positions of the kept with the prefix in front."""
    return [SORT, Stream(4 * batch * m, launches=3)]


def _class_row(geometry: Geometry, batch: int, n: int) -> List[Kernel]:
    """The class token's row of the attention matrix, mean over heads."""
    heads, width = batch * geometry.heads, geometry.dim // geometry.heads
    return [Stream(2 * heads * width), Gemm(heads, 1, n, width), Stream(2 * heads * n), Stream(heads * n)]


def _selected(geometry: Geometry, batch: int, n: int, m: int, fused: bool, sized: bool) -> List[Kernel]:
    """Attention of the kept queries alone, and the kept of x; the projection sees ``m``."""
    return [
        *_chosen(batch, m),
        Stream(2 * batch * m * geometry.dim),
        *_mixing(geometry, batch, m, n, fused, sized),  # their queries alone
        Stream(2 * batch * m * geometry.dim),  # the kept of x
        *_closing(geometry, batch, m),
    ]


def _random(geometry: Geometry, batch: int, n: int, m: int, fused: bool, sized: bool) -> List[Kernel]:
    return [
        *_opening(geometry, batch, n),
        Stream(2 * batch * n),  # ranks of the places
        *_selected(geometry, batch, n, m, fused, sized),
        Stream(2 * batch * m, launches=2),  # the places of the kept
    ]


def _topk(geometry: Geometry, batch: int, n: int, m: int, fused: bool, sized: bool) -> List[Kernel]:
    return [
        *_opening(geometry, batch, n),
        *_class_row(geometry, batch, n),
        *_selected(geometry, batch, n, m, fused, sized),
    ]


def _evit(geometry: Geometry, batch: int, n: int, m: int, fused: bool, sized: bool) -> List[Kernel]:
    return [
        *_opening(geometry, batch, n),
        *_class_row(geometry, batch, n),
        *_chosen(batch, m),
        Stream(3 * batch * n, launches=2),  # scores of the others
        *_mixing(geometry, batch, n, n, fused, sized),
        # Weights that do not sum to one cannot be swapped with the projection, which therefore sees all.
        *_closing(geometry, batch, n),
        *_kept_and_sum(geometry, batch, n, m),
    ]


def _kept_and_sum(geometry: Geometry, batch: int, n: int, m: int) -> List[Kernel]:
    """The kept tokens, and one weighed sum of the others behind them."""
    row = 2 * batch * m * geometry.dim
    return [Stream(row), Gemm(batch, 1, geometry.dim, n), Stream(row)]


def _cropr(geometry: Geometry, batch: int, n: int, m: int, fused: bool, sized: bool) -> List[Kernel]:
    return [
        *attention(geometry, batch, n, fused, sized),
        Gemm(batch, n, 1, geometry.dim),  # tokens · folded query
        *_chosen(batch, m),
        Stream(2 * batch * m * geometry.dim),  # the kept of x
    ]


def _zero_tprune(geometry: Geometry, batch: int, n: int, m: int, sized: bool, passes: int) -> List[Kernel]:
    heads, head = batch * geometry.heads, geometry.dim // geometry.heads
    half = n // 2
    once = Gemm(heads, 1, n, n)  # scores · S
    importance: List[Kernel] = [Stream(6 * heads * n, launches=14)]  # scaled, filtered, joined over heads
    kernels: List[Kernel] = [
        *attention(geometry, batch, n, False, sized),
        Stream(4 * n, launches=3),  # where the walk begins
        once,
        *importance,
        SORT,
        Stream(batch * n * (geometry.dim + head)),
        Stream(4 * batch * n * head, launches=4),  # keys: mean over heads, normalised, either half
        Gemm(batch, half, n - half, head),
        Stream(batch * half * (n - half)),  # likeness, best match
        SORT,
        Stream(2 * batch * n, launches=2),
    ]
    if n - m > SIMILAR_DROPPED:
        kernels += [Stream(2 * batch * n, launches=3)]  # who is left
        for _ in range(passes):
            kernels += [once, Stream(3 * heads * n)]
        kernels += importance
    return [*kernels, *_chosen(batch, m), Stream(2 * batch * m * geometry.dim)]


def _pomt(geometry: Geometry, batch: int, n: int, m: int, fused: bool, sized: bool) -> List[Kernel]:
    heads, width = batch * geometry.heads, geometry.dim
    join = _kept_and_sum(geometry, batch, n, m)
    return [
        *_opening(geometry, batch, n),
        # It scores by the whole attention matrix, which only explicit attention has.
        *_mixing(geometry, batch, n, n, False, sized),
        Stream(heads * n * n),
        Stream(batch * n * n),  # maximum over heads, sum over rows
        Stream(2 * batch * n, launches=2),  # over each image's maximum
        Stream(batch * n * width),
        Stream(4 * batch * n, launches=3),  # values: maximum over heads, sum, softmax, +
        SORT,
        Stream(4 * batch * m, launches=3),  # positions of the kept, prefix in front
        Stream(4 * batch * n, launches=3),  # weights of the mean
        *join,
        *join,  # of x, and of what attention gave
        *_closing(geometry, batch, m),
    ]


def _tome(geometry: Geometry, batch: int, n: int, m: int, fused: bool, sized: bool) -> List[Kernel]:
    width, head = geometry.dim, geometry.dim // geometry.heads
    merged = n - m
    a, b = (n + 1) // 2, n // 2
    join: List[Kernel] = [
        Stream(2 * batch * merged * width),
        Gemm(batch, b, width, merged),  # gather, sum by a small matrix
        Stream(5 * batch * b * width, launches=2),  # + b · share
        Stream(2 * batch * (a - merged) * width),
        Stream(2 * batch * m * width),  # unmerged, together
    ]
    return [
        *_opening(geometry, batch, n),
        Stream(batch * n * (width + head)),
        Stream(4 * batch * n * head, launches=2),  # mean over heads, normalised
        Gemm(batch, a, b, head),
        Stream(batch * a * b),  # similarity, best match
        SORT,
        SORT,
        Stream(4 * batch * a, launches=4),  # who merges, and into whom
        Stream(4 * batch * b * merged, launches=4),
        Stream(4 * batch * b, launches=4),  # the matrix, sizes, shares
        *_mixing(geometry, batch, n, n, fused, sized),
        *join,
        *join,  # of x, and of what attention gave
        Stream(2 * batch * m, launches=2),  # sizes
        *_closing(geometry, batch, m),
    ]


_REDUCTIONS: Dict[str, Callable[[Geometry, int, int, int, bool, bool], List[Kernel]]] = {
    "random": _random,
    "topk": _topk,
    "evit": _evit,
    "pomt": _pomt,
    "tome": _tome,
    "cropr": _cropr,
}
