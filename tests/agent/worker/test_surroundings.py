"""What disturbs a virtual board: as much of it as asked for, when its own time says, and by the seed alone."""

import pytest

from tailfleet_agent.worker.backends.surroundings import Surroundings
from tailfleet_schema.virtual_board import VirtualBoard

MS = 1e6


def passes(calls, work_ns=10 * MS, seed="a", **options):
    """(virtual time of the start in seconds, slowness) of calls one after the other."""
    around = Surroundings(VirtualBoard("any", **options), seed)
    made = []
    for _ in range(calls):
        begin = around.now_seconds
        made.append((begin, around.pass_ns(work_ns) / work_ns))
    return made


def test_time_is_what_the_calls_took():
    around = Surroundings(VirtualBoard("any", ramp=1.0, ramp_seconds=1e-3), "a")

    assert around.now_seconds == 0
    assert [around.pass_ns(2 * MS), around.pass_ns(3 * MS)] == [2 * MS, 6 * MS]
    assert around.now_seconds == pytest.approx(8e-3)


def test_drift_is_a_wave_of_the_height_and_length_asked_for():
    made = passes(3000, drift=0.2, drift_seconds=10.0)
    slowness = [factor for _, factor in made]

    assert min(slowness) == pytest.approx(1.0, abs=1e-4)
    assert max(slowness) == pytest.approx(1.2, abs=1e-4)
    crests = [begin for begin, factor in made if factor > 1.1995]
    assert crests[-1] - crests[0] == pytest.approx(20.0, abs=1.0)
    # Where in the wave a job begins is the seed's.
    assert passes(1, drift=0.2)[0] != passes(1, drift=0.2, seed="b")[0]


def test_a_ramp_rises_evenly_and_stays():
    made = dict(passes(1500, ramp=0.1, ramp_seconds=10.0))

    for begin, factor in made.items():
        assert factor == pytest.approx(1.0 + 0.01 * min(begin, 10.0))
    assert max(made) > 12


@pytest.mark.parametrize("seconds", [0.05, 5.0])
def test_bursts_have_the_share_the_length_and_the_height_asked_for(seconds):
    work_ns = seconds * 20 * MS
    made = passes(40_000, work_ns, bursts=0.4, burst_seconds=seconds, burst_factor=3.0)
    busy_seconds = sum(factor * work_ns * 1e-9 for _, factor in made if factor > 2.99)
    whole = made[-1][0]

    assert busy_seconds / whole == pytest.approx(0.4, rel=0.1)
    assert min(factor for _, factor in made) == pytest.approx(1.0)
    assert max(factor for _, factor in made) == pytest.approx(3.0)
    states = [factor > 2.99 for _, factor in made]
    bursts = sum(now and not before for before, now in zip([False, *states], states))
    assert busy_seconds / bursts == pytest.approx(seconds, rel=0.2)


def test_a_call_longer_than_bursts_is_slowed_by_what_falls_into_it():
    """Of a second of work, in bursts of 5 ms: half of the time runs at half the speed."""
    (_, factor), *_ = passes(1, 1e9, bursts=0.5, burst_seconds=0.005)

    assert factor == pytest.approx(1.0 / 0.75, rel=0.1)


def test_the_same_seed_meets_the_same_bursts():
    first = passes(500, bursts=0.3)

    assert passes(500, bursts=0.3) == first
    assert passes(500, bursts=0.3, seed="b") != first


def test_throttling_comes_after_a_while_and_may_go_again():
    def throttled(**options):
        around = Surroundings(VirtualBoard("any", throttle=0.5, throttle_after_seconds=2.0, **options), "a")
        told = []
        for _ in range(10):
            told.append(around.throttled)
            around.pass_ns(1e9)
        return told

    assert throttled() == [False, False] + [True] * 8
    assert throttled(throttle_for_seconds=3.0) == [False, False, True, True, True] * 2
