"""How many cliffs adaptive sweeps find, and for how many calls: random boards whose truth is known, no real time.

The engine measures each board as it would a real one (``worker.run``), the coordinator takes the curve apart
(``plan.treads``); neither knows the generators (``cliff_boards``). A true cliff is a rise of at least 3 % from one
count to the next. It is found where a cliff is told no further than one token from it. What is told where the truth
changes by less than half of the least step is false. Calls are held against those that the same settings spend on
every count.
"""

import random
import statistics
from dataclasses import dataclass

from tests.benchmarks.cliff_boards import TOKENS, Board, irregular, modelled, steps
from tests.benchmarks.figure import Figure

from tailfleet_agent.worker import run
from tailfleet_agent.worker.backends import Backend
from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.statistics import summarise
from tailfleet_coordinator.plan.treads import LEAST_STEP, find_treads
from tailfleet_schema.campaign import SweepSettings
from tailfleet_schema.curve import Part, Unit, UnitResult
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.workload import Geometry, ModelSpec, Workload

BOARDS = 30
"""Of each generator, for each batch size."""

GOAL_FOUND = 98.0
GOAL_FALSE = 0.1
GOAL_SHARE = {1: 25.0, 8: 50.0}
CLIFF = 0.03

GEOMETRY = Geometry(12, 384, 6, 1536, TOKENS, 1, 224, 16, 3, 1000)


@dataclass(frozen=True)
class Outcome:
    """What came of one board."""

    kind: str
    batch: int
    cliffs: int
    found: int
    reversals: int
    reversals_found: int
    false: int
    calls: int
    full_calls: int


class Simulated(Backend):
    """Draws calls about a board's truth. Blocks are told apart by their order: drift is a matter of when."""

    def __init__(self, board: Board, seed: int, blocks: int) -> None:
        self._board = board
        self._rng = random.Random(seed)
        self._usual_blocks = blocks
        self._round = -1
        self._place = 0
        self._level = 1.0

    def describe(self) -> dict[str, str]:
        """What it is."""
        return {"device": "made up"}

    def measure(self, unit: Unit, round_number: int, calls: int) -> list[int]:
        """One block."""
        board, rng = self._board, self._rng
        if round_number != self._round:
            self._round, self._place = round_number, 0
            self._level = 1.0 + abs(rng.gauss(0.0, board.between))
        level = self._level * (1.0 + board.within * min(1.0, self._place / self._usual_blocks))
        self._place += 1
        if rng.random() < board.bursts:
            level *= 1.0 + rng.uniform(0.1, 0.8)
        truth = board.truth_ns[unit.tokens] * level
        return [max(1, round(truth * (1.0 + board.share * board.shape(rng)))) for _ in range(calls)]


def measure() -> list[Figure]:
    """All boards of both generators at both batch sizes."""
    outcomes = [
        outcome_of(make(random.Random(f"{make.__name__} {batch} {number}"), batch), batch, number)
        for batch in GOAL_SHARE
        for make in (modelled, irregular)
        for number in range(BOARDS)
    ]
    figures = []
    for batch in GOAL_SHARE:
        both = [one for one in outcomes if one.batch == batch]
        figures += _figures(both, f"batch {batch}", GOAL_SHARE[batch])
        for kind in ("modelled", "irregular"):
            figures += _figures([one for one in both if one.kind == kind], f"batch {batch}, {kind}", None)
    return figures


def outcome_of(board: Board, batch: int, seed: int) -> Outcome:
    """Sweep one board adaptively, take its curve apart, and hold both against the truth."""
    results = sweep(board, batch, "adaptive", seed)
    found = find_treads(summarise(results))
    wanted = steps(board, CLIFF)
    small = steps(board, LEAST_STEP / 2)
    ups = [n for n, rise in wanted.items() if rise > 0]
    downs = [n for n, rise in wanted.items() if rise < 0]
    told = [(step, True) for step in found.cliffs] + [(step, False) for step in found.reversals]
    return Outcome(
        kind=board.kind,
        batch=batch,
        cliffs=len(ups),
        found=sum(any(_at(step, n) for step in found.cliffs) for n in ups),
        reversals=len(downs),
        reversals_found=sum(any(_at(step, n) for step in found.reversals) for n in downs),
        false=sum(
            not any(step.from_tokens - 1 <= n <= step.to_tokens and (rise > 0) == upwards for n, rise in small.items())
            for step, upwards in told
        ),
        calls=_calls(results),
        full_calls=_calls(sweep(board, batch, "all", seed)),
    )


def sweep(board: Board, batch: int, counts: str, seed: int) -> list[UnitResult]:
    """What the engine measures of the curve with the usual settings."""
    settings = SweepSettings(counts=counts)
    units = [Unit(Part.SENTINEL, TOKENS, TOKENS, str(k) if k else "") for k in range(design.SENTINELS)]
    units += [Unit(Part.MODEL, n, n) for n in design.curve_counts(GEOMETRY, counts, batch)]
    job = Job(
        id="bench",
        kind=JobKind.SWEEP,
        workload=Workload(ModelSpec("made-up", "VisionTransformer", GEOMETRY), batch),
        units=units,
        rounds=settings.rounds,
        calls=settings.calls,
        seed=seed,
        effort=settings.effort(design.least_count(GEOMETRY) if counts == "adaptive" else None),
    )
    backend = Simulated(board, seed, len(units))
    measuring = run.Measuring(job, lambda: backend, _nothing_to_judge, lambda: None, now=lambda: 0.0)
    return list(run.run(job, measuring))


def _nothing_to_judge():
    raise AssertionError("a curve has nothing to judge")


def _at(step, n: int) -> bool:
    """Whether a step is told no further than one token from that between n and n + 1."""
    return n - 1 <= step.from_tokens and step.to_tokens <= n + 2


def _calls(results: list[UnitResult]) -> int:
    return sum(len(result.call_ns) for result in results)


def _figures(outcomes: list[Outcome], where: str, most: float | None) -> list[Figure]:
    """With goals where ``most`` says how many percent of the calls may be spent."""

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in outcomes)

    goal_found, goal_false = (GOAL_FOUND, GOAL_FALSE) if most is not None else (None, None)
    share = statistics.fmean(one.calls / one.full_calls for one in outcomes)
    found = 100 * total("found") / max(total("cliffs"), 1)
    figures = [
        Figure(f"{where}: {total('cliffs')} cliffs, found", found, "%", goal_found, "max"),
        Figure(f"{where}: false steps", total("false") / len(outcomes), "per curve", goal_false),
        Figure(f"{where}: calls, of a full sweep's", 100 * share, "%", most),
    ]
    if total("reversals"):
        backwards = 100 * total("reversals_found") / total("reversals")
        figures.append(Figure(f"{where}: {total('reversals')} reversals, found", backwards, "%"))
    return figures
