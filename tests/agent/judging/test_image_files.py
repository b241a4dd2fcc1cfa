"""Datasets of image files: from a pack or a folder of the board's own, each file held against the index."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from tailfleet_agent.worker import datasets
from tailfleet_schema.errors import DecodeError, InputError, LabError

FIRST = "class 0/00.png"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "images"


@pytest.fixture
def dataset(artifacts, folder):
    return artifacts.files(folder)


def pictures(images):
    return [(picture.mode, picture.size, picture.tobytes()) for picture in images.pictures(0, len(images))]


def test_pack_and_folder_hold_the_same(artifacts, dataset, folder):
    for split, count in (("calibration", 6), ("evaluation", 12)):
        packed = datasets.load(dataset, artifacts.folder, split)
        local = datasets.load(dataset, artifacts.folder, split, folder=str(folder))
        assert len(packed) == len(local) == count
        assert packed.labels.tolist() == local.labels.tolist()
        assert pictures(packed) == pictures(local)
    calibration = datasets.load(dataset, artifacts.folder, "calibration")
    assert calibration.labels.tolist() == [0, 1, 2, 0, 1, 2]
    with Image.open(str(folder / FIRST)) as first:
        assert np.array_equal(np.asarray(calibration.pictures(0, 1)[0]), np.asarray(first))


def test_a_limit_takes_the_first(artifacts, dataset):
    assert len(datasets.load(dataset, artifacts.folder, "evaluation", 5)) == 5


def test_with_a_folder_the_pack_is_not_needed(artifacts, dataset, folder, tmp_path):
    (tmp_path / dataset.pack_sha256).unlink()
    assert pictures(datasets.load(dataset, artifacts.folder, "calibration", folder=str(folder)))


def test_opening_reads_no_picture(artifacts, dataset, folder):
    (folder / FIRST).unlink()
    images = datasets.load(dataset, artifacts.folder, "calibration", folder=str(folder))
    assert len(images.pictures(1, 6)) == 5


def test_a_missing_image_is_named(artifacts, dataset, folder):
    (folder / FIRST).unlink()
    images = datasets.load(dataset, artifacts.folder, "calibration", folder=str(folder))
    with pytest.raises(LabError, match=r"image .*/images/class 0/00\.png of dataset 'tiny' cannot be read: No such"):
        images.pictures(0, 6)


def test_an_image_that_was_changed_is_named(artifacts, dataset, folder):
    shutil.copy(str(folder / "class 1/01.png"), str(folder / FIRST))
    images = datasets.load(dataset, artifacts.folder, "calibration", folder=str(folder))
    with pytest.raises(LabError, match=r"class 0/00\.png of dataset 'tiny' is not the one that was added"):
        images.pictures(0, 1)


def test_a_file_that_is_no_image_is_named(artifacts, folder, tmp_path):
    def cut(path):
        (folder / path).write_bytes((folder / path).read_bytes()[:-40])

    original = artifacts.files(folder)
    before = datasets.hashlib.sha256((folder / FIRST).read_bytes()).hexdigest()
    cut(FIRST)
    after = datasets.hashlib.sha256((folder / FIRST).read_bytes()).hexdigest()
    index = (tmp_path / original.sha256).read_text().replace(before, after)
    dataset = dataclasses.replace(original, sha256=artifacts.put(index.encode()))
    images = datasets.load(dataset, artifacts.folder, "calibration", folder=str(folder))
    with pytest.raises(LabError, match=r"class 0/00\.png of dataset 'tiny' cannot be decoded on this board"):
        images.pictures(0, 1)


def test_a_folder_that_vanished_is_named(artifacts, dataset, tmp_path):
    with pytest.raises(LabError, match=r"the folder .*/gone that this board names for dataset 'tiny' is not there"):
        datasets.load(dataset, artifacts.folder, "calibration", folder=str(tmp_path / "gone"))


def test_a_pack_that_is_missing_damaged_or_incomplete_is_named(artifacts, dataset, tmp_path):
    pack = tmp_path / dataset.pack_sha256
    content = pack.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(b"IDAT") + 6] ^= 1
    pack.write_bytes(bytes(flipped))
    with pytest.raises(
        LabError, match=r"image class 0/00\.png of dataset 'tiny' cannot be read from its pack: Bad CRC"
    ):
        datasets.load(dataset, artifacts.folder, "calibration").pictures(0, 6)
    pack.write_bytes(content.replace(b"class 0/00.png", b"class 0/xx.png"))
    with pytest.raises(LabError, match=r"image class 0/00\.png .*no item named"):
        datasets.load(dataset, artifacts.folder, "calibration").pictures(0, 6)
    pack.write_bytes(content[: len(content) // 2])
    with pytest.raises(LabError, match="the pack of dataset 'tiny' is damaged"):
        datasets.load(dataset, artifacts.folder, "calibration")
    pack.unlink()
    with pytest.raises(LabError, match="the pack of dataset 'tiny' is not on this board"):
        datasets.load(dataset, artifacts.folder, "calibration")


def test_a_pack_whose_images_are_not_those_of_the_index_is_refused(artifacts, dataset, tmp_path):
    other = artifacts.files(tmp_path / "others", count=24)
    mixed = dataclasses.replace(dataset, pack_sha256=other.pack_sha256)
    content = (tmp_path / dataset.sha256).read_text()
    sha256 = datasets.hashlib.sha256((tmp_path / "images" / FIRST).read_bytes()).hexdigest()
    mixed = dataclasses.replace(mixed, sha256=artifacts.put(content.replace(sha256, "0" * 64).encode()))
    with pytest.raises(LabError, match=r"image class 0/00\.png of dataset 'tiny' is not the one that was added"):
        datasets.load(mixed, artifacts.folder, "calibration").pictures(0, 1)


def test_images_that_are_neither_shipped_nor_here_say_what_to_do(artifacts, dataset):
    unshipped = dataclasses.replace(dataset, pack_sha256=None)
    with pytest.raises(LabError, match="not shipped") as caught:
        datasets.load(unshipped, artifacts.folder, "calibration")
    assert "tailfleet-agent dataset tiny FOLDER" in caught.value.mend


def test_an_index_that_reaches_outside_is_refused(artifacts, folder):
    dataset = artifacts.files(folder, damage=lambda text: text.replace(FIRST, "../../etc/passwd"))
    with pytest.raises(
        DecodeError, match=r"the index of dataset 'tiny'.files\[0\]: '../../etc/passwd' is not the path"
    ):
        datasets.load(dataset, artifacts.folder, "calibration", folder=str(folder))


def test_an_index_of_another_number_of_classes_is_refused(artifacts, dataset):
    with pytest.raises(InputError, match="dataset 'tiny' has 3 classes, not 4"):
        datasets.load(dataclasses.replace(dataset, classes=4), artifacts.folder, "calibration")


def test_files_have_no_training_images(artifacts, dataset):
    with pytest.raises(InputError, match="has no train images"):
        datasets.load(dataset, artifacts.folder, "train")
