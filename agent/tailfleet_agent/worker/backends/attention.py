"""Which of two kinds of attention a job runs with: *fused* (one operator) or *explicit* (step by step).

Neither is faster everywhere: in bf16 on some CPUs the fused operator takes twice the time. ``auto`` lets the board
decide at all tokens, once for the whole job; an attempt that resumes a job takes what the first one chose. How the
two are built is left to the backends.
"""

import time
from typing import Callable, Dict, List, Mapping, Tuple

from tailfleet_agent.worker.backends.memory import is_out_of_memory
from tailfleet_schema.errors import ConfigurationError

FUSED = "fused"
EXPLICIT = "explicit"

ROUNDS = 12
LEAST_ROUNDS = 4
SECONDS = 4.0
"""Both are timed in so many rounds, in turn; fewer, but at least so few, where that takes longer than so long."""

Timer = Callable[[], int]
"""Runs a call and tells its nanoseconds."""


def choose(
    wanted: str,
    runtime: Mapping[str, str],
    lacking: str,
    open_timer: Callable[[str], Timer],
    now: Callable[[], float] = time.monotonic,
) -> Tuple[str, str]:
    """The kind of attention to run with, and the words for it, which begin with the kind.

    ``wanted`` is the workload's; ``runtime`` what an earlier attempt described, or empty; ``lacking`` says why there is
    no fused one, empty where there is; ``open_timer(kind)`` gives what times the whole model with that kind, warmed up.
    Raises ``ConfigurationError`` where fused attention is asked for, and lacking.
    """
    earlier = runtime.get("attention", "")
    if earlier.split(",")[0] in (FUSED, EXPLICIT):
        # It was possible then; where it no longer is, the runtimes differ and the supervisor's side says so.
        return earlier.split(",")[0], earlier
    if wanted == FUSED:
        if lacking:
            raise ConfigurationError(
                "fused attention is asked for, but {}".format(lacking), "ask for attention auto or explicit"
            )
        return FUSED, FUSED + ", as asked"
    if wanted == EXPLICIT:
        return EXPLICIT, EXPLICIT + ", as asked"
    if lacking:
        return EXPLICIT, "{}, for {}".format(EXPLICIT, lacking)
    return _faster(open_timer, now)


def _faster(open_timer: Callable[[str], Timer], now: Callable[[], float]) -> Tuple[str, str]:
    timers: Dict[str, Timer] = {}
    for kind in (FUSED, EXPLICIT):
        try:
            timers[kind] = open_timer(kind)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
    if len(timers) < 2:
        # Fused attention needs the less memory; units say for themselves whether they fit.
        return FUSED, FUSED + ", since not both fit in memory at all tokens"
    taken: Dict[str, List[int]] = {kind: [] for kind in timers}
    begin = now()
    for number in range(ROUNDS):
        for kind in sorted(timers, reverse=number % 2 == 0):
            taken[kind].append(timers[kind]())
        if number + 1 >= LEAST_ROUNDS and now() - begin >= SECONDS:
            break
    quiet = {kind: sorted(values)[len(values) // 10] for kind, values in taken.items()}
    best, other = sorted((FUSED, EXPLICIT), key=lambda kind: quiet[kind])
    return best, "{}, measured {:.2f}x as fast as {}".format(best, quiet[other] / quiet[best], other)
