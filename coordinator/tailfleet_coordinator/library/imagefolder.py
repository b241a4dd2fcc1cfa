"""A folder of images by class, as torchvision's ``ImageFolder`` reads it, or of images without labels: which files
there are, and their sha256.

The folders right below the root are the classes, in the order of their names; whatever lies below one of them, however
deep, is of that class. Without labels whatever lies below the root counts. Hidden files and folders are left out. Files
are read once, in pieces, and only their first bytes are looked at: decoding them is the measured child's work.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tailfleet_coordinator.library.progress import Progress, silent
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import LARGEST, NO_LABEL

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's ``IMG_EXTENSIONS``."""

SPLIT_NAMES = frozenset(["train", "training", "val", "valid", "validation", "test", "testing"])
"""Folders that hold classes instead of being ones."""

PIECE_BYTES = 1 << 20

_IMAGE = re.compile(
    rb"\xff\xd8\xff"  # JPEG
    rb"|\x89PNG\r\n\x1a\n"
    rb"|BM....\0\0\0\0"  # BMP
    rb"|GIF8[79]a"
    rb"|II[*+]\0|MM\0[*+]"  # TIFF and BigTIFF
    rb"|P[1-6]\s"  # PBM, PGM, PPM
    rb"|RIFF....WEBP",
    re.DOTALL,
)
"""How the files of these kinds begin. A wrong suffix among them is forgiven: decoders look at the bytes too."""


@dataclass(frozen=True)
class Found:
    """An image file that has not been read yet."""

    path: str
    """Relative to the root, with ``/`` between its parts."""
    label: int
    size: int


@dataclass(frozen=True)
class Picture:
    """An image file by its content."""

    path: str
    label: int
    sha256: str


@dataclass(frozen=True)
class ImageFolder:
    """What lies in a folder."""

    root: Path
    classes: list[str]
    """Names of the class folders by label; an empty text for a label that no folder has. None without labels."""
    files: list[Found]
    """Sorted by path."""
    notes: list[str] = field(default_factory=list)
    """What was left out, one sentence each."""


def scan(root: Path, class_index: Mapping[str, int] | None = None) -> ImageFolder:
    """The image files below ``root``.

    ``class_index`` gives each class folder its label, for a folder that holds a part of a model's classes; without it
    the labels are 0, 1, … in the order of the folders' names. Raises ``InputError`` for what is no such folder.
    """
    _check_root(root, "name the folder that holds one folder a class")
    names = _class_folders(root)
    labels = {name: label for label, name in enumerate(names)} if class_index is None else _chosen(names, class_index)
    skipped = _Skipped()
    files: list[Found] = []
    for name in names:
        of_class = list(_images(root, root / name, labels[name], skipped))
        if not of_class:
            skipped.empty.append(name)
        files += of_class
    if not files:
        raise InputError(f"there are no images in the class folders of {root}", f"images end in {', '.join(SUFFIXES)}")
    skipped.loose += sum(1 for entry in os.scandir(root) if entry.is_file() and not entry.name.startswith("."))
    classes = [""] * (max(labels.values()) + 1)
    for name, label in labels.items():
        classes[label] = name
    files.sort(key=lambda file: file.path)
    return ImageFolder(root, classes, files, skipped.sentences())


def scan_unlabelled(root: Path) -> ImageFolder:
    """The image files below ``root``, however deep, without labels. Raises ``InputError`` where there are none."""
    _check_root(root, "name the folder that holds the images")
    skipped = _Skipped()
    files = sorted(_images(root, root, NO_LABEL, skipped), key=lambda file: file.path)
    if not files:
        raise InputError(f"there are no images in {root}", f"images end in {', '.join(SUFFIXES)}")
    return ImageFolder(root, [], files, skipped.sentences())


