"""What every token reduction method is given, what it answers, and what travels from block to block.

A method looks at one block (:class:`Evidence`) and answers which tokens stay and which are joined
(:class:`Reduction`); it never touches ``x`` itself, so that a block can apply the answer where it is cheapest.
Running the block is left to :mod:`tailfleet_reduce.anatomy`, where tokens lie in the image to
:mod:`tailfleet_reduce.positions`.
"""

from typing import Any, Callable, Dict, Optional, TypeVar, cast

import torch
import torch.nn.functional as functional
from torch import nn

from tailfleet_schema.schedule import PLACEMENT, Schedule

Result = TypeVar("Result")

CACHED_BYTES = 1 << 20
"""What a processor core keeps close at hand: attention is computed for so many images at once as fit."""


class Evidence:
    """One block, as a method may look at it. Costly parts are computed when asked for, once."""

    def __init__(
        self,
        q: Optional[torch.Tensor],
        k: Optional[torch.Tensor],
        v: Optional[torch.Tensor],
        scale: float,
        bias: Optional[torch.Tensor],
        prefix: int,
        has_class_token: bool,
        sizes: Optional[torch.Tensor],
        positions: Optional[torch.Tensor] = None,
        x: Optional[torch.Tensor] = None,
        block: int = 0,
        depth: int = 1,
    ) -> None:
        self._q = q
        self._k = k
        self._v = v
        self.scale = scale
        self.bias = bias  # broadcasts to (B, H, N, N), added to the logits; or None
        self.prefix = prefix
        self.has_class_token = has_class_token
        self.sizes = sizes  # (B, N) fp32: how many input tokens each token stands for; None: one each
        self.positions = positions  # (B, N) int64: where each token came from among all; None: the first N in order
        self._x = x
        self.block = block
        self.depth = depth
        self._probabilities: Optional[torch.Tensor] = None
        self._mixed: Optional[torch.Tensor] = None

    @property
    def q(self) -> torch.Tensor:
        """(B, H, N, d), normed and rotated where the model does so, not scaled."""
        return _there(self._q)

    @property
    def k(self) -> torch.Tensor:
        """(B, H, N, d), normed and rotated where the model does so."""
        return _there(self._k)

    @property
    def v(self) -> torch.Tensor:
        """(B, H, N, d)."""
        return _there(self._v)

    @property
    def x(self) -> torch.Tensor:
        """(B, N, C): what the block leaves. Only for methods that reduce after a block."""
        return _there(self._x)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return _there(self._q if self._x is None else self._x).device

    def behind(self, x: torch.Tensor) -> "Evidence":
        """The same of a block that leaves ``x`` (B, N, C)."""
        self._x = x
        return self

    def probabilities(self) -> torch.Tensor:
        """S = softmax(q kᵀ · scale + bias) over keys, (B, H, N, N); at least fp32, so that sums keep their order."""
        if self._probabilities is None:
            self._probabilities = self._rows(self.q, self.bias)
        return self._probabilities

    def summed_up(self, what: Callable[[torch.Tensor, slice], torch.Tensor]) -> torch.Tensor:
        """``what`` of S, for each image on its own: (b, H, N, N) of a slice of the images → (b, …), all (B, …).

        On a CPU a few images at a time, and with them what attention makes of their values, so that S stays in the
        cache: of eight images of DeiT-S it would be 7 MB, written and read several times.
        """
        images = self._images_at_once()
        if images >= self.q.shape[0]:
            return what(self.probabilities(), slice(None))
        found, mixed = [], []
        for first in range(0, self.q.shape[0], images):
            some = slice(first, first + images)
            bias = self.bias if self.bias is None or self.bias.shape[0] == 1 else self.bias[some]
            rows = _softmax(self.q[some], self.k[some], self.scale, bias)
            found.append(what(rows, some))
            mixed.append(rows.to(self.v.dtype) @ self.v[some])
        self._mixed = torch.cat(mixed)
        return torch.cat(found)

    def mixed(self, drop: nn.Module) -> torch.Tensor:
        """S v, explicitly, (B, H, N, d), with ``drop`` of S in training."""
        if self._mixed is not None and not drop.training:
            return self._mixed
        return cast(torch.Tensor, drop(self.probabilities().to(self.v.dtype)) @ self.v)

    def _images_at_once(self) -> int:
        """All, unless it pays to take them in turns: eagerly, on a CPU, and where no gradient will want S again."""
        batch, heads, tokens, _ = self.q.shape
        if torch.is_grad_enabled() or not eagerly_on_cpu(self.q):
            return batch
        return max(1, CACHED_BYTES // (4 * heads * tokens * tokens))

    def class_row(self) -> torch.Tensor:
        """The class token's row of S, (B, H, N), without the other rows."""
        bias = self.bias
        return self._rows(self.q[:, :, :1], None if bias is None else bias[:, :, :1])[:, :, 0]

    def _rows(self, q: torch.Tensor, bias: Optional[torch.Tensor]) -> torch.Tensor:
        return _softmax(q, self.k, self.scale, bias)


def in_full_precision(device: torch.device, what: Callable[[], Result]) -> Result:
    """``what()``, out of reach of an autocast around the model: half-precision scores would tie."""
    if not _autocast(device.type):
        return what()
    with torch.autocast(device.type, enabled=False):
        return what()


def _autocast(device_type: str) -> bool:
    if device_type not in ("cpu", "cuda") or (device_type == "cpu" and not hasattr(torch, "is_autocast_cpu_enabled")):
        return False
    try:
        return bool(cast(Any, torch).is_autocast_enabled(device_type))
    except TypeError:  # older than torch 2.4
        asked = cast(Any, torch).is_autocast_cpu_enabled if device_type == "cpu" else torch.is_autocast_enabled
        return bool(asked())


def eagerly_on_cpu(tensor: torch.Tensor) -> bool:
    """Whether what is done with ``tensor`` runs now and on a CPU, not on a GPU and not as part of a graph.

    There a loop, or rows added one by one, beats the one large operator that is best elsewhere.
    """
    compiler = getattr(torch, "compiler", None)
    return (
        tensor.device.type == "cpu"
        and not cast(Any, torch.jit).is_tracing()
        and not (hasattr(compiler, "is_compiling") and cast(Any, compiler).is_compiling())
    )


def _softmax(q: torch.Tensor, k: torch.Tensor, scale: float, bias: Optional[torch.Tensor]) -> torch.Tensor:
    # In half precision many close logits would become one, and their tokens' order be lost.
    wide = torch.promote_types(q.dtype, torch.float32)
    logits = (q.to(wide) * scale) @ k.to(wide).transpose(-2, -1)  # (B, H, rows, N)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1)


def _there(tensor: Optional[torch.Tensor]) -> torch.Tensor:
    assert tensor is not None, "the method did not say that it needs this"
    return tensor


class Reduction:
    """Which tokens of N stay: a linear map over tokens."""

    normalised = True
    """Whether the weights of each token that leaves sum to one, so that the map and a projection can be swapped."""

    def selected(self) -> Optional[torch.Tensor]:
        """Positions (B, m) of the tokens that leave, where they are only selected; None where some are joined."""
        return None

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) → (B, m, C), prefix tokens first."""
        raise NotImplementedError

    def sizes(self) -> Optional[torch.Tensor]:
        """How many input tokens each of the m stands for, (B, m) fp32; None: one each."""
        raise NotImplementedError

    def positions(self, positions: torch.Tensor, nowhere: int) -> torch.Tensor:
        """Where the m came from, (B, m), given where the N did, (B, N); ``nowhere`` for one joined from all over."""
        raise NotImplementedError


class Method(nn.Module):
    """One way to reduce tokens, ready for one model. It holds what it needs beside ``x`` (buffers), and no state."""

    name = ""
    proportional = False
    """Whether later blocks add the logarithm of a token's size to its attention logits."""
    reads_sizes = False
    """Whether it weighs tokens by their sizes."""
    reads_positions = False
    """Whether it asks where tokens came from."""
    reads_attention = True
    """Whether it looks at the block's queries, keys or values."""

    def check(self, schedule: Schedule) -> None:
        """Raise ``ScheduleError`` where this method lacks what ``schedule`` needs."""

    @property
    def placement(self) -> str:
        """Where in a block it reduces: ``mid`` or ``after``."""
        return PLACEMENT[self.name]

    def needs_probabilities(self, has_class_token: bool) -> bool:
        """Whether it reads the whole of S; its block then pays for explicit attention, and no other does."""
        return False

    def plan(self, evidence: Evidence, kept: int) -> Reduction:
        """Decide for each image on its own which ``kept`` tokens leave the block.

        ``kept`` lies between what ``tailfleet_schema.schedule.smallest_reachable`` allows and one less than
        arrive; schedules are checked for that.
        """
        raise NotImplementedError


