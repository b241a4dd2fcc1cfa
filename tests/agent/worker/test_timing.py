"""Timed blocks and warming up, against clocks that are told what to say."""

import gc
from types import SimpleNamespace

import pytest

from tailfleet_agent.worker import timing


class Fixed:
    """A clock whose blocks' fastest calls are given beforehand."""

    def __init__(self, *fastest):
        self.fastest = list(fastest)

    def block_ns(self, call, calls):
        value = self.fastest.pop(0) if len(self.fastest) > 1 else self.fastest[0]
        return [value] * calls


def test_each_call_is_bracketed_on_its_own(monkeypatch):
    moments = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: moments[0])
    durations = iter([1e-3, 2e-3, 5e-9])

    def call():
        moments[0] += next(durations)

    assert timing.timed_block(timing.CpuClock(), call, 3) == [1_000_000, 2_000_000, 5]


def test_a_call_too_short_for_the_clock_still_took_a_nanosecond(monkeypatch):
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 1.0)

    assert timing.timed_block(timing.CpuClock(), lambda: None, 2) == [1, 1]


def test_no_garbage_is_collected_inside_a_block():
    seen = []

    timing.timed_block(timing.CpuClock(), lambda: seen.append(gc.isenabled()), 2)

    assert seen == [False, False]
    assert gc.isenabled()


def test_collecting_goes_on_after_a_call_that_fails():
    def call():
        raise MemoryError

    with pytest.raises(MemoryError):
        timing.timed_block(timing.CpuClock(), call, 2)
    assert gc.isenabled()


def test_cuda_events_bracket_each_call_and_each_is_waited_for():
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("wait")

        def elapsed_time(self, other):
            return 1.5  # milliseconds

    cuda = SimpleNamespace(Event=Event, synchronize=lambda: log.append("drain"))

    told = timing.timed_block(timing.CudaClock(SimpleNamespace(cuda=cuda)), lambda: log.append("call"), 2)

    assert told == [1_500_000, 1_500_000]
    assert log == ["drain", *["record", "call", "record", "wait"] * 2]


def seconds(step):
    """A clock that goes on by ``step`` each time that it is read."""
    moments = iter(range(1000))
    return lambda: next(moments) * step


def test_warm_up_ends_when_the_last_windows_are_as_fast_as_any():
    told = Fixed(300, 200, 102, 100, 101, 100)
    assert timing.warm_up(told, lambda: None, window=3, now=seconds(1.0)) == 5 * 3


def test_warm_up_lasts_a_while_however_steady():
    assert timing.warm_up(Fixed(100), lambda: None, window=1, least_seconds=0.5, now=seconds(0.1)) == 5


@pytest.mark.parametrize("burst", [(150, 150, 150, 150), (150, 151, 100, 150, 150)])
def test_a_burst_does_not_end_warming_up(burst):
    restless = Fixed(120, 100, *burst, 100, 100, 100)
    assert timing.warm_up(restless, lambda: None, window=1, now=seconds(0.3)) == 2 + len(burst) + 3


def test_warm_up_ends_in_any_case():
    restless = Fixed(*(1000 - 100 * (index % 2) for index in range(50)))

    assert timing.warm_up(restless, lambda: None, most_seconds=5.0, window=1, now=seconds(1.0)) == 5
