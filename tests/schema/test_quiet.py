"""Sweeps made by hand, each disturbed in one way: what is known of their units, and what is said of them."""

import random

import pytest

from tailfleet_schema.board import Telemetry
from tailfleet_schema.curve import Judgement, Part, Unit, UnitResult
from tailfleet_schema.quiet import estimates, judge, student

UNITS = [Unit(Part.SENTINEL, 197, 197)] + [Unit(Part.MODEL, n, n) for n in range(20, 197, 6)]


def true_ns(unit):
    return 2e6 + 1e5 * unit.tokens


def sweep(rounds=3, slower=lambda unit, number: 1.0, seed=1, calls=3, telemetry=None, units=UNITS):
    """Blocks in random order; ``slower`` may be a factor or one for each call."""
    rng = random.Random(seed)
    made = []
    for number in range(rounds):
        for unit in rng.sample(units, len(units)):
            factor = slower(unit, number)
            factors = factor if isinstance(factor, list) else [factor] * calls
            ns = [max(1, round(true_ns(unit) * f * (1 + 0.005 * rng.expovariate(1)))) for f in factors]
            told = telemetry(number) if telemetry else None
            made.append(UnitResult(unit, number, ns, telemetry=told))
    return made


def worst(results):
    return max(abs(one.quiet_ns / true_ns(unit) - 1) for unit, one in estimates(results).items())


def test_a_calm_sweep_is_stable_and_right():
    results = sweep()
    judged = judge(results)
    assert (judged.stable, judged.reason, judged.disturbed, judged.unsure) == (True, "", frozenset(), frozenset())
    assert [(mark.round, mark.disturbed, mark.reason) for mark in judged.rounds] == [(r, False, "") for r in range(3)]
    assert worst(results) < 0.01
    assert {(one.calls, one.rounds) for one in estimates(results).values()} == {(9, 3)}


def test_small_drift_of_all_units_is_divided_out():
    results = sweep(slower=lambda unit, number: 1 + 0.02 * number)
    judged = judge(results)
    assert judged.stable
    assert [round(mark.factor, 2) for mark in judged.rounds] == [1.0, 1.02, 1.04]
    assert worst(results) < 0.01
    assert max(one.half_share for one in estimates(results, judged).values()) < 0.01


def test_a_round_that_was_slower_as_a_whole_is_left_out():
    results = sweep(rounds=4, slower=lambda unit, number: 1.3 if number == 1 else 1.0)
    judged = judge(results)
    assert judged.stable
    assert [mark.disturbed for mark in judged.rounds] == [False, True, False, False]
    assert judged.rounds[1].reason == "everything took 1.30 times as long as in the quietest rounds"
    assert judged.disturbed == {unit.key(1) for unit in UNITS}
    assert worst(results) < 0.01


def test_a_round_of_which_a_burst_hit_half_loses_that_half():
    hit = {unit.key(1) for unit in UNITS[::2]}
    results = sweep(rounds=4, slower=lambda unit, number: 1.6 if unit.key(number) in hit else 1.0)
    judged = judge(results)
    assert judged.stable
    assert judged.disturbed == hit
    assert worst(results) < 0.01


def test_of_a_block_that_a_burst_has_hit_in_part_the_quiet_call_counts():
    results = sweep(rounds=4, slower=lambda unit, number: [1.5, 1.0, 1.7] if number % 2 else [1.0] * 3)
    assert judge(results).disturbed == frozenset()
    assert worst(results) < 0.01


def test_blocks_that_agree_amid_disturbance_are_not_enough():
    """All blocks of one unit were hit by the same burst; so were those around it, which are known better."""
    victim = UNITS[7]
    rng = random.Random(3)
    hit = {unit.key(r) for unit in UNITS for r in range(4) if unit is not victim and rng.random() < 0.5}
    hit |= {victim.key(r) for r in range(4)}
    results = sweep(rounds=4, slower=lambda unit, number: 1.6 if unit.key(number) in hit else 1.0)
    judged = judge(results)
    assert not judged.stable
    assert victim in judged.unsure
    one = estimates(results, judged)[victim]
    assert one.low_ns <= true_ns(victim) <= one.quiet_ns


def test_units_seen_undisturbed_once_are_unsure_and_make_the_sweep_unstable():
    victims = UNITS[5:8]
    results = sweep(slower=lambda unit, number: 1.2 + 0.1 * number if unit in victims and number else 1.0)
    judged = judge(results)
    assert judged.unsure == set(victims)
    share = f"{100 * 6 / (3 * len(UNITS)):.0f} %"
    assert judged.reason == (
        f"3 of {len(UNITS)} units were seen undisturbed too rarely to be known: {share} of all blocks were disturbed"
    )
    assert {estimates(results, judged)[victim].rounds for victim in victims} == {1}


