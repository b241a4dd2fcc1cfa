"""The true latencies of a virtual board, for what is compared with them: asked of the agent's child, computed by the
code that the board's samples come from. Which curve, and which of its units, is left to the callers.
"""

from collections.abc import Sequence

from tailfleet_coordinator.library import child
from tailfleet_schema.curve import Unit
from tailfleet_schema.messages import TruthOrder, TruthReply
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Workload

CHILD = ("-m", "tailfleet_agent.worker", "truth")


def true_ns(profile: str, workload: Workload, units: Sequence[Unit], schedules: Sequence[Schedule] = ()) -> list[float]:
    """Noiseless nanoseconds of one call of each of ``units``, in order, on the virtual board ``profile``.

    ``workload`` is that of a curve of such a board (its backend is ``virtual``); ``schedules`` holds those that units
    name. Takes a few tenths of a second: one process is started for all units. Raises ``InputError`` for a profile,
    workload or unit that has no known truth, and ``ConfigurationError`` where the agent's side is not installed.
    """
    order = TruthOrder(profile, workload, list(units), list(schedules))
    return child.ask(CHILD, order, TruthReply, "knows the truth of virtual boards", "tailfleet is").ns
