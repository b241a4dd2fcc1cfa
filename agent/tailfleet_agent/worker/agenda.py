"""Which units a round visits, and in what order: the decisions of an open-ended job, pure and cheap.

A round follows from the job and the results of the rounds before it alone, so a job that was interrupted goes on as if
nothing had happened. Left to others: measuring (``run``), which blocks count (the schema's ``quiet``), and where a
curve needs more counts (``refine``).
"""

import random
from collections import Counter
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from tailfleet_agent.worker import refine
from tailfleet_schema import quiet
from tailfleet_schema.curve import JUDGED_PARTS, Part, Unit, UnitResult
from tailfleet_schema.job import Effort, Job
from tailfleet_schema.quiet import Estimate, Judged

COMPANIONS = 4
"""Units that a round visits again at least: by them it is compared with earlier rounds."""

UNITS_PER_SENTINEL = 16
"""A round of few units has no need for all sentinels."""

ADDING_SHARE = 0.7
"""Counts are added in this part of the budget; the rest is for repeating them."""

WITNESSES = 7
"""The same of a look back, which has nothing else to visit."""

SLOW_SECONDS = 1.0
"""What slows a machine down for less is over before anything could be made of it."""

MOST_SLOW_ROUNDS = 40
"""The machine is waited for so many rounds in a row: more than a minute."""

SCATTERED_ROUNDS = 20
"""A unit that so many undisturbed blocks do not make known to the asked precision scatters by itself."""


class Round(NamedTuple):
    """One round to be measured."""

    units: List[Unit]
    """In this order."""
    note: str
    later: bool = False
    """To be begun after a while: it looks whether the machine is as it was."""


def ordered(job: Job, number: int, units: Sequence[Unit]) -> List[Unit]:
    """``units`` in the fresh random order of round ``number``, its sentinels first and evenly spaced behind."""
    others = [unit for unit in units if unit.part is not Part.SENTINEL]
    sentinels = sorted((unit for unit in units if unit.part is Part.SENTINEL), key=_place)
    random.Random("{}:{}".format(job.seed, number)).shuffle(others)
    placed: List[Unit] = []
    taken = 0
    for index, sentinel in enumerate(sentinels):
        until = index * len(others) // len(sentinels)
        placed += others[taken:until]
        taken = until
        placed.append(sentinel)
    return placed + others[taken:]


def first_round(job: Job) -> Round:
    """Everything that is listed."""
    units = _timed(job)
    return Round(ordered(job, 0, units), "round 1: all {} units".format(len(units)))


def next_round(job: Job, number: int, results: Sequence[UnitResult]) -> Optional[Round]:
    """Round ``number`` (from 1) after ``results`` of all rounds before; None where nothing is left to measure."""
    effort = job.effort
    assert effort is not None
    if number >= job.most_rounds:
        return None
    timed = [result for result in results if result.unit.part not in JUDGED_PARTS]
    judged = quiet.judge(timed)
    found = quiet.estimates(timed, judged)
    seen = {result.unit for result in timed}
    left = _left(job, timed)
    added, steps = _refined(job, effort, found)
    spent = sum(sum(result.call_ns) for result in timed) * 1e-9
    new = [unit for unit in added if unit not in seen and job.may_add(unit)]
    if spent > ADDING_SHARE * effort.budget_seconds:
        new = []
    listed = set(_timed(job)) if number < job.rounds else set()
    repeated = [
        unit for unit in left if unit in listed or unit in steps or _doubtful(unit, job.rounds, effort, found, judged)
    ]
    if not new and not repeated:
        return None
    slow = _slow_rounds(judged, timed)
    if slow:
        # Until the machine is as it was, only what was hardly seen at all.
        tries = Counter(result.unit for result in timed)
        new, repeated = [], [unit for unit in repeated if tries[unit] < job.rounds]
        if not repeated:
            return look_back(job, number, results) if slow < MOST_SLOW_ROUNDS else None
    note = "round {}: {} of {} units to repeat, {} counts added".format(number + 1, len(repeated), len(left), len(new))
    return Round(ordered(job, number, _accompanied(job, number, left, repeated, new, COMPANIONS)), note)