class TokenState:
    """What one forward pass carries from block to block beside ``x``."""

    def __init__(self, wants_positions: bool = False, restoring: bool = False) -> None:
        self.sizes: Optional[torch.Tensor] = None  # (B, N) fp32, or None: one each
        self.positions: Optional[torch.Tensor] = None  # (B, N) int64, or None: the first N in order
        self.wants_sizes = True
        """Whether any later block reads sizes; where none does, they are not computed."""
        self.wants_positions = wants_positions
        """Whether anything later reads positions."""
        self.memo: Dict[Any, Any] = {}
        """What blocks have in common as long as no token leaves."""
        self.constants: Dict[Any, Any] = {}
        """What they have in common for the whole of the pass."""
        self._restoring = restoring
        self._everything: Optional[torch.Tensor] = None  # (B, all, C): every token as it last was, in its place
        self._follows = False

    @classmethod
    def sized(cls, sizes: torch.Tensor) -> "TokenState":
        """As after a reduction whose tokens stand for ``sizes`` (B, N) fp32, which attention follows."""
        state = cls()
        state.sizes, state._follows = sizes, True
        return state

    @property
    def weighed(self) -> bool:
        """Whether attention follows sizes."""
        return self._follows and self.sizes is not None

    def size_bias(self, dtype: torch.dtype) -> Optional[torch.Tensor]:
        """log(size) as a mask (B, 1, 1, N) for the attention logits, or None where attention is plain."""
        if self.sizes is None or not self._follows:
            return None
        return self.sizes.log().to(dtype)[:, None, None]

    def reduced(self, method: Method, reduction: Reduction, x: torch.Tensor, nowhere: int) -> None:
        """``method`` has reduced the tokens ``x`` (B, N, C); ``nowhere`` is one more than the last place there is."""
        if self._restoring:
            self._everything = self._in_place(x)
        self._follows = method.proportional
        self.sizes = reduction.sizes() if self.wants_sizes else None
        if self.wants_positions:
            self.positions = reduction.positions(self.places(x), nowhere)
        self.memo = {}

    def places(self, x: torch.Tensor) -> torch.Tensor:
        """Where each token of ``x`` (B, N, C) came from, (B, N) int64."""
        if self.positions is not None:
            return self.positions
        return torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)

    def restore(self, x: torch.Tensor) -> torch.Tensor:
        """All tokens in their places again, (B, all, C): those of ``x`` (B, n, C), and dropped ones as they last were.

        That is as the block left them where a method reduces after it; where one reduces within it, as they arrived
        there: what they would have attended to was never computed.
        """
        x = self._in_place(x)
        self.sizes, self.positions, self.memo, self._everything, self._follows = None, None, {}, None, False
        self._restoring = False
        return x

    def _in_place(self, x: torch.Tensor) -> torch.Tensor:
        if self.positions is None or self._everything is None:
            return x
        index = self.positions.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        return self._everything.scatter(1, index, x)


