"""Shipped schedules on a board's disk: checked, put in their place whole, and answered for."""

import dataclasses
import hashlib
import os

import pytest
from scripted import FACTS, GEOMETRY, lease

from tailfleet_agent.client import Refused, Unreachable
from tailfleet_agent.schedules import Schedules
from tailfleet_schema import codec
from tailfleet_schema.messages import Outcome
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.shipment import REASON_LENGTH, PlannedOn, Receipt, Shipment

ONE = Schedule("topk", "tiny", 5, 1, [5, 3])
TWO = Schedule("topk", "tiny", 5, 1, [5, 2])


def shipment(schedule=ONE, verified=True, **changes):
    text = codec.dumps(schedule)
    whole = Shipment(schedule.digest, "tiny", GEOMETRY, text, verified, PlannedOn("a" * 64, "c1", 3))
    return dataclasses.replace(whole, **changes)


@pytest.fixture
def schedules(tmp_path):
    return Schedules(str(tmp_path / "schedules"))


def read(path):
    with open(path, "rb") as file:
        return codec.loads(Schedule, file.read())


def names(schedules):
    return sorted(os.listdir(os.path.dirname(schedules.path("tiny"))))


def test_the_newest_verified_one_lies_under_the_name_of_its_model(schedules):
    assert schedules.take(shipment(ONE)) == Receipt(ONE.digest, True)
    assert schedules.take(shipment(TWO)) == Receipt(TWO.digest, True)
    assert read(schedules.path("tiny")) == TWO
    assert names(schedules) == ["tiny.json", "tiny.shipment"]
    with open(schedules.path("tiny")[: -len("json")] + "shipment", "rb") as file:
        assert codec.loads(Shipment, file.read()) == shipment(TWO)


def test_one_that_is_not_verified_lies_beside_it_until_it_is(schedules):
    schedules.take(shipment(ONE))
    assert schedules.take(shipment(TWO, verified=False)) == Receipt(TWO.digest, False)
    assert read(schedules.path("tiny")) == ONE
    assert read(schedules.path("tiny", verified=False)) == TWO
    # A verified one takes the place of itself alone.
    schedules.take(shipment(ONE))
    assert names(schedules) == ["tiny.json", "tiny.shipment", "tiny.unverified", "tiny.unverified-shipment"]
    schedules.take(shipment(TWO))
    assert names(schedules) == ["tiny.json", "tiny.shipment"]
    assert read(schedules.path("tiny")) == TWO


def test_delivered_twice_is_as_delivered_once(schedules):
    for _ in range(2):
        assert schedules.take(shipment(ONE)) == Receipt(ONE.digest, True)
    assert read(schedules.path("tiny")) == ONE
    assert names(schedules) == ["tiny.json", "tiny.shipment"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": "b" * 64}, "what arrived as schedule bbbbbbbbbbbb has the hash"),
        ({"model": "other"}, "was made for model 'tiny', not for 'other'"),
        ({"geometry": dataclasses.replace(GEOMETRY, tokens=17)}, "expects 5 tokens, but model 'tiny' has 17"),
    ],
)
def test_what_does_not_match_is_refused_and_the_old_one_stays(schedules, changes, words):
    schedules.take(shipment(ONE))
    receipt = schedules.take(shipment(TWO, **changes))
    assert words in receipt.refusal
    assert (receipt.digest, receipt.verified) == (changes.get("digest", TWO.digest), True)
    assert read(schedules.path("tiny")) == ONE
    assert names(schedules) == ["tiny.json", "tiny.shipment"]


def test_a_method_of_a_later_release_is_refused_by_name(schedules):
    text = codec.dumps(ONE).replace("topk", "magic!")
    later = shipment(schedule_json=text, digest=hashlib.sha256(text.encode("utf-8")).hexdigest())
    receipt = schedules.take(later)
    assert "unknown method 'magic!'" in receipt.refusal


def test_a_long_reason_is_cut_to_what_is_taken(schedules, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "no space " * REASON_LENGTH)

    monkeypatch.setattr(os, "makedirs", full)
    receipt = schedules.take(shipment(ONE))
    assert receipt.refusal.startswith("cannot be written: no space no space")
    assert codec.loads(Receipt, codec.dumps(receipt)) == receipt


