import dataclasses
import re
from itertools import pairwise

import pytest
from plan_board import GEOMETRY, MadeUpBoard, input_results, model, profile_results, schedule, stalls_beyond, straight
from test_composition import judge, weighed

from tailfleet_coordinator.plan.accuracy import AccuracyProfile, loss_of
from tailfleet_coordinator.plan.composition import Composition, composed
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.planner import Plan, PlanInput, make_plan
from tailfleet_coordinator.plan.spread import Spread
from tailfleet_coordinator.plan.statistics import summarise
from tailfleet_coordinator.plan.wholes import whole_schedules
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import BASELINES, Objective, Statistic
from tailfleet_schema.curve import Part, UnitResult
from tailfleet_schema.errors import InputError

HALF = Objective(latency_share=0.7)


def plan(board, objective, method="topk", planner="optimal", profile=(), dataset=None, sweep=None):
    sweep = board.sweep() if sweep is None else sweep
    return make_plan(PlanInput(model(dataset), method, planner, objective, sweep, list(profile), 1))


@pytest.fixture
def sweep(board):
    return board.sweep()


@pytest.mark.parametrize("method", ["topk", "pomt", "tome"])
def test_a_latency_budget_is_kept_in_truth(board, sweep, method):
    made = plan(board, HALF, method, sweep=sweep)
    assert made.verdict.startswith("predicted only: ")
    assert "not known without labelled images" in made.verdict
    assert made.expected_drop is None
    assert board.schedule_ns(made.schedule) < 0.71 * made.dense_ns
    assert made.predicted_low_ns < made.predicted_ns < made.predicted_high_ns
    made.schedule.check_fits("made-up", GEOMETRY)


def test_operating_points_lie_on_tops_of_treads(board, sweep):
    made = plan(board, HALF, sweep=sweep)
    assert set(made.schedule.keep) <= {64, 128, 192, 197}


def test_the_fastest_within_an_accuracy_limit(board, sweep):
    plans = [
        plan(board, Objective(max_accuracy_drop=drop), profile=profile_results(), dataset="d", sweep=sweep)
        for drop in (1.0, 5.0, 20.0)
    ]
    speeds = [p.predicted_ns for p in plans]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[-1] < 0.8 * plans[-1].dense_ns
    for drop, made in zip((1.0, 5.0, 20.0), plans):
        if made.schedule is not None:
            assert 0 < made.expected_drop <= drop
    assert "calibration images" in plans[-1].verdict


def test_limits_and_fronts_are_of_the_composition_where_whole_schedules_were_judged(board, sweep):
    schedules = whole_schedules(model("d"), "topk")
    judged = [judge(one, weighed({4: 4.0, 9: 0.2})) for one in schedules]
    alone, results = profile_results(), profile_results() + judged
    limit = Objective(max_accuracy_drop=5.0)
    made = plan(board, limit, profile=results, dataset="d", sweep=sweep)
    losses = composed(AccuracyProfile.fit(GEOMETRY, "topk", results), GEOMETRY, schedules, results)
    assert isinstance(losses, Composition)
    assert made.expected_drop == losses.expected_drop(made.schedule)
    assert loss_of(losses, made.schedule) <= 5.0
    assert all(point.loss == pytest.approx(loss_of(losses, schedule(point.keep))) for point in made.front)
    assert f"such figures err by ±{losses.held_out.error:.1f} points on 20 random schedules" in made.verdict
    assert made.drop_error == losses.held_out.error
    additive = plan(board, limit, profile=alone, dataset="d", sweep=sweep)
    assert "err by" not in additive.verdict
    # Of all that may lose so much the fastest: searched, not only ranked anew.
    assert loss_of(losses, additive.schedule) > 5.0 or made.predicted_ns <= additive.predicted_ns


def test_with_images_an_accuracy_limit_decides_and_a_budget_does_not(board, sweep):
    limit, both = Objective(max_accuracy_drop=2.0), Objective(max_accuracy_drop=2.0, latency_share=0.3)
    made = plan(board, both, profile=profile_results(), dataset="d", sweep=sweep)
    assert made.schedule is not None
    assert made.schedule == plan(board, limit, profile=profile_results(), dataset="d", sweep=sweep).schedule


