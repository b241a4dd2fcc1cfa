"""Which rounds and blocks of a sweep were disturbed, and whether what is left can be trusted. Pure.

A *block* is one unit's calls in one round. Its *low* is its tenth fastest call in a hundred, of ten or fewer the
fastest: of a call that a neighbour's burst may have hit, only a lower edge says what the board does undisturbed.

What makes a whole round slower (heat, a clock, a neighbour longer than the round) is its *factor*: a low quantile, over
the units, of low ÷ the unit's quietest low. A factor up to ``DRIFT_LIMIT`` that shows in all units alike is divided
out; a round beyond is disturbed as a whole. In the other rounds a block is disturbed where its low lies off the lowest
ones of its unit by more than noise explains.

The lowest blocks may all have been disturbed alike. How likely that is follows from how often blocks are disturbed in
this sweep, told apart by how many of the two blocks measured next to them are (long bursts hit neighbours in time,
short ones do not), and from how often two disturbed blocks agree by chance; a unit is *known* when it is unlikely
enough. So a calm sweep needs two agreeing blocks of a unit, and one that is disturbed half of the time some more.

Left to others: figures and intervals of units (``quiet``), the verdict's words (``verdict``), what to measure again
(the worker).
"""

import math
from typing import Any, Dict, Iterable, List, NamedTuple, Sequence, Set, Tuple

from tailfleet_schema.board import Telemetry
from tailfleet_schema.curve import TIMED_PARTS, Unit, UnitResult

LOW_SHARE = 0.1

DRIFT_LIMIT = 0.05
"""Cliffs are this small: a round that is slower by more is not corrected but left out."""

LEAST_DRIFT = 1.005
"""What differs less is noise of the factors themselves."""

FACTOR_QUANTILE = 0.2
"""Of a round of which a burst has hit the larger part, this still shows the part that it has not."""

UNIFORM = 0.02
"""A factor is divided out where the middle of the round's units lies no further above it than this."""

LEAST_UNITS = 6
"""Fewer cannot tell what they share from what each has of its own: no factor is divided out."""

LEAST_TOLERANCE = 0.02
MOST_TOLERANCE = 0.05
"""How far lows of undisturbed blocks of one unit lie apart, at least and at most."""

DOUBT = 0.003
"""A unit counts as known when its lowest blocks are all disturbed with less odds than this."""

PRIOR_BLOCKS = 2.0
"""As if so many blocks of each kind had been seen, disturbed as often as blocks in general."""

CALM = (0.1, 0.33)
"""Two blocks of a unit must agree; where a larger share of all is disturbed, three, and four."""

_PASSES = 3

_Ratios = Dict[int, Dict[int, float]]


class Block(NamedTuple):
    """One unit's calls in one round."""

    calls: Sequence[int]
    low_ns: int


class Sweep(NamedTuple):
    """Timed results, sorted: each key once, and no unit that ran out of memory. Units go by number, their place in
    ``names``: thousands of look-ups of what has six fields take a slow board's time."""

    names: List[Unit]
    units: Dict[int, Dict[int, Block]]
    """By unit and round."""
    order: Dict[int, List[int]]
    """By round its units, as they were measured."""
    telemetry: Dict[int, List[Telemetry]]


class Findings(NamedTuple):
    """What was found of a sweep's rounds and blocks."""

    factors: Dict[int, float]
    """By round, relative to the quietest."""
    divided: Dict[int, float]
    """By round, what its blocks are to be divided by; without those that are disturbed as a whole."""
    hit: Set[Tuple[int, int]]
    """Disturbed blocks (unit, round) of rounds that are not."""
    doubts: Dict[int, float]
    """By unit, the odds that its lowest blocks were all disturbed; of a single block certain."""
    known: Set[int]
    tolerance: float
    slower: float
    """How much slower a disturbed block typically was; 1 where none is."""


