"""SIGKILL of the agent, of the measured child and of the coordinator, each in mid-sweep.

Afterwards the job finishes, and all that the sweep lists is stored: none missing, none twice.
"""

import os
import signal

import pytest

from tailfleet_coordinator import bundled
from tailfleet_coordinator.plan import design
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignRequest, CampaignState, SweepSettings

pytestmark = pytest.mark.slow

COUNTS = ",".join(str(count) for count in range(21, 198, 16))
SWEEP = SweepSettings(counts=COUNTS, rounds=2, calls=4, fresh=True, precision=1.0, budget_seconds=20.0)
"""Long enough to be met in its middle. Nothing is measured again for being known too little, and what is listed takes a
fraction of the budget, so that all of it is measured also beside others."""


@pytest.fixture(scope="module")
def board(farm):
    farm.enroll("here")
    return "here"


@pytest.fixture(scope="module")
def listed():
    """Keys of what is ordered; a sweep may measure more than that."""
    (spec,) = [spec for spec in bundled.models() if spec.name == "digits_vit"]
    units = design.sweep_units(spec.geometry, ["topk"], COUNTS, BoardKind.PHYSICAL)
    return {tuple(unit.key(number)) for unit in units for number in range(SWEEP.rounds)}


def begin(farm, board):
    return farm.fleet.run_campaign(CampaignRequest(["digits_vit"], [board], ["topk"], objective=None, sweep=SWEEP))


def in_the_middle(farm, campaign):
    """Wait until some results are stored, and tell how many; far fewer than all."""
    return farm.until("results are stored", lambda: len(farm.stored_keys(campaign)))


def finish(farm, campaign):
    status = farm.wait_campaign(campaign)
    assert status.state is CampaignState.DONE, status
    keys = farm.stored_keys(campaign)
    assert len(keys) == len(set(keys))
    assert farm.query("SELECT total FROM jobs WHERE campaign_id = ?", campaign) == [(len(keys),)]
    return keys


def test_kill_the_measured_child(farm, board, listed):
    campaign = begin(farm, board)
    assert 0 < in_the_middle(farm, campaign) < len(listed)
    os.kill(farm.worker_pid(board), signal.SIGKILL)
    assert listed <= set(finish(farm, campaign))
    assert farm.query("SELECT attempt > 1 FROM jobs WHERE campaign_id = ?", campaign) == [(1,)]


def test_kill_the_agent(farm, board, listed):
    campaign = begin(farm, board)
    assert 0 < in_the_middle(farm, campaign) < len(listed)
    agent, child = farm.supervisor_pid(board), farm.worker_pid(board)
    os.kill(agent, signal.SIGKILL)
    farm.until("the orphaned child ends by itself", lambda: not os.path.exists(f"/proc/{child}"))
    farm.restart_agent(board)
    assert listed <= set(finish(farm, campaign))


def test_kill_the_coordinator(farm, board, listed):
    campaign = begin(farm, board)
    assert 0 < in_the_middle(farm, campaign) < len(listed)
    farm.coordinator.kill()
    farm.start_coordinator()
    assert listed <= set(finish(farm, campaign))
