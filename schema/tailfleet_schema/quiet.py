"""The quiet time of each unit of a sweep, with an interval: the one estimator of board and coordinator.

*Quiet* is the 10th percentile of the calls of a unit's undisturbed blocks, what their rounds have in common taken out:
the machine undisturbed. The board decides by it what to measure again and where to look closer, the coordinator plans
on it. How fast the machine was is ``speeds``' finding, which blocks are disturbed ``rounds``', why a round is and what
the verdict says ``verdict``'s.
"""

import math
from dataclasses import dataclass, field
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from tailfleet_schema.curve import Unit, UnitKey, UnitResult
from tailfleet_schema.rounds import Findings, examine
from tailfleet_schema.speeds import LOW_SHARE, Block, Sweep, quantile, sort
from tailfleet_schema.verdict import RoundMark, mark_rounds, spare, verdict

PRIOR_ROUNDS = 8
"""Degrees of freedom that the usual scatter of a part's units lends to each of them."""

DOUBTFUL = 0.03
"""Odds that a unit's lowest blocks were all disturbed from which on its interval says so."""

_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % quantile of Student's t for 1, 2, … degrees of freedom."""

_NORMAL = 1.959964


@dataclass(frozen=True)
class Estimate:
    """The quiet time of one unit and its 95 % interval."""

    quiet_ns: float
    low_ns: float
    high_ns: float
    calls: int
    """In its undisturbed blocks."""
    rounds: int
    """Undisturbed blocks, one a round, and those that confirm them."""

    @property
    def half_share(self) -> float:
        """Half of the interval as a share of the quiet time."""
        return max(self.high_ns - self.quiet_ns, self.quiet_ns - self.low_ns) / self.quiet_ns


@dataclass(frozen=True)
class Judged:
    """A sweep's rounds and blocks as they are to be read."""

    rounds: List[RoundMark]
    disturbed: FrozenSet[UnitKey]
    """Blocks that are part of no quiet time."""
    unsure: FrozenSet[Unit]
    """Timed units of which too few undisturbed blocks agree to be known."""
    stable: bool
    reason: str
    """A sentence; empty where it is stable."""
    estimates: Dict[Unit, Estimate] = field(repr=False, compare=False)


def judge(results: Iterable[UnitResult]) -> Judged:
    """Which rounds and blocks were disturbed, and whether the sweep is stable or why not.

    ``results`` come in the order in which they were measured; judged units and what was sent twice are passed over.
    """
    sweep = sort(results)
    findings = examine(sweep)
    marks = mark_rounds(sweep, findings)
    usable = {unit: findings.usable(unit, blocks) for unit, blocks in sweep.units.items()}
    disturbed = frozenset(
        sweep.names[unit].key(sweep.rounds[number])
        for unit, blocks in sweep.units.items()
        for number in blocks
        if number not in usable[unit]
    )
    found = _estimates(sweep, findings, usable)
    lost = spare(sweep, findings)
    stable, reason = verdict(sweep, findings, lost, marks, [found[unit].half_share for unit in findings.known])
    unsure = frozenset(sweep.names[unit] for unit in sweep.units if unit not in findings.known)
    named = {sweep.names[unit]: estimate for unit, estimate in found.items() if unit not in lost}
    return Judged(marks, disturbed, unsure, stable, reason, named)


def estimates(results: Iterable[UnitResult], judged: Optional[Judged] = None) -> Dict[Unit, Estimate]:
    """By unit its quiet time; without those that ran out of memory, and a few counts that stayed unknown.

    The interval comes from the rounds, since calls of one round share its disturbances: Student's, on the scatter of
    the undisturbed blocks' lows. Three rounds tell little about scatter, so it is pooled with the median scatter of the
    units of the same part, which counts as ``PRIOR_ROUNDS`` degrees of freedom. Of a unit whose lowest
    blocks may all have been disturbed it reaches down to what the unit would take if they were so as others were.
    """
    return (judge(results) if judged is None else judged).estimates


class _Lows(NamedTuple):
    """The undisturbed blocks of one unit: calls and lows, freed of what their rounds share."""

    calls: List[float]
    lows: List[float]


