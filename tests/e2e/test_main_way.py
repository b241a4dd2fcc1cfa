"""The whole way with real processes: enrol → sweep → curve → plan → schedule → verify → report."""

import json
import os
import subprocess
import sys

import pytest

from tailfleet_reduce import load_schedule
from tailfleet_schema.campaign import CampaignRequest, CampaignState, Objective, SweepSettings
from tailfleet_schema.errors import TailfleetError

pytestmark = pytest.mark.slow

OBJECTIVE = Objective(max_accuracy_drop=2.0, latency_share=0.8)
SMALL_SWEEP = SweepSettings(counts="50,99,148,197", rounds=2, calls=2, budget_seconds=5.0)
UNLABELLED_METHODS = ["topk", "tome", "random", "evit", "zero-tprune", "cropr"]
"""Each way that virtual boards reduce; Cropr's with untrained queries, since nothing is judged."""


@pytest.fixture(scope="module")
def boards(farm):
    farm.enroll_all({"here": None, "modelled": "jetson-tx2"})


@pytest.fixture(scope="module")
def begun(farm, boards):
    """Two campaigns that run side by side."""
    labelled = CampaignRequest(
        models=["digits_vit"],
        boards=["here", "modelled"],
        methods=["pomt"],
        planners=["optimal", "pomt-rule"],
        objective=OBJECTIVE,
        sweep=SMALL_SWEEP,
    )
    unlabelled = CampaignRequest(["deit_small_patch16_224"], ["modelled"], UNLABELLED_METHODS, objective=OBJECTIVE)
    return [farm.fleet.run_campaign(request) for request in (labelled, unlabelled)]


@pytest.fixture(scope="module")
def campaign(farm, begun):
    """Real accuracy and both planners, on this machine and on a modelled board."""
    return begun[0], farm.wait_campaign(begun[0])


@pytest.fixture(scope="module")
def unlabelled(farm, begun):
    """A model without labelled images, planned by latency alone."""
    return begun[1], farm.wait_campaign(begun[1])


def run(farm, *arguments):
    """The command line as a person runs it."""
    environment = {**os.environ, "TAILFLEET_URL": farm.fleet.url, "TAILFLEET_TOKEN": farm.token, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "tailfleet_coordinator.cli.main", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        cwd=farm.folder,
    )


def test_every_step_comes_through(campaign, unlabelled):
    for _, status in (campaign, unlabelled):
        assert status.state is CampaignState.DONE
        assert {step.phase for step in status.steps} == {"done"}
    assert [step.board for step in campaign[1].steps] == ["here", "modelled"]


def test_curves_are_stored_with_documented_columns(farm, campaign):
    frame = farm.fleet.curves(model="digits_vit", board="here")
    assert (frame["board_kind"] == "physical").all()
    curve = frame[frame["part"] == "model"].set_index("tokens")
    assert sorted(curve.index) == list(range(2, 198))
    assert (curve["quiet_ns"] > 0).all()
    measured = curve[curve["source"] == "measured"]
    assert sorted(measured.index) == [50, 99, 148, 197]
    # More where the machine was disturbed.
    assert (measured["calls"] >= 2).all()
    modelled = farm.fleet.curves(model="digits_vit", board="modelled")
    assert (modelled["board_kind"] == "virtual").all()
    # Only a modelled board is as quiet as that on every machine.
    truth = modelled[modelled["part"] == "model"].set_index("tokens")
    assert truth.loc[50, "quiet_ns"] < truth.loc[197, "quiet_ns"]


def test_the_report_holds_what_was_measured(farm, campaign):
    rows = farm.fleet.report(campaign[0]).rows
    assert [(row.board, row.planner) for row in rows] == [
        (board, planner) for board in ("here", "modelled") for planner in ("optimal", "pomt-rule")
    ]
    for row in rows:
        assert row.board_kind == ("virtual" if row.board == "modelled" else "physical")
        assert row.verdict.startswith(("prune: ", "do not prune: "))
        assert row.top1_dense >= 95.0
        assert row.top1_computed_on == ("host" if row.board == "modelled" else "board")
        if row.schedule_digest is None:
            assert row.measured_ns is None
        else:
            assert row.measured_low_ns <= row.measured_ns <= row.measured_high_ns
            assert row.speedup == pytest.approx(row.dense_ns / row.measured_ns, rel=1e-6)


