"""Curves from Python: tables over many of them, one in full, its samples, the truth of a virtual board."""

import pandas
import pytest

from tailfleet_coordinator.client import Fleet, FleetError
from tailfleet_coordinator.curves import file_curve
from tailfleet_coordinator.replies import POINT_COLUMNS
from tailfleet_schema.board import BoardKind
from tailfleet_schema.curve import Part, Unit, UnitResult
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.messages import Outcome
from tailfleet_schema.workload import Workload


@pytest.fixture
def curve(live):
    """The id of a curve of the board nano."""
    live.board("nano")
    return live.lab.curve("c1", "nano")


def test_every_count_is_measured_or_inferred(live, fleet, curve):
    live.board("modelled", BoardKind.VIRTUAL)
    other = live.lab.curve("c2", "modelled")
    frame = fleet.curves()
    assert list(frame.columns) == list(POINT_COLUMNS)
    assert frame["curve_id"].drop_duplicates().tolist() == [curve, other]
    mine = fleet.curves(model="tiny", board="nano")
    whole = mine[mine["part"] == "model"].sort_values("tokens").set_index("tokens")
    assert whole.index.tolist() == list(range(2, 18))
    measured = whole[whole["source"] == "measured"]
    assert measured.index.tolist() == [2, 5, 8, 9, 13, 17]
    assert (measured["calls"] == 4).all()
    assert (measured["rounds"] == 4).all()
    assert (measured["peak_memory_bytes"] == 1 << 20).all()
    assert measured["energy_mj"].isna().all()
    inferred = whole[whole["source"] == "inferred"]
    assert inferred.loc[15, "quiet_ns"] == pytest.approx(1_515_000, rel=1e-3)
    assert (inferred["quiet_low_ns"] <= inferred["quiet_ns"]).all()
    assert (inferred["quiet_ns"] <= inferred["quiet_high_ns"]).all()
    assert inferred["p50_ns"].isna().all()
    assert (inferred["calls"] == 0).all()
    assert set(mine["board_kind"]) == {"physical"}
    assert set(fleet.curves(board="modelled")["board_kind"]) == {"virtual"}
    assert mine["quiet_ns"].dtype == "float64"
    assert fleet.curves(board="ghost").empty
    assert fleet.curves(model="ghost").empty


def test_beyond_the_memory_of_the_board_nothing_is_inferred(live, fleet):
    board_id = live.board("nano")
    live.lab.campaign("c1", "nano")
    units = [Unit(Part.SENTINEL, 5, 5), *(Unit(Part.MODEL, n, n) for n in (2, 3, 5, 9, 17))]
    job = Job("j", JobKind.SWEEP, Workload(live.lab.model), units, 2, 1, 0)
    live.lab.store.create_job("c1", board_id, "tiny", job)
    live.lab.claim(board_id)
    results = [
        UnitResult(u, r, [100 * u.tokens]) if u.tokens < 9 else UnitResult(u, r, status="oom")
        for r in range(2)
        for u in units
    ]
    live.lab.add(board_id, job, 1, results)
    live.lab.store.finish_job(board_id, "j", 1, Outcome.DONE, None, "")
    file_curve(live.lab.store, "j")
    whole = fleet.curves().query("part == 'model'").set_index("tokens")
    assert whole.loc[[9, 17], "source"].tolist() == ["measured", "measured"]
    assert set(whole.loc[list(range(9, 18)), "status"]) == {"oom"}
    assert whole.loc[list(range(9, 18)), "quiet_ns"].isna().all()
    assert whole.loc[4, ["source", "status"]].tolist() == ["inferred", "ok"]


def test_the_list_says_what_there_is_of_each_curve(live, fleet, curve):
    live.lab.sql("UPDATE curve_rounds SET factor = 1.4, disturbed = 1, reason = 'heat' WHERE round = 1")
    (row,) = fleet.curve_list(board="nano").to_dict("records")
    assert (row["curve_id"], row["campaign"]) == (curve, "c1")
    assert (row["counts_measured"], row["counts_all"], row["cliffs"]) == (6, 16, 1)
    assert (row["rounds"], row["rounds_disturbed"]) == (4, 1)
    assert row["stable"]
    assert fleet.curve_list(model="ghost").empty