class TestImagesWithoutLabels:
    """What the profile calls top-1 is agreement with the dense model, and every sentence says so."""

    def plan(self, sweep, objective, **options):
        given = PlanInput(model("d"), "topk", "optimal", objective, sweep, unlabelled(), labelled=False)
        return make_plan(dataclasses.replace(given, **options))

    def test_a_latency_budget_loses_least_agreement(self, sweep):
        made = self.plan(sweep, HALF)
        words = (
            r"expected to lose \d+\.\d+ points of agreement with the dense model on 200 calibration images, which have"
        )
        assert re.search(words + " no labels", made.verdict)
        labelled = self.plan(sweep, HALF, labelled=True)
        assert made.schedule == labelled.schedule
        assert made.expected_drop == labelled.expected_drop > 0
        for plan in (made, self.plan(sweep, Objective(max_accuracy_drop=0.0))):
            assert "top-1" not in plan.verdict
            assert "accuracy" not in plan.verdict

    def test_a_limit_alone_is_one_of_agreement(self, sweep):
        made = self.plan(sweep, Objective(max_accuracy_drop=20.0))
        assert made.schedule is not None
        assert 0 < made.expected_drop <= 20
        nothing = self.plan(sweep, Objective(max_accuracy_drop=0.0)).verdict
        assert "that keeps agreement with the dense model within 0.0 points" in nothing

    def test_beside_a_limit_the_budget_decides(self, sweep):
        both = Objective(max_accuracy_drop=2.0, latency_share=0.7)
        assert self.plan(sweep, both).schedule == self.plan(sweep, HALF).schedule
        assert self.plan(sweep, both, labelled=True).schedule != self.plan(sweep, HALF).schedule

    def test_methods_compete_by_it(self, sweep):
        profile = [*unlabelled(), *unlabelled("tome")]
        made = self.plan(sweep, HALF, method="auto", competing=["topk", "tome"], profile=profile)
        assert "points of agreement with the dense model" in made.verdict
        assert "top-1" not in made.verdict


def unlabelled(method="topk"):
    """A profile as the worker makes it of images without labels: what the dense model says is right."""
    right = [
        UnitResult(r.unit, 0, judgement=dataclasses.replace(r.judgement, correct=n, agreeing=n, correct_bits=""))
        for r in profile_results(method=method)
        for n in [min(200, r.judgement.correct + 4)]
    ]
    assert max(result.judgement.correct for result in right) == 200
    return right


def test_an_impossible_budget_names_the_closest(board, sweep):
    made = plan(board, Objective(latency_ns=1_000_000), sweep=sweep)
    assert made.schedule is None
    assert "cannot be met by topk: the closest is predicted at" in made.verdict


def test_a_budget_that_dense_meets_prunes_nothing(board, sweep):
    made = plan(board, Objective(latency_ns=10**12), sweep=sweep)
    assert made.schedule is None
    assert "dense already meets" in made.verdict


def test_do_not_prune_when_scoring_costs_more_than_it_saves():
    board = MadeUpBoard(launch_ns=30e6)
    made = plan(board, HALF)
    assert made.schedule is None
    assert made.verdict.startswith("do not prune: no reduction by topk is predicted faster than dense at all")
    assert made.predicted_ns == made.dense_ns


def test_do_not_prune_when_the_gain_drowns_in_the_interval():
    board = MadeUpBoard(half_ns=lambda n: 400e3 + 30.0 * n, launch_ns=1e3)
    made = plan(board, Objective(latency_share=0.995))
    assert made.schedule is None
    assert "within the uncertainty" in made.verdict


def test_no_loss_at_all_cannot_be_promised(board, sweep):
    made = plan(board, Objective(max_accuracy_drop=0.0), profile=profile_results(), dataset="d", sweep=sweep)
    assert made.schedule is None
    assert "keeps top-1 within 0.0 points" in made.verdict
    assert "the gentlest faster one may lose" in made.verdict


