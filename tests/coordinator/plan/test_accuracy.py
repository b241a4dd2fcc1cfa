import dataclasses

import numpy as np
import pytest
from plan_board import GEOMETRY, profile_results, schedule

from tailfleet_coordinator.plan.accuracy import AccuracyProfile, TokenWork, estimates, loss_of
from tailfleet_schema.curve import Judgement, UnitResult
from tailfleet_schema.errors import InputError


def fitted(**settings):
    return AccuracyProfile.fit(GEOMETRY, "topk", profile_results(**settings))


def step(profile, block, n, m):
    return profile.step_units(block, n, m) * profile.unit


def test_nothing_dropped_costs_nothing_and_fewer_tokens_never_cost_less():
    profile = fitted()
    for block in range(11):
        assert profile.step_units(block, 120, 120) == 0
        costs = [step(profile, block, 197, m) for m in range(196, 38, -1)]
        assert costs == sorted(costs)


def test_losses_telescope():
    profile = fitted()
    whole = step(profile, 5, 197, 70)
    parts = step(profile, 5, 197, 128) + step(profile, 5, 128, 70)
    assert whole == pytest.approx(parts, abs=0.003)


def test_a_clear_loss_is_near_what_was_seen_and_cautious_above_it():
    results = profile_results()
    profile = fitted()
    seen = {(r.unit.block, r.unit.kept): r.judgement.correct for r in results}
    dense = seen[0, 197]
    drop = (dense - seen[1, 20]) / 2.0
    assert drop > 5
    expected = profile.expected_drop(schedule([197] + [20] * 11))
    assert expected == pytest.approx(drop, rel=0.25)
    assert step(profile, 1, 197, 20) > expected + 0.5


def test_where_no_image_was_lost_kl_tells_gentle_from_reckless():
    """Ties among zero losses must not be broken in favour of the boldest."""
    bits = "1" * 200
    gentle = [
        UnitResult(r.unit, 0, judgement=Judgement(200, 200, 200, r.judgement.kl_nats / 50, "host", bits))
        for r in profile_results()
    ]
    profile = AccuracyProfile.fit(GEOMETRY, "topk", gentle)
    costs = [step(profile, block, 197, m) for block, m in ((10, 177), (10, 20), (1, 20))]
    assert costs[0] < costs[1] < costs[2]
    assert costs[2] < 1.0


def test_a_profile_without_any_loss_expects_hardly_any():
    bits = "1" * 200
    harmless = [
        UnitResult(r.unit, 0, judgement=Judgement(200, 200, 200, r.judgement.kl_nats / 500, "host", bits))
        for r in profile_results()
    ]
    profile = AccuracyProfile.fit(GEOMETRY, "topk", harmless)
    assert 0 < profile.expected_drop(schedule([197] + [20] * 11)) < 0.1
    assert step(profile, 1, 197, 20) < 0.4


def test_one_lucky_image_does_not_make_a_reduction_free():
    lucky = []
    for r in profile_results():
        judgement = r.judgement
        if (r.unit.block, r.unit.kept) == (1, 20):
            judgement = Judgement(200, 196, 200, judgement.kl_nats, "host", "1" * 196 + "0" * 4)
        lucky.append(UnitResult(r.unit, 0, judgement=judgement))
    profile = AccuracyProfile.fit(GEOMETRY, "topk", lucky)
    assert step(profile, 1, 197, 20) >= step(profile, 1, 197, 69) > 1.0


def test_between_profiled_places_it_interpolates_and_beyond_it_refuses():
    profile = fitted()
    between = step(profile, 2, 197, 128)
    assert min(step(profile, b, 197, 128) for b in (1, 3)) <= between <= max(step(profile, b, 197, 128) for b in (1, 3))
    assert profile.is_interpolated(schedule([197] * 2 + [128] * 10))
    assert not profile.is_interpolated(schedule([197] + [128] * 11))
    assert profile.allows(0, 20)
    assert profile.allows(2, 20)
    assert not profile.allows(1, 19)
    assert not profile.allows(2, 19)
    assert not profile.allows(11, 128)


