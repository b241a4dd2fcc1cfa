"""A machine on virtual time: calls take what a made-up truth says, and whatever disturbs the machine then.

Time passes in timed calls and between blocks, never for real. Truth, drift and clock are the test's; bursts are a busy
neighbour's: on and off for exponentially distributed times of one mean, and while one is on, work goes on at a share of
the speed.
"""

import random
from typing import Any, Callable, Iterator, List, Optional

from tailfleet_agent.worker.backends import Backend
from tailfleet_agent.worker.run import Measuring, run
from tailfleet_schema.curve import Unit, UnitResult
from tailfleet_schema.job import Job


def staircase_ns(unit: Unit) -> float:
    """A pass of 5 to 60 ms with cliffs of a tenth of it every 64 tokens; parts take a share of it."""
    n = unit.tokens
    share = {"fixed": 0.05, "attention": 0.4, "mlp": 0.55, "reduce": 0.45}.get(unit.part.value, 1.0)
    return share * (4e6 + 220e3 * n + 4e6 * ((n + 63) // 64))


class Machine(Backend):
    """One machine. ``slowdown`` maps seconds to a factor on all times; ``speed`` is that beside a burst."""

    def __init__(
        self,
        seed: int = 1,
        truth_ns: Callable[[Unit], float] = staircase_ns,
        noise: float = 0.01,
        burst_seconds: float = 0.0,
        duty: float = 0.5,
        speed: float = 0.55,
        wobble: float = 0.03,
        slowdown: Callable[[float], float] = lambda seconds: 1.0,
        between_seconds: float = 0.002,
    ) -> None:
        self._rng = random.Random(seed)
        self._truth_ns = truth_ns
        self._noise = noise
        self._burst_seconds = burst_seconds
        self._duty = duty
        self._speed = speed
        self._wobble = wobble
        self._slowdown = slowdown
        self._between_seconds = between_seconds
        self._busy = False
        self._until = 0.0
        self._now_speed = 1.0
        self.seconds = 0.0
        self.blocks = 0

    def describe(self) -> "dict[str, str]":
        """Nothing real."""
        return {"device": "simulated"}

    def now(self) -> float:
        """Seconds of virtual time."""
        return self.seconds

    def quiet_ns(self, unit: Unit) -> float:
        """What a reference beside us would find: the 10th percentile of undisturbed calls."""
        return self._truth_ns(unit) * (1.0 + 0.105 * self._noise)

    def measure(self, unit: Unit, round_number: int, calls: int) -> List[int]:
        """Calls of ``unit``, one after another."""
        self.blocks += 1
        self._pass(self._between_seconds)
        found = []
        for _ in range(calls):
            work = self._truth_ns(unit) * 1e-9 * self._slowdown(self.seconds)
            work *= 1.0 + self._noise * self._rng.expovariate(1.0)
            begin = self.seconds
            self._work(work)
            found.append(max(1, round((self.seconds - begin) * 1e9)))
        return found

    def wait(self, seconds: float) -> None:
        """Nothing happens for so long."""
        self._pass(seconds)

    def _work(self, seconds: float) -> None:
        while seconds > 0.0:
            self._turn()
            if not self._burst_seconds:
                self.seconds += seconds
                return
            share = self._now_speed if self._busy else 1.0
            taken = min(seconds / share, self._until - self.seconds)
            self.seconds += taken
            seconds -= taken * share
            if self._until - self.seconds < 1e-12:
                self.seconds = self._until

    def _pass(self, seconds: float) -> None:
        self.seconds += seconds
        self._turn()

    def _turn(self) -> None:
        while self._burst_seconds and self.seconds >= self._until:
            self._busy = not self._busy
            # A mean of the burst's on, and of what makes the duty off.
            mean = self._burst_seconds if self._busy else self._burst_seconds * (1 - self._duty) / self._duty
            self._until += self._rng.expovariate(1.0 / mean)
            self._now_speed = self._speed * (1.0 + self._rng.gauss(0.0, self._wobble))


def each(job: Job, machine: Machine, earlier: Optional[List[UnitResult]] = None, **more: Any) -> Iterator[UnitResult]:
    """What the real engine gets of ``machine``, one by one."""

    def never() -> None:
        raise AssertionError("nothing is judged here")

    measuring = Measuring(job, lambda: machine, never, lambda: None, now=machine.now, **more)
    return run(job, measuring, earlier=earlier or [])


def measured(job: Job, machine: Machine, earlier: Optional[List[UnitResult]] = None, **more: Any) -> List[UnitResult]:
    """The same, at once."""
    return list(each(job, machine, earlier, **more))