def _slow_rounds(judged: Judged, timed: Sequence[UnitResult]) -> int:
    """How many of the last rounds were slower in a whole; none, should they have been over in no time."""
    slow = set()
    for mark in reversed(judged.rounds):
        if not mark.disturbed:
            break
        slow.add(mark.round)
    seconds = sum(sum(result.call_ns) for result in timed if result.round in slow) * 1e-9
    return len(slow) if seconds >= SLOW_SECONDS else 0


def look_back(job: Job, number: int, results: Sequence[UnitResult]) -> Round:
    """Round ``number``, which compares the machine with what it was: some units that are known, once more."""
    timed = [result for result in results if result.unit.part not in JUDGED_PARTS]
    some = _accompanied(job, number, _left(job, timed), [], [], WITNESSES)
    return Round(ordered(job, number, some), "round {}: a look back".format(number + 1), True)


def _left(job: Job, timed: Sequence[UnitResult]) -> List[Unit]:
    """Units that fit in memory: listed ones first, then counts that were added, as they came."""
    met = dict.fromkeys(_timed(job) + [result.unit for result in timed])
    without_memory = {result.unit for result in timed if result.status != "ok"}
    return [unit for unit in met if unit not in without_memory]


def _timed(job: Job) -> List[Unit]:
    return [unit for unit in job.units if unit.part not in JUDGED_PARTS]


def _doubtful(unit: Unit, rounds: int, effort: Effort, found: Dict[Unit, Estimate], judged: Judged) -> bool:
    estimate = found.get(unit)
    if estimate is None or unit in judged.unsure or estimate.rounds < rounds:
        return True
    return estimate.half_share > effort.precision and estimate.rounds < SCATTERED_ROUNDS


def _refined(job: Job, effort: Effort, found: Dict[Unit, Estimate]) -> Tuple[List[Unit], Set[Unit]]:
    """Counts to add to the curve, and those whose blocks a step rests on that is not sure yet."""
    if effort.least_tokens is None:
        return [], set()
    known = {unit.tokens: estimate for unit, estimate in found.items() if unit.part is Part.MODEL}
    full = job.workload.model.geometry.tokens
    added = refine.next_counts(known, effort.least_tokens, full, effort.precision, job.workload.batch)
    unsure = refine.unsure(known, effort.least_tokens, full, effort.precision)
    return [Unit(Part.MODEL, n, n) for n in added], {Unit(Part.MODEL, n, n) for n in unsure}


def _accompanied(
    job: Job, number: int, left: Sequence[Unit], repeated: Sequence[Unit], new: Sequence[Unit], least: int
) -> List[Unit]:
    """``repeated`` and ``new`` with others to make ``least`` known ones, and sentinels as so many units need."""
    wanted = list(repeated) + list(new)
    chosen = set(wanted)
    known = [unit for unit in left if unit not in chosen and unit.part is not Part.SENTINEL]
    # What is repeated compares the round with earlier ones, too.
    lacking = max(0, least - len(repeated))
    beside = random.Random("{}:{}:known".format(job.seed, number)).sample(known, min(lacking, len(known)))
    others = [unit for unit in wanted if unit.part is not Part.SENTINEL] + beside
    doubtful = [unit for unit in wanted if unit.part is Part.SENTINEL]
    sentinels = doubtful + sorted((u for u in left if u.part is Part.SENTINEL and u not in chosen), key=_place)
    return others + sentinels[: max(len(doubtful), 1 + len(others) // UNITS_PER_SENTINEL)]


def _place(unit: Unit) -> int:
    return int(unit.label) if unit.label.isdigit() else 0
