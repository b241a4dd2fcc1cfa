"""An existing cluster with several machines (local nodes): what runs where, what it is given, and boards among them.

The coordinator's node has no cores for tasks, so every task runs on another one.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ray_here import Watched, actors, connected, node, undisturbed, until

from tailfleet_coordinator import agent_bundle, bundled
from tailfleet_coordinator.cluster import own_ray, ray_runtime, tasks
from tailfleet_coordinator.cluster.artifact_api import ArtifactApi
from tailfleet_coordinator.cluster.boards import BoardReconciler, board_name
from tailfleet_coordinator.cluster.keeper import BoardOrder
from tailfleet_coordinator.cluster.tasks import RayTasks
from tailfleet_coordinator.settings import Settings
from tailfleet_coordinator.web.access import hashed
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignState, Objective, SweepSettings
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import Blame, ConfigurationError
from tailfleet_schema.job import Failure, Job, JobKind
from tailfleet_schema.workload import Workload

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of others: its address. This process has its token in the environment, as its users do."""
    folder = tmp_path_factory.mktemp("cluster")
    with undisturbed():
        ray_runtime.require_token(Settings(state_dir=folder))
        # Sockets have short paths.
        order = own_ray.Order(str(ray_runtime.session_dir(folder)), None, 0, ray_runtime.OBJECT_STORE_BYTES)
        own = own_ray.OwnRay(order, os.environ)
        try:
            until("it starts", lambda: can_connect(f"127.0.0.1:{own.port}"))
            yield f"127.0.0.1:{own.port}"
        finally:
            own.stop()


def can_connect(address):
    with contextlib.suppress(ConfigurationError), connected(Settings(ray_address=address)):
        return True


@pytest.fixture(scope="module")
def settings(cluster, tmp_path_factory):
    settings = Settings(state_dir=tmp_path_factory.mktemp("state"), ray_address=cluster)
    with connected(settings):
        yield settings


@pytest.fixture(scope="module")
def worker_cache(settings, tmp_path_factory):
    """A node with cores for tasks; where it keeps artifacts."""
    cache = tmp_path_factory.mktemp("worker")
    with node(settings.ray_address, "--num-cpus=2", XDG_CACHE_HOME=str(cache)):
        yield cache / "tailfleet" / "artifacts"


@pytest.fixture
def surroundings(live, around):
    return around(ArtifactApi(live.url, live.viewer))


def test_the_actor_stays_here_and_tasks_get_what_they_need_elsewhere(
    lab, live, campaigning, surroundings, worker_cache, tmp_path
):
    import ray

    (dataset, images) = bundled.datasets()[0]
    spec = next(model for model in bundled.models() if model.dataset == dataset.name)
    for content in (images, bundled.checkpoint_bytes()):
        live.artifacts.put(content)
    lab.store.put_dataset(dataset)
    lab.store.put_model(spec)
    board = lab.board("modelled", BoardKind.VIRTUAL)
    reconciler = Watched(lab.store, surroundings)
    # Few counts: each block × count is judged on real images.
    lab.campaign(
        "c1",
        "modelled",
        models=[spec.name],
        objective=Objective(latency_share=0.9),
        sweep=SweepSettings(counts="99,197", rounds=2, calls=2),
        planners=["optimal"],
    )
    here = ray.get_runtime_context().get_node_id()
    where = set()

    def look():
        reconciler.reconcile()
        campaigning.play(board)
        where.update(place for _, state, place in actors(surroundings.namespace) if state == "ALIVE")
        # Judging every count takes minutes; that it began elsewhere and was told here is what is looked at.
        return lab.sql("SELECT count(*) FROM profiles")[0][0]

    until("judgements arrive", look)
    reconciler.stop()
    assert where == {here}
    assert reconciler.most == 1
    known = {path.name for path in worker_cache.iterdir() if len(path.name) == 64}
    assert known == {dataset.sha256, hashlib.sha256(bundled.checkpoint_bytes()).hexdigest()}


