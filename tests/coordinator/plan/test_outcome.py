import dataclasses

import pytest
from plan_board import GEOMETRY, MadeUpBoard, model, schedule, stalls_beyond

from tailfleet_coordinator.plan.decision import Contender, Plan
from tailfleet_coordinator.plan.outcome import Outcome
from tailfleet_coordinator.report import table
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import Measure, Objective, Statistic
from tailfleet_schema.curve import UnitResult
from tailfleet_schema.schedule import dense

FAST = schedule([197] * 2 + [64] * 10)
GENTLE = schedule([197] * 6 + [128] * 6)
DENSE = dense("made-up", GEOMETRY)
REFUSED = Plan(None, 9e6, 9e6, 9e6, 9e6, None, "do not prune: the best of tome is predicted at …")
LIMIT = Objective(max_accuracy_drop=1.0)


def planned(chosen, predicted_ns=8e6):
    return Plan(chosen, 9e6, predicted_ns, 0.97 * predicted_ns, 1.03 * predicted_ns, 0.4, "predicted only: …")


def rows_of(plans, results, objective=LIMIT, dataset="d", kind=BoardKind.PHYSICAL):
    named = [("optimal", method, made) for method, made in plans]
    return Outcome("bench", kind, model(dataset), named, results, objective).rows()


def test_measured_beside_dense_of_the_same_rounds(board):
    top1 = {FAST.digest: 380, GENTLE.digest: 388}
    results = board.verification([FAST, GENTLE], judged=True, top1=top1)
    fast, gentle, refused = rows_of([("topk", planned(FAST)), ("pomt", planned(GENTLE)), ("tome", REFUSED)], results)
    assert gentle.dense_ns != 9e6
    assert gentle.speedup == pytest.approx(gentle.dense_ns / gentle.measured_ns)
    assert gentle.measured_low_ns < gentle.measured_ns < gentle.measured_high_ns
    assert (gentle.top1_dense, gentle.top1_pruned, gentle.top1_computed_on) == (97.5, 97.0, "board")
    assert gentle.verdict.startswith("prune: measured ")
    assert gentle.verdict.endswith("loses 0.5 points of top-1, expected to lose 0.4")
    assert gentle.recommended
    assert not fast.recommended
    assert fast.verdict.startswith("do not prune: more than the 1.0 points of top-1 that may be lost")
    assert refused.verdict == REFUSED.verdict
    assert refused.schedule_digest is refused.measured_ns is refused.speedup is None
    assert refused.top1_dense == 97.5


def test_what_the_guess_errs_by_elsewhere_is_told_beside_what_was_lost(board):
    results = board.verification([FAST, GENTLE], judged=True, top1={FAST.digest: 389, GENTLE.digest: 380})
    contender = Contender(FAST, 7e6, 6.9e6, 7.1e6, 0.6, "predicted only: …", 0.3)
    made = dataclasses.replace(planned(GENTLE), drop_error=0.2, contenders=[contender])
    (row,) = rows_of([("topk", made)], results)
    assert "loses 0.2 points of top-1, expected to lose 0.6 ± 0.3" in row.verdict
    assert "loses 2.5 points of top-1, expected to lose 0.4 ± 0.2" in row.verdict


def test_slower_than_dense_is_said_with_what_was_predicted():
    board = MadeUpBoard(launch_ns=9e6)
    (row,) = rows_of([("topk", planned(GENTLE))], board.verification([GENTLE]))
    assert row.verdict.startswith("do not prune: measured ")
    assert "slower than dense on quiet (predicted 11 % faster)" in row.verdict
    assert row.speedup < 1
    assert not row.recommended


def test_a_gain_within_the_noise_is_none():
    nearly = schedule([197] * 10 + [193] * 2)
    board = MadeUpBoard(launch_ns=0.0)
    (row,) = rows_of([("topk", planned(nearly))], board.verification([nearly]))
    assert "no gain beyond the uncertainty of ±" in row.verdict
    assert not row.recommended


