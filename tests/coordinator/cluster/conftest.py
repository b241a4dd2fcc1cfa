"""Boards that answer jobs with made-up but regular numbers, straight through the store; and tasks that run inline."""

import hashlib
import sys
from pathlib import Path

import pytest

from tailfleet_coordinator.artifacts import Artifacts
from tailfleet_coordinator.cluster.campaign import Surroundings, namespace_of
from tailfleet_coordinator.cluster.driver import Driver
from tailfleet_coordinator.cluster.tasks import News, run_plans
from tailfleet_coordinator.web.server import write_private
from tailfleet_schema.curve import JUDGED_PARTS, Judgement, Part, UnitResult
from tailfleet_schema.job import Failure
from tailfleet_schema.messages import Outcome
from tailfleet_schema.schedule import flops_per_block
from tailfleet_schema.workload import DatasetSpec, ModelSpec, Preprocessing

# With importlib mode, folders of tests are on no path; the modules beside this one are to be imported.
sys.path.insert(0, str(Path(__file__).parent))

HOST = "host-machine"
IMAGES = b"images"
WEIGHTS = b"weights"
DATASET = DatasetSpec("pictures", hashlib.sha256(IMAGES).hexdigest(), 10, 100, 100, "made up")


def answer(job, unit, number):
    """A result whose time grows with the tokens, so that pruning pays."""
    if unit.part in JUDGED_PARTS:
        lost = round(10 * (1 - unit.kept / unit.tokens) + (17 - unit.tokens) / 2)
        return UnitResult(unit, number, judgement=Judgement(100, 98 - lost, 99 - lost, 0.01 * lost, "host"))
    per_token = {Part.ATTENTION: 40_000, Part.MLP: 60_000, Part.REDUCE: 40_000}.get(unit.part, 100_000)
    tokens = unit.tokens
    ns = 50_000 if unit.part is Part.FIXED else 1_000 + per_token * tokens
    if unit.part is Part.REDUCE:
        ns += 1_000
    if unit.part is Part.SCHEDULE:
        (schedule,) = [schedule for schedule in job.schedules if schedule.digest == unit.label]
        entering = sum(schedule.entering) / len(schedule.keep)
        leaving = sum(schedule.keep) / len(schedule.keep)
        ns = int(51_000 + 40_000 * entering + 60_000 * leaving)
        assert len(flops_per_block(schedule, job.workload.model.geometry)) == len(schedule.keep)
    return UnitResult(unit, number, [ns + 10 * number] * job.calls)


def play(lab, board_id, fail=None):
    """The board does one job, if it is given one; the job's id."""
    lab.store.take_back_jobs(board_id)
    claim = lab.claim(board_id)
    if claim is None:
        return None
    job = claim.job
    if fail is not None:
        lab.store.finish_job(board_id, job.id, claim.attempt, Outcome.FAILED, fail, "")
        return job.id
    units = {unit.key(number): (unit, number) for number in range(job.rounds) for unit in job.units}
    lab.add(board_id, job, claim.attempt, [answer(job, *units[key]) for key in job.keys()])
    lab.store.finish_job(board_id, job.id, claim.attempt, Outcome.DONE, None, "")
    return job.id


class InlineTasks:
    """Runs a task when its news is asked for; ``crashes`` and ``failure`` make profiles come to nothing."""

    def __init__(self):
        self.started = []
        self.crashes = 0
        self.failure = None
        self.stopped = False
        self._waiting = []

    def profile(self, name, job):
        self.started.append((name, len(job.units)))
        self._waiting.append((name, job))

    def plan(self, name, inputs):
        self.started.append((name, len(inputs)))
        self._waiting.append((name, inputs))

    def news(self):
        waiting, self._waiting = self._waiting, []
        return [self._run(name, work) for name, work in waiting]

    def stop(self):
        self.stopped = True

    def _run(self, name, work):
        if isinstance(work, list):
            return News(name, plans=run_plans(work), ended=True)
        if self.crashes:
            self.crashes -= 1
            half = [answer(work, unit, 0) for unit in work.units[: len(work.units) // 2]]
            return News(name, half, ended=True, crashed=True, failure=Failure("the process died", "bug"))
        if self.failure:
            return News(name, ended=True, failure=self.failure)
        return News(name, [answer(work, unit, 0) for unit in work.units], ended=True)


class Campaigning:
    """A lab, its tasks, and a driver that can be lost and made anew."""

    def __init__(self, lab, tmp_path):
        self.lab = lab
        self.tasks = InlineTasks()
        self.artifacts = Artifacts(tmp_path / "artifacts")
        self.artifacts.put(IMAGES)
        self.artifacts.put(WEIGHTS)
        lab.store.put_dataset(DATASET)
        lab.store.put_model(
            ModelSpec(
                "seeing",
                lab.model.architecture,
                lab.model.geometry,
                checkpoint_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
                dataset="pictures",
                preprocessing=Preprocessing([0.5], [0.5]),
            )
        )

    def driver(self, campaign_id="c1"):
        return Driver(self.lab.store, self.tasks, campaign_id, HOST, 30.0)

    def play(self, board_id, **options):
        return play(self.lab, board_id, **options)

    def run(self, *board_ids, campaign_id="c1", looks=40, driver=None):
        """Drive the campaign with boards at work until it ends."""
        driver = driver or self.driver(campaign_id)
        for _ in range(looks):
            if not driver.advance():
                return
            for board_id in board_ids:
                self.play(board_id)
        raise AssertionError([(s.board, s.model, s.phase, s.note) for s in self.lab.store.list_steps(campaign_id)])


@pytest.fixture
def campaigning(lab, tmp_path):
    return Campaigning(lab, tmp_path)


@pytest.fixture
def around(lab, tmp_path):
    """Surroundings of an actor of the lab's database."""

    def around(artifact_api):
        file = tmp_path / "database.url"
        write_private(file, lab.url)
        return Surroundings(str(file), namespace_of(lab.url, HOST), artifact_api, HOST, 30.0)

    return around
