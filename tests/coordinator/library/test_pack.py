"""The zip of a dataset: the same images, the same bytes; and a directory that is believed no further than it must."""

import io
import os
import struct
import tracemalloc
import zipfile

import pytest

from tailfleet_coordinator.library import imagefolder, pack
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import ImageFile


def files_of(root):
    pictures, _ = imagefolder.read(imagefolder.scan(root))
    return [ImageFile(picture.path, picture.label, "calibration", picture.sha256) for picture in pictures]


@pytest.fixture
def packed(lay, tmp_path):
    """A pack on disk, and the paths in it."""
    root = lay({"cat": 2, "dog": 1})
    files = files_of(root)
    path = tmp_path / "pack"
    path.write_bytes(b"".join(pack.stream(root, files)))
    return path, [file.path for file in files]


def test_it_holds_the_files_as_they_are(lay, tmp_path):
    root = lay({"cat": 2, "Käfer": 1})
    files = files_of(root)
    content = b"".join(pack.stream(root, files))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == [file.path for file in files]
        assert archive.testzip() is None
        for file in files:
            assert archive.read(file.path) == (root / file.path).read_bytes()
            assert archive.getinfo(file.path).compress_type == zipfile.ZIP_STORED
    assert pack.measure(root, files)[1] == len(content)


def test_the_same_images_give_the_same_bytes(lay, tmp_path):
    first, second = lay({"cat": 2, "dog": 2}, "first"), lay({"dog": 2, "cat": 2}, "second")
    for number, file in enumerate(sorted(second.rglob("*.png"))):
        os.utime(file, (number * 1e6, number * 1e6))
        file.chmod(0o600)
    assert pack.measure(first, files_of(first)) == pack.measure(second, files_of(second))


def test_no_image_is_held_in_memory(lay):
    root = lay({"cat": 1})
    with (root / "cat" / "big.png").open("wb") as file:
        file.write(lay.png)
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        files = files_of(root)
        assert pack.measure(root, files)[1] > 64 << 20
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_changes_meanwhile_is_named(lay):
    root = lay({"cat": 2})
    files = files_of(root)
    (root / "cat" / "001.png").write_bytes(lay.png + b"another")
    with pytest.raises(InputError, match=r"cat/001\.png changed"):
        pack.measure(root, files)


def test_an_honest_pack_passes(packed):
    pack.check_directory(*packed)


def test_paths_must_be_those_of_the_index(packed):
    path, paths = packed
    with pytest.raises(InputError, match=r"holds, but the index does not, 'dog/000\.png'"):
        pack.check_directory(path, paths[:2])
    with pytest.raises(InputError, match=r"lacks 'emu/000\.png' and 1 more"):
        pack.check_directory(path, [*paths, "emu/000.png", "emu/001.png"])


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18), b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_zip(tmp_path, content):
    path = tmp_path / "pack"
    path.write_bytes(content)
    with pytest.raises(InputError, match="pack"):
        pack.check_directory(path, ["cat/1.png"])


def test_compressed_twice_and_overlapping_files(packed, tmp_path):
    path, paths = packed
    odd = tmp_path / "odd"
    with zipfile.ZipFile(odd, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in paths:
            archive.writestr(name, b"\0" * 100_000)
    with pytest.raises(InputError, match="compressed"):
        pack.check_directory(odd, paths)
    with zipfile.ZipFile(odd, "w") as archive:
        for name in paths:
            archive.writestr(name, b"x")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(paths[0], b"x")
    with pytest.raises(InputError, match="twice"):
        pack.check_directory(odd, paths)
    # Every entry of the directory is told to be as long as the whole file.
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        struct.pack_into("<LL", content, at + 20, len(content), len(content))
        at = content.find(b"PK\x01\x02", at + 4)
    odd.write_bytes(content)
    with pytest.raises(InputError, match="overlap"):
        pack.check_directory(odd, paths)


def test_a_directory_of_millions_is_not_read(tmp_path):
    """The directory says it is as large as the file, half a gigabyte; memory does not follow."""
    path, size = tmp_path / "bomb", 512 << 20
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, size, 0, 0))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="larger than that of the files"):
            pack.check_directory(path, ["cat/1.png"])
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
