"""Names, free counts and inputs of the graphs that units run."""

import pytest

from tailfleet_agent.worker.backends import graphs
from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.errors import InputError


@pytest.mark.parametrize(
    ("unit", "name", "counts", "feeds"),
    [
        (Unit(Part.MODEL, 9, 9), "model", {"n": 9}, [("images", ()), ("kept", (9,))]),
        (Unit(Part.SENTINEL, 17, 17, "2"), "model", {"n": 17}, [("images", ()), ("kept", (17,))]),
        (Unit(Part.FIXED, 17, 17), "fixed", {}, [("images", ())]),
        (Unit(Part.ATTENTION, 9, 9), "attention", {"n": 9}, [("tokens", ())]),
        (Unit(Part.ATTENTION, 9, 9, SIZED), "sized", {"n": 9}, [("tokens", ()), ("sizes", (4, 9))]),
        (Unit(Part.MLP, 9, 9), "mlp", {"n": 9}, [("tokens", ())]),
        (Unit(Part.REDUCE, 17, 12, "tome"), "reduce-tome", {"n": 17, "m": 12}, [("tokens", ()), ("kept", (12,))]),
        (Unit(Part.SCHEDULE, 17, 12, "ab"), "schedule-ab", {}, [("images", ())]),
    ],
)
def test_each_unit_has_its_graph(unit, name, counts, feeds):
    assert graphs.name_of(unit) == name
    assert graphs.counts_of(unit) == counts
    assert graphs.feeds_of(name, unit, 4) == feeds


def test_a_job_needs_each_graph_once_and_the_whole_model_always(make_job):
    job = make_job([Unit(Part.MLP, n, n) for n in (5, 9)] + [Unit(Part.FIDELITY, 17, 17)])

    assert graphs.names_of(job) == ["mlp", "model"]


@pytest.mark.parametrize("unit", [Unit(Part.INPUT, 9, 9), Unit(Part.LOSS, 17, 9, "topk", 1), Unit(Part.MLP, 9, 9, "x")])
def test_what_no_graph_computes_is_refused(unit):
    with pytest.raises(InputError):
        graphs.name_of(unit)
