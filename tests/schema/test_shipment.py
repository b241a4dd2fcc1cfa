import dataclasses
import hashlib

import pytest

from tailfleet_schema import codec
from tailfleet_schema.errors import DecodeError, InputError
from tailfleet_schema.messages import LeaseReply
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.shipment import REASON_LENGTH, PlannedOn, Receipt, Shipment
from tailfleet_schema.workload import Geometry

GEOMETRY = Geometry(2, 8, 2, 16, 5, 1, 8, 4, 1, 3)
SCHEDULE = Schedule("topk", "tiny", 5, 1, [5, 3])
DIGEST = "a" * 64


def shipment(text=codec.dumps(SCHEDULE), **changes):
    digest = hashlib.sha256(text.encode()).hexdigest()
    return dataclasses.replace(
        Shipment(digest, "tiny", GEOMETRY, text, True, PlannedOn(DIGEST, "c1", 3, DIGEST, DIGEST)), **changes
    )


def test_a_shipment_travels_whole_and_holds_its_schedule():
    sent = LeaseReply(shipments=[shipment()])
    (arrived,) = codec.loads(LeaseReply, codec.dumps(sent)).shipments
    assert arrived == shipment()
    assert arrived.digest == SCHEDULE.digest
    assert arrived.schedule() == SCHEDULE


def test_one_that_fits_nothing_still_travels_so_that_the_board_can_refuse_it():
    odd = shipment('{"method": "of another release"}', digest="no digest")
    assert codec.loads(Shipment, codec.dumps(odd)) == odd


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": DIGEST}, r"what arrived as schedule aaaaaaaaaaaa has the hash \w{12}$"),
        ({"digest": "no digest"}, "^digest: must be a sha256"),
        ({"text": codec.dumps(SCHEDULE)[:-1]}, "^schedule: not valid JSON"),
        ({"text": codec.dumps(SCHEDULE).replace("topk", "magic")}, r"^schedule\.method: unknown method 'magic'"),
        ({"model": "other"}, r"^schedule\.model: was made for model 'tiny', not for 'other'"),
        (
            {"geometry": dataclasses.replace(GEOMETRY, tokens=17)},
            r"^schedule\.tokens: expects 5 tokens, but model 'tiny' has 17",
        ),
        ({"geometry": dataclasses.replace(GEOMETRY, prefix=2)}, r"^schedule\.prefix: expects 1 tokens"),
        ({"geometry": dataclasses.replace(GEOMETRY, depth=3)}, r"^schedule\.keep: has 2 blocks, model 'tiny' has 3"),
    ],
)
def test_what_is_not_as_it_is_told_is_refused_in_one_sentence(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        shipment(**changes).schedule()
    assert "\n" not in caught.value.sentence


@pytest.mark.parametrize(
    ("kind", "data", "path"),
    [
        (PlannedOn, {"model_digest": "abc"}, "model_digest"),
        (PlannedOn, {"model_digest": DIGEST, "dataset_sha256": "abc"}, "dataset_sha256"),
        (PlannedOn, {"model_digest": DIGEST, "fingerprint": "abc"}, "fingerprint"),
        (Receipt, {"digest": "abc", "verified": True}, "digest"),
        (Receipt, {"digest": DIGEST, "verified": True, "refusal": ""}, "refusal"),
        (Receipt, {"digest": DIGEST, "verified": True, "refusal": "x" * (REASON_LENGTH + 1)}, "refusal"),
    ],
)
def test_what_no_row_could_hold_is_refused(kind, data, path):
    with pytest.raises(DecodeError) as caught:
        codec.decode(kind, data)
    assert caught.value.path == path
