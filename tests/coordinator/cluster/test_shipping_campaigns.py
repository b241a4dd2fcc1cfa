"""What a campaign ships by itself once its boards have measured its plans, over a real store and without Ray."""

import dataclasses

import pytest

from tailfleet_coordinator import campaigns, shipping
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import Objective, SweepSettings
from tailfleet_schema.job import JobKind
from tailfleet_schema.schedule import dense
from tailfleet_schema.shipment import Receipt

HALF = Objective(latency_share=0.9)
SWEEP = SweepSettings(counts="all", rounds=2, calls=2)


@pytest.fixture
def nano(lab):
    return lab.board("nano")


def ask(lab, campaign_id, *boards, **request):
    return lab.campaign(campaign_id, *boards, **{"sweep": SWEEP, "objective": HALF, **request})


def report(lab, campaign_id="c1"):
    return campaigns.report_of(lab.store, lab.store.get_campaign(campaign_id)).rows


def due(lab, board):
    return [(one.digest, one.verified, one.planned_on.campaign) for one in lab.store.list_due_shipments(board)]


def take(lab, board):
    """The board puts its shipments in their place."""
    receipts = [Receipt(one.digest, one.verified) for one in lab.store.list_due_shipments(board)]
    assert lab.store.note_receipts(board, receipts) == len(receipts)


def test_what_is_recommended_is_shipped_as_verified_without_a_further_command(lab, campaigning, nano):
    other = lab.board("modelled", BoardKind.VIRTUAL)
    ask(lab, "c1", "nano", "modelled", methods=["topk", "tome"])
    campaigning.run(nano, other)
    for board, name in ((nano, "nano"), (other, "modelled")):
        (best,) = [row for row in report(lab) if row.recommended and row.board == name]
        assert due(lab, board) == [(best.schedule_digest, True, "c1")]
        (shipment,) = lab.store.list_shipments(board=name)
        (verify,) = [j for j in lab.store.list_jobs("c1") if (j.board_id, j.kind) == (board, JobKind.VERIFY)]
        assert shipment.planned_on.curve_id == best.curve_id
        assert shipment.planned_on.fingerprint == verify.fingerprint


def test_a_driver_lost_at_every_look_ships_once(lab, campaigning, nano):
    ask(lab, "c1", "nano")
    campaigning.run(nano)
    take(lab, nano)
    lab.sql("UPDATE steps SET phase = 'verify'")
    lab.sql("UPDATE campaigns SET state = 'running', finished_at = NULL")
    campaigning.run(nano)
    assert [step.phase for step in lab.store.list_steps("c1")] == ["done"]
    assert due(lab, nano) == []


def test_nothing_is_shipped_before_the_board_has_measured(lab, campaigning, nano):
    ask(lab, "c1", "nano")
    driver = campaigning.driver()
    while not any(job.kind is JobKind.VERIFY for job in lab.store.list_jobs("c1")):
        assert due(lab, nano) == []
        campaigning.play(nano)
        driver.advance()
    assert due(lab, nano) == []
    # Who ships by hand what is planned alone ships what is not verified.
    (row,) = report(lab)
    (told,) = shipping.ship(lab.store, row.schedule_digest, ["nano"])
    assert told.row.verified_at is None
    campaigning.run(nano)
    # The board found a contender to be better.
    (best,) = [row for row in report(lab) if row.recommended]
    assert due(lab, nano) == [(row.schedule_digest, False, "c1"), (best.schedule_digest, True, "c1")]
    # What it measured besides and found good is as verified, wherever a person prefers it.
    (told,) = shipping.ship(lab.store, row.schedule_digest, ["nano"])
    assert told.row.verified_at is not None


def test_a_sweep_alone_and_a_campaign_that_says_not_to_prune_ship_nothing(lab, campaigning, nano):
    ask(lab, "c1", "nano", objective=None)
    campaigning.run(nano)
    ask(lab, "c2", "nano", objective=Objective(latency_ns=1))
    campaigning.run(nano, campaign_id="c2")
    assert not any(row.recommended for row in report(lab, "c2"))
    assert lab.store.list_shipments() == []


