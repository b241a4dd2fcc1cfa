"""What disturbs a virtual board as its own time goes by: drift, a ramp, a neighbour's bursts, throttling.

*Virtual time* is what the calls made so far would have taken on the board; it starts at 0 with the process, and
nothing sleeps. What happens when follows from the options (``tailfleet_schema.virtual_board``) and one seed alone, so
the same calls in the same order meet the same disturbances; another order meets others, as on a real board. The
everyday noise of a single call, which depends on no time, is left to ``virtual``.
"""

import math
import random

from tailfleet_schema.virtual_board import VirtualBoard


class Surroundings:
    """The disturbances of one virtual board, and its clock. ``seed`` is any text."""

    def __init__(self, options: VirtualBoard, seed: str) -> None:
        self._options = options
        self._now_ns = 0.0
        self._phase = random.Random("drift|" + seed).random()
        self._rng = random.Random("bursts|" + seed)
        self._busy = self._rng.random() < options.bursts
        self._until_ns = self._spell_ns() if options.bursts > 0 else math.inf

    @property
    def now_seconds(self) -> float:
        """Virtual time."""
        return self._now_ns * 1e-9

    @property
    def throttled(self) -> bool:
        """Whether the GPU's clock is down."""
        options, now = self._options, self.now_seconds
        if options.throttle == 0:
            return False
        if options.throttle_for_seconds > 0:
            now %= options.throttle_after_seconds + options.throttle_for_seconds
        return now >= options.throttle_after_seconds

    def pass_ns(self, work_ns: float) -> float:
        """How long a call takes, begun now, that takes ``work_ns`` undisturbed; it is then over."""
        begin_ns = self._now_ns
        left_ns = work_ns * self._slowness()
        while True:
            factor = self._options.burst_factor if self._busy else 1.0
            if self._now_ns + left_ns * factor < self._until_ns:
                self._now_ns += left_ns * factor
                return self._now_ns - begin_ns
            left_ns -= (self._until_ns - self._now_ns) / factor
            self._now_ns = self._until_ns
            self._busy = not self._busy
            self._until_ns += self._spell_ns()

    def _slowness(self) -> float:
        """By drift and ramp, which move little within a call."""
        options, now = self._options, self.now_seconds
        wave = 0.5 - 0.5 * math.cos(2.0 * math.pi * (now / options.drift_seconds + self._phase))
        ramp = min(now / options.ramp_seconds, 1.0)
        return 1.0 + options.drift * wave + options.ramp * ramp

    def _spell_ns(self) -> float:
        """Length of the time that begins now: busy or quiet, exponential, of means that give the share asked for."""
        options = self._options
        mean = options.burst_seconds
        if not self._busy:
            mean *= (1.0 - options.bursts) / options.bursts
        return 1e9 * self._rng.expovariate(1.0 / mean)
