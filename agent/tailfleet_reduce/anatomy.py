"""What a timm vision transformer is made of, so that its blocks can be run half by half.

:func:`dissect` understands timm's ``VisionTransformer`` and its distilled variant with the plain pre-norm block
(ViT, DeiT, DeiT-III, DINOv2, CLIP, SigLIP, MAE; LayerScale, q/k-norm, registers, attention pooling) from timm
0.6.12 on, and refuses every other model by name before anything runs. What is computed here is computed by timm's
own submodules. Which tokens leave is decided by the methods, and where by :mod:`tailfleet_reduce.apply`.
"""

from typing import Any, List, Optional, Tuple, cast

import timm
import torch
import torch.nn.functional as functional
from timm.models import vision_transformer as timm_vit
from timm.models.deit import VisionTransformerDistilled
from torch import nn

from tailfleet_reduce.method import Evidence, Method, Reduction, TokenState, gather_tokens
from tailfleet_reduce.positions import Placeless
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import MID
from tailfleet_schema.workload import Geometry

# What the installed timm's own module uses under these names: where it is defined moved between releases.
_PATCH_EMBED = cast(Any, timm_vit).PatchEmbed
_ATTENTION = cast(Any, timm_vit).Attention

_MODELS = (timm_vit.VisionTransformer, VisionTransformerDistilled)
_MODEL_METHODS = ("forward", "forward_features", "forward_head", "_pos_embed", "pool")
_MODEL_PARTS = frozenset(
    [
        "patch_embed",
        "pos_drop",
        "patch_drop",
        "norm_pre",
        "blocks",
        "norm",
        "attn_pool",
        "fc_norm",
        "head_drop",
        "head",
        "head_dist",
        "pre_logits",
    ]
)
_BLOCK_PARTS = frozenset(["norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"])
_ATTENTION_PARTS = frozenset(["qkv", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"])


class ModelRefused(InputError):
    """A model whose tokens cannot be reduced, since its blocks are not understood."""


class BlockAnatomy:
    """One pre-norm block in two halves: ``x + ls1(attn(norm1 x))`` and ``x + ls2(mlp(norm2 x))``."""

    def __init__(self, block: nn.Module, anatomy: "Anatomy", number: int, places: Optional[Placeless] = None) -> None:
        self.module = block
        self.prefix = anatomy.prefix
        self.has_class_token = anatomy.has_class_token
        self.number = number
        self._anatomy = anatomy
        self._places = Placeless() if places is None else places
        self._block = cast(Any, block)
        self._attn = self._block.attn

    def whole(self, x: torch.Tensor, state: Optional[TokenState] = None) -> torch.Tensor:
        """The block without a reduction, (B, N, C) → (B, N, C): timm's own where tokens are as timm expects them."""
        if state is None or state.untouched:
            return self._untouched(x, TokenState() if state is None else state)
        return self.mlp(self.attention(x, state))

    def attention(self, x: torch.Tensor, state: Optional[TokenState] = None) -> torch.Tensor:
        """The attention half, (B, N, C) → (B, N, C), with the model's fused path.

        Where ``state`` carries sizes that attention is to be proportional to, their logarithm joins the
        logits as a mask, which keeps the fused path.
        """
        state = TokenState() if state is None else state
        bias = self._bias(x, state)
        normed = self._block.norm1(x)
        if bias is None and self._places.plain:
            return self._add(x, self._attn(normed))
        q, k, v = self._heads(normed, state)
        return self._add(x, self._project(self._join(self._attend(q, k, v, bias), normed)))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """The MLP half, (B, N, C) → (B, N, C)."""
        block = self._block
        return cast(torch.Tensor, x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))

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
        return self._leave(x, method, method.plan(evidence.behind(x), kept), state)

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
            return self._leave(x, method, method.plan(evidence.behind(x), kept), state)
        bias = self._bias(x, state)
        normed = self._block.norm1(x)
        q, k, v = self._heads(normed, state)
        evidence = self._evidence(state, q, k, v, bias)
        reduction = method.plan(evidence, kept)
        selected = reduction.selected()
        if method.needs_probabilities(self.has_class_token):
            joined = self._join(self._attn.attn_drop(evidence.probabilities().to(v.dtype)) @ v, normed)
        elif selected is None:
            joined = self._join(self._attend(q, k, v, bias), normed)
        else:
            q = q.gather(2, selected[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))  # (B, H, m, d)
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

    def _untouched(self, x: torch.Tensor, state: TokenState) -> torch.Tensor:
        return cast(torch.Tensor, self.module(x))

    def _observed(self, x: torch.Tensor, method: Method, state: TokenState) -> Tuple[torch.Tensor, Evidence]:
        """The attention half, and what it computed."""
        bias = self._bias(x, state)
        normed = self._block.norm1(x)
        q, k, v = self._heads(normed, state)
        evidence = self._evidence(state, q, k, v, bias)
        if method.needs_probabilities(self.has_class_token):
            mixed = self._attn.attn_drop(evidence.probabilities().to(v.dtype)) @ v
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

    def _leave(self, x: torch.Tensor, method: Method, reduction: Reduction, state: TokenState) -> torch.Tensor:
        state.reduced(method, reduction, x, self._anatomy.tokens)
        return reduction.tokens(x)

    def _bias(self, x: torch.Tensor, state: TokenState) -> Optional[torch.Tensor]:
        """What is added to the logits: for places, for sizes, for both, or None."""
        places, sizes = self._places.bias(x, state), state.size_bias(x.dtype)
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
        qkv = attn.qkv(normed)  # (B, N, 3 · H · d)
        width = qkv.shape[2] // (3 * attn.num_heads)
        q, k, v = qkv.reshape(batch, tokens, 3, attn.num_heads, width).permute(2, 0, 3, 1, 4).unbind(0)
        if hasattr(attn, "q_norm"):
            q, k = attn.q_norm(q), attn.k_norm(k)
        q, k = self._places.rotated(q, k, state)
        return q, k, v

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


class Anatomy:
    """A vision transformer taken apart: embedding, blocks, head. Shares the model's modules; copies nothing."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._model = cast(Any, model)
        self.prefix = int(self._model.num_prefix_tokens)
        self.has_class_token = self._model.cls_token is not None
        self.tokens = int(self._model.patch_embed.num_patches) + self.prefix
        self.positional = False
        """Whether attention computes with the places of its tokens."""
        self.blocks: List[BlockAnatomy] = [
            BlockAnatomy(block, self, number) for number, block in enumerate(self._model.blocks)
        ]

    def state(self, method: Optional[Method] = None, restoring: bool = False) -> TokenState:
        """What a forward pass begins with, all tokens in their places; ``restoring``: dropped ones will be put back."""
        return TokenState(self.positional or restoring or (method is not None and method.reads_positions), restoring)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def lacks_fused(self) -> str:
        """Why attention cannot be computed fused in all blocks; empty where it can."""
        if not hasattr(functional, "scaled_dot_product_attention"):
            return "torch {} has no fused attention".format(torch.__version__)
        if not all(hasattr(block.module.attn, "fused_attn") for block in self.blocks):
            return "timm {} uses no fused attention".format(timm.__version__)
        return ""

    def fuse(self, fused: bool) -> None:
        """Compute attention in one operator or step by step, in all blocks of the model itself: what is faster depends
        on board and dtype. Raises ``InputError`` where only the latter is possible."""
        lacking = self.lacks_fused()
        if lacking:
            if fused:
                raise InputError(lacking)
            return
        for block in self.blocks:
            cast(Any, block.module).attn.fused_attn = fused

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, size, size) → x (B, N, C): patches, prefix tokens, positions, norm before the blocks."""
        model = self._model
        x = model.patch_embed(images)
        if isinstance(self.model, VisionTransformerDistilled) and "_pos_embed" not in vars(VisionTransformerDistilled):
            # timm 0.6 writes this out in the distilled model's forward_features.
            prefix = torch.cat([model.cls_token, model.dist_token], 1).expand(x.shape[0], -1, -1)
            return cast(torch.Tensor, model.pos_drop(torch.cat([prefix, x], 1) + model.pos_embed))
        x = model._pos_embed(x)
        if hasattr(model, "patch_drop"):
            x = model.patch_drop(x)
        return cast(torch.Tensor, model.norm_pre(x))

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, n, C) → logits (B, K): final norm, pooling, classifier."""
        return cast(torch.Tensor, self._model.forward_head(self._model.norm(x)))

    def geometry(self) -> Geometry:
        """The model's shape. Raises ``ModelRefused`` for images or patches that are not square."""
        model, embed, block = self._model, self._model.patch_embed, self._model.blocks[0]
        for what, (height, width) in (("images", embed.img_size), ("patches", embed.patch_size)):
            if height != width:
                raise ModelRefused("its {} are {} × {}, not square".format(what, height, width))
        return Geometry(
            depth=self.depth,
            dim=model.embed_dim,
            heads=block.attn.num_heads,
            mlp_dim=block.mlp.fc2.in_features,
            tokens=embed.num_patches + self.prefix,
            prefix=self.prefix,
            image_size=embed.img_size[0],
            patch_size=embed.patch_size[0],
            channels=embed.proj.in_channels,
            classes=model.num_classes,
        )


