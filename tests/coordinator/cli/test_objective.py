import pytest

from tailfleet_coordinator.cli import objective
from tailfleet_schema.campaign import Objective
from tailfleet_schema.errors import InputError


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("max-accuracy-drop=1.0", Objective(max_accuracy_drop=1.0)),
        ("max-accuracy-drop=2%", Objective(max_accuracy_drop=2.0)),
        ("latency-budget=0.8x", Objective(latency_share=0.8)),
        ("latency-budget=12ms", Objective(latency_ns=12_000_000)),
        ("latency-budget=1.5s", Objective(latency_ns=1_500_000_000)),
        ("latency-budget=700us", Objective(latency_ns=700_000)),
        ("latency-budget=5000ns", Objective(latency_ns=5000)),
        ("utility=0.5", Objective(utility_alpha=0.5)),
        (" max-accuracy-drop = 1 , latency-budget=0.8x", Objective(max_accuracy_drop=1.0, latency_share=0.8)),
    ],
)
def test_what_people_write(text, meant):
    assert objective.parse(text) == meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot read"),
        ("fast", "cannot read"),
        ("speed=3", "unknown objective 'speed'"),
        ("latency-budget=12", "needs a unit"),
        ("latency-budget=x", "not a number"),
        ("max-accuracy-drop=nan", "not a finite number"),
        ("max-accuracy-drop=inf", "not a finite number"),
        ("max-accuracy-drop=-1", "between 0 and 100"),
        ("latency-budget=0.8x,latency-budget=0.9x", "twice"),
        ("latency-budget=0.8x,latency-budget=9ms", "one latency budget"),
        ("utility=0.5,latency-budget=9ms", "stands alone"),
    ],
)
def test_what_cannot_be_meant(text, words):
    with pytest.raises(InputError, match=words):
        objective.parse(text)