def test_without_labelled_images_there_is_no_top1_and_a_budget_decides(farm, unlabelled):
    rows = farm.fleet.report(unlabelled[0]).rows
    assert [row.method for row in rows] == UNLABELLED_METHODS
    assert all(row.top1_dense is None and row.top1_pruned is None for row in rows)
    (best,) = [row for row in rows if row.recommended]
    assert best.measured_ns <= 0.8 * best.dense_ns * 1.02
    # And it lies where a program of the board finds it, without a further command.
    shipped = {"board": "modelled", "model": "deit_small_patch16_224"}
    farm.until("the board has it", lambda: farm.fleet.shipments(**shipped)["state"].tolist() == ["verified"])
    place = farm.home("modelled") / "schedules" / "deit_small_patch16_224.json"
    assert load_schedule(str(place)).digest == best.schedule_digest


def test_a_second_campaign_reuses_the_curves(farm, campaign):
    again = farm.fleet.run_campaign(
        CampaignRequest(["digits_vit"], ["modelled"], ["pomt"], objective=OBJECTIVE, sweep=SMALL_SWEEP)
    )
    status = farm.wait_campaign(again)
    assert status.state is CampaignState.DONE
    assert farm.stored_keys(again) == []
    assert "reuse" in status.steps[0].note


def test_no_job_row_is_made_outside_a_campaign(farm, campaign):
    assert farm.query("SELECT count(*) FROM jobs WHERE campaign_id IS NULL") == [(0,)]


def test_the_command_line_tells_the_three_uses(farm, campaign, tmp_path):
    boards = run(farm, "board", "list")
    assert boards.returncode == 0
    assert "modelled" in boards.stdout
    assert "virtual" in boards.stdout
    line = run(farm, "board", "enroll", "nano-7")
    assert "loopback" in line.stderr + line.stdout
    shown = run(farm, "curve", "show", "digits_vit", "here")
    assert shown.returncode == 0, shown.stderr
    assert "197" in shown.stdout
    for form in ("csv", "parquet", "json"):
        out = tmp_path / f"curves.{form}"
        assert run(farm, "curve", "export", "--out", str(out)).returncode == 0
        assert out.stat().st_size > 0
    report = run(farm, "campaign", "report", campaign[0], "--out", str(tmp_path / "report"))
    assert report.returncode == 0, report.stderr
    assert json.loads((tmp_path / "report" / "table.json").read_text())
    assert (tmp_path / "report" / "index.html").exists()
    assert list((tmp_path / "report").glob("front--here--*.png"))
    assert list((tmp_path / "report").glob("here--*.png"))
    assert run(farm, "campaign", "report", campaign[0], "--csv").stdout.startswith("board,board_kind,model")
    assert run(farm, "campaign", "report", campaign[0], "--markdown").stdout.startswith("| board | model |")
    both = run(farm, "campaign", "report", campaign[0], "--csv", "--json")
    assert (both.returncode, "at most one of --json" in both.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["campaign", "run", "--models", "no-such"], "unknown model 'no-such'"),
        (["campaign", "run", "--boards", "no-such"], "unknown board 'no-such'"),
        (["campaign", "run", "--method", "magic"], "magic"),
        (["campaign", "run", "--objective", "fast"], "cannot read the objective"),
        (["campaign", "status", "no-such"], "no-such"),
        (["curve", "show", "digits_vit", "no-such"], "no-such"),
        (["board", "enroll", "here"], "here"),
        (["schedule", "show", "ffff"], "ffff"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(farm, campaign, arguments, words):
    done = run(farm, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_a_wrong_token_is_refused(farm, campaign):
    from tailfleet_coordinator.client import Fleet

    with Fleet(farm.fleet.url, "not-a-token") as stranger, pytest.raises(TailfleetError):
        stranger.boards()
