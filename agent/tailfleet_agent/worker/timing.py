"""Timing of single calls, and warming up until they are steady. Which calls, and when, is decided elsewhere.

A *timed block* is a few calls of one unit with nothing between them: no collection of garbage, no output, no
sensor. On a CPU ``perf_counter`` brackets each call (in float seconds, since Python 3.6 has no ``perf_counter_ns``;
a double holds a day in steps of 15 ps); on a GPU a pair of CUDA events does, and each call is waited for, so that
launching counts where it is what a single inference waits for.
"""

import gc
import time
from typing import Any, Callable, List

Call = Callable[[], object]

STEADY_WINDOWS = 3


class CpuClock:
    """Times calls that have finished when they return."""

    def block_ns(self, call: Call, calls: int) -> List[int]:
        """Nanoseconds of each of ``calls`` calls."""
        now = time.perf_counter
        seconds = [0.0] * calls
        for index in range(calls):
            begin = now()
            call()
            seconds[index] = now() - begin
        return [_ns(value) for value in seconds]


class CudaClock:
    """Times calls that only enqueue work on a GPU; ``torch`` is handed in, for this module must import without it."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def block_ns(self, call: Call, calls: int) -> List[int]:
        """Nanoseconds of each of ``calls`` calls, from the first launch to the end of the last kernel."""
        cuda = self._torch.cuda
        begins = [cuda.Event(enable_timing=True) for _ in range(calls)]
        ends = [cuda.Event(enable_timing=True) for _ in range(calls)]
        cuda.synchronize()
        for begin, end in zip(begins, ends):
            begin.record()
            call()
            end.record()
            end.synchronize()
        return [_ns(begin.elapsed_time(end) * 1e-3) for begin, end in zip(begins, ends)]


def timed_block(clock: Any, call: Call, calls: int) -> List[int]:
    """Nanoseconds of each of ``calls`` calls in one undisturbed block, at least 1 each."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return list(clock.block_ns(call, calls))
    finally:
        if collecting:
            gc.enable()


def warm_up(
    clock: Any,
    call: Call,
    most_seconds: float = 5.0,
    least_seconds: float = 0.5,
    window: int = 3,
    tolerance: float = 0.02,
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Call until the fastest calls of the last ``STEADY_WINDOWS`` windows of ``window`` calls are all within
    ``tolerance`` of the fastest so far, and ``least_seconds`` have passed.

    A burst can neither look like the steady state once anything faster was seen, nor hold a short one up. Ends after
    ``most_seconds`` in any case: a board that never settles is for the sweep's sentinel to tell, not for an endless
    warm-up. Returns the number of calls made, at least one.
    """
    begin = now()
    fastest: List[int] = []
    while True:
        fastest.append(min(timed_block(clock, call, window)))
        seconds = now() - begin
        last = fastest[-STEADY_WINDOWS:]
        steady = len(last) == STEADY_WINDOWS and max(last) <= (1.0 + tolerance) * min(fastest)
        if seconds >= most_seconds or (steady and seconds >= least_seconds):
            return window * len(fastest)


def _ns(seconds: float) -> int:
    return max(1, round(seconds * 1e9))
