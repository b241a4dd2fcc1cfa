"""Jobs by the command line, on real processes: the log of a sweep, and a sweep that is cancelled in its middle."""

import os
import subprocess
import sys

import pytest

from tailfleet_schema.campaign import CampaignRequest, CampaignState, SweepSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def board(farm):
    farm.enroll("modelled", "jetson-tx2:noise=0.02,seed=3")
    return "modelled"


def tailfleet(farm, *arguments):
    environment = {**os.environ, "TAILFLEET_URL": farm.fleet.url, "TAILFLEET_TOKEN": farm.token, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "tailfleet_coordinator.cli.main", "job", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        cwd=farm.folder,
    )


def sweep(farm, board, counts, rounds):
    settings = SweepSettings(counts=counts, rounds=rounds, calls=2, fresh=True, budget_seconds=20.0)
    campaign = farm.fleet.run_campaign(CampaignRequest(["digits_vit"], [board], ["topk"], sweep=settings))
    (job,) = farm.until("the sweep is ordered", lambda: farm.fleet.jobs(campaign=campaign)["id"].tolist())
    return campaign, job


def test_the_log_of_a_sweep(farm, board):
    campaign, job = sweep(farm, board, "50,197", 2)
    assert farm.wait_campaign(campaign).state is CampaignState.DONE
    log = tailfleet(farm, "log", job)
    assert log.returncode == 0, log.stderr
    for words in ("attempt 1 begins", "building the model", "running on", "done"):
        assert words in log.stdout
    assert tailfleet(farm, "log", job, "--follow").stdout == log.stdout
    listed = tailfleet(farm, "list", "--board", board)
    assert job in listed.stdout
    assert "modelled (virtual)" in listed.stdout
    shown = tailfleet(farm, "show", job)
    assert "counts      50 197 (2 counts)" in shown.stdout
    assert "unchanged" in shown.stdout


def test_a_sweep_that_is_cancelled_in_its_middle_stops_and_keeps_its_results(farm, board):
    campaign, job = sweep(farm, board, "all", 50)
    farm.until("results are stored", lambda: farm.stored_keys(campaign))
    cancelled = tailfleet(farm, "cancel", job)
    assert cancelled.returncode == 0, cancelled.stderr
    status = farm.wait_campaign(campaign)
    assert status.steps[0].phase == "cancelled"
    assert "the job was cancelled by operator" in status.steps[0].note
    found = farm.fleet.job(job)
    assert (found.state, found.attempt, found.who_must_act) == ("cancelled", 1, None)
    assert 0 < found.done == len(farm.stored_keys(campaign)) < found.total
    assert "cancelled" in found.attempts[0].last_words
    again = tailfleet(farm, "cancel", job)
    assert again.returncode == 2
    assert "is cancelled already" in again.stderr
    assert "Traceback" not in again.stderr
    # The board is free for the next one.
    campaign, _ = sweep(farm, board, "50,197", 1)
    assert farm.wait_campaign(campaign).state is CampaignState.DONE