def test_utility_moves_with_alpha(board, sweep):
    def at(alpha):
        made = plan(board, Objective(utility_alpha=alpha), profile=profile_results(), dataset="d", sweep=sweep)
        return made.predicted_ns if made.schedule else made.dense_ns

    assert at(1.0) < at(0.5) <= at(0.05)


@pytest.mark.parametrize("objective", [Objective(max_accuracy_drop=1.0), Objective(utility_alpha=0.5)])
def test_without_images_accuracy_cannot_be_asked_for(board, sweep, objective):
    made = plan(board, objective, sweep=sweep)
    assert made.schedule is None
    assert "there are no labelled images" in made.verdict


def test_a_model_with_images_needs_its_profile(board, sweep):
    with pytest.raises(InputError, match="no accuracy profile of topk"):
        plan(board, HALF, dataset="d", sweep=sweep)


def test_an_unknown_planner_is_refused(board, sweep):
    with pytest.raises(InputError, match="unknown planner"):
        plan(board, HALF, planner="guess", sweep=sweep)


def test_a_method_that_ran_out_of_memory_is_not_planned(board, sweep):
    starved = [
        UnitResult(r.unit, r.round, status="oom") if r.unit.part is Part.REDUCE and r.unit.label == "pomt" else r
        for r in sweep
    ]
    made = plan(board, HALF, "pomt", sweep=starved)
    assert made.schedule is None
    assert "could not time pomt" in made.verdict


def test_the_front_is_one_and_ends_in_dense(board, sweep):
    made = plan(board, Objective(max_accuracy_drop=5.0), profile=profile_results(), dataset="d", sweep=sweep)
    assert 3 <= len(made.front) <= 34
    latencies, losses = [p.latency_ns for p in made.front], [p.loss for p in made.front]
    assert latencies == sorted(latencies)
    assert losses == sorted(losses, reverse=True)
    assert made.front[-1].keep == [197] * 12
    assert losses[-1] == 0
    assert made.schedule.keep in [p.keep for p in made.front]


def test_no_point_of_a_front_asks_more_than_the_method_can(board, sweep):
    made = plan(board, Objective(latency_share=0.5), "tome", sweep=sweep)
    assert min(min(p.keep) for p in made.front) <= 64
    for point in made.front:
        schedule(point.keep, "tome")


def test_an_unstable_sweep_is_said_to_be_one(board, sweep):
    shaken = [UnitResult(r.unit, r.round, [ns * (2 if r.round else 1) for ns in r.call_ns]) for r in sweep]
    assert "from round 2 on everything took" in plan(board, HALF, sweep=shaken).verdict


def test_plans_and_their_inputs_travel_as_json(board):
    given = PlanInput(
        model("d"),
        "topk",
        "optimal",
        Objective(max_accuracy_drop=9.0),
        board.sweep(kind=BoardKind.PHYSICAL),
        profile_results(),
        1,
    )
    assert codec.loads(PlanInput, codec.dumps(given)) == given
    made = make_plan(given)
    assert codec.loads(Plan, codec.dumps(made)) == made
    refused = plan(board, Objective(latency_ns=1), sweep=given.sweep)
    assert codec.loads(Plan, codec.dumps(refused)) == refused
    assert make_plan(codec.loads(PlanInput, codec.dumps(given))) == made


@pytest.fixture
def stalling():
    """Passes stall in proportion to their blocks of more than 100 tokens; quiet times show nothing of it."""
    return MadeUpBoard(stall=stalls_beyond(100))


@pytest.fixture(scope="module")
def stalling_sweep():
    return MadeUpBoard(stall=stalls_beyond(100)).sweep(["topk", "pomt"], rounds=3, calls=20)


