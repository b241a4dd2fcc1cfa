"""One block of a vision transformer in two halves, so that tokens can leave between them, or behind.

What is computed here is computed by the block's own submodules, and as long as no size weighs in and timm's attention
knows the places of the tokens, by timm's own attention. Which tokens leave is decided by the methods; where tokens lie
is left to :mod:`tailfleet_reduce.positions`, which models there are to :mod:`tailfleet_reduce.anatomy`.
"""

from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, cast

import torch
import torch.nn.functional as functional
from torch import nn

from tailfleet_reduce.method import Evidence, Method, Reduction, TokenState, gather_tokens, in_full_precision
from tailfleet_reduce.positions import Placeless
from tailfleet_schema.schedule import MID

if TYPE_CHECKING:
    from tailfleet_reduce.anatomy import Anatomy


class BlockAnatomy:
    """One pre-norm block in two halves: ``x + ls1(attn(norm1 x))`` and ``x + ls2(mlp(norm2 x))``."""

    def __init__(self, block: nn.Module, anatomy: "Anatomy", number: int, places: Optional[Placeless] = None) -> None:
        self.module = block
        self.prefix = anatomy.prefix
        self.has_class_token = anatomy.has_class_token
        self.number = number
        self._anatomy = anatomy
        self.places = Placeless() if places is None else places
        self._block = cast(Any, block)
        self._attn = self._block.attn

    def whole(self, x: torch.Tensor, state: Optional[TokenState] = None) -> torch.Tensor:
        """The block without a reduction, (B, N, C) → (B, N, C): timm's own where that can be."""
        state = TokenState() if state is None else state
        beside = self._beside(x, state)
        if beside is not None:
            return cast(torch.Tensor, self.module(x, **beside))
        return self.mlp(self.attention(x, state))

    def attention(self, x: torch.Tensor, state: Optional[TokenState] = None) -> torch.Tensor:
        """The attention half, (B, N, C) → (B, N, C), with the model's fused path.

        Without ``state``, or where that tells no positions, the tokens are the first N of all, in order. Where it
        carries sizes that attention is to be proportional to, their logarithm joins the logits as a mask, which keeps
        the fused path.
        """
        state = TokenState() if state is None else state
        normed = self._block.norm1(x)
        beside = self._beside(x, state)
        if beside is not None:
            return self._add(x, self._attn(normed, **beside))
        bias = self._bias(x, state)
        q, k, v = self._heads(normed, state)
        return self._add(x, self._project(self._join(self._attend(q, k, v, bias), normed)))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """The MLP half, (B, N, C) → (B, N, C)."""
        return self._add_mlp(x, self._block.mlp(self._block.norm2(x)))

    def reduce(self, x: torch.Tensor, method: Method, kept: int, state: Optional[TokenState] = None) -> torch.Tensor:
        """The whole block with ``method`` reducing where it does so: (B, N, C) → (B, kept, C); ``state`` follows."""
        if method.placement == MID:
            return self.mlp(self.attention_reduce(x, method, kept, state))
        state = self._anatomy.state(method) if state is None else state
        if method.reads_attention:
            x, evidence = self._observed(x, method, state)
            x = self.mlp(x)
        else:
            x, evidence = self.whole(x, state), self._evidence(state)
        return self._leave(x, method, self._planned(method, evidence.behind(x), kept), state)

    def attention_reduce(
        self, x: torch.Tensor, method: Method, kept: int, state: Optional[TokenState] = None
    ) -> torch.Tensor:
        """The attention half with ``method`` reducing behind it: (B, N, C) → (B, kept, C); ``state`` follows.

        A method decides before the attention's output is projected, and what it decides is linear over tokens
        with weights that mostly sum to one, as the projection and LayerScale are linear over channels. So the
        projection runs on the ``kept`` tokens alone; and so does the attention, as queries, where tokens are only
        selected. A method that reduces after a block does so behind this half here, which costs as much there.
        """
        state = self._anatomy.state(method) if state is None else state
        if method.placement != MID:
            if method.reads_attention:
                x, evidence = self._observed(x, method, state)
            else:
                x, evidence = self.attention(x, state), self._evidence(state)
            return self._leave(x, method, self._planned(method, evidence.behind(x), kept), state)
        bias = self._bias(x, state)
        normed = self._block.norm1(x)
        q, k, v = self._heads(normed, state)
        evidence = self._evidence(state, q, k, v, bias)
        reduction = self._planned(method, evidence, kept)
        selected = reduction.selected()
        if method.needs_probabilities(self.has_class_token):
            joined = self._join(evidence.mixed(self._attn.attn_drop), normed)
        elif selected is None:
            joined = self._join(self._attend(q, k, v, bias), normed)
        else:
            heads = q.shape[1]
            q = gather_tokens(q.transpose(1, 2).flatten(2), selected)  # (B, m, H · d)
            q = q.reshape(q.shape[0], q.shape[1], heads, -1).transpose(1, 2)  # (B, H, m, d)
            joined = self._join(
                self._attend(q, k, v, _rows(bias, selected)), gather_tokens(normed, selected) if self._gated else normed
            )
        if not reduction.normalised:
            # The projection adds a bias to each token: once, not as often as the weights say.
            return self._leave(self._add(x, self._project(joined)), method, reduction, state)
        reduced = self._leave(x, method, reduction, state)
        if joined.shape[1] != kept:
            joined = reduction.tokens(joined)
        return self._add(reduced, self._project(joined))

    def _beside(self, x: torch.Tensor, state: TokenState) -> Optional[Dict[str, torch.Tensor]]:
        """What timm's own block and attention are called with beside ``x``; None where they will not do."""
        return None if state.weighed else self.places.beside(x, state)

    def _observed(self, x: torch.Tensor, method: Method, state: TokenState) -> Tuple[torch.Tensor, Evidence]:
        """The attention half, and what it computed."""
        bias = self._bias(x, state)
        normed = self._block.norm1(x)
        q, k, v = self._heads(normed, state)
        evidence = self._evidence(state, q, k, v, bias)
        if method.needs_probabilities(self.has_class_token):
            mixed = evidence.mixed(self._attn.attn_drop)
        else:
            mixed = self._attend(q, k, v, bias)
        return self._add(x, self._project(self._join(mixed, normed))), evidence

    def _evidence(
        self,
        state: TokenState,
        q: Optional[torch.Tensor] = None,
        k: Optional[torch.Tensor] = None,
        v: Optional[torch.Tensor] = None,
        bias: Optional[torch.Tensor] = None,
    ) -> Evidence:
        return Evidence(
            q,
            k,
            v,
            float(self._attn.scale),
            bias,
            self.prefix,
            self.has_class_token,
            state.sizes,
            state.positions,
            None,
            self.number,
            self._anatomy.depth,
        )

    def _planned(self, method: Method, evidence: Evidence, kept: int) -> Reduction:
        return in_full_precision(evidence.device, lambda: method.plan(evidence, kept))

    def _leave(self, x: torch.Tensor, method: Method, reduction: Reduction, state: TokenState) -> torch.Tensor:
        state.reduced(method, reduction, x, self._anatomy.tokens)
        return reduction.tokens(x)

    def _bias(self, x: torch.Tensor, state: TokenState) -> Optional[torch.Tensor]:
        """What is added to the logits: for places, for sizes, for both, or None."""
        places, sizes = self.places.bias(x, state), state.size_bias(x.dtype)
        if places is None or sizes is None:
            return sizes if places is None else places
        return places + sizes

    @property
    def _gated(self) -> bool:
        return getattr(self._attn, "gate", None) is not None

    def _heads(self, normed: torch.Tensor, state: TokenState) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v, each (B, H, N, d); q and k normed and rotated where the model does so."""
        attn = self._attn
        batch, tokens, _ = normed.shape
        if attn.qkv is None:
            q, k, v = [
                project(normed).reshape(batch, tokens, attn.num_heads, -1).transpose(1, 2)
                for project in (attn.q_proj, attn.k_proj, attn.v_proj)
            ]
        else:
            qkv = self._qkv(normed)  # (B, N, 3 · H · d)
            width = qkv.shape[2] // (3 * attn.num_heads)
            q, k, v = qkv.reshape(batch, tokens, 3, attn.num_heads, width).permute(2, 0, 3, 1, 4).unbind(0)
        if hasattr(attn, "q_norm"):
            q, k = attn.q_norm(q), attn.k_norm(k)
        q, k = self.places.rotated(q, k, state)
        return q, k, v

    def _qkv(self, normed: torch.Tensor) -> torch.Tensor:
        attn = self._attn
        if getattr(attn, "q_bias", None) is None:
            return cast(torch.Tensor, attn.qkv(normed))
        # Biases beside the projection: BEiT's and EVA's keys have none.
        bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        if getattr(attn, "qkv_bias_separate", False):
            return cast(torch.Tensor, attn.qkv(normed) + bias)
        return functional.linear(normed, attn.qkv.weight, bias)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Optional[torch.Tensor]) -> torch.Tensor:
        """softmax(q kᵀ · scale + bias) v, (B, H, queries, d), fused where torch has it and the model lets it."""
        attn = self._attn
        if hasattr(functional, "scaled_dot_product_attention") and getattr(attn, "fused_attn", True):
            dropped = attn.attn_drop.p if attn.training else 0.0
            if bias is not None and _exporting():
                # torch broadcasts the mask over queries; ONNX Runtime's fused operator does not.
                bias = bias.expand(-1, -1, q.shape[2], -1)
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropped)
        logits = (q * attn.scale) @ k.transpose(-2, -1)
        if bias is not None:
            logits = logits + bias
        return cast(torch.Tensor, attn.attn_drop(logits.softmax(dim=-1)) @ v)

    def _join(self, mixed: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
        """Heads side by side, (B, H, n, d) → (B, n, H · d), with what the model does before it projects."""
        joined = mixed.transpose(1, 2).flatten(2)
        if hasattr(self._attn, "norm"):
            joined = self._attn.norm(joined)
        if self._gated:
            joined = joined * self._attn.gate(normed).sigmoid()
        return joined

    def _project(self, joined: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self._attn.proj_drop(self._attn.proj(joined)))

    def _add(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, x + self._block.drop_path1(self._block.ls1(attended)))

    def _add_mlp(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, x + self._block.drop_path2(self._block.ls2(mixed)))


class GammaBlockAnatomy(BlockAnatomy):
    """A block whose LayerScale is plain parameters, each of which may be None: EVA's and BEiT's."""

    def _add(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        return self._added(x, attended, self._block.gamma_1, "drop_path1")

    def _add_mlp(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        return self._added(x, mixed, self._block.gamma_2, "drop_path2")

    def _added(self, x: torch.Tensor, branch: torch.Tensor, gamma: Optional[torch.Tensor], drop: str) -> torch.Tensor:
        if gamma is not None:
            branch = gamma * branch
        # timm 0.6's BEiT has one for both halves.
        path = getattr(self._block, drop) if hasattr(self._block, drop) else self._block.drop_path
        return cast(torch.Tensor, x + path(branch))


def _rows(bias: Optional[torch.Tensor], selected: torch.Tensor) -> Optional[torch.Tensor]:
    """The rows of ``bias`` (B, H, N, N) of the queries ``selected`` (B, m); as it is where all queries share it."""
    if bias is None or bias.shape[2] == 1:
        return bias
    index = selected[:, None, :, None].expand(-1, bias.shape[1], -1, bias.shape[3])
    return bias.expand(selected.shape[0], -1, -1, -1).gather(2, index)


def _exporting() -> bool:
    compiler = getattr(torch, "compiler", None)
    return bool(hasattr(compiler, "is_exporting") and cast(Any, compiler).is_exporting())
