"""The batch size as a choice: the most images a second of what was measured within a deadline."""

from itertools import product

import numpy as np
import pytest

from tailfleet_coordinator.cli import throughput
from tailfleet_coordinator.plan.throughput import best_batches
from tailfleet_schema.campaign import Objective, ReportRow, Statistic
from tailfleet_schema.errors import InputError

WISH = Objective(deadline_ns=30_000_000, max_accuracy_drop=1.0, on=Statistic.P99)


def row(dense_ms, pruned_ms=None, recommended=True, board="b", method="topk"):
    pruned_ns = None if pruned_ms is None else pruned_ms * 1e6
    digest = None if pruned_ms is None else "d" * 64
    times = (dense_ms * 1e6, None, None, None, pruned_ns, pruned_ns, pruned_ns)
    keep = None if pruned_ms is None else [5, 3]
    return ReportRow(
        board, "physical", "m", "optimal", method, digest, keep, *times, None, None, None, None,
        recommended and pruned_ms is not None, "…", Statistic.P99,
    )  # fmt: skip


def best(rows, deadline_ms=30):
    (one,) = best_batches(rows, deadline_ms * 1_000_000)
    return one


def test_the_largest_batch_that_still_meets_the_deadline_need_not_serve_the_most():
    rows = {1: [row(5, 4)], 4: [row(14, 10)], 8: [row(27, 25)], 16: [row(60, 45)]}
    one = best(rows)
    assert (one.batch, one.ns) == (4, 10e6)
    assert one.row is rows[4][0]
    assert one.images_per_second == pytest.approx(400)


def test_dense_wins_where_no_schedule_was_recommended():
    one = best({1: [row(5, 4, recommended=False)], 8: [row(20, 10, recommended=False)]})
    assert (one.batch, one.row, one.ns) == (8, None, 20e6)
    assert throughput.words(one, WISH) == "batches of 8, dense: 400 images a second, 20.00 ms on p99"


def test_a_schedule_opens_a_batch_that_dense_misses():
    one = best({4: [row(28, 20)], 8: [row(40, 29)]})
    assert (one.batch, one.row.method) == (8, "topk")
    assert throughput.words(one, WISH).startswith("batches of 8, by topk (dddddddddddd): 276 images a second")


def test_of_equals_the_smaller_batch_and_dense():
    one = best({2: [row(10, 10)], 4: [row(20)]})
    assert (one.batch, one.row) == (2, None)


def test_no_batch_within_the_deadline_is_refused_with_the_closest():
    one = best({1: [row(50, 40)], 2: [row(70)]})
    assert one.batch is None
    assert one.images_per_second == 0.0
    assert one.refusal == "no batch meets the deadline of 30.00 ms on p99: the closest is topk at 1, 40.00 ms"
    assert throughput.words(one, WISH) == one.refusal
    nothing = ReportRow(**{**vars(row(1)), "dense_ns": None})
    assert "nothing was measured" in best({1: [nothing]}).refusal


def test_each_board_has_its_own_batch(capsys):
    rows = {1: [row(5, 4), row(20, board="slow")], 8: [row(20, 16), row(90, board="slow")]}
    assert [(one.board, one.batch) for one in best_batches(rows, 30_000_000)] == [("b", 8), ("slow", 1)]
    throughput.say_best(rows, WISH)
    said = capsys.readouterr().out
    assert "the most images a second within 30.00 ms on p99:" in said
    assert "500 images a second" in said


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_best_of_all_that_there_is(seed):
    rng = np.random.default_rng(seed)
    rows = {
        size: [row(*sorted(rng.uniform(5, 60, 2))[::-1], recommended=bool(rng.random() < 0.6)) for _ in range(2)]
        for size in (1, 2, 4)
    }
    every = [(size, one.dense_ns) for size in rows for one in rows[size][:1]]
    every += [(size, one.measured_ns) for size, k in product(rows, range(2)) if (one := rows[size][k]).recommended]
    rates = [size / ns for size, ns in every if ns <= 30e6]
    found = best(rows)
    assert found.images_per_second == pytest.approx(1e9 * max(rates, default=0.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("30ms", False, None, True), "belong together"),
        ((None, True, None, True), "belong together"),
        ((None, False, "1,2", True), "chosen among by their throughput"),
        (("30ms", True, "1,2", False), "no-wait is not for them"),
        (("30ms", True, "1,x", True), "batch sizes are whole numbers"),
        (("30ms", True, "0", True), "batch sizes are whole numbers"),
        (("30ms", True, "", True), "batch sizes are whole numbers"),
    ],
)
def test_options_that_make_no_wish_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        throughput.check(*options)


def test_options_that_make_one():
    throughput.check(None, False, None, False)
    throughput.check("30ms", True, None, False)
    throughput.check("30ms", True, "8,1,8", True)
    assert throughput.sizes(" 8, 1,8") == [1, 8]
