"""Plans on what was stored with a curve are the plans on its samples."""

import pytest
from plan_board import GEOMETRY, MadeUpBoard, model, profile_results, stalls_beyond

from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_coordinator.plan.planner import PlanInput, make_plan, make_plans
from tailfleet_coordinator.plan.reading import Reading
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import Objective, Statistic
from tailfleet_schema.curve import Part, UnitResult
from tailfleet_schema.errors import InputError

OBJECTIVES = [Objective(latency_share=0.7), Objective(max_accuracy_drop=3.0), Objective(utility_alpha=0.5)]


def swept(**settings):
    timed = anchors("made-up", GEOMETRY, ["topk", "tome"])
    return MadeUpBoard(context=0.03, **settings).sweep(["topk", "tome"], timed=timed)


def given(objective, sweep, reading=None, method="topk", profile=None):
    judged = profile_results(method=method) if profile is None else profile
    return PlanInput(model("d"), method, "optimal", objective, sweep, judged, 1, reading)


def unknown(sweep):
    """With a unit that the board has too little memory for."""
    broken = next(r.unit for r in sweep if r.unit.part is Part.MODEL and r.unit.tokens == 150)
    return [UnitResult(r.unit, r.round, status="oom") if r.unit == broken else r for r in sweep]


@pytest.mark.parametrize("method", ["topk", "tome"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_plans_on_a_stored_reading_are_those_on_samples(objective, method):
    sweep = unknown(swept())
    text = Reading.of(GEOMETRY, sweep).dumps()
    assert make_plan(given(objective, [], text, method)) == make_plan(given(objective, sweep, method=method))


def test_a_sparse_sweep_is_filled_in_once_and_for_all():
    sweep = MadeUpBoard().sweep(["topk"], counts="20,64,128,130,160,192", kind=BoardKind.PHYSICAL)
    reading = Reading.of(GEOMETRY, sweep)
    assert [point.tokens for point in reading.whole] == list(range(2, 198))
    assert {20, 64, 128, 197} <= {point.tokens for point in reading.whole if point.measured}
    assert Reading.loads(reading.dumps()).whole == reading.whole
    plans = [make_plan(given(OBJECTIVES[0], *told)) for told in ((sweep, None), ([], reading.dumps()))]
    assert plans[0] == plans[1]


def test_a_tail_is_still_that_of_the_samples():
    objective = Objective(latency_share=0.8, on=Statistic.P99)
    sweep = MadeUpBoard(stall=stalls_beyond(128)).sweep(["topk"], calls=6)
    text = Reading.of(GEOMETRY, sweep).dumps()
    assert make_plan(given(objective, sweep, text)) == make_plan(given(objective, sweep))


def test_a_sweep_that_is_not_stable_stays_so_where_it_is_stored():
    text = Reading.of(GEOMETRY, swept()[:1]).dumps()
    assert Reading.loads(text).unstable


def test_what_a_sweep_lacks_is_said_of_its_reading_too():
    sweep = [result for result in swept() if result.unit.part is not Part.MLP]
    text = Reading.of(GEOMETRY, sweep).dumps()
    with pytest.raises(InputError, match="mlp"):
        make_plan(given(OBJECTIVES[0], [], text))
    assert Reading.of(GEOMETRY, []).whole == ()


def test_many_plans_are_what_each_is_and_share_what_they_can(monkeypatch):
    from tailfleet_coordinator.plan import planner

    fitted = []
    fit = planner.AccuracyProfile.fit
    monkeypatch.setattr(planner.AccuracyProfile, "fit", lambda *told: fitted.append(told[1]) or fit(*told))
    profile = profile_results(method="topk") + profile_results(method="tome")
    texts = [Reading.of(GEOMETRY, swept(launch_ns=ns)).dumps() for ns in (20e3, 60e3)]
    inputs = [given(OBJECTIVES[1], [], text, method, profile) for method in ("topk", "tome") for text in texts]
    plans = make_plans(inputs)
    assert fitted == ["topk", "tome"]
    assert plans == [make_plan(one) for one in inputs]
    assert len({plan.predicted_ns for plan in plans}) == 4
