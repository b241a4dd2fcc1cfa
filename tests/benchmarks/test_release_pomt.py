"""POMT as released beside ours: for a single image they are the same model, for several they are not."""

import torch
from tests.benchmarks.release_pomt import ReleasedPomt
from timm.models.vision_transformer import VisionTransformer

from tailfleet_reduce import apply
from tailfleet_schema.schedule import Schedule


def test_an_image_alone_is_reduced_as_by_ours():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=40, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=7).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3 if "qkv" in name else 0.15)
    ours = apply(model, Schedule("pomt", "m", 26, 1, [26, 15, 15]))
    released = ReleasedPomt(model, 15, 1)
    images = torch.randn(32, 3, 40, 40) * torch.linspace(0.1, 30, 32)[:, None, None, None]
    with torch.no_grad():
        assert torch.allclose(released(images[:1]), ours(images[:1]), atol=1e-5)
        assert not torch.allclose(released(images), ours(images), atol=1e-5)  # it scores by the largest of the batch
