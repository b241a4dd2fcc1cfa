"""Jobs: what a board is asked to do, the states a job passes through, and the one table of legal moves."""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Dict, FrozenSet, List, Mapping, Optional

from tailfleet_schema.curve import JUDGED_PARTS, WHOLE, Part, Unit, UnitKey
from tailfleet_schema.errors import Blame, InputError
from tailfleet_schema.limits import check_count
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import FILES, DatasetSpec, Workload


class JobKind(Enum):
    """What a job is for; the worker runs each the same way: units × rounds → results."""

    SWEEP = "sweep"
    """Time the curve and the parts of a workload on a board."""
    VERIFY = "verify"
    """Time and judge schedules on a board, the dense model among them."""
    PROFILE = "profile"
    """Judge what reducing at a single block loses; run on the coordinator's side, never leased to a board."""


class JobState(Enum):
    """Where a job stands."""

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


MOVES: Dict[JobState, FrozenSet[JobState]] = {
    JobState.QUEUED: frozenset([JobState.LEASED, JobState.CANCELLED]),
    JobState.LEASED: frozenset([JobState.QUEUED, JobState.DONE, JobState.FAILED, JobState.CANCELLED]),
    JobState.DONE: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""The only legal moves. LEASED → QUEUED: the lease expired or the child was interrupted; it is given again."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A job's id names files on the board."""

ENDED = frozenset(state for state, following in MOVES.items() if not following)


@dataclass(frozen=True)
class Failure:
    """Why a job did not succeed, and who must act."""

    sentence: str
    blame: Blame
    detail: str = ""
    """Last lines of the child's log, or a traceback; for the curious."""


@dataclass(frozen=True)
class Key:
    """A ``UnitKey`` on the wire."""

    part: Part
    label: str
    block: int
    tokens: int
    kept: int
    round: int

    def as_tuple(self) -> UnitKey:
        """The same as a tuple that can be a member of a set."""
        return UnitKey(self.part.value, self.label, self.block, self.tokens, self.kept, self.round)


@dataclass(frozen=True)
class Effort:
    """How far the measured child goes beyond what its job lists, deciding by what it has measured so far.

    It repeats each unit until it was in ``Job.rounds`` undisturbed rounds and is known to ``precision``; and where
    ``least_tokens`` is given, it adds counts to the curve where neighbours differ beyond noise.
    """

    precision: float = 0.02
    """Wanted half of the interval of a unit's quiet time, as a share of that time."""
    most_rounds: int = 200
    """No unit is measured in more; late ones visit few."""
    budget_seconds: float = 600.0
    """Nothing new is begun after so much time in timed blocks and around them; of earlier attempts what their calls
    took counts. Waiting does not."""
    least_tokens: Optional[int] = None
    """Counts from here on may be added; None: none are."""

    def __post_init__(self) -> None:
        if not 0 < self.precision <= 1:
            raise InputError("must lie above 0 and be at most 1", path="precision")
        check_count("most_rounds", self.most_rounds, 1)
        if not 0 < self.budget_seconds <= LONGEST_BUDGET_SECONDS:
            raise InputError("must lie above 0 and be at most a week", path="budget_seconds")
        if self.least_tokens is not None:
            check_count("least_tokens", self.least_tokens, 1)


LONGEST_BUDGET_SECONDS = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Job:
    """One order to the measured child: every unit in every round, except what is already known."""

    id: str
    kind: JobKind
    workload: Workload
    units: List[Unit]
    rounds: int
    calls: int
    """Timed calls of a unit in a round."""
    seed: int
    """Decides random weights, random inputs, and the order of units in each round."""
    schedules: List[Schedule] = field(default_factory=list)
    """Those that units name by digest."""
    dataset: Optional[DatasetSpec] = None
    images: Optional[int] = None
    """Judge on the first so many images of the split; None: on all."""
    effort: Optional[Effort] = None
    """None: exactly ``rounds`` rounds of ``units`` are measured. Else they are the least, and the child goes on."""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise InputError("must be at most 64 letters, digits, '.', '_' and '-'", path="id")
        check_count("rounds", self.rounds, 1)
        check_count("calls", self.calls, 1)
        if self.images is not None:
            check_count("images", self.images, 1)
        for place, schedule in enumerate(self.schedules):
            try:
                schedule.check_fits(self.workload.model.name, self.workload.model.geometry)
            except InputError as error:
                raise error.inside("schedules[{}]".format(place))
        self._check_units()

    def _check_units(self) -> None:
        if not self.units:
            raise InputError("is empty: a job needs at least one unit", path="units")
        known = {schedule.digest for schedule in self.schedules}
        seen = set()
        for place, unit in enumerate(self.units):
            path = "units[{}]".format(place)
            if unit in seen:
                raise InputError("stands in the list already", path=path)
            seen.add(unit)
            named = (
                unit.part in (Part.SCHEDULE, Part.ACCURACY)
                or (unit.part is Part.FIDELITY and unit.label)
                or (unit.part is Part.LOSS and unit.block == WHOLE)
            )
            if named and unit.label not in known:
                raise InputError(
                    "names a schedule that the job does not carry: {!r}".format(unit.label[:12]), path=path + ".label"
                )
            if unit.part in JUDGED_PARTS and unit.part is not Part.FIDELITY and self.dataset is None:
                raise InputError("judges predictions, but the job carries no dataset", path=path)

    def artifacts(self, has_folder: bool = False) -> List[str]:
        """Content addresses of what the worker reads: the checkpoint, and the images where something is judged.

        Who ``has_folder`` with the image files needs their index alone.
        """
        needed = [self.workload.model.checkpoint_sha256]
        if self.dataset is not None:
            needed += [self.dataset.sha256, None if has_folder else self.dataset.pack_sha256]
        return [sha256 for sha256 in needed if sha256 is not None]

    def image_folder(self, folders: Mapping[str, str]) -> Optional[str]:
        """Of ``folders``, by name of dataset, the one with this job's image files; None where none has them."""
        if self.dataset is None or self.dataset.form != FILES:
            return None
        return folders.get(self.dataset.name)

    def units_keys(self, round_number: int) -> List[UnitKey]:
        """Keys of all units in one round."""
        return [unit.key(round_number) for unit in self.units]

    @property
    def most_rounds(self) -> int:
        """Rounds are numbered below this."""
        return self.rounds if self.effort is None else max(self.rounds, self.effort.most_rounds)

    def may_add(self, unit: Unit) -> bool:
        """Whether the child may measure ``unit`` though it is not listed: a count of the curve, in an adaptive job."""
        if self.effort is None or self.effort.least_tokens is None or unit != Unit(Part.MODEL, unit.tokens, unit.kept):
            return False
        return (
            unit.tokens == unit.kept and self.effort.least_tokens <= unit.tokens <= self.workload.model.geometry.tokens
        )

    def keys(self) -> List[UnitKey]:
        """Every key that a complete job has at least: timed units once a round, judged units in round 0 alone."""
        return [
            unit.key(r) for r in range(self.rounds) for unit in self.units if r == 0 or unit.part not in JUDGED_PARTS
        ]