class TestOnAStatistic:
    def budget(self, stalling, on, share=0.85):
        return Objective(latency_ns=round(share * stalling.schedule_ns(schedule([197] * 12))), on=on)

    def test_a_plan_on_p99_avoids_the_cliff_of_the_tail_and_one_on_quiet_does_not(self, stalling, stalling_sweep):
        quiet, tail = (
            plan(stalling, self.budget(stalling, on), sweep=stalling_sweep) for on in (Statistic.QUIET, Statistic.P99)
        )
        budget_ns = self.budget(stalling, Statistic.QUIET).latency_ns
        assert stalling.schedule_ns(quiet.schedule) <= budget_ns
        assert stalling.true_ns(quiet.schedule, 0.99) > 1.2 * budget_ns
        assert stalling.true_ns(tail.schedule, 0.99) <= 1.02 * budget_ns
        assert sum(n > 100 for n in tail.schedule.entering) < sum(n > 100 for n in quiet.schedule.entering)
        assert (quiet.on, tail.on) == (Statistic.QUIET, Statistic.P99)

    def test_what_quiet_allows_a_tail_may_not(self, stalling, stalling_sweep):
        quiet, tail = (
            plan(stalling, self.budget(stalling, on, 1.03), sweep=stalling_sweep)
            for on in (Statistic.QUIET, Statistic.P99)
        )
        assert quiet.verdict.startswith("do not prune: dense already meets the budget of ")
        assert tail.schedule is not None
        assert tail.dense_ns == pytest.approx(stalling.true_ns(schedule([197] * 12), 0.99), rel=0.05)

    def test_the_edge_of_the_tail_is_a_candidate(self):
        """It is no top of a tread (64, 128, 192), nor on the grid between them."""
        board = MadeUpBoard(stall=stalls_beyond(107))
        made = plan(board, Objective(latency_share=0.6, on=Statistic.P99), sweep=board.sweep(["topk"], calls=20))
        assert any(100 <= n <= 107 for point in made.front for n in point.keep)

    def test_a_share_of_dense_is_one_of_its_p99(self, stalling, stalling_sweep):
        made = plan(stalling, Objective(latency_share=0.8, on=Statistic.P99), sweep=stalling_sweep)
        assert made.predicted_ns <= 0.8 * made.dense_ns
        assert stalling.true_ns(made.schedule, 0.99) <= 0.84 * stalling.true_ns(schedule([197] * 12), 0.99)
        assert "faster than dense on p99" in made.verdict

    @pytest.mark.parametrize("on", list(Statistic))
    def test_every_verdict_says_what_it_is_on(self, stalling, stalling_sweep, on):
        profile = profile_results()
        for objective in (
            Objective(latency_share=0.8, on=on),
            Objective(latency_ns=1_000_000, on=on),
            Objective(latency_ns=10**12, on=on),
            Objective(max_accuracy_drop=9.0, on=on),
            Objective(max_accuracy_drop=0.0, on=on),
            Objective(utility_alpha=0.5, on=on),
        ):
            made = plan(stalling, objective, profile=profile, dataset="d", sweep=stalling_sweep)
            assert f" on {on.value}" in made.verdict, made.verdict
            assert made.on is on

    def test_a_front_is_one_on_the_statistic_too(self, stalling, stalling_sweep):
        made = plan(stalling, Objective(latency_share=0.8, on=Statistic.P99), sweep=stalling_sweep)
        latencies, losses = [p.latency_ns for p in made.front], [p.loss for p in made.front]
        assert latencies == sorted(latencies)
        assert losses == sorted(losses, reverse=True)
        assert made.front[-1].keep == [197] * 12
        assert made.front[-1].latency_ns == pytest.approx(made.dense_ns)
        spread = Spread.fit(stalling_sweep, 197, Statistic.P99)
        latency = LatencyModel.fit(GEOMETRY, summarise(stalling_sweep), spread)
        assert not latency.additive
        assert latencies == pytest.approx([latency.predict(schedule(p.keep)).ns for p in made.front])

    def test_the_rule_takes_its_curve_from_the_statistic(self, stalling, stalling_sweep):
        quiet, tail = (
            plan(
                stalling,
                Objective(utility_alpha=0.3, on=on),
                "pomt",
                "pomt-rule",
                profile=input_results(knee=60.0),
                dataset="d",
                sweep=stalling_sweep,
            )
            for on in (Statistic.QUIET, Statistic.P99)
        )
        assert tail.schedule.keep[-1] <= 100 < quiet.schedule.keep[-1]

    def test_too_few_calls_are_a_reason_with_the_least_that_would_do(self, board):
        sweep = board.sweep(["topk"], "adaptive", kind=BoardKind.PHYSICAL)
        made = plan(board, Objective(latency_share=0.8, on=Statistic.P99), sweep=sweep)
        assert made.schedule is None
        assert made.verdict.startswith("do not prune: a p99 takes 368 calls of the whole model, and the sweep has 261")
        assert made.verdict.endswith("measure with --rounds 3 --calls 5")
        # What little it can say, it says on quiet.
        assert made.on is Statistic.QUIET
        assert plan(board, Objective(latency_share=0.8, on=Statistic.P50), sweep=sweep).schedule is not None

    def test_plans_stored_before_there_was_a_choice_are_on_quiet(self, board, sweep):
        text = codec.dumps(plan(board, HALF, sweep=sweep)).replace(',"on":"quiet"', "")
        assert '"on"' not in text
        assert codec.loads(Plan, text).on is Statistic.QUIET


