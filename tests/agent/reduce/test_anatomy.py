"""Which models are understood, what is read from them, and which are refused, by name."""

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer

from tailfleet_reduce import ModelRefused, dissect
from tailfleet_schema.workload import Geometry

TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2, "num_classes": 3}


def test_geometry_is_read_from_the_model():
    geometry = dissect(VisionTransformer(**dict(TINY, depth=2, mlp_ratio=3, in_chans=1))).geometry()
    assert geometry == Geometry(
        depth=2, dim=12, heads=2, mlp_dim=36, tokens=5, prefix=1, image_size=16, patch_size=8, channels=1, classes=3
    )


def test_prefix_tokens_are_counted(build_family):
    assert dissect(build_family("distilled")).prefix == 2
    assert dissect(build_family("no_class_token")).prefix == 0
    assert dissect(build_family("registers")).prefix == 4


def test_embedding_yields_prefix_tokens_first(build_family):
    anatomy = dissect(build_family("distilled"))
    with torch.no_grad():
        x = anatomy.embed(torch.zeros(2, 3, 40, 40))
    assert x.shape == (2, 27, 24)
    assert torch.equal(x[0, 0], anatomy.model.cls_token[0, 0] + anatomy.model.pos_embed[0, 0])


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("swin_tiny_patch4_window7_224", {}),
        ("resnet18", {}),
        ("vit_small_r26_s32_224", {"depth": 1}),
        ("vit_small_patch16_18x2_224", {"depth": 1}),
        ("vit_base_patch16_rpn_224", {"depth": 1}),
    ],
)
def test_models_that_are_not_understood_are_refused_by_name(architecture, arguments):
    if not timm.is_model(architecture):
        pytest.skip("this timm has no " + architecture)
    try:
        model = timm.create_model(architecture, pretrained=False, **arguments)
    except TypeError:  # timm 0.6 lets no one change the depth
        model = timm.create_model(architecture, pretrained=False)
    with pytest.raises(ModelRefused) as refusal:
        dissect(model)
    assert type(model).__name__ in refusal.value.sentence
    assert refusal.value.mend


def test_a_subclass_with_its_own_forward_is_refused():
    class Own(VisionTransformer):
        def forward_features(self, x):
            return x

    with pytest.raises(ModelRefused, match="Own cannot be reduced: its forward_features is not timm's"):
        dissect(Own(**TINY))


def test_a_subclass_with_its_own_block_is_refused():
    class OwnBlock(Block):
        pass

    with pytest.raises(ModelRefused, match="its blocks are OwnBlock"):
        dissect(VisionTransformer(block_fn=OwnBlock, **TINY))


@pytest.mark.parametrize("where", ["model", "block", "attention"])
def test_a_part_that_is_not_known_is_refused(where):
    model = VisionTransformer(**TINY)
    holder = {"model": model, "block": model.blocks[0], "attention": model.blocks[0].attn}[where]
    holder.add_module("novelty", torch.nn.Linear(1, 1))
    with pytest.raises(ModelRefused, match="has a part 'novelty'"):
        dissect(model)


def test_images_that_are_not_square_have_no_geometry():
    anatomy = dissect(VisionTransformer(**dict(TINY, img_size=(16, 32))))
    with pytest.raises(ModelRefused, match="16 × 32, not square"):
        anatomy.geometry()
