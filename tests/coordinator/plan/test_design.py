from itertools import pairwise

import pytest
from plan_board import GEOMETRY, schedule

from tailfleet_coordinator.plan import design
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import Objective, Statistic, SweepSettings
from tailfleet_schema.curve import SIZED, Part
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.schedule import Schedule, dense, lead, smallest_reachable
from tailfleet_schema.workload import Geometry

METHODS = ["topk", "pomt", "tome"]
TINY = Geometry(1, 8, 2, 16, 5, 1, 8, 4, 3, 2)


def counts_of(units, part):
    return sorted(unit.tokens for unit in units if unit.part is part)


@pytest.mark.parametrize("counts", ["adaptive", "auto"])
@pytest.mark.parametrize("kind", list(BoardKind))
def test_every_board_gets_a_coarse_grid_that_is_soon_done(counts, kind):
    units = design.sweep_units(GEOMETRY, METHODS, counts, kind)
    curve = counts_of(units, Part.MODEL)
    assert 20 <= len(curve) <= 30
    assert curve[0] == 2
    assert curve[-1] == 197
    assert max(high - low for low, high in pairwise(curve)) <= 15
    assert len(counts_of(units, Part.SENTINEL)) == len({u.label for u in units if u.part is Part.SENTINEL}) == 3
    plain = [u for u in units if u.label != SIZED]
    assert counts_of(plain, Part.ATTENTION) == counts_of(plain, Part.MLP)
    if kind is BoardKind.PHYSICAL:
        # One visit of each unit costs so many dense passes, if a pass grows with the tokens and halves are halves.
        passes = {Part.MODEL: 1.0, Part.SENTINEL: 1.0, Part.ATTENTION: 0.5, Part.MLP: 0.5, Part.REDUCE: 0.6}
        cost = sum(passes.get(unit.part, 0.05) * unit.tokens / 197 for unit in units)
        # 35 ms a pass, 3 rounds of 3 calls.
        assert cost * 0.035 * 9 < 20


@pytest.mark.parametrize(("batch", "rows"), [(1, 32), (2, 32), (8, 128)])
def test_both_sides_of_where_tiles_begin_anew_are_measured(batch, rows):
    curve = set(design.curve_counts(GEOMETRY, "adaptive", batch))
    tops = [top for top in range(2, 197) if top * batch % rows == 0]
    assert len(tops) >= 6
    assert all({top, top + 1} <= curve for top in tops)


