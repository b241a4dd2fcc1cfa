"""Token reduction for timm's vision transformers: a schedule says which method leaves how many tokens where.

::

    import timm, torch
    from tailfleet_reduce import apply
    from tailfleet_schema.codec import loads
    from tailfleet_schema.schedule import Schedule

    model = timm.create_model("deit_small_patch16_224", pretrained=True).eval()
    with open("schedule.json") as file:
        reduced = apply(model, loads(Schedule, file.read()), name="deit_small_patch16_224")
    with torch.no_grad():
        logits = reduced(torch.randn(1, 3, 224, 224))

Tensors only: nothing here knows of boards, jobs or latencies. Schedules, their arithmetic and their JSON are in
``tailfleet_schema.schedule``.
"""

from tailfleet_reduce.anatomy import Anatomy, BlockAnatomy, ModelRefused, dissect
from tailfleet_reduce.apply import ReducedModel, apply
from tailfleet_reduce.method import Method, TokenState
from tailfleet_reduce.methods import METHODS, method_for

__all__ = [
    "METHODS",
    "Anatomy",
    "BlockAnatomy",
    "Method",
    "ModelRefused",
    "ReducedModel",
    "TokenState",
    "apply",
    "dissect",
    "method_for",
]
