"""How far a shipment has come, in words, and the command that renews a stale one: decided from rows alone; and who may
be shipped what."""

import shlex
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from typer.testing import CliRunner

from tailfleet_coordinator import shipping
from tailfleet_coordinator.cli import campaign, main
from tailfleet_coordinator.db.rows import ShippedSchedule
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_schema.campaign import CampaignRequest, Objective, Statistic
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.shipment import PlannedOn, Receipt

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
MODEL, BOARD = "a" * 64, "f" * 64
MINE = Schedule("topk", "tiny", 17, 1, [17, 9, 9, 9])


def shipment(state="verified", digest="1" * 64, minutes=0, **changes):
    delivered = None if state == "queued" else NOON + timedelta(minutes=minutes)
    verified = NOON if state == "verified" else None
    grounds = PlannedOn(MODEL, "c1", 1, None, BOARD)
    row = ShippedSchedule(digest, "nano", "tiny", state, None, NOON, delivered, verified, grounds, BOARD, MODEL)
    return replace(row, **changes)


@pytest.mark.parametrize(
    ("row", "state", "reason"),
    [
        (shipment("queued"), "queued", ""),
        (shipment("queued", refusal="no room"), "refused", "no room"),
        (shipment("delivered"), "delivered", ""),
        (shipment("verified"), "verified", ""),
        (shipment("verified", board_fingerprint="e" * 64), "stale", shipping.ANOTHER_BOARD),
        (shipment("delivered", board_fingerprint="e" * 64), "stale", shipping.ANOTHER_BOARD),
        (shipment("verified", present_model_digest="b" * 64), "stale", shipping.ANOTHER_MODEL),
        # What is on its way is not on the board yet.
        (shipment("queued", board_fingerprint="e" * 64), "queued", ""),
        # A person made it: it was planned on no environment.
        (shipment("delivered", planned_on=PlannedOn(MODEL), board_fingerprint="e" * 64), "delivered", ""),
    ],
)
def test_how_far_it_has_come(row, state, reason):
    assert shipping.state_of(row, in_place=True) == (state, reason)


def test_one_that_a_later_one_replaced_is_neither_verified_nor_stale():
    old = shipment("verified", board_fingerprint="e" * 64)
    assert shipping.state_of(old, in_place=False) == ("replaced", "")


def test_the_last_to_arrive_of_a_board_a_model_and_a_place_is_in_place():
    first, second = shipment(digest="1" * 64, minutes=1), shipment(digest="2" * 64, minutes=2)
    tried = shipment("delivered", digest="3" * 64, minutes=3)
    waiting = shipment("queued", digest="4" * 64)
    other = shipment(digest="5" * 64, model="other")
    elsewhere = shipment(digest="6" * 64, board="orin")
    rows = [second, first, tried, waiting, other, elsewhere]
    assert set(shipping._in_place(rows)) == {second, tried, other, elsewhere}
    # Of two that came with one answer, the one that was queued later was written later.
    at_once = [first, replace(second, delivered_at=first.delivered_at)]
    assert list(shipping._in_place(at_once)) == at_once[1:]


REQUESTS = [
    CampaignRequest(["tiny"], ["nano"], ["topk"], objective=Objective(max_accuracy_drop=1.0, latency_share=0.8)),
    CampaignRequest(
        ["tiny"], ["nano"], ["pomt", "tome"], ["optimal", "pomt-rule"],
        Objective(latency_ns=12_345_678, on=Statistic.P99), batch=4, dtype="fp16", backend="onnxruntime",
        attention="explicit",
    ),
    CampaignRequest(["tiny"], ["nano"], objective=Objective(utility_alpha=0.3)),
    CampaignRequest(["tiny"], ["nano"], ["auto", "topk"], objective=Objective(front=True), verify=5, offline="skip"),
    CampaignRequest(["tiny"], ["nano"], ["auto"], objective=Objective(deadline_ns=30_000_000, max_accuracy_drop=1.0)),
]  # fmt: skip


@pytest.mark.parametrize("asked", REQUESTS)
def test_the_command_that_renews_asks_for_what_was_asked_for(asked, live, fleet, monkeypatch):
    live.board("nano")
    command = shipping.renewal(shipment(), replace(asked, models=["tiny", "seeing"], boards=["nano", "orin"]))
    started = []
    monkeypatch.setattr(campaign, "fleet", lambda: fleet)
    monkeypatch.setattr(campaign, "start", lambda here, request, wait: started.append(request))
    done = CliRunner().invoke(main.app, shlex.split(command)[1:])
    assert done.exception is None, done.output
    assert started == [asked]


def test_what_no_campaign_planned_is_renewed_as_campaigns_do_by_default():
    assert shipping.renewal(shipment(), None) == "tailfleet campaign run --models tiny --boards nano"


def test_shipping_queues_for_each_board(lab):
    lab.store.add_schedule(MINE)
    lab.board("nano")
    lab.board("orin", machine="machine-2")
    told = shipping.ship(lab.store, MINE.digest[:8], ["orin", "nano"])
    assert {(one.row.board, one.row.digest, one.state) for one in told} == {
        ("nano", MINE.digest, "queued"),
        ("orin", MINE.digest, "queued"),
    }
    # Of those that it was shipped to before nothing is said.
    assert [one.row.board for one in shipping.ship(lab.store, MINE.digest, ["nano"])] == ["nano"]


def test_who_cannot_be_shipped_what(lab):
    lab.store.add_schedule(MINE)
    nano = lab.board("nano")
    lab.board("lost")
    lab.store.revoke_board("lost")
    with pytest.raises(UnknownName, match="no board is called 'ghost'"):
        shipping.ship(lab.store, MINE.digest, ["nano", "ghost"])
    with pytest.raises(InputError, match="board 'lost' is revoked"):
        shipping.ship(lab.store, MINE.digest, ["nano", "lost"])
    with pytest.raises(UnknownName, match="there is no schedule 'ffff'"):
        shipping.ship(lab.store, "ffff", ["nano"])
    lab.store.put_model(replace(lab.model, geometry=replace(lab.model.geometry, tokens=5, image_size=8)))
    with pytest.raises(ScheduleError, match=r"^schedule \w{12} cannot be shipped: tokens: expects 17 tokens, but"):
        shipping.ship(lab.store, MINE.digest, ["nano"])
    assert lab.store.list_shipments() == []
    assert lab.store.list_due_shipments(nano) == []


def test_a_model_that_was_replaced_makes_what_lies_there_stale(lab):
    lab.store.add_schedule(MINE)
    nano = lab.board("nano")
    shipping.ship(lab.store, MINE.digest, ["nano"])
    lab.store.note_receipts(nano, [Receipt(MINE.digest, False)])
    lab.store.put_model(replace(lab.model, arguments={"global_pool": "avg"}))
    (one,) = shipping.shipped(lab.store, digest=MINE.digest[:6])
    assert (one.state, one.reason) == ("stale", shipping.ANOTHER_MODEL)
    assert one.renew == "tailfleet campaign run --models tiny --boards nano"
    assert shipping.shipped(lab.store, digest="ffff") == []
