import subprocess
import sys

import pytest

from tailfleet_coordinator import objectives
from tailfleet_schema.campaign import Objective, Statistic
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
        ("front", Objective(front=True)),
        ("deadline=30ms,max-accuracy-drop=1", Objective(deadline_ns=30_000_000, max_accuracy_drop=1.0)),
        (" max-accuracy-drop = 1 , latency-budget=0.8x", Objective(max_accuracy_drop=1.0, latency_share=0.8)),
    ],
)
def test_what_people_write(text, meant):
    assert objectives.parse(text) == meant


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
        ("front,latency-budget=9ms", "front: stands alone"),
        ("deadline=30", "a time needs a unit"),
        ("deadline=0ms", "a deadline must be positive"),
        ("deadline=9ms,latency-budget=9ms", "goes with an accuracy limit alone"),
        ("deadline=9ms,front", "goes with an accuracy limit alone"),
    ],
)
def test_what_cannot_be_meant(text, words):
    with pytest.raises(InputError, match=words):
        objectives.parse(text)


@pytest.mark.parametrize("on", list(Statistic))
def test_the_statistic_is_named_beside_it(on):
    assert objectives.parse("latency-budget=0.8x", on.value) == Objective(latency_share=0.8, on=on)
    assert objectives.parse("max-accuracy-drop=1") == Objective(max_accuracy_drop=1.0, on=Statistic.QUIET)


UNLABELLED = " (without labels: of agreement with the dense model)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max-accuracy-drop=1", "as fast as possible on p99 with at most 1 points of top-1 lost" + UNLABELLED),
        ("latency-budget=0.8x", "0.8x of dense on p99, losing least"),
        ("latency-budget=12ms", "12 ms on p99, losing least"),
        (
            "max-accuracy-drop=0.5,latency-budget=0.8x",
            "as fast as possible on p99 with at most 0.5 points of top-1 lost; without labelled images"
            " 0.8x of dense on p99, losing least",
        ),
        ("utility=0.5", "the best utility, α = 0.5, of latency on p99 and top-1" + UNLABELLED),
    ],
)
def test_an_objective_in_words_names_its_statistic(text, words):
    assert objectives.words(objectives.parse(text, "p99")) == words


def test_an_unknown_statistic_is_one_sentence_and_exit_2():
    """It asks for no coordinator, either."""
    command = [sys.executable, "-m", "tailfleet_coordinator.cli.main", "campaign", "run", "--on", "p75"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "tailfleet: unknown statistic 'p75'; known: quiet, p50, p99",
        "  mend: --on p50",
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, objectives.DEFAULT),
        ({"objective": "utility=0.3"}, "utility=0.3"),
        ({"latency_budget": "12ms"}, "latency-budget=12ms"),
        ({"latency_budget": "0.8x", "max_accuracy_drop": "1.0"}, "latency-budget=0.8x,max-accuracy-drop=1.0"),
        ({"utility": "alpha=0.5"}, "utility=0.5"),
        ({"front": True}, "front"),
    ],
)
def test_options_say_the_same_as_forms(options, text):
    assert objectives.gathered(**{"objective": None, **options}) == text
    assert objectives.parse(text)


def test_an_objective_is_said_once():
    with pytest.raises(InputError, match=r"say it once: --objective utility=0\.3,front"):
        objectives.gathered("utility=0.3", front=True)


def test_a_front_in_words():
    assert objectives.words(Objective(front=True, on=Statistic.P99)).startswith("the whole front of latency on p99")


def test_a_deadline_in_words():
    said = objectives.words(Objective(deadline_ns=30_000_000, max_accuracy_drop=1.0, on=Statistic.P99))
    assert (
        said
        == f"the most images a second with at most 1 points of top-1 lost{UNLABELLED}, each batch within 30 ms on p99"
    )


@pytest.mark.parametrize(
    "meant",
    [
        Objective(latency_share=0.8, max_accuracy_drop=0.1 + 0.2),
        Objective(latency_ns=12_345_678),
        Objective(utility_alpha=0.3),
        Objective(front=True),
        Objective(deadline_ns=30_000_000, max_accuracy_drop=1.0),
    ],
)
def test_what_is_written_is_read_as_the_same(meant):
    assert objectives.parse(objectives.written(meant)) == meant