class TestImagesWithoutLabels:
    """Agreement with the dense model stands for top-1."""

    def rows(self, board, objective, agreeing=380):
        results = [
            UnitResult(
                r.unit, 0, judgement=dataclasses.replace(r.judgement, agreeing=r.judgement.correct, kl_nats=0.03)
            )
            if r.judgement
            else r
            for r in board.verification(
                [FAST, GENTLE], judged=True, top1={FAST.digest: agreeing, GENTLE.digest: 396, DENSE.digest: 400}
            )
        ]
        plans = [("optimal", "topk", planned(FAST)), ("optimal", "pomt", planned(GENTLE)), ("optimal", "tome", REFUSED)]
        return Outcome("bench", BoardKind.PHYSICAL, model("d"), plans, results, objective, Measure.AGREEMENT).rows()

    def test_a_row_holds_agreement_and_no_top1(self, board):
        fast, gentle, refused = self.rows(board, Objective(latency_share=0.95))
        for row in (fast, gentle, refused):
            assert row.measure is Measure.AGREEMENT
            assert row.top1_dense is row.top1_pruned is row.top1_computed_on is None
            assert "top-1" not in row.verdict
        assert (gentle.agreement_dense, gentle.agreement_pruned, gentle.kl_nats) == (100.0, 99.0, 0.03)
        assert gentle.agreement_computed_on == "board"
        assert gentle.verdict.endswith(
            "loses 1.0 points of agreement with the dense model, expected to lose 0.4 (on images without labels; KL"
            " 0.03 nats)"
        )
        # Of what meets the budget, that which agrees most.
        assert [row.recommended for row in (fast, gentle, refused)] == [False, True, False]

    def test_a_limit_alone_is_one_of_agreement(self, board):
        fast, gentle, _ = self.rows(board, Objective(max_accuracy_drop=2.0))
        words = "do not prune: more than the 2.0 points of agreement with the dense model that may be lost"
        assert fast.verdict.startswith(words)
        assert gentle.recommended

    def test_beside_a_limit_the_budget_decides(self, board):
        budget = Objective(latency_share=0.95, max_accuracy_drop=0.5)
        assert [row.recommended for row in self.rows(board, budget)] == [False, True, False]
        missed = Objective(latency_share=0.05, max_accuracy_drop=50.0)
        assert self.rows(board, missed)[0].verdict.startswith("do not prune: it does not meet the budget")

    def test_a_utility_weighs_it(self, board):
        assert self.rows(board, Objective(utility_alpha=0.99))[0].recommended
        assert self.rows(board, Objective(utility_alpha=0.01), agreeing=100)[1].recommended


def test_agreement_is_told_of_labelled_images_too(board):
    results = board.verification([GENTLE], judged=True, top1={GENTLE.digest: 388})
    (row,) = rows_of([("topk", planned(GENTLE))], results)
    assert (row.measure, row.agreement_dense, row.agreement_pruned, row.kl_nats) == (Measure.TOP1, 95.0, 95.0, 0.01)


def test_a_missed_budget_is_not_recommended(board):
    (row,) = rows_of([("topk", planned(GENTLE))], board.verification([GENTLE]), Objective(latency_share=0.5))
    assert row.verdict.startswith("do not prune: it does not meet the budget")
    assert not row.recommended


def test_a_budget_refuses_nothing_where_an_accuracy_limit_decides(board):
    results = board.verification([GENTLE], judged=True, top1={GENTLE.digest: 388})
    (row,) = rows_of([("topk", planned(GENTLE))], results, Objective(max_accuracy_drop=50.0, latency_share=0.1))
    assert row.verdict.startswith("prune: ")
    assert row.recommended


@pytest.mark.parametrize(
    ("objective", "winner"),
    [
        (Objective(max_accuracy_drop=50.0), "topk"),
        (Objective(latency_share=0.95), "pomt"),
        (Objective(utility_alpha=1.0), "topk"),
        (Objective(utility_alpha=0.0), "pomt"),
    ],
)
def test_what_is_recommended_follows_the_objective(board, objective, winner):
    results = board.verification([FAST, GENTLE], judged=True, top1={FAST.digest: 380, GENTLE.digest: 388})
    rows = rows_of([("topk", planned(FAST)), ("pomt", planned(GENTLE))], results, objective)
    assert [row.method for row in rows if row.recommended] == [winner]


def test_without_images_the_most_tokens_within_the_budget(board):
    plans = [("topk", planned(FAST)), ("pomt", planned(GENTLE))]
    rows = rows_of(plans, board.verification([FAST, GENTLE]), Objective(latency_share=0.95), dataset=None)
    assert [row.method for row in rows if row.recommended] == ["pomt"]
    assert all(row.top1_dense is None and row.top1_pruned is None for row in rows)


def test_what_was_not_measured_stays_predicted_only(board):
    (row,) = rows_of([("topk", planned(GENTLE))], [])
    assert row.verdict.startswith("predicted only: ")
    assert row.dense_ns == 9e6
    assert not row.recommended
    assert not rows_of([("topk", planned(GENTLE))], board.verification([GENTLE]))[0].verdict.startswith("predicted")


