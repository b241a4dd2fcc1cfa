"""The supervisor against real HTTP and real child processes that behave as told."""

import dataclasses
import json

import pytest
from scripted import FACTS, lease

from tailfleet_agent import client as client_room
from tailfleet_agent.client import Client, Refused, Unreachable
from tailfleet_schema import codec
from tailfleet_schema.curve import Part, Unit, UnitResult
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Effort, Key
from tailfleet_schema.messages import EnrolRequest, Lease, Outcome, WorkerOrder
from tailfleet_schema.workload import DatasetSpec, Workload


def test_a_job_is_leased_run_and_delivered(coordinator, agent):
    coordinator.leases = [lease()]
    assert agent().step(FACTS)
    assert set(coordinator.results) == set(lease().job.keys())
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.DONE]
    assert all(authorization == "Bearer t" for _, _, authorization in coordinator.requests)


def test_no_work_is_not_an_error(coordinator, agent):
    assert not agent().step(FACTS, wait_seconds=0)
    assert [name for name, _, _ in coordinator.requests] == ["lease"]


def test_results_are_uploaded_while_the_job_runs(coordinator, agent):
    coordinator.leases = [lease()]
    agent().step(FACTS)
    names = [name for name, _, _ in coordinator.requests]
    assert names.count("results") == 6
    assert names[-1] == "finish"


def test_known_results_are_handed_to_the_child(coordinator, agent):
    known = [Key(Part.MODEL, "", -1, 5, 5, 0), Key(Part.MODEL, "", -1, 4, 4, 1)]
    coordinator.leases = [lease(attempt=2, known=known)]
    agent().step(FACTS)
    assert set(coordinator.results) == set(lease().job.keys()) - {key.as_tuple() for key in known}


TELLS = "n or print(json.dumps({'runtime': {'device': 'a chip'}}), flush=True)"


def test_what_the_child_runs_on_goes_out_with_its_results_and_the_end(coordinator, agent):
    coordinator.leases = [lease()]
    agent(TELLS).step(FACTS)
    told = [message.runtime for name, message, _ in coordinator.requests if name in ("results", "finish")]
    assert told == [{"device": "a chip"}] * 7


def test_earlier_results_and_what_they_were_measured_on_are_handed_to_the_child(coordinator, agent, tmp_path):
    known = [Key(Part.MODEL, "", -1, 5, 5, 0)]
    earlier = [UnitResult(Unit(Part.MODEL, 5, 5), 0, [7])]
    coordinator.leases = [lease(attempt=2, known=known, earlier=earlier, runtime={"attention": "fused"})]
    heard = tmp_path / "order.json"
    agent("open({!r}, 'w').write(json.dumps(order))".format(str(heard))).step(FACTS)
    order = codec.loads(WorkerOrder, heard.read_bytes())
    assert (order.earlier, order.runtime) == (earlier, {"attention": "fused"})


def test_an_open_ended_job_ends_with_how_many_results_there_are(coordinator, agent):
    known = [Key(Part.MODEL, "", -1, 5, 5, 0), Key(Part.MODEL, "", -1, 4, 4, 1)]
    coordinator.leases = [lease(), lease(attempt=2, known=known, effort=Effort())]
    one = agent()
    one.step(FACTS)
    one.step(FACTS)
    assert [finish.results for finish in coordinator.finishes] == [None, 6]


def test_results_that_a_killed_agent_left_count_once_the_coordinator_knows_them(coordinator, agent, tmp_path):
    """The first agent delivers nothing and is gone; what it spooled is known to the second one's lease."""
    coordinator.answers = {"results": 503, "heartbeat": 503}
    coordinator.leases = [lease(effort=Effort())]
    act = "n == 4 and os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(Unreachable):
        agent(act).step(FACTS)
    coordinator.answers = {}
    second = agent()
    second.drain()
    known = [Key(Part(k.part), k.label, k.block, k.tokens, k.kept, k.round) for k in coordinator.results]
    assert len(known) == 4
    coordinator.leases = [lease(attempt=2, known=known, effort=Effort())]
    second.step(FACTS)
    assert coordinator.finishes[-1].results == 6


def test_a_coordinator_that_vanishes_costs_no_result(coordinator, agent):
    """It is away from the second result on; everything is delivered when it is back."""
    away = {"answers": 0}

    def sometimes():
        away["answers"] += 1
        return None if away["answers"] == 1 else 503

    coordinator.answers = {"results": sometimes, "heartbeat": 503}
    coordinator.leases = [lease()]
    one = agent()
    with pytest.raises(Unreachable):
        one.step(FACTS)
    assert len(coordinator.results) == 1
    coordinator.answers = {}
    one.drain()
    assert set(coordinator.results) == set(lease().job.keys())
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.DONE]


