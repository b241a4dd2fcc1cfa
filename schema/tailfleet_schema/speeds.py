"""How fast the machine was while a sweep was measured, stretch by stretch. Pure.

A *block* is one unit's calls in one round. Its *low* is its tenth fastest call in a hundred, of ten or fewer the
fastest: of a call that a neighbour's burst may have hit, only a lower edge says what the board does undisturbed. A
*stretch* is some dozen blocks of one round, measured one after another: a machine may change its speed at any time.

What makes a whole stretch slower (heat, a clock, a neighbour that stays) is its *factor*: a low quantile, over the
units, of low ÷ the unit's quietest low. A factor up to ``DRIFT_LIMIT`` that shows in all units alike is divided out. A
larger one that does so is, too, but with what long calls suffer more or less of it than short ones; such a stretch
tells how units compare, not how fast they are. Any other stretch is disturbed as a whole.

Left to others: which of a quiet stretch's blocks were disturbed (``rounds``).
"""

import math
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from tailfleet_schema.board import Telemetry
from tailfleet_schema.curve import TIMED_PARTS, Part, Unit, UnitResult

LOW_SHARE = 0.1

STRETCH = 12
"""Blocks."""

DRIFT_LIMIT = 0.05
"""Cliffs are this small: what is slower by more is no quiet time."""

MOST_FACTOR = 1.5
"""What is slower by more is no other speed of the same machine."""

LEAST_DRIFT = 1.01
"""What differs less is noise of the factors themselves."""

QUIET_SHARE = 0.03
"""Stretches within so much of the quietest are as quiet: the least of many factors is noise."""

FACTOR_QUANTILE = 0.2
"""Of a stretch of which a burst has hit the larger part, this still shows the part that it has not."""

UNIFORM = 0.02
"""A small factor is divided out where the middle of the stretch's units lies no further above it than this."""

TIGHT = 0.08
"""A large one where four fifths of its units lie no further above the lowest fifth than this."""

LEAST_UNITS = 6
"""Fewer cannot tell what they share from what each has of its own: no factor is divided out."""

MOST_TILT = 0.5
"""How much more of a factor, as a power of it, a call suffers that takes 2.7 times as long."""

_PASSES = 3


class Block(NamedTuple):
    """One unit's calls in one round."""

    calls: Sequence[int]
    low_ns: int


class Sweep(NamedTuple):
    """Timed results, sorted: each key once, and no unit that ran out of memory. Units go by number, their place in
    ``names``, and so do stretches: thousands of look-ups of what has six fields take a slow board's time."""

    names: List[Unit]
    units: Dict[int, Dict[int, Block]]
    """By unit and stretch."""
    order: Dict[int, List[int]]
    """By stretch its units, as they were measured."""
    rounds: Dict[int, int]
    """By stretch its round."""
    telemetry: Dict[int, List[Telemetry]]
    """By round."""


class Speeds(NamedTuple):
    """How fast the machine was, stretch by stretch."""

    factors: Dict[int, float]
    """By stretch how much slower it was than in the quietest ones."""
    divided: Dict[int, float]
    """By quiet stretch, what its blocks are to be divided by."""
    alike: Dict[int, float]
    """The same of those that were slower in a whole, all units alike, for a unit of middling length."""
    powers: Dict[int, float]
    """By unit, the power of that which it suffered."""

    def divisors(self, unit: int, blocks: Iterable[int]) -> Dict[int, float]:
        """By stretch among those of ``blocks`` that may say how fast ``unit`` is, what frees it of what they share."""
        quiet = {number: self.divided[number] for number in blocks if number in self.divided}
        return quiet or self.stand_ins(unit, blocks)

    def stand_ins(self, unit: int, blocks: Iterable[int]) -> Dict[int, float]:
        """The same of those that tell how units compare."""
        power = self.powers[unit]
        return {number: math.pow(self.alike[number], power) for number in blocks if number in self.alike}

    def base(self, unit: int, blocks: Dict[int, Block]) -> float:
        """The lowest low of ``unit``, as it would be in the quietest stretches."""
        usable = self.divisors(unit, blocks) or self.factors
        return min(blocks[number].low_ns / usable[number] for number in blocks if number in usable)