OFTEN = {"rounds": 20, "calls": 80}


@pytest.fixture
def stalling():
    """Passes stall in proportion to their blocks of more than 100 tokens; quiet times show nothing of it."""
    return MadeUpBoard(stall=stalls_beyond(100))


@pytest.fixture
def results(stalling):
    return stalling.verification([FAST, GENTLE], **OFTEN)


class TestOnAStatistic:
    def on_p99(self, **limits):
        return Objective(**limits, on=Statistic.P99)

    def planned(self, chosen):
        return dataclasses.replace(planned(chosen), on=Statistic.P99)

    def test_every_time_of_a_row_is_on_it(self, stalling, results):
        (row,) = rows_of([("topk", self.planned(GENTLE))], results, self.on_p99(latency_share=0.95))
        assert row.on is Statistic.P99
        assert row.measured_ns == pytest.approx(stalling.true_ns(GENTLE, 0.99), rel=0.1)
        assert row.dense_ns == pytest.approx(stalling.true_ns(schedule([197] * 12), 0.99), rel=0.1)
        assert row.measured_low_ns < row.measured_ns < row.measured_high_ns
        assert row.speedup == row.dense_ns / row.measured_ns
        assert "faster than dense on p99 (predicted 11 % faster)" in row.verdict

    def test_a_budget_that_quiet_meets_is_missed_by_the_tail(self, stalling, results):
        """GENTLE has half of its blocks beyond 100 tokens."""
        budget_ns = round(1.1 * stalling.schedule_ns(GENTLE))
        quiet, tail = (
            rows_of(
                [("topk", dataclasses.replace(planned(GENTLE), on=on))], results, Objective(latency_ns=budget_ns, on=on)
            )[0]
            for on in (Statistic.QUIET, Statistic.P99)
        )
        assert quiet.recommended
        assert not tail.recommended
        assert tail.verdict.startswith("do not prune: it does not meet the budget, ")
        assert f"against a budget of {budget_ns / 1e6:.2f} ms on p99" in tail.verdict

    def test_a_promise_on_the_tail_forgives_nothing(self, results):
        """The lower end of a p99's interval is some p98."""
        (row,) = rows_of([("topk", self.planned(GENTLE))], results, self.on_p99(latency_share=0.95))
        between = round((row.measured_low_ns + row.measured_ns) / 2)
        (missed,) = rows_of([("topk", self.planned(GENTLE))], results, self.on_p99(latency_ns=between))
        (kept,) = rows_of([("topk", self.planned(GENTLE))], results, self.on_p99(latency_ns=round(row.measured_ns) + 1))
        assert "does not meet the budget" in missed.verdict
        assert kept.verdict.startswith("prune: ")

    def test_what_is_fastest_may_differ(self):
        """On quiet the launch makes FAST the slower one; its tail is the shorter."""
        board = MadeUpBoard(stall=stalls_beyond(100), half_ns=lambda n: 800e3 + 500.0 * n, launch_ns=-150e3)
        light = schedule([128] * 12)
        short = schedule([197] + [98] * 11)
        results = board.verification([light, short], **OFTEN)
        plans = [("topk", planned(light)), ("pomt", planned(short))]
        winners = {}
        for on in (Statistic.QUIET, Statistic.P99):
            own = [(name, dataclasses.replace(made, on=on)) for name, made in plans]
            rows = rows_of(own, results, Objective(max_accuracy_drop=100.0, on=on))
            winners[on] = {row.method: row.speedup for row in rows}
        assert winners[Statistic.P99]["pomt"] > 1.3 * winners[Statistic.P99]["topk"]
        assert winners[Statistic.QUIET]["pomt"] < 1.3 * winners[Statistic.QUIET]["topk"]

    def test_too_few_calls_recommend_nothing(self, stalling):
        few = stalling.verification([FAST], rounds=5, calls=5)
        (row,) = rows_of([("topk", self.planned(FAST))], few, self.on_p99(latency_share=0.95))
        assert row.verdict == ("do not prune: a p99 takes 368 calls of each schedule, and the verification made 25")
        assert not row.recommended

    def test_figures_of_a_plan_on_another_statistic_are_left_out(self, results):
        row, refused = rows_of(
            [("topk", self.planned(GENTLE)), ("tome", REFUSED)], results, self.on_p99(latency_share=0.95)
        )
        assert refused.predicted_ns is refused.predicted_low_ns is refused.predicted_high_ns is None
        assert refused.dense_ns == row.dense_ns
        (unmeasured,) = rows_of([("tome", REFUSED)], [], self.on_p99(latency_share=0.95))
        assert unmeasured.dense_ns is None


