"""The boards of ``bench_papers``: sweeps, what schedules take there, and for virtual boards what they take in truth.

On this machine's CPU all schedules of a model, ours and the papers', are timed in interleaved rounds of one job, and
what is measured there is what counts. On a virtual board noisy samples are all that planning and verifying see, and
noise-free latencies, which neither is told, are what counts; batches are such that launches do not hide all work.
Everything is asked of the agent's child, as a campaign asks. Left to others: plans, accuracy, and who wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.bench_prediction import results_of

from tailfleet_coordinator.library.truth import true_ns
from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_coordinator.plan.outcome import verified_of
from tailfleet_coordinator.plan.residuals import Verified
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import Objective, SweepSettings
from tailfleet_schema.curve import JUDGED_PARTS, UnitResult
from tailfleet_schema.job import Effort, Job, JobKind
from tailfleet_schema.schedule import Schedule, dense
from tailfleet_schema.workload import ModelSpec, Workload

SWEEP_SECONDS = 45.0
"""Budget of a sweep; of a verification it is this for so many schedules as a campaign measures, and more for more."""

PASS_NS = 1e7
"""What a pass takes here at most, roughly."""


@dataclass(frozen=True)
class Board:
    """One board and how models run there."""

    name: str
    backend: str
    batch: int = 1
    profile: str | None = None
    """Of a virtual board."""

    @property
    def words(self) -> str:
        """Name and batch."""
        return self.name if self.batch == 1 else f"{self.name} ×{self.batch}"

    def workload(self, model: ModelSpec) -> Workload:
        """``model`` as it runs here."""
        return Workload(model, batch=self.batch, backend=self.backend)


BOARDS = [
    Board("jetson-nano", "virtual", 32, "jetson-nano"),
    Board("orin-nano", "virtual", 32, "orin-nano"),
    Board("agx-orin", "virtual", 64, "agx-orin"),
    Board("cpu eager", "eager"),
    Board("cpu onnxruntime", "onnxruntime"),
]
"""Three virtual ones whose cliffs lie apart: 1, 8 and 16 SMs, without and with tensor cores."""


def sweep(board: Board, model: ModelSpec, methods: Sequence[str], artifacts: str, quick: bool) -> list[UnitResult]:
    """All results of a sweep as a campaign orders it. Raises ``Missing`` where this machine lacks the backend."""
    geometry, settings = model.geometry, SweepSettings(budget_seconds=SWEEP_SECONDS)
    timed = anchors(model.name, geometry, methods)
    kind = BoardKind.PHYSICAL if board.profile is None else BoardKind.VIRTUAL
    units = design.sweep_units(geometry, methods, settings.counts, kind, board.batch, board.backend)
    units = [unit for unit in units if unit.part not in JUDGED_PARTS] + design.schedule_units(timed)
    hurried = quick and board.profile is None
    job = Job(
        "papers-sweep", JobKind.SWEEP, board.workload(model), units, 1 if hurried else settings.rounds, settings.calls,
        1, schedules=timed, effort=None if hurried else settings.effort(design.least_count(geometry)),
    )  # fmt: skip
    return results_of(job, artifacts, board.profile)


def verify(
    board: Board, model: ModelSpec, schedules: Sequence[Schedule], artifacts: str, quick: bool
) -> list[Verified]:
    """What each of ``schedules``, none of them dense, was measured to take as a share of dense in the same rounds: one
    verification of all of them, on quiet."""
    whole = dense(model.name, model.geometry)
    distinct = list({schedule.digest: schedule for schedule in [whole, *schedules]}.values())
    rounds, calls = design.verify_effort(Objective(latency_share=1.0), SweepSettings(), 0.0)
    rounds = 1 if quick and board.profile is None else rounds
    budget = max(SWEEP_SECONDS, 2 * rounds * calls * len(distinct) * PASS_NS * 1e-9)
    job = Job(
        "papers-verify", JobKind.VERIFY, board.workload(model), design.schedule_units(distinct), rounds, calls,
        2, schedules=distinct, effort=None if quick else Effort(budget_seconds=budget),
    )  # fmt: skip
    return verified_of(distinct, results_of(job, artifacts, board.profile))


def true_shares(board: Board, model: ModelSpec, schedules: Sequence[Schedule]) -> dict[str, float]:
    """The same of a virtual board, without noise."""
    assert board.profile is not None
    distinct = list({s.digest: s for s in [dense(model.name, model.geometry), *schedules]}.values())
    ns = true_ns(board.profile, board.workload(model), design.schedule_units(distinct), distinct)
    return {schedule.digest: one / ns[0] for schedule, one in zip(distinct, ns, strict=True)}