def _estimates(sweep: Sweep, findings: Findings, usable: Dict[int, Dict[int, float]]) -> Dict[int, Estimate]:
    """By unit; ``usable`` are its undisturbed blocks, by stretch what they are to be divided by."""
    factors = findings.speeds.factors
    chosen = {unit: _undisturbed(blocks, usable[unit], factors) for unit, blocks in sweep.units.items()}
    scatters = {unit: _scatter(one.lows) for unit, one in chosen.items()}
    groups = {unit: (sweep.names[unit].part.value, sweep.names[unit].label) for unit in chosen}
    usual = _usual(scatters, groups)
    found = {}
    for unit, one in chosen.items():
        quiet = _quiet(one.calls, findings.tolerance)
        half = quiet * _half(scatters[unit], usual[groups[unit]], len(one.lows))
        low, high = quiet - half, quiet + half
        if findings.doubts.get(unit, 1.0) > DOUBTFUL:
            low, high = _doubtful(unit, quiet, low, high, sweep, findings)
        blocks = len(usable[unit]) + findings.confirmed.get(unit, 0)
        found[unit] = Estimate(quiet, max(low, 0.1 * quiet), high, len(one.calls), blocks)
    return found


def _undisturbed(blocks: Dict[int, Block], usable: Dict[int, float], factors: Dict[int, float]) -> _Lows:
    if not usable:
        # Only in stretches that were disturbed as a whole: the least disturbed of them has to do.
        least = min(blocks, key=lambda number: blocks[number].low_ns / factors[number])
        usable = {least: factors[least]}
    calls = [call / factor for number, factor in usable.items() for call in blocks[number].calls]
    return _Lows(calls, [blocks[number].low_ns / factor for number, factor in usable.items()])


def _quiet(calls: List[float], tolerance: float) -> float:
    """The 10th percentile, linear between calls unless a disturbed one is beyond."""
    ordered = sorted(calls)
    below = ordered[int(LOW_SHARE * (len(ordered) - 1))]
    at = quantile(ordered, LOW_SHARE)
    return at if at <= below * (1.0 + tolerance) else below


class _Scatter(NamedTuple):
    """Relative variance of lows, and its degrees of freedom."""

    variance: float
    freedom: int


def _scatter(lows: Sequence[float]) -> _Scatter:
    if len(lows) < 2:
        return _Scatter(0.0, 0)
    mean = sum(lows) / len(lows)
    return _Scatter(sum((low / mean - 1.0) ** 2 for low in lows) / (len(lows) - 1), len(lows) - 1)


def _usual(scatters: Dict[int, _Scatter], names: Dict[int, Tuple[str, str]]) -> Dict[Tuple[str, str], _Scatter]:
    """By part and label, the median variance and the degrees of freedom behind it; of all units where those of a
    part are few."""
    groups: Dict[Tuple[str, str], List[_Scatter]] = {}
    everything = [scatter for scatter in scatters.values() if scatter.freedom]
    for unit, scatter in scatters.items():
        members = groups.setdefault(names[unit], [])
        if scatter.freedom:
            members.append(scatter)
    found = {}
    for name, members in groups.items():
        peers = members if len(members) >= 4 else everything
        # Each of these is a chi-square over its degrees of freedom, whose median lies below its mean.
        means = sorted(scatter.variance / (1.0 - 2.0 / (9.0 * scatter.freedom)) ** 3 for scatter in peers)
        found[name] = _Scatter(quantile(means, 0.5) if means else 0.0, sum(scatter.freedom for scatter in peers))
    return found


def _half(own: _Scatter, usual: _Scatter, blocks: int) -> float:
    lent = max(0, min(PRIOR_ROUNDS, usual.freedom - own.freedom))
    freedom = own.freedom + lent
    if not freedom:
        return 0.0
    variance = (own.freedom * own.variance + lent * usual.variance) / freedom
    return student(freedom) * math.sqrt(variance / blocks)


def _doubtful(
    unit: int, quiet: float, low: float, high: float, sweep: Sweep, findings: Findings
) -> Tuple[float, float]:
    """The interval of a unit that may be as much faster as others were without disturbance."""
    factors = [findings.speeds.factors[number] for number in sweep.units[unit] if number not in findings.speeds.divided]
    worst = max([findings.slower, *factors]) * (1.0 + findings.tolerance)
    calls = sorted(call for block in sweep.units[unit].values() for call in block.calls)
    return min(low, quiet / worst, float(calls[0])), max(high, quantile(calls, 0.5))


def student(freedom: int) -> float:
    """97.5 % quantile of Student's t; the expansion about the normal one beyond the table is right to 0.001."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = _NORMAL
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return float(sum(term / freedom**power for power, term in enumerate(terms)))