def sort(results: Iterable[UnitResult]) -> Sweep:
    """The timed ones of ``results``, which come in the order in which they were measured."""
    names: Dict[Unit, int] = {}
    units: Dict[int, Dict[int, Block]] = {}
    order: Dict[int, List[int]] = {}
    telemetry: Dict[int, List[Telemetry]] = {}
    failed: Set[int] = set()
    for result in results:
        if result.unit.part not in TIMED_PARTS:
            continue
        unit = names.setdefault(result.unit, len(names))
        rounds = units.setdefault(unit, {})
        if result.round in rounds:
            continue
        if result.telemetry is not None:
            telemetry.setdefault(result.round, []).append(result.telemetry)
        if result.status != "ok" or not result.call_ns:
            failed.add(unit)
            continue
        rounds[result.round] = Block(result.call_ns, low_of(result.call_ns))
        order.setdefault(result.round, []).append(unit)
    for unit in failed:
        for number in units.pop(unit):
            order[number].remove(unit)
    return Sweep(list(names), units, {number: placed for number, placed in order.items() if placed}, telemetry)


def low_of(calls: Sequence[int]) -> int:
    """The order statistic that stands for a block."""
    if len(calls) <= 10:
        return min(calls)
    return sorted(calls)[int(LOW_SHARE * (len(calls) - 1))]


def examine(sweep: Sweep) -> Findings:
    """Judge the rounds and blocks of ``sweep``."""
    everything = set(sweep.units)
    found = _examine(sweep, everything)
    # A unit whose blocks were all disturbed would vouch for the rounds that disturbed it.
    return _examine(sweep, found.known) if found.known and found.known != everything else found


def _examine(sweep: Sweep, witnesses: Set[int]) -> Findings:
    factors, divided = _factors(sweep, witnesses)
    ratios = _ratios(sweep, divided)
    tolerance = _tolerance(ratios)
    hit = {
        (unit, number)
        for unit, rounds in ratios.items()
        if len(rounds) > 1
        for number, ratio in rounds.items()
        if ratio > 1.0 + tolerance * _spread(len(rounds))
    }
    slower = sorted(ratios[unit][number] for unit, number in hit)
    doubts, known = _known(sweep, ratios, hit, _agreement(slower, tolerance))
    return Findings(factors, divided, hit, doubts, known, tolerance, quantile(slower, 0.5) if slower else 1.0)


def _factors(sweep: Sweep, witnesses: Set[int]) -> Tuple[Dict[int, float], Dict[int, float]]:
    """By round its factor, and of those within the limit what to divide by."""
    compared = {
        unit: rounds for unit, rounds in sweep.units.items() if len(rounds) > 1 and (unit in witnesses or not witnesses)
    }
    members: Dict[int, List[int]] = {
        number: [unit for unit in placed if unit in compared] for number, placed in sweep.order.items()
    }
    factors = dict.fromkeys(sweep.order, 1.0)
    divided = dict(factors)
    for _ in range(_PASSES):
        bases = {unit: _base(rounds, factors, divided) for unit, rounds in compared.items()}
        middles: Dict[int, float] = {}
        for number, units in members.items():
            ratios = sorted(compared[unit][number].low_ns / bases[unit] for unit in units)
            if ratios:
                factors[number] = quantile(ratios, FACTOR_QUANTILE)
                middles[number] = quantile(ratios, 0.5)
        quietest = min(factors[number] for number in middles) if middles else 1.0
        for number in middles:
            factors[number] /= quietest
        divided = {number: factor for number, factor in factors.items() if factor <= 1.0 + DRIFT_LIMIT}
        for number in divided:
            uniform = middles.get(number, 2.0) / quietest <= divided[number] + UNIFORM
            if divided[number] < LEAST_DRIFT or len(members[number]) < LEAST_UNITS or not uniform:
                divided[number] = 1.0
    return factors, divided


def _base(rounds: Dict[int, Block], factors: Dict[int, float], divided: Dict[int, float]) -> float:
    """The lowest low of a unit, as it would be in the quietest round."""
    usable = [block.low_ns / divided[number] for number, block in rounds.items() if number in divided]
    return min(usable) if usable else min(block.low_ns / factors[number] for number, block in rounds.items())


def _ratios(sweep: Sweep, divided: Dict[int, float]) -> _Ratios:
    """Of each unit and round that is not disturbed as a whole: low, divided, ÷ the unit's lowest."""
    found: _Ratios = {}
    for unit, rounds in sweep.units.items():
        lows = {number: block.low_ns / divided[number] for number, block in rounds.items() if number in divided}
        if lows:
            lowest = min(lows.values())
            found[unit] = {number: low / lowest for number, low in lows.items()}
    return found


