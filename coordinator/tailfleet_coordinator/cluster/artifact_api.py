"""Fetches images and weights for a task, from the coordinator's HTTP interface into a folder of the task's node.

They may have gigabytes: they are streamed to disk, resumed where a transfer broke off, and kept for the next task. A
file under its sha256 is whole and has that hash; drafts lie beside it.
"""

import contextlib
import fcntl
import hashlib
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tailfleet_schema import codec
from tailfleet_schema.errors import DecodeError, LabError, TailfleetError
from tailfleet_schema.messages import ErrorReply

TIMEOUT_SECONDS = 30.0
"""A transfer in which nothing comes for so long is broken off and resumed."""

PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 10.0)
"""Before each further try to get on with a transfer; a coordinator that restarts is back by then."""

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ArtifactApi:
    """Where a task finds artifacts; sent to it by value."""

    url: str
    """The coordinator's base address, as the cluster's machines reach it."""
    token: str = field(repr=False)
    """Of role viewer."""
    ca: str | None = None
    """Certificates to trust for https, as PEM text, beside the system's."""
    folder: str | None = None
    """Where artifacts are kept on the node; None: ``~/.cache/tailfleet/artifacts`` of the user that Ray runs as."""

    dataset_folders: Mapping[str, str] = field(default_factory=dict)
    """Folders of the node that hold the image files of datasets, by name: nothing is fetched for those."""

    @property
    def cache(self) -> Path:
        """The folder on this node."""
        if self.folder is not None:
            return Path(self.folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tailfleet" / "artifacts"


class _Broken(Exception):
    """A transfer that may go on later."""


def fetch(api: ArtifactApi, wanted: list[str]) -> Path:
    """Have the artifacts on this node; the folder in which each lies under its sha256.

    Raises ``TailfleetError`` with the coordinator's own words where it refuses, ``LabError`` where it stays silent or
    what arrives is damaged.
    """
    folder = api.cache
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    missing = [sha256 for sha256 in wanted if not (folder / sha256).exists()]
    if missing:
        trust = ssl.create_default_context()
        if api.ca is not None:
            trust.load_verify_locations(cadata=api.ca)
            # The coordinator's own certificate is trusted as it is, whoever signed it.
            trust.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        headers = {"Authorization": f"Bearer {api.token}", "Accept-Encoding": "identity"}
        with httpx.Client(base_url=api.url, headers=headers, verify=trust, timeout=TIMEOUT_SECONDS) as client:
            for sha256 in missing:
                with _draft(folder, sha256) as draft:
                    _fetch_one(client, sha256, draft, folder / sha256)
    return folder


def _fetch_one(client: httpx.Client, sha256: str, draft: Path, target: Path) -> None:
    if target.exists():
        # Another task of this node was quicker.
        return
    for pause in (*PAUSES_SECONDS, None):
        try:
            _go_on(client, sha256, draft)
            break
        except _Broken as error:
            if pause is None:
                raise LabError(
                    f"artifact {sha256[:12]} could not be fetched from {client.base_url}: {error}",
                    "the machines of the Ray cluster must reach the coordinator: tailfleet up --host --public-url",
                ) from error
            time.sleep(pause)
    if _sha256(draft) != sha256:
        draft.unlink()
        raise LabError(f"artifact {sha256[:12]} arrived damaged")
    os.replace(draft, target)


def _go_on(client: httpx.Client, sha256: str, draft: Path) -> None:
    """Fetch what ``draft`` lacks. Raises ``_Broken`` for what passes."""
    have = draft.stat().st_size if draft.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with client.stream("GET", f"/v1/artifacts/{sha256}", headers=headers) as reply:
            if reply.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                # The draft is as long as the artifact, or longer: the hash will tell.
                return
            if reply.status_code >= 500:
                raise _Broken(f"status {reply.status_code}")
            if reply.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                reply.read()
                raise _refusal(reply)
            with draft.open("ab" if reply.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as file:
                for chunk in reply.iter_raw(CHUNK_BYTES):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
    except httpx.TransportError as error:
        raise _Broken(str(error) or type(error).__name__) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _refusal(reply: httpx.Response) -> TailfleetError:
    try:
        told = codec.loads(ErrorReply, reply.content, "reply")
    except DecodeError:
        return LabError(f"the coordinator answers with status {reply.status_code}")
    error = TailfleetError(told.error, told.mend)
    error.blame = told.blame
    return error


@contextlib.contextmanager
def _draft(folder: Path, sha256: str) -> Iterator[Path]:
    """The place where the artifact grows, for one process of the node at a time."""
    with (folder / f"{sha256}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / f"{sha256}.part"
