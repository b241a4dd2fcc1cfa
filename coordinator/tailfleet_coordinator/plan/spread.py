"""How much longer than quiet the whole model takes on another statistic, as a function of its tokens.

Percentiles of parts do not add up: a pass is as slow as its slowest hundredth only when one of its parts is, and each
part's own hundredth comes at another time. So parts are summed on quiet, and the tail is taken from where it was seen
whole: every call of the whole model (MODEL, SENTINEL) over the quiet time of its count. These ratios are pooled over
counts, since what disturbs a pass mostly does not ask how many tokens it has, and three rounds of three calls at one
count say nothing of a p99; pooled they are hundreds. A tail that does depend on tokens shows in how the calls above
the pooled percentile are spread over counts: where they are so unevenly that chance is excluded (a likelihood ratio
of two binomials, every place tried being paid for), the counts are split there, and both sides looked at again.

A pass that mixes counts of several such stretches draws from each by its share of time: the survival functions are
mixed, not the percentiles. That is a model, and what it may be off by is in the interval (``MIXING``).

Held against the true p99 of random schedules on made-up boards, with exponential noise, spikes, heavy spikes, Pareto,
interrupts of fixed length, or blocks that stall: from 1773 calls in all (every count, three rounds of three) the median
error was 0.2–3 %, where a percentile of each count's own calls gave 1–28 % and a sum of the parts' percentiles 5–35 %;
from 450 calls (16 counts) 0.1–8 %. With a tail that begins beyond a count, 2 %, where pooling alone gave 8 %; but one
schedule in twenty was 30 % off, namely where its p99 lies between having that tail and not. Of 450 calls no such step
can be told, and the error was 16 %: who plans on p99 measures often, and the verification has the last word.

Left to others: quiet times, and steps of quiet itself (``treads``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, xlogy

from tailfleet_coordinator.plan.quantiles import (
    LEVELS,
    Percentile,
    calls_of,
    clustering,
    complete,
    least_calls,
    percentile,
    shortage,
)
from tailfleet_schema.campaign import Statistic
from tailfleet_schema.curve import Part, UnitResult
from tailfleet_schema.errors import InputError
from tailfleet_schema.quiet import estimates

LEAST_STEP = 0.02
"""Factors on both sides of a step differ by so much at least, relative to the smaller: less changes no plan."""

LEAST_SIDE = 30
"""Calls on each side of a step, at least; more where the percentile needs more."""

FALSE_STEPS = 0.001
"""Probability of a step where there is none, over all places it could be."""

MIXING = 2.0
"""Tokens with a longer tail may attract so many times more, or less, disturbances than their share of the time."""

PLAUSIBLE = 6.0
"""A step may as well lie where twice the logarithm of the likelihood is within this of the best: e⁻³ of it."""

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Spread:
    """Statistic over quiet: ``sources[source_at[n]]`` for n tokens. Counts with one source err together."""

    on: Statistic
    sources: tuple[Percentile, ...]
    ratios: tuple[_Floats, ...]
    """What each source was estimated from, ascending."""
    source_at: tuple[int, ...]
    """For n = 0 … N."""
    tops: tuple[int, ...]
    """The largest counts that are surely before a step: worth planning with."""

    @classmethod
    def quiet(cls, tokens: int) -> "Spread":
        """Of the statistic that everything is measured on: 1, and sure."""
        return cls(Statistic.QUIET, (Percentile(1.0, 1.0, 1.0),), (np.ones(1),), (0,) * (tokens + 1), ())

    @classmethod
    def fit(cls, results: Sequence[UnitResult], tokens: int, on: Statistic) -> "Spread":
        """From the whole-model calls of one sweep. Raises ``InputError`` where they are too few for ``on``."""
        if on is Statistic.QUIET:
            return cls.quiet(tokens)
        calls = _Calls.of(results)
        few = calls.shortage(on)
        if few is not None:
            raise InputError(few)
        level = LEVELS[on]
        steps = _steps(calls, level, max(LEAST_SIDE, least_calls(on)))
        return _between(on, tokens, calls, level, steps)

    def factor(self, n: int) -> float:
        """Statistic over quiet with n tokens."""
        return self.sources[self.source_at[n]].value

    def mixed(self, shares: Sequence[float]) -> Percentile:
        """Statistic over quiet of a pass that spends ``shares`` of its quiet time on each source; not all zero.

        The ends say how far the shares of disturbances may differ from those of time, by ``MIXING``; the sources' own
        uncertainty is not in them.
        """
        used = [i for i, share in enumerate(shares) if share > 0]
        if len(used) == 1:
            value = self.sources[used[0]].value
            return Percentile(value, value, value)
        weights = np.array([share / len(own) for share, own in zip(shares, self.ratios, strict=True)])
        value = self._weighed(weights)
        longer = np.array([source.value > value for source in self.sources])
        ends = [self._weighed(np.where(longer, by * weights, weights)) for by in (1.0 / MIXING, MIXING)]
        return Percentile(value, min(ends[0], value), max(ends[1], value))

    @cached_property
    def _merged(self) -> tuple[_Floats, _Ints]:
        """All ratios, ascending, and the source of each."""
        values = np.concatenate(self.ratios)
        order = np.argsort(values, kind="stable")
        return values[order], np.repeat(np.arange(len(self.ratios)), [len(own) for own in self.ratios])[order]

    def _weighed(self, weights: _Floats) -> float:
        """The percentile of all ratios, each weighing what ``weights`` says of its source."""
        values, source = self._merged
        below = np.cumsum(weights[source])
        place = int(np.searchsorted(below, LEVELS[self.on] * below[-1]))
        return float(values[min(place, len(values) - 1)])


@dataclass(frozen=True, eq=False)
class _Calls:
    """Whole-model calls over the quiet time of their unit, by tokens; parallel arrays."""

    ratio: _Floats
    tokens: _Ints
    unit: _Ints
    round: _Ints

    @classmethod
    def of(cls, results: Sequence[UnitResult]) -> "_Calls":
        whole = [r for r in results if r.unit.part in (Part.MODEL, Part.SENTINEL)]
        # What disturbed a block is part of the tail, and none of the quiet time.
        quiet = {unit: estimate.quiet_ns for unit, estimate in estimates(results).items()}
        known = {unit: rounds for unit, rounds in complete(whole).items() if unit in quiet}
        units = sorted(known.items(), key=lambda item: item[0].tokens)
        gathered = [calls_of(rounds) for _, rounds in units]
        sizes = [len(calls) for calls, _ in gathered]
        if not units:
            none = np.zeros(0, dtype=np.int64)
            return cls(np.zeros(0), none, none, none)
        return cls(
            np.concatenate([calls / quiet[unit] for (unit, _), (calls, _) in zip(units, gathered, strict=True)]),
            np.repeat([unit.tokens for unit, _ in units], sizes),
            np.repeat(np.arange(len(units)), sizes),
            np.concatenate([numbers for _, numbers in gathered]),
        )

    def shortage(self, on: Statistic) -> str | None:
        """Why they are too few for ``on``."""
        units, rounds = len(np.unique(self.unit)), len(np.unique(self.round))
        return shortage(on, units, rounds, len(self.ratio) // max(units * rounds, 1))

    def within(self, first: int, last: int) -> "_Calls":
        """Those with ``first`` to ``last`` tokens."""
        here = (self.tokens >= first) & (self.tokens <= last)
        return _Calls(self.ratio[here], self.tokens[here], self.unit[here], self.round[here])

    def percentile(self, level: float) -> Percentile:
        """Of the ratios; calls of one unit share the error of its quiet time, those of one round a disturbance."""
        return percentile(self.ratio, level, self.unit, self.round)


@dataclass(frozen=True)
class _Step:
    """The factor changes right after ``last`` tokens, or anywhere between ``surely_before`` and ``surely_after``."""

    last: int
    surely_before: int
    surely_after: int


def _steps(calls: _Calls, level: float, least: int) -> list[_Step]:
    """Where the factor changes, ascending: the best place is split at, and both sides are looked at again."""
    step = _best_step(calls, level, least)
    if step is None:
        return []
    left = calls.within(0, step.last)
    right = calls.within(step.last + 1, int(calls.tokens[-1]))
    return [*_steps(left, level, least), step, *_steps(right, level, least)]


def _best_step(calls: _Calls, level: float, least: int) -> _Step | None:
    counts, starts = np.unique(calls.tokens, return_index=True)
    over = calls.ratio > np.quantile(calls.ratio, level)
    before = starts[1:]  # calls left of each place
    hits_before = np.cumsum(over, dtype=np.int64)[before - 1]
    total, hits = len(over), int(over.sum())
    allowed = (before >= least) & (total - before >= least)
    if not allowed.any() or not 0 < hits < total:
        return None
    gain = _likelihood(hits_before, before) + _likelihood(hits - hits_before, total - before)
    gain = np.where(allowed, gain - _likelihood(np.asarray(hits), np.asarray(total)), -np.inf)
    best = int(np.argmax(gain))
    left, right = calls.within(0, int(counts[best])), calls.within(int(counts[best + 1]), int(counts[-1]))
    factors = [float(np.quantile(side.ratio, level)) for side in (left, right)]
    # Units that scatter more than independent calls would make steps of chance. Rounds do not: each visits the counts
    # in an order of its own.
    place = before[best]
    doubt = max(clustering(over[:place], (left.unit,)), clustering(over[place:], (right.unit,)))
    chance = int(allowed.sum()) * float(chdtrc(1, 2.0 * gain[best] / doubt))
    if chance > FALSE_STEPS or max(factors) < (1.0 + LEAST_STEP) * min(factors):
        return None
    plausible = np.flatnonzero(2.0 * (gain[best] - gain) / doubt <= PLAUSIBLE)
    return _Step(int(counts[best]), int(counts[plausible[0]]), int(counts[plausible[-1] + 1]))


def _likelihood(hits: _Ints, calls: _Ints) -> _Floats:
    """Logarithm of the binomial likelihood of so many hits at their own share."""
    share = hits / calls
    return np.asarray(xlogy(hits, share) + xlogy(calls - hits, 1.0 - share))


def _between(on: Statistic, tokens: int, calls: _Calls, level: float, steps: Sequence[_Step]) -> Spread:
    """One source for each stretch between steps, and one for each place of a step that is not known to the count."""
    ends = [step.last for step in steps] + [tokens]
    begins = [0] + [end + 1 for end in ends[:-1]]
    sources = [calls.within(first, last).percentile(level) for first, last in zip(begins, ends, strict=True)]
    source_at = np.repeat(np.arange(len(ends)), [last - first + 1 for first, last in zip(begins, ends, strict=True)])
    stretches = list(sources)
    ratios = [np.sort(calls.within(first, last).ratio) for first, last in zip(begins, ends, strict=True)]
    for index, step in enumerate(steps):
        doubtful = range(step.surely_before + 1, step.surely_after)
        if doubtful:
            sides = stretches[index : index + 2]
            source_at[doubtful.start : doubtful.stop] = len(sources)
            # Cautious: the longer tail may reach there.
            sources.append(
                Percentile(max(s.value for s in sides), min(s.low for s in sides), max(s.high for s in sides))
            )
            ratios.append(ratios[index + int(sides[1].value > sides[0].value)])
    tops = tuple(step.surely_before for step in steps)
    return Spread(on, tuple(sources), tuple(ratios), tuple(int(i) for i in source_at), tops)
