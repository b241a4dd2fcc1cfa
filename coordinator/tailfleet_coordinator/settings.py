"""What an installation of the coordinator is told, in one place: where it keeps things, where it listens, how patient
it is. Values only; the command line fills them in, and nothing here touches a disk or a network.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


def default_state_dir() -> Path:
    """``$TAILFLEET_STATE``, else ``~/.tailfleet``."""
    return Path(os.environ.get("TAILFLEET_STATE") or "~/.tailfleet").expanduser()


@dataclass(frozen=True)
class Settings:
    """One coordinator."""

    state_dir: Path = field(default_factory=default_state_dir)
    """Folder of the database, the artifacts and the tokens. At home: nothing is installed system-wide."""

    database_url: str | None = None
    """SQLAlchemy URL of the database. None: a SQLite file in ``state_dir``, since one machine needs no server."""

    host: str = "127.0.0.1"
    """Address to listen on. Loopback, so that nobody is let in who was not meant to be."""

    port: int = 8765
    """TCP port to listen on; 0 takes a free one. Fixed by default, since boards remember it."""

    public_url: str | None = None
    """Address at which boards reach the coordinator, such as ``http://10.0.0.5:8765``. None: made of host and port."""

    tls_cert: Path | None = None
    """PEM file of the certificate (and its intermediates) for https. None: http, fit for one machine or a network that
    nobody else is on, since tokens travel in the clear."""

    tls_key: Path | None = None
    """PEM file of the certificate's key, not encrypted; exactly with ``tls_cert``."""

    ray_address: str | None = None
    """An existing Ray cluster, ``host:port``. None: Ray is started on this machine and ends with the coordinator."""

    ray_ports: int | None = None
    """First of the 256 TCP ports that a Ray started here listens on. None: the first free block from 20765 on."""

    ray_cpus: int | None = None
    """Cores that Ray may use at once on this machine. None: as many as there are."""

    lease_seconds: float = 120.0
    """A job whose board says nothing for so long counts as abandoned. Ten contacts of an agent, so that a short
    outage of the network does not free the machine that the board measures."""

    online_seconds: float = 60.0
    """A board that was heard of within so many seconds is shown as online. Three long polls."""

    claimable_seconds: float = 30.0
    """Waiting work of a physical board keeps other users off its machine only while the board was heard of within so
    many seconds; longer than one long poll, short enough that a board that left holds up nobody for long."""

    poll_seconds: float = 20.0
    """The longest a request for work is held back. Below the usual 30 s of proxies, and of ``claimable_seconds``."""

    step_seconds: float = 1.0
    """Pause between two looks at a campaign. A look costs milliseconds of a core that may be measured meanwhile."""

    leadership_seconds: float = 15.0
    """A coordinator that does not renew its hold on the database for so long may be replaced by another one. Renewed
    every third of it: short enough that a spare one takes over within a poll, long enough for a database to restart."""

    body_bytes: int = 64 * 1024 * 1024
    """The largest request that is read; an upload of 500 results with 1000 calls each has about 10 MB."""

    artifact_bytes: int = 64 * 1024**3
    """The largest artifact that is taken in. Room for all of ImageNet's validation images ten times over, and yet no
    slip of the hand fills a large disk."""

    dataset_folders: Mapping[str, Path] = field(default_factory=dict)
    """Folders that hold the image files of datasets, by name: where a dataset was registered without its files, models
    are profiled on those. On a Ray cluster every machine needs them at the same place."""

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.state_dir.expanduser().resolve() / 'tailfleet.sqlite'}"

    @property
    def database_file(self) -> Path:
        """``database.url``: the database's URL for the coordinator's own actors, readable by its owner alone."""
        return self.state_dir.expanduser().resolve() / "database.url"

    @property
    def artifacts_dir(self) -> Path:
        """Folder of the content-addressed artifacts."""
        return self.state_dir.expanduser() / "artifacts"

    @property
    def ready_file(self) -> Path:
        """``coordinator.json``: the address and the operator's token, written once requests are answered."""
        return self.state_dir.expanduser() / "coordinator.json"
