"""The content-addressed store: weights and images as files named by their sha256.

A file is whole or absent: it is written beside its place and moved there. Who may read one, and what refers to
it, is left to others.
"""

import hashlib
import os
import re
import tempfile
from pathlib import Path

from tailfleet_coordinator.refusals import UnknownName
from tailfleet_schema.errors import LabError

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Artifacts:
    """The artifacts below one folder, which is made when the first one is put there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, content: bytes) -> str:
        """Store ``content``; its sha256 in hexadecimal. Storing the same twice does nothing."""
        sha256 = hashlib.sha256(content).hexdigest()
        target = self._folder / sha256
        if target.exists():
            return sha256
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=self._folder, prefix=".draft-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, target)
        except BaseException:
            os.unlink(draft)
            raise
        return sha256

    def path(self, sha256: str) -> Path:
        """Where the artifact lies. Raises ``UnknownName`` where there is none, whatever the name looks like."""
        target = self._folder / sha256
        if not _SHA256.fullmatch(sha256) or not target.is_file():
            raise UnknownName(f"there is no artifact {sha256[:12]}")
        return target

    def read(self, sha256: str) -> bytes:
        """The artifact's bytes. Raises ``UnknownName``, or ``LabError`` where the disk no longer holds what was put."""
        content = self.path(sha256).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise LabError(
                f"artifact {sha256[:12]} is damaged on the coordinator's disk",
                f"remove {self._folder / sha256} and start the coordinator again",
            )
        return content
