"""Shipments: queued, told to their board alone, in order, until it has answered; and what they were planned on."""

import dataclasses

import pytest

from tailfleet_coordinator.db.store_shipments import MOST_AT_ONCE
from tailfleet_coordinator.web.access import hashed
from tailfleet_schema.board import BoardKind
from tailfleet_schema.curve import Judgement, Part, Unit, UnitResult
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.messages import Outcome
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.shipment import Receipt
from tailfleet_schema.workload import DatasetSpec, Preprocessing, Workload

MINE = Schedule("topk", "tiny", 17, 1, [17, 9, 9, 9])
OTHER = Schedule("topk", "tiny", 17, 1, [17, 8, 8, 8])


@pytest.fixture
def store(lab):
    lab.store.add_schedule(MINE)
    lab.store.add_schedule(OTHER)
    return lab.store


def by_hand(store, schedule, *boards):
    store.ship_schedule(schedule.digest, "tiny", dict.fromkeys(boards))


def told(store, board):
    return [(one.digest, one.verified) for one in store.list_due_shipments(board)]


def states(store, **which):
    return [(one.digest, one.board, one.state) for one in store.list_shipments(**which)]


@pytest.fixture
def planned(lab, store, board):
    """A curve of ``nano``, and a plan that rests on it; the id of the curve."""
    curve = lab.curve("c1", "nano")
    (step,) = store.list_steps("c1")
    store.update_step(step.id, "verify", "", curve_id=curve)
    store.add_plan("c1", board, "tiny", "optimal", "topk", "{}", MINE)
    return curve


def verification(lab, board):
    """The board measures the plan of ``c1``."""
    (plan,) = lab.store.list_plans("c1")
    unit = Unit(Part.SCHEDULE, 17, 17, MINE.digest)
    job = Job("c1-verify", JobKind.VERIFY, Workload(lab.model), [unit], 1, 1, 0, schedules=[MINE])
    assert lab.store.create_job("c1", board, "tiny", job, [plan.id])
    lab.claim(board)
    lab.add(board, job, 1, [UnitResult(unit, 0, [5])])
    lab.store.finish_job(board, job.id, 1, Outcome.DONE, None, "")


def test_a_board_is_told_until_it_has_answered_and_no_other_is(lab, store, board):
    other = lab.board("orin", machine="machine-2")
    by_hand(store, MINE, board)
    assert store.find_boards_with_shipments([board, other]) == {board}
    assert told(store, board) == told(store, board) == [(MINE.digest, False)]
    assert told(store, other) == []
    # Not its own: nothing comes of what it says.
    assert store.note_receipts(other, [Receipt(MINE.digest, False)]) == 0
    assert store.note_receipts(board, [Receipt(MINE.digest, False)]) == 1
    assert store.note_receipts(board, [Receipt(MINE.digest, False)]) == 0
    assert told(store, board) == []
    assert store.find_boards_with_shipments([board, other]) == set()
    assert states(store) == [(MINE.digest, "nano", "delivered")]
    assert states(store, board="orin") == states(store, model="other") == []
    (shipment,) = store.list_shipments()
    assert shipment.delivered_at >= shipment.queued_at
    assert shipment.verified_at is None


def test_they_come_in_the_order_in_which_they_were_queued(store, board):
    by_hand(store, MINE, board)
    by_hand(store, OTHER, board)
    assert told(store, board) == [(MINE.digest, False), (OTHER.digest, False)]
    by_hand(store, MINE, board)
    assert told(store, board) == [(OTHER.digest, False), (MINE.digest, False)]


def test_a_board_is_not_told_of_more_than_an_answer_holds(store, board):
    many = [
        Schedule("random", "tiny", 17, 1, [17, 9, 9, 9], parameters={"seed": seed}) for seed in range(MOST_AT_ONCE + 1)
    ]
    for schedule in many:
        store.add_schedule(schedule)
        by_hand(store, schedule, board)
    first = store.list_due_shipments(board)
    assert [one.digest for one in first] == [schedule.digest for schedule in many[:-1]]
    store.note_receipts(board, [Receipt(one.digest, False) for one in first])
    assert told(store, board) == [(many[-1].digest, False)]


def test_a_refused_one_stays_queued_with_its_reason_until_it_is_shipped_again(store, board):
    by_hand(store, MINE, board)
    assert store.note_receipts(board, [Receipt(MINE.digest, False, "no room")]) == 1
    (refused,) = store.list_shipments()
    assert (refused.state, refused.refusal) == ("queued", "no room")
    assert told(store, board) == []
    assert store.find_boards_with_shipments([board]) == set()
    by_hand(store, MINE, board)
    assert told(store, board) == [(MINE.digest, False)]
    assert store.list_shipments()[0].refusal is None


def test_what_was_verified_meanwhile_is_told_anew(lab, store, board, planned):
    by_hand(store, MINE, board)
    store.ship_verified(board, MINE.digest, "tiny", "c1")
    # The answer is to what the board was told before.
    assert store.note_receipts(board, [Receipt(MINE.digest, False)]) == 0
    assert told(store, board) == [(MINE.digest, True)]
    assert store.note_receipts(board, [Receipt(MINE.digest, True)]) == 1
    assert states(store) == [(MINE.digest, "nano", "verified")]
    # A driver that is made anew ships it twice; a person who ships it means it.
    store.ship_verified(board, MINE.digest, "tiny", "c1")
    assert told(store, board) == []
    by_hand(store, MINE, board)
    assert told(store, board) == [(MINE.digest, True)]


