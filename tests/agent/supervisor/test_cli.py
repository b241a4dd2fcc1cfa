"""The agent's command line where it speaks of a board's own image folders; a real process says what it says."""

import os
import subprocess
import sys

import pytest

from tailfleet_agent import cli, config
from tailfleet_agent.config import Config
from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software


@pytest.fixture
def home(tmp_path):
    home = str(tmp_path / "home")
    config.save(home, Config("http://127.0.0.1:9", "b", "t", "jetson-nano"))
    return home


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return str(tmp_path / "images")


def test_a_folder_is_remembered_replaced_and_forgotten(home, images, tmp_path, capsys):
    assert cli.main(["dataset", "birds", images, "--home", home]) == 0
    assert config.load(home).datasets == {"birds": images}
    assert "the images of dataset birds are read from " + images in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    assert cli.main(["dataset", "fish", images, "--home", home]) == 0
    assert cli.main(["dataset", "birds", str(tmp_path / "other"), "--home", home]) == 0
    assert config.load(home).datasets == {"birds": str(tmp_path / "other"), "fish": images}
    assert cli.main(["dataset", "birds", "--forget", "--home", home]) == 0
    assert config.load(home).datasets == {"fish": images}
    assert config.load(home).board_token == "t"


def test_a_relative_path_is_made_absolute(home, images, monkeypatch):
    monkeypatch.chdir(os.path.dirname(images))
    assert cli.main(["dataset", "birds", "images", "--home", home]) == 0
    assert config.load(home).datasets == {"birds": images}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dataset", "birds", "/no/such"], "there is no folder /no/such"),
        (["dataset", "birds", __file__], "there is no folder"),
        (["dataset", "birds"], "give the folder that holds birds's images, or --forget"),
        (["dataset", "birds", "/", "--forget"], "give the folder that holds birds's images, or --forget"),
        (["run", "--dataset", "birds=/no/such"], "there is no folder /no/such"),
        (["run", "--dataset", "/no/such"], "'/no/such' is not NAME=PATH"),
        (["enroll", "http://127.0.0.1:9", "--token", "t", "--dataset", "=/"], "'=/' is not NAME=PATH"),
        (
            ["enroll", "http://127.0.0.1:9", "--token", "t", "--dataset", "birds=/no/such"],
            "there is no folder /no/such",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(home, arguments, sentence):
    done = subprocess.run(
        [sys.executable, "-m", "tailfleet_agent.cli", *arguments, "--home", home],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(sentence) or sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert config.load(home).datasets == {}


def test_a_board_that_is_not_enrolled_has_no_datasets(tmp_path, images, capsys):
    assert cli.main(["dataset", "birds", images, "--home", str(tmp_path / "none")]) == 1
    assert "no board is enrolled" in capsys.readouterr().err


def test_run_remembers_folders_and_works_with_them(home, images, monkeypatch):
    seen = []
    monkeypatch.setattr(cli.Agent, "run", lambda agent: seen.append(agent._config.datasets))
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    assert cli.main(["run", "--dataset", "birds=" + images, "--home", home]) == 0
    assert cli.main(["run", "--home", home]) == 0
    assert seen == [{"birds": images}] * 2


def test_enrolling_remembers_folders(coordinator, tmp_path, images, monkeypatch):
    facts = BoardFacts(
        BoardKind.VIRTUAL, Hardware("m", "x86_64", "cpu", 2, 1 << 30), Software("os", "k", "3", "0"), "jetson-nano"
    )
    monkeypatch.setattr(cli, "board_facts", lambda _: facts)
    home = str(tmp_path / "home")
    command = ["enroll", coordinator.url, "--token", "x", "--virtual", "jetson-nano", "--home", home]
    assert cli.main([*command, "--dataset", "birds=" + images, "--dataset", "fish=" + images]) == 0
    stored = config.load(home)
    assert stored.datasets == {"birds": images, "fish": images}
    assert (stored.board, stored.board_token, stored.virtual_profile) == ("board-1", "board-token", "jetson-nano")


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        ("toaster:noise=0.1", "no virtual board is named 'toaster'; known: jetson-nano,"),
        ("jetson-tx2:nois=0.1", "a virtual board has no option 'nois'; known: noise,"),
        ("jetson-tx2:noise=2", "option noise of a virtual board must be a number from 0 to 1, not '2'"),
    ],
)
def test_a_virtual_board_that_is_none_is_refused_by_name_at_the_board(tmp_path, capsys, profile, sentence):
    home = str(tmp_path / "home")
    assert cli.main(["enroll", "http://127.0.0.1:9", "--token", "x", "--virtual", profile, "--home", home]) == 1
    said = capsys.readouterr().err
    assert said.startswith("tailfleet-agent: " + sentence)
    assert len(said.splitlines()) == 1
    assert not os.path.exists(home)


def test_what_virtual_boards_can_be_asked_for_stands_in_the_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["enroll", "--help"])
    # However wide the terminal is.
    assert "throttle-after-seconds" in "".join(capsys.readouterr().out.split())
