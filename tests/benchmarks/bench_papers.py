"""Planned schedules against every published way to choose one, at equal latency: top-1, image by image.

For each board × model × latency budget, ours is what the product does: a sweep, an accuracy profile on calibration
images, a plan in which methods compete, and a verification; then a second plan, which knows what was verified of the
first ones, and its verification. Of their points within the budget the best is taken as for papers; a campaign goes by
evaluation images there, which here are to judge. Of each published knob (``baselines``) the positions next below every
budget are judged on calibration images, and that of the best top-1, between equals of the least divergence, is the
paper's. What is within a budget is known on virtual boards from true latencies of all positions; on this CPU the best
papers by predicted latency are timed in the same rounds as our first plans, those that are best once predictions are
corrected by that beside our second ones, and only measured latencies count. The papers that come out best so are judged
on evaluation images, and ours is held against the best of them *there*, which is more than any of them could know: a
cell is won or lost where the paired 95 % interval of the difference in top-1 lies on one side of 0. Cropr needs queries
that neither model has, and is left out. Budgets are multiples of what the fastest position of any rule takes, the same
ones everywhere. This machine's CPU has benchmarks of its own, and so has MNIST's model, for the time they take.

A cell of one board and model, for instance: ``python -m tests.benchmarks.bench_papers --help``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tests.benchmarks.bench_prediction import Missing
from tests.benchmarks.figure import Figure, line
from tests.benchmarks.paired import Interval, difference
from tests.benchmarks.papers_boards import BOARDS, Board, sweep, true_shares, verify
from tests.benchmarks.papers_images import Judged, Subject, right, subjects

from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_coordinator.plan.baselines import Setting, knob
from tailfleet_coordinator.plan.decision import Plan, PlanInput
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.planner import make_plan
from tailfleet_coordinator.plan.residuals import Verified
from tailfleet_coordinator.plan.rules import input_accuracy
from tailfleet_coordinator.plan.statistics import summarise
from tailfleet_schema.campaign import AUTO, BASELINES, METHODS, Objective
from tailfleet_schema.curve import UnitResult
from tailfleet_schema.schedule import Schedule, dense
from tailfleet_schema.workload import ModelSpec

PLANNERS = [planner for planner, method in BASELINES.items() if planner != "pomt-rule" and method != "cropr"]
"""POMT's rule is one position of ``pomt-alpha``."""

SWEPT = [method for method in METHODS if method != "cropr"]

COMPETING = [method for method in SWEPT if method != "zero-tprune"]
"""What ours takes the best of. Nothing profiles Zero-TPrune as its paper runs it."""

MODELS = ("digits_vit", "mnist_vit")

EVALUATED = 2000
"""Images at most: where papers lose a point or two, 500 cannot tell."""

BUDGETS = (1.4, 1.25, 1.15, 1.08, 1.03)
"""Of what the fastest position of any rule takes: where rules begin to lose something, down to where few positions
reach."""

VERIFIED = 3
"""Points of a plan that are measured, as a campaign has it unless told otherwise."""

TIGHTER = (0.0, 0.02)
"""On this CPU the best papers for budgets by so much tighter are timed, too: who misses a budget has no other entry."""

MOST_JUDGED = 2
"""Of each knob so many positions next below each budget are judged on calibration images; the gentlest lose least, and
those of tighter budgets are judged for the wider ones, too."""

MOST_EVALUATED = 1
"""So many papers of a cell, those of the best top-1 on calibration images, are judged on evaluation images, and as many
of the least divergence: an image more or less there is chance."""

GOAL_WON = 50.0


@dataclass(frozen=True)
class Entry:
    """What somebody brings to a cell."""

    who: str
    schedule: Schedule
    share: float
    """Of dense, as it counts."""


