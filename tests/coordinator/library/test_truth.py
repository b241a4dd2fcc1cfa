"""The truth of a virtual board, asked of the real child."""

import pytest

from tailfleet_coordinator.library import truth
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Geometry, ModelSpec, Workload

SMALL = Geometry(12, 384, 6, 1536, 197, 1, 224, 16, 3, 1000)
WORKLOAD = Workload(ModelSpec("small", "deit_small_patch16_224", SMALL), backend="virtual")


def test_the_truth_of_many_units_in_their_order():
    schedule = Schedule("topk", "small", 197, 1, [197] * 4 + [128] * 8)
    units = [
        Unit(Part.MODEL, 197, 197),
        Unit(Part.MODEL, 128, 128),
        Unit(Part.SCHEDULE, 197, 128, schedule.digest),
    ]

    dense, pruned, scheduled = truth.true_ns("jetson-tx2", WORKLOAD, units, [schedule])

    # The published latency that this board is calibrated to.
    assert dense == pytest.approx(35.3e6, rel=0.01)
    assert pruned < scheduled < dense


def test_a_refusal_of_the_child_is_raised_as_what_it_is():
    with pytest.raises(InputError, match=r"^no virtual board is named 'toaster'; known: jetson-nano"):
        truth.true_ns("toaster", WORKLOAD, [Unit(Part.MODEL, 9, 9)])