class TestPomtRule:
    def rule(self, board, **settings):
        return plan(board, settings.pop("objective", HALF), planner="pomt-rule", dataset="d", **settings)

    def test_one_block_index_three_and_exactly_n_star_tokens(self, board, sweep):
        made = self.rule(board, profile=input_results(), sweep=sweep)
        keep = made.schedule.keep
        assert made.schedule.reducing_blocks == [3]
        assert keep[:3] == [197] * 3
        # On a staircase the best of a tread is its top.
        assert keep[3] in (64, 128, 192)

    def test_without_images_it_does_not_apply(self, board, sweep):
        made = self.rule(board, sweep=sweep)
        assert made.schedule is None
        assert made.verdict == "do not prune: POMT's rule needs labelled images, and there are none"

    def test_all_tokens_is_a_candidate(self, sweep, board):
        made = self.rule(board, profile=input_results(knee=400.0), sweep=sweep, objective=Objective(utility_alpha=0.05))
        assert made.schedule is None
        assert "utility of all tokens the highest" in made.verdict

    def test_it_says_no_where_it_would_be_slower(self):
        made = self.rule(MadeUpBoard(launch_ns=20e6, half_ns=straight), profile=input_results(knee=10.0))
        assert made.schedule is None
        assert "from block 3 on, but that is predicted at" in made.verdict

    def test_tome_stops_at_half(self, board, sweep):
        made = self.rule(board, profile=input_results(knee=5.0), method="tome", sweep=sweep)
        assert min(made.schedule.keep) >= schedule([99] * 12, "tome").keep[0]


BOTH = ["topk", "pomt"]


@pytest.fixture(scope="module")
def wide_sweep():
    return MadeUpBoard().sweep(["topk", "pomt", "tome", "evit", "zero-tprune", "cropr", "random"])


def compete(sweep, objective, hardness=(0.5, 0.5), dataset="d", competing=BOTH, **more):
    profile = [r for method, h in zip(BOTH, hardness) for r in profile_results(method=method, hardness=h)]
    given = PlanInput(
        model(dataset), "auto", "optimal", objective, sweep, profile if dataset else [], competing=competing
    )
    return make_plan(dataclasses.replace(given, **more))


