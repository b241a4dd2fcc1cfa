import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from plan_board import GEOMETRY, MadeUpBoard, schedule, straight

from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_coordinator.plan.halves import Line
from tailfleet_coordinator.plan.latency import MODEL_ERROR, LatencyModel
from tailfleet_coordinator.plan.statistics import summarise
from tailfleet_schema.board import BoardKind
from tailfleet_schema.curve import SIZED, Part
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import dense, smallest_reachable


def fitted(board, **settings):
    return LatencyModel.fit(GEOMETRY, summarise(board.sweep(**settings)))


def random_schedules(count, method="topk", seed=1, least=40):
    rng = random.Random(seed)
    made = []
    while len(made) < count:
        keep, n = [], 197
        for _ in range(12):
            if rng.random() < 0.3 and n > least:
                n = rng.randrange(max(smallest_reachable(method, n, 1), least), n)
            keep.append(n)
        made.append(schedule(keep, method))
    return made


@pytest.mark.parametrize("kind", list(BoardKind))
def test_uniform_schedules_cost_what_the_curve_says(board, kind):
    results = board.sweep(kind=kind)
    points = {p.unit.tokens: p for p in summarise(results) if p.unit.part is Part.MODEL}
    model = LatencyModel.fit(GEOMETRY, summarise(results))
    assert len(points) >= 14
    for n, point in points.items():
        alike = model.fixed_ns + 12 * model.block_ns("topk", n, n)
        assert alike == pytest.approx(point.quiet_ns, rel=1e-9)
    assert model.predict(dense("made-up", GEOMETRY)).ns == pytest.approx(model.dense.ns)


@pytest.mark.parametrize("method", ["topk", "pomt"])
def test_predictions_are_right_on_a_stepped_board_measured_densely(board, method):
    model = fitted(board)
    schedules = random_schedules(60, method)
    truths = np.array([board.schedule_ns(s) for s in schedules])
    predictions = [model.predict(s) for s in schedules]
    errors = np.abs([p.ns for p in predictions] / truths - 1)
    assert np.median(errors) < 0.01
    assert np.quantile(errors, 0.95) < 0.02
    inside = [p.low_ns <= truth <= p.high_ns for p, truth in zip(predictions, truths)]
    assert np.mean(inside) >= 0.95
    assert not any(p.extrapolated or p.inferred for p in predictions)


def test_predictions_are_right_on_a_smooth_board_measured_coarsely():
    board = MadeUpBoard(half_ns=straight)
    model = fitted(board, kind=BoardKind.PHYSICAL)
    schedules = random_schedules(60)
    errors = [abs(model.predict(s).ns / board.schedule_ns(s) - 1) for s in schedules]
    assert np.median(errors) < 0.015
    assert max(errors) < 0.05
    assert all(model.predict(s).inferred for s in schedules if any(not model.halves.whole.knows(n) for n in s.keep))


def test_between_far_counts_the_interval_widens_by_what_may_hide_there(board):
    model = fitted(board, counts="40,120,197", kind=BoardKind.PHYSICAL)
    known, between = (model.predict(schedule([197] * 4 + [n] * 8)) for n in (120, 90))
    assert between.inferred
    assert not known.inferred
    assert (between.high_ns - between.low_ns) / between.ns > 1.5 * (known.high_ns - known.low_ns) / known.ns
    assert between.low_ns <= board.schedule_ns(schedule([197] * 4 + [90] * 8)) <= between.high_ns


def test_outside_of_what_was_measured_it_says_so(board):
    model = fitted(board, counts="100,150", kind=BoardKind.PHYSICAL)
    assert model.predict(schedule([197] * 4 + [30] * 8)).extrapolated
    assert not model.predict(schedule([197] * 4 + [150] * 8)).extrapolated


def test_a_method_that_was_not_timed_is_refused(board):
    model = fitted(board, methods=["topk"])
    with pytest.raises(InputError, match="'pomt'; timed: topk"):
        model.predict(schedule([197] * 4 + [150] * 8, "pomt"))