def test_a_campaign_is_planned_on_another_node(lab, campaigning, surroundings, worker_cache):
    board = lab.board("modelled", BoardKind.VIRTUAL)
    reconciler = Watched(lab.store, surroundings)
    sweep = SweepSettings(counts="all", rounds=2, calls=2)
    lab.campaign("c1", "modelled", objective=Objective(latency_share=0.9), sweep=sweep, planners=["optimal"])

    def ended():
        reconciler.reconcile()
        campaigning.play(board)
        return lab.store.get_campaign("c1").state is not CampaignState.RUNNING

    until("the campaign ends", ended)
    reconciler.stop()
    assert lab.store.get_campaign("c1").state is CampaignState.DONE
    assert [(job.kind, job.attempt) for job in lab.store.list_jobs("c1")] == [(JobKind.SWEEP, 1), (JobKind.VERIFY, 1)]


def test_a_profile_runs_where_the_gpu_is(monkeypatch, lab, campaigning, surroundings, worker_cache, settings):
    import ray

    def run_profile(job, api, on_gpu):
        place = ray.get_runtime_context().get_node_id()
        yield Failure(f"{place} {os.environ.get('CUDA_VISIBLE_DEVICES')} {on_gpu}", Blame.LAB)

    # Defined here, so that it travels by value.
    monkeypatch.setattr(tasks, "run_profile", run_profile)
    model = lab.store.get_model("seeing")
    job = Job("p", JobKind.PROFILE, Workload(model), [Unit(Part.MODEL, 17, 17)], 1, 1, 0)

    def told():
        there = RayTasks(surroundings.artifact_api)
        there.profile("p", job)
        (news,) = until("it tells where it runs", there.news)
        return news.failure.sentence.split()

    with node(settings.ray_address, "--num-cpus=1", "--num-gpus=1") as with_gpu:
        assert told() == [with_gpu, "0", "True"]
    place, _, on_gpu = told()
    assert place != with_gpu
    assert on_gpu == "False"


def test_a_task_elsewhere_learns_nothing_of_the_database(lab, campaigning, surroundings, worker_cache):
    import ray

    here = ray.get_runtime_context().get_node_id()

    @ray.remote(num_cpus=1)
    def look():
        return ray.get_runtime_context().get_node_id(), dict(os.environ), Path("/proc/self/cmdline").read_bytes()

    place, environment, command = ray.get(look.remote())
    assert place != here
    secret = lab.url.removeprefix("sqlite:///")
    assert secret not in json.dumps(environment)
    assert secret.encode() not in command

    sent = []

    class Noting:
        def remote(self, *arguments):
            sent.append(arguments)

    there = RayTasks(surroundings.artifact_api)
    there._run_profile = there._run_plans = Noting()
    model = lab.store.get_model("seeing")
    units = [Unit(Part.MODEL, 17, 17)]
    there.profile("p", Job("p", JobKind.PROFILE, Workload(model), units, 1, 1, 0))
    there.plan("q", [])
    # What an actor is made of passes through the cluster's head.
    pickled = ray.cloudpickle.dumps([sent, surroundings])
    assert surroundings.artifact_api.url.encode() in pickled
    assert secret.encode() not in pickled


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:9", "nothing answers at 127.0.0.1:9"), ("somewhere", "no address of a Ray cluster")],
)
def test_a_cluster_that_is_not_there_is_one_sentence(address, words):
    with pytest.raises(ConfigurationError, match=words), ray_runtime.connected(Settings(ray_address=address)):
        pass