class TestCompetition:
    @pytest.mark.parametrize(("hardness", "winner"), [((0.2, 1.0), "topk"), ((1.0, 0.2), "pomt")])
    def test_the_method_that_loses_less_within_the_budget_wins(self, wide_sweep, hardness, winner):
        made = compete(wide_sweep, HALF, hardness)
        other = next(method for method in BOTH if method != winner)
        assert made.schedule.method == winner
        assert f"; {winner} suits best ({other}: " in made.verdict
        assert "may lose " in made.verdict.partition("suits best")[2]
        own = compete(wide_sweep, HALF, hardness, competing=[winner])
        assert made.schedule == own.schedule
        assert own.verdict.endswith(f"{winner} suits best")

    def test_what_the_best_of_the_others_would_take_is_measured_too(self, wide_sweep):
        made = compete(wide_sweep, HALF, (0.2, 0.3), verify=2)
        assert made.schedule.method == "topk"
        assert [one.schedule.method for one in made.contenders] == ["topk", "pomt"]
        alone = compete(wide_sweep, HALF, (0.2, 0.3), competing=["pomt"])
        second = made.contenders[-1]
        assert second.schedule == alone.schedule
        assert (second.predicted_ns, second.expected_drop) == (alone.predicted_ns, alone.expected_drop)
        # Whoever wants one schedule measured, a front, or has no other method, has none besides.
        assert compete(wide_sweep, HALF, (0.2, 0.3)).contenders == []
        whole = compete(wide_sweep, Objective(front=True), (0.2, 0.3), verify=2)
        assert len(whole.contenders) == 1
        assert {one.schedule.method for one in compete(wide_sweep, HALF, competing=["pomt"], verify=3).contenders} <= {
            "pomt"
        }

    def test_it_is_never_worse_than_any_of_its_methods(self, wide_sweep, board):
        for objective in (Objective(max_accuracy_drop=5.0), Objective(utility_alpha=0.5)):
            made = compete(wide_sweep, objective, (0.5, 0.45))
            for method, hardness in zip(BOTH, (0.5, 0.45)):
                profile = profile_results(method=method, hardness=hardness)
                alone = plan(board, objective, method, profile=profile, dataset="d", sweep=wide_sweep)
                if objective.max_accuracy_drop is not None:
                    assert made.predicted_ns <= alone.predicted_ns

    def test_the_front_is_that_of_all_and_says_whose_each_point_is(self, wide_sweep):
        made = compete(wide_sweep, HALF, (0.5, 0.5))
        losses = [p.loss for p in made.front]
        assert losses == sorted(losses, reverse=True)
        assert {p.method for p in made.front} <= set(BOTH)

    def test_where_no_method_does_it_says_which_were_compared(self, wide_sweep):
        made = compete(wide_sweep, Objective(latency_ns=1_000_000))
        assert made.schedule is None
        assert "cannot be met by topk or pomt" in made.verdict
        assert made.verdict.endswith("(compared: topk and pomt)")

    def test_one_that_was_not_timed_is_left_out_and_named(self, board, wide_sweep):
        timed = [r for r in wide_sweep if not (r.unit.part is Part.REDUCE and r.unit.label == "pomt")]
        made = compete(timed, HALF)
        assert made.schedule.method == "topk"
        assert "pomt: not timed" in made.verdict
        nothing = [r for r in timed if r.unit.part is not Part.REDUCE]
        assert "could not time topk" in compete(nothing, HALF).verdict

    def test_without_images_the_work_left_out_is_compared(self, wide_sweep):
        made = compete(wide_sweep, HALF, dataset=None)
        assert made.schedule is not None
        assert "% of the work" in made.verdict
        assert "not known without labelled images" in made.verdict

    def test_every_method_needs_its_profile_and_some_must_be_named(self, wide_sweep):
        with pytest.raises(InputError, match="no accuracy profile of tome"):
            compete(wide_sweep, HALF, competing=["topk", "tome"])
        with pytest.raises(InputError, match="methods compete under the planner optimal"):
            compete(wide_sweep, HALF, competing=[])
        with pytest.raises(InputError, match="methods compete under the planner optimal"):
            compete(wide_sweep, HALF, planner="tome-constant")


