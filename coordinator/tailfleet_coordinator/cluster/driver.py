"""Drives one campaign: reads rows, lets ``steps`` decide, and does what was decided. The shell of the campaign actor.

All it keeps in memory is which tasks it has running; whoever takes over finds the rest in the store.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tailfleet_coordinator.campaigns import (
    profile_schedules,
    profiled_units,
    wanted_profile,
    workload_of,
)
from tailfleet_coordinator.cluster import orders
from tailfleet_coordinator.cluster.planning import Planning, Wanted
from tailfleet_coordinator.cluster.steps import AT_THE_BOARD, Action, StepFacts, decide
from tailfleet_coordinator.cluster.tasks import News, Tasks
from tailfleet_coordinator.curves import file_curve
from tailfleet_coordinator.db.rows import Board, Campaign, Curve, JobStatus, Step
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.plan.decision import Plan
from tailfleet_coordinator.refusals import Deposed, JobEnded
from tailfleet_coordinator.shipping import ship_recommended
from tailfleet_schema import codec
from tailfleet_schema.campaign import CampaignRequest, CampaignState
from tailfleet_schema.curve import Unit
from tailfleet_schema.errors import Blame, TailfleetError
from tailfleet_schema.job import Failure, Job, JobKind, JobState
from tailfleet_schema.schedule import Schedule, dense
from tailfleet_schema.workload import ModelSpec, Workload

log = logging.getLogger("tailfleet.campaign")

ENDED = ("done", "failed", "cancelled")

TASK_SECONDS = 60.0
"""A task's use of the machine runs out so long after its driver was last heard of."""

TRIES = 3
"""So often a task whose process died is started."""

ONLINE_SECONDS = 60.0
"""A board that was heard of later is waited for as one that is away."""

PROFILE_SEED = 0
"""One for all campaigns: which patches a random input keeps must not depend on who asked."""


@dataclass(frozen=True)
class Situation:
    """What the steps of a campaign have in common at one look."""

    campaign: Campaign
    boards: dict[int, Board]
    models: dict[str, ModelSpec]
    jobs: dict[tuple[int, str, JobKind], JobStatus]
    planned: dict[tuple[int, str], set[tuple[str, str]]]
    """By board and model, (planner, method) of the plans that stand."""
    unprofiled: dict[str, list[Unit]]
    """For each model the units of its profile that are not known yet."""

    @property
    def request(self) -> CampaignRequest:
        """What was asked."""
        return self.campaign.request


