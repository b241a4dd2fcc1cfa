"""The engine of open-ended jobs, on simulated machines whose truth is known: errors, verdicts, order, and what a cut
changes (nothing)."""

import pytest
from simulator import Machine, each, measured, staircase_ns

from tailfleet_agent.worker import agenda
from tailfleet_agent.worker.backends import OutOfMemory
from tailfleet_agent.worker.run import Measuring, run
from tailfleet_schema import quiet
from tailfleet_schema.curve import Judgement, Part, Unit
from tailfleet_schema.job import Effort
from tailfleet_schema.workload import DatasetSpec, Geometry, ModelSpec

GEOMETRY = Geometry(12, 384, 6, 1536, 197, 1, 224, 16, 3, 1000)
SPEC = ModelSpec("deep", "VisionTransformer", GEOMETRY)
COUNTS = sorted({2, *(round(197 * k / 16) for k in range(1, 17))})
UNITS = (
    [Unit(Part.SENTINEL, 197, 197, label) for label in ("", "1", "2")]
    + [Unit(Part.FIXED, 197, 197)]
    + [Unit(Part.MODEL, n, n) for n in COUNTS]
    + [Unit(part, n, n) for part in (Part.ATTENTION, Part.MLP) for n in COUNTS[::2]]
    + [Unit(Part.REDUCE, n, n // 2, method) for n in (98, 148, 197) for method in ("topk", "tome")]
)


@pytest.fixture
def make_open(make_job):
    def make(least=None, budget=600.0, precision=0.02, most_rounds=60, units=UNITS, calls=3, **more):
        effort = Effort(precision, most_rounds, budget, least)
        return make_job(units, spec=SPEC, calls=calls, effort=effort, **more)

    return make


def worst_error(machine, results):
    return max(abs(one.quiet_ns / machine.quiet_ns(unit) - 1) for unit, one in quiet.estimates(results).items())


def rounds_of(results):
    found = {}
    for result in results:
        found.setdefault(result.round, []).append(result.unit)
    return [found[number] for number in sorted(found)]


def test_on_a_quiet_machine_the_least_is_nearly_enough(make_open):
    job, machine = make_open(), Machine()

    results = measured(job, machine)

    assert quiet.judge(results).stable
    assert worst_error(machine, results) < 0.01
    assert {result.key for result in results} >= set(job.keys())
    assert len(results) < 1.1 * len(job.keys())


@pytest.mark.parametrize("burst_seconds", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("wobble", [0.0, 0.05])
def test_beside_a_machine_busy_half_of_the_time_curves_are_stable_and_right(make_open, burst_seconds, seed, wobble):
    machine = Machine(seed, burst_seconds=burst_seconds, wobble=wobble)

    results = measured(make_open(seed=seed), machine)

    judged = quiet.judge(results)
    assert judged.stable, judged.reason
    assert worst_error(machine, results) < 0.05


@pytest.mark.parametrize("seed", [1, 2])
def test_too_small_a_budget_ends_unstable_and_says_so(make_open, seed):
    machine = Machine(seed, burst_seconds=0.5)
    notes = []

    results = measured(make_open(budget=10.0), machine, note=notes.append)

    judged = quiet.judge(results)
    assert not judged.stable
    assert "were seen undisturbed too rarely to be known" in judged.reason
    assert machine.seconds < 11.0
    assert notes[-1] == "the budget of 10 s is spent"


def test_the_first_round_is_made_whatever_the_budget(make_open):
    results = measured(make_open(budget=1e-6), Machine())

    assert [len(units) for units in rounds_of(results)] == [len(UNITS)]


def test_heat_that_slows_by_less_than_a_step_is_taken_out(make_open):
    machine = Machine(slowdown=lambda seconds: 1.0 + min(0.04, 0.004 * seconds))

    results = measured(make_open(), machine)

    assert quiet.judge(results).stable
    assert worst_error(machine, results) < 0.03


def test_a_clock_that_falls_and_comes_back_costs_rounds_and_no_error(make_open):
    machine = Machine(slowdown=lambda seconds: 1.25 if 8.0 < seconds < 30.0 else 1.0)

    results = measured(make_open(), machine)

    judged = quiet.judge(results)
    assert judged.stable
    assert any(mark.disturbed for mark in judged.rounds)
    assert worst_error(machine, results) < 0.02


def test_a_clock_that_falls_early_and_stays_makes_a_curve_unstable(make_open):
    machine = Machine(slowdown=lambda seconds: 1.25 if seconds > 5.0 else 1.0)

    judged = quiet.judge(measured(make_open(budget=60.0), machine))

    assert not judged.stable
    assert "and it never came back" in judged.reason


def test_while_the_machine_is_slow_it_is_watched_not_measured(make_open):
    machine = Machine(slowdown=lambda seconds: 1.3 if 8.0 < seconds < 40.0 else 1.0)
    notes = []

    results = measured(make_open(least=2), machine, note=notes.append, pause=machine.wait)

    judged = quiet.judge(results)
    slow = {mark.round for mark in judged.rounds if mark.disturbed}
    assert judged.stable
    assert worst_error(machine, results) < 0.03
    assert sum("a look back" in note for note in notes) >= 10
    # What is met for the first time is met at a quiet hour, but for what was on its way when that ended.
    fresh = {}
    for result in results:
        fresh.setdefault(result.unit, result.round)
    assert len([unit for unit, number in fresh.items() if number in slow]) <= 12


@pytest.mark.parametrize("seed", range(3))
def test_beside_bursts_as_short_as_calls_no_stretch_passes_for_faster_than_all_others(make_open, seed):
    """The curve is a comb, so that many counts are added, each seen a few times."""
    units = [unit for unit in UNITS if unit.part in (Part.MODEL, Part.SENTINEL)]
    small = Machine(
        seed,
        lambda unit: (1.2e6 + 3e4 * unit.tokens) * (1.04 if unit.tokens % 2 else 1.0),
        burst_seconds=0.05,
        speed=0.5,
        wobble=0.1,
        noise=0.015,
    )

    results = measured(make_open(least=2, budget=60.0, seed=seed, most_rounds=200, calls=2, units=units), small)

    judged = quiet.judge(results)
    assert judged.stable, judged.reason
    assert worst_error(small, results) < 0.06


def test_a_machine_that_stays_slow_is_not_waited_for_for_ever(make_open):
    machine = Machine(slowdown=lambda seconds: 1.3 if seconds > 5.0 else 1.0)

    results = measured(make_open(most_rounds=200), machine, pause=machine.wait)

    assert not quiet.judge(results).stable
    assert 40 < len(rounds_of(results)) < 60


def test_who_has_little_time_waits_little(make_open):
    machine = Machine(slowdown=lambda seconds: 1.3 if seconds > 5.0 else 1.0)
    notes = []

    measured(make_open(most_rounds=200, budget=40.0), machine, note=notes.append, pause=machine.wait)

    assert notes.count("waiting for a look back") == 20
    assert notes[-1] == "the machine has been waited for long enough"


def test_a_short_sweep_beside_a_long_burst_looks_back_and_finds_out(make_open):
    units = [Unit(Part.SENTINEL, 197, 197)] + [Unit(Part.MODEL, n, n) for n in COUNTS]
    machine = Machine(truth_ns=lambda unit: 1e5 * (10 + unit.tokens), slowdown=lambda s: 1.8 if s < 6.0 else 1.0)

    results = measured(make_open(units=units), machine, pause=machine.wait)

    assert machine.seconds > 19
    assert quiet.judge(results).stable
    assert worst_error(machine, results) < 0.02
    # Without the means to wait it would not know.
    hasty = Machine(truth_ns=lambda unit: 1e5 * (10 + unit.tokens), slowdown=lambda s: 1.8 if s < 6.0 else 1.0)
    assert worst_error(hasty, measured(make_open(units=units), hasty)) > 0.5


def test_waiting_for_others_is_not_charged_to_the_budget(make_open):
    alone = len(measured(make_open(), Machine()))
    waiting = Machine()
    beside = 0
    for _ in each(make_open(budget=40.0), waiting):
        waiting.seconds += 1.0
        beside += 1
    assert beside >= alone


def test_the_last_part_of_a_budget_finishes_what_was_begun(make_open):
    """Counts keep being added on a curve that goes up and down; none stays seen once."""
    comb = lambda unit: staircase_ns(unit) * (1.0 + 0.08 * (unit.tokens % 2))  # noqa: E731
    machine = Machine(truth_ns=comb)

    results = measured(make_open(least=2, budget=25.0), machine)

    judged = quiet.judge(results)
    assert machine.seconds < 27.0
    assert judged.stable, judged.reason


def test_a_board_throttled_at_the_end_keeps_what_it_had_measured_before(make_open):
    machine = Machine(slowdown=lambda seconds: 1.4 if seconds > 11.0 else 1.0)

    results = measured(make_open(), machine)

    assert quiet.judge(results).stable
    assert worst_error(machine, results) < 0.02


def test_a_coarse_curve_is_refined_until_its_cliffs_lie_between_neighbours(make_open):
    machine, notes = Machine(), []

    results = measured(make_open(least=2), machine, note=notes.append)

    counts = {result.unit.tokens for result in results if result.unit.part is Part.MODEL}
    assert {64, 65, 128, 129, 192, 193} <= counts
    assert len(counts) < 120
    assert worst_error(machine, results) < 0.02
    assert any("counts added" in words and not words.endswith(" 0 counts added") for words in notes)


def test_nothing_is_added_where_that_was_not_asked_for(make_open):
    assert {result.unit for result in measured(make_open(), Machine(burst_seconds=0.5))} == set(UNITS)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_job_cut_anywhere_goes_on_as_if_nothing_had_happened(make_open, share):
    """Samples depend on unit and round alone here, as on a virtual board."""

    class Keyed(Machine):
        def measure(self, unit, round_number, calls):
            self._rng.seed(repr(unit.key(round_number)))
            return super().measure(unit, round_number, calls)

    whole = measured(make_open(least=2), Keyed(noise=0.02))
    earlier = whole[: int(share * len(whole))]

    rest = measured(make_open(least=2), Keyed(noise=0.02), earlier=earlier)

    assert earlier + rest == whole


def test_what_earlier_attempts_have_spent_is_spent(make_open):
    machine = Machine(burst_seconds=0.5)
    whole = measured(make_open(budget=25.0), machine)
    cut = len(whole) // 2

    resumed = Machine(burst_seconds=0.5)
    measured(make_open(budget=25.0), resumed, earlier=whole[:cut])

    assert resumed.seconds < 25.5 - sum(sum(result.call_ns) for result in whole[:cut]) * 1e-9


def test_a_complete_job_opens_nothing(make_open):
    whole = measured(make_open(), Machine())

    def never():
        raise AssertionError("not needed, yet opened")

    assert list(run(make_open(), Measuring(make_open(), never, never, lambda: None), earlier=whole)) == []


def test_a_unit_without_memory_is_not_tried_again(make_open):
    class Small(Machine):
        def measure(self, unit, round_number, calls):
            if unit.tokens > 190:
                raise OutOfMemory("too little")
            return super().measure(unit, round_number, calls)

    results = measured(make_open(), Small())

    failed = [result for result in results if result.status == "oom"]
    assert failed
    assert {result.round for result in failed} == {0}
    assert all(not result.call_ns for result in failed)


def test_judged_units_come_last_and_once(make_open):
    judged = Unit(Part.LOSS, 197, 98, "topk", 1)
    job = make_open(units=[judged, *UNITS], dataset=DatasetSpec("images", "0" * 64, 10, 10, 10, "drawn"))
    machine = Machine()
    answer = Judgement(10, 9, 10, 0.0, "host", "1111111110")

    results = list(
        run(job, Measuring(job, lambda: machine, lambda backend: lambda unit: answer, lambda: None, now=machine.now))
    )

    assert [result.unit for result in results if result.judgement] == [judged]
    assert results[-1].unit == judged


def test_each_round_has_sentinels_evenly_spaced_and_a_fresh_order(make_open):
    first, second = rounds_of(measured(make_open(), Machine()))[:2]

    for units in (first, second):
        labels = [unit.label for unit in units if unit.part is Part.SENTINEL]
        places = [place for place, unit in enumerate(units) if unit.part is Part.SENTINEL]
        assert labels == ["", "1", "2"]
        assert places == [0, 1 + (len(UNITS) - 3) // 3, 2 + 2 * (len(UNITS) - 3) // 3]
    assert first != second


def test_a_round_of_few_units_has_known_ones_beside_them(make_open):
    victim = Unit(Part.MODEL, 98, 98)

    class Odd(Machine):
        def measure(self, unit, round_number, calls):
            calls_ns = super().measure(unit, round_number, calls)
            return [ns * (3 if unit == victim and 0 < round_number < 3 else 1) for ns in calls_ns]

    results = measured(make_open(), Odd(noise=0.002))

    later = rounds_of(results)[3]
    assert victim in later
    assert later[0].part is Part.SENTINEL
    assert len(later) == 1 + agenda.COMPANIONS
    assert worst_error(Machine(noise=0.002), results) < 0.02


def test_no_unit_is_measured_in_more_rounds_than_allowed(make_open):
    results = measured(make_open(most_rounds=5), Machine(burst_seconds=0.05))

    assert max(result.round for result in results) == 4


def test_notes_tell_what_each_round_is_for(make_open):
    notes = []

    measured(make_open(), Machine(noise=0.001), note=notes.append)

    assert notes == [
        "round 1: all {} units".format(len(UNITS)),
        "building the model",
        "running on simulated",
        "round 2: {0} of {0} units to repeat, 0 counts added".format(len(UNITS)),
        "round 3: {0} of {0} units to repeat, 0 counts added".format(len(UNITS)),
    ]
