"""What a dataset of files may list: nothing outside its folder, nothing twice, nothing on both sides of a split."""

import dataclasses

import pytest

from tailfleet_schema import codec
from tailfleet_schema.errors import DecodeError, InputError
from tailfleet_schema.workload import NO_LABEL, DatasetIndex, DatasetSpec, ImageFile

GOOD = ImageFile("cat/1.png", 0, "calibration", "a" * 64)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x.png",
        "cat/../../x.png",
        "cat/..",
        "./x.png",
        "cat//x.png",
        "cat\\x.png",
        "x\0.png",
        "cat/",
    ],
)
def test_a_path_stays_below_its_folder(path):
    with pytest.raises(InputError, match="not the path of a file below"):
        dataclasses.replace(GOOD, path=path)


@pytest.mark.parametrize("path", ["x.png", "cat/1.png", "a/b/c d.JPEG", "..cat/x..png", "Käfer/ß.png"])
def test_ordinary_paths_are_taken(path):
    assert dataclasses.replace(GOOD, path=path).path == path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label": -2}, "label must be at least 0, or -1 where there is none"),
        ({"split": "train"}, "unknown split 'train'"),
        ({"sha256": "A" * 64}, "not a sha256"),
        ({"sha256": "a" * 64 + "\n"}, "not a sha256"),
    ],
)
def test_other_fields_are_checked(change, sentence):
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(GOOD, **change)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (ImageFile("dog/1.png", 2, "calibration", "b" * 64), "dog/1.png has the label 2, but there are 2 classes"),
        (ImageFile("cat/1.png", 1, "evaluation", "b" * 64), "cat/1.png occurs twice"),
        (ImageFile("cat/2.png", 0, "evaluation", "a" * 64), "cat/2.png lies in both splits"),
        (ImageFile("cat/2.png", NO_LABEL, "evaluation", "b" * 64), "cat/2.png has no label, but there are classes"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(other, sentence):
    with pytest.raises(InputError, match=sentence):
        DatasetIndex(["cat", "dog"], [GOOD, other])


def test_an_index_survives_the_wire_and_names_what_is_wrong():
    twice = dataclasses.replace(GOOD, path="cat/2.png")
    index = DatasetIndex(["cat"], [GOOD, twice])
    assert codec.loads(DatasetIndex, codec.dumps(index)) == index
    with pytest.raises(DecodeError, match=r"index.files\[0\]: '../x' is not the path"):
        codec.loads(DatasetIndex, codec.dumps(index).replace("cat/1.png", "../x"), "index")


def test_images_without_labels_are_of_a_dataset_without_classes():
    index = DatasetIndex([], [dataclasses.replace(GOOD, label=NO_LABEL)])
    assert codec.loads(DatasetIndex, codec.dumps(index)) == index
    with pytest.raises(InputError, match=r"cat/1\.png has a label, but there are no classes"):
        DatasetIndex([], [GOOD])
    spec = DatasetSpec("pets", "a" * 64, 0, 1, 1, "a test", "files")
    assert not spec.labelled
    assert dataclasses.replace(spec, classes=1).labelled
    with pytest.raises(InputError, match="classes: must be at least 1: only a dataset of files may have no labels"):
        dataclasses.replace(spec, form="arrays")