def test_a_board_that_changed_makes_it_stale_until_a_campaign_renews_it(lab, campaigning, nano):
    ask(lab, "c1", "nano")
    campaigning.run(nano)
    take(lab, nano)
    (one,) = shipping.shipped(lab.store)
    assert (one.state, one.renew) == ("verified", "")
    lab.store.see_board(nano, lab.facts_of(torch="2.1"), None)
    (one,) = shipping.shipped(lab.store, board="nano")
    assert (one.state, one.reason) == ("stale", shipping.ANOTHER_BOARD)
    assert one.renew == (
        "tailfleet campaign run --models tiny --boards nano --method topk --objective latency-budget=0.9x"
    )
    ask(lab, "c2", "nano")
    campaigning.run(nano, campaign_id="c2")
    # The same schedule is the best of the changed board, too.
    assert due(lab, nano) == [(one.row.digest, True, "c2")]
    take(lab, nano)
    assert [again.state for again in shipping.shipped(lab.store)] == ["verified"]


def test_where_a_changed_board_should_not_prune_dense_takes_the_place_of_what_is_stale(lab, campaigning, nano):
    ask(lab, "c1", "nano")
    campaigning.run(nano)
    take(lab, nano)
    hopeless = Objective(latency_ns=1)
    ask(lab, "c2", "nano", objective=hopeless)
    campaigning.run(nano, campaign_id="c2")
    # What was verified on the board as it is stays, whatever else is asked for.
    assert due(lab, nano) == []
    lab.store.see_board(nano, lab.facts_of(torch="2.1"), None)
    ask(lab, "c3", "nano", objective=hopeless)
    campaigning.run(nano, campaign_id="c3")
    assert due(lab, nano) == [(dense("tiny", lab.model.geometry).digest, True, "c3")]
    take(lab, nano)
    assert [one.state for one in shipping.shipped(lab.store)] == ["replaced", "verified"]
    lab.store.see_board(nano, lab.facts_of(torch="2.2"), None)
    assert [one.state for one in shipping.shipped(lab.store)] == ["replaced", "stale"]


def test_one_shipped_by_hand_is_verified_if_its_board_found_it_good(lab, campaigning, nano):
    twin = lab.board("twin", machine="machine-2")
    ask(lab, "c1", "nano", methods=["topk", "tome"])
    campaigning.run(nano)
    take(lab, nano)
    (second,) = [row for row in report(lab) if row.verdict.startswith("prune: ") and not row.recommended]
    told = shipping.ship(lab.store, second.schedule_digest, ["nano", "twin"])
    assert {(one.row.board, one.row.verified_at is not None) for one in told} == {("nano", True), ("twin", False)}
    assert due(lab, nano) == [(second.schedule_digest, True, "c1")]
    # The twin has measured nothing, but what it was planned on is known.
    assert due(lab, twin) == [(second.schedule_digest, False, "c1")]
    take(lab, nano)
    take(lab, twin)
    states = {(one.row.board, one.row.digest): one.state for one in shipping.shipped(lab.store)}
    (best,) = [row for row in report(lab) if row.recommended]
    assert states == {
        ("nano", best.schedule_digest): "replaced",
        ("nano", second.schedule_digest): "verified",
        ("twin", second.schedule_digest): "delivered",
    }


def test_a_board_that_is_revoked_meanwhile_fails_no_step(lab, campaigning, nano):
    ask(lab, "c1", "nano")
    driver = campaigning.driver()
    while True:
        driver.advance()
        job = campaigning.play(nano)
        if job is not None and "verify" in job:
            break
    lab.store.revoke_board("nano")
    driver.advance()
    assert [step.phase for step in lab.store.list_steps("c1")] == ["done"]
    assert len(lab.store.list_shipments()) == 1


def test_schedules_of_models_are_shipped_apart(lab, campaigning, nano):
    ask(lab, "c1", "nano", models=["tiny", "seeing"], objective=dataclasses.replace(HALF, max_accuracy_drop=100.0))
    campaigning.run(nano)
    shipped = {(one.model, one.planned_on.dataset_sha256 is None) for one in lab.store.list_due_shipments(nano)}
    assert shipped == {("tiny", True), ("seeing", False)}