@pytest.mark.parametrize(("place", "stable"), [(5, True), (1, False), (len(UNITS) - 1, False), (0, False)])
def test_a_single_count_that_stays_unknown_is_left_to_inference_but_no_end_of_the_curve_is(place, stable):
    victim = UNITS[place]
    results = sweep(slower=lambda unit, number: 1.2 + 0.1 * number if unit is victim and number else 1.0)
    judged = judge(results)
    assert judged.stable is stable
    assert judged.unsure == {victim}
    assert (victim in estimates(results, judged)) is not stable


def test_drift_that_never_comes_back_is_said_with_what_sensors_saw():
    def told(number):
        hot = number > 0
        return Telemetry(
            "2026-01-01T00:00:00+00:00",
            gpu_mhz=640.0 if hot else 918.0,
            temperature_c=83.0 if hot else 60.0,
            throttled="SW thermal slowdown" if hot else "",
        )

    judged = judge(sweep(rounds=4, slower=lambda unit, number: 1.4 if number else 1.0, telemetry=told))
    assert not judged.stable
    assert judged.reason == (
        "from round 2 on everything took 1.40 times as long as in the quietest rounds; throttled: SW thermal slowdown; "
        "GPU clock fell from 918 to 640 MHz; temperature rose from 60 to 83 °C, and it never came back"
    )


def moved(results, factor_of):
    """``results`` with each block slower by what ``factor_of`` says of its place among all."""
    return [
        UnitResult(r.unit, r.round, [round(ns * factor_of(place, r.unit)) for ns in r.call_ns])
        for place, r in enumerate(results)
    ]


def clock(unit):
    """What another clock makes of calls: the longer, the less."""
    return 1.28 * (true_ns(unit) / 1e7) ** -0.06


def test_a_machine_that_changes_its_speed_in_mid_round_spoils_that_part_alone():
    results = moved(sweep(), lambda place, unit: 1.3 if 41 <= place < 51 else 1.0)
    judged = judge(results)
    assert judged.stable
    assert judged.disturbed == {r.unit.key(r.round) for r in results[41:51]}
    assert not any(mark.disturbed for mark in judged.rounds)
    assert worst(results) < 0.01


def test_a_single_quiet_block_is_confirmed_by_slower_ones_that_are_alike():
    count = len(UNITS)
    results = moved(sweep(rounds=4), lambda place, unit: clock(unit) if count <= place < 3 * count else 1.0)
    results = results[: 3 * count + 12]
    judged = judge(results)
    assert judged.stable, judged.reason
    assert [mark.disturbed for mark in judged.rounds] == [False, True, True, False]
    assert judged.disturbed == {unit.key(number) for unit in UNITS for number in (1, 2)}
    assert worst(results) < 0.01
    once = next(unit for unit in UNITS if unit not in [r.unit for r in results[3 * count :]])
    assert estimates(results)[once].rounds == 3


def test_slower_blocks_do_not_confirm_one_that_was_hit():
    tail = [UnitResult(r.unit, 4, r.call_ns) for r in sweep(seed=2)[-12:]]
    victim = next(unit for unit in UNITS if unit not in [r.unit for r in tail])
    results = sweep(rounds=4, slower=lambda unit, number: clock(unit) if number else 1.25 if unit is victim else 1.0)
    assert judge(results + tail).unsure == {victim}


def test_units_of_a_fast_hour_alone_do_not_make_the_slow_one_look_quiet():
    """First the slow machine meets every second unit often; then it is fast, meets the others, and few of the first."""
    first, others = UNITS[::2], [UNITS[0], *UNITS[1::2]]
    slow = sweep(rounds=6, slower=lambda unit, number: clock(unit), units=first)
    fast = [UnitResult(r.unit, r.round + 6, r.call_ns) for r in sweep(rounds=4, seed=2, units=[*others, *first[1:4]])]
    judged = judge(slow + fast)
    assert [mark.disturbed for mark in judged.rounds] == [True] * 6 + [False] * 4
    assert [mark.factor > 1.2 for mark in judged.rounds] == [True] * 6 + [False] * 4
    assert not set(judged.unsure) & {*others, *first[1:4]}
    found = estimates(slow + fast, judged)
    assert max(abs(found[unit].quiet_ns / true_ns(unit) - 1) for unit in [*others, *first[1:4]]) < 0.01
    assert max(abs(found[unit].quiet_ns / true_ns(unit) - 1) for unit in first) < 0.05


