"""The sweep engine: visits every missing (unit, round) of a job, whatever kind of job it is, and yields results.

Each round visits the timed units in a fresh random order, the sentinel first: drift or a busy neighbour then looks
like noise, not like a cliff. The order of a round follows from (seed, round) alone and known keys are left out of it
afterwards, so a job that was interrupted measures exactly what is missing. Judged units come last: predictions do
not drift, and forward passes over many images would warm the board up. Left to others: statistics, and delivery.
"""

import gc
import random
import time
from typing import Callable, Iterable, Iterator, List, Optional, Set, Tuple

from tailfleet_agent.worker.backends import Backend, OutOfMemory
from tailfleet_agent.worker.backends.memory import is_out_of_memory
from tailfleet_schema.board import Telemetry
from tailfleet_schema.curve import JUDGED_PARTS, Judgement, Part, Unit, UnitKey, UnitResult
from tailfleet_schema.job import Job

TELEMETRY_SECONDS = 1.0
"""Least time between two readings of the sensors."""

Visit = Tuple[Unit, int]
"""A unit and the round it is visited in."""

Judging = Callable[[Unit], Judgement]


def visits(job: Job, known: Iterable[UnitKey] = ()) -> List[Visit]:
    """Every (unit, round) of ``job`` in the order to run, without those whose key is ``known``."""
    done: Set[UnitKey] = set(known)
    timed = [unit for unit in job.units if unit.part not in JUDGED_PARTS]
    ordered: List[Visit] = []
    for round_number in range(job.rounds):
        shuffled = list(timed)
        random.Random("{}:{}".format(job.seed, round_number)).shuffle(shuffled)
        # A stable sort: sentinels in front, everything else as shuffled.
        shuffled.sort(key=lambda unit: unit.part is not Part.SENTINEL)
        ordered.extend((unit, round_number) for unit in shuffled)
    judged = [unit for unit in job.units if unit.part in JUDGED_PARTS]
    ordered.extend((unit, 0) for unit in sorted(judged, key=_judging_order))
    return [(unit, round_number) for unit, round_number in ordered if unit.key(round_number) not in done]


def run(
    job: Job,
    todo: List[Visit],
    open_backend: Callable[[], Backend],
    open_judge: Callable[[Optional[Backend]], Judging],
    read_telemetry: Callable[[], Optional[Telemetry]],
    note: Callable[[str], None] = lambda words: None,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[UnitResult]:
    """Yield the result of every visit in ``todo``, in that order.

    ``open_backend`` and ``open_judge`` are called once each, when a first timed or judged unit needs them; the judge is
    given the backend, if any was open. A unit
    that does not fit in memory yields status ``oom``. Nothing of this process runs while a block is timed.
    """
    backend: Optional[Backend] = None
    judging: Optional[Judging] = None
    read_at: Optional[float] = None
    for unit, round_number in todo:
        call_ns: List[int] = []
        judgement: Optional[Judgement] = None
        status = "ok"
        if unit.part in JUDGED_PARTS:
            if judging is None:
                note("opening the images")
                judging = open_judge(backend)
                # Unless the judge keeps it, for its predictions, the backend's memory is the judge's now.
                backend = None
                gc.collect()
        elif backend is None:
            note("building the model")
            backend = open_backend()
            note("running on " + ", ".join(backend.describe().values()))
            _warm_up(backend)
        try:
            if unit.part in JUDGED_PARTS:
                assert judging is not None
                judgement = judging(unit)
            else:
                assert backend is not None
                call_ns = backend.measure(unit, round_number, job.calls)
        except (OutOfMemory, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            call_ns, judgement, status = [], None, "oom"
            gc.collect()
        telemetry = None
        moment = now()
        if read_at is None or moment - read_at >= TELEMETRY_SECONDS:
            telemetry, read_at = read_telemetry(), moment
        yield UnitResult(unit, round_number, call_ns, judgement, status, telemetry)


def _warm_up(backend: Backend) -> None:
    try:
        backend.warm_up()
    except (OutOfMemory, MemoryError, RuntimeError) as error:
        # Smaller units may still fit; each says for itself whether it does.
        if not is_out_of_memory(error):
            raise


def _judging_order(unit: Unit) -> Tuple[str, int, str, int, int]:
    # By block: the judge keeps what enters a block while it tries counts there.
    return unit.part.value, unit.block, unit.label, -unit.tokens, -unit.kept