def test_out_of_memory_is_a_reason(board):
    results = [
        UnitResult(r.unit, r.round, status="oom") if r.unit.label == GENTLE.digest else r
        for r in board.verification([GENTLE])
    ]
    (row,) = rows_of([("topk", planned(GENTLE))], results)
    assert row.verdict == "do not prune: the board ran out of memory with this schedule"
    assert row.measured_ns is None


def test_a_virtual_board_is_marked_and_two_planners_may_agree(board):
    plans = [("optimal", "topk", planned(GENTLE)), ("pomt-rule", "topk", planned(GENTLE))]
    rows = Outcome(
        "v", BoardKind.VIRTUAL, model(), plans, board.verification([GENTLE]), Objective(latency_share=0.9)
    ).rows()
    assert {row.board_kind for row in rows} == {"virtual"}
    assert rows[0].measured_ns == rows[1].measured_ns
    assert sum(row.recommended for row in rows) == 1
    assert {f.name for f in dataclasses.fields(rows[0])} >= {"verdict", "keep"}


class TestFurtherPoints:
    def planned(self, first, *others):
        further = [Contender(one, 8e6, 7.8e6, 8.2e6, 0.4, "predicted only: …") for one in others]
        return dataclasses.replace(planned(first), contenders=further)

    def rows(self, board, objective, top1=None, first=FAST, others=(GENTLE,)):
        results = board.verification([FAST, GENTLE], judged=True, top1=top1 or {FAST.digest: 380, GENTLE.digest: 388})
        return rows_of([("topk", self.planned(first, *others))], results, objective)

    def test_one_that_does_what_was_asked_stands_in_for_the_chosen_one(self, board):
        (row,) = self.rows(board, LIMIT)
        assert row.recommended
        assert row.schedule_digest == GENTLE.digest
        assert row.keep == GENTLE.keep
        assert row.top1_pruned == 97.0
        assert row.verdict.startswith("prune: measured ")
        assert (
            "of 2 points measured it is ahead of the one first chosen, which came to: more than the 1.0" in row.verdict
        )

    def test_where_none_does_the_chosen_one_says_why(self, board):
        (row,) = self.rows(board, LIMIT, {FAST.digest: 300, GENTLE.digest: 300})
        assert not row.recommended
        assert row.schedule_digest == FAST.digest
        assert "points measured" not in row.verdict

    def test_the_chosen_one_stays_where_it_is_the_best(self, board):
        (row,) = self.rows(board, Objective(max_accuracy_drop=50.0))
        assert row.recommended
        assert row.schedule_digest == FAST.digest

    def test_a_front_has_a_row_for_each_measured_point_and_recommends_none(self, board):
        rows = self.rows(board, Objective(front=True), first=GENTLE, others=(FAST,))
        assert [row.schedule_digest for row in rows] == [GENTLE.digest, FAST.digest]
        assert rows[0].measured_ns > rows[1].measured_ns
        assert all(row.verdict.startswith("prune: measured") for row in rows)
        assert not any(row.recommended for row in rows)

    def test_a_front_that_was_not_measured_is_predicted(self):
        rows = rows_of([("topk", self.planned(GENTLE, FAST)), ("tome", REFUSED)], [], Objective(front=True))
        assert [row.verdict[:14] for row in rows] == ["predicted only", "predicted only", "do not prune: "]


def test_where_methods_competed_the_row_says_which_one_it_is(board):
    rows = rows_of([("auto", planned(GENTLE)), ("topk", planned(FAST))], board.verification([FAST, GENTLE]))
    assert [row.reduces_by for row in rows] == ["topk", None]
    assert table.method(rows[0]) == "topk (auto)"


@pytest.mark.parametrize(("share", "kept"), [(1.02, True), (0.98, False)])
def test_a_deadline_holds_beside_an_accuracy_limit(board, share, kept):
    results = board.verification([GENTLE], judged=True, top1={GENTLE.digest: 388})
    deadline_ns = round(share * board.schedule_ns(GENTLE))
    (row,) = rows_of([("topk", planned(GENTLE))], results, Objective(deadline_ns=deadline_ns, max_accuracy_drop=1.0))
    assert row.recommended is kept
    assert ("it does not meet the budget" in row.verdict) is not kept
