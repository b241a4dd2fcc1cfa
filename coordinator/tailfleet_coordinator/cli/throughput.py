"""The batch size as a choice: ``campaign run --deadline 30ms --on p99 --max-throughput --batches 1,2,4,8``.

Left to others: each size's campaign (``campaign``), and which size serves the most (``plan.throughput``).
"""

from collections.abc import Mapping, Sequence

from tailfleet_coordinator.cli.show import say
from tailfleet_coordinator.cli.sweeping import split
from tailfleet_coordinator.plan.throughput import Serving, best_batches
from tailfleet_coordinator.plan.verdict import in_ms, on_statistic
from tailfleet_schema.campaign import Objective, ReportRow
from tailfleet_schema.errors import InputError


def check(deadline: str | None, max_throughput: bool, batches: str | None, wait: bool) -> None:
    """Raise ``InputError`` where the options do not make one wish."""
    if (deadline is None) == max_throughput:
        raise InputError("--deadline and --max-throughput belong together", mend="--deadline 30ms --max-throughput")
    if batches is None:
        return
    if deadline is None:
        raise InputError("--batches are chosen among by their throughput", mend="--deadline 30ms --max-throughput")
    if not wait:
        raise InputError("--batches are compared when all are measured, so --no-wait is not for them")
    sizes(batches)


def sizes(text: str) -> list[int]:
    """The batch sizes that ``text`` names, ascending. Raises ``InputError``."""
    parts = split(text)
    if not parts or any(not part.isdecimal() or len(part) > 6 or int(part) < 1 for part in parts):
        raise InputError(
            f"batch sizes are whole numbers from 1 on, separated by commas, not {text!r}", "--batches 1,2,4"
        )
    return sorted({int(part) for part in parts})


def say_best(rows: Mapping[int, Sequence[ReportRow]], objective: Objective) -> None:
    """Print which size serves the most on each board for each model."""
    assert objective.deadline_ns is not None
    say(f"the most images a second within {in_ms(objective.deadline_ns)}{on_statistic(objective.on)}:")
    for one in best_batches(rows, objective.deadline_ns):
        say(f"  {one.board:<22} {one.model:<24} {words(one, objective)}")


def words(one: Serving, objective: Objective) -> str:
    """``batches of 8 by topk: 412 images a second, 19.4 ms on p99``, or why none."""
    if one.refusal is not None or one.batch is None or one.ns is None:
        return one.refusal or ""
    row = one.row
    what = "dense" if row is None else f"by {row.reduces_by or row.method} ({(row.schedule_digest or '')[:12]})"
    figures = f"{one.images_per_second:.0f} images a second, {in_ms(one.ns)}{on_statistic(objective.on)}"
    return f"batches of {one.batch}, {what}: {figures}"
