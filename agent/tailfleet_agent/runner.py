"""The measured child as seen from its supervisor: start it, read its events, answer it, end it with all it started.

The child waits after each result until the supervisor answers (``go`` or ``stop``), so that whatever the
supervisor does in between, such as an upload, falls between two timed blocks and within none.
"""

import os
import select
import signal
import subprocess
import time
from typing import Any, Dict, List, Optional

from tailfleet_schema import codec
from tailfleet_schema.errors import LabError
from tailfleet_schema.messages import LOG_BYTES, WorkerEvent, WorkerOrder

KEPT_LOGS = 50
"""So many of the newest log files stay on the board; the coordinator keeps the end of each."""

DETAIL_BYTES = 8192


def worker_command(python: str) -> List[str]:
    """The command that starts the measured child, from the zipapp that this code lies in or the installed package."""
    archive = getattr(globals().get("__loader__"), "archive", None)
    if archive is not None:
        return [python, os.path.abspath(str(archive)), "worker"]
    return [python, "-m", "tailfleet_agent.worker"]


def forget_old_logs(folder: str, keep: int = KEPT_LOGS) -> None:
    """Remove all log files in ``folder`` but the newest ``keep``."""
    try:
        paths = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".log")]
        for path in sorted(paths, key=os.path.getmtime)[: max(0, len(paths) - keep)]:
            os.remove(path)
    except OSError:
        # Nothing depends on it; the next job tries again.
        pass


class Silence(Exception):
    """No event came within the given time."""


class Child:
    """One run of the measured child; a context manager that leaves no process behind."""

    def __init__(
        self, command: List[str], order: WorkerOrder, log_path: str, environment: Optional[Dict[str, str]] = None
    ) -> None:
        os.makedirs(os.path.dirname(log_path), exist_ok=True)
        self._log_path = log_path
        with open(log_path, "ab") as log:
            try:
                # A session of its own: a signal to its group reaches all that it started, and none else.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise LabError("the measured child cannot be started: {}: {}".format(command[0], error.strerror))
        self._buffer = b""
        self._ended = False
        self._say(codec.dumps(order))

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id, also that of its group."""
        return self._process.pid

    def next_event(self, seconds: float, beside: Any = None) -> Optional[WorkerEvent]:
        """The next event; None when the child has ended.

        Raises ``Silence`` when nothing came for ``seconds`` or until ``beside`` (what has a ``fileno``) can be read,
        ``DecodeError`` when it wrote something else.
        """
        heard = [] if beside is None else [beside]
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if self._ended:
                return None
            left = max(0.0, deadline - time.monotonic())
            if self._process.stdout not in select.select([self._process.stdout, *heard], [], [], left)[0]:
                raise Silence()
            chunk = os.read(self._process.stdout.fileno(), 65536)
            self._ended = not chunk
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return codec.loads(WorkerEvent, line, "event")

    def go(self) -> None:
        """Let it measure the next unit."""
        self._say("go")

    def stop(self) -> None:
        """Let it end instead of measuring the next unit."""
        self._say("stop")

    def wait(self, seconds: float) -> int:
        """Its exit status, negative for a signal; it is killed when it takes longer than ``seconds``."""
        try:
            return self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def kill(self) -> None:
        """End it and everything in its session, at once."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass

    def note(self, words: str) -> None:
        """Write ``words`` and the time (UTC) into its log, among what it writes there itself."""
        line = "{} {}\n".format(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), words)
        try:
            with open(self._log_path, "ab") as file:
                file.write(line.encode("utf-8", "replace"))
        except OSError:
            # A full disk stops no measurement.
            pass

    def log_tail(self, most: int = LOG_BYTES) -> str:
        """The last ``most`` bytes of its log, from the beginning of a line on; what is no text is replaced."""
        try:
            with open(self._log_path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - most))
                content = file.read(most)
        except OSError:
            return ""
        if size > most:
            content = content.partition(b"\n")[2] or content
        return content.decode("utf-8", "replace").replace("\0", "\ufffd")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode("utf-8") + b"\n")
            self._process.stdin.flush()
        except OSError:
            # It has ended; next_event tells.
            pass
