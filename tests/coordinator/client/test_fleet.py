"""``Fleet`` against the real application: what people's programs see."""

import json

import pandas
import pytest

from tailfleet_coordinator.client import BOARD_COLUMNS, Fleet, FleetError
from tailfleet_coordinator.replies import (
    CLIFF_COLUMNS,
    CURVE_COLUMNS,
    POINT_COLUMNS,
    ROUND_COLUMNS,
    SCHEDULE_COLUMNS,
    SHIPMENT_COLUMNS,
    TREAD_COLUMNS,
)
from tailfleet_coordinator.web.tokens import LOCAL_TOKEN
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignRequest, CampaignState
from tailfleet_schema.errors import Blame, ConfigurationError, LabError
from tailfleet_schema.schedule import Schedule


def test_an_empty_fleet_has_tables_with_all_their_columns(fleet):
    assert list(fleet.boards().columns) == list(BOARD_COLUMNS)
    assert list(fleet.curves().columns) == list(POINT_COLUMNS)
    assert list(fleet.curve_list().columns) == list(CURVE_COLUMNS)
    assert list(fleet.treads().columns) == list(TREAD_COLUMNS)
    assert list(fleet.cliffs().columns) == list(CLIFF_COLUMNS)
    assert list(fleet.rounds().columns) == list(ROUND_COLUMNS)
    assert list(fleet.schedules().columns) == list(SCHEDULE_COLUMNS)
    assert list(fleet.shipments().columns) == list(SHIPMENT_COLUMNS)
    assert fleet.campaigns().empty
    assert fleet.datasets().empty
    assert fleet.models()["name"].tolist() == ["tiny"]
    assert fleet.health().status == "ok"


def test_boards_come_with_facts_and_utc_times(live, fleet):
    live.board("nano")
    live.board("modelled", BoardKind.VIRTUAL, seen=False)
    boards = fleet.boards().set_index("name")
    assert boards.loc["nano", "torch"] == "2.0"
    assert boards["online"].tolist() == [True, False]
    assert boards["virtual_profile"].tolist()[1] == "jetson-tx2"
    assert str(boards["enrolled_at"].dt.tz) == "UTC"
    assert pandas.isna(boards.loc["modelled", "last_seen_at"])


def test_a_campaign_can_be_started_followed_and_cancelled(live, fleet):
    live.board("nano")
    campaign = fleet.run_campaign(CampaignRequest(["tiny"], ["nano"], ["topk"]))
    status = fleet.campaign(campaign)
    assert status.state is CampaignState.RUNNING
    assert [(step.board, step.model, step.phase) for step in status.steps] == [("nano", "tiny", "waiting")]
    assert fleet.report(campaign).rows == []
    assert fleet.cancel(campaign).state is CampaignState.CANCELLED
    assert fleet.campaign(campaign).steps[0].phase == "cancelled"
    listed = fleet.campaigns()
    assert listed["id"].tolist() == [campaign]
    assert listed["state"].tolist() == ["cancelled"]


def test_schedules_are_found_by_the_beginning_of_their_digest(live, fleet):
    board_id = live.board("nano")
    live.lab.campaign("c1", "nano")
    schedules = [Schedule("topk", "tiny", 17, 1, [17, 17, 17, kept]) for kept in range(2, 17)]
    for number, schedule in enumerate(schedules):
        live.lab.store.add_plan("c1", board_id, "tiny", "optimal", f"m{number}", "{}", schedule)
    digest = schedules[0].digest
    assert fleet.schedule(digest[:12]) == schedules[0]
    shared = next(d for d in "0123456789abcdef" if sum(s.digest.startswith(d) for s in schedules) > 1)
    with pytest.raises(FleetError, match="several"):
        fleet.schedule(shared)
    for unknown in ("%", "_" * 5, "zz"):
        with pytest.raises(FleetError) as refusal:
            fleet.schedule(unknown)
        assert refusal.value.status == 404
    rows = fleet.schedules(board="nano", model="tiny", campaign="c1")
    assert json.loads(rows["keep"][0]) == schedules[0].keep
    assert fleet.schedules(board="ghost").empty


