"""``serve`` as a process: ready, alone on its folder, gone without a trace; and it may be killed."""

import contextlib
import json
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tailfleet_coordinator.client import Fleet
from tailfleet_coordinator.cluster.ray_runtime import session_dir
from tailfleet_coordinator.settings import Settings
from tailfleet_coordinator.web.server import _alone, serve
from tailfleet_schema.errors import ConfigurationError

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from pathlib import Path
from tailfleet_coordinator.settings import Settings
from tailfleet_coordinator.web.server import _alone, serve
serve(Settings(state_dir=Path(sys.argv[1]), port=0, ray_cpus=1))
"""
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.05
"""Not oftener: who looks takes a core from who starts."""


def start(state):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ready(process, state):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (state / "coordinator.json").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(LOOK_SECONDS)
    return json.loads((state / "coordinator.json").read_text())


def with_parent(pid):
    """Processes of Ray that ``pid`` started, or that what it started did."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def gone(pids):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while alive := [pid for pid in pids if runs(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(LOOK_SECONDS)


def runs(pid):
    """Whether the process runs; one that ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_state_folder_has_a_key_that_its_copy_has_not(tmp_path):
    with _alone(tmp_path / "state") as key:
        pass
    with _alone(tmp_path / "state") as again:
        assert again == key
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    with _alone(tmp_path / "copy") as other:
        assert other != key


def test_a_coordinator_s_life(tmp_path):
    state = tmp_path / "state"
    process = start(state)
    known = ready(process, state)
    assert stat.S_IMODE((state / "coordinator.json").stat().st_mode) == 0o600
    assert known["token"] not in (state / "tailfleet.sqlite").read_bytes().decode("latin-1")
    with Fleet(known["url"], known["token"]) as fleet:
        assert fleet.health().status == "ok"
        assert set(fleet.models()["name"]) == {"deit_small_patch16_224", "digits_vit"}
        assert not fleet.datasets().empty

    with pytest.raises(ConfigurationError, match="another coordinator already runs"):
        serve(Settings(state_dir=state))
    with pytest.raises(ConfigurationError, match="cannot listen"):
        serve(Settings(state_dir=tmp_path / "other", port=int(known["url"].rpartition(":")[2])))

    children = with_parent(process.pid)
    assert children
    process.send_signal(signal.SIGKILL)
    process.communicate()
    gone(children)
    assert not session_dir(state).exists()

    process = start(state)
    (state / "coordinator.json").unlink(missing_ok=True)
    again = ready(process, state)
    children = with_parent(process.pid)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert out == ""
    gone(children)
    assert not session_dir(state).exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(again["url"].rpartition(":")[2]))) != 0
