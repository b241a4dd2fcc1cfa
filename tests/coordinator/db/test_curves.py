"""Curves taken apart, in both databases: what is stored when a sweep is filed, and what people are told of it."""

import pytest

from tailfleet_coordinator.curves import CurveReader, file_curve
from tailfleet_coordinator.db.rows import Anatomy, CurveCliff, CurveCounts, CurveRound, CurveTread
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_coordinator.replies import CLIFF_COLUMNS, POINT_COLUMNS, ROUND_COLUMNS, TREAD_COLUMNS
from tailfleet_schema.curve import UnitResult
from tailfleet_schema.messages import Outcome

COUNTS = (2, 4, 6, 8, 9, 11, 13, 15, 17)


def time_ns(n):
    return 1_000_000 + 2_000 * n + 300_000 * (n > 8) - 100_000 * (n > 13)


def swept(lab, board="nano", campaign="c1", counts=COUNTS, results=None):
    """A finished sweep with a cliff between 8 and 9 and a step back after 13; its id."""
    board_id = lab.board(board)
    lab.campaign(campaign, board)
    job = lab.sweep(campaign, board_id, counts, rounds=3)
    made = [
        UnitResult(unit, r, [time_ns(unit.tokens) + 500 * r + 100 * call for call in range(3)])
        for r in range(job.rounds)
        for unit in job.units
    ]
    lab.claim(board_id)
    lab.add(board_id, job, 1, made if results is None else results(job))
    lab.store.finish_job(board_id, job.id, 1, Outcome.DONE, None, "")
    return job.id


def test_a_filed_curve_has_its_rounds_treads_and_cliffs(lab):
    curve_id = file_curve(lab.store, swept(lab))
    assert [(c, t.first_tokens, t.last_tokens) for c, t in lab.store.list_treads()] == [
        (curve_id, 2, 8),
        (curve_id, 9, 13),
        (curve_id, 15, 17),
    ]
    assert [t.quiet_ns for _, t in lab.store.list_treads()] == pytest.approx(
        [time_ns(8), time_ns(13), time_ns(17)], rel=0.002
    )
    (_, up), (_, down) = lab.store.list_cliffs()
    assert (up.from_tokens, up.to_tokens, up.upwards) == (8, 9, True)
    assert up.height_percent == pytest.approx(100 * 302 / 1016, rel=0.02)
    assert (down.from_tokens, down.to_tokens, down.upwards) == (13, 15, False)
    assert 0.99 < down.confidence <= 1
    assert [(c, r.round, r.disturbed) for c, r in lab.store.list_rounds()] == [
        (curve_id, number, False) for number in range(3)
    ]


def test_people_are_told_of_them_by_model_and_board(lab):
    first = file_curve(lab.store, swept(lab, "nano", "c1"))
    second = file_curve(lab.store, swept(lab, "orin", "c2"))
    reader = CurveReader(lab.store)
    cliffs = reader.cliff_columns(None, "orin")
    assert tuple(cliffs) == CLIFF_COLUMNS
    assert cliffs["curve_id"] == [second, second]
    assert cliffs["board"] == ["orin", "orin"]
    assert cliffs["upwards"] == [True, False]
    assert reader.cliff_columns("tiny", None)["curve_id"] == [first, first, second, second]
    assert reader.cliff_columns("ghost", None)["curve_id"] == []
    treads = reader.tread_columns("tiny", "nano")
    assert tuple(treads) == TREAD_COLUMNS
    assert list(zip(treads["first_tokens"], treads["last_tokens"])) == [(2, 8), (9, 13), (15, 17)]
    told = reader.round_columns("tiny", "nano")
    assert tuple(told) == ROUND_COLUMNS
    assert told["round"] == [0, 1, 2]
    assert told["reason"] == ["", "", ""]


def test_a_curve_has_every_count_measured_or_inferred(lab):
    curve_id = file_curve(lab.store, swept(lab))
    told = CurveReader(lab.store).point_columns("tiny", "nano")
    assert tuple(told) == POINT_COLUMNS
    points = sorted(zip(*(told[name] for name in ("tokens", "source", "quiet_ns", "quiet_low_ns", "quiet_high_ns"))))
    assert [point[0] for point in points] == list(range(2, 18))
    assert [n for n, source, *_ in points if source == "measured"] == list(COUNTS)
    for n, _, ns, low, high in points:
        assert low <= ns <= high
        if n != 14:
            assert ns == pytest.approx(time_ns(n), rel=0.01)
    assert set(told["curve_id"]) == {curve_id}
    with pytest.raises(UnknownName, match="no curve 99"):
        lab.store.get_curve(99)


def test_how_much_there_is_of_each_curve_is_counted(lab):
    first = file_curve(lab.store, swept(lab, "nano", "c1"))
    second = file_curve(lab.store, swept(lab, "orin", "c2", counts=(2, 17)))
    counts = lab.store.count_curves([first, second])
    assert counts[first] == CurveCounts("c1", measured=9, cliffs=2, rounds=3, rounds_disturbed=0)
    assert (counts[second].campaign, counts[second].measured) == ("c2", 2)
    assert lab.store.count_curves([]) == {}


def test_a_curve_that_an_earlier_release_filed_is_taken_apart_when_it_is_first_looked_for(lab):
    curve_id = lab.store.create_curve(swept(lab), True, "")
    assert lab.store.list_cliffs() == []
    assert lab.store.list_curves_in_one_piece() == [curve_id]
    reader = CurveReader(lab.store)
    assert reader.cliff_columns(None, None)["from_tokens"] == [8, 13]
    assert lab.store.list_curves_in_one_piece() == []
    assert CurveReader(lab.store).tread_columns(None, None)["last_tokens"] == [8, 13, 17]


def test_a_curve_without_a_point_that_fitted_into_memory_has_no_treads(lab):
    job_id = swept(
        lab, results=lambda job: [UnitResult(unit, r, status="oom") for r in range(job.rounds) for unit in job.units]
    )
    curve_id = file_curve(lab.store, job_id)
    reader = CurveReader(lab.store)
    assert reader.cliff_columns(None, None)["from_tokens"] == []
    assert reader.tread_columns(None, None)["curve_id"] == []
    told = reader.point_columns(None, None)
    assert set(told["curve_id"]) == {curve_id}
    assert set(zip(told["source"], told["status"], told["quiet_ns"])) == {("measured", "oom", None)}


def test_taking_a_curve_apart_at_once_happens_once(lab, together):
    curve_id = lab.store.create_curve(swept(lab), True, "")
    anatomy = Anatomy(
        (CurveRound(0, 1.0, False, ""), CurveRound(1, 1.2, True, "hot")),
        (CurveTread(2, 8, 1e6), CurveTread(9, 17, 2e6)),
        (CurveCliff(8, 9, True, 1e6, 100.0, 0.999),),
    )
    outcomes = together(*(lambda: lab.store.take_curve_apart(curve_id, anatomy) for _ in range(4)))
    assert outcomes == [None] * 4
    assert tuple(piece for _, piece in lab.store.list_rounds()) == anatomy.rounds
    assert tuple(piece for _, piece in lab.store.list_treads()) == anatomy.treads
    assert tuple(piece for _, piece in lab.store.list_cliffs()) == anatomy.cliffs


def test_a_curve_is_stored_as_plans_of_its_version_read_it(lab):
    lab.board("nano")
    curve = lab.curve("c1", "nano")
    lab.sql("UPDATE curve_readings SET version = 7")
    assert set(lab.store.list_readings([curve], 7)) == {curve}
    assert lab.store.list_readings([curve], 8) == {}
    assert lab.store.list_readings([], 7) == {}
