"""The work of Ray tasks, run in this process: the agent's real worker on bundled images, and plans."""

import dataclasses
import hashlib
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch

from tailfleet_coordinator import bundled
from tailfleet_coordinator.cluster import tasks
from tailfleet_coordinator.cluster.artifact_api import ArtifactApi
from tailfleet_coordinator.cluster.nodes import BOARD, has_gpu
from tailfleet_schema import codec
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure, Job, JobKind
from tailfleet_schema.messages import WorkerOrder
from tailfleet_schema.workload import DatasetIndex, ImageFile, Workload


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
    """On a GPU where its torch has one; else it says that it is on the CPU."""
    job, api = order
    told = list(tasks.run_profile(job, api, on_gpu=True))
    remarks = [one for one in told if isinstance(one, str)]
    assert remarks == ([] if torch.cuda.is_available() else [tasks.NO_GPU])
    results = [result for batch in told if isinstance(batch, list) for result in batch]
    judged = {result.unit: result.judgement for result in results}
    assert set(judged) == set(job.units)
    assert judged[job.units[1]].correct >= 18
    assert judged[job.units[0]].computed_on == "host"


@pytest.fixture
def filed(order, live, tmp_path):
    """The same job, its images as files in a folder, and no pack of them."""
    job, api = order
    folder, files = tmp_path / "images", []
    folder.mkdir()
    with numpy.load(live.artifacts.path(job.dataset.sha256)) as arrays:
        for number in arrays["calibration"]:
            name = f"{number}.pgm"
            content = b"P5 8 8 255\n" + arrays["images"][number].tobytes()
            (folder / name).write_bytes(content)
            label = int(arrays["labels"][number])
            files.append(ImageFile(name, label, "calibration", hashlib.sha256(content).hexdigest()))
    index = codec.dumps(DatasetIndex([str(digit) for digit in range(10)], files)).encode()
    dataset = dataclasses.replace(job.dataset, sha256=live.artifacts.put(index), form="files")
    return dataclasses.replace(job, dataset=dataset), api, folder


def test_images_may_lie_in_a_folder_of_the_machine(filed):
    job, api, folder = filed
    # A pack that nobody has: it is not asked for.
    job = dataclasses.replace(job, dataset=dataclasses.replace(job.dataset, pack_sha256="0" * 64))
    api = dataclasses.replace(api, dataset_folders={"digits": str(folder)})
    results = [result for batch in tasks.run_profile(job, api) for result in batch]
    assert {result.unit for result in results} == set(job.units)
    assert next(result.judgement.correct for result in results if result.unit == job.units[1]) >= 15


def test_images_that_are_nowhere_are_named(monkeypatch, tmp_path, filed):
    job, api, _ = filed
    pretend(monkeypatch, tmp_path, "touch started")
    (failure,) = tasks.run_profile(job, api)
    assert "the images of dataset 'digits' are not with the coordinator" in failure.sentence
    assert "tailfleet up --dataset digits=FOLDER" in failure.sentence
    assert failure.blame is Blame.CONFIGURATION


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


@pytest.mark.parametrize(("on_gpu", "device", "remarks"), [
    (True, "cuda", []), (True, "cpu", [tasks.NO_GPU]), (False, "cpu", [])
])  # fmt: skip
def test_a_task_with_a_gpu_has_the_worker_judge_there(monkeypatch, tmp_path, order, on_gpu, device, remarks):
    said = codec.dumps({"runtime": {"device": device}})
    script = f"cat > {tmp_path}/order; env > {tmp_path}/environment; echo '{said}'; echo '{{\"done\": true}}'"
    pretend(monkeypatch, tmp_path, script)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    told = list(tasks.run_profile(*order, on_gpu))
    assert [one for one in told if isinstance(one, str)] == remarks
    assert not [one for one in told if isinstance(one, Failure)]
    assert codec.loads(WorkerOrder, (tmp_path / "order").read_bytes()).judge_on_gpu is on_gpu
    # The one that Ray gave it, and no other's.
    assert ("CUDA_VISIBLE_DEVICES=3\n" in (tmp_path / "environment").read_text()) is on_gpu


