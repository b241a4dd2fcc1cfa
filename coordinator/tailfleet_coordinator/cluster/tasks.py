"""The work that a campaign hands to Ray: profiling a model through the agent's worker, and planning. By value in
and out, images and weights through the artifact API; neither knows the database. Also the adapter that starts such
tasks and tells what came of them.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tailfleet_coordinator.cluster.artifact_api import ArtifactApi, fetch
from tailfleet_coordinator.cluster.nodes import has_gpu
from tailfleet_coordinator.plan.decision import Plan, PlanInput
from tailfleet_coordinator.plan.planner import make_plans
from tailfleet_schema import codec
from tailfleet_schema.curve import UnitResult
from tailfleet_schema.errors import Blame, TailfleetError
from tailfleet_schema.job import Failure, Job
from tailfleet_schema.messages import WorkerEvent, WorkerOrder
from tailfleet_schema.workload import FILES

NEWS_SECONDS = 1.0
"""Results of a profile are handed on so often."""

PROFILE_CORES = 1
"""A profile asks Ray for so many cores and uses no more threads: others run beside it, and threads that outnumber
cores fight for them."""

PROFILE_GPUS = 1
"""And for so many GPUs where the cluster has one for tasks."""

GPUS = "CUDA_VISIBLE_DEVICES"
"""The variable by which Ray gives a task its own."""

NO_GPU = "Ray gave it a GPU that torch does not see there: it is judged on the CPU"

HARMFUL = (
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "KMP_",
    "GOMP_",
    GPUS,
    "RAY_",
    "PYTHONBREAKPOINT",
    "SPT_NOENV",
)
"""Beginnings of variables that Ray sets for its own sake: one thread, no GPU."""


@dataclass(frozen=True)
class News:
    """What a task has to tell since it was last asked."""

    name: str
    results: list[UnitResult] = field(default_factory=list)
    plans: list[Plan | Failure] = field(default_factory=list)
    """One for each input."""
    ended: bool = False
    failure: Failure | None = None
    crashed: bool = False
    """The process died, which says nothing about the work: it may be tried again."""
    remark: str = ""
    """What a person should know, though the work goes on."""


class Tasks(Protocol):
    """Starts tasks by name and tells their news; forgets them when the process ends."""

    def profile(self, name: str, job: Job) -> None:
        """Judge the units of ``job``."""

    def plan(self, name: str, inputs: list[PlanInput]) -> None:
        """Make one plan for each input, or say why there is none."""

    def news(self) -> list[News]:
        """What happened since the last call; does not wait."""

    def stop(self) -> None:
        """End all tasks."""


Told = list[UnitResult] | Failure | str
"""What a profiling task tells in turn: results, why it failed, or a remark."""


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` as it was before Ray."""
    return {name: value for name, value in environment.items() if not name.startswith(HARMFUL)}


def run_profile(job: Job, api: ArtifactApi, on_gpu: bool = False) -> Iterator[Told]:
    """Run the agent's worker on ``job``; its results as they come, and at the end a ``Failure`` if it failed.

    ``on_gpu``: Ray gave the task a GPU, and the worker is to judge there; where its torch sees none it judges on the
    CPU, and a remark says so. Either way predictions are fp32 ones, and the judgements of one kind: the worker is the
    same code that boards run, so every judgement in the database has one origin.
    """
    images = job.image_folder(api.dataset_folders)
    if images is None and (failure := without_images(job)) is not None:
        yield failure
        return
    try:
        artifacts = str(fetch(api, job.artifacts(has_folder=images is not None)))
    except TailfleetError as error:
        yield Failure(error.sentence, error.blame)
        return
    with tempfile.TemporaryDirectory(prefix="tailfleet-profile-") as folder:
        order = WorkerOrder(
            job, artifacts=artifacts, judge_threads=PROFILE_CORES, dataset_folder=images, judge_on_gpu=on_gpu
        )
        own_gpu = {GPUS: os.environ[GPUS]} if on_gpu and GPUS in os.environ else {}
        log = Path(folder) / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "tailfleet_agent.worker"],
                cwd=folder,
                env={**scrubbed(os.environ), **own_gpu},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
            )
        with process:
            try:
                yield from _events(process, order, log)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def without_images(job: Job) -> Failure | None:
    """Why the job cannot be judged with artifacts alone; None where it can."""
    dataset = job.dataset
    if dataset is None or dataset.form != FILES or dataset.pack_sha256 is not None:
        return None
    return Failure(
        f"the images of dataset {dataset.name!r} are not with the coordinator, which profiles models on them; mend:"
        f" tailfleet up --dataset {dataset.name}=FOLDER, or add the dataset again without --index-only",
        Blame.CONFIGURATION,
    )