def _spread(blocks: int) -> float:
    """How much further apart the lowest and the highest of so many lows lie than of three: the expected range of
    normal ones, whose lowest falls with their number, nearly."""
    return math.pow(max(1.0, math.log(blocks) / math.log(3.0)), 0.77)


def _tolerance(ratios: _Ratios) -> float:
    """How far apart undisturbed lows of one unit lie: from the gap between its lowest two, where that is small."""
    gaps = sorted(sorted(rounds.values())[1] - 1.0 for rounds in ratios.values() if len(rounds) > 1)
    if not gaps:
        return LEAST_TOLERANCE
    # A quarter of the gaps is below 0.25 standard deviations for normal scatter in three rounds; three lows spread
    # over three standard deviations at most, but for a few in a hundred.
    return min(MOST_TOLERANCE, max(LEAST_TOLERANCE, 12.0 * quantile(gaps, 0.25)))


def _agreement(slower: List[float], tolerance: float) -> float:
    """The share of pairs of disturbed blocks (``slower``, ascending) that agree by chance."""
    agreeing, last = 0, 0
    for first, ratio in enumerate(slower):
        while last < len(slower) and slower[last] <= ratio * (1.0 + tolerance):
            last += 1
        agreeing += last - first - 1
    pairs = len(slower) * (len(slower) - 1) // 2
    # As if of ten pairs seen before three had agreed.
    return (agreeing + 3.0) / (pairs + 10.0)


def _known(
    sweep: Sweep, ratios: _Ratios, hit: Set[Tuple[int, int]], agreement: float
) -> Tuple[Dict[int, float], Set[int]]:
    """Of each unit the odds that all its lowest blocks were disturbed, and the units of which they are small."""
    kinds = _kinds(sweep, ratios, hit)
    compared = [(unit, number) for unit, rounds in ratios.items() if len(rounds) > 1 for number in rounds]
    odds = _odds([(kinds[block], block in hit) for block in compared])
    least = 2 + sum(len(hit) > limit * len(compared) for limit in CALM)
    doubts, known = {}, set()
    for unit, rounds in ratios.items():
        agreeing = [number for number in rounds if (unit, number) not in hit]
        logarithm = sum(odds[kinds[unit, number]] for number in agreeing) + (len(agreeing) - 1) * math.log(agreement)
        doubts[unit] = math.exp(min(0.0, logarithm)) if len(agreeing) > 1 else 1.0
        if len(agreeing) >= least and doubts[unit] < DOUBT:
            known.add(unit)
    return doubts, known


def _kinds(sweep: Sweep, ratios: _Ratios, hit: Set[Tuple[int, int]]) -> Dict[Tuple[int, int], int]:
    """Blocks that are disturbed as often as each other: by how many blocks beside them are, and by how long their
    unit's calls take, since long ones are hit more often."""
    bases = {unit: min(block.low_ns for block in rounds.values()) for unit, rounds in sweep.units.items()}
    usual = quantile(sorted(bases.values()), 0.5) if bases else 0.0
    kinds = {}
    for number, placed in sweep.order.items():
        marks = [(unit, number) in hit for unit in placed]
        for place, unit in enumerate(placed):
            if unit in ratios:
                around = marks[max(0, place - 1) : place] + marks[place + 1 : place + 2]
                # At the ends of a round one neighbour stands for both.
                beside = round(2.0 * sum(around) / len(around)) if around else 1
                kinds[unit, number] = beside + (3 if bases[unit] > usual else 0)
    return kinds


def _odds(marks: Sequence[Tuple[int, bool]]) -> List[float]:
    """The log odds that a block of each kind is disturbed."""
    hits, blocks = [0.0] * 6, [0.0] * 6
    for kind, disturbed in marks:
        blocks[kind] += 1
        hits[kind] += disturbed
    share = (sum(hits) + 0.5) / (sum(blocks) + 1.0)
    chances = [(hits[kind] + PRIOR_BLOCKS * share) / (blocks[kind] + PRIOR_BLOCKS) for kind in range(6)]
    return [math.log(chance / (1.0 - chance)) for chance in chances]


def quantile(ordered: Sequence[Any], level: float) -> float:
    """Of values in ascending order (at least one), linear between them."""
    at = level * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (at - below) * (ordered[above] - ordered[below]))
