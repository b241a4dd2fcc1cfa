"""Labelled images on a board: finding them, checking them, and reading them a batch at a time.

They come as an ``.npz`` of plain arrays (no pickle), or as an index of image files that lie in a pack among the
artifacts or in a folder of this machine's own. Nothing is trusted that its sha256 does not vouch for: an artifact's is
checked before it is parsed, an image file's whenever it is read. What a picture becomes is left to ``preprocess``, what
a split is for and judging predictions to ``judge``, fetching artifacts to the supervisor.
"""

import hashlib
import io
import os
import zipfile
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from PIL import Image

from tailfleet_agent.worker import preprocess
from tailfleet_schema import codec
from tailfleet_schema.errors import InputError, LabError
from tailfleet_schema.workload import FILES, JUDGED_SPLITS, DatasetIndex, DatasetSpec, ImageFile, ModelSpec

SPLITS = ("train", *JUDGED_SPLITS)

CHUNK_BYTES = 1 << 20


class Images:
    """One split, in the dataset's order. Labels are at hand; a picture is read when it is asked for, and not kept."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels = labels
        """int64 (n,)"""

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def pictures(self, start: int, stop: int) -> List["Image.Image"]:
        """Those from ``start`` to before ``stop``, or to the end where that comes first.

        Raises ``LabError``, which names the image, for one that is missing or not what it should be.
        """
        raise NotImplementedError

    def pixels(self, model: ModelSpec, start: int, stop: int) -> torch.Tensor:
        """The same as ``model`` wants them before they are normalised: uint8 (B, channels, size, size)."""
        return preprocess.pixels(self.pictures(start, stop), model)

    def inputs(self, model: ModelSpec) -> torch.Tensor:
        """All of them as ``model`` takes them, at once: fp32 (n, channels, size, size)."""
        return preprocess.normalised(self.pixels(model, 0, len(self)), model)


class ArrayImages(Images):
    """Pictures that are in memory as they came: uint8 (n, h, w) or (n, h, w, 3)."""

    def __init__(self, arrays: "np.ndarray[Any, Any]", labels: torch.Tensor) -> None:
        super().__init__(labels)
        self._arrays = arrays

    def pictures(self, start: int, stop: int) -> List["Image.Image"]:
        """See ``Images``."""
        return [Image.fromarray(array) for array in self._arrays[start:stop]]


class FileImages(Images):
    """Pictures in files, each held against the index when it is read."""

    def __init__(self, what: str, files: Sequence[ImageFile], reader: "Reader") -> None:
        super().__init__(torch.tensor([file.label for file in files], dtype=torch.int64))
        self._what = what
        self._files = files
        self._reader = reader

    def pictures(self, start: int, stop: int) -> List["Image.Image"]:
        """See ``Images``."""
        return [self._picture(file) for file in self._files[start:stop]]

    def _picture(self, file: ImageFile) -> "Image.Image":
        content = self._reader.read(file.path)
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise LabError(
                "image {} of {} is not the one that was added: its bytes do not have the sha256 {}".format(
                    self._reader.where(file.path), self._what, file.sha256[:12]
                ),
                self._reader.mend,
            )
        try:
            picture = Image.open(io.BytesIO(content))
            picture.load()
        except Exception as error:  # each of Pillow's readers raises kinds of its own for a file that is none of its
            raise LabError(
                "image {} of {} cannot be decoded on this board: {}".format(
                    self._reader.where(file.path), self._what, error
                ),
                "give the board a Pillow that reads the format, or add the dataset again without the file",
            )
        return picture


class Reader:
    """Where the bytes of image files come from."""

    mend = ""
    """What helps where they are not right."""

    def where(self, path: str) -> str:
        """What people find the file by."""
        raise NotImplementedError

    def read(self, path: str) -> bytes:
        """The file's bytes. Raises ``LabError``, which names it."""
        raise NotImplementedError


class FolderReader(Reader):
    """Image files below a folder of this machine."""

    def __init__(self, what: str, folder: str) -> None:
        self._what = what
        self._folder = folder
        self.mend = "copy the dataset's files to {} again, or name another folder with tailfleet-agent dataset".format(
            folder
        )
        if not os.path.isdir(folder):
            raise LabError("the folder {} that this board names for {} is not there".format(folder, what), self.mend)

    def where(self, path: str) -> str:
        """See ``Reader``."""
        return os.path.join(self._folder, *path.split("/"))

    def read(self, path: str) -> bytes:
        """See ``Reader``."""
        try:
            with open(self.where(path), "rb") as file:
                return file.read()
        except OSError as error:
            raise LabError(
                "image {} of {} cannot be read: {}".format(self.where(path), self._what, error.strerror), self.mend
            )


