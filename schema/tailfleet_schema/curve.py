"""What a board measures: units of work, their keys, and their results with every raw sample.

A *unit* is one thing that is timed (or judged); measured once in each *round*. ``(unit, round)`` is a
result's key: a job is complete when each of its keys has a result, and a key counts once, however often
it is sent. Statistics are not stored: they are recomputed from the samples.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import List, NamedTuple, Optional

from tailfleet_schema.board import Telemetry
from tailfleet_schema.errors import InputError


class Part(Enum):
    """What a unit times or judges. ``n`` is ``tokens``, ``m`` is ``kept``."""

    MODEL = "model"
    """The whole model with n tokens in every block: the curve."""
    SENTINEL = "sentinel"
    """The whole model with all tokens, several times a round, to see drift."""
    FIXED = "fixed"
    """What a pass costs outside its blocks: patch embedding, position embedding, final norm, head."""
    ATTENTION = "attention"
    """The attention halves of all blocks in turn, each on n tokens, with the fused attention."""
    MLP = "mlp"
    """The MLP halves of all blocks in turn, each on n tokens."""
    REDUCE = "reduce"
    """As ATTENTION, but every block scores and reduces n → m tokens by method ``label``."""
    SCHEDULE = "schedule"
    """The whole model under the schedule whose digest is ``label``."""
    ACCURACY = "accuracy"
    """Predictions under the schedule ``label`` on evaluation images."""
    LOSS = "loss"
    """Predictions on calibration images with method ``label`` reducing n → m at ``block`` alone."""
    INPUT = "input"
    """Predictions on calibration images with a random n-token subset of patches as the input (POMT's A(n))."""


TIMED_PARTS = (Part.MODEL, Part.SENTINEL, Part.FIXED, Part.ATTENTION, Part.MLP, Part.REDUCE, Part.SCHEDULE)
JUDGED_PARTS = (Part.ACCURACY, Part.LOSS, Part.INPUT)


class UnitKey(NamedTuple):
    """The identity of a result within its job."""

    part: str
    label: str
    block: int
    tokens: int
    kept: int
    round: int


@dataclass(frozen=True)
class Unit:
    """One thing to time or to judge."""

    part: Part
    tokens: int
    kept: int
    label: str = ""
    """Method for REDUCE and LOSS, schedule digest for SCHEDULE and ACCURACY, else empty."""
    block: int = -1
    """Block for LOSS, else -1."""

    def __post_init__(self) -> None:
        if not 1 <= self.kept <= self.tokens:
            raise InputError("kept must be between 1 and tokens")

    def key(self, round_number: int) -> UnitKey:
        """Its key in round ``round_number`` (from 0)."""
        return UnitKey(self.part.value, self.label, self.block, self.tokens, self.kept, round_number)


@dataclass(frozen=True)
class Judgement:
    """How a model's predictions on labelled images came out."""

    images: int
    correct: int
    agreeing: int
    """Images whose top-1 equals that of the dense model."""
    kl_nats: float
    """Mean Kullback-Leibler divergence from the dense model's class distribution to this one's."""
    computed_on: str
    """``board``: on the board itself; ``host``: a real forward pass on the machine of a virtual board's agent."""
    correct_bits: str = ""
    """For each image in order, ``1`` where top-1 is right, else ``0``: for paired comparisons."""

    def __post_init__(self) -> None:
        if self.images < 1 or not 0 <= self.correct <= self.images or not 0 <= self.agreeing <= self.images:
            raise InputError("correct and agreeing must lie between 0 and images, and images be at least 1")


@dataclass(frozen=True)
class UnitResult:
    """What came of one unit in one round."""

    unit: Unit
    round: int
    call_ns: List[int] = field(default_factory=list)
    """Nanoseconds of every timed call, in order; the whole call, not divided by blocks or images."""
    judgement: Optional[Judgement] = None
    status: str = "ok"
    """``ok``, or ``oom``: the board has too little memory for it, which is a result too."""
    telemetry: Optional[Telemetry] = None
    """State of the board just after the unit, where it was read."""

    def __post_init__(self) -> None:
        if self.round < 0:
            raise InputError("round must be at least 0")
        if self.status not in ("ok", "oom"):
            raise InputError("status must be ok or oom")
        if any(value <= 0 for value in self.call_ns):
            raise InputError("call_ns must be positive")
        if self.status == "ok":
            if self.unit.part in TIMED_PARTS and not self.call_ns:
                raise InputError("a timed unit needs at least one call")
            if self.unit.part in JUDGED_PARTS and self.judgement is None:
                raise InputError("a judged unit needs its judgement")

    @property
    def key(self) -> UnitKey:
        """Its identity within the job."""
        return self.unit.key(self.round)
