"""The line that people paste: run as it is by a shell, against a real server; and where it may not work."""

import hashlib
import os
import subprocess
import sys
import zipfile
from io import BytesIO

import pytest

from tailfleet_coordinator import agent_bundle
from tailfleet_coordinator.web.enrolment import (
    FILE,
    enrolment_line,
    is_loopback,
    local_url,
    loopback_warning,
    public_url,
)


@pytest.fixture(scope="module")
def bundle():
    return agent_bundle.build()


def test_the_same_sources_give_the_same_agent(bundle):
    assert agent_bundle.build() == bundle
    assert hashlib.sha256(bundle.content).hexdigest() == bundle.sha256


def test_the_agent_holds_its_three_packages_and_nothing_else(bundle):
    with zipfile.ZipFile(BytesIO(bundle.content)) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"__main__.py", *agent_bundle.PACKAGES}
    assert all(name.endswith(".py") for name in names)
    assert "tailfleet_agent/worker/__main__.py" in names


def test_the_agent_is_one_file_that_runs(bundle, tmp_path):
    file = tmp_path / FILE
    file.write_bytes(bundle.content)
    told = subprocess.run([sys.executable, "-I", str(file), "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert told.stdout.startswith("tailfleet-agent "), told.stderr


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("sys.version_info = (3, 5, 2)", "needs Python 3.6 or newer, this is 3.5"),
        ("sys.modules['dataclasses'] = None", "-m pip install dataclasses"),
    ],
)
def test_an_old_python_is_told_what_it_lacks(bundle, tmp_path, lie, words):
    file = tmp_path / FILE
    file.write_bytes(bundle.content)
    program = f"import sys, runpy; {lie}; runpy.run_path({str(file)!r}, run_name='__main__')"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.returncode == 1
    assert words in told.stderr
    assert len(told.stderr.splitlines()) == 1


def paste(line, folder):
    """Run the line with a python3 that, in place of the agent, notes how it was called."""
    tools = folder / "bin"
    tools.mkdir()
    fake = tools / "python3"
    fake.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\necho "$@" >> calls\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_line_fetches_checks_enrols_and_runs(live, tmp_path):
    folder = tmp_path / "board"
    folder.mkdir()
    sha256 = hashlib.sha256(live.bundle.content).hexdigest()
    done = paste(enrolment_line(live.url, sha256, "tf-enrol-x", "jetson-tx2"), folder)
    assert done.returncode == 0, done.stderr
    assert (folder / FILE).read_bytes() == live.bundle.content
    assert (folder / "calls").read_text().splitlines() == [
        f"{FILE} enroll {live.url} --token tf-enrol-x --virtual jetson-tx2",
        f"{FILE} run",
    ]


def test_a_damaged_agent_is_neither_kept_nor_run(live, tmp_path):
    folder = tmp_path / "board"
    folder.mkdir()
    done = paste(enrolment_line(live.url, "0" * 64, "tf-enrol-x", None), folder)
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["bin"]


@pytest.mark.parametrize(
    ("host", "given", "url"),
    [
        ("10.0.0.5", None, "http://10.0.0.5:80"),
        ("fe80::1", None, "http://[fe80::1]:80"),
        ("127.0.0.1", "https://fleet.example/", "https://fleet.example"),
    ],
)
def test_the_address_that_boards_are_told(host, given, url):
    assert public_url(host, 80, given) == url


def test_an_address_for_everyone_is_not_told_to_boards():
    assert "0.0.0.0" not in public_url("0.0.0.0", 80, None)
    assert local_url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert local_url("::", 80) == "http://[::1]:80"
    assert local_url("10.0.0.5", 80) == "http://10.0.0.5:80"


def test_a_loopback_address_comes_with_a_warning():
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"):
        assert is_loopback(url)
    warning = loopback_warning("http://127.0.0.1:8765", 8765)
    assert "--host" in warning
    assert "--public-url" in warning
    assert loopback_warning("http://10.0.0.5:8765", 8765) is None
    assert loopback_warning("https://fleet.example", 8765) is None