class PackReader(Reader):
    """Image files in the dataset's pack."""

    def __init__(self, what: str, path: str) -> None:
        self._what = what
        self.mend = "remove {} and start the job again".format(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise LabError("the pack of {} is not on this board: {}".format(what, error.strerror))
        except zipfile.BadZipFile as error:
            raise LabError("the pack of {} is damaged: {}".format(what, error), self.mend)

    def where(self, path: str) -> str:
        """See ``Reader``."""
        return path

    def read(self, path: str) -> bytes:
        """See ``Reader``."""
        try:
            return self._zip.read(path)
        except (KeyError, OSError, RuntimeError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise LabError("image {} of {} cannot be read from its pack: {}".format(path, self._what, error), self.mend)


def artifact(artifacts_dir: str, sha256: str, what: str) -> str:
    """The path of the artifact, its bytes checked. Raises ``LabError`` where it is absent or not what its name says."""
    path = os.path.join(artifacts_dir, sha256)
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
                digest.update(chunk)
    except OSError as error:
        raise LabError("{} is not on this board: {}".format(what, error))
    if digest.hexdigest() != sha256:
        raise LabError(
            "{} is damaged: its bytes do not have the sha256 {}".format(what, sha256[:12]),
            "remove {} and start the job again".format(path),
        )
    return path


def read_arrays(path: str, what: str) -> Dict[str, "np.ndarray[Any, Any]"]:
    """The plain arrays of an ``.npz``; never unpickles. Raises ``InputError`` for anything else."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy and zipfile raise half a dozen kinds for a file that is none
        raise InputError("{} is not an .npz of plain arrays ({})".format(what, error))


def load(
    spec: DatasetSpec, artifacts_dir: str, split: str, limit: Optional[int] = None, folder: Optional[str] = None
) -> Images:
    """The first ``limit`` images (None: all) of ``split``; image files from ``folder`` (None: from the pack).

    Raises ``LabError`` for an artifact or folder that is missing or damaged, ``InputError`` for a dataset that does
    not hold what ``DatasetSpec`` promises.
    """
    if split not in SPLITS:
        raise InputError("unknown split {!r}; known: {}".format(split, ", ".join(SPLITS)))
    what = "dataset {!r}".format(spec.name)
    path = artifact(artifacts_dir, spec.sha256, what)
    images = (
        _files(spec, path, split, limit, artifacts_dir, folder)
        if spec.form == FILES
        else _arrays(spec, path, split, limit)
    )
    if not len(images):
        raise InputError("{} has no {} images".format(what, split))
    return images


def _files(
    spec: DatasetSpec, path: str, split: str, limit: Optional[int], artifacts_dir: str, folder: Optional[str]
) -> Images:
    what = "dataset {!r}".format(spec.name)
    with open(path, "rb") as file:
        index = codec.loads(DatasetIndex, file.read(), "the index of " + what)
    if len(index.classes) != spec.classes:
        raise InputError("{} has {} classes, not {}".format(what, len(index.classes), spec.classes))
    if folder is not None:
        reader: Reader = FolderReader(what, folder)
    elif spec.pack_sha256 is not None:
        reader = PackReader(what, os.path.join(artifacts_dir, spec.pack_sha256))
    else:
        raise LabError(
            "the images of {} are not shipped, and this board names no folder that has them".format(what),
            "tailfleet-agent dataset {} FOLDER (on the board, then start its agent again)".format(spec.name),
        )
    return FileImages(what, [file for file in index.files if file.split == split][:limit], reader)


def _arrays(spec: DatasetSpec, path: str, split: str, limit: Optional[int]) -> Images:
    what = "dataset {!r}".format(spec.name)
    arrays = read_arrays(path, what)
    missing = [name for name in ("images", "labels", *SPLITS) if name not in arrays]
    if missing:
        raise InputError("{} lacks {}".format(what, ", ".join(missing)))
    images, labels = arrays["images"], arrays["labels"]
    grey = images.ndim == 3
    if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[3] == 3)):
        raise InputError("{}: images must be uint8 (n, h, w) or (n, h, w, 3)".format(what))
    if labels.shape != images.shape[:1] or labels.dtype != np.int64:
        raise InputError("{}: labels must be int64, one for each image".format(what))
    if labels.size and not 0 <= labels.min() <= labels.max() < spec.classes:
        raise InputError("{}: labels must lie between 0 and {}".format(what, spec.classes - 1))
    for name in SPLITS:
        index = arrays[name]
        inside = not index.size or 0 <= index.min() <= index.max() < len(labels)
        if index.dtype != np.int64 or index.ndim != 1 or not inside:
            raise InputError("{}: {} must be int64 indices of images".format(what, name))
    together = np.concatenate([arrays[name] for name in SPLITS])
    if len(np.unique(together)) != len(together):
        raise InputError("{}: its splits share images".format(what))
    chosen = arrays[split][:limit]
    return ArrayImages(images[chosen], torch.from_numpy(labels[chosen]))