def test_a_later_campaign_ships_the_same_schedule_again(lab, store, board, planned):
    store.ship_verified(board, MINE.digest, "tiny", "c1")
    store.note_receipts(board, [Receipt(MINE.digest, True)])
    lab.campaign("c2", "nano")
    store.ship_verified(board, MINE.digest, "tiny", "c2")
    assert told(store, board) == [(MINE.digest, True)]


def test_it_carries_what_it_was_planned_on(lab, store, board, planned):
    by_hand(store, OTHER, board)
    by_hand(store, MINE, board)
    (made, mine) = store.list_due_shipments(board)
    assert made.planned_on == dataclasses.replace(made.planned_on, campaign=None, curve_id=None, fingerprint=None)
    curve = store.get_curve(planned)
    assert (mine.planned_on.campaign, mine.planned_on.curve_id) == ("c1", planned)
    assert mine.planned_on.model_digest == made.planned_on.model_digest == lab.model.digest
    assert mine.planned_on.fingerprint == curve.fingerprint
    assert mine.planned_on.dataset_sha256 is None
    assert mine.schedule() == MINE
    assert mine.geometry == lab.model.geometry


def test_one_planned_for_another_board_carries_that_board_s_grounds(lab, store, board, planned):
    twin = lab.board("twin", machine="machine-2")
    by_hand(store, MINE, twin)
    (shipment,) = store.list_due_shipments(twin)
    assert (shipment.planned_on.campaign, shipment.planned_on.curve_id) == ("c1", planned)


def test_a_verified_one_carries_the_environment_of_its_verification(lab, store, board, planned):
    swept = store.get_curve(planned).fingerprint
    store.see_board(board, lab.facts_of(torch="2.1"), None)
    verification(lab, board)
    store.ship_verified(board, MINE.digest, "tiny", "c1")
    (shipment,) = store.list_shipments()
    assert shipment.planned_on.fingerprint == shipment.board_fingerprint != swept


def test_the_profile_is_named_by_the_images_that_it_was_taken_on(lab, store, board):
    digits = DatasetSpec("digits", "d" * 64, 10, 100, 100, "made up")
    store.put_dataset(digits)
    lab.model = dataclasses.replace(lab.model, dataset="digits", preprocessing=Preprocessing([0.5], [0.5]))
    store.put_model(lab.model)
    curve = lab.curve("c1", "nano")
    store.update_step(store.list_steps("c1")[0].id, "verify", "", curve_id=curve)
    store.add_plan("c1", board, "tiny", "optimal", "topk", "{}", MINE)
    by_hand(store, MINE, board)
    assert store.list_due_shipments(board)[0].planned_on.dataset_sha256 is None
    judged = UnitResult(Unit(Part.LOSS, 17, 9, "topk", 1), 0, judgement=Judgement(10, 9, 9, 0.1, "host"))
    store.add_profile(lab.model.digest, digits.sha256, [judged])
    by_hand(store, MINE, board)
    assert store.list_due_shipments(board)[0].planned_on.dataset_sha256 == digits.sha256


def test_a_board_beside_a_measured_one_is_left_in_peace(lab, store):
    busy, beside = lab.board("busy"), lab.board("beside", BoardKind.VIRTUAL)
    lab.campaign("c1", "busy")
    lab.sweep("c1", busy)
    assert lab.claim(busy)
    by_hand(store, MINE, beside)
    assert store.find_boards_with_shipments([beside]) == set()
    lab.expire()
    assert store.find_boards_with_shipments([beside]) == {beside}


def test_a_board_that_enrolls_anew_is_told_again(lab, store, board):
    by_hand(store, MINE, board)
    by_hand(store, OTHER, board)
    store.note_receipts(board, [Receipt(MINE.digest, False), Receipt(OTHER.digest, False, "no room")])
    store.revoke_board("nano")
    store.create_enrolment("nano", None, hashed("again"), 60)
    store.enroll(hashed("again"), lab.facts_of(), hashed("new-token"))
    assert told(store, board) == [(MINE.digest, False), (OTHER.digest, False)]


def test_the_campaigns_that_planned_a_schedule_for_a_board(lab, store, board, planned):
    other = lab.board("orin", machine="machine-2")
    for campaign in ("c3", "c2"):
        lab.campaign(campaign, "nano", "orin")
        store.add_plan(campaign, board, "tiny", "optimal", "topk", "{}", MINE, [OTHER])
    assert store.list_campaigns_with_schedule(board, MINE.digest) == ["c2", "c3", "c1"]
    assert store.list_campaigns_with_schedule(board, OTHER.digest) == ["c2", "c3"]
    assert store.list_campaigns_with_schedule(other, MINE.digest) == []


def test_two_that_ship_at_once_ship_once(lab, store, board, together):
    twin = lab.board("twin", machine="machine-2")
    assert together(lambda: by_hand(store, MINE, board, twin), lambda: by_hand(store, MINE, twin, board)) == [None] * 2
    assert states(store) == [(MINE.digest, "nano", "queued"), (MINE.digest, "twin", "queued")]