def dissect(model: nn.Module) -> Anatomy:
    """Take ``model`` apart. Raises ``ModelRefused``, which names what is not understood, before anything runs."""
    kind = type(model)
    if not isinstance(model, _MODELS):
        raise _refusal(model, "it is none of timm's VisionTransformer")
    for name in _MODEL_METHODS:
        own = getattr(kind, name, None)
        if all(own is not getattr(known, name, None) for known in _MODELS):
            raise _refusal(model, "its {} is not timm's".format(name))
    parts = cast(Any, model)
    _check_parts(model, model, _MODEL_PARTS)
    if type(parts.patch_embed) is not _PATCH_EMBED:
        raise _refusal(model, "its patch embedding is a {}".format(type(parts.patch_embed).__name__))
    if type(parts.blocks) is not nn.Sequential or not len(parts.blocks):
        raise _refusal(model, "its blocks are not a sequence")
    for block in parts.blocks:
        if type(block) is not timm_vit.Block:
            raise _refusal(model, "its blocks are {}".format(type(block).__name__))
        if type(block.attn) is not _ATTENTION:
            raise _refusal(model, "its attention is {}".format(type(block.attn).__name__))
        _check_parts(model, block, _BLOCK_PARTS)
        _check_parts(model, block.attn, _ATTENTION_PARTS)
    return Anatomy(model)