def test_images_that_change_either_way_make_a_figure_less_sure():
    """As many are right as before, but not the same ones."""
    dense = Judgement(8, 4, 8, 0.0, "board", "11110000")
    same, moved = (Judgement(8, 4, 8, 0.01, "board", bits) for bits in ("11110000", "00001111"))
    _, deviation = estimates(dense, [same, moved], classes=10)
    # All eight changed: that is nine times the variance of none.
    assert np.subtract(*deviation**-2.0) == pytest.approx((1 - 1 / 9) / 12.5**2)


def test_without_single_answers_it_works_from_counts():
    bare = [
        UnitResult(r.unit, 0, judgement=dataclasses.replace(r.judgement, correct_bits="")) for r in profile_results()
    ]
    a, b = AccuracyProfile.fit(GEOMETRY, "topk", bare), fitted()
    assert np.allclose(a.expected, b.expected, atol=1.0)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (lambda r: r.unit.kept < 197, "lacks the dense model"),
        (lambda r: r.unit.kept == 197, "lacks the dense model or any reduction"),
        (lambda r: (r.unit.block, r.unit.kept) != (3, 20), "lacks block 3 with 20 tokens"),
    ],
)
def test_an_incomplete_profile_is_refused(wanted, words):
    with pytest.raises(InputError, match=words):
        AccuracyProfile.fit(GEOMETRY, "topk", [r for r in profile_results() if wanted(r)])


def test_a_profile_of_another_method_does_not_count():
    with pytest.raises(InputError, match="'pomt'"):
        AccuracyProfile.fit(GEOMETRY, "pomt", profile_results())


def test_token_work_is_the_share_that_is_left_out():
    work = TokenWork(GEOMETRY)
    keep = [197] * 3 + [150] * 5 + [100] * 4
    loss = sum(work.step_units(b, n, m) for b, (n, m) in enumerate(zip([197, *keep], keep))) * work.unit
    assert loss == pytest.approx(100 * (1 - sum(keep) / (12 * 197)))
    assert not work.allows(11, 100)


TOME = AccuracyProfile.fit(GEOMETRY, "tome", profile_results(method="tome"))


class TestAMethodThatHalves:
    """ToMe leaves 99 tokens behind block 0 at best, 50 behind block 1: the table is ragged there."""

    def test_it_is_profiled_down_to_what_each_block_can_have(self):
        seen = [[m for m, known in zip(TOME.counts, row) if known] for row in TOME.seen]
        assert dict(zip(TOME.blocks, seen)) == {
            0: [99, 128, 167, 197],
            1: [50, 99, 128, 167, 197],
            **{block: [20, 49, 99, 128, 167, 197] for block in (3, 5, 6, 8, 10)},
        }

    def test_what_a_block_cannot_have_is_no_candidate(self):
        least = [min((m for m in range(2, 198) if TOME.allows(block, m)), default=None) for block in range(12)]
        assert least == [99, 50, 50, *[20] * 8, None]

    def test_having_few_tokens_costs_what_was_seen_however_many_blocks_it_took(self):
        results = {(r.unit.block, r.unit.kept): r.judgement for r in profile_results(method="tome")}
        expected = TOME.expected_drop(schedule([197] * 4 + [99] + [50] * 7, "tome"))
        assert expected == pytest.approx((results[0, 197].correct - results[5, 49].correct) / 2, rel=0.25)
        two, one = [TOME.step_units(5, 197, 99) + TOME.step_units(5, 99, 50), TOME.step_units(5, 197, 50)]
        assert two == pytest.approx(one, abs=2)

    def test_only_what_was_profiled_itself_is_not_interpolated(self):
        assert not TOME.is_interpolated(schedule([99] + [50] * 11, "tome"))
        assert TOME.is_interpolated(schedule([197] * 2 + [99] * 10, "tome"))
        assert TOME.is_interpolated(schedule([99] * 3 + [50] * 9, "tome"))

    def test_a_count_that_a_block_cannot_have_is_continued_for_published_schedules(self):
        keep = [150, 110, 80, 60, 40, *[21] * 3, *[12] * 4]
        assert not TOME.reaches(schedule(keep, "tome"))
        assert loss_of(TOME, schedule(keep, "tome")) > loss_of(TOME, schedule([150, 110, *[80] * 10], "tome"))
        falling = [TOME.step_units(0, 197, m) for m in range(2, 198)]
        assert falling == sorted(falling, reverse=True)

    @pytest.mark.parametrize("place", [(0, 99), (1, 50), (3, 20)])
    def test_what_it_can_reach_must_be_there(self, place):
        results = profile_results(method="tome")
        with pytest.raises(InputError, match=f"lacks block {place[0]} with {place[1]} tokens"):
            AccuracyProfile.fit(GEOMETRY, "tome", [r for r in results if (r.unit.block, r.unit.kept) != place])


