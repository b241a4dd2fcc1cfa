"""The keeper of a board that is a machine of the Ray cluster: runs the very agent there that other boards run.

An actor on that machine. The agent is a subprocess in a folder of its own, with the environment as it was before Ray,
and speaks HTTP to the coordinator like any other; it dies with its keeper. Which machines are boards, and under which
name, is left to ``boards``.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tailfleet_coordinator.cluster.own_ray import die_with_parent
from tailfleet_coordinator.cluster.tasks import scrubbed

FOLDER = "~/.tailfleet"
"""On the board, of the user that Ray runs as."""

ENROL_SECONDS = 600.0
"""Enrolling imports torch, which takes most of a minute on a slow disk."""

STEADY_SECONDS = 60.0
"""An agent that ran for so long is started again at once when it dies."""

MOST_PAUSE_SECONDS = 60.0

END_SECONDS = 5.0


@dataclass(frozen=True)
class BoardOrder:
    """All that a keeper needs, by value."""

    board: str
    url: str
    """Where the board reaches the coordinator."""
    farm: str
    """Names the coordinator's database: an enrolment with another one is of no use."""
    bundle: bytes
    """The agent as one file."""
    ca: str | None = None
    """Certificates to trust for https, as PEM text; None: the system's."""
    folder: str = FOLDER


class BoardState(Enum):
    """What a look at a board found."""

    WANTS_TOKEN = "not enrolled here"
    RUNS = "runs"
    PAUSES = "died, and is started again after a pause"
    REFUSED = "cannot be enrolled"


@dataclass(frozen=True)
class BoardLook:
    """How a board is, and the last words of its agent where it is not well."""

    state: BoardState
    words: str = ""


class BoardKeeper:
    """Keeps one agent running; made an actor by ``boards``, which calls ``keep`` again and again."""

    def __init__(self, order: BoardOrder) -> None:
        self._order = order
        self._home = Path(order.folder).expanduser() / f"ray-board-{order.board}"
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._program = self._home / "tailfleet-agent.pyz"
        # Moved into place: an agent of before may still run from the old one.
        draft = self._home / f"tailfleet-agent.{os.getpid()}.new"
        draft.write_bytes(order.bundle)
        os.replace(draft, self._program)
        if order.ca is not None:
            (self._home / "ca.pem").write_text(order.ca)
        self._agent: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._deaths = 0
        self._counted = 0
        """The last process whose death was counted."""

    def keep(self, token: str | None = None) -> BoardLook:
        """Enrol with ``token`` where one is given; start the agent where it does not run."""
        if token is not None:
            problem = self._enrol(token)
            if problem is not None:
                return BoardLook(BoardState.REFUSED, problem)
        if not self._is_enrolled():
            return BoardLook(BoardState.WANTS_TOKEN)
        if self._agent is not None and self._agent.poll() is None:
            return BoardLook(BoardState.RUNS)
        if self._agent is not None:
            self._note_death()
            if time.monotonic() < self._started + self._pause():
                return BoardLook(BoardState.PAUSES, self._last_words())
        self._start()
        return BoardLook(BoardState.RUNS)

    def close(self) -> None:
        """End the agent: it kills its measured child, and the job goes back."""
        if self._agent is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._agent.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._agent.wait(END_SECONDS)

    def pid(self) -> int | None:
        """The agent's process; None where none was started."""
        return None if self._agent is None else self._agent.pid

    def _is_enrolled(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads((self._home / "enrolled.json").read_text()) == self._enrolment)
        return False

    @property
    def _enrolment(self) -> dict[str, str]:
        return {"farm": self._order.farm, "url": self._order.url, "board": self._order.board}

    def _enrol(self, token: str) -> str | None:
        """Why it cannot be; None: it is enrolled."""
        trust = [] if self._order.ca is None else ["--ca", str(self._home / "ca.pem")]
        command = [*self._command("enroll"), self._order.url, "--token", token, *trust]
        try:
            done = subprocess.run(
                command, cwd=self._home, env=scrubbed(os.environ), capture_output=True, text=True, timeout=ENROL_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error).replace(token, "…")
        if done.returncode != 0:
            return " ".join(done.stderr.split())[-300:] or f"status {done.returncode}"
        (self._home / "enrolled.json").write_text(json.dumps(self._enrolment))
        return None

    def _start(self) -> None:
        with (self._home / "agent.log").open("ab") as sink:
            self._agent = subprocess.Popen(
                self._command("run"),
                cwd=self._home,
                env=scrubbed(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                preexec_fn=_as_a_board,
            )
        self._started = time.monotonic()

    def _command(self, verb: str) -> list[str]:
        return [sys.executable, str(self._program), verb, "--home", str(self._home)]

    def _note_death(self) -> None:
        assert self._agent is not None
        if self._agent.pid != self._counted:
            steady = time.monotonic() - self._started >= STEADY_SECONDS
            self._deaths = 0 if steady else self._deaths + 1
            self._counted = self._agent.pid

    def _pause(self) -> float:
        return 0.0 if self._deaths == 0 else min(MOST_PAUSE_SECONDS, 2.0**self._deaths)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._home / "agent.log").read_text(errors="replace").splitlines()
            return " ".join(line.strip() for line in lines[-2:])[-300:]
        return ""


def _as_a_board() -> None:
    """Between fork and exec: the agent ends with its keeper, and is no less important than a user's program."""
    die_with_parent()
    with contextlib.suppress(PermissionError):
        # Ray runs its workers at a low priority.
        os.setpriority(os.PRIO_PROCESS, 0, 0)