@pytest.mark.parametrize("part", [Part.FIXED, Part.ATTENTION, Part.MLP])
def test_a_sweep_without_a_part_is_refused(board, part):
    results = [r for r in board.sweep(kind=BoardKind.PHYSICAL) if r.unit.part is not part]
    with pytest.raises(InputError, match="has no point of its"):
        LatencyModel.fit(GEOMETRY, summarise(results))


def test_the_sentinel_stands_in_for_a_missing_full_count(board):
    results = [
        r for r in board.sweep(kind=BoardKind.PHYSICAL) if not (r.unit.part is Part.MODEL and r.unit.tokens == 197)
    ]
    truth = board.schedule_ns(dense("m", GEOMETRY))
    assert LatencyModel.fit(GEOMETRY, summarise(results)).dense.ns == pytest.approx(truth, rel=0.02)


def test_reductions_cost_what_was_measured_also_where_it_was_not():
    board = MadeUpBoard(half_ns=straight, noise=0.002)
    model = fitted(board)
    scale = model.halves.scale.value_ns(197)
    for n, m in ((197, 100), (150, 60), (120, 119)):
        overhead = model.overheads["topk"].block_ns(n, m)
        assert overhead == pytest.approx(board.reduce_ns(n, m), rel=0.03)
    assert scale == pytest.approx(1.04, rel=0.01)


def test_a_reduction_that_saves_is_not_held_to_be_free():
    """A method may compute queries of kept tokens only: its block is then cheaper than plain attention."""

    class Sparing(MadeUpBoard):
        def reduce_ns(self, n, m):
            return 0.4 * self.half_ns(n) + 0.6 * self.half_ns(m) + 5e3

    board = Sparing(half_ns=straight, noise=0.002)
    model = fitted(board)
    assert model.overheads["topk"].block_ns(197, 60) == pytest.approx(board.reduce_ns(197, 60), rel=0.03)
    assert model.overheads["topk"].block_ns(197, 60) < model.overheads["topk"].attention_ns[197]
    assert model.overheads["topk"].block_ns(197, 2) >= model.overheads["topk"].attention_ns[2]


def errors(model, board, schedules):
    return np.array([model.predict(s).ns / board.schedule_ns(s) - 1 for s in schedules])


def test_parts_between_their_counts_follow_the_steps_of_the_curve(board):
    """The curve at every count, parts at some: what no line through the parts could show."""
    model = fitted(board, counts="all", kind=BoardKind.PHYSICAL)
    assert len(model.halves.attention.tokens) < 30
    schedules = random_schedules(60)
    assert np.median(np.abs(errors(model, board, schedules))) < 0.01
    assert np.abs(errors(model, board, schedules)).max() < 0.03
    below, above = (model.halves.attention_ns(n) for n in (128, 129))
    assert above - below == pytest.approx(1.04 * 150e3, rel=0.15)


def test_tokens_with_sizes_cost_what_was_measured():
    board = MadeUpBoard(half_ns=straight, sized=0.2, noise=0.002)
    results = board.sweep(["tome"], kind=BoardKind.PHYSICAL)
    schedules = random_schedules(40, "tome")
    model = LatencyModel.fit(GEOMETRY, summarise(results))
    assert np.abs(errors(model, board, schedules)).max() < 0.02
    guessing = LatencyModel.fit(GEOMETRY, summarise([r for r in results if r.unit.label != SIZED]))
    assert errors(guessing, board, schedules).mean() < -0.02
    widths = [m.predict(schedules[0]) for m in (guessing, model)]
    assert widths[0].half_ns / widths[0].ns > widths[1].half_ns / widths[1].ns


@pytest.mark.parametrize("context", [0.08, -0.05])
@pytest.mark.parametrize("method", ["topk", "pomt", "tome"])
def test_anchors_tell_what_blocks_cost_once_tokens_left(method, context):
    board = MadeUpBoard(context=context)
    timed = anchors("made-up", GEOMETRY, ["topk", "pomt", "tome"])
    summaries = summarise(board.sweep(timed=timed))
    model = LatencyModel.fit(GEOMETRY, summaries, anchors=timed)
    schedules = random_schedules(60, method, seed=3)
    assert not {s.digest for s in schedules} & {s.digest for s in timed}
    found = errors(model, board, schedules)
    assert np.median(np.abs(found)) < 0.01
    predictions = [model.predict(s) for s in schedules]
    assert np.mean([p.low_ns <= board.schedule_ns(s) <= p.high_ns for p, s in zip(predictions, schedules)]) >= 0.95
    without = LatencyModel.fit(GEOMETRY, summaries)
    assert np.abs(errors(without, board, schedules).mean()) > 0.6 * abs(context)


