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
from tailfleet_schema.limits import LABEL_LENGTH, check_count


class Part(Enum):
    """What a unit times or judges. ``n`` is ``tokens``, ``m`` is ``kept``."""

    MODEL = "model"
    """The whole model with n tokens in every block: the curve."""
    SENTINEL = "sentinel"
    """The whole model with all tokens, several times a round, to see drift. ``label`` tells its places in the round
    apart: "" for the first, "1", "2", … for those evenly spaced behind it."""
    FIXED = "fixed"
    """What a pass costs outside its blocks: patch embedding, position embedding, final norm, head."""
    ATTENTION = "attention"
    """The attention halves of all blocks in turn, each on n tokens. ``label`` is empty, or ``sized``: keys are weighed
    by the tokens that were merged into each, as ToMe's blocks do from the first merge on."""
    MLP = "mlp"
    """The MLP halves of all blocks in turn, each on n tokens."""
    REDUCE = "reduce"
    """As ATTENTION, but every block scores and reduces n → m tokens by method ``label``."""
    SCHEDULE = "schedule"
    """The whole model under the schedule whose digest is ``label``."""
    ACCURACY = "accuracy"
    """Predictions under the schedule ``label`` on evaluation images."""
    LOSS = "loss"
    """Predictions on calibration images with m of n tokens leaving ``block`` by method ``label``, and all of them every
    block before; but those just before it that one block needs to get to so few (``schedule.lead``). At block
    ``WHOLE``, under the schedule whose digest is ``label``."""
    INPUT = "input"
    """Predictions on calibration images with a random n-token subset of patches as the input (POMT's A(n))."""
    FIDELITY = "fidelity"
    """Predictions of the workload's backend and dtype on seeded random images, under the schedule ``label`` (empty: the
    dense model), held against eager fp32, whose predictions stand for the labels: ``correct`` equals ``agreeing``."""


TIMED_PARTS = (Part.MODEL, Part.SENTINEL, Part.FIXED, Part.ATTENTION, Part.MLP, Part.REDUCE, Part.SCHEDULE)
JUDGED_PARTS = (Part.ACCURACY, Part.LOSS, Part.INPUT, Part.FIDELITY)

WHOLE = -1
"""Block of a LOSS that is a whole schedule's."""

SIZED = "sized"
"""Label of ATTENTION that weighs keys by sizes."""


LONGEST_CALL_NS = 24 * 3600 * 10**9
"""No single pass of a model takes a day; a larger figure is a broken clock's."""


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
    """Method for REDUCE and LOSS, schedule digest for SCHEDULE, ACCURACY, FIDELITY and a whole LOSS; else see the
    part."""
    block: int = -1
    """Block for LOSS (``WHOLE``: all of them), else -1."""

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens, 1)
        check_count("kept", self.kept, 1)
        check_count("block", self.block, -1)
        if self.kept > self.tokens:
            raise InputError("{}, but only {} tokens arrive".format(self.kept, self.tokens), path="kept")
        if len(self.label) > LABEL_LENGTH:
            raise InputError("has more than {} characters".format(LABEL_LENGTH), path="label")

    def key(self, round_number: int) -> UnitKey:
        """Its key in round ``round_number`` (from 0)."""
        return UnitKey(self.part.value, self.label, self.block, self.tokens, self.kept, round_number)


@dataclass(frozen=True)
class Judgement:
    """How a model's predictions on images came out. Where these have no labels, the dense model's answers are what is
    right, and ``correct`` equals ``agreeing``."""

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
        check_count("images", self.images, 1)
        check_count("correct", self.correct, 0, self.images)
        check_count("agreeing", self.agreeing, 0, self.images)
        if self.computed_on not in ("board", "host"):
            raise InputError("must be board or host", path="computed_on")
        if self.correct_bits and (len(self.correct_bits) != self.images or set(self.correct_bits) - set("01")):
            raise InputError("must hold 1 or 0 for each of {} images".format(self.images), path="correct_bits")


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
    """State of the board just after the unit, where it was read: after the first and the last block of each round at
    least, while the board is still under load, since idle clocks say nothing."""
    peak_memory_bytes: Optional[int] = None
    """The most that the process (on a GPU: torch's allocator or the runtime) held during the unit; None: not known."""
    energy_mj: Optional[float] = None
    """Energy of one call in millijoules, where the board has a sensor for it."""

    def __post_init__(self) -> None:
        check_count("round", self.round, 0)
        if self.status not in ("ok", "oom"):
            raise InputError("must be ok or oom", path="status")
        if self.peak_memory_bytes is not None and not 0 <= self.peak_memory_bytes < 2**63:
            raise InputError("must lie between 0 and 2**63", path="peak_memory_bytes")
        if self.energy_mj is not None and not 0 <= self.energy_mj < 1e12:
            raise InputError("must lie between 0 and 1e12", path="energy_mj")
        if self.call_ns and not 0 < min(self.call_ns) <= max(self.call_ns) <= LONGEST_CALL_NS:
            call, duration = next(
                (call, value) for call, value in enumerate(self.call_ns) if not 0 < value <= LONGEST_CALL_NS
            )
            raise InputError(
                "{} ns; a call takes more than 0 ns and at most a day".format(duration),
                path="call_ns[{}]".format(call),
            )
        if self.status == "ok":
            if self.unit.part in TIMED_PARTS and not self.call_ns:
                raise InputError("is empty, but a timed unit needs at least one call", path="call_ns")
            if self.unit.part in JUDGED_PARTS and self.judgement is None:
                raise InputError("is missing, but this unit is judged", path="judgement")

    @property
    def key(self) -> UnitKey:
        """Its identity within the job."""
        return self.unit.key(self.round)