def read(folder: ImageFolder, progress: Progress = silent) -> tuple[list[Picture], list[str]]:
    """Every image of ``folder`` once, sorted by path, and one sentence on those that were there more often.

    Raises ``InputError``, naming the files, for one that is no image or cannot be read, and for the same bytes under
    two classes: no label would be right.
    """
    total, done = sum(file.size for file in folder.files), 0
    first: dict[str, Picture] = {}
    copies = 0
    for file in folder.files:
        digest = hashlib.sha256()
        for number, piece in enumerate(pieces(folder.root, file.path)):
            if number == 0 and not is_image(piece):
                raise InputError(
                    f"{folder.root / file.path} is no image: it begins like none that ends in {', '.join(SUFFIXES)}",
                    "remove the file, or give it the name of what it is",
                )
            digest.update(piece)
            done += len(piece)
            progress("reading", done, total)
        picture = Picture(file.path, file.label, digest.hexdigest())
        known = first.setdefault(picture.sha256, picture)
        if known.label != picture.label:
            raise InputError(
                f"{known.path} and {picture.path} are the same image under two classes", "remove one of them"
            )
        copies += known is not picture
    of_class = " of their class" if folder.classes else ""
    notes = [f"{copies} files are copies of another one{of_class} and count once"] if copies else []
    return list(first.values()), notes


def pieces(root: Path, path: str) -> Iterator[bytes]:
    """The file's bytes piece by piece, at least one. Raises ``InputError`` where it cannot be read."""
    try:
        with (root / path).open("rb") as file:
            piece = file.read(PIECE_BYTES)
            yield piece
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise InputError(f"{root / path} cannot be read: {error.strerror}") from error


def is_image(beginning: bytes) -> bool:
    """Whether a file that begins so is an image of a kind that torchvision reads."""
    return _IMAGE.match(beginning) is not None


def _check_root(root: Path, mend: str) -> None:
    if not root.exists():
        raise InputError(f"there is no {root}")
    if not root.is_dir():
        raise InputError(f"{root} is a file, not a folder of images", mend)


def _class_folders(root: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error.strerror}") from error
    if not names:
        raise InputError(
            f"{root} has no class folders",
            "put the images of each class into a folder of its own, or add them with --no-labels",
        )
    if SPLIT_NAMES.issuperset(name.lower() for name in names):
        raise InputError(
            f"the folders of {root} ({', '.join(names)}) are splits, not classes",
            f"name one of them: {root / names[0]}",
        )
    return names


def _chosen(names: list[str], class_index: Mapping[str, int]) -> dict[str, int]:
    missing = [name for name in names if name not in class_index]
    if missing:
        raise InputError(f"the class index gives no label to {_some(missing)}", "add it, or move the folder away")
    chosen = {name: class_index[name] for name in names}
    owners: dict[int, str] = {}
    for name, label in chosen.items():
        if not 0 <= label < LARGEST:
            raise InputError(f"the class index gives {name!r} the label {label}; labels begin at 0")
        if label in owners:
            raise InputError(f"the class index gives {owners[label]!r} and {name!r} the same label {label}")
        owners[label] = name
    return chosen


def _images(root: Path, folder: Path, label: int, skipped: "_Skipped") -> Iterator[Found]:
    """Image files below ``folder``; a folder that links lead to twice is read once."""
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        skipped.hidden += sum(name.startswith(".") for name in [*folders, *names])
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(place, name)
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                skipped.others.append(name)
                continue
            yield Found(_portable(path.relative_to(root)), label, path.stat().st_size)


def _portable(path: Path) -> str:
    text = path.as_posix()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {os.fsencode(path)!r} is not UTF-8", "rename the file") from None
    return text


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass
class _Skipped:
    hidden: int = 0
    loose: int = 0
    others: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def sentences(self) -> list[str]:
        told = []
        if self.hidden:
            told.append(f"{self.hidden} hidden files or folders are left out")
        if self.others:
            told.append(f"{len(self.others)} files are no images by their names and are left out: {_some(self.others)}")
        if self.loose:
            told.append(f"{self.loose} files lie outside the class folders and are left out")
        if self.empty:
            told.append(f"no images are in {_some(self.empty)}; the class keeps its label")
        return told
