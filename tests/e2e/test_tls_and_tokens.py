"""Over https with a certificate of one's own: the pasted line, a sweep, guests with tokens, a board that is revoked."""

import os
import subprocess
import sys

import pytest
from tests.coordinator.tls.conftest import Authority
from tests.e2e.conftest import Farm

from tailfleet_coordinator.client import Fleet, FleetError
from tailfleet_schema.campaign import CampaignRequest, CampaignState, SweepSettings

pytestmark = pytest.mark.slow

SWEEP = SweepSettings(counts="20,60,100,140,197", rounds=2, calls=2, budget_seconds=20.0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def farm(tmp_path_factory, authority):
    cert, key = authority.issue("127.0.0.1")
    running = Farm(tmp_path_factory.mktemp("farm"), "--tls-cert", str(cert), "--tls-key", str(key))
    running.start_coordinator()
    running.enroll("modelled", "jetson-nano", ca=str(authority.file))
    yield running
    running.end()


def run(farm, *arguments, **environment):
    """The command line as a person runs it on the coordinator's machine."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("TAILFLEET_")}
    return subprocess.run(
        [sys.executable, "-m", "tailfleet_coordinator.cli.main", *arguments],
        env={**known, "TAILFLEET_STATE": str(farm.state), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        cwd=farm.folder,
    )


def test_a_board_that_trusts_the_authority_measures_a_curve(farm):
    assert farm.fleet.url.startswith("https://127.0.0.1:")
    campaign = farm.fleet.run_campaign(
        CampaignRequest(["digits_vit"], ["modelled"], ["topk"], objective=None, sweep=SWEEP)
    )
    assert farm.wait_campaign(campaign).state is CampaignState.DONE
    assert not farm.fleet.curves(board="modelled").empty


def test_a_board_that_does_not_is_told_so_in_one_line(farm):
    folder = farm.home("mistrustful")
    folder.mkdir(parents=True)
    line = farm.fleet.enroll_board("mistrustful", virtual_profile="jetson-nano").line
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True)
    assert done.returncode != 0
    assert "certificate verify failed" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_a_guest_gets_a_token_of_their_own_until_it_is_revoked(farm, authority):
    made = run(farm, "token", "create", "guest", "--role", "viewer")
    assert "not shown again" in made.stderr
    token = made.stdout.strip()
    with Fleet(farm.fleet.url, token, str(authority.file)) as guest:
        assert "modelled" in guest.boards()["name"].tolist()
        with pytest.raises(FleetError, match="role viewer"):
            guest.revoke_board("modelled")
        listed = run(farm, "token", "list").stdout
        assert all(word in listed for word in ("guest", "viewer", "coordinator.json"))
        assert token not in listed
        assert run(farm, "token", "revoke", "guest").returncode == 0
        with pytest.raises(FleetError, match="'guest' was revoked"):
            guest.boards()
    for secret in (token, farm.token):
        assert secret not in farm.coordinator.log.read_text()
        assert secret not in str(farm.query("SELECT * FROM tokens"))


def test_a_revoked_board_s_agent_ends_and_enrols_again_under_its_curves(farm, authority):
    agent = farm.agents["modelled"]
    assert run(farm, "board", "revoke", "modelled").returncode == 0
    farm.until("the agent ends", lambda: not agent.alive)
    sentence, mend = agent.log.read_text().strip().splitlines()[-2:]
    assert sentence == "tailfleet-agent: the token of board 'modelled' was revoked"
    assert "tailfleet board enroll modelled" in mend
    assert "revoked" in run(farm, "board", "list").stdout
    refused = run(farm, "sweep", "run", "--boards", "modelled", "--method", "topk")
    assert (refused.returncode, "'modelled' is revoked" in refused.stderr) == (2, True)

    farm.enroll("modelled", "jetson-nano", ca=str(authority.file))
    assert farm.board("modelled")["online"]
    assert len(farm.fleet.boards()) == 1
    assert not farm.fleet.curves(board="modelled").empty
