"""What an enrolled agent remembers: its coordinator, its name and its token, in one file of its home folder.

The home folder holds ``agent.json`` (mode 0600), ``spool/``, ``artifacts/``, ``logs/``, ``schedules/`` and a lock that
keeps a second agent out. Left to others: what the files in those folders mean.
"""

import fcntl
import os
import sys
from dataclasses import dataclass, field
from typing import IO, Dict, Optional

from tailfleet_schema import codec
from tailfleet_schema.errors import ConfigurationError, DecodeError

DEFAULT_HOME = os.environ.get("TAILFLEET_AGENT_HOME") or os.path.join("~", ".tailfleet", "agent")
"""One agent a home; several agents on one machine need several."""


@dataclass(frozen=True)
class Config:
    """One enrolment."""

    url: str
    """The coordinator's base address, such as ``http://10.0.0.5:8765``."""
    board: str
    board_token: str
    virtual_profile: Optional[str] = None
    """Set when this agent speaks for a modelled board."""
    worker_python: str = sys.executable
    """The interpreter that has torch and timm; the measured child runs on it."""
    ca: Optional[str] = None
    """Certificates to trust for https; None: the system's."""
    contact_seconds: float = 10.0
    """Least time between two requests while a job runs. Rare, so that measuring is not disturbed; well below
    a lease, so that it does not expire."""
    datasets: Dict[str, str] = field(default_factory=dict)
    """Folders that hold the image files of datasets, by the datasets' names: nothing is fetched for those."""
    cache_bytes: int = 20 * 10**9
    """Fetched weights and images take at most so much of the disk, unless one job needs more."""


def path(home: str, *names: str) -> str:
    """``home`` joined with ``names``; ``~`` is expanded."""
    return os.path.join(os.path.expanduser(home), *names)


def load(home: str) -> Config:
    """The enrolment stored in ``home``. Raises ``ConfigurationError`` when there is none or it is unreadable."""
    name = path(home, "agent.json")
    try:
        with open(name, "rb") as file:
            return codec.loads(Config, file.read(), "agent.json")
    except FileNotFoundError:
        raise ConfigurationError(
            "no board is enrolled in {}".format(path(home)),
            mend="tailfleet board enroll NAME (on the coordinator) prints the line to paste here",
        )
    except OSError as error:
        raise ConfigurationError("cannot read {}: {}".format(name, error.strerror))
    except DecodeError as error:
        raise ConfigurationError("{} is damaged: {}".format(name, error.sentence), mend="enroll the board again")


def save(home: str, config: Config) -> None:
    """Store ``config`` in ``home``, readable by its owner alone; the old one stays whole until the new one is."""
    write_durably(path(home, "agent.json"), codec.dumps(config).encode("utf-8"), mode=0o600)


def write_durably(name: str, content: bytes, mode: int = 0o644) -> None:
    """Replace the file ``name`` by ``content`` such that a power cut leaves the old or the new one."""
    os.makedirs(os.path.dirname(name), exist_ok=True)
    draft = "{}.{}.new".format(name, os.getpid())
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, name)


def lock(home: str) -> IO[str]:
    """Keep ``home`` for this process until it ends. Raises ``ConfigurationError`` when another agent has it."""
    name = path(home, "lock")
    os.makedirs(os.path.dirname(name), exist_ok=True)
    file = open(name, "a")  # noqa: SIM115 - held open as long as the lock is
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigurationError(
            "another agent already runs in {}".format(path(home)), mend="give this one a folder of its own with --home"
        )
    return file
