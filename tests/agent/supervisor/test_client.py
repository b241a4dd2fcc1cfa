"""What the agent makes of a coordinator's answers: it is as strict as the coordinator is with it."""

import pytest

from tailfleet_agent.client import Client, Refused, Unreachable
from tailfleet_schema import codec, schedule
from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import Blame, DecodeError
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.messages import Lease, LeaseRequest, WorkerOrder
from tailfleet_schema.workload import Geometry, ModelSpec, Workload

GEOMETRY = Geometry(4, 16, 2, 32, 17, 1, 16, 4, 3, 10)
JOB = Job(
    "j",
    JobKind.SWEEP,
    Workload(ModelSpec("tiny", "VisionTransformer", GEOMETRY)),
    [Unit(Part.MODEL, 17, 17)],
    1,
    1,
    0,
    [schedule.dense("tiny", GEOMETRY)],
)
FACTS = BoardFacts(BoardKind.PHYSICAL, Hardware("m", "aarch64", "cpu", 4, 1 << 30), Software("linux", "5", "3.6", "0"))


def spoiled(**changes):
    """A lease of JOB whose schedule is changed, as JSON."""
    lease = codec.encode(Lease(JOB, 1, 60.0, []))
    lease["job"]["schedules"][0].update(changes)
    return lease


SPOILED = [
    (spoiled(method="topk", keep=[17, 17, 17, 300]), "lease.job.schedules[0].keep[3]: 300, but only 17 tokens arrive"),
    (spoiled(method="topk", keep=[17, 17, 17, 1]), "lease.job.schedules[0].keep[3]: 1, but topk can leave no fewer"),
    (spoiled(method="topk", keep=[17, 17, True]), "lease.job.schedules[0].keep[2]: must be a whole number"),
    (spoiled(keep=[17]), "lease.job.schedules[0].keep: has 1 blocks, model 'tiny' has 4"),
    (spoiled(colour=1), "lease.job.schedules[0].colour: unknown field"),
]


@pytest.mark.parametrize(("lease", "words"), SPOILED, ids=range(len(SPOILED)))
def test_an_order_that_cannot_be_meant_is_not_taken(coordinator, lease, words):
    coordinator.answer = lambda path, body, authorization: {"lease": lease}
    with pytest.raises(Unreachable) as caught:
        Client(coordinator.url, "t").lease(LeaseRequest(FACTS, 0.0))
    assert "does not answer as a coordinator does (reply." + words in caught.value.sentence


def test_the_measured_child_is_as_strict():
    order = {"job": spoiled(method="topk", keep=[17, 17, 17, 300])["job"]}
    with pytest.raises(DecodeError, match=r"^order\.job\.schedules\[0\]\.keep\[3\]: 300, but"):
        codec.loads(WorkerOrder, codec.dumps(order), "order")


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"\xff", b'{"error": NaN}', b"[" * 100000], ids=range(5))
def test_a_refusal_in_another_shape_is_still_a_refusal(coordinator, content):
    coordinator.refusal = content
    coordinator.answers["lease"] = 418
    with pytest.raises(Refused) as caught:
        Client(coordinator.url, "t").lease(LeaseRequest(FACTS, 0.0))
    assert (caught.value.status, caught.value.blame) == (418, Blame.BUG)
    assert "status 418" in caught.value.sentence
