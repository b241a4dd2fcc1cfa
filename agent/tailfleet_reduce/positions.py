"""Where tokens lie in the image, as far as attention computes with it.

Most families add positions to the tokens once; then attention knows nothing of them, and :class:`Placeless` is all
there is. Where attention itself rotates queries and keys (:class:`Rotary`: EVA-02, DINOv3), or adds a bias for each
pair of places (:class:`RelativeBias`: BEiT), what it uses follows the tokens that are kept
(``TokenState.positions``): it is gathered once after each reduction, and before the first there is nothing to gather.

A token that lies nowhere, since it was pooled or fused from all over the image, is not rotated, and no bias is added
for it. A merged token lies where the one that took the others in does.
"""

from typing import Any, Dict, Optional, Tuple, cast

import torch
import torch.nn.functional as functional
from torch import nn

from tailfleet_reduce.method import TokenState


class Placeless:
    """Attention that does not know where its tokens lie."""

    plain = True
    """Whether attention needs nothing from here."""

    def beside(self, x: torch.Tensor, state: TokenState) -> Optional[Dict[str, torch.Tensor]]:
        """What timm's own block and attention are called with beside the tokens ``x`` (B, N, C), by name.

        None where they cannot be called with these tokens, since they know no other places than all in order.
        """
        return {}

    def rotated(self, q: torch.Tensor, k: torch.Tensor, state: TokenState) -> Tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys, (B, H, N, d) each, turned by the places of their tokens."""
        return q, k

    def bias(self, x: torch.Tensor, state: TokenState) -> Optional[torch.Tensor]:
        """What is added to the logits of the tokens ``x`` (B, N, C), broadcastable to (B, H, N, N); None: nothing."""
        return None


class RotaryTable:
    """Sine and cosine of every patch's place, from ``model.rope`` of timm's ``Eva``, for one image size."""

    def __init__(self, model: nn.Module) -> None:
        self._model = cast(Any, model)
        self.prefix = int(self._model.num_prefix_tokens)
        self.mixed = bool(getattr(model, "rope_mixed", False))
        """Whether every block and head has a table of its own, learned; else there is one for all, which is fixed."""
        self._grid = tuple(self._model.patch_embed.grid_size)
        self._dynamic = bool(getattr(model, "dynamic_img_size", False))
        # For a model of dynamic size timm computes it anew in each pass, on the host.
        self._fixed: Optional[torch.Tensor] = None
        if self._dynamic and not self.mixed:
            rope = cast(nn.Module, self._model.rope)
            training = rope.training
            with torch.no_grad():
                self._fixed = self._fetched_by(rope.eval())  # in training it may move places at random
            rope.train(training)

    def all_of(self, state: TokenState) -> torch.Tensor:
        """(N - P, 2d), or (depth, H, N - P, 2d) where ``mixed``: first sines, then cosines. Fetched once a pass."""
        if "rotary" not in state.constants:
            if self._fixed is None or self._model.training:
                state.constants["rotary"] = self._fetched()
            else:
                device = self._model.patch_embed.proj.weight.device
                if self._fixed.device != device:
                    self._fixed = self._fixed.to(device)  # once, after the model was moved
                state.constants["rotary"] = self._fixed
        return cast(torch.Tensor, state.constants["rotary"])

    def _fetched(self) -> torch.Tensor:
        return self._fetched_by(self._model.rope)

    def _fetched_by(self, rope: Any) -> torch.Tensor:
        return cast(torch.Tensor, rope.get_embed(shape=self._grid) if self._dynamic else rope.get_embed())


class Rotary(Placeless):
    """Attention that turns queries and keys by the places of their tokens: block ``number`` of a model with ``table``.

    Prefix tokens are not turned, as timm has it, and neither are tokens that lie nowhere.
    """

    plain = False

    def __init__(self, table: RotaryTable, number: int, half: bool) -> None:
        self._table = table
        self._number = number
        self._half = half  # pairs are (i, i + d/2), not (2i, 2i + 1)
        self._key = ("rotary", number if table.mixed else None)

    def beside(self, x: torch.Tensor, state: TokenState) -> Dict[str, torch.Tensor]:
        """``rope``, of the patches among ``x`` (B, N, C)."""
        if state.positions is None:
            return {"rope": self._own(state)[..., : x.shape[1] - self._table.prefix, :]}
        return {"rope": self._followed(state, x.shape[1])[..., self._table.prefix :, :]}

    def rotated(self, q: torch.Tensor, k: torch.Tensor, state: TokenState) -> Tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys, (B, H, N, d) each, turned by the places of their tokens."""
        sine, cosine = self._followed(state, q.shape[2]).chunk(2, -1)
        return _turned(q, sine, cosine, self._half), _turned(k, sine, cosine, self._half)

    def _own(self, state: TokenState) -> torch.Tensor:
        """(N - P, 2d), or of each head (H, N - P, 2d)."""
        table = self._table.all_of(state)
        return table[self._number] if self._table.mixed else table

    def _followed(self, state: TokenState, tokens: int) -> torch.Tensor:
        """Of each of the ``tokens`` there are: (n, 2d), (H, n, 2d), (B, 1, n, 2d) or (B, H, n, 2d)."""
        places = self._places(state)
        if state.positions is None:
            return places[..., :tokens, :]
        if self._key not in state.memo:
            if places.dim() == 2:
                state.memo[self._key] = places[state.positions].unsqueeze(1)
            else:
                state.memo[self._key] = places[:, state.positions].transpose(0, 1)
        return cast(torch.Tensor, state.memo[self._key])

    def _places(self, state: TokenState) -> torch.Tensor:
        """The own table with rows for the prefix before, and for nowhere behind, that turn nothing."""
        if self._key not in state.constants:
            own = self._own(state)
            one = own[..., :1, : own.shape[-1] // 2]
            still = torch.cat([torch.zeros_like(one), torch.ones_like(one)], -1)  # sine 0, cosine 1
            before = still.expand(*own.shape[:-2], self._table.prefix, own.shape[-1])
            state.constants[self._key] = torch.cat([before, own, still], -2)
        return cast(torch.Tensor, state.constants[self._key])


class RelativeBias(Placeless):
    """Attention with a learned bias for each head and each distance of two places, as timm's ``Beit`` has it.

    ``attention``: the block's own, with or without a table; ``shared``: the module whose table all blocks share, or
    None. Prefix tokens have places, and distances of their own.
    """

    plain = False

    def __init__(self, attention: nn.Module, shared: Optional[nn.Module], tokens: int) -> None:
        self._attention = cast(Any, attention)
        self._shared = cast(Any, shared)
        self._tokens = tokens

    @classmethod
    def of(cls, attention: nn.Module, shared: Optional[nn.Module], tokens: int) -> Placeless:
        """Placeless where neither the block nor the model has a table."""
        if shared is None and cast(Any, attention).relative_position_bias_table is None:
            return Placeless()
        return cls(attention, shared, tokens)

    def beside(self, x: torch.Tensor, state: TokenState) -> Optional[Dict[str, torch.Tensor]]:
        """``shared_rel_pos_bias`` where there is one; None unless all tokens are there, in order."""
        if state.positions is not None or x.shape[1] != self._tokens:
            return None
        if self._shared is None:
            return {}
        if "shared bias" not in state.constants:
            state.constants["shared bias"] = self._shared()
        return {"shared_rel_pos_bias": state.constants["shared bias"]}

    def bias(self, x: torch.Tensor, state: TokenState) -> torch.Tensor:
        """(1 or B, H, N, N)."""
        own = self._attention.relative_position_bias_table  # (distances, H) or None
        if own is None and "bias" in state.memo:
            return cast(torch.Tensor, state.memo["bias"])
        tables = [one for one in (own, getattr(self._shared, "relative_position_bias_table", None)) if one is not None]
        table = tables[0] if len(tables) == 1 else tables[0] + tables[1]
        index = self._index(x, state)
        if state.positions is not None:
            table = functional.pad(table, (0, 0, 0, 1))  # a last distance, to or from nowhere: 0
        found = table.t().index_select(1, index.reshape(-1)).reshape(-1, *index.shape)
        bias = found.transpose(0, 1)  # (1 or B, H, N, N)
        if own is None:
            state.memo["bias"] = bias
        return cast(torch.Tensor, bias)

    def _index(self, x: torch.Tensor, state: TokenState) -> torch.Tensor:
        """Which distance lies between each two of the tokens, (1 or B, N, N)."""
        holder = self._attention if self._shared is None else self._shared
        index = holder.relative_position_index  # (all, all)
        if state.positions is None:
            return cast(torch.Tensor, index[: x.shape[1], : x.shape[1]].unsqueeze(0))
        if "distances" not in state.memo:
            distances = holder.relative_position_bias_table.shape[0]
            index = functional.pad(index, (0, 1, 0, 1), value=distances)  # one more place: nowhere
            places = state.positions
            state.memo["distances"] = index[places.unsqueeze(2), places.unsqueeze(1)]  # (B, N, N)
        return cast(torch.Tensor, state.memo["distances"])


def _turned(x: torch.Tensor, sine: torch.Tensor, cosine: torch.Tensor, half: bool) -> torch.Tensor:
    """Each pair of channels of ``x`` (B, H, N, d) turned by its angle; in the dtype of ``x``."""
    if half:
        first, second = x.chunk(2, -1)
        across = torch.cat([-second, first], -1)
    else:
        across = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return (x * cosine + across * sine).to(x.dtype)
