"""The engine over a backend that does as it is told."""

import pytest

from tailfleet_agent.worker.backends import Backend, OutOfMemory
from tailfleet_agent.worker.backends.memory import is_out_of_memory
from tailfleet_agent.worker.run import run, visits
from tailfleet_schema.board import Telemetry
from tailfleet_schema.curve import Judgement, Part, Unit
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import DatasetSpec

DATASET = DatasetSpec("images", "0" * 64, 10, 10, 10, "drawn")
JUDGED = Unit(Part.LOSS, 17, 12, "topk", 1)


class Told(Backend):
    """Measures 1000 ns per token; raises what ``errors`` has for a token count, or for warming up (0)."""

    def __init__(self, errors=None):
        self.errors = errors or {}
        self.warmed = 0

    def describe(self):
        return {"device": "nothing"}

    def warm_up(self):
        self.warmed += 1
        if 0 in self.errors:
            raise self.errors[0]

    def measure(self, unit, round_number, calls):
        if unit.tokens in self.errors:
            raise self.errors[unit.tokens]
        return [1000 * unit.tokens] * calls


def never():
    raise AssertionError("not needed, yet opened")


def measured(job, backend, open_judge=never, telemetry=lambda: None, **more):
    return list(run(job, visits(job), lambda: backend, open_judge, telemetry, **more))


def test_every_visit_yields_its_samples(make_job):
    job = make_job(calls=4)
    backend = Told()

    results = measured(job, backend)

    assert [result.key for result in results] == [unit.key(number) for unit, number in visits(job)]
    assert all(result.call_ns == [1000 * result.unit.tokens] * 4 for result in results)
    assert backend.warmed == 1


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemory("too little"),
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_unit_that_does_not_fit_is_a_result_and_the_rest_goes_on(make_job, error):
    job = make_job()

    results = measured(job, Told({9: error}))

    assert {result.unit.tokens for result in results if result.status == "oom"} == {9}
    assert all(not result.call_ns for result in results if result.status == "oom")
    assert len(results) == len(job.keys())


def test_warming_up_may_run_out_of_memory_too(make_job):
    assert all(result.status == "ok" for result in measured(make_job(), Told({0: MemoryError()})))


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), InputError("no")])
def test_any_other_error_ends_the_job(make_job, error):
    with pytest.raises(type(error)):
        measured(make_job(), Told({9: error}))
    assert not is_out_of_memory(error)


def test_a_job_that_only_judges_builds_no_backend(make_job):
    judgement = Judgement(10, 9, 10, 0.0, "host", "1111111110")
    job = make_job([JUDGED], dataset=DATASET)

    results = list(run(job, visits(job), never, lambda backend: lambda unit: judgement, lambda: None))

    assert [result.judgement for result in results] == [judgement]
    assert results[0].call_ns == []


def test_nothing_missing_opens_nothing(make_job):
    job = make_job()

    assert list(run(job, visits(job, job.keys()), never, never, lambda: None)) == []


def test_sensors_are_read_at_most_once_a_second_and_after_the_block(make_job):
    clock = iter(index * 0.4 for index in range(10_000))
    state = Telemetry("2026-01-01T00:00:00+00:00")

    results = measured(make_job(), Told(), telemetry=lambda: state, now=lambda: next(clock))

    assert [result.telemetry is state for result in results[:7]] == [True, False, False, True, False, False, True]
