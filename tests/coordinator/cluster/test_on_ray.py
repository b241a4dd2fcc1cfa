"""A campaign on a Ray of our own: its actor is killed in mid-campaign by every means; and who gets in."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace

import httpx
import pytest
import raw_grpc
from ray_here import PATIENCE_SECONDS, Watched, actors, connected, listening, until

from tailfleet_coordinator import campaigns
from tailfleet_coordinator.cluster import own_ray, ray_ports, ray_runtime
from tailfleet_coordinator.cluster.artifact_api import ArtifactApi
from tailfleet_coordinator.cluster.campaign import namespace_of
from tailfleet_coordinator.cluster.reconciler import evict, keep_reconciling
from tailfleet_coordinator.refusals import Deposed
from tailfleet_coordinator.settings import Settings
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignState, Objective, SweepSettings
from tailfleet_schema.errors import ConfigurationError
from tailfleet_schema.job import JobKind

SWEEP = SweepSettings(counts="all", rounds=2, calls=2)
PRUNE = {"objective": Objective(latency_share=0.9), "sweep": SWEEP, "planners": ["optimal"]}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    settings = Settings(state_dir=tmp_path_factory.mktemp("ray"), ray_cpus=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILFLEET_DATABASE_URL", "postgresql://somebody:secret@somewhere/farm")
        with connected(settings):
            yield settings


@pytest.fixture
def surroundings(settings, around):
    return around(ArtifactApi("http://127.0.0.1:9", "none"))


@pytest.fixture
def reconciler(lab, surroundings):
    reconciler = Watched(lab.store, surroundings)
    yield reconciler
    reconciler.stop()


def die(actor):
    """SIGKILL the process of the actor."""
    import ray

    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.__ray_call__.remote(lambda self: os.kill(os.getpid(), signal.SIGKILL)))


def kill(actor):
    import ray

    ray.kill(actor)


@pytest.mark.parametrize("end", [die, kill])
def test_a_killed_actor_is_replaced_while_a_handle_to_it_is_held(lab, campaigning, reconciler, surroundings, end):
    import ray

    board = lab.board("modelled", BoardKind.VIRTUAL)
    lab.campaign("c1", "modelled", **PRUNE)
    handles = []

    def jobs():
        reconciler.reconcile()
        return lab.store.list_jobs("c1")

    def kill_it():
        handles.append(ray.get_actor("campaign-c1", namespace=surroundings.namespace))
        end(handles[-1])

    until("the actor orders a sweep", jobs)
    kill_it()
    campaigning.play(board)
    until("a new actor plans", lambda: [job for job in jobs() if job.kind is JobKind.VERIFY])
    kill_it()
    campaigning.play(board)

    def ended():
        reconciler.reconcile()
        return lab.store.get_campaign("c1").state is not CampaignState.RUNNING

    until("the campaign ends", ended)
    assert lab.store.get_campaign("c1").state is CampaignState.DONE
    assert [(job.kind, job.attempt) for job in jobs()] == [(JobKind.SWEEP, 1), (JobKind.VERIFY, 1)]
    (row,) = campaigns.report_of(lab.store, lab.store.get_campaign("c1")).rows
    assert row.measured_ns < row.dense_ns
    assert reconciler.most == 1
    assert len(handles) == 2
    with pytest.raises(ValueError, match="campaign-c1"):
        ray.get_actor("campaign-c1", namespace=surroundings.namespace)


def test_an_actor_that_an_earlier_coordinator_left_is_ended_first(lab, campaigning, reconciler, surroundings):
    import ray

    board = lab.board("modelled", BoardKind.VIRTUAL)
    lab.campaign("c1", "modelled", sweep=SWEEP)
    earlier = Watched(lab.store, surroundings)
    earlier.reconcile()
    left = ray.get_actor("campaign-c1", namespace=surroundings.namespace)
    assert ray.get(left.advance.remote())

    def ended():
        reconciler.reconcile()
        campaigning.play(board)
        return lab.store.get_campaign("c1").state is CampaignState.DONE

    until("the campaign ends", ended)
    assert reconciler.most == 1
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(left.advance.remote())
    assert [job.attempt for job in lab.store.list_jobs("c1")] == [1]


def test_two_databases_on_one_cluster_do_not_meet():
    file, server = "sqlite:////here/tailfleet.sqlite", "postgresql+psycopg://one:secret@db:5432/farm"
    assert namespace_of(file, "host") == namespace_of(file, "host")
    assert namespace_of("sqlite:////elsewhere/tailfleet.sqlite", "host") != namespace_of(file, "host")
    assert namespace_of(file, "another") != namespace_of(file, "host")
    assert namespace_of(server, "another") == namespace_of(server, "host")
    assert namespace_of("postgresql+psycopg://two:other@db:5432/farm", "host") == namespace_of(server, "host")


def test_the_actor_of_a_deposed_coordinator_ends_and_fails_nothing(lab, campaigning, surroundings):
    lab.board("modelled", BoardKind.VIRTUAL)
    lab.campaign("c1", "modelled", sweep=SWEEP)
    epoch = lab.store.take_leadership("one", "one", 60)
    surroundings = replace(surroundings, epoch=epoch)
    reconciler = Watched(lab.store, surroundings)
    reconciler.reconcile()
    until("it looks", lambda: lab.store.list_jobs("c1"))
    # Another one takes over, by a store of its own.
    other = type(lab.store)(lab.url)
    lab.store.end_leadership()
    other.take_leadership("two", "two", 60)
    lab.sql("UPDATE steps SET phase = 'waiting', note = ''")

    class Patience:
        """An event that is set only when a test has waited too long."""

        deadline = time.monotonic() + PATIENCE_SECONDS

        def wait(self, seconds):
            return time.monotonic() > self.deadline

    # It ends by itself, since it may not replace the actor that ended by itself.
    patience = Patience()
    keep_reconciling([reconciler], 0.0)(patience)
    assert not patience.wait(0)
    assert not [actor for actor in actors(surroundings.namespace) if actor[1] != "DEAD"]
    assert other.get_campaign("c1").state is CampaignState.RUNNING
    assert [step.phase for step in other.list_steps("c1")] == ["waiting"]
    with pytest.raises(Deposed):
        reconciler.reconcile()
    other.close()


def test_evicting_a_name_that_nobody_has_does_nothing(surroundings):
    evict("campaign-none", surroundings.namespace)


def ray_sockets():
    """First port of our Ray, and all on which it listens, each with its address."""
    import ray

    ray.get(ray.remote(lambda: None).remote())
    first = int(ray.get_runtime_context().gcs_address.rpartition(":")[2])
    # This process is one of Ray's, too: the driver.
    return first, sorted(listening([os.getpid(), *own_ray.descendants(os.getpid())]))


def test_ray_listens_on_its_block_of_ports_alone(settings):
    import ray

    first, found = ray_sockets()
    assert {port for port, _ in found} <= set(range(first, first + ray_ports.BLOCK))
    assert first in range(ray_ports.FIRST, ray_ports.FIRST + ray_ports.BLOCK * ray_ports.BLOCKS, ray_ports.BLOCK)
    everywhere = [port for port, address in found if address == "::"]
    # On all interfaces: control service, node manager, object manager; then one port for the driver and each worker.
    assert everywhere[:3] == [first, first + 1, first + 2]
    assert len(everywhere) >= 5
    # And the agent that prepares environments, on the node's own address.
    here = ray.nodes()[0]["NodeManagerAddress"]
    assert [pair for pair in found if pair[1] != "::"] == [(first + 5, here)]


def test_every_port_of_ray_refuses_a_call_without_the_token(settings):
    import ray

    token = (settings.state_dir / "ray.token").read_text()
    first, found = ray_sockets()
    methods = {
        first: "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
        first + 1: "/ray.rpc.NodeManagerService/GetNodeStats",
        first + 2: "/ray.rpc.ObjectManagerService/Pull",
    }
    for port, address in found:
        if port == first + 5:
            url = f"http://{address}:{port}/get_or_create_runtime_env"
            for words, status in (({}, 401), ({"Authorization": f"Bearer {'0' * 64}"}, 403)):
                assert httpx.post(url, headers=words, trust_env=False).status_code == status
            continue
        method = methods.get(port, "/ray.rpc.CoreWorkerService/GetCoreWorkerStats")
        for stranger in (None, "0" * 64):
            status, words = raw_grpc.call(port, method, stranger)
            assert (status, words[:16]) == (raw_grpc.UNAUTHENTICATED, "InvalidAuthToken"), (port, method)
        assert raw_grpc.call(port, method, token)[0] == raw_grpc.OK, (port, method)
    assert ray.is_initialized()


def test_two_rays_on_a_machine_take_a_block_each():
    with ray_ports.take(None) as one, ray_ports.take(None) as two:
        assert two >= one + ray_ports.BLOCK
        with pytest.raises(ray_ports.PortsTaken, match="not all free"), ray_ports.take(one):
            pass
    with ray_ports.take(one) as again:
        assert again == one


def test_a_block_in_which_somebody_listens_is_not_taken():
    with ray_ports.take(None) as first:
        pass
    with socket.create_server(("127.0.0.1", first + 200)):
        with pytest.raises(ray_ports.PortsTaken, match="not all free"), ray_ports.take(first):
            pass
        with ray_ports.take(None) as other:
            assert other > first


def test_a_ray_that_cannot_start_is_one_sentence(tmp_path):
    # A socket's path may have 107 characters.
    folder = tmp_path / ("d" * 100)
    order = own_ray.Order(str(folder), None, 1, 80_000_000)
    own = own_ray.OwnRay(order, os.environ)
    until("it ends", lambda: not own.runs)
    words = own.last_words()
    own.stop()
    assert "path length" in words
    assert not folder.exists()


def test_ports_that_are_taken_are_one_sentence(tmp_path):
    with ray_ports.take(None) as first, pytest.raises(ConfigurationError, match=f"ports {first} to") as refused:
        own_ray.OwnRay(own_ray.Order(str(tmp_path / "ray"), first, 1, 1), os.environ)
    assert "--ray-ports" in refused.value.mend


def test_nothing_that_ray_is_told_of_the_environment_names_the_database(settings):
    import ray

    seen = ray.get(ray.remote(lambda: dict(os.environ)).remote())
    assert "PATH" in seen
    assert not [name for name in seen if name.startswith("TAILFLEET_")]


@pytest.mark.parametrize(
    "token",
    [
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        {"RAY_AUTH_MODE": "disabled"},
    ],
    ids=["wrong", "none"],
)
def test_nobody_joins_without_the_token(settings, token):
    import ray

    assert stat.S_IMODE((settings.state_dir / "ray.token").stat().st_mode) == 0o600
    address = ray.get_runtime_context().gcs_address
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    program = "import ray, sys; ray.init(address=sys.argv[1]); print(ray.get(ray.remote(lambda: 'let in').remote()))"
    stranger = subprocess.Popen(
        [sys.executable, "-c", program, address],
        env={**environment, **token, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # It tries again for a long time; its first refusal is enough.
    with stranger:
        refused = next((line for line in stranger.stdout if "let in" in line or "Unauthenticated" in line), "no answer")
        stranger.kill()
    assert "Unauthenticated" in refused


def test_sockets_have_short_paths_wherever_the_state_lies(tmp_path):
    deep = tmp_path / ("d" * 100)
    assert (
        len(str(ray_runtime.session_dir(deep))) + len("/session_2026-11-21_09-03-32_902000_4194304/sockets/raylet")
        < 108
    )
    assert ray_runtime.session_dir(deep) != ray_runtime.session_dir(tmp_path)
