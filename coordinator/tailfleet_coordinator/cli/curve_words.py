"""Stored curves in words and tables for people. Everything is told of frames that ``Fleet`` gave; nothing is asked.

Virtual boards are named virtual wherever a latency of theirs stands.
"""

from collections.abc import Hashable
from typing import Any

import pandas

from tailfleet_coordinator.cli.job import order_words, runtime_words
from tailfleet_coordinator.replies import CurveDetails

LISTED_COUNTS = 16
"""Counts of a curve that are listed where not all are asked for."""


def header(curve: CurveDetails) -> list[str]:
    """What the curve is, whether it can be trusted, and how and on what it was measured; one line each."""
    kind = "VIRTUAL board: modelled latency" if curve.board_kind == "virtual" else "measured on the board"
    disturbed = "none" if curve.rounds_disturbed == 0 else str(curve.rounds_disturbed)
    inferred = curve.counts_all - curve.counts_measured
    lines = [
        f"{curve.model} on {curve.board} ({kind})",
        f"  verdict     {'stable' if curve.stable else 'UNSTABLE: ' + curve.unstable_reason}",
        f"  counts      {curve.counts_measured} of {curve.counts_all} measured, {inferred} inferred; "
        f"{_many(curve.cliffs, 'step')} found",
        f"  rounds      {curve.rounds} measured, {disturbed} of them disturbed; {curve.calls} timed calls in all",
    ]
    lines += [f"  {line}" for line in order_words(curve.order) if not line.startswith("counts ")]
    lines.append(f"  runtime     {runtime_words(curve.runtime)}")
    lines.append(
        f"  measured    {curve.measured_at[:19].replace('T', ' ')} UTC{_lasted(curve)}: curve {curve.id}, "
        f"job {curve.job}, campaign {curve.campaign}, fingerprint {curve.fingerprint[:12]}"
    )
    return lines