def test_undelivered_results_go_before_new_work(coordinator, agent, tmp_path):
    coordinator.answers = {"results": 503}
    coordinator.leases = [lease()]
    with pytest.raises(Unreachable):
        agent().step(FACTS)
    coordinator.answers = {}
    coordinator.requests.clear()
    agent().step(FACTS, wait_seconds=0)
    assert [name for name, _, _ in coordinator.requests] == ["results", "finish", "lease"]


def test_results_stay_when_this_board_is_not_known(coordinator, agent):
    coordinator.leases = [lease()]
    coordinator.answers = {"results": 503}
    one = agent()
    with pytest.raises(Unreachable):
        one.step(FACTS)
    coordinator.answers = {"results": 401}
    with pytest.raises(Refused):
        one.step(FACTS)
    coordinator.answers = {}
    assert not one.step(FACTS)
    assert len(coordinator.results) == 6


def test_a_lost_lease_ends_the_child_and_drops_the_job(coordinator, agent):
    coordinator.answers = {"results": 409}
    coordinator.leases = [lease()]
    one = agent()
    assert one.step(FACTS)
    assert coordinator.finishes == []
    coordinator.answers = {}
    one.drain()
    assert coordinator.results == {}


def test_a_cancelled_job_stops_within_one_unit(coordinator, agent):
    coordinator.cancel = True
    coordinator.leases = [lease()]
    agent().step(FACTS)
    assert len(coordinator.results) == 1
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.CANCELLED]


def test_a_killed_child_is_interrupted_not_failed(coordinator, agent):
    coordinator.leases = [lease()]
    agent(act="n == 2 and os.kill(os.getpid(), signal.SIGKILL)").step(FACTS)
    assert len(coordinator.results) == 2
    (finish,) = coordinator.finishes
    assert finish.outcome is Outcome.INTERRUPTED
    assert "signal 9" in finish.failure.sentence


def test_a_child_that_ends_by_itself_is_a_bug_with_its_log(coordinator, agent):
    coordinator.leases = [lease()]
    agent(act="n == 1 and sys.exit('it broke here')").step(FACTS)
    (finish,) = coordinator.finishes
    assert (finish.outcome, finish.failure.blame) == (Outcome.FAILED, Blame.BUG)
    assert "it broke here" in finish.failure.detail


def test_a_child_that_writes_nonsense_is_a_bug(coordinator, agent):
    coordinator.leases = [lease()]
    agent(act="print('hello', flush=True)").step(FACTS)
    (finish,) = coordinator.finishes
    assert (finish.outcome, finish.failure.blame) == (Outcome.FAILED, Blame.BUG)


def test_artifacts_are_fetched_checked_and_kept(coordinator, agent, tmp_path):
    sha256 = coordinator.artifact(b"images")
    dataset = DatasetSpec("d", sha256, 3, 4, 4, "made up")
    coordinator.leases = [lease(dataset=dataset)]
    agent().step(FACTS)
    assert (tmp_path / "artifacts" / sha256).read_bytes() == b"images"


def test_a_damaged_artifact_fails_the_job_and_is_not_kept(coordinator, agent, tmp_path):
    dataset = DatasetSpec("d", "a" * 64, 3, 4, 4, "made up")
    coordinator.artifacts["a" * 64] = b"something else"
    coordinator.leases = [lease(dataset=dataset)]
    agent().step(FACTS)
    (finish,) = coordinator.finishes
    assert (finish.outcome, finish.failure.blame) == (Outcome.FAILED, Blame.LAB)
    assert "damaged" in finish.failure.sentence
    assert list((tmp_path / "artifacts").iterdir()) == []


def files_dataset(coordinator, pack=b"pack"):
    return DatasetSpec(
        "d",
        coordinator.artifact(b"index"),
        3,
        4,
        4,
        "made up",
        form="files",
        pack_sha256=coordinator.artifact(pack) if pack else None,
    )


def test_images_come_from_the_pack_or_from_a_folder_that_the_board_names(coordinator, agent, tmp_path):
    """With a folder, the index alone is fetched."""
    told = tmp_path / "order.json"
    act = "open({!r}, 'w').write(json.dumps(order))".format(str(told))
    dataset = files_dataset(coordinator)
    for datasets, folder, fetched in (
        ({"d": "/images/d"}, "/images/d", [dataset.sha256]),
        ({"other": "/images/other"}, None, [dataset.sha256, dataset.pack_sha256]),
    ):
        coordinator.leases = [lease(dataset=dataset)]
        agent(act=act, datasets=datasets).step(FACTS)
        assert json.loads(told.read_text())["dataset_folder"] == folder
        assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == sorted(fetched)
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.DONE, Outcome.DONE]


def test_a_dataset_of_arrays_is_not_sought_in_a_folder(coordinator, agent, tmp_path):
    told = tmp_path / "order.json"
    dataset = DatasetSpec("d", coordinator.artifact(b"images"), 3, 4, 4, "made up")
    coordinator.leases = [lease(dataset=dataset)]
    act = "open({!r}, 'w').write(json.dumps(order))".format(str(told))
    agent(act=act, datasets={"d": "/images/d"}).step(FACTS)
    assert json.loads(told.read_text())["dataset_folder"] is None