def sort(results: Iterable[UnitResult]) -> Sweep:
    """The timed ones of ``results``, which come in the order in which they were measured."""
    names: Dict[Unit, int] = {}
    blocks: Dict[int, Dict[int, Block]] = {}
    telemetry: Dict[int, List[Telemetry]] = {}
    failed: Set[int] = set()
    for result in results:
        if result.unit.part not in TIMED_PARTS:
            continue
        unit = names.setdefault(result.unit, len(names))
        placed = blocks.setdefault(result.round, {})
        if unit in placed:
            continue
        if result.telemetry is not None:
            telemetry.setdefault(result.round, []).append(result.telemetry)
        if result.status != "ok" or not result.call_ns:
            failed.add(unit)
            continue
        placed[unit] = Block(result.call_ns, low_of(result.call_ns))
    units: Dict[int, Dict[int, Block]] = {}
    order: Dict[int, List[int]] = {}
    rounds: Dict[int, int] = {}
    for number, placed in blocks.items():
        for some in _stretches([unit for unit in placed if unit not in failed]):
            stretch = len(order)
            order[stretch], rounds[stretch] = some, number
            for unit in some:
                units.setdefault(unit, {})[stretch] = placed[unit]
    return Sweep(list(names), units, order, rounds, telemetry)


def _stretches(placed: List[int]) -> List[List[int]]:
    """A round's blocks in parts of about equal length."""
    parts = max(1, round(len(placed) / STRETCH))
    ends = [len(placed) * part // parts for part in range(parts + 1)]
    return [placed[begin:end] for begin, end in zip(ends, ends[1:]) if end > begin]


def low_of(calls: Sequence[int]) -> int:
    """The order statistic that stands for a block."""
    if len(calls) <= 10:
        return min(calls)
    return sorted(calls)[int(LOW_SHARE * (len(calls) - 1))]


def speeds_of(sweep: Sweep, witnesses: Set[int]) -> Speeds:
    """How fast the machine was in each stretch of ``sweep``, by ``witnesses`` alone; of none, by all units."""
    found = _first_guess(sweep)
    for _ in range(_PASSES):
        found = _speeds(sweep, witnesses, found)
        if not found.alike:
            break
        found = found._replace(powers=_powers(sweep, found))
    return found


def _first_guess(sweep: Sweep) -> Speeds:
    factors = _levels(sweep)
    divided = {number: 1.0 for number, factor in factors.items() if factor <= 1.0 + DRIFT_LIMIT}
    alike = {n: factor for n, factor in factors.items() if n not in divided and factor <= MOST_FACTOR}
    return Speeds(factors, divided, alike, dict.fromkeys(sweep.units, 1.0))


def _speeds(sweep: Sweep, witnesses: Set[int], guess: Speeds) -> Speeds:
    """What becomes of ``guess`` when each stretch is held against the units' bases, and those against it in turn."""
    compared = {
        unit: blocks for unit, blocks in sweep.units.items() if len(blocks) > 1 and (unit in witnesses or not witnesses)
    }
    members = {number: [unit for unit in placed if unit in compared] for number, placed in sweep.order.items()}
    for _ in range(_PASSES):
        bases = {unit: guess.base(unit, blocks) for unit, blocks in compared.items()}
        factors = dict(guess.factors)
        ratios: Dict[int, List[float]] = {}
        for number, units in members.items():
            # Who was measured at this speed alone cannot tell how fast the machine was.
            voters = [unit for unit in units if any(n in guess.divided and n != number for n in compared[unit])]
            # And a few that were hit wherever else they were measured make no stretch faster than all others.
            ratios[number] = sorted(max(1.0, compared[unit][number].low_ns / bases[unit]) for unit in voters)
            if voters:
                factors[number] = quantile(ratios[number], FACTOR_QUANTILE)
        quietest = _quietest(list(factors.values()))
        factors = {number: factor / quietest for number, factor in factors.items()}
        divided = {number: 1.0 for number, factor in factors.items() if factor <= 1.0 + DRIFT_LIMIT}
        alike = {}
        for number, found in ratios.items():
            if number not in divided:
                shared = _shared(members[number], number, compared, bases, guess.powers, divided)
                if shared is not None and 1.0 + UNIFORM < shared / quietest <= MOST_FACTOR:
                    alike[number] = shared / quietest
            elif len(found) >= LEAST_UNITS and quantile(found, 0.5) / quietest <= factors[number] + UNIFORM:
                divided[number] = factors[number] if factors[number] > LEAST_DRIFT else 1.0
        guess = Speeds(factors, divided, alike, guess.powers)
    return guess


def _shared(
    units: List[int],
    number: int,
    compared: Dict[int, Dict[int, Block]],
    bases: Dict[int, float],
    powers: Dict[int, float],
    divided: Dict[int, float],
) -> Optional[float]:
    """By how much a slower stretch was so in all its units alike; None where they disagree or are too few."""
    found = sorted(
        math.pow(compared[unit][number].low_ns / bases[unit], 1.0 / powers[unit])
        for unit in units
        if any(n in divided for n in compared[unit])
    )
    if len(found) < LEAST_UNITS or quantile(found, 0.8) > quantile(found, 0.2) * (1.0 + TIGHT):
        return None
    return quantile(found, 0.5)


def _levels(sweep: Sweep) -> Dict[int, float]:
    """By stretch how much slower than in the quietest round the sentinels of its round were: a first guess."""
    lows: Dict[Tuple[int, int], Dict[int, int]] = {}
    for unit, blocks in sweep.units.items():
        name = sweep.names[unit]
        if name.part is Part.SENTINEL:
            found = lows.setdefault((name.tokens, name.kept), {})
            for stretch, block in blocks.items():
                number = sweep.rounds[stretch]
                found[number] = min(found.get(number, block.low_ns), block.low_ns)
    levels: Dict[int, float] = {}
    for found in lows.values():
        least = _quietest([float(low) for low in found.values()])
        levels.update((number, low / least) for number, low in found.items())
    return {stretch: levels.get(number, 1.0) for stretch, number in sweep.rounds.items()}


def _quietest(factors: List[float]) -> float:
    """The level of the quietest stretches."""
    if not factors:
        return 1.0
    least = min(factors)
    near = sorted(factor for factor in factors if factor <= least * (1.0 + QUIET_SHARE))
    return near[(len(near) - 1) // 4]


def _powers(sweep: Sweep, speeds: Speeds) -> Dict[int, float]:
    """By unit the power of a factor that it suffers: linear in the logarithm of how long its calls take, through the
    middles of the shorter and of the longer half."""
    lengths = {unit: math.log(speeds.base(unit, blocks)) for unit, blocks in sweep.units.items()}
    seen = sorted(
        (lengths[unit], (math.log(blocks[number].low_ns) - lengths[unit]) / math.log(speeds.alike[number]))
        for unit, blocks in sweep.units.items()
        if any(number in speeds.divided for number in blocks)
        for number in blocks
        if number in speeds.alike
    )
    if len(seen) < 2 * LEAST_UNITS:
        return dict.fromkeys(sweep.units, 1.0)
    half = len(seen) // 2
    (short, first), (long, last) = (
        (quantile([length for length, _ in some], 0.5), quantile(sorted(power for _, power in some), 0.5))
        for some in (seen[:half], seen[half:])
    )
    tilt = (last - first) / (long - short) if long > short else 0.0
    tilt = max(-MOST_TILT, min(MOST_TILT, tilt))
    return {unit: max(0.1, 1.0 + tilt * (length - (short + long) / 2)) for unit, length in lengths.items()}


def quantile(ordered: Sequence[Any], level: float) -> float:
    """Of values in ascending order (at least one), linear between them."""
    at = level * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (at - below) * (ordered[above] - ordered[below]))