def test_light_noise_needs_no_further_proof():
    """One block in nine is slower: by 6 %, two others make their unit known well enough; by 80 %, they do not."""
    hit = {unit.key(place % 3) for place, unit in enumerate(UNITS[::3])}
    assert judge(sweep(slower=lambda unit, number: 1.06 if unit.key(number) in hit else 1.0)).stable
    assert not judge(sweep(slower=lambda unit, number: 1.8 if unit.key(number) in hit else 1.0)).stable


def test_a_board_that_was_throttled_at_the_end_keeps_what_it_had_before():
    results = sweep(rounds=6, slower=lambda unit, number: 1.4 if number > 3 else 1.0)
    judged = judge(results)
    assert judged.stable
    assert [mark.disturbed for mark in judged.rounds] == [False] * 4 + [True] * 2
    assert worst(results) < 0.01


def test_another_power_mode_makes_a_sweep_unstable():
    def told(number):
        return Telemetry("2026-01-01T00:00:00+00:00", power_mode="MAXN" if number < 2 else "15W")

    judged = judge(sweep(telemetry=told))
    assert (judged.stable, judged.reason) == (False, "the power mode changed in mid-sweep: MAXN, then 15W")


def test_one_round_is_not_enough():
    judged = judge(sweep(rounds=1))
    assert (judged.stable, judged.reason) == (False, "fewer than two rounds were measured, so drift cannot be seen")


def test_units_that_scatter_too_much_are_said_to():
    results = sweep(rounds=3)
    spread = [1.0, 1.045, 1.048]
    shaken = [
        UnitResult(r.unit, r.round, [round(ns * spread[(r.round + k) % 3]) for ns in r.call_ns])
        for k, r in enumerate(results)
    ]
    judged = judge([r for r in shaken if r.round < 2 or r.unit in UNITS[:2]])
    assert not judged.stable


def test_what_was_sent_twice_or_judged_or_did_not_fit_changes_nothing():
    results = sweep()
    clean = estimates(results)
    judged = UnitResult(Unit(Part.ACCURACY, 197, 197, "d"), 0, judgement=Judgement(10, 9, 9, 0.0, "host"))
    big = UnitResult(Unit(Part.MODEL, 197, 197), 0, status="oom")
    assert estimates([*results, *results, judged, big]) == clean


def test_a_unit_that_ran_out_of_memory_once_has_no_estimate():
    results = sweep()
    results[-1] = UnitResult(results[-1].unit, 2, status="oom")
    assert set(estimates(results)) == set(UNITS) - {results[-1].unit}


@pytest.mark.parametrize("results", [[], [UnitResult(UNITS[0], 0, status="oom")]])
def test_nothing_timed_is_no_curve(results):
    judged = judge(results)
    assert not judged.stable
    assert estimates(results, judged) == {}


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    units = [Unit(Part.MODEL, n, n) for n in range(2, 302)]
    inside = 0
    results = sweep(calls=20, seed=5, units=units)
    # The 10th percentile of what ``sweep`` draws.
    quiet = 1 + 0.005 * 0.10536
    for unit, one in estimates(results).items():
        inside += one.low_ns <= true_ns(unit) * quiet <= one.high_ns
    assert 0.90 <= inside / len(units) <= 1.0


def test_a_call_disturbed_in_a_quiet_block_does_not_reach_the_quiet_time():
    results = sweep(rounds=3, calls=10, slower=lambda unit, number: [1.0] + [1.5] * 9)
    assert worst(results) < 0.03


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (4, 2.776), (11, 2.201), (30, 2.042), (1000, 1.962)])
def test_students_quantile(freedom, value):
    assert student(freedom) == pytest.approx(value, abs=0.0015)


@pytest.mark.parametrize("share", [0.01, 0.02])
def test_more_rounds_of_noise_disturb_no_more_blocks(share):
    rng = random.Random(1)
    results = [
        UnitResult(Unit(Part.MODEL, n, n), number, [round(1e7 * (1 + share * rng.gauss(0, 1))) for _ in range(3)])
        for number in range(24)
        for n in range(2, 42)
    ]
    judged = judge(results)
    assert not judged.unsure
    assert len(judged.disturbed) < 0.15 * len(results)
