import pytest
from plan_board import GEOMETRY, model, profile_results

from tailfleet_coordinator.plan.accuracy import AccuracyProfile
from tailfleet_coordinator.plan.wholes import MOST_REDUCING, WHOLES, whole_schedules, whole_units
from tailfleet_schema.campaign import METHODS
from tailfleet_schema.curve import WHOLE, Part
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.workload import Geometry, ModelSpec


def small(depth, tokens):
    size = 4 * (tokens - 1)
    geometry = Geometry(
        depth=depth, dim=12, heads=2, mlp_dim=24, tokens=tokens, prefix=1, image_size=size, patch_size=4, channels=1,
        classes=3,
    )  # fmt: skip
    return ModelSpec("small", "VisionTransformer", geometry)


@pytest.mark.parametrize("method", METHODS)
def test_whole_schedules_reduce_at_several_blocks_where_the_profile_knows_what_each_loses(method):
    drawn = whole_schedules(model(), method)
    profile = AccuracyProfile.fit(GEOMETRY, method, profile_results(method=method))
    assert len({one.digest for one in drawn}) == len(drawn) >= WHOLES - 1
    assert {one.method for one in drawn} == {method}
    more = [one for drawing in "abcdefghij" for one in whole_schedules(model(), method, drawing)]
    assert all(profile.reaches(one) for one in drawn + more)
    assert {len(one.reducing_blocks) for one in drawn} == set(range(2, MOST_REDUCING + 1))
    # All blocks that a search may reduce at, and from gentle to nearly all that it may drop.
    assert {block for one in drawn for block in one.reducing_blocks} == set(range(11))
    kept = sorted(one.keep[-1] for one in drawn)
    assert kept[-1] > 140
    assert kept[0] < 60 if method != "tome" else kept[0] < 80


def test_they_follow_from_model_method_and_drawing_alone():
    drawn = whole_schedules(model(), "topk")
    assert whole_schedules(model(), "topk") == drawn
    others = whole_schedules(model(), "topk", "held out"), whole_schedules(model("pictures"), "topk")
    for other in others:
        assert not {one.digest for one in other} & {one.digest for one in drawn}
    assert len(whole_schedules(model(), "topk", count=5)) == 5
    with pytest.raises(ScheduleError, match="magic"):
        whole_schedules(model(), "magic")


@pytest.mark.parametrize(("depth", "tokens"), [(1, 17), (2, 2), (4, 2), (4, 3)])
def test_of_what_has_too_few_blocks_or_tokens_there_are_few_or_none(depth, tokens):
    drawn = whole_schedules(small(depth, tokens), "topk")
    assert all(len(one.reducing_blocks) > 1 for one in drawn)
    if depth == 1 or tokens == 2:
        assert not drawn


def test_their_units_are_losses_that_name_them():
    drawn = whole_schedules(model(), "pomt")
    units = whole_units(drawn)
    assert [unit.label for unit in units] == [one.digest for one in drawn]
    assert {(unit.part, unit.block) for unit in units} == {(Part.LOSS, WHOLE)}
    assert [unit.kept for unit in units] == [one.keep[-1] for one in drawn]