@pytest.mark.parametrize("losses", [fitted(), TOME, TokenWork(GEOMETRY)], ids=["whole", "ragged", "work"])
def test_all_steps_at_once_are_what_each_is(losses):
    counts = [197, 180, 128, 90, 41, 40, 10]
    units = losses.steps_units(GEOMETRY.depth, counts)
    for block in range(GEOMETRY.depth):
        for i, n in enumerate(counts):
            for j, m in enumerate(counts):
                allowed = m == n or (m < n and losses.allows(block, m))
                assert units[block, i, j] == (losses.step_units(block, n, m) if allowed else np.inf)


@pytest.mark.parametrize("losses", [fitted(), TokenWork(GEOMETRY)])
def test_no_step_adds_less_than_what_its_ends_lose_alone(losses):
    """The bounds of a second search rest on it."""
    counts = [197, 180, 128, 90, 41, 40]
    alone, allowed = losses.alone_units(12, counts), losses.allowed(12, counts)
    steps = losses.steps_units(12, counts)
    for block in range(12):
        for j, m in enumerate(counts):
            assert allowed[block, j] == losses.allows(block, m)
            for i in range(j + 1):
                assert steps[block, i, j] >= alone[block, j] - alone[block, i] - 1e-6
                if allowed[block, j] and not i:
                    assert steps[block, 0, j] <= max(0.0, alone[block, j]) + 1


class TestPublishedSchedules:
    """They may reduce where nothing was profiled: what they lose is continued, and said to be."""

    def test_below_the_smallest_count_the_loss_goes_on_rising(self):
        profile = AccuracyProfile.fit(GEOMETRY, "topk", profile_results())
        least, block = profile.counts[0], profile.blocks[2]
        losses = [profile.step_units(block, 197, m) for m in (least + 5, least, least - 1, least - 10, 2)]
        assert losses == sorted(losses)
        assert losses[2] - losses[1] < losses[1] / 10
        assert losses[-1] > losses[1]
        assert losses[-1] * profile.unit <= profile.dense_top1

    def test_outside_profiled_blocks_it_is_that_of_the_nearest(self):
        profile = AccuracyProfile.fit(GEOMETRY, "topk", profile_results())
        assert profile.step_units(11, 197, 100) == profile.step_units(10, 197, 100)

    def test_what_is_beyond_the_profile_is_no_candidate_and_known_to_be_beyond(self):
        profile = AccuracyProfile.fit(GEOMETRY, "topk", profile_results())
        inside = schedule([197] * 3 + [100] * 9)
        assert profile.reaches(inside)
        for beyond in (schedule([197] * 11 + [100]), schedule([197] * 3 + [19] * 9)):
            assert not profile.reaches(beyond)
        assert TokenWork(GEOMETRY).reaches(schedule([19] * 12))

    @pytest.mark.parametrize("kind", ["profile", "work"])
    def test_a_whole_schedule_loses_the_sum_of_its_steps(self, kind):
        model = AccuracyProfile.fit(GEOMETRY, "topk", profile_results()) if kind == "profile" else TokenWork(GEOMETRY)
        whole = loss_of(model, schedule([197] * 3 + [120] * 3 + [80] * 6))
        assert whole == pytest.approx(model.unit * (model.step_units(3, 197, 120) + model.step_units(6, 120, 80)))
        assert loss_of(model, schedule([197] * 12)) == 0.0
