"""Many boards planned for in one task: what is shared, who fails, and how many tasks wait at a time."""

import dataclasses

import pytest
from test_driver import HALF, ask, phases, status

from tailfleet_coordinator import campaigns
from tailfleet_coordinator.cluster import planning
from tailfleet_coordinator.cluster.driver import TRIES
from tailfleet_coordinator.cluster.tasks import News
from tailfleet_schema.board import BoardKind
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure
from tailfleet_schema.workload import ModelSpec


@pytest.fixture
def fleet(lab):
    """Four boards by name."""
    return {name: lab.board(name, BoardKind.VIRTUAL, machine=f"machine of {name}") for name in "abcd"}


@pytest.fixture
def swept(lab, campaigning, fleet):
    """A driver of a campaign whose boards have all been swept, and that has planned nothing."""

    def swept(**request):
        ask(lab, "c1", *fleet, **{"objective": HALF, **request})
        driver = campaigning.driver()
        driver.advance()
        for board in fleet.values():
            while campaigning.play(board):
                pass
        driver.advance()
        return driver

    return swept


def plan_tasks(campaigning):
    return [(name, inputs) for name, inputs in campaigning.tasks.started if name.startswith("plan")]


def test_boards_of_a_model_share_a_task(lab, campaigning, fleet, swept):
    driver = swept(models=["tiny", "seeing"], methods=["topk", "pomt"])
    campaigning.run(*fleet.values(), driver=driver)
    assert sorted(inputs for _, inputs in plan_tasks(campaigning)) == [8, 8]
    assert set(phases(lab).values()) == {"done"}
    report = campaigns.report_of(lab.store, lab.store.get_campaign("c1"))
    assert {(row.board, row.model, row.method) for row in report.rows} == {
        (board, model, method) for board in fleet for model in ("tiny", "seeing") for method in ("topk", "pomt")
    }


def test_each_board_is_planned_on_its_own_curve(lab, campaigning, fleet, swept, monkeypatch):
    given = []
    monkeypatch.setattr(campaigning.tasks, "plan", lambda name, inputs: given.append(inputs))
    swept().advance()
    (inputs,) = given
    curves = {curve.board: curve.id for curve in lab.store.list_curves()}
    stored = lab.store.list_readings(list(curves.values()), planning.VERSION)
    assert [one.reading for one in inputs] == [stored[curves[name]] for name in fleet]
    assert len({id(one.profile) for one in inputs}) == 1


def test_only_so_many_tasks_wait_at_a_time(lab, campaigning, fleet, swept, monkeypatch):
    monkeypatch.setattr(planning, "BOARDS_A_TASK", 1)
    monkeypatch.setattr(planning, "MOST_TASKS", 3)
    driver = swept()
    driver.advance()
    assert len(plan_tasks(campaigning)) == 3
    assert {step.phase for step in status(lab).steps} == {"plan"}
    driver.advance()
    assert len(plan_tasks(campaigning)) == 4
    campaigning.run(*fleet.values(), driver=driver)
    assert set(phases(lab).values()) == {"done"}


def test_to_wait_for_a_task_costs_a_board_next_to_nothing(lab, campaigning, swept, monkeypatch):
    """Thousands wait at every look: their models' digests alone took longer than the plans."""
    driver = swept(models=["tiny", "seeing"])
    monkeypatch.setattr(campaigning.tasks, "plan", lambda name, inputs: None)
    monkeypatch.setattr(planning, "MOST_TASKS", 0)
    driver.advance()
    waiting = [one for one, _ in driver._wanted]
    monkeypatch.setattr(ModelSpec, "digest", property(lambda model: pytest.fail("a digest was taken")))
    monkeypatch.setattr(planning, "MOST_TASKS", 9)
    batches = [batch for _, batch in driver._planning.batches(waiting)]
    assert [{one.model.name for one in batch} for batch in batches] == [{"tiny"}, {"seeing"}]
    assert [one for batch in batches for one in batch] == sorted(waiting, key=lambda one: one.model.name != "tiny")


def test_a_curve_that_cannot_be_planned_on_fails_its_board_and_no_other(lab, campaigning, fleet, swept, monkeypatch):
    plan = campaigning.tasks.plan

    def spoilt(name, inputs):
        plan(name, [dataclasses.replace(one, planner="none such") if i == 1 else one for i, one in enumerate(inputs)])

    monkeypatch.setattr(campaigning.tasks, "plan", spoilt)
    campaigning.run(*fleet.values(), driver=swept())
    assert phases(lab) == {(name, "tiny"): "failed" if name == "b" else "done" for name in fleet}
    (failed,) = [step for step in status(lab).steps if step.phase == "failed"]
    assert failed.note.startswith("unknown planner 'none such'")


def test_what_cannot_be_read_fails_its_board_and_no_other(lab, campaigning, fleet, swept, monkeypatch):
    seen = campaigns.stored_verifications
    monkeypatch.setattr(lab.store, "find_verified_boards", lambda ids, model: ids)

    def read(store, request, board, model):
        if board.name == "c":
            lab.store.get_job("no such job")
        return seen(store, request, board, model)

    monkeypatch.setattr(planning, "stored_verifications", read)
    campaigning.run(*fleet.values(), driver=swept())
    assert phases(lab) == {(name, "tiny"): "failed" if name == "c" else "done" for name in fleet}


def test_boards_whose_task_died_are_planned_for_alone(lab, campaigning, fleet, swept, monkeypatch):
    """One of them is the end of every process that plans for it."""
    run = campaigning.tasks._run

    def dying(name, work):
        if "b" in [one.board.name for one in driver._planning._running[name]]:
            return News(name, ended=True, crashed=True, failure=Failure("the process died", Blame.BUG))
        return run(name, work)

    monkeypatch.setattr(campaigning.tasks, "_run", dying)
    driver = swept()
    campaigning.run(*fleet.values(), driver=driver)
    assert phases(lab) == {(name, "tiny"): "failed" if name == "b" else "done" for name in fleet}
    sizes = [inputs for _, inputs in plan_tasks(campaigning)]
    assert sizes == [4] + [1] * (3 + TRIES - 1)