class Selection(Reduction):
    """Tokens at ``index`` (B, m) leave; the others are gone."""

    def __init__(self, index: torch.Tensor) -> None:
        self._index = index

    def selected(self) -> torch.Tensor:
        """Positions of the tokens that leave, (B, m)."""
        return self._index

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) → (B, m, C)."""
        return gather_tokens(x, self._index)

    def sizes(self) -> Optional[torch.Tensor]:
        """One each: a selected token stands for itself."""
        return None

    def positions(self, positions: torch.Tensor, nowhere: int) -> torch.Tensor:
        """(B, m)."""
        return positions.gather(1, self._index)


def gather_tokens(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Tokens of ``x`` (B, N, C) at ``index`` (B, m) → (B, m, C).

    Whole rows are looked up, four times as fast on a CPU as ``gather``, which takes an index for each channel.
    """
    batch, tokens = x.shape[:2]
    if batch > 1:
        index = index + torch.arange(batch, device=index.device).unsqueeze(1) * tokens
    return functional.embedding(index, x.flatten(0, 1))


def with_prefix(patches: torch.Tensor, prefix: int) -> torch.Tensor:
    """Positions among all tokens, prefix tokens first, of those at ``patches`` (B, m) among the patch tokens."""
    if not prefix:
        return patches
    first = torch.arange(prefix, device=patches.device).expand(patches.shape[0], -1)
    return torch.cat([first, patches + prefix], 1)
