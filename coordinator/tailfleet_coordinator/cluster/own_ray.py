"""A Ray of the coordinator's own, and the small process that ends it with the coordinator, however that one dies.

``ray start`` runs below a supervisor: this module as a program. It holds the ports, learns by the end of its standard
input that the coordinator is gone, adopts what Ray leaves behind, kills all of it, and removes Ray's folder. Connecting
to Ray is left to ``ray_runtime``.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from tailfleet_coordinator.cluster import ray_ports
from tailfleet_schema.errors import ConfigurationError

PREDECESSOR_SECONDS = 30.0
"""A supervisor waits so long for that of a killed coordinator to be through with the same folder."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Order:
    """What the supervisor is told, as one line of JSON."""

    folder: str
    """Ray's sockets and logs; emptied first, removed afterwards."""
    first_port: int | None
    """Begin of the block of ports; None: the first free one."""
    cpus: int | None
    object_store_bytes: int


class OwnRay:
    """A Ray on this machine that this process starts, and that does not outlive it."""

    def __init__(self, order: Order, environment: Mapping[str, str]) -> None:
        """Begin to start it. Raises ``ConfigurationError`` where there are no ports for it."""
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
            text=True,
        )
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(asdict(order)), file=self._supervisor.stdin, flush=True)
        answer = json.loads(self._supervisor.stdout.readline() or "{}")
        if "port" not in answer:
            self.stop()
            raise ConfigurationError(
                str(answer.get("error", "the supervisor of Ray does not start; see the log")),
                "name a free block with --ray-ports, or end what listens there",
            )
        self.port = int(answer["port"])
        """Of Ray's control service (GCS), the first of the block."""

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._supervisor.poll() is None

    def last_words(self) -> str:
        """Why it ended by itself; waits for its end."""
        assert self._supervisor.stdout is not None
        return str(json.loads(self._supervisor.stdout.readline() or "{}").get("error", "it ended without a word"))

    def stop(self) -> None:
        """End it, with everything that it started; returns when nothing of it is left."""
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._supervisor.stdin.close()
        self._supervisor.wait()
        self._supervisor.stdout.close()


def supervise(order: Order) -> None:
    """The supervisor's life: until standard input or Ray ends."""
    folder = Path(order.folder)
    with contextlib.ExitStack() as stack:
        _wait_for_predecessor(stack, folder)
        first = stack.enter_context(ray_ports.take(order.first_port))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        stack.callback(kill_descendants)
        woken = _wake_on_children(stack)
        output = folder / "ray-start.log"
        pid = _start_ray(order, first, output)
        _say(port=first)
        while not select.select([sys.stdin], [], [], 0)[0]:
            select.select([sys.stdin, woken], [], [])
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            if pid in _reap():
                lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
                _say(error=lines[-1] if lines else "ray start ended without a word")
                return


def kill_descendants() -> None:
    """End all that this process, a subreaper, has started, and what that started; return when nothing is left."""
    while True:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            # Each death hands its children over to this process, to be killed in the next round.
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def die_with_parent() -> None:
    """For a child between fork and exec: it is killed when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _start_ray(order: Order, first: int, output: Path) -> int:
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--include-dashboard=false", "--node-ip-address=127.0.0.1"),
        *(f"--temp-dir={order.folder}", f"--object-store-memory={order.object_store_bytes}"),
        *ray_ports.options(first),
    ]
    if order.cpus is not None:
        command.append(f"--num-cpus={order.cpus}")
    with output.open("wb") as sink:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, preexec_fn=die_with_parent
        ).pid


def _wait_for_predecessor(stack: contextlib.ExitStack, folder: Path) -> None:
    deadline = time.monotonic() + PREDECESSOR_SECONDS
    # Such a name may have no more than 107 letters.
    name = f"tailfleet-ray-folder-{sha256(str(folder).encode()).hexdigest()}"
    while not ray_ports.held(stack, name):
        if time.monotonic() > deadline:
            raise ray_ports.PortsTaken(f"an earlier Ray of this coordinator still uses {folder}")
        time.sleep(0.1)


def _wake_on_children(stack: contextlib.ExitStack) -> int:
    """A descriptor that becomes readable when a child ends."""
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    stack.callback(os.close, writing)
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(writing)
    stack.callback(signal.set_wakeup_fd, -1)
    return reading


def _reap() -> set[int]:
    """Children that have ended since the last call."""
    ended = set()
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            ended.add(pid)
    return ended


def descendants(pid: int) -> list[int]:
    """Processes that ``pid`` started, those that they started, and so on."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found: list[int] = []
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found += new
    return found


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _say(**words: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(words), flush=True)


if __name__ == "__main__":
    # What a terminal or a service manager sends to all of a coordinator's processes is for the coordinator to obey.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        supervise(Order(**json.loads(sys.stdin.readline())))
    except ray_ports.PortsTaken as error:
        _say(error=str(error))