class TestBaselines:
    KNOBS = tuple((name, method) for name, method in BASELINES.items() if name != "pomt-rule")

    def baseline(self, sweep, planner, objective, dataset="d", profile=None):
        method = BASELINES[planner]
        given = profile_results(method=method) + input_results() if profile is None else profile
        return make_plan(PlanInput(model(dataset), method, planner, objective, sweep, given if dataset else []))

    @pytest.mark.parametrize(("planner", "method"), KNOBS)
    def test_the_gentlest_setting_within_a_budget(self, board, wide_sweep, planner, method):
        made = self.baseline(wide_sweep, planner, Objective(latency_share=0.8))
        assert made.schedule.method == method
        assert made.predicted_ns <= 0.8 * made.dense_ns
        assert board.schedule_ns(made.schedule) <= 0.85 * board.schedule_ns(schedule([197] * 12))
        assert re.match(r"predicted only: (r|ρ|α|strength|R|kept) = [\d.]+: ", made.verdict)
        # A tighter budget takes a harder setting.
        tighter = self.baseline(wide_sweep, planner, Objective(latency_share=0.7))
        assert sum(tighter.schedule.keep) < sum(made.schedule.keep)

    @pytest.mark.parametrize("planner", ["tome-constant", "evit-keep-rate", "random-block"])
    def test_the_fastest_setting_within_an_accuracy_limit(self, wide_sweep, planner):
        made = self.baseline(wide_sweep, planner, Objective(max_accuracy_drop=10.0))
        more = self.baseline(wide_sweep, planner, Objective(max_accuracy_drop=40.0))
        assert 0 < made.expected_drop <= 10.0
        assert more.predicted_ns < made.predicted_ns

    def test_a_search_over_the_same_method_is_never_worse_by_its_own_figures(self, board, wide_sweep):
        """Random tokens at one block are among what a search for ``random`` can choose, but for counts off its grid."""
        profile = profile_results(method="random")
        for share in (0.9, 0.8, 0.7):
            objective = Objective(latency_share=share)
            best = plan(board, objective, "random", profile=profile, dataset="d", sweep=wide_sweep)
            swept = self.baseline(wide_sweep, "random-block", objective)
            assert best.expected_drop <= swept.expected_drop + 0.5

    def test_a_budget_that_no_setting_meets_is_refused(self, wide_sweep):
        made = self.baseline(wide_sweep, "tome-constant", Objective(latency_ns=1_000_000))
        assert made.schedule is None
        assert "cannot be met by tome with a constant r: the closest is predicted at" in made.verdict

    def test_a_setting_that_gains_nothing_is_refused(self):
        dear = MadeUpBoard(launch_ns=30e6)
        made = self.baseline(dear.sweep(["tome"]), "tome-constant", HALF)
        assert made.verdict.startswith("do not prune: no reduction by tome with a constant r is predicted faster")

    def test_a_knob_without_settings_is_refused(self, wide_sweep):
        made = self.baseline(wide_sweep, "pomt-alpha", HALF, dataset=None)
        assert made.verdict == "do not prune: POMT's rule needs labelled images, and there are none"

    def test_without_images_budgets_are_kept_all_the_same(self, wide_sweep):
        made = self.baseline(wide_sweep, "cropr-constant", HALF, dataset=None)
        assert made.schedule.restore_before == 11
        assert "not known without labelled images" in made.verdict

    def test_a_loss_beyond_the_profile_is_said_to_be_one(self, wide_sweep):
        made = self.baseline(wide_sweep, "tome-constant", Objective(latency_share=0.6))
        assert min(made.schedule.keep) < 99
        assert "(beyond profiled blocks or counts)" in made.verdict
        gentle = self.baseline(wide_sweep, "random-block", Objective(latency_share=0.8))
        assert "beyond profiled" not in gentle.verdict

    def test_a_profile_is_needed(self, wide_sweep):
        with pytest.raises(InputError, match="no accuracy profile of evit"):
            self.baseline(wide_sweep, "evit-keep-rate", HALF, profile=input_results())


