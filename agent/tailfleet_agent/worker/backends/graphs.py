"""The ONNX graphs of a job by name, and what each unit feeds to its graph; said alike to who exports and who runs them.

Token counts are free in MODEL, ATTENTION, MLP and REDUCE graphs: there the dimension ``n`` is the tokens that enter,
``m`` those that a REDUCE leaves. So one export serves all counts of a part; who runs a graph fixes them when loading
it. FIXED and schedules have no free counts. All inputs and logits are fp32 whatever dtype is computed in, as converted
models usually keep them.
"""

from typing import Dict, List, Tuple

from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.errors import InputError
from tailfleet_schema.job import Job

MODEL = "model"
FIXED = "fixed"
REDUCE = "reduce-"
SCHEDULE = "schedule-"

OPSETS = {"explicit": 18, "fused": 23}
"""In opset 23 attention is one operator, which ONNX Runtime has fused kernels for."""


def name_of(unit: Unit) -> str:
    """The graph that ``unit`` runs. Raises ``InputError`` for what is judged by other means, or unknown."""
    if unit.part in (Part.MODEL, Part.SENTINEL):
        return MODEL
    if unit.part is Part.FIXED:
        return FIXED
    if unit.part in (Part.ATTENTION, Part.MLP):
        if not unit.label:
            return str(unit.part.value)
        if unit.part is Part.ATTENTION and unit.label == SIZED:
            return SIZED
        raise InputError("{} has no kind {!r}".format(unit.part.value, unit.label))
    if unit.part is Part.REDUCE:
        return REDUCE + unit.label
    if unit.part in (Part.SCHEDULE, Part.FIDELITY, Part.ACCURACY):
        return predicting(unit.label)
    raise InputError("{} is judged, not timed".format(unit.part.value))


def predicting(digest: str) -> str:
    """The graph that predicts under the schedule ``digest``; empty: the dense model."""
    return SCHEDULE + digest if digest else MODEL


def names_of(job: Job) -> List[str]:
    """Every graph that the units of ``job``, or what an adaptive one may add, run."""
    judged = (Part.LOSS, Part.INPUT)
    return sorted({MODEL} | {name_of(unit) for unit in job.units if unit.part not in judged})


def counts_of(unit: Unit) -> Dict[str, int]:
    """The free dimensions of the unit's graph, and what they are for it."""
    if unit.part in (Part.FIXED, Part.SCHEDULE):
        return {}
    if unit.part is Part.REDUCE:
        return {"n": unit.tokens, "m": unit.kept}
    return {"n": unit.tokens}


def feeds_of(name: str, unit: Unit, batch: int) -> List[Tuple[str, Tuple[int, ...]]]:
    """Inputs of the graph by name: ``images`` and ``tokens`` are the job's (the first n of them), the others' shapes
    alone matter: (n,) or (m,) for ``kept``, (B, n) for ``sizes``."""
    if name == MODEL:
        return [("images", ()), ("kept", (unit.tokens,))]
    if name == FIXED or name.startswith(SCHEDULE):
        return [("images", ())]
    if name == SIZED:
        return [("tokens", ()), ("sizes", (batch, unit.tokens))]
    if name.startswith(REDUCE):
        return [("tokens", ()), ("kept", (unit.kept,))]
    return [("tokens", ())]
