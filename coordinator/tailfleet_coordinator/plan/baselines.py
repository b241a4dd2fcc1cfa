"""Published ways to choose a schedule, each as a sweep of its one knob: what a search is to be compared with.

Every setting of a knob becomes a schedule of ``tailfleet_schema.published``; which of them suits an objective best is
chosen by the same predictions as a search chooses by (``candidates``, ``choice``). Blocks that a paper names for a
model of twelve are taken at the same share of another depth (EViT's 3, 6, 9 of 12 are 4, 8, 12 of 16), and
Zero-TPrune's ten similar tokens of 196 patches at the same share of others. POMT's rule needs the board's curve and
the accuracy of shortened inputs, and without them has no settings.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tailfleet_coordinator.plan.halves import Whole
from tailfleet_coordinator.plan.rules import pomt_rule
from tailfleet_schema import published
from tailfleet_schema.campaign import BASELINES
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Geometry, ModelSpec

PAPERS_DEPTH = 12
PAPERS_PATCHES = 196
"""Of the models that papers name blocks and counts for: DeiT at 224 pixels."""

SHARES = 100
"""EViT's ρ and POMT's α are swept in steps of one in so many."""

STRENGTHS = tuple(step / 20 for step in range(1, 121))
"""Powers that Zero-TPrune's reported shares are raised to; 1: as reported."""

KNOBS = {
    "pomt-rule": "the rule's α",
    "pomt-alpha": "the rule's α",
    "tome-constant": "a constant r",
    "tome-decreasing": "a falling r",
    "evit-keep-rate": "one ρ at three blocks",
    "zero-tprune-reported": "its reported shares, scaled",
    "cropr-constant": "a constant R",
    "random-block": "random tokens from one block on",
}


@dataclass(frozen=True)
class Setting:
    """One position of a knob, as papers write it (``r = 13``), and what it means for the model."""

    knob: str
    schedule: Schedule


@dataclass(frozen=True)
class Knob:
    """All positions of a knob that prune, the gentlest first, each schedule once."""

    planner: str
    settings: list[Setting] = field(default_factory=list)
    refusal: str | None = None
    """Why there are none, as the end of a sentence; None where there are some."""

    @property
    def words(self) -> str:
        """``tome with a constant r``."""
        return f"{BASELINES[self.planner]} with {KNOBS[self.planner]}"


def knob(planner: str, model: ModelSpec, curve: Whole | None = None, accuracy: dict[int, float] | None = None) -> Knob:
    """Every setting of one of ``BASELINES`` for ``model``.

    ``curve`` and ``accuracy`` (percent by tokens of the input) are POMT's L(n) and A(n); the others need neither.
    Positions that the model is too small for are left out; where all are, ``refusal`` says why. Raises ``InputError``
    for an unknown planner.
    """
    if planner in ("pomt-rule", "pomt-alpha"):
        if curve is None or not accuracy:
            return Knob(planner, [], "POMT's rule needs labelled images, and there are none")
        alphas = [step / SHARES for step in range(SHARES + 1)]
        return _gathered(planner, alphas, "α", lambda alpha: pomt_rule(model, "pomt", curve, accuracy, alpha))
    if planner not in _EXPANSIONS:
        raise InputError(f"unknown planner {planner!r}; known: {', '.join(BASELINES)}")
    expand = _EXPANSIONS[planner]
    sign, values = _positions(planner, model.geometry)
    return _gathered(planner, values, sign, lambda value: expand(model.name, model.geometry, value))


def _positions(planner: str, geometry: Geometry) -> tuple[str, Iterable[float]]:
    """The sign of the knob and its values, the gentlest first."""
    patches = geometry.tokens - geometry.prefix
    if planner == "evit-keep-rate":
        return "ρ", [step / SHARES for step in range(SHARES - 1, 0, -1)]
    if planner == "zero-tprune-reported":
        return "strength", STRENGTHS
    if planner == "cropr-constant":
        return "R", range(1, patches)
    if planner == "random-block":
        return "kept", range(geometry.tokens - 1, geometry.prefix, -1)
    return "r", range(1, patches + 1)


def _gathered(planner: str, values: Iterable[float], sign: str, expand: Callable[[float], Schedule]) -> Knob:
    found: dict[str, Setting] = {}
    refusal = None
    for value in values:
        try:
            schedule = expand(value)
        except ScheduleError as error:
            refusal = refusal or error.problem
            continue
        if not schedule.is_dense:
            found.setdefault(schedule.digest, Setting(f"{sign} = {value:g}", schedule))
    if found:
        return Knob(planner, list(found.values()))
    words = f"{BASELINES[planner]} has no setting of {KNOBS[planner]} that prunes this model"
    return Knob(planner, [], words if refusal is None else f"{words}: {refusal}")


def _evit(model: str, geometry: Geometry, kept_share: float) -> Schedule:
    return published.evit(model, geometry, kept_share, _at_depth(published.EVIT_BLOCKS, geometry))


def _zero_tprune(model: str, geometry: Geometry, strength: float) -> Schedule:
    shares = [share**strength for share in published.ZERO_TPRUNE_SHARES]
    before = _at_depth(published.ZERO_TPRUNE_BEFORE, geometry)
    patches = geometry.tokens - geometry.prefix
    similar = round(published.ZERO_TPRUNE_SIMILAR * patches / PAPERS_PATCHES)
    return published.zero_tprune(model, geometry, shares, before, similar)


def _random(model: str, geometry: Geometry, kept: float) -> Schedule:
    block = min(published.POMT_BLOCK, geometry.depth - 1)
    return published.one_block("random", model, geometry, int(kept), block)


def _at_depth(blocks: Iterable[int], geometry: Geometry) -> list[int]:
    """The same places in a model of another depth. Raises ``ScheduleError`` where two of them meet."""
    placed = [round(block * geometry.depth / PAPERS_DEPTH) for block in blocks]
    if len(set(placed)) < len(placed):
        raise ScheduleError(f"{geometry.depth} blocks are too few for reductions at {len(placed)}")
    return placed


_EXPANSIONS: dict[str, Callable[[str, Geometry, float], Schedule]] = {
    "tome-constant": lambda model, geometry, r: published.tome(model, geometry, int(r)),
    "tome-decreasing": lambda model, geometry, r: published.tome(model, geometry, int(r), -1.0),
    "evit-keep-rate": _evit,
    "zero-tprune-reported": _zero_tprune,
    "cropr-constant": lambda model, geometry, r: published.cropr(model, geometry, int(r)),
    "random-block": _random,
}