@pytest.mark.parametrize("period", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("batch", [1, 8])
def test_no_period_hides_behind_the_grid(period, batch):
    phases = {n % period for n in design.curve_counts(GEOMETRY, "adaptive", batch)}
    assert len(phases) >= min(0.75 * period, 10)


@pytest.mark.parametrize("tokens", [2, 3, 17, 50, 257, 1370])
@pytest.mark.parametrize("batch", [1, 3, 8, 1000])
def test_grids_of_any_model_hold_both_ends_and_a_share_of_the_rest(tokens, batch):
    geometry = Geometry(12, 96, 3, 384, tokens, 1, 224, 16, 1, 10)
    curve = design.curve_counts(geometry, "adaptive", batch)
    assert curve == sorted(set(curve))
    assert curve[0] == design.least_count(geometry)
    assert curve[-1] == tokens
    assert len(curve) <= max(6, 0.35 * tokens)


def test_all_means_every_count_but_parts_of_a_real_board_are_fewer():
    units = design.sweep_units(GEOMETRY, METHODS, "all", BoardKind.PHYSICAL)
    assert counts_of(units, Part.MODEL) == list(range(2, 198))
    assert len(counts_of(units, Part.MLP)) == design.MOST_PART_COUNTS
    units = design.sweep_units(GEOMETRY, METHODS, "all", BoardKind.VIRTUAL)
    assert counts_of(units, Part.MLP) == list(range(2, 198))


def test_weighed_attention_is_timed_where_tokens_are_merged():
    def sized(methods):
        units = design.sweep_units(GEOMETRY, methods, "adaptive", BoardKind.PHYSICAL)
        return [u.tokens for u in units if u.part is Part.ATTENTION and u.label == SIZED]

    plain = counts_of(design.sweep_units(GEOMETRY, ["topk"], "adaptive", BoardKind.PHYSICAL), Part.ATTENTION)
    assert len(sized(["topk", "tome"])) == design.MOST_SIZED_COUNTS
    assert set(sized(["tome"])) <= set(plain)
    assert sized(["topk"]) == []


@pytest.mark.parametrize(
    ("backend", "dtype", "looked_at"),
    [("eager", "fp32", 0), ("eager", "fp16", 1), ("onnxruntime", "fp32", 1), ("virtual", "fp16", 0)],
)
def test_predictions_are_looked_at_where_they_may_differ(backend, dtype, looked_at):
    units = design.sweep_units(GEOMETRY, METHODS, "adaptive", BoardKind.PHYSICAL, 1, backend, dtype)
    assert [u.label for u in units if u.part is Part.FIDELITY] == [""] * looked_at


@pytest.mark.parametrize("kind", list(BoardKind))
@pytest.mark.parametrize("method", METHODS)
def test_reductions_can_be_reached_and_cover_n_and_m(kind, method):
    units = [u for u in design.sweep_units(GEOMETRY, [method], "auto", kind) if u.part is Part.REDUCE]
    assert all(u.label == method for u in units)
    assert all(smallest_reachable(method, u.tokens, 1) <= u.kept < u.tokens for u in units)
    assert len({u.tokens for u in units}) >= 4
    assert min(u.kept / u.tokens for u in units) < 0.55
    assert 8 <= len(units) <= 45


@pytest.mark.parametrize("geometry", [GEOMETRY, TINY])
@pytest.mark.parametrize("counts", ["all", "adaptive", "3,5"])
@pytest.mark.parametrize("kind", list(BoardKind))
def test_no_unit_repeats(geometry, counts, kind):
    units = design.sweep_units(geometry, METHODS, counts, kind)
    assert len({u.key(0) for u in units}) == len(units)
    assert all(u.kept > geometry.prefix for u in units)


def test_a_list_is_obeyed_and_the_full_count_added():
    units = design.sweep_units(GEOMETRY, ["topk"], "50, 99", BoardKind.PHYSICAL)
    assert counts_of(units, Part.MODEL) == counts_of(units, Part.MLP) == [50, 99, 197]


@pytest.mark.parametrize("counts", ["1,50", "50,198"])
def test_counts_that_the_model_lacks_are_refused(counts):
    with pytest.raises(InputError, match="cannot measure"):
        design.sweep_units(GEOMETRY, ["topk"], counts, BoardKind.PHYSICAL)


def test_an_unknown_method_is_refused():
    with pytest.raises(ScheduleError, match="magic"):
        design.sweep_units(GEOMETRY, ["magic"], "auto", BoardKind.PHYSICAL)
    with pytest.raises(ScheduleError, match="magic"):
        design.profile_units(GEOMETRY, "magic")


@pytest.mark.parametrize("method", METHODS)
def test_a_profile_is_reachable_small_and_has_the_dense_model(method):
    units = design.profile_units(GEOMETRY, method)
    assert [u for u in units if u.kept == 197] == [units[0]]
    assert all(u.tokens == 197 for u in units)
    assert {u.block for u in units} == {0, 1, 3, 5, 6, 8, 10}
    assert len(units) == 1 + design.PROFILE_BLOCKS * len(design.PROFILE_SHARES) - 3 * (method == "tome")
    keeps = [lead(method, 197, 1, u.block, u.kept) + [u.kept] * (11 - u.block) for u in units]
    for keep in keeps:
        Schedule(method, "m", 197, 1, keep)
    # What runs again of a pass, 200 images of 4 ms each.
    seconds = sum(sum(0.2 + 0.8 * kept / 197 for kept in keep if kept < 197) / 12 for keep in keeps) * 200 * 4e-3
    assert seconds < 30


@pytest.mark.parametrize("method", ["topk", "evit", "tome"])
def test_all_methods_are_profiled_down_to_the_same_share(method):
    counts = {u.kept for u in design.profile_units(GEOMETRY, method) if u.block == 5}
    assert counts == {167, 128, 99 if method == "tome" else 98, 49, 20, 197} - {197}


def test_small_models_have_profiles_too():
    units = design.profile_units(TINY, "topk")
    assert {u.block for u in units} == {0}
    assert len({u.key(0) for u in units}) == len(units)
    assert [u.kept for u in design.profile_units(TINY, "tome")] == [5, 4, 3]


def test_inputs_reach_all_tokens():
    units = design.input_units(GEOMETRY)
    assert units[-1].tokens == 197
    assert len(units) == design.INPUT_COUNTS


def test_verification_needs_the_dense_schedule_and_counts_each_once():
    pruned, whole = schedule([150] * 12), dense("made-up", GEOMETRY)
    units = design.verify_units([whole, pruned, pruned], judged=True)
    assert [u.part for u in units] == [Part.SCHEDULE] * 2 + [Part.ACCURACY] * 2
    assert {u.label for u in units} == {whole.digest, pruned.digest}
    assert {u.part for u in design.verify_units([whole], judged=False)} == {Part.SCHEDULE}
    with pytest.raises(InputError, match="dense"):
        design.verify_units([pruned], judged=False)


@pytest.mark.parametrize(
    ("on", "pass_ms", "effort"),
    [
        (Statistic.QUIET, 60.0, (5, 5)),
        (Statistic.QUIET, 0.0, (5, 5)),
        (Statistic.QUIET, 60_000.0, (5, 5)),
        (Statistic.P50, 60.0, (10, 10)),
        (Statistic.P99, 0.0, (20, 80)),
        (Statistic.P99, 5.0, (20, 80)),
        # A minute a schedule, and where that is too short for a p99, what it takes at least.
        (Statistic.P99, 100.0, (20, 30)),
        (Statistic.P99, 1000.0, (20, 19)),
    ],
)
def test_a_verification_is_as_long_as_its_statistic_needs(on, pass_ms, effort):
    objective = Objective(latency_share=0.8, on=on)
    assert design.verify_effort(objective, SweepSettings(), pass_ms * 1e6) == effort
    assert design.verify_effort(objective, SweepSettings(rounds=100, calls=200), pass_ms * 1e6) == (100, 200)


def test_a_sweep_too_short_for_the_statistic_is_refused_before_it_is_run():
    units = design.sweep_units(GEOMETRY, ["topk"], "auto", BoardKind.PHYSICAL)
    tail = Objective(latency_share=0.8, on=Statistic.P99)
    with pytest.raises(InputError, match=r"a p99 takes 368 calls.*--rounds 3 --calls 5"):
        design.check_effort(tail, SweepSettings(), units)
    design.check_effort(tail, SweepSettings(calls=5), units)
    design.check_effort(Objective(latency_share=0.8), SweepSettings(rounds=1, calls=1), units)
    design.check_effort(tail, SweepSettings(), design.sweep_units(GEOMETRY, ["topk"], "all", BoardKind.VIRTUAL))
