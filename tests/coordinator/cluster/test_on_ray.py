"""A campaign on a real local Ray: a real actor, killed in mid-campaign, real tasks; a board that answers at once."""

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from tailfleet_coordinator import campaigns
from tailfleet_coordinator.cluster import ray_runtime
from tailfleet_coordinator.cluster.campaign import Surroundings
from tailfleet_coordinator.cluster.reconciler import Reconciler
from tailfleet_coordinator.settings import Settings
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignState, Objective, SweepSettings
from tailfleet_schema.job import JobKind

PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    settings = Settings(state_dir=tmp_path_factory.mktemp("ray"), ray_cpus=2)
    # Ray changes handlers and variables of the process that it is started in.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    environment = dict(os.environ)
    ray_runtime.start(settings)
    yield settings
    ray_runtime.stop(settings)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for name in set(os.environ) - set(environment):
        del os.environ[name]


@pytest.fixture
def reconciler(settings, lab, campaigning):
    surroundings = Surroundings(lab.url, str(campaigning.artifacts._folder), "host-machine", 30.0)
    reconciler = Reconciler(lab.store, surroundings, 0.05)
    yield reconciler
    reconciler.stop()


def until(what, look):
    """Look again and again, up to a deadline."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if look():
            return
    raise AssertionError(f"not in time: {what}")


def test_an_actor_drives_a_campaign_and_a_killed_one_is_replaced(lab, campaigning, reconciler):
    import ray

    board = lab.board("modelled", BoardKind.VIRTUAL)
    sweep = SweepSettings(counts="all", rounds=2, calls=2)
    lab.campaign("c1", "modelled", objective=Objective(latency_share=0.9), sweep=sweep, planners=["optimal"])

    def jobs():
        reconciler.reconcile()
        return lab.store.list_jobs("c1")

    until("the actor orders a sweep", jobs)
    actor = ray.get_actor("campaign-c1", namespace=ray_runtime.NAMESPACE)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.__ray_call__.remote(lambda self: os.kill(os.getpid(), signal.SIGKILL)))
    campaigning.play(board)

    def verified():
        return [job for job in jobs() if job.kind is JobKind.VERIFY]

    until("a new actor plans and orders the verification", verified)
    ray.kill(ray.get_actor("campaign-c1", namespace=ray_runtime.NAMESPACE))
    campaigning.play(board)

    def ended():
        reconciler.reconcile()
        return lab.store.get_campaign("c1").state is not CampaignState.RUNNING

    until("the campaign ends", ended)
    assert lab.store.get_campaign("c1").state is CampaignState.DONE
    assert [(job.kind, job.attempt) for job in jobs()] == [(JobKind.SWEEP, 1), (JobKind.VERIFY, 1)]
    (row,) = campaigns.report_of(lab.store, lab.store.get_campaign("c1")).rows
    assert row.measured_ns < row.dense_ns
    reconciler.reconcile()
    with pytest.raises(ValueError, match="campaign-c1"):
        ray.get_actor("campaign-c1", namespace=ray_runtime.NAMESPACE)


def test_nobody_joins_without_the_token(settings):
    import ray

    token = settings.state_dir / "ray.token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    address = ray.get_runtime_context().gcs_address
    program = "import ray, sys; ray.init(address=sys.argv[1]); print(ray.get(ray.remote(lambda: 'let in').remote()))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64, RAY_USAGE_STATS_ENABLED="0")
    stranger = subprocess.Popen(
        [sys.executable, "-c", program, address],
        env=environment,
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
