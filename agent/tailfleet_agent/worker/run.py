"""The sweep engine: visits what a job asks for, whatever kind of job it is, and yields results.

Each round visits timed units in a fresh random order, sentinels first and in between: drift or a busy neighbour then
looks like noise, not like a cliff. A job without an ``Effort`` has the same units in each round, and known keys are
left out of it, so a job that was interrupted measures exactly what is missing. With one, what a round visits follows
from the rounds before (``agenda``). Judged units come last: predictions do not drift, and forward passes over many
images would warm the board up. Left to others: statistics, and delivery.
"""

import gc
import time
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from tailfleet_agent.worker import agenda
from tailfleet_agent.worker.backends import Backend, OutOfMemory
from tailfleet_agent.worker.backends.memory import is_out_of_memory
from tailfleet_schema.board import Telemetry
from tailfleet_schema.curve import JUDGED_PARTS, WHOLE, Judgement, Part, Unit, UnitKey, UnitResult
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.schedule import first_reducing

TELEMETRY_SECONDS = 1.0
"""Least time between two readings of the sensors within a round."""

ENERGY_SECONDS = 0.2
"""Counters of energy move in steps: the difference over a shorter block says nothing."""

LEAST_SECONDS = 20.0
"""A busy neighbour may stay for some seconds, and look like the machine itself to a sweep that is over sooner."""

WAITING_SHARE = 0.5
"""Of the budget, and beside it: no more is spent on waiting."""

LOOK_SECONDS = 1.0
"""Between looks: each may meet the neighbour at work again."""

Visit = Tuple[Unit, int]
"""A unit and the round it is visited in."""

Judging = Callable[[Unit], Judgement]


def visits(job: Job, known: Iterable[UnitKey] = ()) -> List[Visit]:
    """Every (unit, round) that ``job`` lists in the order to run, without those whose key is ``known``."""
    timed = [unit for unit in job.units if unit.part not in JUDGED_PARTS]
    listed = [(unit, number) for number in range(job.rounds) for unit in agenda.ordered(job, number, timed)]
    done: Set[UnitKey] = set(known)
    return [(unit, number) for unit, number in listed + _judged(job) if unit.key(number) not in done]


class Measuring:
    """What measures single visits: backend and judge, each opened when a first unit needs it, and the sensors.

    ``pause`` waits for so many seconds; without it no sweep is lengthened to look back at itself.
    ``open_judge`` is given the backend, if one was open. ``read_energy`` gives a counter in millijoules that only
    grows, of a GPU or else of the CPU, None where the board has none. ``runtime`` is called once with what the backend
    runs on. Nothing of this process runs while a block is timed.
    """

    def __init__(
        self,
        job: Job,
        open_backend: Callable[[], Backend],
        open_judge: Callable[[Optional[Backend]], Judging],
        read_telemetry: Callable[[], Optional[Telemetry]],
        read_energy: Callable[[bool], Optional[float]] = lambda on_gpu: None,
        note: Callable[[str], None] = lambda words: None,
        runtime: Callable[[Dict[str, str]], None] = lambda told: None,
        now: Callable[[], float] = time.monotonic,
        pause: Optional[Callable[[float], None]] = None,
    ) -> None:
        self._job = job
        self._open_backend = open_backend
        self._open_judge = open_judge
        self._read_telemetry = read_telemetry
        self._read_energy = read_energy
        self.note = note
        self._runtime = runtime
        self.now = now
        self._backend: Optional[Backend] = None
        self._judging: Optional[Judging] = None
        self._read_at: Optional[float] = None
        self._met: Set[Unit] = set()
        self.pause = pause
        self.began: Optional[float] = None
        """When the first timed block began."""
        self.spent = 0.0
        """Seconds in timed blocks and around them, waiting for others left out."""

    def visit(self, unit: Unit, number: int, edge: bool) -> UnitResult:
        """Measure ``unit`` once; one that does not fit in memory has status ``oom``. At an ``edge`` of a round the
        sensors are read in any case."""
        return self._judge(unit, number) if unit.part in JUDGED_PARTS else self._time(unit, number, edge)

    def _judge(self, unit: Unit, number: int) -> UnitResult:
        if self._judging is None:
            self.note("opening the images")
            self._judging = self._open_judge(self._backend)
            # Unless the judge keeps it, for its predictions, the backend's memory is the judge's now.
            self._backend = None
            gc.collect()
        try:
            return UnitResult(unit, number, judgement=self._judging(unit), telemetry=self._telemetry(False))
        except (OutOfMemory, MemoryError, RuntimeError) as error:
            return self._without_memory(unit, number, error)

    def _time(self, unit: Unit, number: int, edge: bool) -> UnitResult:
        backend = self._opened()
        begin = self.now()
        if self.began is None:
            self.began = begin
        try:
            return self._timed(backend, unit, number, edge)
        finally:
            self.spent += self.now() - begin

    def _timed(self, backend: Backend, unit: Unit, number: int, edge: bool) -> UnitResult:
        before = self._read_energy(backend.on_gpu)
        try:
            call_ns = backend.measure(unit, number, self._job.calls)
        except (OutOfMemory, MemoryError, RuntimeError) as error:
            return self._without_memory(unit, number, error)
        after = self._read_energy(backend.on_gpu)
        telemetry = self._telemetry(edge)
        # The first time, an untimed call goes before the others.
        counted = unit in self._met and sum(call_ns) >= ENERGY_SECONDS * 1e9
        self._met.add(unit)
        energy_mj = None
        if counted and before is not None and after is not None and after > before:
            energy_mj = (after - before) / len(call_ns)
        elif (
            telemetry is not None and telemetry.power_mw is not None and (backend.on_gpu or telemetry.power_of != "gpu")
        ):
            energy_mj = telemetry.power_mw * sum(call_ns) / len(call_ns) * 1e-9
        return UnitResult(
            unit,
            number,
            call_ns,
            telemetry=telemetry,
            peak_memory_bytes=backend.peak_memory_bytes(),
            energy_mj=energy_mj,
        )

    def _opened(self) -> Backend:
        if self._backend is None:
            self.note("building the model")
            backend = self._open_backend()
            told = backend.describe()
            self.note("running on " + ", ".join(told.values()))
            self._runtime(told)
            _warm_up(backend)
            self._backend = backend
        return self._backend

    def _telemetry(self, edge: bool) -> Optional[Telemetry]:
        moment = self.now()
        if not edge and self._read_at is not None and moment - self._read_at < TELEMETRY_SECONDS:
            return None
        self._read_at = moment
        return self._read_telemetry()

    def _without_memory(self, unit: Unit, number: int, error: BaseException) -> UnitResult:
        if not is_out_of_memory(error):
            raise error
        gc.collect()
        return UnitResult(unit, number, status="oom", telemetry=self._telemetry(False))


