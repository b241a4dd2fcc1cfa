"""What a virtual board's latencies are without noise: the known truth that sweeps and step finding are held against.

One order in, one reply out; see ``TruthOrder``. The coordinator starts this as a child, as it does for all that it
must not compute itself: a figure shown as the truth then comes from the code that the board's samples come from.
Which units are asked for, and what they are compared with, is left to it.
"""

from tailfleet_agent.worker.backends import virtual
from tailfleet_schema.errors import InputError
from tailfleet_schema.messages import TruthOrder, TruthReply


def truth(order: TruthOrder) -> TruthReply:
    """Noiseless nanoseconds of one call of each unit.

    Raises ``InputError`` for an unknown profile, a dtype that its board lacks, a workload of real boards, and a unit
    that has no latency; that of a unit names it, as ``units[3]``.
    """
    workload = order.workload
    if workload.backend != "virtual":
        raise InputError("{} is measured: only virtual boards have a known truth".format(workload.backend))
    board = virtual.profile(order.virtual_profile)
    schedules = {schedule.digest: schedule for schedule in order.schedules}
    ns = []
    for place, unit in enumerate(order.units):
        try:
            ns.append(
                virtual.true_ns(
                    board, workload.model.geometry, unit, workload.batch, workload.dtype, schedules.get(unit.label)
                )
            )
        except InputError as error:
            raise error.inside("units[{}]".format(place))
    return TruthReply(ns)
