"""Token reduction for timm's vision transformers: a schedule says which method leaves how many tokens where.

::

    import timm
    import torch
    from tailfleet_reduce import apply, load_schedule

    name = "deit_small_patch16_224"
    model = timm.create_model(name, pretrained=True).eval()
    reduced = apply(model, load_schedule("schedule.json"), name=name)
    with torch.no_grad():
        logits = reduced(torch.randn(1, 3, 224, 224))

Tensors only: nothing here knows of boards, jobs or latencies. Schedules, their arithmetic and their JSON are in
``tailfleet_schema.schedule``, those that papers use in ``tailfleet_schema.published``.
"""

from tailfleet_reduce.anatomy import Anatomy, ModelRefused
from tailfleet_reduce.apply import ReducedModel, apply
from tailfleet_reduce.block import BlockAnatomy
from tailfleet_reduce.dissect import dissect
from tailfleet_reduce.method import Method, TokenState
from tailfleet_reduce.methods import METHODS, method_for
from tailfleet_reduce.schedule_file import load_schedule

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
    "load_schedule",
    "method_for",
]
