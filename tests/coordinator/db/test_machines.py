"""The gate between measuring a machine and using it."""

import pytest
from sqlalchemy import update

from tailfleet_coordinator.db.engine import Now
from tailfleet_coordinator.db.tables import BoardTable, MachineUseTable
from tailfleet_schema.board import BoardKind
from tailfleet_schema.messages import Outcome


@pytest.fixture
def physical(lab):
    return lab.board("here")


@pytest.fixture
def virtual(lab):
    return lab.board("modelled", BoardKind.VIRTUAL)


@pytest.fixture
def jobs(lab, physical, virtual):
    lab.campaign("c1", "here", "modelled")
    return {board: lab.sweep("c1", board) for board in (physical, virtual)}


def use(lab, holder="task"):
    return lab.store.use_machine("machine-1", holder, 60, 30)


def test_while_a_machine_is_measured_nothing_else_computes_on_it(lab, physical, virtual, jobs):
    assert lab.claim(physical) is not None
    assert lab.claim(virtual) is None
    assert not use(lab)
    lab.store.finish_job(physical, jobs[physical].id, 1, Outcome.FAILED, None, "")
    assert lab.claim(virtual) is not None
    assert use(lab)


def test_boards_beside_a_measured_one_do_not_even_claim(lab, physical, virtual, jobs):
    assert lab.store.find_boards_with_work([physical, virtual]) == {physical, virtual}
    lab.claim(physical)
    assert lab.store.find_boards_with_work([virtual]) == set()
    lab.write(update(MachineUseTable).values(expires_at=Now(-1)))
    assert lab.store.find_boards_with_work([virtual]) == {virtual}


def test_a_measurement_waits_for_who_computes_and_is_next(lab, physical, virtual, jobs):
    lab.sql("UPDATE boards SET last_seen_at = NULL WHERE name = 'here'")
    assert use(lab)
    lab.sql("UPDATE boards SET last_seen_at = enrolled_at WHERE name = 'here'")
    assert lab.claim(physical) is None
    assert not use(lab, "second task")
    assert lab.claim(virtual) is None
    lab.store.leave_machine("task")
    assert lab.claim(physical) is not None


def test_a_board_that_left_holds_nobody_up(lab, physical, virtual, jobs):
    lab.write(update(BoardTable).where(BoardTable.name == "here").values(last_seen_at=Now(-31)))
    assert use(lab)
    assert lab.claim(virtual) is not None


def test_users_of_a_kind_share_a_machine(lab, virtual):
    lab.campaign("c1", "modelled")
    lab.sweep("c1", virtual)
    assert use(lab)
    assert use(lab, "second task")
    assert lab.claim(virtual) is not None


def test_other_machines_are_not_held_up(lab, physical, virtual, jobs):
    assert lab.claim(physical) is not None
    assert lab.store.use_machine("machine-2", "task", 60, 30)
    far = lab.board("far", BoardKind.VIRTUAL, machine="machine-2")
    lab.campaign("c2", "far")
    lab.sweep("c2", far)
    assert lab.claim(far) is not None


def test_two_physical_boards_on_one_machine_take_turns(lab, physical):
    twin = lab.board("twin")
    lab.campaign("c1", "here", "twin")
    lab.sweep("c1", physical)
    lab.sweep("c1", twin)
    assert lab.claim(physical) is not None
    assert lab.claim(twin) is None


def test_a_use_that_is_not_renewed_runs_out_and_comes_back_when_it_is(lab, physical, jobs):
    lab.claim(physical)
    lab.expire()
    assert use(lab)
    lab.store.leave_machine("task")
    lab.store.renew_lease(physical, jobs[physical].id, 1, 60)
    assert not use(lab)


def test_a_taken_back_job_frees_its_machine(lab, physical, virtual, jobs):
    lab.claim(physical)
    lab.store.take_back_jobs(physical)
    assert lab.sql("SELECT count(*) FROM machine_uses") == [(0,)]