class Driver:
    """One campaign's driver. ``advance`` is to be called again and again until it says that the campaign has ended."""

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        campaign_id: str,
        machine_id: str,
        claimable_seconds: float,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._campaign_id = campaign_id
        self._machine_id = machine_id
        self._claimable_seconds = claimable_seconds
        self._running: dict[str, Callable[[News], None]] = {}
        self._crashes: Counter[str] = Counter()
        self._failures: dict[str, Failure] = {}
        """By name of a profile's task: why it is of no use to try again."""
        self._planning: Planning | None = None
        self._reuse_notes: dict[int, str] = {}
        self._wanted: list[tuple[Wanted, Step]] = []
        """Found by this look."""

    def advance(self) -> bool:
        """Do all that can be done now; whether the campaign still runs."""
        campaign = self._store.get_campaign(self._campaign_id)
        if campaign.state is not CampaignState.RUNNING:
            self.stop()
            return False
        self._take_news()
        for job_id in self._store.list_unfiled_sweeps():
            file_curve(self._store, job_id)
        situation = self._look(campaign)
        self._wanted = []
        for step in self._store.list_steps(campaign.id):
            if step.phase not in ENDED and not self._is_planned_for(step):
                self._advance_step(situation, step)
        self._begin_plans(campaign)
        for name, missing in situation.unprofiled.items():
            if not missing:
                continue
            model = situation.models[name]
            # One task for each method: they share nothing but the dense pass, and each has a core.
            wholes = {one.digest: one for one in profile_schedules(campaign.request, model)}
            of = {unit: wholes[unit.label].method if unit.label in wholes else unit.label for unit in missing}
            for label in sorted(set(of.values())):
                units = [unit for unit in missing if of[unit] == label]
                self._profile(model, label, units, [wholes[unit.label] for unit in units if unit.label in wholes])
        return not self._end_if_over()

    def stop(self) -> None:
        """End all tasks."""
        self._tasks.stop()
        for name in self._running:
            self._store.leave_machine(self._holder(name))
        self._running.clear()

    def _look(self, campaign: Campaign) -> Situation:
        jobs = {(job.board_id, job.model, job.kind): job for job in self._store.list_jobs(campaign.id)}
        boards = {board.id: board for board in self._store.list_boards(ONLINE_SECONDS)}
        models = {name: self._store.get_model(name) for name in campaign.request.models}
        unprofiled = {}
        for name, model in models.items():
            known = profiled_units(self._store, model)
            unprofiled[name] = [unit for unit in wanted_profile(campaign.request, model) if unit not in known]
        return Situation(campaign, boards, models, jobs, self._store.list_planned(campaign.id), unprofiled)

    def _advance_step(self, situation: Situation, step: Step) -> None:
        try:
            self._act(situation, step)
        except Deposed:
            raise
        except TailfleetError as error:
            # One board's trouble is its own: the others go on.
            log.warning("campaign %s, %s × %s: %s", step.campaign_id, step.board, step.model, error.sentence)
            self._fail(step, Failure(error.sentence, error.blame))

    def _act(self, situation: Situation, step: Step) -> None:
        board, model = situation.boards[step.board_id], situation.models[step.model]
        sweep = situation.jobs.get((step.board_id, step.model, JobKind.SWEEP))
        verify = situation.jobs.get((step.board_id, step.model, JobKind.VERIFY))
        planned = situation.planned.get((step.board_id, step.model), set())
        unplanned = [pair for pair in situation.request.plans() if pair not in planned]
        usable = None if step.curve_id is not None else self._usable_curve(situation.request, board, model, sweep)
        facts = StepFacts(
            curve=step.curve_id is not None,
            usable_curve=usable is not None,
            sweep=sweep.state if sweep else None,
            wants_plans=situation.request.objective is not None,
            unprofiled=len(situation.unprofiled[step.model]),
            unplanned=len(unplanned),
            verify=verify.state if verify else None,
        )
        action = decide(facts)
        if action in AT_THE_BOARD and situation.request.offline == "skip" and not board.online:
            self._skip(step, board, [job for job in (verify, sweep) if job is not None])
        elif action is Action.FAIL:
            self._end_without_result(step, [job for job in (verify, sweep) if job is not None])
        elif action is Action.SWEEP:
            self._order_sweep(situation, step, board, model)
        elif action is Action.ADOPT:
            assert usable is not None
            self._store.update_step(step.id, "waiting", self._reuse_note(usable.id), curve_id=usable.id)
        elif action is Action.AWAIT_SWEEP:
            self._note(step, "sweep", _absence(board))
        elif action is Action.PROFILE:
            self._await_profile(step)
        elif action is Action.PLAN:
            self._want_plans(situation.campaign, step, board, model, unplanned)
        elif action is Action.VERIFY:
            self._order_verification(situation, step, board, model)
        elif action is Action.AWAIT_VERIFY:
            self._note(step, "verify", _absence(board))
        else:
            if verify is not None:
                plans = self._store.list_plans(step.campaign_id, step.board_id, step.model)
                ship_recommended(self._store, situation.campaign, step, plans, verify.id)
            self._note(step, "done", "")

    def _usable_curve(
        self, request: CampaignRequest, board: Board, model: ModelSpec, sweep: JobStatus | None
    ) -> Curve | None:
        if sweep is not None:
            return self._store.find_curve_of_job(sweep.id)
        if request.sweep.fresh:
            return None
        workload = workload_of(request, model, board.kind)
        for curve in self._store.find_curves(
            board.id, model.digest, workload.backend, workload.dtype, workload.batch, board.fingerprint
        ):
            job = self._store.get_job(curve.job_id)
            # What could not be trusted once is measured again, not built on.
            if curve.stable and orders.serves(job, self._store.list_units(job.id), request, model, board.kind):
                return curve
        return None

    def _order_sweep(self, situation: Situation, step: Step, board: Board, model: ModelSpec) -> None:
        job = orders.sweep(situation.request, step, board, model)
        self._store.create_job(step.campaign_id, step.board_id, step.model, job)
        self._note(step, "sweep", _absence(board))

    def _order_verification(self, situation: Situation, step: Step, board: Board, model: ModelSpec) -> None:
        plans = self._store.list_plans(step.campaign_id, step.board_id, step.model)
        made = [codec.loads(Plan, plan.plan_json) for plan in plans]
        chosen = [plan.schedule for plan in made if plan.schedule is not None]
        further = [one.schedule for plan in made for one in plan.contenders]
        schedules = list({one.digest: one for one in (dense(model.name, model.geometry), *chosen, *further)}.values())
        dataset = None if model.dataset is None else self._store.get_dataset(model.dataset)
        pass_ns = min(plan.dense_ns for plan in made)
        job = orders.verification(situation.request, step, board, model, schedules, dataset, pass_ns)
        links = [plan.id for plan in plans if plan.schedule_digest is not None]
        self._store.create_job(step.campaign_id, step.board_id, step.model, job, links)
        self._note(step, "verify", _absence(board))

    def _await_profile(self, step: Step) -> None:
        tasks = profile_task(step.model, "")
        failure = next((self._failures[name] for name in sorted(self._failures) if name.startswith(tasks)), None)
        if failure is not None:
            self._fail(step, failure)
            return
        under_way = any(name.startswith(tasks) for name in self._running)
        self._note(step, "profile", "" if under_way else "waits while this machine is measured")

    def _profile(self, model: ModelSpec, label: str, missing: list[Unit], schedules: list[Schedule]) -> None:
        """Start judging what is missing of one method in the model's profile, unless under way or hopeless."""
        name = profile_task(model.name, label or "input")
        if name in self._failures or not self._may_start(name):
            return
        assert model.dataset is not None
        dataset = self._store.get_dataset(model.dataset)
        job = Job(
            id=f"{self._campaign_id}-profile",
            kind=JobKind.PROFILE,
            workload=Workload(model),
            units=missing,
            rounds=1,
            calls=1,
            seed=PROFILE_SEED,
            schedules=schedules,
            dataset=dataset,
        )
        digest, sha256 = model.digest, dataset.sha256

        def take(news: News) -> None:
            self._store.add_profile(digest, sha256, news.results)
            if news.failure is not None:
                self._crashes[name] += 1
                if not news.crashed or self._crashes[name] >= TRIES:
                    self._failures[name] = news.failure

        self._running[name] = take
        self._tasks.profile(name, job)

    def _want_plans(
        self, campaign: Campaign, step: Step, board: Board, model: ModelSpec, pairs: list[tuple[str, str]]
    ) -> None:
        """Plans begin when all steps have been looked at: many boards share a task."""
        failure = self._planning_of(campaign).failures.get(step.id)
        if failure is not None:
            self._fail(step, failure)
            return
        assert step.curve_id is not None
        self._wanted.append((Wanted(step.id, board, model, step.curve_id, pairs), step))

    def _begin_plans(self, campaign: Campaign) -> None:
        """Start what may be started of the plans that this look found wanted."""
        if not self._wanted:
            return
        planning, note = self._planning_of(campaign), ""
        for name, batch in planning.batches([one for one, _ in self._wanted]):
            if not self._may_start(name):
                note = "waits while this machine is measured"
                break
            if planning.begin(name, batch):
                self._running[name] = planning.take
            else:
                self._store.leave_machine(self._holder(name))
        for one, step in self._wanted:
            self._note(step, "plan", "" if one.step_id in planning.under_way else note)

    def _is_planned_for(self, step: Step) -> bool:
        return self._planning is not None and step.id in self._planning.under_way

    def _planning_of(self, campaign: Campaign) -> Planning:
        if self._planning is None:
            assert campaign.request.objective is not None
            self._planning = Planning(self._store, self._tasks, campaign, campaign.request.objective, TRIES)
        return self._planning

    def _may_start(self, name: str) -> bool:
        """Whether the task is not under way and the machine may be used; then it is taken for the task."""
        if name in self._running:
            return False
        return self._store.use_machine(self._machine_id, self._holder(name), TASK_SECONDS, self._claimable_seconds)

    def _take_news(self) -> None:
        for news in self._tasks.news():
            self._running[news.name](news)
            if news.remark:
                log.warning("campaign %s, task %s: %s", self._campaign_id, news.name, news.remark)
            if not news.ended:
                continue
            del self._running[news.name]
            self._store.leave_machine(self._holder(news.name))
            if news.failure is not None:
                log.warning("campaign %s, task %s: %s", self._campaign_id, news.name, news.failure.sentence)
        for name in self._running:
            self._store.keep_machine(self._machine_id, self._holder(name), TASK_SECONDS)

    def _end_if_over(self) -> bool:
        steps = self._store.list_steps(self._campaign_id)
        if any(step.phase not in ENDED for step in steps):
            return False
        failures = [step.failure for step in steps if step.failure is not None]
        hopeless = len(failures) == len(steps)
        state = CampaignState.FAILED if hopeless else CampaignState.DONE
        self._store.end_campaign(self._campaign_id, state, failures[0] if hopeless else None)
        self.stop()
        return True

    def _note(self, step: Step, phase: str, note: str) -> None:
        reused = "" if step.curve_id is None else self._reuse_note(step.curve_id)
        text = "; ".join(part for part in (reused, note) if part)
        if (step.phase, step.note) != (phase, text):
            self._store.update_step(step.id, phase, text)

    def _fail(self, step: Step, failure: Failure) -> None:
        self._store.update_step(step.id, "failed", failure.sentence, failure=failure)

    def _end_without_result(self, step: Step, jobs: list[JobStatus]) -> None:
        """A job of the step failed, or a person cancelled it: then nobody must act, and the other steps go on."""
        job = next(job for job in jobs if job.state in (JobState.FAILED, JobState.CANCELLED))
        failure = job.failure or Failure("the job was cancelled", Blame.AUTHOR)
        phase = "cancelled" if job.state is JobState.CANCELLED else "failed"
        self._store.update_step(step.id, phase, failure.sentence, failure=failure)

    def _skip(self, step: Step, board: Board, jobs: list[JobStatus]) -> None:
        """Go on without a board that is offline, as was asked: no fault of anybody's."""
        sentence = f"skipped: the board is offline, {_seen(board)}"
        for job in jobs:
            # One that the board has just ended is over all the same.
            with contextlib.suppress(JobEnded):
                self._store.cancel_job(job.id, Failure(sentence, Blame.AUTHOR))
        self._store.update_step(step.id, "cancelled", sentence)

    def _reuse_note(self, curve_id: int) -> str:
        """What is to be said of a step's curve, which stays what it is."""
        if curve_id not in self._reuse_notes:
            curve = self._store.get_curve(curve_id)
            unstable = "" if curve.stable else f"unstable: {curve.unstable_reason}"
            if self._store.get_job_campaign(curve.job_id) != self._campaign_id:
                reused = f"reuses the curve of {curve.measured_at:%Y-%m-%d %H:%M} UTC"
                unstable = ", ".join(part for part in (reused, unstable) if part)
            self._reuse_notes[curve_id] = unstable
        return self._reuse_notes[curve_id]

    def _holder(self, name: str) -> str:
        return f"task:{self._campaign_id}:{name}"


def profile_task(model: str, label: str) -> str:
    """Name of the task that profiles ``label`` of ``model``."""
    return f"profile:{model}:{label}"


def _absence(board: Board) -> str:
    if board.online:
        return ""
    return f"waits for the board: {_seen(board)}"


def _seen(board: Board) -> str:
    return "never seen" if board.last_seen_at is None else f"last seen {board.last_seen_at:%Y-%m-%d %H:%M} UTC"