class FakeRay:
    """Takes tasks and runs none; told what its nodes have."""

    class exceptions:
        RayError = RuntimeError

    def __init__(self, *resources):
        self.asked = []
        self.told = []
        self._nodes = [{"NodeID": f"n{i}", "Alive": True, "Resources": one} for i, one in enumerate(resources)]

    def nodes(self):
        return self._nodes

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "n0")

    def remote(self, **options):
        return lambda function: self._task(function, options)

    def _task(self, function, options):
        return SimpleNamespace(
            options=lambda **more: self._task(function, {**options, **more}),
            remote=lambda *given: self.asked.append((function, options, given)) or iter(self.told),
        )

    def wait(self, references, timeout):
        return references, []

    def get(self, item):
        return item


@pytest.mark.parametrize(("resources", "gpus"), [({"CPU": 4, "GPU": 1}, 1), ({"CPU": 4}, None)])
def test_a_profile_asks_for_a_gpu_where_there_is_one(monkeypatch, order, resources, gpus):
    job, api = order
    ray = FakeRay({"CPU": 2}, resources)
    ray.told = [tasks.NO_GPU, ["a result"]]
    monkeypatch.setitem(sys.modules, "ray", ray)
    there = tasks.RayTasks(api)
    there.profile("p", job)
    ((function, options, given),) = ray.asked
    assert function is tasks.run_profile
    assert (options["num_cpus"], options.get("num_gpus")) == (tasks.PROFILE_CORES, gpus)
    assert given == (job, api, gpus is not None)
    (news,) = there.news()
    assert (news.results, news.ended, news.failure, news.remark) == (["a result"], True, None, tasks.NO_GPU)


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([{"CPU": 2}], False),
        ([{"CPU": 2, "GPU": 1}], True),
        ([{"CPU": 2}, {"CPU": 8, "GPU": 4}], True),
        # A part of one is none for a whole task, and one without a core cannot be worked on.
        ([{"CPU": 2, "GPU": 0.5}], False),
        ([{"CPU": 2}, {"GPU": 1}], False),
        # The coordinator's own machine may be a board and work; another board is measured.
        ([{"CPU": 2, "GPU": 1, BOARD: 1}], True),
        ([{"CPU": 2}, {"CPU": 6, "GPU": 1, BOARD: 1}], False),
    ],
)
def test_a_gpu_is_one_that_tasks_can_have(nodes, found):
    told = [{"NodeID": f"n{i}", "Alive": True, "Resources": resources} for i, resources in enumerate(nodes)]
    assert has_gpu(told, "n0") is found
    assert not has_gpu([{**node, "Alive": False} for node in told], "n0")


def test_ray_s_own_variables_are_kept_from_the_worker():
    ours = {"PATH": "/bin", "HOME": "/root", "LD_LIBRARY_PATH": "/opt"}
    assert tasks.scrubbed(ours) == ours
    rays = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAY_JOB_ID", "CUDA_VISIBLE_DEVICES", "SPT_NOENV"], "1")
    assert tasks.scrubbed({**ours, **rays}) == ours


def test_a_plan_that_cannot_be_made_is_a_failure_in_words(campaigning):
    from tailfleet_coordinator.plan.planner import PlanInput
    from tailfleet_schema.campaign import Objective

    model = campaigning.lab.model
    (found,) = tasks.run_plans([PlanInput(model, "topk", "optimal", Objective(latency_share=0.5), [], [])])
    assert isinstance(found, Failure)
    assert found.blame is Blame.AUTHOR


def test_images_that_are_not_to_be_had_are_a_failure_in_words(order, live):
    job, api = order
    live.artifacts.path(job.dataset.sha256).unlink()
    (failure,) = tasks.run_profile(job, api)
    assert "there is no artifact" in failure.sentence