def test_the_line_for_a_board_and_its_warning(live, fleet):
    promise = fleet.enroll_board("modelled", virtual_profile="jetson-tx2", minutes=5)
    assert promise.token in promise.line
    assert f"enroll {live.url} " in promise.line
    assert live.bundle.sha256 in promise.line
    assert "--virtual jetson-tx2" in promise.line
    assert "\n" not in promise.line
    disturbed = fleet.enroll_board("disturbed", virtual_profile="jetson-tx2:noise=0.03,bursts=0.3")
    assert "--virtual jetson-tx2:noise=0.03,bursts=0.3" in disturbed.line
    assert promise.warning == "only here"
    seconds = (pandas.Timestamp(promise.expires_at) - pandas.Timestamp.now("UTC")).total_seconds()
    assert 280 < seconds < 305


def test_refusals_carry_the_coordinator_s_sentence(live, fleet):
    live.board("nano")
    with pytest.raises(FleetError, match="'nano' is enrolled already") as refusal:
        fleet.enroll_board("nano")
    assert (refusal.value.status, refusal.value.blame) == (409, Blame.AUTHOR)
    with Fleet(live.url, "guess") as stranger, pytest.raises(FleetError, match="token"):
        stranger.boards()
    with Fleet(live.url, live.viewer) as viewer:
        viewer.boards()
        with pytest.raises(FleetError, match="viewer"):
            viewer.enroll_board("x")


def test_tokens_are_made_listed_and_revoked(live, fleet):
    made = fleet.create_token("ci", "viewer")
    with Fleet(live.url, made.token) as viewer:
        assert viewer.boards().empty
        with pytest.raises(FleetError, match="viewer"):
            viewer.tokens()
        told = fleet.tokens().set_index("name")
        assert list(told.columns) == ["role", "created_at", "revoked_at"]
        assert told.loc["ci", "role"] == "viewer"
        assert pandas.isna(told.loc["ci", "revoked_at"])
        assert not pandas.isna(fleet.revoke_token("ci").set_index("name").loc["ci", "revoked_at"])
        with pytest.raises(FleetError, match="'ci' was revoked") as refusal:
            viewer.boards()
    assert refusal.value.status == 401
    assert made.token not in str(live.lab.sql("SELECT * FROM tokens"))


def test_tokens_that_cannot_be_meant(live, fleet):
    before = live.lab.sql("SELECT * FROM tokens")
    live.lab.store.replace_token(LOCAL_TOKEN, "operator", "0" * 64)
    for act, status, words in (
        (lambda: fleet.create_token("op", "viewer"), 409, "'op' exists already"),
        (lambda: fleet.create_token("new", "board"), 422, "no role 'board'"),
        (lambda: fleet.create_token("../x", "viewer"), 422, "cannot be called"),
        (lambda: fleet.revoke_token("ghost"), 404, "'ghost'"),
        (lambda: fleet.revoke_token(LOCAL_TOKEN), 422, "the coordinator's own token"),
        (lambda: fleet.revoke_board("ghost"), 404, "'ghost'"),
    ):
        with pytest.raises(FleetError, match=words) as refusal:
            act()
        assert refusal.value.status == status
    after = live.lab.sql("SELECT * FROM tokens")
    assert [row for row in after if row[1] != LOCAL_TOKEN] == before


def test_a_campaign_on_a_revoked_board_is_refused(live, fleet):
    live.board("nano")
    fleet.revoke_board("nano")
    assert not pandas.isna(fleet.boards()["revoked_at"][0])
    with pytest.raises(FleetError, match="'nano' is revoked"):
        fleet.run_campaign(CampaignRequest(["tiny"], ["nano"], ["topk"]))
    assert fleet.campaigns().empty


def test_nobody_answers(live):
    with Fleet("http://127.0.0.1:9", "token") as fleet, pytest.raises(LabError, match="no coordinator answers"):
        fleet.boards()


def test_this_machine_s_coordinator_is_found_by_its_state_folder(live, tmp_path, monkeypatch):
    for name in ("TAILFLEET_URL", "TAILFLEET_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TAILFLEET_STATE", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"coordinator\.json"):
        Fleet()
    (tmp_path / "coordinator.json").write_text(json.dumps({"url": live.url, "token": live.viewer}))
    with Fleet() as fleet:
        assert fleet.boards().empty
    monkeypatch.setenv("TAILFLEET_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TAILFLEET_TOKEN", "other")
    with Fleet() as fleet:
        assert fleet.url == "http://127.0.0.1:9"
    (tmp_path / "coordinator.json").write_text("[]")
    monkeypatch.delenv("TAILFLEET_URL")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Fleet()
