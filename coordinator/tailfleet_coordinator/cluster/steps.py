"""What a board × model of a campaign needs next. A pure decision: facts read from rows in, one action out.

Since nothing else is consulted, whoever drives a campaign may die at any moment: the next one decides the same.
"""

from dataclasses import dataclass
from enum import Enum

from tailfleet_schema.job import JobState


class Action(Enum):
    """What to do for a step, or what it waits for."""

    SWEEP = "order a sweep"
    AWAIT_SWEEP = "wait for the sweep"
    ADOPT = "take the stored curve, or the one just measured"
    PROFILE = "wait for the model's accuracy profile"
    PLAN = "plan what is not planned yet"
    VERIFY = "order the verification"
    AWAIT_VERIFY = "wait for the verification"
    DONE = "nothing is left"
    FAIL = "a job failed, or was cancelled"


AT_THE_BOARD = frozenset([Action.SWEEP, Action.AWAIT_SWEEP, Action.VERIFY, Action.AWAIT_VERIFY])
"""What nobody but the board can do."""


@dataclass(frozen=True)
class StepFacts:
    """All that the decision rests on."""

    curve: bool
    """The step stands on a curve already."""
    usable_curve: bool
    """A curve is stored that it may stand on: a fresh one of the board, or that of its own finished sweep."""
    sweep: JobState | None
    """Its own sweep; None: not ordered."""
    wants_plans: bool
    """The campaign has an objective."""
    unprofiled: int
    """Units of the model's accuracy profile that are not known yet."""
    unplanned: int
    """Planner × method pairs without a plan."""
    verify: JobState | None
    """Its verification; None: not ordered. Where every plan says not to prune, dense alone is verified: that is the
    operating point then, and a report holds what the board measured of it."""


def decide(facts: StepFacts) -> Action:
    """The next action of a step."""
    if {facts.sweep, facts.verify} & {JobState.FAILED, JobState.CANCELLED}:
        return Action.FAIL
    if not facts.curve:
        if facts.usable_curve:
            return Action.ADOPT
        return Action.SWEEP if facts.sweep is None else Action.AWAIT_SWEEP
    if not facts.wants_plans:
        return Action.DONE
    if facts.unplanned:
        return Action.PROFILE if facts.unprofiled else Action.PLAN
    if facts.verify is None:
        return Action.VERIFY
    return Action.DONE if facts.verify is JobState.DONE else Action.AWAIT_VERIFY
