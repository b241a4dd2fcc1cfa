"""Which models of timm can be taken apart, and why another cannot: by name, before anything runs.

Understood are the plain pre-norm blocks of timm's ``VisionTransformer`` and its distilled variant (ViT, DeiT, DeiT-III,
DINOv2, CLIP, SigLIP, MAE), of its ``Eva`` (EVA, EVA-02, DINOv3, the Perception Encoder, ViTs with rotary embeddings)
and of its ``Beit`` (BEiT, BEiTv2), from timm 0.6.12 on as far as that has them. What they are made of is left to
:mod:`tailfleet_reduce.anatomy`.
"""

from typing import Any, List, Tuple, Type

from timm.models import beit as timm_beit
from timm.models import vision_transformer as timm_vit
from timm.models.deit import VisionTransformerDistilled
from torch import nn

from tailfleet_reduce.anatomy import Anatomy, BeitAnatomy, EvaAnatomy, ModelRefused

timm_eva: Any
try:
    from timm.models import eva as timm_eva
except ImportError:  # timm 0.6
    timm_eva = None

Kinds = Tuple[Type[nn.Module], ...]


class Family:
    """What is known of one kind of model: the classes and the parts whose forward passes are understood.

    What the installed timm's own module uses under a name counts: where it is defined moved between releases.
    """

    def __init__(
        self,
        anatomy: Type[Anatomy],
        room: Any,
        models: Kinds,
        blocks: Any,
        attentions: List[str],
        parts: str,
        block_parts: str,
    ) -> None:
        self.anatomy = anatomy
        self.models = models
        self.patch_embed = room.PatchEmbed
        self.blocks = blocks
        self.block: Any = getattr(room, "EvaBlock", None) or room.Block
        self.attentions = [getattr(room, name) for name in attentions if hasattr(room, name)]
        self.parts = frozenset(parts.split())
        self.block_parts = frozenset(block_parts.split())


FORWARD = ("forward", "forward_features", "forward_head", "_pos_embed", "pool")
"""Methods of a model that its forward pass goes through, where it has them."""

ATTENTION_PARTS = frozenset(
    ["qkv", "q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"]
)

_GAMMA_PARTS = "norm1 attn drop_path drop_path1 norm2 mlp drop_path2"


def _families() -> List[Family]:
    known = [
        Family(
            Anatomy,
            timm_vit,
            (timm_vit.VisionTransformer, VisionTransformerDistilled),
            nn.Sequential,
            ["Attention"],
            "patch_embed pos_drop patch_drop norm_pre blocks norm"
            " attn_pool fc_norm head_drop head head_dist pre_logits",
            "norm1 attn ls1 drop_path1 norm2 mlp ls2 drop_path2",
        ),
        Family(
            BeitAnatomy,
            timm_beit,
            (timm_beit.Beit,),
            nn.ModuleList,
            ["Attention"],
            "patch_embed pos_drop rel_pos_bias blocks norm fc_norm head_drop head",
            _GAMMA_PARTS,
        ),
    ]
    if timm_eva is not None:
        known.append(
            Family(
                EvaAnatomy,
                timm_eva,
                (timm_eva.Eva,),
                nn.ModuleList,
                ["EvaAttention", "AttentionRope"],
                "patch_embed pos_drop rope norm_pre blocks norm attn_pool fc_norm head_drop head",
                _GAMMA_PARTS,
            )
        )
    return known


FAMILIES = _families()

ROTARY = {
    "RotaryEmbeddingCat": "one table for all blocks",
    "RotaryEmbeddingMixed": "a learned table for each block and head",
    "RotaryEmbeddingDinoV3": "one table for all blocks, of normalised places",
}
"""Rotary embeddings whose tables are understood."""


def dissect(model: nn.Module) -> Anatomy:
    """Take ``model`` apart. Raises ``ModelRefused``, which names what is not understood, before anything runs."""
    for family in FAMILIES:
        if isinstance(model, family.models):
            _check(model, family)
            return family.anatomy(model)
    raise _refusal(model, "it is none of timm's {}".format(_known()))


def _check(model: nn.Module, family: Family) -> None:
    parts: Any = model
    kind = type(model)
    for name in FORWARD:
        if name in vars(model):
            raise _refusal(model, "its {} was replaced".format(name))
        own = getattr(kind, name, None)
        if all(own is not getattr(known, name, None) for known in family.models):
            raise _refusal(model, "its {} is not timm's".format(name))
    _check_parts(model, model, family.parts)
    if type(parts.patch_embed) is not family.patch_embed:
        raise _refusal(model, "its patch embedding is a {}".format(type(parts.patch_embed).__name__))
    if type(parts.blocks) is not family.blocks or not len(parts.blocks):
        raise _refusal(model, "its blocks are not a sequence")
    rope = getattr(model, "rope", None)
    if rope is not None and type(rope).__name__ not in ROTARY:
        raise _refusal(model, "its rotary embedding is a {}".format(type(rope).__name__))
    for block in parts.blocks:
        if type(block) is not family.block:
            raise _refusal(model, "its blocks are {}".format(type(block).__name__))
        if type(block.attn) not in family.attentions:
            raise _refusal(model, "its attention is {}".format(type(block.attn).__name__))
        if getattr(block.attn, "num_kv_groups", 1) != 1:
            raise _refusal(model, "groups of its heads share their keys")
        _check_parts(model, block, family.block_parts)
        _check_parts(model, block.attn, ATTENTION_PARTS)


def _check_parts(model: nn.Module, module: nn.Module, known: "frozenset[str]") -> None:
    """A part that a newer timm adds is a step of its forward that would be missed here."""
    unknown = sorted({name for name, _ in module.named_children()} - known)
    if unknown:
        raise _refusal(model, "its {} has a part {!r}".format(type(module).__name__, unknown[0]))


def _known() -> str:
    names = [kind.__name__ for family in FAMILIES for kind in family.models]
    return ", ".join(names[:-1]) + " or " + names[-1]


def _refusal(model: nn.Module, why: str) -> ModelRefused:
    kind = type(model)
    return ModelRefused(
        "{}.{} cannot be reduced: {}".format(kind.__module__, kind.__name__, why),
        "use a timm {} with plain pre-norm blocks".format(_known()),
    )