@dataclass(frozen=True)
class Cell:
    """One board, model and budget."""

    board: Board
    subject: Subject
    budget: float
    planned: Entry | None
    """None: nothing planned meets the budget where it was verified."""
    papers: list[Entry]
    why: str
    """What the plan said."""

    @property
    def best(self) -> Entry:
        """The paper that is best on evaluation images: top-1, then divergence."""
        judged = self.subject.evaluation
        return max(self.papers, key=lambda one: (judged[one.schedule].correct, -judged[one.schedule].kl_nats))

    @property
    def kept(self) -> bool:
        """Whether the planned schedule meets the budget where it counts."""
        return self.planned is not None and self.planned.share <= self.budget

    @property
    def above(self) -> Interval:
        """Top-1 of the planned schedule less that of the best paper, in points."""
        assert self.planned is not None
        judged = self.subject.evaluation
        return difference(right(judged[self.planned.schedule]), right(judged[self.best.schedule]))


def measure(
    quick: bool = False,
    boards: Sequence[Board] = tuple(one for one in BOARDS if one.profile is not None),
    models: Sequence[str] = ("digits_vit",),
) -> list[Figure]:
    """The goals' figures, then a row for each cell."""
    print("  cropr-constant is left out: neither model has trained queries", flush=True)
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as artifacts:
        for subject in subjects(artifacts, COMPETING, quick, EVALUATED, models):
            for board in boards:
                began = time.monotonic()
                try:
                    own = list(cells_of(board, subject, artifacts, quick))
                except Missing as error:
                    print(f"  {subject.model.name} {board.words}: left out, {error}", flush=True)
                    continue
                print(table(own, time.monotonic() - began), flush=True)
                cells += own
    return figures_of(cells)


def cells_of(board: Board, subject: Subject, artifacts: str, quick: bool) -> list[Cell]:
    """Every budget of one board and model. Raises ``Missing``."""
    model, calibration = subject.model, subject.calibration
    swept = sweep(board, model, SWEPT, artifacts, quick)
    knobs = positions(model, swept, subject.profile)
    every = [one.schedule for some in knobs.values() for one in some]
    expected = predicted(model, swept, every) if board.profile is None else true_shares(board, model, every)
    asked = budgets(expected)[2:3] if quick else budgets(expected)

    likely, known = expected, dict[str, Verified]()
    ours: dict[float, list[Schedule]] = {budget: [] for budget in asked}
    for tighter in ((0.0,), TIGHTER):
        seen = [known[one.digest] for few in ours.values() for one in few if one.digest in known]
        plans = {budget: plan(board, subject, swept, budget, seen) for budget in asked}
        for budget, made in plans.items():
            ours[budget] = list({one.digest: one for one in [*ours[budget], *points(made)]}.values())
        tried = promising(knobs, likely, asked, calibration, tighter) if board.profile is None else []
        wanted = [one for some in [*ours.values(), tried] for one in some if one.digest not in known]
        if wanted:
            known.update((one.schedule.digest, one) for one in verify(board, model, wanted, artifacts, quick))
        likely = corrected(knobs, expected, {digest: one.share for digest, one in known.items()})

    planned = [one for few in ours.values() for one in few]
    if board.profile is None:
        taken = {digest: one.share for digest, one in known.items()}
        knobs = {who: [one for one in every if one.schedule.digest in taken] for who, every in knobs.items()}
    else:
        taken = {**expected, **true_shares(board, model, planned)}
        knobs = {who: next_below(every, taken, asked) for who, every in knobs.items()}
    calibration.of(planned + [s.schedule for few in knobs.values() for s in few])
    found = []
    for budget, few in ours.items():
        meeting = [Setting(s.method, s) for s in few if s.digest in known and known[s.digest].share <= budget]
        best = gentlest(meeting, calibration).schedule if meeting else None
        mine = None if best is None else Entry(best.method, best, taken[best.digest])
        others = papers(knobs, taken, budget, calibration)
        found.append(Cell(board, subject, budget, mine, others, plans[budget].verdict))
    subject.evaluation.of(
        entry.schedule for cell in found for entry in [*cell.papers, *([cell.planned] if cell.planned else [])]
    )
    return found


def plan(board: Board, subject: Subject, swept: list[UnitResult], budget: float, seen: Sequence[Verified]) -> Plan:
    """What a campaign plans from the sweep, the profile and what was ``seen`` of schedules that were verified."""
    return make_plan(
        PlanInput(
            subject.model,
            AUTO,
            "optimal",
            Objective(latency_share=budget),
            swept,
            subject.profile,
            batch=board.batch,
            competing=COMPETING,
            verified=list(seen),
            verify=VERIFIED,
        )
    )


