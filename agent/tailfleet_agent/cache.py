"""Artifacts on the board's disk: fetched once, kept while there is room, shared by the agents that use the folder.

A file named by its sha256 is whole; ``….part`` is a transfer that broke off, and goes on where it stopped. Whoever uses
a file holds a lock on it, so that nobody, this agent or another, removes it meanwhile. Standard library only. How bytes
come over the network is ``client``'s, what they mean the measured child's, which checks what it reads.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
from typing import IO, Any, Callable, Iterator, List, Optional, Tuple

from tailfleet_agent.client import CHUNK_BYTES, Client, Refused, Unreachable
from tailfleet_schema.errors import InputError, LabError

TRIES = 4
"""So often in a row a transfer may bring nothing before it is given up."""

PAUSE_SECONDS = 2.0
"""Between two tries, and between two looks at a file that another agent is fetching."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_OURS = re.compile(r"[0-9a-f]{64}(\.part)?")


class Cache:
    """The artifacts in ``folder``, which together take at most ``limit_bytes`` unless one job needs more.

    ``pause`` waits so many seconds.
    """

    def __init__(self, folder: str, limit_bytes: int, pause: Callable[[float], Any] = time.sleep) -> None:
        self.folder = folder
        self._limit = limit_bytes
        self._pause = pause

    @contextlib.contextmanager
    def holding(self, client: Client, wanted: List[str], breathe: Callable[[], None]) -> Iterator[None]:
        """Have all of ``wanted`` in the folder, and keep them there until the block ends.

        ``breathe`` is called between any two chunks, and whenever nothing can be done but wait; it may raise to give
        up. Raises ``Unreachable``, ``Refused``, and ``LabError`` for what arrives damaged and for a disk that is full.
        """
        for sha256 in wanted:
            if not _SHA256.fullmatch(sha256):
                raise InputError("{!r} is not the sha256 of an artifact".format(sha256))
        with contextlib.ExitStack() as held:
            try:
                os.makedirs(self.folder, exist_ok=True)
                for sha256 in wanted:
                    held.enter_context(self._held(client, sha256, wanted, breathe))
                self._make_room(0, wanted)
            except OSError as error:
                raise LabError("artifacts cannot be kept in {}: {}".format(self.folder, error))
            yield

    def _held(self, client: Client, sha256: str, wanted: List[str], breathe: Callable[[], None]) -> IO[bytes]:
        """The artifact, opened and locked against removal."""
        name = os.path.join(self.folder, sha256)
        while True:
            file = _locked(name, "rb", fcntl.LOCK_SH)
            if file is not None:
                # Its age is what it is removed by.
                os.utime(name)
                return file
            self._fetch(client, sha256, wanted, breathe)

    def _fetch(self, client: Client, sha256: str, wanted: List[str], breathe: Callable[[], None]) -> None:
        """Have the artifact in its place, by this agent's doing or another's."""
        name = os.path.join(self.folder, sha256)
        part = name + ".part"
        while not os.path.exists(name):
            try:
                file = _locked(part, "a+b", fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Another agent fetches it.
                breathe()
                self._pause(PAUSE_SECONDS)
                continue
            if file is None:
                continue
            try:
                if os.path.exists(name):
                    _remove(part)
                else:
                    self._complete(client, sha256, file, wanted, breathe)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(part, name)
            except OSError as error:
                # What is measured must find room on the disk, before anything else.
                _remove(part)
                raise LabError(
                    "artifact {} cannot be stored in {}: {}".format(sha256[:12], self.folder, error.strerror),
                    "make room on the board's disk",
                )
            except Refused:
                _remove(part)
                raise
            except _Damaged:
                _remove(part)
                raise LabError(
                    "artifact {} arrived damaged: its bytes do not have that sha256".format(sha256[:12]),
                    "look whether the coordinator's file is whole, and what lies between it and the board",
                )
            finally:
                # What a full disk did not take is tried once more here, in vain.
                with contextlib.suppress(OSError):
                    file.close()

    def _complete(
        self, client: Client, sha256: str, file: IO[bytes], wanted: List[str], breathe: Callable[[], None]
    ) -> None:
        """Add to ``file`` what it lacks. Raises ``_Damaged``, ``OSError`` of the disk, and what ``Client`` raises."""
        digest, have = _hashed(file, breathe)
        fruitless = 0
        while digest.hexdigest() != sha256:
            resumed = False
            before = have
            try:
                with client.artifact(sha256, have) as transfer:
                    resumed = transfer.start > 0
                    if transfer.start != have:
                        file.truncate(0)
                        digest, have = hashlib.sha256(), 0
                    if transfer.total is not None:
                        self._make_room(transfer.total - have, wanted)
                    for chunk in transfer.chunks():
                        file.write(chunk)
                        digest.update(chunk)
                        have += len(chunk)
                        breathe()
            except Unreachable:
                fruitless = 0 if have > before else fruitless + 1
                if fruitless == TRIES:
                    raise
                breathe()
                self._pause(PAUSE_SECONDS)
                continue
            finally:
                file.flush()
            if digest.hexdigest() != sha256:
                if not resumed:
                    raise _Damaged()
                # What lay here before may be what a power cut left of it.
                file.truncate(0)
                digest, have = hashlib.sha256(), 0

    def _make_room(self, incoming: int, wanted: List[str]) -> None:
        """Remove what was not used for longest until ``incoming`` bytes fit the limit and the disk.

        Raises ``LabError`` when the disk has no room all the same.
        """
        stored = self._stored()
        used = sum(size for _, size, _ in stored)
        for _, size, name in stored:
            if used + incoming <= self._limit and shutil.disk_usage(self.folder).free >= incoming:
                return
            if name.partition(".")[0] not in wanted and _remove_unused(os.path.join(self.folder, name)):
                used -= size
        free = shutil.disk_usage(self.folder).free
        if free < incoming:
            raise LabError(
                "an artifact of {:.1f} GB does not fit the disk of {}, which has {:.1f} GB free".format(
                    incoming / 1e9, self.folder, free / 1e9
                ),
                "make room on the board's disk",
            )

    def _stored(self) -> List[Tuple[float, int, str]]:
        """When each file was last used, its bytes and its name; the oldest first."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _OURS.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        facts = entry.stat()
                        found.append((facts.st_mtime, facts.st_size, entry.name))
        return sorted(found)


class _Damaged(Exception):
    """All bytes came, and they are the wrong ones."""


def _locked(name: str, mode: str, how: int) -> Optional[IO[bytes]]:
    """The file, open and locked; None where there is none, or it was moved or removed while the lock was got.

    Raises ``BlockingIOError`` where ``how`` says not to wait.
    """
    try:
        file = open(name, mode)  # noqa: SIM115 - held open as long as the lock is
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, how)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(name)):
            return file
    except FileNotFoundError:
        pass
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _hashed(file: IO[bytes], breathe: Callable[[], None]) -> Tuple[Any, int]:
    """The running sha256 of what ``file`` holds, and how many bytes that is."""
    digest, have = hashlib.sha256(), 0
    file.seek(0)
    while True:
        chunk = file.read(CHUNK_BYTES)
        if not chunk:
            return digest, have
        digest.update(chunk)
        have += len(chunk)
        breathe()


def _remove(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(name)


def _remove_unused(name: str) -> bool:
    """Remove the file unless somebody holds it; whether it is gone."""
    try:
        file = _locked(name, "rb", fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if file is not None:
        with file:
            _remove(name)
    return True