def test_treads_cliffs_and_judged_rounds(live, fleet, curve):
    live.lab.sql("UPDATE curve_rounds SET factor = 1.4, disturbed = 1, reason = 'heat' WHERE round = 1")
    treads = fleet.treads(model="tiny")
    assert treads[["first_tokens", "last_tokens"]].to_numpy().tolist() == [[2, 8], [9, 17]]
    (cliff,) = fleet.cliffs(board="nano").to_dict("records")
    assert (cliff["curve_id"], cliff["from_tokens"], cliff["to_tokens"], cliff["upwards"]) == (curve, 8, 9, True)
    assert cliff["height_percent"] == pytest.approx(49.7, abs=0.5)
    assert 0.99 < cliff["confidence"] <= 1
    rounds = fleet.rounds(board="nano")
    assert rounds[["round", "factor", "disturbed", "reason"]].to_numpy().tolist() == [
        [0, 1.0, False, ""],
        [1, 1.4, True, "heat"],
        [2, 1.0, False, ""],
        [3, 1.0, False, ""],
    ]
    for table in (fleet.treads, fleet.cliffs, fleet.rounds):
        assert table(board="ghost").empty


def test_one_curve_in_full(live, fleet, curve):
    live.lab.sql("UPDATE jobs SET runtime_json = ?", '{"threads": "2"}')
    found = fleet.curve(curve)
    assert (found.id, found.board, found.model, found.stable) == (curve, "nano", "tiny", True)
    assert (found.counts_measured, found.counts_all, found.cliffs, found.rounds) == (6, 16, 1, 4)
    assert found.calls == 28
    assert found.runtime == {"threads": "2"}
    assert (found.order.backend, found.order.rounds, found.job) == ("eager", 4, "c1-curve")


def test_every_timed_call_can_be_had(live, fleet, curve):
    frame = fleet.samples(curve)
    assert len(frame) == 28
    assert frame["call_ns"].dtype == "float64"
    one = frame[(frame["part"] == "model") & (frame["tokens"] == 9)]
    assert one["round"].tolist() == [0, 1, 2, 3]
    assert (one["call_ns"] == 1_509_000).all()
    assert (one["call"] == 0).all()
    assert one["telemetry"].isna().all()


def test_calls_of_one_block_are_numbered(live, fleet, curve):
    live.lab.sql("UPDATE results SET call_ns_json = '[3,5,4]' WHERE round = 1 AND tokens = 9")
    frame = fleet.samples(curve).query("tokens == 9 and round == 1")
    assert frame[["call", "call_ns"]].to_numpy().tolist() == [[0, 3], [1, 5], [2, 4]]


def test_the_true_curve_of_a_virtual_board(live, fleet, monkeypatch):
    live.board("modelled", BoardKind.VIRTUAL)
    curve = live.lab.curve("c1", "modelled")
    true = fleet.true_curve(curve)
    assert true["tokens"].tolist() == list(range(2, 18))
    assert true["true_ns"].is_monotonic_increasing
    assert (true["true_ns"] > 0).all()
    live.lab.sql("UPDATE boards SET fingerprint = ?", "0" * 64)
    with pytest.raises(FleetError, match="modelled on another board now") as refusal:
        fleet.true_curve(curve)
    assert refusal.value.status == 422


def test_what_nobody_can_answer(live, fleet, curve):
    with pytest.raises(FleetError, match="only of virtual ones the true latencies are known") as refusal:
        fleet.true_curve(curve)
    assert (refusal.value.status, refusal.value.blame) == (422, Blame.AUTHOR)
    for ask in (fleet.curve, fleet.samples, fleet.true_curve):
        for unknown in (curve + 1, 0, 2**31, 2**70):
            with pytest.raises(FleetError, match="there is no curve") as refusal:
                ask(unknown)
            assert refusal.value.status == 404


def test_a_viewer_may_look_at_all_of_it(live, curve):
    with Fleet(live.url, live.viewer) as viewer:
        assert not viewer.samples(curve).empty
        assert viewer.curve(curve).id == curve
        assert isinstance(viewer.cliffs(), pandas.DataFrame)