def points(made: Plan) -> list[Schedule]:
    """The schedules that are verified for a plan, the chosen one first."""
    chosen = [] if made.schedule is None else [made.schedule]
    return chosen + [one.schedule for one in made.contenders]


def fitted(model: ModelSpec, swept: list[UnitResult]) -> LatencyModel:
    """The board's latency model, as ``make_plan`` has it."""
    return LatencyModel.fit(model.geometry, summarise(swept), anchors=anchors(model.name, model.geometry, SWEPT))


def positions(model: ModelSpec, swept: list[UnitResult], profile: list[UnitResult]) -> dict[str, list[Setting]]:
    """Every position of every knob."""
    curve, accuracy = fitted(model, swept).curve, input_accuracy(profile)
    return {planner: knob(planner, model, curve, accuracy).settings for planner in PLANNERS}


def budgets(rules: dict[str, float]) -> list[float]:
    """Shares of dense, given those of all positions of rules, the widest first."""
    fastest = min(rules.values())
    return [round(by * fastest, 3) for by in BUDGETS]


def predicted(model: ModelSpec, swept: list[UnitResult], schedules: Sequence[Schedule]) -> dict[str, float]:
    """What each of ``schedules`` is predicted to take, by digest, as a share of dense."""
    latency = fitted(model, swept)
    return {one.digest: latency.predict(one).ns / latency.dense.ns for one in schedules}


def corrected(
    knobs: dict[str, list[Setting]], predicted: dict[str, float], taken: dict[str, float]
) -> dict[str, float]:
    """``predicted`` of all positions, times what those of the same knob took that were measured, else those of all: a
    rule that is not timed again would lose to a prediction."""
    errors = {
        who: [taken[d] / predicted[d] for d in (one.schedule.digest for one in every) if d in taken]
        for who, every in knobs.items()
    }
    of_all = [error for some in errors.values() for error in some] or [1.0]
    return {
        one.schedule.digest: predicted[one.schedule.digest] * float(np.median(errors[who] or of_all))
        for who, every in knobs.items()
        for one in every
    }


def promising(
    knobs: dict[str, list[Setting]],
    predicted: dict[str, float],
    budgets: Sequence[float],
    calibration: Judged,
    tighter: Sequence[float] = (0.0,),
) -> list[Schedule]:
    """What would be the best papers of each budget if predictions were true, and of budgets so much tighter."""
    stages = [budget - less for budget in budgets for less in tighter]
    few = {who: next_below(every, predicted, stages, 1) for who, every in knobs.items()}
    calibration.of([one.schedule for every in few.values() for one in every])
    return [entry.schedule for stage in stages for entry in papers(few, predicted, stage, calibration)]


def next_below(
    settings: Sequence[Setting], taken: dict[str, float], budgets: Sequence[float], most: int = MOST_JUDGED
) -> list[Setting]:
    """The slowest within each of ``budgets``."""
    found: dict[str, Setting] = {}
    for budget in budgets:
        within = [one for one in settings if taken[one.schedule.digest] <= budget]
        for one in sorted(within, key=lambda one: -taken[one.schedule.digest])[:most]:
            found[one.schedule.digest] = one
    return list(found.values())


def papers(knobs: dict[str, list[Setting]], taken: dict[str, float], budget: float, calibration: Judged) -> list[Entry]:
    """Of each knob the position within the budget that calibration images say to be the best; the best of these."""

    found = []
    for who, settings in knobs.items():
        within = [one for one in settings if taken[one.schedule.digest] <= budget]
        if within:
            chosen = gentlest(within, calibration)
            found.append(Entry(f"{who} {chosen.knob}", chosen.schedule, taken[chosen.schedule.digest]))
    right_most = sorted(found, key=lambda entry: -calibration[entry.schedule].correct)[:MOST_EVALUATED]
    closest = sorted(found, key=lambda entry: calibration[entry.schedule].kl_nats)[:MOST_EVALUATED]
    return list({entry.schedule.digest: entry for entry in right_most + closest}.values())


