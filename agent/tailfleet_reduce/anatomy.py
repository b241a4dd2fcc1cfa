"""What a timm vision transformer is made of: embedding, blocks, head.

One class for each kind of model of timm's: :class:`Anatomy` for ``VisionTransformer`` and its distilled variant,
:class:`EvaAnatomy` for ``Eva``, :class:`BeitAnatomy` for ``Beit``. How a block is taken apart is left to
:mod:`tailfleet_reduce.block`, which models are understood to :mod:`tailfleet_reduce.dissect`.
"""

from typing import Any, List, Optional, Tuple, cast

import timm
import torch
import torch.nn.functional as functional
from timm.models.deit import VisionTransformerDistilled
from torch import nn

from tailfleet_reduce.block import BlockAnatomy, GammaBlockAnatomy
from tailfleet_reduce.method import Method, TokenState, gather_tokens, with_prefix
from tailfleet_reduce.positions import RelativeBias, Rotary, RotaryTable
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import Geometry


class ModelRefused(InputError):
    """A model whose tokens cannot be reduced, since its blocks are not understood."""


class Anatomy:
    """A vision transformer taken apart: embedding, blocks, head. Shares the model's modules; copies nothing."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._model = cast(Any, model)
        # timm 0.6's BEiT does not tell.
        self.prefix = int(getattr(self._model, "num_prefix_tokens", 1))
        self.has_class_token = self._model.cls_token is not None
        self.tokens = int(self._model.patch_embed.num_patches) + self.prefix
        self.blocks: List[BlockAnatomy] = self._taken_apart(list(self._model.blocks))
        self.positional = not all(block.places.plain for block in self.blocks)
        """Whether attention computes with the places of its tokens."""

    def _taken_apart(self, blocks: List[nn.Module]) -> List[BlockAnatomy]:
        return [BlockAnatomy(block, self, number) for number, block in enumerate(blocks)]

    def state(self, method: Optional[Method] = None, restoring: bool = False) -> TokenState:
        """What a forward pass begins with, all tokens in their places; ``restoring``: dropped ones will be put back."""
        return TokenState(self.positional or restoring or (method is not None and method.reads_positions), restoring)

    def drawn(self, x: torch.Tensor, chosen: torch.Tensor) -> Tuple[torch.Tensor, TokenState]:
        """The prefix tokens of ``x`` (B, N, C) and those of its patches at ``chosen`` (B, m): what enters block 0.

        And the state in which they do, since they keep their places.
        """
        index = with_prefix(chosen, self.prefix)  # (B, P + m)
        state = self.state()
        if state.wants_positions:
            state.positions = index
        return gather_tokens(x, index), state

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
        """The model's shape. Raises ``ModelRefused`` for images or patches that are not square.

        ``mlp_dim`` M is such that an MLP costs 2·C·M multiply-adds a token: where a gate makes a third matrix of its
        two, one and a half times its hidden width.
        """
        model, embed, block = self._model, self._model.patch_embed, self._model.blocks[0]
        mlp = sum(part.weight.numel() for part in block.mlp.modules() if isinstance(part, nn.Linear))
        for what, (height, width) in (("images", embed.img_size), ("patches", embed.patch_size)):
            if height != width:
                raise ModelRefused("its {} are {} × {}, not square".format(what, height, width))
        return Geometry(
            depth=self.depth,
            dim=model.embed_dim,
            heads=block.attn.num_heads,
            mlp_dim=-(-mlp // (2 * model.embed_dim)),
            tokens=self.tokens,
            prefix=self.prefix,
            image_size=embed.img_size[0],
            patch_size=embed.patch_size[0],
            channels=embed.proj.in_channels,
            classes=model.num_classes,
        )


class EvaAnatomy(Anatomy):
    """timm's ``Eva``: places by rotary embedding, by an embedding that is added, or both."""

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, size, size) → x (B, N, C): patches, prefix tokens, positions, norm before the blocks.

        timm's own ``_pos_embed`` would compute the rotary table as well, for some models on the host. Raises
        ``InputError`` for images of another size than the model's, which some models would take.
        """
        model = self._model
        if tuple(images.shape[2:]) != tuple(model.patch_embed.img_size):
            raise InputError(
                "the model was made for images of {}, not of {}".format(
                    " × ".join(map(str, model.patch_embed.img_size)), " × ".join(map(str, images.shape[2:]))
                )
            )
        x = model.patch_embed(images)
        if x.dim() == 4:  # (B, H, W, C) in models of dynamic size
            x = x.flatten(1, 2)
        tokens = [token for token in (model.cls_token, getattr(model, "reg_token", None)) if token is not None]
        added = model.pos_embed
        if added is not None and getattr(model, "no_embed_class", False):
            x, added = x + added, None
        x = torch.cat([token.expand(x.shape[0], -1, -1) for token in tokens] + [x], 1)
        if added is not None:
            x = x + added
        x = model.pos_drop(x)
        return cast(torch.Tensor, model.norm_pre(x) if hasattr(model, "norm_pre") else x)

    def _taken_apart(self, blocks: List[nn.Module]) -> List[BlockAnatomy]:
        table: Optional[RotaryTable] = None if self._model.rope is None else RotaryTable(self.model)
        return [
            GammaBlockAnatomy(
                block,
                self,
                number,
                None
                if table is None
                else Rotary(table, number, bool(getattr(cast(Any, block).attn, "rotate_half", False))),
            )
            for number, block in enumerate(blocks)
        ]


class BeitAnatomy(Anatomy):
    """timm's ``Beit``: places by a bias on the logits, of each block or shared, or by an embedding that is added."""

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, size, size) → x (B, N, C): patches, class token, positions."""
        model = self._model
        x = model.patch_embed(images)
        x = torch.cat([model.cls_token.expand(x.shape[0], -1, -1), x], 1)
        if model.pos_embed is not None:
            x = x + model.pos_embed
        return cast(torch.Tensor, model.pos_drop(x))

    def _taken_apart(self, blocks: List[nn.Module]) -> List[BlockAnatomy]:
        shared = self._model.rel_pos_bias
        return [
            GammaBlockAnatomy(block, self, number, RelativeBias.of(cast(Any, block).attn, shared, self.tokens))
            for number, block in enumerate(blocks)
        ]
