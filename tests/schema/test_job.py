import dataclasses

import pytest

from tailfleet_schema import codec, schedule
from tailfleet_schema.campaign import (
    BASELINES,
    DEFAULT_METHODS,
    CampaignRequest,
    Measure,
    Objective,
    ReportRow,
    Statistic,
    SweepSettings,
)
from tailfleet_schema.curve import WHOLE, Judgement, Part, Unit, UnitResult
from tailfleet_schema.errors import DecodeError, InputError
from tailfleet_schema.job import ENDED, MOVES, Job, JobKind, JobState
from tailfleet_schema.workload import DatasetSpec, Geometry, ModelSpec, Workload

GEOMETRY = Geometry(2, 8, 2, 16, 5, 1, 8, 4, 1, 3)
WORKLOAD = Workload(ModelSpec("tiny", "VisionTransformer", GEOMETRY), backend="virtual")
DATASET = DatasetSpec("d", "0" * 64, 3, 4, 4, "made up")


def job(**changes):
    values = {
        "id": "j",
        "kind": JobKind.SWEEP,
        "workload": WORKLOAD,
        "units": [Unit(Part.MODEL, 5, 5), Unit(Part.REDUCE, 5, 3, "topk")],
        "rounds": 2,
        "calls": 1,
        "seed": 0,
    }
    return Job(**{**values, **changes})


def test_the_table_of_moves_names_every_state_and_ends_somewhere():
    assert set(MOVES) == set(JobState)
    assert {JobState.DONE, JobState.FAILED, JobState.CANCELLED} == ENDED
    assert JobState.QUEUED in MOVES[JobState.LEASED]
    assert JobState.DONE not in MOVES[JobState.QUEUED]