def listed(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The list of curves, for people."""
    return pandas.DataFrame(
        {
            "curve": frame["curve_id"],
            "board": marked(frame),
            "model": frame["model"],
            "backend": frame["backend"],
            "dtype": frame["dtype"],
            "batch": frame["batch"],
            "verdict": [
                "stable" if stable else f"UNSTABLE: {reason}"
                for stable, reason in zip(frame["stable"], frame["unstable_reason"], strict=True)
            ],
            "counts measured": [
                f"{measured} of {every}"
                for measured, every in zip(frame["counts_measured"], frame["counts_all"], strict=True)
            ],
            "cliffs": frame["cliffs"],
            "measured at (UTC)": frame["measured_at"],
        }
    )


def marked(frame: pandas.DataFrame) -> list[str]:
    """The boards' names, virtual ones marked so."""
    return [
        f"{name} (virtual)" if kind == "virtual" else str(name)
        for name, kind in zip(frame["board"], frame["board_kind"], strict=True)
    ]


def tread_table(treads: pandas.DataFrame, cliffs: pandas.DataFrame) -> pandas.DataFrame:
    """One row a tread of one curve, with the step that follows it."""
    steps = {row["from_tokens"]: row for row in cliffs.to_dict("records")}
    return pandas.DataFrame(
        {
            "tokens": [
                span(first, last) for first, last in zip(treads["first_tokens"], treads["last_tokens"], strict=True)
            ],
            "quiet at its end_ns": treads["quiet_ns"],
            "then": [_step_words(steps.get(last)) for last in treads["last_tokens"]],
        }
    )


def cliff_table(cliffs: pandas.DataFrame, of_one: bool) -> pandas.DataFrame:
    """One row a step; ``of_one`` curve, or of many: then each row says of which."""
    which = {} if of_one else {
        "curve": cliffs["curve_id"],
        "board": marked(cliffs),
        "model": cliffs["model"],
        "runs": [
            f"{backend} {dtype}, batch {batch}"
            for backend, dtype, batch in zip(cliffs["backend"], cliffs["dtype"], cliffs["batch"], strict=True)
        ],
        "stable": cliffs["stable"],
    }  # fmt: skip
    return pandas.DataFrame(
        {
            **which,
            "between tokens": [
                f"{low} and {high}" for low, high in zip(cliffs["from_tokens"], cliffs["to_tokens"], strict=True)
            ],
            "one more token": ["costs" if upwards else "gains" for upwards in cliffs["upwards"]],
            "height_ns": cliffs["height_ns"],
            "height": [f"{height:.1f} %" for height in cliffs["height_percent"]],
            "confidence": [f"{confidence:.3f}" for confidence in cliffs["confidence"]],
        }
    )


def point_table(points: pandas.DataFrame, place: list[str]) -> pandas.DataFrame:
    """One row a unit, told apart by the columns ``place``; memory and energy where any is known."""
    frame = points[[*place, "source", "quiet_ns", "quiet_low_ns", "quiet_high_ns", "p50_ns", "p90_ns", "p99_ns"]].copy()
    frame["calls"] = points["calls"]
    if points["peak_memory_bytes"].notna().any():
        frame["peak MiB"] = [_number(value / 2**20, ".0f") for value in points["peak_memory_bytes"]]
    if points["energy_mj"].notna().any():
        frame["mJ a call"] = [_number(value, ".2f") for value in points["energy_mj"]]
    if (points["status"] != "ok").any():
        frame["status"] = points["status"]
    return frame


def round_table(rounds: pandas.DataFrame) -> pandas.DataFrame:
    """One row a round of one curve."""
    return pandas.DataFrame(
        {
            "round": rounds["round"],
            "slower than the quietest by": [f"{100 * (factor - 1):.1f} %" for factor in rounds["factor"]],
            "judged": ["DISTURBED, left out" if disturbed else "kept" for disturbed in rounds["disturbed"]],
            "why": rounds["reason"],
        }
    )


def truth_table(points: pandas.DataFrame, true: pandas.DataFrame) -> pandas.DataFrame:
    """One row a count of a virtual board's curve: what was found beside what is true."""
    both = points[points["status"] == "ok"].merge(true[["tokens", "true_ns"]], on="tokens")
    both["off"] = both["quiet_ns"] / both["true_ns"] - 1
    return both[["tokens", "source", "quiet_ns", "quiet_low_ns", "quiet_high_ns", "true_ns", "off"]]


def rounded(both: pandas.DataFrame) -> pandas.DataFrame:
    """:func:`truth_table`'s rows, for people."""
    return both.assign(off=[f"{100 * off:+.2f} %".replace("-", "−") for off in both["off"]])


def truth_words(both: pandas.DataFrame) -> str:
    """How far the curve is off the truth, in a sentence. ``both`` is :func:`truth_table`'s, with a row at least."""
    off = 100 * both["off"].abs()
    worst = both.assign(off=off).nlargest(1, "off").to_dict("records")[0]
    return (
        f"off the true curve by {off.median():.2f} % (median), {off.quantile(0.95):.2f} % (95th percentile), "
        f"{worst['off']:.2f} % at {worst['tokens']} tokens ({worst['source']})"
    )


def some(frame: pandas.DataFrame, most: int = LISTED_COUNTS) -> pandas.DataFrame:
    """Up to ``most`` rows, evenly spaced, the first and the last among them."""
    if len(frame) <= most:
        return frame
    last = len(frame) - 1
    return frame.iloc[sorted({round(last * k / (most - 1)) for k in range(most)})]


def span(first: int, last: int) -> str:
    """``5`` or ``5–17``."""
    return str(first) if first == last else f"{first}–{last}"


def _step_words(step: dict[Hashable, Any] | None) -> str:
    if step is None:
        return ""
    sign, sense = ("+", "") if step["upwards"] else ("−", ": more tokens are faster")
    low, high = step["from_tokens"], step["to_tokens"]
    return (
        f"{sign}{step['height_percent']:.1f} % ({sign}{step['height_ns'] / 1e6:.3f} ms) between {low} and "
        f"{high}{sense}; confidence {step['confidence']:.3f}"
    )


def _lasted(curve: CurveDetails) -> str:
    if curve.started_at is None:
        return ""
    seconds = (pandas.Timestamp(curve.measured_at) - pandas.Timestamp(curve.started_at)).total_seconds()
    return f", in {seconds:.0f} s"


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _number(value: float, form: str) -> str:
    return "–" if pandas.isna(value) else format(value, form)