def gentlest(settings: Sequence[Setting], calibration: Judged) -> Setting:
    """The position of the best top-1; of those within a standard error of it, which an image or two decide, the one
    that diverges least."""
    best = right(max((calibration[one.schedule] for one in settings), key=lambda one: one.correct))

    def is_as_good(one: Setting) -> bool:
        lost = best - right(calibration[one.schedule])
        return float(lost.sum()) <= float(np.sqrt(np.abs(lost).sum()))

    return min(filter(is_as_good, settings), key=lambda one: calibration[one.schedule].kl_nats)


def figures_of(cells: Sequence[Cell]) -> list[Figure]:
    """The goals, then a row for each cell."""
    cells = [cell for cell in cells if cell.planned is not None or cell.papers]
    compared = [cell for cell in cells if cell.kept and cell.papers]
    alone = [cell for cell in cells if cell.kept and not cell.papers]
    missed = [cell for cell in cells if not cell.kept]
    lost = [cell for cell in compared if cell.above.high < 0]
    won = [cell for cell in compared if cell.above.low > 0]
    closer = [cell for cell in compared if _kl(cell, cell.planned) < min(_kl(cell, one) for one in cell.papers)]
    share = 100 / max(len(compared) + len(missed), 1)
    figures = [
        Figure("cells: boards × models × budgets that anybody meets", len(cells), ""),
        Figure("planned below the best paper beyond the interval", len(lost), "cells", 0.0),
        Figure("planned above the best paper beyond the interval", share * len(won), "% of cells", GOAL_WON, "max"),
        Figure("planned schedules that miss their budget", len(missed), "cells", 0.0),
        Figure("planned closer to dense (KL) than every paper", share * len(closer), "% of cells"),
        Figure("budgets that planned meets and no paper does", len(alone), "cells"),
    ]
    for cell in compared:
        where = f"{cell.subject.model.name}, {cell.board.words}, {cell.budget:.2f}× dense: {cell.planned.who}"
        words = f"points above {cell.best.who} ({cell.above.low:.1f} … {cell.above.high:.1f})"
        figures.append(Figure(where, cell.above.value, words))
    return figures


def table(cells: Sequence[Cell], seconds: float) -> str:
    """Top-1 and divergence of everybody in each cell, for people."""
    subject, board = cells[0].subject, cells[0].board
    whole = subject.evaluation[dense(subject.model.name, subject.model.geometry)]
    lines = [
        f"  {subject.model.name}, {board.words}: dense {100 * whole.correct / whole.images:.1f} % of {whole.images}"
        f" images; {seconds:.0f} s"
    ]
    for cell in cells:
        if cell.planned is None:
            lines.append(f"    {cell.budget:.2f}× dense: nothing planned meets it: {cell.why}")
        for entry in [*([cell.planned] if cell.planned else []), *cell.papers]:
            judged = subject.evaluation[entry.schedule]
            mark = f"{cell.budget:.2f}× planned: {runs(entry.schedule)}" if entry is cell.planned else entry.who
            top1 = 100 * judged.correct / judged.images
            lines.append(f"    {top1:6.1f} %  KL {judged.kl_nats:6.3f}  at {entry.share:.3f}×  {mark}")
    return "\n".join(lines)


def runs(schedule: Schedule) -> str:
    """Method and counts: ``pomt 197×3 100×9``."""
    words = [f"{count}×{schedule.keep.count(count)}" for count in dict.fromkeys(schedule.keep)]
    return " ".join([schedule.method, *words])


def _kl(cell: Cell, entry: Entry | None) -> float:
    assert entry is not None
    return cell.subject.evaluation[entry.schedule].kl_nats


def main() -> int:
    """Some of the boards and models."""
    parser = argparse.ArgumentParser(description="Planned schedules beside papers'; nothing is written.")
    parser.add_argument(
        "--board", action="append", choices=[one.name for one in BOARDS], help="repeatable; all by default"
    )
    parser.add_argument("--model", action="append", help="digits_vit or mnist_vit; repeatable; both by default")
    parser.add_argument("--quick", action="store_true", help="few images, one budget: no figures to be quoted")
    options = parser.parse_args()
    boards = [one for one in BOARDS if not options.board or one.name in options.board]
    for figure in measure(options.quick, boards, options.model or MODELS):
        print(line(figure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
