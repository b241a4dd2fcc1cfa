"""The line that people paste: run as it is by a shell, against a real server; and where it may not work."""

import hashlib
import os
import subprocess
import sys
import zipfile
from inspect import signature
from io import BytesIO

import pytest
import trustme

from tailfleet_coordinator import agent_bundle
from tailfleet_coordinator.cli.up import up
from tailfleet_coordinator.client import Fleet
from tailfleet_coordinator.settings import Settings
from tailfleet_coordinator.web.enrolment import (
    FILE,
    check_path,
    clear_warning,
    enrolment_line,
    is_loopback,
    local_url,
    loopback_warning,
    public_url,
)
from tailfleet_schema.errors import InputError


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


def test_programs_of_ones_own_find_the_reduction_in_the_agent(bundle, tmp_path):
    file = tmp_path / FILE
    file.write_bytes(bundle.content)
    (tmp_path / "own.py").write_text("import tailfleet_reduce\nprint(tailfleet_reduce.__file__)\n")
    surroundings = {**os.environ, "PYTHONPATH": str(file)}
    told = subprocess.run(
        [sys.executable, "own.py"], capture_output=True, text=True, cwd=tmp_path, env=surroundings, timeout=120
    )
    assert told.stdout.startswith(str(file)), told.stderr


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


@pytest.fixture
def promise(live):
    with Fleet(live.url, live.operator) as fleet:
        yield fleet.enroll_board("nano").token


def test_the_line_fetches_checks_enrols_and_runs(live, promise, tmp_path):
    folder = tmp_path / "board"
    folder.mkdir()
    sha256 = hashlib.sha256(live.bundle.content).hexdigest()
    ca = tmp_path / 'my "own" fleet\'s.pem'
    trustme.CA().cert_pem.write_to_path(str(ca))
    line = enrolment_line(live.url, sha256, promise, "jetson-tx2", str(ca))
    assert "\n" not in line
    done = paste(line, folder)
    assert done.returncode == 0, done.stderr
    assert (folder / FILE).read_bytes() == live.bundle.content
    assert (folder / "calls").read_text().splitlines() == [
        f"{FILE} enroll {live.url} --token {promise} --ca {ca} --virtual jetson-tx2",
        f"{FILE} run",
    ]


def test_a_damaged_agent_is_neither_kept_nor_run(live, promise, tmp_path):
    folder = tmp_path / "board"
    folder.mkdir()
    done = paste(enrolment_line(live.url, "0" * 64, promise, None), folder)
    assert done.returncode == 1
    assert done.stderr.strip() == "the agent arrived damaged"
    assert sorted(path.name for path in folder.iterdir()) == ["bin"]


def test_a_line_that_is_too_late_says_so_without_a_traceback(live, promise, tmp_path):
    folder = tmp_path / "board"
    folder.mkdir()
    live.lab.sql("UPDATE enrolments SET used_at = created_at")
    for url, words in ((live.url, "this enrolment token was used already"), ("http://127.0.0.1:9", "refused")):
        done = paste(enrolment_line(url, live.bundle.sha256, promise, None), folder)
        (folder / "bin" / "python3").unlink()
        (folder / "bin").rmdir()
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("path", ["", "a\nb", "a\0b"])
def test_a_path_that_would_break_the_line_is_refused(path):
    with pytest.raises(InputError, match="cannot be the path"):
        check_path(path)


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
    assert clear_warning("http://127.0.0.1:8765") is None


def test_an_address_in_the_clear_comes_with_a_warning():
    assert "in the clear" in clear_warning("http://10.0.0.5:8765")
    assert clear_warning("https://10.0.0.5:8765") is None


def test_with_a_certificate_addresses_say_https():
    assert public_url("10.0.0.5", 80, None, https=True) == "https://10.0.0.5:80"
    assert local_url("::", 80, https=True) == "https://[::1]:80"


def test_nothing_but_loopback_is_listened_on_unless_told():
    assert Settings().host == "127.0.0.1"
    told = signature(up).parameters["host"].default
    assert told == "127.0.0.1"
    assert loopback_warning("https://fleet.example", 8765) is None
