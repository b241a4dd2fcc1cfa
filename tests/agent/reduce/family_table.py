"""The README's table of methods and families, computed: ``python -m tests.agent.reduce.family_table``.

A cell says *works* where a model of that timm name, with two of its blocks, few patches and random weights, was reduced
by the method and held: nothing to reduce is the untouched model to 1e-5, every block leaves as many tokens as the
schedule says, prefix tokens stay first, logits are finite and do not depend on the other images of a batch.
"""

import timm
import torch

from tailfleet_reduce import METHODS, ModelRefused, apply, dissect, method_for
from tailfleet_reduce.queries import attach, untrained
from tailfleet_schema.schedule import Schedule

FAMILIES = [
    ("ViT", "vit_tiny_patch16_224", {"img_size": 80}),
    ("DeiT", "deit_tiny_patch16_224", {"img_size": 80}),
    ("DeiT, distilled", "deit_tiny_distilled_patch16_224", {"img_size": 80}),
    ("DeiT-III", "deit3_small_patch16_224", {"img_size": 80}),
    ("DINOv2", "vit_small_patch14_dinov2", {"img_size": 70}),
    ("DINOv2 with registers", "vit_small_patch14_reg4_dinov2", {"img_size": 70}),
    ("SigLIP", "vit_base_patch16_siglip_224", {"img_size": 80}),
    ("SigLIP 2", "vit_base_patch32_siglip_256", {"img_size": 160}),
    ("CLIP", "vit_base_patch32_clip_224", {"img_size": 160}),
    ("MAE", "vit_base_patch16_224.mae", {"img_size": 80}),
    ("GAP ViT", "vit_base_patch16_gap_224", {"img_size": 80}),
    ("GAP ViT with registers", "vit_wee_patch16_reg1_gap_256", {"img_size": 80}),
    ("EVA", "eva_giant_patch14_224", {"img_size": 70, "embed_dim": 352, "num_heads": 4}),
    ("EVA-02", "eva02_tiny_patch14_224", {"img_size": 70}),
    ("EVA-02, SwiGLU with a norm", "eva02_base_patch14_224", {"img_size": 70}),
    ("DINOv3", "vit_small_patch16_dinov3", {"img_size": 80}),
    ("DINOv3 plus", "vit_small_plus_patch16_dinov3", {"img_size": 80}),
    ("ViT with axial RoPE", "vit_small_patch16_rope_224", {"img_size": 80}),
    ("ViT with mixed RoPE", "vit_small_patch16_rope_mixed_224", {"img_size": 80}),
    ("Perception Encoder", "vit_pe_core_tiny_patch16_384", {"img_size": 80}),
    ("BEiT", "beit_base_patch16_224", {"img_size": 80}),
    ("BEiTv2", "beitv2_base_patch16_224", {"img_size": 80}),
]
"""What it is called, a small timm name of it, and settings that make it quick: images of 25 patches."""

REFUSED = [
    ("EVA-02, post-norm", "eva02_enormous_patch14_clip_224", {"img_size": 70}),
    ("Sapiens 2 (grouped keys)", "vit_base_patch16_sapiens2", {"img_size": 80, "num_kv_heads": 2}),
    ("parallel blocks", "vit_small_patch16_18x2_224", {"img_size": 80}),
    ("parallel scaling blocks", "vit_base_patch16_xp_224", {"img_size": 80}),
    ("post-norm ViT", "vit_base_patch16_rpn_224", {"img_size": 80}),
    ("differential attention", "vit_dwee_patch16_reg1_gap_256", {"img_size": 80}),
    ("hybrid", "vit_tiny_r_s16_p8_224", {}),
    ("NaFlexViT", "naflexvit_base_patch16_gap", {}),
    ("Swin", "swin_tiny_patch4_window7_224", {}),
]
"""The same of those that are refused."""

DEPTH = 2
IMAGES = 3
CLOSE = 1e-5


def build(name, settings, seed=0):
    """The model of that timm name with ``DEPTH`` blocks, random. Raises ``LookupError`` where timm has none."""
    if not timm.is_model(name.split(".")[0]):
        raise LookupError("timm {} has no {}".format(timm.__version__, name))
    torch.manual_seed(seed)
    try:
        model = timm.create_model(name, pretrained=False, depth=DEPTH, **settings)
    except (TypeError, RuntimeError):
        # timm 0.6 lets no one change the depth, and knows names without what follows the dot.
        model = timm.create_model(name.split(".")[0], pretrained=False, **settings)
        if hasattr(model, "blocks"):
            model.blocks = model.blocks[:DEPTH]
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(parameter)  # timm begins with zeros
        elif "gamma" in parameter_name:
            torch.nn.init.uniform_(parameter, 0.3, 1.0)
    return model.eval()


def why_not(model, method):
    """Which of the claims ``method`` does not keep on ``model``; empty where it keeps all. Raises ``ModelRefused``."""
    anatomy = dissect(model)
    geometry = anatomy.geometry()
    attach(model, untrained(geometry.depth, geometry.dim))
    images = torch.randn(
        IMAGES, 3, geometry.image_size, geometry.image_size, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        whole = model(images)
        if not (_under(model, method, [geometry.tokens] * DEPTH)(images) - whole).abs().max() <= CLOSE:
            return "nothing to reduce is not the untouched model"
        keep = [geometry.tokens - 6, geometry.tokens - 11]
        reduced, left = _under(model, method, keep), []
        for block in model.blocks:
            block.mlp.register_forward_hook(lambda module, inputs, output: left.append(output.shape[1]))
        together, tokens = reduced(images), reduced.forward_tokens(images)
        after = [geometry.tokens, keep[0]] if method in ("zero-tprune", "cropr") else keep
        if left != after * 2 or tokens.shape[1] != keep[-1]:
            return "blocks leave other counts than the schedule's"
        if not torch.isfinite(together).all():
            return "logits are not finite"
        alone = torch.cat([reduced(images[number : number + 1]) for number in range(IMAGES)])
        if not (alone - together).abs().max() <= CLOSE:
            return "an image's logits depend on its batch-mates"
        x, block = anatomy.embed(images), anatomy.blocks[0]
        made = method_for(method, anatomy)
        prefix = block.whole(x)[:, : anatomy.prefix]
        if anatomy.prefix and not (block.reduce(x, made, keep[0])[:, : anatomy.prefix] - prefix).abs().max() <= CLOSE:
            return "prefix tokens do not stay first as they are"
    return ""


def cell(model, method):
    """``works``, what does not, or why the model is refused."""
    try:
        return why_not(model, method) or "works"
    except ModelRefused as refused:
        return "refused: " + refused.sentence.split(": ", 1)[1]


def table(columns=None):
    """The whole table in Markdown."""
    columns = columns or sorted(METHODS)
    lines = ["| family | timm's | {} |".format(" | ".join(columns)), "| --- | --- |{}".format(" --- |" * len(columns))]
    for family, name, settings in FAMILIES + REFUSED:
        model = build(name, settings)
        cells = [cell(model, method) for method in columns]
        if cells[0].startswith("refused"):  # whatever the method
            cells[1:] = ["–"] * (len(cells) - 1)
        lines.append("| {} | `{}` | {} |".format(family, name, " | ".join(cells)))
    return "\n".join(lines)


def _under(model, method, keep):
    geometry = dissect(model).geometry()
    return apply(model, Schedule(method, "table", geometry.tokens, geometry.prefix, keep))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table())
