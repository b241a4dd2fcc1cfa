"""Which files of a folder are whose images, and what is refused by name."""

import hashlib
import os

import pytest

from tailfleet_coordinator.library import imagefolder
from tailfleet_schema.errors import InputError


def test_classes_are_the_folders_in_the_order_of_their_names(lay):
    root = lay({"b": 1, "a": 2, "C": 1})
    folder = imagefolder.scan(root)
    assert folder.classes == ["C", "a", "b"]
    assert [(file.path, file.label) for file in folder.files] == [
        ("C/000.png", 0), ("a/000.png", 1), ("a/001.png", 1), ("b/000.png", 2),
    ]  # fmt: skip
    assert folder.notes == []


def test_it_finds_what_torchvision_finds(lay, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    root = lay({"b": 2, "a": 2})
    (root / "a" / "deep" / "er").mkdir(parents=True)
    for name in ("x.JPEG", "x.Tif", "x.webp", "x.pgm", "x.gif", "x.txt", "x"):
        (root / "a" / "deep" / "er" / name).write_bytes(lay.png + name.encode())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.bmp").write_bytes(lay.png + b"linked")
    (root / "b" / "link").symlink_to(tmp_path / "elsewhere")
    theirs = torchvision.datasets.ImageFolder(root)
    ours = imagefolder.scan(root)
    assert ours.classes == theirs.classes
    assert {(str(root / file.path), file.label) for file in ours.files} == set(theirs.imgs)
    assert imagefolder.SUFFIXES == torchvision.datasets.folder.IMG_EXTENSIONS


def test_what_is_left_out_is_told(lay):
    root = lay({"cat": 1, "dog": 1, ".git": 1, "empty": 0})
    (root / "cat" / ".hidden.png").write_bytes(b"x")
    (root / "cat" / "notes.txt").write_bytes(b"x")
    (root / "README").write_bytes(b"x")
    folder = imagefolder.scan(root)
    assert [file.path for file in folder.files] == ["cat/000.png", "dog/000.png"]
    assert folder.classes == ["cat", "dog", "empty"]
    hidden, others, loose, empty = folder.notes
    assert hidden.startswith("1 hidden")
    assert "notes.txt" in others
    assert loose.startswith("1 files lie outside")
    assert "empty" in empty


def test_a_link_to_a_folder_above_is_followed_once(lay):
    root = lay({"cat": 2})
    (root / "cat" / "loop").symlink_to(root / "cat")
    assert len(imagefolder.scan(root).files) == 2


def test_a_class_index_gives_the_labels(lay):
    root = lay({"n02": 1, "n01": 1})
    folder = imagefolder.scan(root, {"n01": 3, "n02": 0, "n03": 7})
    assert folder.classes == ["n02", "", "", "n01"]
    assert [(file.path, file.label) for file in folder.files] == [("n01/000.png", 3), ("n02/000.png", 0)]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"n01": 0}, "no label to n02"),
        ({"n01": 0, "n02": 0}, "'n01' and 'n02' the same label 0"),
        ({"n01": 0, "n02": -1}, "'n02' the label -1"),
        ({"n01": 0, "n02": 10**15}, "'n02' the label 1000000000000000"),
    ],
)
def test_a_class_index_that_cannot_be_meant(lay, index, words):
    root = lay({"n01": 1, "n02": 1})
    with pytest.raises(InputError, match=words):
        imagefolder.scan(root, index)


def test_what_is_no_folder_of_classes(lay, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "1.png").write_bytes(lay.png)
    for path, words in (
        (tmp_path / "nowhere", "there is no .*nowhere"),
        (tmp_path / "file", "is a file, not a folder"),
        (tmp_path / "bare", "has no class folders"),
        (lay({"cat": 0, "dog": 0}, "hollow"), "there are no images"),
        (lay({"train": 1, "val": 1}, "whole"), r"\(train, val\) are splits, not classes"),
    ):
        with pytest.raises(InputError, match=words):
            imagefolder.scan(path)


def test_a_name_that_is_not_utf8(lay):
    root = lay({"cat": 1})
    (root / "cat" / os.fsdecode(b"\xff.png")).write_bytes(lay.png + b"odd")
    with pytest.raises(InputError, match="not UTF-8"):
        imagefolder.scan(root)


def test_pictures_are_named_by_their_bytes(lay):
    root = lay({"cat": 2})
    content = lay.png + bytes(3 * imagefolder.PIECE_BYTES)
    (root / "cat" / "big.png").write_bytes(content)
    told = []
    pictures, notes = imagefolder.read(imagefolder.scan(root), lambda *news: told.append(news))
    assert [picture.path for picture in pictures] == ["cat/000.png", "cat/001.png", "cat/big.png"]
    assert pictures[2].sha256 == hashlib.sha256(content).hexdigest()
    assert notes == []
    assert told[-1][1] == told[-1][2] == sum(file.stat().st_size for file in (root / "cat").iterdir())


def test_copies_count_once_and_under_two_classes_not_at_all(lay):
    root = lay({"cat": 2, "dog": 1})
    (root / "cat" / "copy.png").write_bytes((root / "cat" / "000.png").read_bytes())
    pictures, notes = imagefolder.read(imagefolder.scan(root))
    assert [picture.path for picture in pictures] == ["cat/000.png", "cat/001.png", "dog/000.png"]
    assert notes == ["1 files are copies of another one of their class and count once"]
    (root / "dog" / "copy.png").write_bytes((root / "cat" / "000.png").read_bytes())
    with pytest.raises(InputError, match=r"cat/000.png and dog/copy.png are the same image under two classes"):
        imagefolder.read(imagefolder.scan(root))


@pytest.mark.parametrize("content", [b"", b"Dear Sir,\n", b"BMW is a car", b"P5", b"<svg/>", b"RIFF....WAVEfmt "])
def test_a_file_that_is_no_image_is_named(lay, content):
    root = lay({"cat": 2})
    (root / "cat" / "letter.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"cat/letter.jpg is no image"):
        imagefolder.read(imagefolder.scan(root))


def test_every_kind_that_is_written_is_known_by_its_beginning(tmp_path):
    image = pytest.importorskip("PIL.Image").new("RGB", (8, 8), "red")
    for suffix in imagefolder.SUFFIXES:
        image.convert("L" if suffix == ".pgm" else "RGB").save(tmp_path / f"x{suffix}")
        assert imagefolder.is_image((tmp_path / f"x{suffix}").read_bytes()), suffix


def test_a_file_that_vanishes_is_named(lay):
    root = lay({"cat": 2})
    folder = imagefolder.scan(root)
    (root / "cat" / "001.png").unlink()
    with pytest.raises(InputError, match=r"cat/001.png cannot be read: No such file"):
        imagefolder.read(folder)
