"""What verified schedules teach: nothing from few, little from some, and never that dense is other than measured."""

import numpy as np
import pytest
from plan_board import GEOMETRY, MadeUpBoard, model, schedule, stalls_beyond

from tailfleet_coordinator.plan.decision import PlanInput
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.outcome import verified_of
from tailfleet_coordinator.plan.planner import make_plan
from tailfleet_coordinator.plan.residuals import OWN, Residual, Verified, corrections, latest
from tailfleet_coordinator.plan.spread import Spread
from tailfleet_coordinator.plan.statistics import summarise
from tailfleet_schema import codec
from tailfleet_schema.campaign import Objective, Statistic
from tailfleet_schema.curve import Part, UnitResult
from tailfleet_schema.schedule import dense

SEEN = [schedule([197] * k + [n] * (12 - k)) for k, n in ((2, 64), (4, 128), (6, 96), (3, 150))]
UNSEEN = schedule([197] * 5 + [110] * 7)


def residual(share, method="topk", affected=1e6, half=0.0, claimed=0.0):
    return Residual(method, affected, share * affected, half, 1.2 * affected, claimed * affected)


def verified(board, schedules):
    return verified_of([dense("made-up", GEOMETRY), *schedules], board.verification(schedules, rounds=5, calls=5))


@pytest.fixture(scope="module")
def dearer():
    """Blocks that reduce, and those behind them, cost 8 % more than their parts; no schedule was timed by the sweep."""
    return MadeUpBoard(context=0.08)


@pytest.fixture(scope="module")
def plain(dearer):
    return LatencyModel.fit(GEOMETRY, summarise(dearer.sweep()))


def test_a_board_s_share_is_found_and_serves_schedules_that_were_not_verified(dearer, plain):
    truth = dearer.schedule_ns(UNSEEN)
    before, after = plain.predict(UNSEEN), plain.corrected(verified(dearer, SEEN)).predict(UNSEEN)
    assert abs(after.ns / truth - 1) < 0.5 * abs(before.ns / truth - 1)
    assert after.low_ns < truth < after.high_ns


def test_dense_and_blocks_before_the_first_reduction_stay_as_measured(dearer, plain):
    after = plain.corrected(verified(dearer, SEEN))
    assert after.corrections
    assert after.dense == plain.dense
    assert after.block_ns("topk", 197, 197) == plain.block_ns("topk", 197, 197)
    assert after.block_ns("topk", 100, 100) > plain.block_ns("topk", 100, 100)
    whole = after.fixed_ns + sum(after.block_ns("topk", n, m) for n, m in zip(UNSEEN.entering, UNSEEN.keep))
    assert whole == pytest.approx(after.predict(UNSEEN).ns)


def test_nothing_is_learned_from_two_schedules_however_often(dearer, plain):
    few = verified(dearer, SEEN[:2]) + verified(dearer, SEEN[:2])
    assert plain.corrected(few).corrections == {}
    assert plain.corrected([]).predict(UNSEEN) == plain.predict(UNSEEN)
    assert plain.corrected(verified(dearer, SEEN[:3])).corrections


def test_dense_alone_teaches_nothing_and_of_a_schedule_only_the_last_counts():
    whole = Verified(dense("made-up", GEOMETRY), 1.5, 0.01)
    old, new = Verified(SEEN[0], 0.9, 0.01), Verified(SEEN[0], 0.8, 0.01)
    assert latest([whole, old, new, whole]) == [new]


def test_a_share_is_shrunken_and_more_schedules_are_believed_more():
    few, many = (corrections([residual(0.05)] * count, ["topk"])["topk"] for count in (3, 30))
    assert 0 < few.share < many.share < 0.05
    assert few.half_share > many.half_share


def test_methods_have_a_part_in_common_and_one_of_their_own():
    found = corrections([residual(0.06)] * 4 + [residual(0.02, "tome")] * 4, ["pomt", "tome", "topk"])
    assert found["topk"].share > found["pomt"].share > found["tome"].share > 0.0
    assert found["pomt"].half_share > 1.9 * OWN
    assert "evit" not in found


def test_what_no_share_explains_widens_the_interval():
    rng = np.random.default_rng(3)
    alike = corrections([residual(0.05)] * 20, ["topk"])["topk"]
    apart = corrections([residual(0.05 + 0.06 * rng.standard_normal()) for _ in range(20)], ["topk"])["topk"]
    assert apart.half_share > 0.08 > 2 * alike.half_share
    # And so few of such are believed less.
    few = corrections([residual(share) for share in (0.15, 0.05, -0.05)], ["topk"])["topk"]
    assert few.share < 0.9 * corrections([residual(0.05)] * 3, ["topk"])["topk"].share


def scattered(count, deviation, claimed):
    rng = np.random.default_rng(5)
    return corrections([residual(0.05 + d, claimed=claimed) for d in deviation * rng.standard_normal(count)], ["topk"])[
        "topk"
    ]


