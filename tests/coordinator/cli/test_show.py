import pandas
import pytest

from tailfleet_coordinator.cli import campaign, show
from tailfleet_schema.errors import InputError


def test_times_are_shown_in_ms_and_gaps_as_a_dash():
    assert show.heading("quiet_low_ns") == "quiet low ms"
    assert show.cell("quiet_ns", 1_234_567.0) == "1.235"
    assert show.cell("quiet_ns", float("nan")) == "–"
    assert show.cell("method", None) == "–"
    assert show.cell("stable", True) == "yes"
    assert show.cell("measured_at", pandas.Timestamp("2026-01-02 03:04:05", tz="UTC")) == "2026-01-02 03:04:05"


def test_names_are_chosen_from_those_known():
    assert campaign.names("all", ["a", "b"], "board") == ["a", "b"]
    assert campaign.names("b, a", ["a", "b"], "board") == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "known", "words"),
    [
        ("c", ["a"], "unknown board 'c'; known: a"),
        ("all", [], "no board is known yet"),
        (",", ["a"], "no board is known yet"),
    ],
)
def test_names_that_cannot_be_meant(text, known, words):
    with pytest.raises(InputError, match=words):
        campaign.names(text, known, "board")