def test_needed_are_weights_index_and_pack():
    model = dataclasses.replace(lease().job.workload.model, checkpoint_sha256="c" * 64)
    dataset = DatasetSpec("d", "d" * 64, 3, 4, 4, "made up", form="files", pack_sha256="e" * 64)
    job = lease(workload=Workload(model, backend="virtual"), dataset=dataset).job
    assert job.artifacts() == ["c" * 64, "d" * 64, "e" * 64]
    assert job.artifacts(has_folder=True) == ["c" * 64, "d" * 64]
    assert lease().job.artifacts() == []


@pytest.fixture
def download(coordinator, monkeypatch):
    """A lease whose images arrive in ten pieces."""
    monkeypatch.setattr(client_room, "CHUNK_BYTES", 100)
    return lease(dataset=files_dataset(coordinator, b"0123456789" * 100))


def test_a_long_download_keeps_the_lease(coordinator, agent, download):
    coordinator.leases = [download]
    agent().step(FACTS)
    names = [name for name, _, _ in coordinator.requests]
    assert names.count("heartbeat") >= 10
    assert names.index("heartbeat") < names.index("results")
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.DONE]


def test_a_download_is_not_disturbed_more_often_than_needed(coordinator, agent, download):
    coordinator.leases = [download]
    agent(contact_seconds=10.0).step(FACTS)
    # Only the one whose answer is held.
    assert [message.wait_seconds > 0 for name, message, _ in coordinator.requests if name == "heartbeat"] == [True]


class Later(dict):
    """Artifacts that are served once the held heartbeat is answered, so that its answer is there between two pieces."""

    def __init__(self, artifacts, told):
        super().__init__(artifacts)
        self._told = told

    def get(self, *arguments):
        assert self._told.acquire(timeout=20)
        self._told.release()
        return super().get(*arguments)


def test_a_job_cancelled_while_it_downloads_ends_there(coordinator, agent, download):
    coordinator.cancel = True
    coordinator.artifacts = Later(coordinator.artifacts, coordinator.told)
    coordinator.leases = [download]
    agent(act="sys.exit('started')").step(FACTS)
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.CANCELLED]
    assert [name for name, _, _ in coordinator.requests].count("heartbeat") == 1


def test_a_lease_lost_while_it_downloads_drops_the_job(coordinator, agent, download):
    coordinator.answers = {"heartbeat": 409}
    coordinator.leases = [download]
    assert agent().step(FACTS)
    assert coordinator.finishes == []


def test_an_agent_stopped_while_it_downloads_gives_the_job_back(coordinator, agent, download, tmp_path):
    one = agent()
    one._stopping.set()
    one.work(download)
    (finish,) = coordinator.finishes
    assert (finish.outcome, finish.failure.sentence) == (Outcome.INTERRUPTED, "the agent was stopped")
    assert not (tmp_path / "artifacts" / download.job.dataset.pack_sha256).exists()


def test_the_cache_keeps_to_its_bytes(coordinator, agent, tmp_path):
    for content in (b"1" * 600, b"2" * 600):
        coordinator.leases = [lease(dataset=DatasetSpec("d", coordinator.artifact(content), 3, 4, 4, "made up"))]
        agent(cache_bytes=1000).step(FACTS)
    assert [path.read_bytes()[:1] for path in (tmp_path / "artifacts").iterdir()] == [b"2"]


def test_an_interpreter_that_is_missing_is_said(coordinator, agent, tmp_path):
    coordinator.leases = [lease()]
    one = agent()
    one._command = [str(tmp_path / "no-python")]
    one.step(FACTS)
    (finish,) = coordinator.finishes
    assert "cannot be started" in finish.failure.sentence


def test_a_refusal_keeps_the_sentence(coordinator):
    coordinator.answers = {"enroll": 403}
    with pytest.raises(Refused) as caught:
        Client(coordinator.url).enroll(EnrolRequest(FACTS))
    assert (caught.value.sentence, caught.value.mend) == ("no: status 403", "try otherwise")
    assert caught.value.blame is Blame.LAB


def test_something_that_is_no_coordinator_is_unreachable(coordinator):
    coordinator.answer = lambda *_: {"hello": "world"}
    with pytest.raises(Unreachable, match="as a coordinator does"):
        Client(coordinator.url).enroll(EnrolRequest(FACTS))


def test_a_stopped_agent_gives_the_job_back(coordinator, agent):
    coordinator.leases = [lease()]
    one = agent()
    one._stopping.set()
    one.work(coordinator.leases.pop())
    (finish,) = coordinator.finishes
    assert finish.outcome is Outcome.INTERRUPTED


def test_codec_holds_the_order(coordinator):
    assert codec.loads(Lease, codec.dumps(lease())) == lease()