@pytest.mark.parametrize("name", ["../tiny", ".tiny", "a/b", "ti ny"])
def test_a_name_that_leads_elsewhere_is_refused(schedules, tmp_path, name):
    schedule = dataclasses.replace(ONE, model=name)
    receipt = schedules.take(shipment(schedule, model=name))
    assert "cannot be the name of a file" in receipt.refusal
    assert not os.path.exists(str(tmp_path / "schedules"))
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_one_and_the_next_cleans_up(schedules, monkeypatch, fails):
    schedules.take(shipment(ONE))
    real = getattr(os, fails)
    calls = []

    def cut(*arguments):
        calls.append(arguments)
        # The first two are the record's.
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, fails, cut)
    receipt = schedules.take(shipment(TWO))
    monkeypatch.undo()
    assert receipt == Receipt(TWO.digest, True, "cannot be written: No space left on device")
    assert read(schedules.path("tiny")) == ONE
    (draft,) = [name for name in names(schedules) if name.endswith(".new")]
    # As another process left it.
    folder = os.path.dirname(schedules.path("tiny"))
    os.rename(os.path.join(folder, draft), os.path.join(folder, "tiny.json.1.new"))
    assert schedules.take(shipment(TWO)).refusal is None
    assert read(schedules.path("tiny")) == TWO
    assert names(schedules) == ["tiny.json", "tiny.shipment"]


def test_names_reach_the_disk_before_the_answer(schedules, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(number):
        synced.append(os.readlink("/proc/self/fd/{}".format(number)))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    schedules.take(shipment(ONE))
    assert synced[-1] == os.path.realpath(os.path.dirname(schedules.path("tiny")))


def test_the_agent_takes_what_comes_with_the_answer_and_says_so(coordinator, agent, tmp_path):
    coordinator.shipments = [[shipment(ONE), shipment(TWO, model="other")]]
    assert not agent().step(FACTS, wait_seconds=0)
    (receipts,) = coordinator.receipts
    assert receipts[0] == Receipt(ONE.digest, True)
    assert "not for 'other'" in receipts[1].refusal
    assert read(str(tmp_path / "schedules" / "tiny.json")) == ONE


def test_nothing_shipped_is_nothing_said(coordinator, agent, tmp_path):
    agent().step(FACTS, wait_seconds=0)
    assert coordinator.receipts == []
    assert not (tmp_path / "schedules").exists()


def test_schedules_come_before_the_job_that_came_with_them(coordinator, agent, tmp_path):
    coordinator.shipments = [[shipment(ONE)]]
    coordinator.leases = [lease()]
    there = "os.path.exists({!r}) or sys.exit(4)".format(str(tmp_path / "schedules" / "tiny.json"))
    assert agent(there).step(FACTS)
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.DONE]
    assert [name for name, _, _ in coordinator.requests][:2] == ["lease", "receipts"]


def test_a_job_does_not_wait_for_a_coordinator_that_hears_of_no_schedules(coordinator, agent):
    coordinator.answers = {"receipts": 503}
    coordinator.shipments = [[shipment(ONE)]]
    coordinator.leases = [lease()]
    assert agent().step(FACTS)
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.DONE]


def test_without_a_job_a_coordinator_that_does_not_hear_is_asked_again_later(coordinator, agent, tmp_path):
    coordinator.answers = {"receipts": 503}
    coordinator.shipments = [[shipment(ONE)]]
    with pytest.raises(Unreachable):
        agent().step(FACTS)
    assert read(str(tmp_path / "schedules" / "tiny.json")) == ONE


def test_a_coordinator_that_refuses_to_hear_is_not_asked_in_a_circle(coordinator, agent, monkeypatch):
    coordinator.answers = {"receipts": 422}
    coordinator.shipments = [[shipment(ONE)]]
    one = agent()
    waited = []
    monkeypatch.setattr(one._stopping, "wait", waited.append)
    one.step(FACTS)
    assert waited == [30.0]
    coordinator.answers = {"receipts": 401}
    coordinator.shipments = [[shipment(ONE)]]
    with pytest.raises(Refused):
        one.step(FACTS)


def test_a_home_keeps_schedules_of_models_apart(schedules):
    other = dataclasses.replace(ONE, model="other")
    schedules.take(shipment(ONE))
    schedules.take(shipment(other, model="other"))
    assert read(schedules.path("tiny")) == ONE
    assert read(schedules.path("other")) == other


def test_what_lies_there_is_what_reduce_reads(schedules):
    pytest.importorskip("torch", reason="torch is not installed")
    from tailfleet_reduce import load_schedule

    schedules.take(shipment(ONE))
    schedules.take(shipment(TWO, verified=False))
    assert load_schedule(schedules.path("tiny")) == ONE
    assert load_schedule(schedules.path("tiny", verified=False)) == TWO
