"""Shipments over real HTTP: each board is told of its own, at once, and what it answers is seen by people."""

import threading

import httpx
import pytest

from tailfleet_agent.client import Client, Refused
from tailfleet_schema.messages import LeaseRequest, ReceiptsReply, ReceiptsUpload
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.shipment import Receipt

MINE = Schedule("topk", "tiny", 17, 1, [17, 9, 9, 9])


@pytest.fixture
def boards(live):
    live.lab.store.add_schedule(MINE)
    live.board("nano")
    live.board("orin", machine="machine-2")


def lease(live, board, wait=0.0, machine="machine-1"):
    return Client(live.url, f"{board}-token").lease(LeaseRequest(live.lab.facts_of(machine=machine), wait))


def answer(live, board, *receipts):
    return Client(live.url, f"{board}-token").receipts(ReceiptsUpload(list(receipts)))


def test_a_board_is_told_of_its_own_alone(live, fleet, boards):
    fleet.ship_schedule(MINE.digest, ["nano"])
    (shipment,) = lease(live, "nano").shipments
    assert (shipment.schedule(), shipment.verified) == (MINE, False)
    assert lease(live, "orin", machine="machine-2").shipments == []
    # Another board cannot answer for it.
    assert answer(live, "orin", Receipt(MINE.digest, False)) == ReceiptsReply(0)
    assert answer(live, "nano", Receipt(MINE.digest, False)) == ReceiptsReply(1)
    assert lease(live, "nano").shipments == []
    assert fleet.shipments()["state"].tolist() == ["delivered"]


def test_a_board_that_waits_for_work_is_told_at_once(live, fleet, boards):
    got = []
    waiter = threading.Thread(target=lambda: got.append(lease(live, "nano", wait=20.0)))
    waiter.start()
    fleet.ship_schedule(MINE.digest, ["nano"])
    waiter.join(10)
    assert [(reply.lease, len(reply.shipments)) for reply in got] == [(None, 1)]


def test_a_job_and_a_schedule_come_with_one_answer(live, fleet, boards):
    live.lab.campaign("c1", "nano")
    (nano,) = live.lab.store.find_boards(["nano"])
    job = live.lab.sweep("c1", nano)
    fleet.ship_schedule(MINE.digest, ["nano"])
    reply = lease(live, "nano")
    assert (reply.lease.job, reply.shipments[0].digest) == (job, MINE.digest)


@pytest.mark.parametrize(
    ("token", "status"), [("operator-token", 403), ("viewer-token", 403), ("guess", 401), (None, 401)]
)
def test_nobody_else_speaks_for_boards(live, boards, token, status):
    with pytest.raises(Refused) as refusal:
        Client(live.url, token).receipts(ReceiptsUpload([Receipt(MINE.digest, True)]))
    assert refusal.value.status == status


@pytest.mark.parametrize(
    ("token", "sees", "ships"),
    [("operator-token", 200, 200), ("viewer-token", 200, 403), ("nano-token", 403, 403), ("guess", 401, 401)],
)
def test_people_see_and_operators_ship(live, boards, token, sees, ships):
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(live.url + "/v1/shipments", headers=headers).status_code == sees
    body = {"digest": MINE.digest, "boards": ["nano"]}
    assert httpx.post(live.url + "/v1/shipments", json=body, headers=headers).status_code == ships
    assert len(live.lab.store.list_shipments()) == (1 if ships == 200 else 0)


def test_a_revoked_board_is_told_nothing(live, fleet, boards):
    fleet.ship_schedule(MINE.digest, ["nano"])
    fleet.revoke_board("nano")
    with pytest.raises(Refused) as refusal:
        lease(live, "nano")
    assert refusal.value.status == 401


def test_the_reason_of_a_refusal_is_shown(live, fleet, boards):
    fleet.ship_schedule(MINE.digest, ["nano", "orin"])
    answer(live, "nano", Receipt(MINE.digest, False, "cannot be written: No space left on device"))
    frame = fleet.shipments(digest=MINE.digest[:10]).set_index("board")
    assert frame["state"].to_dict() == {"nano": "refused", "orin": "queued"}
    assert frame.loc["nano", "reason"] == "cannot be written: No space left on device"
    assert fleet.shipments(board="orin")["board"].tolist() == ["orin"]
    assert fleet.shipments(model="other").empty
    assert str(frame["queued_at"].dt.tz) == "UTC"