def test_anchors_tell_reducing_blocks_from_those_behind_them():
    board = MadeUpBoard(context=0.12, behind=-0.02)
    timed = anchors("made-up", GEOMETRY, ["topk", "pomt", "tome"])
    model = LatencyModel.fit(GEOMETRY, summarise(board.sweep(timed=timed)), anchors=timed)
    assert np.median(np.abs(errors(model, board, random_schedules(60)))) < 0.01
    assert model.contexts["topk"].reducing == pytest.approx(0.12, abs=0.02)
    assert model.contexts["topk"].behind == pytest.approx(-0.02, abs=0.02)


def test_search_and_prediction_agree_on_costs_in_context():
    board = MadeUpBoard(context=0.1, sized=0.1)
    timed = anchors("made-up", GEOMETRY, ["tome"])
    model = LatencyModel.fit(GEOMETRY, summarise(board.sweep(["tome"], timed=timed)), anchors=timed)
    for chosen in random_schedules(5, "tome"):
        added = sum(model.block_ns("tome", n, m) for n, m in zip(chosen.entering, chosen.keep))
        assert model.fixed_ns + added == pytest.approx(model.predict(chosen).ns)


def test_anchors_of_another_model_are_passed_over(board):
    timed = anchors("made-up", GEOMETRY, ["topk"])
    summaries = summarise(board.sweep(["topk"], kind=BoardKind.PHYSICAL, timed=timed))
    assert LatencyModel.fit(GEOMETRY, summaries, anchors=anchors("another", GEOMETRY, ["topk"])).contexts == {}
    assert set(LatencyModel.fit(GEOMETRY, summaries, anchors=timed).contexts) == {"topk"}


def test_behind_a_block_all_that_arrive_pass_through_its_mlp(board):
    """On this board every method reduces alike, so what differs is where."""
    model = fitted(board, methods=["topk", "cropr"])
    for keep in ([197] * 11 + [100], [197] * 4 + [100] * 8, [170] * 6 + [90] * 6):
        after, mid = (model.predict(schedule(keep, method)).ns for method in ("cropr", "topk"))
        reducing = [(n, m) for n, m in zip([197, *keep], keep) if m < n]
        assert after - mid == pytest.approx(sum(board.half_ns(n) - board.half_ns(m) for n, m in reducing), rel=0.06)
        assert after > mid


def test_a_restored_block_costs_what_it_does_with_all_tokens(board):
    model = fitted(board, methods=["topk", "cropr"])
    for method in ("topk", "cropr"):
        kept = [197] * 4 + [100] * 7
        there = model.predict(schedule([*kept, 100], method)).ns
        for last in (197, 150):
            back = model.predict(replace(schedule([*kept, 100], method), keep=[*kept, last], restore_before=11)).ns
            added = model.block_ns(method, 197, last) - model.block_ns(method, 100, 100)
            assert added < back - there < added + 0.1 * model.block_ns(method, 197, 197)


def test_a_method_that_costs_more_in_early_blocks_is_dearer_there_and_its_interval_says_so(board):
    model = fitted(board, methods=["topk", "zero-tprune"])
    assert model.adds_up("topk")
    assert not model.adds_up("zero-tprune")

    def at(block, method="zero-tprune", m=120):
        return model.predict(schedule([197] * block + [m] + [m] * (11 - block), method))

    plain = [at(block, "topk").ns for block in (0, 4, 9)]
    staged = [at(block).ns - topk for block, topk in zip((0, 4, 9), plain)]
    assert staged[0] > staged[1] > staged[2]
    assert at(0).high_ns - at(0).low_ns > at(0, "topk").high_ns - at(0, "topk").low_ns
    # Those that are like others are dropped without it.
    share = model.block_ns("zero-tprune", 197, 187) / model.block_ns("zero-tprune", 197, 186)
    assert share < model.block_ns("topk", 197, 187) / model.block_ns("topk", 197, 186)


