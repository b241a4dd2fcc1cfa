import pandas

from tailfleet_coordinator.cli import show


def test_times_are_shown_in_ms_and_gaps_as_a_dash():
    assert show.heading("quiet_low_ns") == "quiet low ms"
    assert show.cell("quiet_ns", 1_234_567.0) == "1.235"
    assert show.cell("quiet_ns", float("nan")) == "–"
    assert show.cell("method", None) == "–"
    assert show.cell("stable", True) == "yes"
    assert show.cell("measured_at", pandas.Timestamp("2026-01-02 03:04:05", tz="UTC")) == "2026-01-02 03:04:05"
