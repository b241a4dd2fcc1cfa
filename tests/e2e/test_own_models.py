"""One's own checkpoint and one's own folder of images, from the command line to measured top-1 on a board."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tailfleet_schema.campaign import CampaignRequest, CampaignState, Measure, Objective, SweepSettings

pytestmark = pytest.mark.slow

ARGUMENTS = [
    "--arch", "VisionTransformer", "--img-size", "16", "--patch-size", "4", "--in-chans", "1", "--num-classes", "3",
    "--set", "embed_dim=48", "--set", "depth=3", "--set", "num_heads=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with images and weights."""
    folder = tmp_path_factory.mktemp("world")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("own_models.py"), folder], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def tailfleet(farm):
    """The command line as a person runs it; what it prints."""
    environment = {**os.environ, "TAILFLEET_URL": farm.fleet.url, "TAILFLEET_TOKEN": farm.token, "COLUMNS": "200"}

    def run(*arguments, status=0):
        command = [sys.executable, "-m", "tailfleet_coordinator.cli.main", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=farm.folder)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def registered(farm, world, tailfleet):
    """Images and two models of one checkpoint, one from each kind of file."""
    images, models = tailfleet("dataset", "add", "numerals", world / "images", "--calibration", "0.4"), []
    for name, file in (("mine", "weights.safetensors"), ("mine-too", "weights.pt")):
        models.append(
            tailfleet("model", "add", name, *ARGUMENTS, "--checkpoint", world / file, "--dataset", "numerals")
        )
    return images, models


def measured(farm, model):
    """The report of a small campaign on this machine."""
    campaign = farm.fleet.run_campaign(
        CampaignRequest(
            models=[model],
            boards=["here"],
            methods=["topk"],
            objective=Objective(max_accuracy_drop=30.0),
            sweep=SweepSettings(counts="5,9,13,17", rounds=2, calls=2, budget_seconds=4.0),
        )
    )
    status = farm.wait_campaign(campaign)
    assert status.state is CampaignState.DONE, status
    return farm.fleet.report(campaign).rows


def test_what_is_said_of_them(registered, tailfleet):
    images, models = registered
    assert images == "dataset numerals is registered: 3 classes, 24 calibration and 36 evaluation images\n"
    weights = {re.search(r"artifact ([0-9a-f]{12})", said).group(1) for said in models}
    assert len(weights) == 1, "the same tensors, whatever file held them, are one artifact"
    assert "3 blocks of 48, 17 tokens, 16 px, 3 classes" in models[0]
    refused = tailfleet("model", "add", "mine", *ARGUMENTS, status=2)
    assert "another model is called 'mine'" in refused


@pytest.fixture(scope="module")
def enrolled(farm):
    """This machine as the board ``here``."""
    farm.enroll("here")


def test_a_board_measures_and_judges_them(farm, enrolled, registered):
    rows = measured(farm, "mine")
    assert rows
    for row in rows:
        assert row.top1_dense >= 60.0
        assert row.top1_computed_on == "board"
        assert row.schedule_digest is None or row.top1_pruned >= 0.0
    frame = farm.fleet.curves(model="mine", board="here")
    curve = frame[(frame["part"] == "model") & (frame["source"] == "measured")]
    assert sorted(curve["tokens"]) == [5, 9, 13, 17]


def test_the_same_images_without_their_labels_are_judged_by_agreement(
    farm, enrolled, registered, tailfleet, world, tmp_path
):
    said = tailfleet("dataset", "add", "nameless", world / "images", "--no-labels", "--calibration", "0.4")
    assert said == "dataset nameless is registered: no labels, 24 calibration and 36 evaluation images\n"
    tailfleet(
        "model", "add", "mine-nameless", *ARGUMENTS, "--checkpoint", world / "weights.pt", "--dataset", "nameless"
    )
    said = tailfleet(
        "campaign", "run", "--boards", "here", "--models", "mine-nameless", "--method", "topk,tome",
        "--latency-budget", "0.99x", "--counts", "5,9,13,17", "--rounds", "2", "--calls", "2", "--budget-seconds", "20",
    )  # fmt: skip
    campaign = re.search(r"campaign (\S+):", said).group(1)
    files = tailfleet("campaign", "report", campaign, "--out", tmp_path / "report")
    rows = farm.fleet.report(campaign).rows
    assert {row.method for row in rows} == {"topk", "tome"}
    for row in rows:
        assert (row.measure, row.top1_dense, row.agreement_dense) == (Measure.AGREEMENT, None, 100.0)
        assert row.schedule_digest is None or 0.0 <= row.agreement_pruned <= 100.0
    texts = [said, files, *((tmp_path / "report" / name).read_text() for name in ("table.md", "index.html"))]
    for text in texts:
        assert "agreement" in text
        assert "top-1" not in text
        assert "accuracy" not in text


def test_the_same_images_from_folders_of_the_lab_s_own(farm, enrolled, registered, tailfleet, world, tmp_path_factory):
    """Nothing is sent: the coordinator and the board name a folder each, and it may lie elsewhere on each."""
    folder = tmp_path_factory.mktemp("elsewhere") / "images"
    shutil.copytree(world / "images", folder)
    said = tailfleet("dataset", "add", "local", world / "images", "--calibration", "0.4", "--seed", "1", "--index-only")
    assert "no images were sent" in said
    tailfleet("model", "add", "mine-locally", *ARGUMENTS, "--checkpoint", world / "weights.pt", "--dataset", "local")
    farm.coordinator.end()
    farm.options = ("--dataset", f"local={world / 'images'}")
    farm.start_coordinator()
    remembered = subprocess.run(
        [sys.executable, "tailfleet-agent.pyz", "dataset", "local", str(folder)],
        env={**os.environ, "TAILFLEET_AGENT_HOME": str(farm.home("here"))},
        cwd=farm.home("here"),
        capture_output=True,
        text=True,
    )
    assert remembered.returncode == 0, remembered.stderr
    farm.restart_agent("here")
    rows = measured(farm, "mine-locally")
    assert rows
    assert all(row.top1_dense >= 60.0 and row.top1_computed_on == "board" for row in rows)
    (index,) = [name for name, pack in specs(farm) if pack is None]
    assert (farm.home("here") / "artifacts" / index).is_file()


def specs(farm):
    """sha256 of index and pack of each dataset of files."""
    rows = [json.loads(text) for (text,) in farm.query("SELECT spec_json FROM datasets")]
    return [(row["sha256"], row["pack_sha256"]) for row in rows if row["form"] == "files"]
