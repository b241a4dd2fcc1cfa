import dataclasses
import math

import numpy as np
import pytest
from plan_board import GEOMETRY, model, profile_results

from tailfleet_coordinator.plan.accuracy import AccuracyProfile, loss_of
from tailfleet_coordinator.plan.composition import LEAST_WHOLES, Composition, composed
from tailfleet_coordinator.plan.wholes import whole_schedules, whole_units
from tailfleet_schema.curve import Judgement, UnitResult

IMAGES = 200
UNPROFILED = 4


def kl_at(block, kept):
    share = 1 - kept / GEOMETRY.tokens
    return 0.5 * share**2 * (1.5 - block / GEOMETRY.depth)


def weighed(weights):
    """A schedule's divergence where blocks lose so many times what they lose alone."""

    def kl(one):
        blocks = enumerate(zip(one.entering, one.keep))
        return sum(weights.get(block, 1.0) * (kl_at(block, m) - kl_at(block, n)) for block, (n, m) in blocks)

    return kl


def drop_of(kl):
    return 80 * (1 - math.exp(-kl / 2))


def judge(one, kl, worse=0):
    """As ``profile_results`` judges single reductions; ``worse`` more images are lost."""
    right = [k % 50 != 0 for k in range(IMAGES)]
    lost = drop_of(kl(one)) * IMAGES / 100 + worse
    bits = "".join("1" if ok and k >= lost else "0" for k, ok in enumerate(right))
    (unit,) = whole_units([one])
    return UnitResult(unit, 0, judgement=Judgement(IMAGES, bits.count("1"), IMAGES, kl(one), "host", bits))


def fit(kl, count=20, worse=0):
    schedules = whole_schedules(model(), "topk")[:count]
    results = profile_results() + [judge(one, kl, worse) for one in schedules]
    profile = AccuracyProfile.fit(GEOMETRY, "topk", results)
    return profile, composed(profile, GEOMETRY, schedules, results)


def errors(kl, *losses):
    held = [one for drawing in "abc" for one in whole_schedules(model(), "topk", drawing)]
    return [float(np.mean([abs(one.expected_drop(s) - drop_of(kl(s))) for s in held])) for one in losses]


def test_a_block_in_between_that_loses_more_than_its_neighbours_is_found():
    kl = weighed({UNPROFILED: 4.0})
    profile, found = fit(kl)
    assert isinstance(found, Composition)
    assert UNPROFILED not in profile.blocks
    assert int(np.argmax(found.weights)) == UNPROFILED
    additive, fitted = errors(kl, profile, found)
    assert fitted < 0.6 * additive
    assert found.held_out.schedules == 20
    assert found.held_out.error < found.held_out.additive_error
    # What it says of itself is what comes of schedules that it has not seen.
    assert found.held_out.error == pytest.approx(fitted, rel=0.6)


def test_reductions_that_help_or_hinder_each_other_change_the_level_of_all():
    for level in (0.5, 2.0):
        kl = weighed(dict.fromkeys(range(12), level))
        profile, found = fit(kl)
        assert isinstance(found, Composition)
        assert np.median(found.weights) == pytest.approx(level, rel=0.25)
        additive, fitted = errors(kl, profile, found)
        assert fitted < 0.35 * additive


def test_where_no_composition_is_nearer_losses_add_as_they_did_and_the_error_is_told():
    schedules = whole_schedules(model(), "topk")
    unmoved = Judgement(IMAGES, IMAGES, IMAGES, 0.0, "host", "1" * IMAGES)
    singles = [dataclasses.replace(one, judgement=unmoved) for one in profile_results()]
    wholes = [judge(one, weighed({})) for one in schedules]
    drops = [2 * k / len(wholes) for k in range(len(wholes))]
    lucky = [
        dataclasses.replace(
            one, judgement=dataclasses.replace(unmoved, correct=IMAGES - round(2 * drop), correct_bits="")
        )
        for one, drop in zip(wholes, drops)
    ]
    alone = AccuracyProfile.fit(GEOMETRY, "topk", singles)
    found = composed(alone, GEOMETRY, schedules, singles + lucky)
    assert isinstance(found, AccuracyProfile)
    assert found.held_out.schedules == 20
    assert found.held_out.error == found.held_out.additive_error == pytest.approx(np.mean(drops), abs=0.1)
    for one in schedules:
        assert loss_of(found, one) == loss_of(alone, one)
        assert found.expected_drop(one) == alone.expected_drop(one)


def test_a_profile_without_whole_schedules_is_left_alone():
    profile, found = fit(weighed({UNPROFILED: 4.0}), count=LEAST_WHOLES - 1)
    assert found is profile
    enough, other = fit(weighed({UNPROFILED: 4.0}), count=LEAST_WHOLES)
    assert other is not enough
    schedules = whole_schedules(model(), "topk")
    others = profile_results() + [judge(one, weighed({})) for one in whole_schedules(model(), "pomt")]
    assert composed(profile, GEOMETRY, schedules, others) is profile


def test_nothing_is_lost_by_nothing_and_more_never_loses_less():
    _, found = fit(weighed({UNPROFILED: 4.0}))
    totals = found.total(np.arange(0, 200_000, 50.0))
    assert totals[0] == 0.0
    assert (np.diff(totals) > 0).all()
    for one in whole_schedules(model(), "topk", "held out"):
        assert loss_of(found, one) > found.expected_drop(one) > 0
    # Nothing loses more than there is.
    assert found.expected_drop(dataclasses.replace(one, keep=[2] * 12)) <= found.dense_top1


def test_steps_of_a_search_are_those_of_single_schedules():
    profile, found = fit(weighed({UNPROFILED: 4.0}))
    counts = [197, 160, 120, 69, 39, 20]
    units = found.steps_units(GEOMETRY.depth, counts)
    assert (np.isinf(units) == np.isinf(profile.steps_units(GEOMETRY.depth, counts))).all()
    for block, i, j in np.argwhere(np.isfinite(units)):
        assert units[block, i, j] == found.step_units(block, counts[i], counts[j])
    assert units[UNPROFILED, 0, 2] > units[UNPROFILED - 1, 0, 2]


def test_caution_follows_what_was_lost_beyond_what_was_foretold():
    kl = weighed({UNPROFILED: 2.0})
    cautions = []
    for worse in (0, 4, 8):
        _, found = fit(kl, worse=worse)
        one = whole_schedules(model(), "topk", "held out")[9]
        cautions.append(loss_of(found, one) - found.expected_drop(one))
    assert cautions == sorted(cautions)
    assert cautions[2] > cautions[0] + 1.0
