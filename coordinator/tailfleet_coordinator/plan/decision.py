"""What a plan follows from, and what it says: facts that travel between processes and into the database as JSON."""

from dataclasses import dataclass, field

from tailfleet_coordinator.plan.residuals import Verified
from tailfleet_schema.campaign import FrontPoint, Objective, Statistic
from tailfleet_schema.curve import UnitResult
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import ModelSpec


@dataclass(frozen=True)
class PlanInput:
    """Everything a plan follows from; the same input gives the same plan."""

    model: ModelSpec
    method: str
    """``auto``: one of ``competing``."""
    planner: str
    """``optimal``, or one of ``BASELINES``, whose method this is."""
    objective: Objective
    sweep: list[UnitResult]
    """All results of one sweep of this model on the board."""
    profile: list[UnitResult]
    """LOSS results of the methods, for POMT's rule INPUT results besides; empty where there are no images."""
    batch: int = 1
    reading: str | None = None
    """The text of a ``Reading`` of the sweep, where one is stored; ``sweep`` is then looked at for a tail alone."""
    competing: list[str] = field(default_factory=list)
    """Methods that ``auto`` takes the best of."""
    verified: list[Verified] = field(default_factory=list)
    """What the board, as it is now, measured of earlier schedules of this model."""
    verify: int = 1
    """Points of the front that are to be measured at most; if not 1, ``auto`` adds the best of the methods that did not
    win."""
    labelled: bool = True
    """Whether the images that ``profile`` was judged on have labels; else its top-1 is agreement with the dense
    model."""


@dataclass(frozen=True)
class Contender:
    """A further schedule of the front that is worth measuring, and what to expect of it."""

    schedule: Schedule
    predicted_ns: float
    predicted_low_ns: float
    predicted_high_ns: float
    expected_drop: float | None
    verdict: str
    drop_error: float | None = None
    """As of a plan."""


@dataclass(frozen=True)
class Plan:
    """What to do, and what to expect of it. Times are those of one call, ``on`` the objective's statistic."""

    schedule: Schedule | None
    """None: do not prune."""
    dense_ns: float
    predicted_ns: float
    """Of ``schedule``; of the best that was considered, or of dense, where it is None."""
    predicted_low_ns: float
    predicted_high_ns: float
    expected_drop: float | None
    """Points of top-1 (or of agreement) on calibration images, a best guess; None where there is no profile or no
    schedule."""
    verdict: str
    front: list[FrontPoint] = field(default_factory=list)
    on: Statistic = Statistic.QUIET
    contenders: list[Contender] = field(default_factory=list)
    drop_error: float | None = None
    """Points that such guesses as ``expected_drop`` err by, on whole schedules that the profile was not fitted to."""