@pytest.mark.parametrize("method", ["topk", "tome", "cropr", "zero-tprune"])
def test_all_blocks_at_once_cost_what_each_costs(method):
    board = MadeUpBoard(context=0.05, behind=0.02, sized=0.07)
    timed = anchors("made-up", GEOMETRY, [method])
    swept = summarise(board.sweep([method], timed=timed))
    model = LatencyModel.fit(GEOMETRY, swept, anchors=timed)
    assert method in model.contexts
    counts = [197, 190, 150, 128, 100, 64, 40, 9]
    costs = model.blocks_ns(method, counts)
    for i, n in enumerate(counts):
        for j, m in enumerate(counts):
            expected = model.block_ns(method, n, m) if m <= n else np.inf
            assert costs[i, j] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tokens", [(20, 50, 120), (50,), (1, 197), (100, 101)])
def test_all_times_of_a_line_are_those_of_each_count(tokens):
    """To the last digit: plans from one and from the other are compared."""
    line = Line(tokens, tuple(1e5 + 3e3 * n**1.1 for n in tokens))
    assert line.values_ns(197).tolist() == [line.value_ns(n) for n in range(198)]
    assert line.values_ns(10).tolist() == [line.value_ns(n) for n in range(11)]


def once(block, m=100, method="topk"):
    return schedule([197] * block + [m] * (12 - block), method)


def test_only_blocks_from_the_first_reduction_on_are_in_doubt(board):
    """Those before it are the dense model's, which is measured."""
    model = fitted(board)
    dense_doubt = model.dense.doubt
    assert dense_doubt.fewer_ns == dense_doubt.rest_ns == 0
    doubts = [model.predict(once(block)).doubt for block in (1, 4, 7, 10)]
    for one, later in itertools.pairwise(doubts):
        assert later.rest_ns < one.rest_ns
        assert later.fewer_ns < one.fewer_ns
        assert later.full_ns > one.full_ns
    for block, doubt in zip((1, 4, 7, 10), doubts):
        share = doubt.full_ns / dense_doubt.full_ns
        # The reducing block's attention is on all tokens, its MLP on those that are left.
        assert block / 12 < share < (block + 1) / 12
    blocks = [model.costs.of(once(block)) for block in (4, 10)]
    affected = [sum(one.ns for one in some[block:]) for some, block in zip(blocks, (4, 10))]
    for doubt, ns in zip((doubts[1], doubts[3]), affected):
        assert MODEL_ERROR * ns < doubt.rest_ns < 2 * MODEL_ERROR * ns


def test_what_both_run_on_all_tokens_is_no_doubt_about_a_gain():
    """Three quarters of a late schedule are the very measurement of dense, however uncertain that is."""
    board = MadeUpBoard(half_ns=straight, noise=0.1)
    model = fitted(board, kind=BoardKind.PHYSICAL)
    late, dense_ = model.predict(once(9, 120)), model.dense
    assert late.doubt.full_ns > 0.7 * dense_.doubt.full_ns
    apart = np.linalg.norm([dense_.doubt.full_ns - late.doubt.full_ns, late.doubt.fewer_ns, late.doubt.rest_ns])
    assert late.margin_ns(dense_) == pytest.approx(apart)
    assert late.margin_ns(dense_) < 0.8 * np.hypot(late.half_ns, dense_.half_ns)


def test_true_gains_lie_within_the_margin_of_predicted_ones():
    """On noisy boards, where dense and schedule rest on one noisy curve."""
    inside = []
    for seed in range(12):
        board = MadeUpBoard(noise=0.02, context=0.02, rng=random.Random(seed))
        timed = anchors("made-up", GEOMETRY, ["topk"])
        model = LatencyModel.fit(
            GEOMETRY, summarise(board.sweep(["topk"], kind=BoardKind.PHYSICAL, timed=timed)), anchors=timed
        )
        truth = board.schedule_ns(dense("made-up", GEOMETRY))
        for chosen in random_schedules(12, seed=seed):
            predicted = model.predict(chosen)
            gain = model.dense.ns - predicted.ns
            inside.append(abs(gain - (truth - board.schedule_ns(chosen))) <= predicted.margin_ns(model.dense))
    assert np.mean(inside) >= 0.95
