"""Plans of a campaign's boards as tasks: many boards of one model in each.

What boards of a model have in common, its accuracy, then crosses the cluster once and is fitted once, and a plan takes
less time than it takes to start a task. Only so many tasks wait at a time: the others' curves need not lie in memory.
Input that no plan can be made of fails its own board alone; where a task's process died nobody knows whose input it
was, so that each of its boards is planned for alone from then on.
Left to others: which boards are to be planned for (``steps``), and what tasks do (``tasks``).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from tailfleet_coordinator.campaigns import stored_profile, stored_verifications, wanted_profile
from tailfleet_coordinator.cluster.tasks import News, Tasks
from tailfleet_coordinator.db.rows import Board, Campaign, NewPlan
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.plan.decision import Plan, PlanInput
from tailfleet_coordinator.plan.reading import VERSION
from tailfleet_coordinator.plan.wholes import whole_schedules
from tailfleet_coordinator.refusals import Deposed
from tailfleet_schema import codec
from tailfleet_schema.campaign import AUTO, Objective, Statistic
from tailfleet_schema.curve import Part, UnitResult
from tailfleet_schema.errors import TailfleetError
from tailfleet_schema.job import Failure
from tailfleet_schema.workload import ModelSpec

BOARDS_A_TASK = 50

MOST_TASKS = 12
"""Under way at a time: enough for as many cores between two looks of a driver, and little to lose with it."""


@dataclass(frozen=True)
class Wanted:
    """A board × model of a campaign that stands on a curve, and what is to be planned for it."""

    step_id: int
    board: Board
    model: ModelSpec
    curve_id: int
    pairs: Sequence[tuple[str, str]]
    """(planner, method)."""


class Planning:
    """The planning tasks of one campaign that has an ``objective``."""

    def __init__(self, store: Store, tasks: Tasks, campaign: Campaign, objective: Objective, tries: int) -> None:
        self._store = store
        self._tasks = tasks
        self._campaign = campaign
        self._objective = objective
        self._tries = tries
        self._numbers = count()
        self._running: dict[str, list[Wanted]] = {}
        self.under_way: set[int] = set()
        """Steps that some task plans for."""
        self._crashes: Counter[int] = Counter()
        self.failures: dict[int, Failure] = {}
        """By step: why there is no plan, and trying again is of no use."""

    def batches(self, wanted: Sequence[Wanted]) -> Iterator[tuple[str, list[Wanted]]]:
        """Names and boards of the tasks that may be begun now, of those in ``wanted`` that none plans for."""
        waiting: dict[str, list[Wanted]] = {}
        for one in wanted:
            if one.step_id not in self.under_way:
                waiting.setdefault(one.model.name, []).append(one)
        for mine in waiting.values():
            alone = [[one] for one in mine if self._crashes[one.step_id]]
            many = [one for one in mine if not self._crashes[one.step_id]]
            for batch in alone + [many[i : i + BOARDS_A_TASK] for i in range(0, len(many), BOARDS_A_TASK)]:
                if len(self._running) >= MOST_TASKS:
                    return
                yield f"plan:{next(self._numbers)}", batch

    def begin(self, name: str, batch: list[Wanted]) -> bool:
        """Read what the plans of ``batch``, boards of one model, rest on, and start the task; False where nothing of it
        can be planned."""
        inputs: list[PlanInput] = []
        readable: list[Wanted] = []
        read = self._reader(batch)
        for one in batch:
            try:
                inputs += read(one)
            except Deposed:
                raise
            except TailfleetError as error:
                self.failures[one.step_id] = Failure(error.sentence, error.blame)
            else:
                readable.append(one)
        if readable:
            self._running[name] = readable
            self.under_way.update(one.step_id for one in readable)
            self._tasks.plan(name, inputs)
        return bool(readable)

    def take(self, news: News) -> None:
        """Store the plans of a task that has ended; of those that failed why."""
        batch = self._running.pop(news.name)
        self.under_way.difference_update(one.step_id for one in batch)
        if news.failure is not None:
            for one in batch:
                self._crashes[one.step_id] += 1
                if not news.crashed or self._crashes[one.step_id] >= self._tries:
                    self.failures[one.step_id] = news.failure
            return
        planned = iter(news.plans)
        made: list[NewPlan] = []
        for one in batch:
            plans = [(planner, method, next(planned)) for planner, method in one.pairs]
            failed = next((plan for _, _, plan in plans if isinstance(plan, Failure)), None)
            if failed is not None:
                self.failures[one.step_id] = failed
            made += [
                NewPlan(
                    self._campaign.id,
                    one.board.id,
                    one.model.name,
                    planner,
                    method,
                    codec.dumps(plan),
                    plan.schedule,
                    [contender.schedule for contender in plan.contenders],
                )
                for planner, method, plan in plans
                if isinstance(plan, Plan)
            ]
        self._store.add_plans(made)

    def _reader(self, batch: list[Wanted]) -> Callable[[Wanted], list[PlanInput]]:
        """What gives a board's input, with all read that many boards can be asked for at once."""
        request, model, objective = self._campaign.request, batch[0].model, self._objective
        readings = self._store.list_readings([one.curve_id for one in batch], VERSION)
        verified = set(self._store.find_verified_boards([one.board.id for one in batch], model.name))
        # An earlier release may have judged other units: a plan is the same whether it did or not.
        wanted = set(wanted_profile(request, model))
        whole = [result for result in stored_profile(self._store, model) if result.unit in wanted]
        labelled = model.dataset is None or self._store.get_dataset(model.dataset).labelled
        methods = {method for one in batch for _, method in one.pairs}
        # One object for all boards: by that it is known that they have it in common.
        profiles = {method: _of_methods(model, whole, request.competing(method)) for method in methods}

        def read(one: Wanted) -> list[PlanInput]:
            reading = readings.get(one.curve_id)
            is_enough = reading is not None and objective.on is Statistic.QUIET
            sweep = [] if is_enough else self._store.list_results(self._store.get_curve(one.curve_id).job_id)
            seen = stored_verifications(self._store, request, one.board, model) if one.board.id in verified else []
            return [
                PlanInput(
                    model,
                    method,
                    planner,
                    objective,
                    sweep,
                    profiles[method],
                    request.batch,
                    reading,
                    request.competing(method) if method == AUTO else [],
                    seen,
                    request.verify,
                    labelled,
                )
                for planner, method in one.pairs
            ]

        return read


def _of_methods(model: ModelSpec, profile: list[UnitResult], methods: list[str]) -> list[UnitResult]:
    labels = {*methods, *(one.digest for method in methods for one in whole_schedules(model, method))}
    return [result for result in profile if result.unit.part is Part.INPUT or result.unit.label in labels]