class TestFurtherPoints:
    def made(self, board, sweep, objective, verify):
        given = PlanInput(model("d"), "topk", "optimal", objective, sweep, profile_results())
        return make_plan(dataclasses.replace(given, verify=verify))

    def test_a_front_takes_points_spread_over_it_all_faster_than_dense(self, board, sweep):
        made = self.made(board, sweep, Objective(front=True), 3)
        points = [made, *made.contenders]
        times = [point.predicted_ns for point in points]
        assert len(times) == 3
        assert times == sorted(times, reverse=True)
        assert all(point.predicted_high_ns < made.dense_ns for point in points)
        gaps = [a - b for a, b in pairwise(times)]
        assert max(gaps) < 2 * min(gaps)
        assert min(p.latency_ns for p in made.front) < times[-1]
        assert all("expected to lose" in one.verdict for one in made.contenders)

    def test_a_front_of_nothing_faster_is_refused(self):
        made = plan(MadeUpBoard(launch_ns=30e6), Objective(front=True))
        assert made.verdict.startswith("do not prune: no reduction by topk is predicted faster than dense at all")
        assert made.contenders == []

    def test_without_images_a_front_is_one_of_work(self, board, sweep):
        made = plan(board, Objective(front=True), sweep=sweep)
        assert made.schedule is not None
        assert len(made.front) > 3

    @pytest.mark.parametrize(
        "objective", [Objective(latency_share=0.8), Objective(max_accuracy_drop=9.0), Objective(utility_alpha=0.5)]
    )
    def test_further_points_fall_back_on_less(self, board, sweep, objective):
        alone, made = (self.made(board, sweep, objective, verify) for verify in (1, 4))
        assert alone.contenders == []
        # The front has more points around those that are to be measured besides.
        assert dataclasses.replace(made, contenders=[], front=[]) == dataclasses.replace(alone, front=[])
        assert 1 <= len(made.contenders) <= 3
        digests = [made.schedule.digest, *(one.schedule.digest for one in made.contenders)]
        assert len(set(digests)) == len(digests)
        for one in made.contenders:
            if objective.latency_share is None:
                assert one.expected_drop < made.expected_drop
            elif one.predicted_ns >= made.predicted_ns:
                # Once, the one that does what was asked if predictions are right.
                assert one == made.contenders[1]
                assert one.predicted_ns <= 0.8 * made.dense_ns < one.predicted_high_ns
                assert one.expected_drop < made.expected_drop
        assert made.contenders[0].predicted_ns < made.predicted_ns or objective.latency_share is None
        assert codec.loads(Plan, codec.dumps(made)) == made

    def test_beside_the_sure_point_of_a_budget_the_one_that_may_do_is_measured(self, board, sweep):
        made = self.made(board, sweep, Objective(latency_share=0.8), 3)
        (bolder,) = [one for one in made.contenders if one.predicted_ns > made.predicted_ns]
        assert bolder.predicted_ns <= 0.8 * made.dense_ns < bolder.predicted_high_ns
        assert bolder.expected_drop < made.expected_drop
        assert not any(
            one.predicted_ns > made.predicted_ns
            for one in self.made(board, sweep, Objective(latency_share=0.8, max_accuracy_drop=9.0), 3).contenders
        )

    def test_plans_stored_before_there_were_any_have_none(self, board, sweep):
        stored = codec.encode(plan(board, HALF, sweep=sweep))
        del stored["contenders"]
        for point in stored["front"]:
            del point["method"]
        old = codec.decode(Plan, stored)
        assert old.contenders == []
        assert {point.method for point in old.front} == {""}


class TestDeadline:
    """At one batch size; which size serves the most is for what boards measured to say."""

    def made(self, sweep, deadline_ns, dataset="d", drop=20.0):
        objective = Objective(deadline_ns=deadline_ns, max_accuracy_drop=drop)
        profile = profile_results() if dataset else []
        return make_plan(PlanInput(model(dataset), "topk", "optimal", objective, sweep, profile))

    def test_the_fastest_that_loses_no_more_is_that_of_the_most_throughput(self, board, sweep):
        limit = Objective(max_accuracy_drop=20.0)
        fastest = plan(board, limit, profile=profile_results(), dataset="d", sweep=sweep)
        made = self.made(sweep, round(1.01 * fastest.predicted_ns))
        assert made == fastest

    def test_a_deadline_that_the_fastest_misses_is_refused(self, sweep):
        made = self.made(sweep, 5_000_000)
        assert made.schedule is None
        assert "the deadline of 5.000 ms on quiet is missed by the fastest of topk that loses no more" in made.verdict

    @pytest.mark.parametrize(
        ("dataset", "drop", "lacking"), [(None, 20.0, "labelled images"), ("d", None, "an accuracy limit")]
    )
    def test_without_a_limit_that_can_be_checked_nothing_is_dropped(self, sweep, dataset, drop, lacking):
        made = self.made(sweep, 10**9, dataset, drop)
        assert made.verdict.startswith(
            f"do not prune: without {lacking} the most throughput would be that of no tokens"
        )

    def test_nothing_faster_than_dense_is_no_throughput(self):
        made = self.made(MadeUpBoard(launch_ns=30e6).sweep(["topk"]), 10**9)
        assert "is predicted faster than dense" in made.verdict
