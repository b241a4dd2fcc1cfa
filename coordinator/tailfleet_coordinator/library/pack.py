"""The zip that carries a dataset's image files: written as a stream, and judged by its directory alone.

The same images under the same paths give the same bytes, whatever their dates and owners. Nothing is compressed, since
images are already, and no image is ever held in memory whole.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from tailfleet_coordinator.library.imagefolder import pieces
from tailfleet_coordinator.library.progress import Progress, silent
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import ImageFile

OLDEST = (1980, 1, 1, 0, 0, 0)
"""The one date a zip can hold that says nothing."""

ENTRY_BYTES = 46 + 32
"""What the zip's directory holds of a file beside its name, with the 64-bit extension."""

END_BYTES = 1 << 17
"""What the directory's end may take: its records, and the 64 KiB of comment in which they are sought."""


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, piece: object) -> int:
        """Keep ``piece``."""
        self._waiting.append(bytes(cast(bytes, piece)))
        return len(self._waiting[-1])

    def take(self) -> bytes:
        """What was written since the last time."""
        taken, self._waiting = b"".join(self._waiting), []
        return taken


def stream(root: Path, files: Sequence[ImageFile]) -> Iterator[bytes]:
    """The pack's bytes, piece by piece. Raises ``InputError`` for a file that is no longer what the index says."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.path, OLDEST)
            entry.create_system = 3  # unix, wherever it is written
            entry.external_attr = 0o644 << 16
            digest = hashlib.sha256()
            with archive.open(entry, "w") as member:
                for piece in pieces(root, file.path):
                    digest.update(piece)
                    member.write(piece)
                    yield sink.take()
            if digest.hexdigest() != file.sha256:
                raise InputError(f"{root / file.path} changed while it was read", "add the dataset again")
    yield sink.take()


def measure(root: Path, files: Sequence[ImageFile], progress: Progress = silent, expected: int = 0) -> tuple[str, int]:
    """The pack's sha256 and its length; ``expected`` is a guess of the length for ``progress``."""
    digest, size = hashlib.sha256(), 0
    for piece in stream(root, files):
        digest.update(piece)
        size += len(piece)
        progress("packing", size, max(expected, size))
    return digest.hexdigest(), size


class _Frugal:
    """A file that refuses to be read by the gigabyte: what a zip says of its own size is not to be believed."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(min(size, self._most + 1) if size >= 0 else self._most + 1)
        if len(content) > self._most:
            raise zipfile.BadZipFile("its directory is larger than that of the files it should hold")
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def check_directory(pack: Path, paths: Sequence[str]) -> None:
    """Raise ``InputError`` unless the zip holds exactly the files ``paths``, uncompressed.

    Only its directory is read, and no more of that than so many names can fill; whether the files' bytes are those of
    the index is checked where they are used.
    """
    most = END_BYTES + sum(ENTRY_BYTES + len(path.encode()) for path in paths)
    try:
        with pack.open("rb") as file:
            entries = zipfile.ZipFile(cast(IO[bytes], _Frugal(file, most))).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError) as error:
        raise InputError(f"the pack is not a zip of image files: {error}") from error
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise InputError("the pack holds a path twice")
    for what, odd in (
        ("lacks", sorted(set(paths).difference(names))),
        ("holds, but the index does not,", sorted(set(names).difference(paths))),
    ):
        if odd:
            raise InputError(f"the pack {what} {odd[0]!r}{f' and {len(odd) - 1} more' if len(odd) > 1 else ''}")
    for entry in entries:
        plain = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
        if not plain or entry.flag_bits & 0x1:
            raise InputError(f"the pack holds {entry.filename!r} compressed or encrypted", "store it as it is")
    # Files of an honest pack lie side by side, so together they are no longer than it.
    if sum(entry.file_size for entry in entries) > pack.stat().st_size:
        raise InputError("the files of the pack overlap")
