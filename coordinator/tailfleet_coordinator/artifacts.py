"""The content-addressed store: weights and images as files named by their sha256.

A file is whole or absent: it is written beside its place and moved there once its bytes have the hash they were
promised to have. None is held in memory while it is written. Who may read or write one, and what refers to it, is
left to others.
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tailfleet_coordinator.refusals import StorageFull, UnknownName
from tailfleet_schema.errors import InputError, LabError

_SHA256 = re.compile(r"[0-9a-f]{64}")

DRAFT = ".draft-"
"""Beginning of the names of files that are not whole yet."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Draft:
    """An artifact on its way in: ``write`` its bytes in order, then ``keep`` it."""

    def __init__(self, folder: Path, sha256: str, descriptor: int, path: str) -> None:
        self._folder = folder
        self._sha256 = sha256
        self._descriptor = descriptor
        self._path = path
        self._hash = hashlib.sha256()
        self.size = 0
        """Bytes written so far."""

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``. Raises ``StorageFull``, or ``LabError`` where the disk does not take it."""
        view = memoryview(chunk)
        self._hash.update(view)
        self.size += len(view)
        with self._told_in_a_sentence():
            while view:
                view = view[os.write(self._descriptor, view) :]

    def keep(self) -> None:
        """Move the file to its place. Raises ``InputError`` where its bytes do not have the promised sha256."""
        found = self._hash.hexdigest()
        if found != self._sha256:
            raise InputError(
                f"{self.size} bytes arrived whose sha256 is {found}, not {self._sha256}", "send the file again"
            )
        with self._told_in_a_sentence():
            os.fsync(self._descriptor)
            os.replace(self._path, self._folder / self._sha256)
            _sync_folder(self._folder)

    @contextmanager
    def _told_in_a_sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise storage_full(self._folder, self._sha256) from error
            raise LabError(
                f"the coordinator cannot store artifact {self._sha256[:12]}: {error.strerror}",
                f"see to the folder {self._folder}",
            ) from error


class Artifacts:
    """The artifacts below one folder, which is made when the first one is put there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, content: bytes) -> str:
        """Store ``content``; its sha256 in hexadecimal. Storing the same twice does nothing."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.has(sha256):
            with self.draft(sha256) as draft:
                draft.write(content)
                draft.keep()
        return sha256

    @contextmanager
    def draft(self, sha256: str) -> Iterator[Draft]:
        """A place to write the artifact of that name to; nothing is left of it unless it was kept."""
        check_sha256(sha256)
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(dir=self._folder, prefix=DRAFT)
        try:
            yield Draft(self._folder, sha256, descriptor, path)
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                os.unlink(path)

    def discard_drafts(self) -> None:
        """Remove what a writer that was killed left behind. Only for the one process that writes here."""
        for path in self._folder.glob(DRAFT + "*"):
            path.unlink(missing_ok=True)

    def check_room(self, sha256: str, size: int) -> None:
        """Raise ``StorageFull`` unless the disk has ``size`` bytes left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if size > shutil.disk_usage(self._folder).free:
            raise storage_full(self._folder, sha256)

    def has(self, sha256: str) -> bool:
        """Whether the artifact is there."""
        return _SHA256.fullmatch(sha256) is not None and (self._folder / sha256).is_file()

    def path(self, sha256: str) -> Path:
        """Where the artifact lies. Raises ``UnknownName`` where there is none, whatever the name looks like."""
        if not self.has(sha256):
            raise UnknownName(f"there is no artifact {sha256[:12]}")
        return self._folder / sha256

    def read(self, sha256: str) -> bytes:
        """The artifact's bytes. Raises ``UnknownName``, or ``LabError`` where the disk no longer holds what was put."""
        content = self.path(sha256).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise LabError(
                f"artifact {sha256[:12]} is damaged on the coordinator's disk",
                f"remove {self._folder / sha256} and start the coordinator again",
            )
        return content


def check_sha256(text: str) -> None:
    """Raise ``InputError`` unless ``text`` is a sha256 in lower-case hexadecimal."""
    if not _SHA256.fullmatch(text):
        raise InputError("an artifact is named by its sha256: 64 digits of lower-case hexadecimal")


def storage_full(folder: Path, sha256: str) -> StorageFull:
    """The refusal of an artifact for which there is no room."""
    return StorageFull(
        f"the coordinator's disk has no room for artifact {sha256[:12]}", f"make room for it in {folder}"
    )


def _sync_folder(folder: Path) -> None:
    # A row may soon refer to the file; after a power cut it must not refer to nothing.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