def _events(process: "subprocess.Popen[bytes]", order: WorkerOrder, log: Path) -> Iterator[Told]:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        # A worker that is dead already tells so by its silence below.
        process.stdin.write(codec.dumps(order).encode() + b"\n")
    gathered: list[UnitResult] = []
    told = time.monotonic()
    for line in process.stdout:
        event = codec.loads(WorkerEvent, line, "event")
        if event.failure is not None:
            yield gathered
            yield event.failure
            return
        if order.judge_on_gpu and event.runtime is not None and event.runtime.get("device") != "cuda":
            yield NO_GPU
        if event.result is not None:
            gathered.append(event.result)
        if event.done:
            yield gathered
            return
        if time.monotonic() - told >= NEWS_SECONDS:
            yield gathered
            gathered, told = [], time.monotonic()
    yield gathered
    tail = log.read_text(errors="replace")[-4000:]
    yield Failure(f"the worker ended with status {process.wait()} before it was done", Blame.BUG, tail)


def run_plans(inputs: list[PlanInput]) -> list[Plan | Failure]:
    """For each input a plan, or why there is none."""
    try:
        return [*make_plans(inputs)]
    except TailfleetError as error:
        if len(inputs) == 1:
            return [Failure(error.sentence, error.blame)]
    # One of many is at fault, and only that one is to fail.
    return [plan for one in inputs for plan in run_plans([one])]


class RayTasks:
    """Tasks on Ray. Needs a process that is connected to a cluster."""

    def __init__(self, api: ArtifactApi) -> None:
        import ray

        self._ray: Any = ray
        self._api = api
        # Retries are the campaign's: what is known by then need not be done again.
        self._run_profile = self._ray.remote(num_cpus=PROFILE_CORES, max_retries=0, num_returns="streaming")(
            run_profile
        )
        self._run_plans = self._ray.remote(num_cpus=1, max_retries=0)(run_plans)
        self._profiles: dict[str, Any] = {}
        self._plans: dict[str, Any] = {}

    def profile(self, name: str, job: Job) -> None:
        """Judge the units of ``job``, on a GPU where the cluster has one for tasks."""
        on_gpu = has_gpu(self._ray.nodes(), self._ray.get_runtime_context().get_node_id())
        task = self._run_profile.options(num_gpus=PROFILE_GPUS) if on_gpu else self._run_profile
        self._profiles[name] = task.remote(job, self._api, on_gpu)

    def plan(self, name: str, inputs: list[PlanInput]) -> None:
        """Make one plan for each input, or say why there is none."""
        self._plans[name] = self._run_plans.remote(inputs)

    def news(self) -> list[News]:
        """What happened since the last call; does not wait."""
        told = [self._profile_news(name) for name in list(self._profiles)]
        return [news for news in told if news is not None] + [self._plan_news(name) for name in self._planned()]

    def stop(self) -> None:
        """End all tasks."""
        for reference in [*self._profiles.values(), *self._plans.values()]:
            self._ray.cancel(reference, force=True)
        self._profiles.clear()
        self._plans.clear()

    def _profile_news(self, name: str) -> News | None:
        stream = self._profiles[name]
        results: list[UnitResult] = []
        ended, crashed, failure, remark = False, False, None, ""
        while not ended and self._ray.wait([stream], timeout=0)[0]:
            try:
                item = self._ray.get(next(stream))
            except StopIteration:
                ended = True
            except self._ray.exceptions.RayError as error:
                ended, crashed, failure = True, True, _of_ray(error)
            else:
                if isinstance(item, Failure):
                    ended, failure = True, item
                elif isinstance(item, str):
                    remark = item
                else:
                    results += item
        if ended:
            del self._profiles[name]
        return News(name, results, [], ended, failure, crashed, remark) if results or ended or remark else None

    def _planned(self) -> list[str]:
        """Names of the planning tasks that have ended: all are asked for at once."""
        names = {reference: name for name, reference in self._plans.items()}
        ended, _ = self._ray.wait([*names], num_returns=len(names), timeout=0) if names else ([], [])
        return [names[reference] for reference in ended]

    def _plan_news(self, name: str) -> News:
        reference = self._plans[name]
        del self._plans[name]
        try:
            found = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return News(name, ended=True, failure=_of_ray(error), crashed=True)
        return News(name, plans=found, ended=True)


def _of_ray(error: Exception) -> Failure:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return Failure(f"a Ray task failed: {lines[-1] if lines else type(error).__name__}", Blame.BUG, str(error)[-4000:])
