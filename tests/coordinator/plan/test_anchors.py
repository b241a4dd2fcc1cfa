from dataclasses import replace

import numpy as np
import pytest
from plan_board import GEOMETRY

from tailfleet_coordinator.plan.anchors import SCATTER, SCATTERS, Seen, anchors, contexts
from tailfleet_schema.errors import ScheduleError

METHODS = ["topk", "pomt", "tome"]


def seen(method, reducing_ns, behind_ns, shares, half_share=0.0):
    excess_ns = shares[0] * reducing_ns + shares[1] * behind_ns
    whole_ns = 5e6 + reducing_ns + behind_ns
    return Seen(method, reducing_ns, behind_ns, excess_ns, half_share * whole_ns, whole_ns)


def pair(method, shares, **noise):
    return [seen(method, 5e6, 30e6, shares, **noise), seen(method, 40e6, 0.0, shares, **noise)]


def test_each_method_reduces_once_and_everywhere():
    for method in METHODS:
        once, everywhere = anchors("m", GEOMETRY, [method])
        assert once.reducing_blocks == [4]
        assert len(everywhere.reducing_blocks) == 12
        assert {once.method, everywhere.method} == {method}
        assert everywhere.keep[-1] <= 60


def test_they_follow_from_the_model_alone():
    assert anchors("m", GEOMETRY, METHODS) == anchors("m", GEOMETRY, METHODS)
    assert [s.method for s in anchors("m", GEOMETRY, METHODS)] == [m for m in METHODS for _ in range(2)]


def test_what_cannot_be_reduced_has_none():
    assert anchors("m", GEOMETRY, ["dense"]) == []
    assert anchors("m", replace(GEOMETRY, tokens=2), METHODS) == []
    with pytest.raises(ScheduleError, match="unknown method 'magic'"):
        anchors("m", GEOMETRY, ["magic"])


@pytest.mark.parametrize("tokens", [3, 5, 17])
@pytest.mark.parametrize("depth", [1, 2])
def test_small_models_have_what_can_be_reached(tokens, depth):
    found = anchors("m", replace(GEOMETRY, tokens=tokens, depth=depth), METHODS)
    assert len({s.digest for s in found}) == len(found)
    assert all(s.reducing_blocks for s in found)


def test_shares_are_found():
    (context,) = contexts(pair("topk", (0.1, -0.05))).values()
    assert (context.reducing, context.behind) == pytest.approx((0.1, -0.05), abs=0.03)
    found = contexts([one for method in METHODS for one in pair(method, (0.1, -0.05))])
    assert (found["topk"].reducing, found["topk"].behind) == pytest.approx((0.1, -0.05), abs=0.01)


def test_nothing_seen_says_nothing():
    assert contexts([]) == {}


def test_methods_vouch_for_each_other_where_one_is_hardly_known():
    steady = [*pair("pomt", (0.05, 0.05)), *pair("tome", (0.05, 0.05))]
    noisy = pair("topk", (0.4, -0.3), half_share=0.3)
    found = contexts([*steady, *noisy])
    assert found["topk"].reducing == pytest.approx(0.05, abs=0.03)
    assert found["topk"].behind == pytest.approx(0.05, abs=0.03)
    assert found["topk"].half_ns(1e6, 1e6) > found["pomt"].half_ns(1e6, 1e6)


def test_intervals_hold_what_noise_hides():
    rng = np.random.default_rng(4)
    held = []
    for _ in range(300):
        shared = rng.normal(0, 0.05)
        made = [
            replace(one, excess_ns=one.excess_ns + rng.normal(0, 0.01) * one.whole_ns)
            for method in METHODS
            for one in pair(method, (shared, shared))
        ]
        context = contexts(made)["topk"]
        off = (context.reducing - shared) * 10e6 + (context.behind - shared) * 20e6 + rng.normal(0, 0.01) * 30e6
        held.append(abs(off) <= context.half_ns(10e6, 20e6))
    assert 0.93 <= np.mean(held) <= 1.0


def test_anchors_that_parts_foretell_make_further_schedules_surer():
    rng = np.random.default_rng(6)
    agreeing = [one for method in METHODS for one in pair(method, (0.02, 0.02))]
    scattered = [replace(one, excess_ns=one.excess_ns + rng.normal(0, 0.05) * 35e6) for one in agreeing]
    sure, unsure = (contexts(some)["topk"] for some in (agreeing, scattered))
    assert sure.scatter < SCATTER < unsure.scatter
    assert sure.half_ns(5e6, 20e6) < 0.5 * unsure.half_ns(5e6, 20e6)
    # A single pair may agree by chance, and says less.
    assert sure.scatter < contexts(pair("topk", (0.02, 0.02)))["topk"].scatter


def test_the_scatter_is_never_held_to_be_none():
    for shares in ((0.0, 0.0), (0.1, 0.1)):
        found = contexts([one for method in METHODS for one in pair(method, shares)])
        assert found["topk"].scatter > SCATTERS[0]
        assert found["topk"].half_ns(0.0, 20e6) > 1.9 * found["topk"].scatter * 20e6