def test_a_wrong_token_is_one_sentence(cluster, tmp_path):
    program = (
        "import sys\n"
        "from tailfleet_coordinator.cluster import ray_runtime\n"
        "from tailfleet_coordinator.settings import Settings\n"
        "from tailfleet_schema.errors import ConfigurationError\n"
        "try:\n"
        "    with ray_runtime.connected(Settings(ray_address=sys.argv[1])):\n"
        "        print('let in')\n"
        "except ConfigurationError as error:\n"
        "    print(error.sentence, error.mend, sep='\\n')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for token in ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}, {"RAY_AUTH_MODE": "disabled"}):
        done = subprocess.run(
            [sys.executable, "-c", program, cluster], env={**environment, **token}, capture_output=True, text=True
        )
        sentence, mend = done.stdout.splitlines()
        assert sentence == f"the Ray cluster at {cluster} refuses this process's token"
        assert "RAY_AUTH_TOKEN" in mend


class Enrolling:
    """Boards of the cluster, enrolled with the real application by the real agent."""

    def __init__(self, lab, live, folder):
        self.lab = lab
        self.promised = []
        order = BoardOrder("", live.url, "farm", agent_bundle.build().content, folder=str(folder))
        self.boards = BoardReconciler(lab.store, f"tailfleet-{folder.parent.name}", order, self.promise)

    def promise(self, name):
        self.promised.append(name)
        token = secrets.token_hex(16)
        self.lab.store.create_enrolment(name, None, hashed(token), 600)
        return token

    def keeper(self):
        (kept,) = self.boards._kept.values()
        return kept.keeper


@pytest.fixture
def enrolling(lab, live, tmp_path):
    enrolling = Enrolling(lab, live, tmp_path / "home")
    yield enrolling
    enrolling.boards.stop()


def environment_of(pid):
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_a_machine_with_the_resource_is_a_board(lab, live, enrolling, settings, surroundings, worker_cache):
    import ray

    with node(settings.ray_address, "--num-cpus=1", '--resources={"tailfleet_board": 1}', OMP_NUM_THREADS="1"):
        campaigns = Watched(lab.store, surroundings)

        def look():
            enrolling.boards.reconcile()
            campaigns.reconcile()
            return [board for board in lab.store.list_boards(60) if board.online]

        (board,) = until("the machine enrols itself and asks for work", look)
        assert board.kind is BoardKind.PHYSICAL
        assert enrolling.promised == [board.name]
        sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0}
        lab.store.put_model(replace(lab.model, arguments={**sizes, "num_classes": 10}))
        lab.campaign("c1", board.name, sweep=SweepSettings(counts="5,17", rounds=2, calls=2, budget_seconds=5.0))
        pid = ray.get(enrolling.keeper().pid.remote())
        assert not [name for name in environment_of(pid) if name.startswith((b"RAY_", b"OMP_", b"CUDA_VISIBLE"))]
        assert os.getpriority(os.PRIO_PROCESS, pid) == 0
        # No task disturbs what is measured: the keeper has all cores of its machine.
        machine = next(n for n in ray.nodes() if n["Alive"] and "tailfleet_board" in n["Resources"])
        free = ray._private.state.available_resources_per_node()[machine["NodeID"]]
        assert free.get("CPU", 0) == 0
        assert free.get("tailfleet_board", 0) == 0

        os.kill(pid, signal.SIGKILL)

        def restarted():
            enrolling.boards.reconcile()
            return ray.get(enrolling.keeper().pid.remote()) not in (None, pid)

        until("the agent is started again", restarted)

        def ended():
            look()
            return lab.store.get_campaign("c1").state is not CampaignState.RUNNING

        until("the sweep is measured", ended)
        campaigns.stop()
        assert lab.store.get_campaign("c1").state is CampaignState.DONE
        assert [curve.board_kind for curve in lab.store.list_curves()] == [BoardKind.PHYSICAL]
        assert enrolling.promised == [board.name]
        pid = ray.get(enrolling.keeper().pid.remote())
        enrolling.boards.stop()
        until("the agent ends with its keeper", lambda: not Path(f"/proc/{pid}").exists())


def test_a_board_of_that_name_from_elsewhere_is_left_alone(lab, live, enrolling, settings, caplog):
    lab.board(board_name(socket.gethostname(), "", []))
    with node(settings.ray_address, "--num-cpus=1", '--resources={"tailfleet_board": 1}'):

        def left():
            enrolling.boards.reconcile()
            return [kept for kept in enrolling.boards._kept.values() if kept.keeper is None]

        with caplog.at_level(logging.WARNING, logger="tailfleet.boards"):
            until("it is left alone", left)
            enrolling.boards.reconcile()
            enrolling.boards.reconcile()
        assert len([record for record in caplog.records if "enrolled already" in record.getMessage()]) == 1


def test_a_board_is_called_after_its_machine():
    assert board_name("nano-7.lab", "10.0.0.7", []) == "nano-7.lab"
    assert board_name("nano", "10.0.0.8", ["nano"]) == "nano-10.0.0.8"
    assert board_name("--ä b--", "10.0.0.8", []) == "b"
    assert board_name("", "10.0.0.8", []) == "ray-node"
    assert board_name("nano", "fd00::8", ["nano"]) == "nano-fd00-8"
    assert len(board_name("x" * 200, "ffff:" * 8, ["x" * 24])) <= 63