def _rows(bias: Optional[torch.Tensor], selected: torch.Tensor) -> Optional[torch.Tensor]:
    """The rows of ``bias`` (B, H, N, N) of the queries ``selected`` (B, m); as it is where all queries share it."""
    if bias is None or bias.shape[2] == 1:
        return bias
    index = selected[:, None, :, None].expand(-1, bias.shape[1], -1, bias.shape[3])
    return bias.expand(selected.shape[0], -1, -1, -1).gather(2, index)


def _exporting() -> bool:
    compiler = getattr(torch, "compiler", None)
    return bool(hasattr(compiler, "is_exporting") and cast(Any, compiler).is_exporting())


def _check_parts(model: nn.Module, module: nn.Module, known: "frozenset[str]") -> None:
    """A part that a newer timm adds is a step of its forward that would be missed here."""
    unknown = sorted({name for name, _ in module.named_children()} - known)
    if unknown:
        raise _refusal(model, "its {} has a part {!r}".format(type(module).__name__, unknown[0]))


def _refusal(model: nn.Module, why: str) -> ModelRefused:
    kind = type(model)
    return ModelRefused(
        "{}.{} cannot be reduced: {}".format(kind.__module__, kind.__name__, why),
        "use a timm VisionTransformer or VisionTransformerDistilled with the plain pre-norm Block",
    )
