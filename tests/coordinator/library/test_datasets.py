"""Folders of images without labels, from the files to what may be registered."""

import dataclasses

import pytest

from tailfleet_coordinator import bundled
from tailfleet_coordinator.library import admission, datasets
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import NO_LABEL


def test_every_image_below_the_folder_counts_whatever_its_folder(lay):
    root = lay({"one": 4, "two/deep": 3, ".git": 1})
    for number in range(2):
        (root / f"{number}.png").write_bytes(lay.png + b"loose %d" % number)
    (root / "two" / "copy.png").write_bytes((root / "one" / "000.png").read_bytes())
    made = datasets.prepare("pets", root, labels=False)
    assert (made.spec.classes, made.spec.calibration_images, made.spec.evaluation_images) == (0, 3, 6)
    assert made.spec.source == "image folder 'images', 9 images without labels, divided with seed 0"
    assert made.index.classes == []
    assert {file.label for file in made.index.files} == {NO_LABEL}
    paths = {file.path for file in made.index.files}
    assert {"0.png", "one/001.png", "two/deep/002.png"} <= paths
    assert len(paths) == 9
    assert made.notes == (
        "1 hidden files or folders are left out", "1 files are copies of another one and count once"
    )  # fmt: skip
    assert admission.check_dataset(made.spec, made.content) == made.index


def test_what_is_no_such_folder_is_refused(lay, tmp_path):
    root = lay({"one": 1})
    for path, options, words in (
        (tmp_path / "nowhere", {}, "there is no"),
        (root / "one" / "000.png", {}, "is a file, not a folder of images"),
        (root, {}, r"the folder has too few images \(1\) to be among the 0 calibration images"),
        (root, {"class_index": {"one": 0}}, "a class index gives labels"),
    ):
        with pytest.raises(InputError, match=words):
            datasets.prepare("pets", path, labels=False, **options)
    (root / "one" / "000.png").rename(root / "one" / "notes.txt")
    with pytest.raises(InputError, match="there are no images in"):
        datasets.prepare("pets", root, labels=False)


def test_a_model_without_classes_has_no_answers_to_agree_with(lay):
    spec = datasets.prepare("pets", lay({"one": 3}), labels=False).spec
    model = next(model for model in bundled.models() if model.dataset is not None)
    admission.check_classes(model, spec)
    headless = dataclasses.replace(model, geometry=dataclasses.replace(model.geometry, classes=0))
    with pytest.raises(InputError, match="tells no classes apart, so it has no answers to agree with"):
        admission.check_classes(headless, spec)