def test_keys_are_units_times_rounds_and_judged_units_once():
    keys = job().keys()
    assert len(keys) == len(set(keys)) == 4
    dense = schedule.dense("tiny", GEOMETRY)
    verify = job(
        units=[Unit(Part.SCHEDULE, 5, 5, dense.digest), Unit(Part.ACCURACY, 5, 5, dense.digest)],
        schedules=[dense],
        dataset=DATASET,
    )
    assert [(key.part, key.round) for key in verify.keys()] == [("schedule", 0), ("accuracy", 0), ("schedule", 1)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"units": []}, "at least one unit"),
        ({"units": [Unit(Part.MODEL, 5, 5)] * 2}, r"^units\[1\]: stands in the list already"),
        ({"rounds": 0}, "^rounds: must be at least 1, not 0"),
        ({"id": "../x"}, "^id: "),
        ({"units": [Unit(Part.SCHEDULE, 5, 5, "f" * 64)]}, r"^units\[0\].label: .* does not carry"),
        ({"units": [Unit(Part.LOSS, 5, 3, "topk", WHOLE)]}, r"^units\[0\].label: .* does not carry: 'topk'"),
        ({"units": [Unit(Part.LOSS, 5, 3, "topk", 1)]}, "no dataset"),
        (
            {"schedules": [schedule.Schedule("topk", "other", 5, 1, [5, 3])]},
            r"^schedules\[0\].model: was made for model 'other'",
        ),
    ],
)
def test_a_job_that_cannot_be_run_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        job(**changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Unit(Part.MODEL, 3, 4), "^kept: 4, but only 3 tokens arrive"),
        (lambda: Unit(Part.MODEL, 2**31, 4), "^tokens: must be at most"),
        (lambda: Unit(Part.LOSS, 3, 3, "x" * 65, 0), "^label: "),
        (lambda: UnitResult(Unit(Part.MODEL, 3, 3), -1, [5]), "round"),
        (lambda: UnitResult(Unit(Part.MODEL, 3, 3), 0, [5, -1]), r"^call_ns\[1\]: -1 ns"),
        (lambda: UnitResult(Unit(Part.MODEL, 3, 3), 0, [5, 10**15]), r"^call_ns\[1\]: "),
        (lambda: UnitResult(Unit(Part.MODEL, 3, 3), 0), "at least one call"),
        (lambda: UnitResult(Unit(Part.LOSS, 3, 3, "topk", 0), 0), "judgement"),
        (lambda: UnitResult(Unit(Part.MODEL, 3, 3), 0, [5], status="late"), "ok or oom"),
        (lambda: Judgement(4, 5, 0, 0.0, "board"), "^correct: must be at most 4, not 5"),
        (lambda: Judgement(4, 4, 0, 0.0, "moon"), "^computed_on: "),
        (lambda: Judgement(4, 4, 0, 0.0, "board", "111"), "^correct_bits: "),
    ],
)
def test_a_result_that_cannot_be_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_an_oom_result_needs_no_calls():
    assert UnitResult(Unit(Part.MODEL, 3, 3), 0, status="oom").call_ns == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Objective, "needs an accuracy drop"),
        (lambda: Objective(latency_share=0.5, latency_ns=3), "one latency budget"),
        (lambda: Objective(latency_share=1.5), "share of dense"),
        (lambda: Objective(max_accuracy_drop=1.0, utility_alpha=0.5), "stands alone"),
        (lambda: Objective(utility_alpha=2.0), "alpha"),
        (lambda: Objective(front=True, latency_share=0.5), "^front: stands alone"),
        (lambda: CampaignRequest(["m"], ["b"], verify=0), "^verify: "),
        (lambda: CampaignRequest(["m"], ["b"], verify=17), "^verify: "),
        (lambda: Objective(latency_share=0.5, on="p99"), "on: must be one of Statistic.QUIET"),
        (lambda: SweepSettings("1,x"), "^counts: "),
        (lambda: SweepSettings("²"), "^counts: "),
        (lambda: SweepSettings("9" * 10**6), "^counts: "),
        (lambda: SweepSettings(rounds=0), "rounds"),
        (lambda: CampaignRequest(["m"], []), "^boards: is empty"),
        (lambda: CampaignRequest(["m", "m"], ["b"]), r"^models\[1\]: 'm' is named twice"),
        (
            lambda: CampaignRequest(["m"], ["b"], methods=["magic"]),
            r"^methods\[0\]: unknown: 'magic'; known: random, topk",
        ),
        (lambda: CampaignRequest(["m"], ["b"], planners=["best"]), r"^planners\[0\]: unknown"),
        (lambda: CampaignRequest(["m"] * 1001, ["b"]), "^models: has 1001 names"),
        (lambda: CampaignRequest(["m"], ["b"], batch=2**40), "^batch: must be at most"),
        (lambda: CampaignRequest(["m"], ["b"], dtype="fp64"), "^dtype: unknown: 'fp64'"),
        (lambda: CampaignRequest(["m"], ["b"], ["topk"], ["pomt-rule"]), "pomt, which is not among the methods"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_what_was_stored_before_statistics_were_named_is_on_quiet():
    request = codec.loads(CampaignRequest, '{"models":["m"],"boards":["b"],"objective":{"latency_share":0.8}}')
    assert request.objective == Objective(latency_share=0.8, on=Statistic.QUIET)
    nothing = {field.name: None for field in dataclasses.fields(ReportRow)}
    words = dict.fromkeys(("board", "board_kind", "model", "planner", "method", "verdict"), "x")
    row = {**nothing, **words, "recommended": False}
    del row["on"], row["measure"]
    assert codec.decode(ReportRow, row).on is Statistic.QUIET
    assert codec.decode(ReportRow, row).measure is Measure.TOP1


def test_a_statistic_travels_by_its_name():
    objective = Objective(max_accuracy_drop=1.0, on=Statistic.P99)
    assert '"on":"p99"' in codec.dumps(objective)
    assert codec.loads(Objective, codec.dumps(objective)) == objective
    with pytest.raises(DecodeError, match=r'request\.objective\.on: must be one of quiet, p50, p99; not "p75"'):
        codec.loads(
            CampaignRequest,
            '{"models":["m"],"boards":["b"],"objective":{"latency_share":0.8,"on":"p75"}}',
            "request",
        )


def test_the_published_rule_is_planned_for_its_own_method_alone():
    request = CampaignRequest(["m"], ["b"], ["topk", "pomt"], ["optimal", "pomt-rule"])
    assert request.plans() == [("optimal", "topk"), ("optimal", "pomt"), ("pomt-rule", "pomt")]


def test_each_baseline_is_planned_for_the_method_it_was_published_with():
    methods = ["topk", "tome", "pomt", "evit", "zero-tprune", "cropr", "random"]
    request = CampaignRequest(["m"], ["b"], methods, list(BASELINES))
    assert request.plans() == list(BASELINES.items())
    for planner, method in BASELINES.items():
        others = [other for other in methods if other != method]
        with pytest.raises(InputError, match="^planners: {} plans for the method {}, which is".format(planner, method)):
            CampaignRequest(["m"], ["b"], others, [planner])


def test_methods_compete_where_auto_is_among_them():
    alone = CampaignRequest(["m"], ["b"], ["auto"], ["optimal", "tome-constant"])
    assert alone.reducing_methods == list(DEFAULT_METHODS)
    assert alone.plans() == [("optimal", "auto"), ("tome-constant", "tome")]
    some = CampaignRequest(["m"], ["b"], ["evit", "auto", "topk"])
    assert some.plans() == [("optimal", "auto")]
    assert (some.competing("auto"), some.competing("evit")) == (["evit", "topk"], ["evit"])
    with pytest.raises(InputError, match="cropr-constant plans for the method cropr, which is not among"):
        CampaignRequest(["m"], ["b"], ["auto"], ["cropr-constant"])


def test_requests_stored_before_there_was_a_front_verify_as_new_ones():
    request = codec.loads(CampaignRequest, '{"models":["m"],"boards":["b"],"objective":{"latency_share":0.8}}')
    assert (request.verify, request.objective.front) == (3, False)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        job().rounds = 3