def test_parts_that_claimed_too_much_are_trusted_more_the_more_schedules_say_so():
    few, many = scattered(4, 0.02, 0.2), scattered(40, 0.02, 0.2)
    assert 0.3 < many.trusted < 0.5 < few.trusted < 0.9
    assert many.half_share < 0.03


def test_parts_that_claimed_what_is_seen_stay_and_what_is_seen_beyond_them_widens_the_interval():
    right, short = scattered(40, 0.06, 0.12), scattered(40, 0.06, 0.03)
    assert 0.7 < right.trusted <= 1.0
    assert right.half_share < 0.06
    assert short.trusted == 1.0
    assert 0.09 < short.half_share < 0.15


def test_what_one_schedule_is_off_by_is_held_against_what_the_others_foretell():
    # A method's only schedule draws its share to itself, so that little seems to be left.
    others = [residual(0.0, claimed=0.02)] * 4
    assert corrections([*others, residual(0.1, "tome", claimed=0.02)], ["topk"])["topk"].trusted == 1.0


def test_of_a_prediction_shrinks_what_fewer_tokens_are_the_cause_of_and_nothing_that_dense_shares(dearer, plain):
    chosen = [*SEEN, schedule([197] * 4 + [120] * 4 + [60] * 4)]
    # Off by more than they were measured to, and by less than the parts claim.
    off = zip(verified(dearer, chosen), (0.006, -0.006, 0.006, -0.006, 0.006), strict=True)
    taught = plain.corrected([Verified(one.schedule, one.share * (1 + by), 0.0001) for one, by in off])
    before, after = plain.predict(UNSEEN).doubt, taught.predict(UNSEEN).doubt
    correction, affected_ns = taught.corrections["topk"], sum(plain._in_parts(plain.costs.of(UNSEEN))[:2])
    assert correction.trusted < 0.95
    assert after.fewer_ns < before.fewer_ns * (correction.trusted + 0.1)
    assert after.full_ns == pytest.approx(before.full_ns, rel=0.02)
    own_ns = correction.half_share * affected_ns
    assert after.rest_ns == pytest.approx(np.hypot(correction.trusted * before.rest_ns, own_ns), rel=0.02)


def test_a_noisy_verification_weighs_little():
    sure = [residual(0.0)] * 4
    misled = corrections([*sure, residual(0.5, half=1e6)], ["topk"])["topk"]
    assert abs(misled.share) < 0.01


def test_on_a_tail_what_was_learned_on_quiet_holds(dearer):
    stalling = MadeUpBoard(context=0.08, stall=stalls_beyond(100))
    sweep, seen = stalling.sweep(["topk"], calls=20), verified(dearer, SEEN)
    spread = Spread.fit(sweep, 197, Statistic.P99)
    model_on = LatencyModel.fit(GEOMETRY, summarise(sweep), spread)
    after, quiet = model_on.corrected(seen), LatencyModel.fit(GEOMETRY, summarise(sweep)).corrected(seen)
    assert after.dense.ns > 1.1 * quiet.dense.ns
    assert after.corrections == quiet.corrections
    assert after.predict(UNSEEN).ns > 1.02 * model_on.predict(UNSEEN).ns


def test_a_verification_says_shares_of_the_dense_model_beside_it(dearer):
    found = verified(dearer, SEEN)
    whole_ns = dearer.schedule_ns(dense("made-up", GEOMETRY))
    assert [one.schedule for one in found] == SEEN
    for one in found:
        assert one.share == pytest.approx(dearer.schedule_ns(one.schedule) / whole_ns, rel=0.01)
        assert 0 < one.half_share < 0.05


def test_without_its_dense_model_a_verification_says_nothing(dearer):
    chosen = [dense("made-up", GEOMETRY), *SEEN]
    results = [
        UnitResult(r.unit, r.round, status="oom") if r.unit.label == chosen[0].digest else r
        for r in dearer.verification(SEEN)
    ]
    assert any(r.unit.part is Part.SCHEDULE for r in results)
    assert verified_of(chosen, results) == []


def test_a_plan_takes_what_was_verified_before_into_account(dearer):
    given = PlanInput(model(), "topk", "optimal", Objective(latency_share=0.8), dearer.sweep(), [])
    taught = PlanInput(model(), "topk", "optimal", given.objective, given.sweep, [], verified=verified(dearer, SEEN))
    assert codec.loads(PlanInput, codec.dumps(taught)) == taught
    naive, learned = make_plan(given), make_plan(taught)
    off = [abs(plan.predicted_ns / dearer.schedule_ns(plan.schedule) - 1) for plan in (naive, learned)]
    assert off[1] < 0.6 * off[0]


def test_all_blocks_at_once_are_corrected_as_each_is(dearer, plain):
    after = plain.corrected(verified(dearer, SEEN))
    counts = [197, 128, 100, 64]
    at_once = after.blocks_ns("topk", counts)
    for i, n in enumerate(counts):
        for j, m in enumerate(counts[i:], start=i):
            assert at_once[i, j] == pytest.approx(after.block_ns("topk", n, m))
