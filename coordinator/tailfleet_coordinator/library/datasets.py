"""From an ``ImageFolder`` to a dataset that can be registered: its index, its pack, and what is said of it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tailfleet_coordinator.library import imagefolder, pack, splits
from tailfleet_coordinator.library.admission import CALIBRATION, EVALUATION
from tailfleet_coordinator.library.progress import Progress, silent
from tailfleet_coordinator.names import check_name
from tailfleet_schema import codec
from tailfleet_schema.errors import DecodeError, InputError
from tailfleet_schema.workload import FILES, DatasetIndex, DatasetSpec, ImageFile


@dataclass(frozen=True)
class Prepared:
    """A dataset that is ready to be sent."""

    spec: DatasetSpec
    index: DatasetIndex
    root: Path
    pack_bytes: int = 0
    """Length of the pack; 0 where there is none."""
    notes: tuple[str, ...] = ()
    """What a person should know: files that were left out."""

    @property
    def content(self) -> bytes:
        """The index as it is stored."""
        return codec.dumps(self.index).encode()

    def pack(self) -> Iterator[bytes]:
        """The pack's bytes, made anew from the files."""
        return pack.stream(self.root, self.index.files)

    def packed(self, progress: Progress = silent) -> "Prepared":
        """The same with its pack measured, hence named."""
        size = sum((self.root / file.path).stat().st_size for file in self.index.files)
        sha256, length = pack.measure(self.root, self.index.files, progress, size)
        return replace(self, spec=replace(self.spec, pack_sha256=sha256), pack_bytes=length)


def prepare(
    name: str,
    root: Path,
    calibration: splits.Amount = splits.CALIBRATION_SHARE,
    evaluation: splits.Amount | None = None,
    seed: int = 0,
    class_index: Mapping[str, int] | None = None,
    progress: Progress = silent,
    labels: bool = True,
) -> Prepared:
    """Read every image below ``root`` once, and divide them. There is no pack yet; see :meth:`Prepared.packed`.

    Without ``labels`` the folders are no classes. Raises ``InputError``, naming what is wrong with which file or
    folder.
    """
    check_name("dataset", name)
    if not labels and class_index is not None:
        raise InputError("a class index gives labels, and images without labels have none", "leave one of them out")
    folder = imagefolder.scan(root, class_index) if labels else imagefolder.scan_unlabelled(root)
    pictures, notes = imagefolder.read(folder, progress)
    parts = splits.split(pictures, folder.classes, calibration, evaluation, seed)
    files = [
        ImageFile(picture.path, picture.label, which, picture.sha256)
        for which, part in zip((CALIBRATION, EVALUATION), parts, strict=True)
        for picture in part
    ]
    index = DatasetIndex(folder.classes, files)
    spec = DatasetSpec(
        name=name,
        sha256=hashlib.sha256(codec.dumps(index).encode()).hexdigest(),
        classes=len(folder.classes),
        calibration_images=len(parts[0]),
        evaluation_images=len(parts[1]),
        source=f"image folder {root.resolve().name!r}, {len(pictures)} images{'' if labels else ' without labels'},"
        f" divided with seed {seed}",
        form=FILES,
    )
    return Prepared(spec, index, root, notes=(*folder.notes, *notes))


def read_class_index(path: Path) -> dict[str, int]:
    """A JSON object of class folder to label. Raises ``InputError``."""
    try:
        told = json.loads(path.read_bytes())
        return codec.decode(dict[str, int], told)
    except OSError as error:
        raise InputError(f"the class index {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, DecodeError) as error:
        raise InputError(
            f"the class index {path} is not a JSON object of folder to label: {error}", 'such as {"n01440764": 0}'
        ) from error
