"""The engine over a backend that does as it is told."""

import pytest

from tailfleet_agent.worker.backends import Backend, OutOfMemory
from tailfleet_agent.worker.backends.memory import is_out_of_memory
from tailfleet_agent.worker.run import Measuring, run, visits
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

    def peak_memory_bytes(self):
        return 5000

    def measure(self, unit, round_number, calls):
        if unit.tokens in self.errors:
            raise self.errors[unit.tokens]
        return [1000 * unit.tokens] * calls


def never():
    raise AssertionError("not needed, yet opened")


def measured(job, backend, open_judge=never, telemetry=lambda: None, **more):
    return list(run(job, Measuring(job, lambda: backend, open_judge, telemetry, **more)))


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

    results = list(run(job, Measuring(job, never, lambda backend: lambda unit: judgement, lambda: None)))

    assert [result.judgement for result in results] == [judgement]
    assert results[0].call_ns == []


def test_nothing_missing_opens_nothing(make_job):
    job = make_job()

    assert list(run(job, Measuring(job, never, never, lambda: None), job.keys())) == []


def test_sensors_are_read_at_both_ends_of_a_round_and_at_most_once_a_second_between(make_job):
    now = [0.0]

    class Slow(Told):
        def measure(self, unit, round_number, calls):
            now[0] += 0.4
            return super().measure(unit, round_number, calls)

    state = Telemetry("2026-01-01T00:00:00+00:00")

    results = measured(make_job(rounds=2), Slow(), telemetry=lambda: state, now=lambda: now[0])

    read = [result.telemetry is state for result in results]
    assert len(read) == 30
    assert read[:15] == read[15:] == [True, False, False] * 4 + [True, False, True]


def test_what_it_runs_on_is_told_once_before_the_first_result(make_job):
    told = []
    measuring = Measuring(make_job(), Told, never, lambda: None, runtime=told.append)

    next(run(make_job(), measuring))

    assert told == [{"device": "nothing"}]


def test_peak_memory_is_asked_of_the_backend_after_each_unit(make_job):
    assert {result.peak_memory_bytes for result in measured(make_job(), Told())} == {5000}


class Long(Told):
    """Calls of a tenth of a second; ``used_mj`` grows by 40 mJ in each."""

    used_mj = 0.0

    def measure(self, unit, round_number, calls):
        self.used_mj += 40.0 * calls
        return [100_000_000] * calls


def test_energy_of_a_call_is_what_the_counter_gained_but_for_the_first_block_with_its_untimed_call(make_job):
    backend = Long()
    job = make_job(rounds=2, calls=3)

    results = measured(job, backend, read_energy=lambda on_gpu: backend.used_mj)

    assert [result.energy_mj for result in results] == [None] * 15 + [40.0] * 15


def test_energy_of_a_short_block_comes_from_the_power_where_that_was_read(make_job):
    backend = Told()
    state = Telemetry("2026-01-01T00:00:00+00:00", power_mw=5000.0)

    results = measured(make_job(), backend, telemetry=lambda: state, read_energy=lambda on_gpu: 1.0)

    told = {result.unit.tokens: result.energy_mj for result in results if result.telemetry is state}
    assert told[17] == pytest.approx(5000.0 * 17e-6)
    assert all(result.energy_mj is None for result in results if result.telemetry is None)


def test_a_job_on_the_cpu_is_not_charged_with_the_gpu_s_power(make_job):
    state = Telemetry("2026-01-01T00:00:00+00:00", power_mw=5000.0, power_of="gpu")
    backend = Told()
    assert {result.energy_mj for result in measured(make_job(), backend, telemetry=lambda: state)} == {None}
    backend.on_gpu = True
    assert any(result.energy_mj for result in measured(make_job(), backend, telemetry=lambda: state))


def test_a_counter_that_stands_still_says_nothing(make_job):
    assert {result.energy_mj for result in measured(make_job(), Long(), read_energy=lambda on_gpu: 7.0)} == {None}
