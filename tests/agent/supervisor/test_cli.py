"""The agent's command line where it speaks of a board's own image folders, of its facts and of its sensors; a real
process says what it says."""

import dataclasses
import io
import json
import os
import subprocess
import sys

import pytest

from tailfleet_agent import cli, config
from tailfleet_agent.config import Config
from tailfleet_schema import codec
from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software, Telemetry, fingerprint


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


FACTS = BoardFacts(BoardKind.PHYSICAL, Hardware("m", "x86_64", "Ryzen", 2, 1 << 30), Software("os", "k", "3", "0"))
VIRTUAL = BoardFacts(BoardKind.VIRTUAL, FACTS.hardware, FACTS.software, "jetson-nano")
STATE = Telemetry("2026-01-01T00:00:00+00:00", power_mode="balanced", power_mw=143250.0, power_of="gpu")


@pytest.fixture
def board(monkeypatch):
    """A board that tells this, and who was asked for its torch."""
    asked = []
    monkeypatch.setattr(cli, "board_facts", lambda config: asked.append(config) or FACTS)
    monkeypatch.setattr(cli.probes, "read_telemetry", lambda between_jobs=False: STATE)
    return asked


def test_facts_are_told_before_a_board_is_enrolled(board, tmp_path, capsys):
    home = str(tmp_path / "none")

    assert cli.main(["facts", "--home", home]) == 0

    told = capsys.readouterr().out
    assert "processor            Ryzen, 2 cores, x86_64" in told
    assert "{}, in power mode balanced".format(fingerprint(FACTS, "balanced")[:12]) in told
    assert (board[0].worker_python, board[0].virtual_profile) == (sys.executable, None)
    assert not os.path.exists(home)


def test_facts_are_those_of_the_enrolled_board_and_its_interpreter(board, home, capsys):
    config.save(home, Config("http://127.0.0.1:9", "b", "t", None, "/opt/python"))
    assert cli.main(["facts", "--home", home]) == 0
    assert cli.main(["facts", "--home", home, "--worker-python", "/usr/bin/python3"]) == 0
    assert [one.worker_python for one in board] == ["/opt/python", "/usr/bin/python3"]


def test_facts_as_json_are_what_the_coordinator_gets(board, tmp_path, capsys):
    assert cli.main(["facts", "--json", "--home", str(tmp_path)]) == 0

    told = json.loads(capsys.readouterr().out)
    assert codec.decode(BoardFacts, told["facts"]) == FACTS
    assert (told["power_mode"], told["fingerprint"]) == ("balanced", fingerprint(FACTS, "balanced"))


def test_sensors_are_told_with_what_a_reading_costs(board, tmp_path, capsys):
    assert cli.main(["sensors", "--home", str(tmp_path)]) == 0

    told = capsys.readouterr().out.splitlines()
    assert "power                143.25 W of the gpu" in told
    assert [line for line in told if line.startswith("one reading takes") and line.endswith(" ms")]
    assert board == []


def test_sensors_as_json(board, tmp_path, capsys):
    assert cli.main(["sensors", "--json", "--home", str(tmp_path)]) == 0

    told = json.loads(capsys.readouterr().out)
    assert codec.decode(Telemetry, told["telemetry"]) == STATE
    assert told["reading_ms"] >= 0


def test_only_between_jobs_are_slow_services_asked(board, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(cli.probes, "read_telemetry", lambda between_jobs=False: asked.append(between_jobs) or STATE)

    assert cli.main(["sensors", "--home", str(tmp_path)]) == 0
    # The second is what a measurement pays.
    assert asked == [True, False]


def test_a_console_without_a_degree_sign_is_told_too(board, tmp_path, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(cli.sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    warm = dataclasses.replace(STATE, temperature_c=44.5)
    monkeypatch.setattr(cli.probes, "read_telemetry", lambda between_jobs=False: warm)

    assert cli.main(["sensors", "--home", str(tmp_path)]) == 0
    assert b"44.5 ?C" in written.getvalue()


def test_a_virtual_board_has_no_sensors_of_this_machine(home, monkeypatch, capsys):
    def never(**_):
        raise AssertionError("this machine's sensors were read")

    monkeypatch.setattr(cli.probes, "read_telemetry", never)

    assert cli.main(["sensors", "--home", home]) == 1
    said = capsys.readouterr().err
    assert "a virtual board has no sensors" in said
    assert "--home" in said
    monkeypatch.setattr(cli, "board_facts", lambda _: VIRTUAL)
    assert cli.main(["facts", "--home", home]) == 0
    assert "without a power mode" in capsys.readouterr().out


def test_a_damaged_enrolment_is_told(tmp_path, capsys):
    (tmp_path / "agent.json").write_text("{")
    assert cli.main(["sensors", "--home", str(tmp_path)]) == 1
    assert "is damaged" in capsys.readouterr().err
