"""The work of Ray tasks, run in this process: the agent's real worker on bundled images, and plans."""

import pytest

from tailfleet_coordinator import bundled
from tailfleet_coordinator.cluster import tasks
from tailfleet_coordinator.cluster.artifact_api import ArtifactApi
from tailfleet_schema import codec
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure, Job, JobKind
from tailfleet_schema.workload import Workload


@pytest.fixture
def order(live, tmp_path):
    """A job, and where its images and weights are to be had."""
    (dataset, content) = bundled.datasets()[0]
    live.artifacts.put(content)
    live.artifacts.put(bundled.checkpoint_bytes())
    model = next(model for model in bundled.models() if model.dataset == dataset.name)
    units = [Unit(Part.LOSS, 197, 99, "topk", 6), Unit(Part.INPUT, 197, 197)]
    job = Job("p", JobKind.PROFILE, Workload(model), units, 1, 1, 0, dataset=dataset, images=20)
    return job, ArtifactApi(live.url, live.viewer, folder=str(tmp_path / "cache"))


def test_a_profile_is_judged_by_the_agent_s_own_worker(order):
    job, api = order
    results = [result for batch in tasks.run_profile(job, api) for result in batch]
    judged = {result.unit: result.judgement for result in results}
    assert set(judged) == set(job.units)
    assert judged[job.units[1]].correct >= 18
    assert judged[job.units[0]].computed_on == "host"


def pretend(monkeypatch, folder, script):
    """Put a shell script in the place of the worker's interpreter."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(tasks.sys, "executable", str(program))


def test_a_worker_that_cannot_go_on_says_why(monkeypatch, tmp_path, order):
    why = Failure("the images are damaged", Blame.LAB, "traceback")
    said = codec.dumps({"failure": codec.encode(why)})
    pretend(monkeypatch, tmp_path, f"read order; echo '{said}'; exit 1")
    assert list(tasks.run_profile(*order))[-1] == why


def test_a_worker_that_dies_is_a_failure(monkeypatch, tmp_path, order):
    pretend(monkeypatch, tmp_path, "echo dying >&2")
    job, api = order
    found = list(tasks.run_profile(job, api))
    assert isinstance(found[-1], Failure)
    assert "before it was done" in found[-1].sentence
    assert found[-1].detail == "dying\n"


def test_the_worker_starts_without_ray_s_variables(monkeypatch, tmp_path, order):
    pretend(monkeypatch, tmp_path, f"env > {tmp_path}/environment")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    list(tasks.run_profile(*order))
    told = (tmp_path / "environment").read_text()
    assert "PATH=" in told
    assert "OMP_NUM_THREADS" not in told


def test_ray_s_own_variables_are_kept_from_the_worker():
    ours = {"PATH": "/bin", "HOME": "/root", "LD_LIBRARY_PATH": "/opt"}
    assert tasks.scrubbed(ours) == ours
    rays = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAY_JOB_ID", "CUDA_VISIBLE_DEVICES", "SPT_NOENV"], "1")
    assert tasks.scrubbed({**ours, **rays}) == ours


def test_a_plan_that_cannot_be_made_is_a_failure_in_words(campaigning):
    from tailfleet_coordinator.plan.planner import PlanInput
    from tailfleet_schema.campaign import Objective

    model = campaigning.lab.model
    found = tasks.run_plans([PlanInput(model, "topk", "optimal", Objective(latency_share=0.5), [], [])])
    assert isinstance(found, Failure)
    assert found.blame is Blame.AUTHOR


def test_images_that_are_not_to_be_had_are_a_failure_in_words(order, live):
    job, api = order
    live.artifacts.path(job.dataset.sha256).unlink()
    (failure,) = tasks.run_profile(job, api)
    assert "there is no artifact" in failure.sentence
