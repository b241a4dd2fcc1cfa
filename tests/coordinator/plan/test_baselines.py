"""Published knobs: every setting as its paper means it, and what a model cannot do is said."""

import pytest
from plan_board import GEOMETRY, input_results, model

from tailfleet_coordinator.plan.baselines import knob
from tailfleet_coordinator.plan.halves import Whole
from tailfleet_coordinator.plan.inference import CurvePoint
from tailfleet_coordinator.plan.rules import input_accuracy, pomt_rule
from tailfleet_schema import published
from tailfleet_schema.campaign import BASELINES
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import smallest_reachable
from tailfleet_schema.workload import Geometry, ModelSpec

STAIRS = Whole([CurvePoint(n, 1e6 * (1 + (n - 1) // 64), 1e6, 1e6, True) for n in range(2, 198)])
KNOBS = [planner for planner in BASELINES if not planner.startswith("pomt")]


def of(planner, tokens=197, depth=12):
    return knob(planner, ModelSpec("m", "VisionTransformer", Geometry(depth, 96, 3, 384, tokens, 1, 224, 16, 3, 10)))


def settings(planner, **shape):
    return {setting.knob: setting.schedule for setting in of(planner, **shape).settings}


@pytest.mark.parametrize(
    ("planner", "written", "schedule"),
    [
        ("tome-constant", "r = 13", published.tome("m", GEOMETRY, 13)),
        ("tome-decreasing", "r = 16", published.tome("m", GEOMETRY, 16, -1.0)),
        ("evit-keep-rate", "ρ = 0.7", published.evit("m", GEOMETRY, 0.7)),
        ("zero-tprune-reported", "strength = 1", published.zero_tprune("m", GEOMETRY)),
        ("cropr-constant", "R = 8", published.cropr("m", GEOMETRY, 8)),
        ("random-block", "kept = 99", published.one_block("random", "m", GEOMETRY, 99)),
    ],
)
def test_the_published_setting_is_one_of_the_knob_s(planner, written, schedule):
    assert settings(planner)[written] == schedule


@pytest.mark.parametrize("planner", KNOBS)
def test_a_knob_is_swept_from_gentle_to_all_that_it_can(planner):
    found = of(planner)
    assert found.refusal is None
    kept = [sum(setting.schedule.keep) for setting in found.settings]
    assert kept == sorted(kept, reverse=True)
    assert len({setting.schedule.digest for setting in found.settings}) == len(kept)
    assert {setting.schedule.method for setting in found.settings} == {BASELINES[planner]}
    last = found.settings[-1].schedule
    first = last.reducing_blocks[0]
    if planner == "tome-constant":
        assert last.keep[0] == smallest_reachable("tome", 197, 1)
    # Down to where at most a sixth of the computation's tokens are left, or the method cannot go.
    assert min(last.keep) <= 0.17 * 197
    assert not found.settings[0].schedule.is_dense
    assert first <= 3


def test_places_are_the_same_share_of_another_depth():
    assert settings("evit-keep-rate", depth=16)["ρ = 0.7"].reducing_blocks == [4, 8, 12]
    deep = settings("zero-tprune-reported", depth=24)["strength = 1"]
    assert deep.reducing_blocks == [1, 5, 11, 17, 21]


def test_the_similar_tokens_follow_the_size_of_the_image():
    small = settings("zero-tprune-reported", tokens=65)
    geometry = Geometry(12, 96, 3, 384, 65, 1, 224, 16, 3, 10)
    assert published.zero_tprune("m", geometry, similar=3) in small.values()
    assert {schedule.keep[0] for schedule in small.values()} == {62}


@pytest.mark.parametrize(
    ("planner", "shape", "words"),
    [
        ("evit-keep-rate", {"depth": 1}, "1 blocks are too few for reductions at 3"),
        ("zero-tprune-reported", {"depth": 4}, "zero-tprune has no setting of its reported shares"),
        ("cropr-constant", {"depth": 48, "tokens": 17}, "cropr has no setting of a constant R"),
        ("tome-constant", {"tokens": 2}, "tome has no setting of a constant r that prunes this model"),
        ("pomt-alpha", {}, "POMT's rule needs labelled images"),
    ],
)
def test_what_a_model_is_too_small_for_is_refused_with_a_reason(planner, shape, words):
    found = of(planner, **shape)
    assert found.settings == []
    assert words in found.refusal


def test_an_unknown_knob_is_refused():
    with pytest.raises(InputError, match="unknown planner 'optimal'; known: pomt-rule, pomt-alpha"):
        of("optimal")


def test_pomts_knob_is_its_alpha():
    accuracy = input_accuracy(input_results())
    found = knob("pomt-alpha", model("d"), STAIRS, accuracy)
    chosen = {setting.schedule.digest for setting in found.settings}
    for alpha in (0.2, 0.5, 0.8):
        assert pomt_rule(model("d"), "pomt", STAIRS, accuracy, alpha).digest in chosen
    kept = [setting.schedule.keep[-1] for setting in found.settings]
    assert kept == sorted(kept, reverse=True)
    assert len(kept) >= 3