def run(
    job: Job, measuring: Measuring, known: Iterable[UnitKey] = (), earlier: Sequence[UnitResult] = ()
) -> Iterator[UnitResult]:
    """Yield the results of ``job`` that are neither ``known`` nor among the ``earlier`` attempts' results.

    Only a job with an ``Effort`` reads what the earlier results are.
    """
    done = set(known) | {result.key for result in earlier}
    if job.effort is None:
        todo = visits(job, done)
    else:
        for result in _open_ended(job, measuring, done, list(earlier)):
            yield result
        todo = [(unit, number) for unit, number in _judged(job) if unit.key(number) not in done]
    rounds = [number for _, number in todo]
    for place, (unit, number) in enumerate(todo):
        edge = number != (rounds[place - 1] if place else None) or rounds[place + 1 : place + 2] != [number]
        yield measuring.visit(unit, number, edge)


def _open_ended(job: Job, measuring: Measuring, done: Set[UnitKey], results: List[UnitResult]) -> Iterator[UnitResult]:
    """Round after round until nothing is left to measure, or the budget is spent; the first round is made in any
    case."""
    assert job.effort is not None
    budget = job.effort.budget_seconds
    spent_before = sum(sum(result.call_ns) for result in results) * 1e-9
    # A verification compares what it measures in the same rounds.
    looks_back = measuring.pause is not None and job.kind is JobKind.SWEEP
    waited = 0.0
    number = 0
    planned: Optional[agenda.Round] = agenda.first_round(job)
    while planned is not None:
        todo = [unit for unit in planned.units if unit.key(number) not in done]
        if todo:
            measuring.note(planned.note)
        for place, unit in enumerate(todo):
            if number and spent_before + measuring.spent >= budget:
                measuring.note("the budget of {:.0f} s is spent".format(budget))
                return
            result = measuring.visit(unit, number, place in (0, len(todo) - 1))
            results.append(result)
            yield result
        number += 1
        # What a later round measured before an interruption is not known to an earlier one.
        before = [result for result in results if result.round < number]
        planned = agenda.next_round(job, number, before)
        if planned is None and looks_back and number < job.most_rounds and measuring.began is not None:
            left = min(LEAST_SECONDS, budget / 2) - (measuring.now() - measuring.began)
            if left > 0:
                planned = agenda.look_back(job, number, before)
        if planned is not None and planned.later and measuring.pause is not None:
            if waited >= budget * WAITING_SHARE:
                measuring.note("the machine has been waited for long enough")
                return
            measuring.note("waiting for a look back")
            measuring.pause(LOOK_SECONDS)
            waited += LOOK_SECONDS


def _warm_up(backend: Backend) -> None:
    try:
        backend.warm_up()
    except (OutOfMemory, MemoryError, RuntimeError) as error:
        # Smaller units may still fit; each says for itself whether it does.
        if not is_out_of_memory(error):
            raise


def _judged(job: Job) -> List[Visit]:
    # By the first block that reduces: the judge keeps what enters it while it tries counts there.
    first = {one.digest: (one.reducing_blocks or [0])[0] for one in job.schedules}

    def order(unit: Unit) -> Tuple[str, int, int, str, int, int]:
        begins = unit.block
        if unit.part is Part.LOSS and unit.block == WHOLE:
            begins = first[unit.label]
        elif unit.part is Part.LOSS:
            prefix = job.workload.model.geometry.prefix
            begins = first_reducing(unit.label, unit.tokens, prefix, unit.block, unit.kept)
        return unit.part.value, begins, unit.block, unit.label, -unit.tokens, -unit.kept

    return [(unit, 0) for unit in sorted((unit for unit in job.units if unit.part in JUDGED_PARTS), key=order)]
