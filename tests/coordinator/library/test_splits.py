"""The same share of every class, nothing on both sides, and always the same."""

import random

import pytest

from tailfleet_coordinator.library import splits
from tailfleet_coordinator.library.imagefolder import Picture
from tailfleet_schema.errors import InputError


def pictures(*sizes):
    return [Picture(f"{label}/{n}.png", label, f"{label:02d}{n:062d}") for label, size in enumerate(sizes)
            for n in range(size)]  # fmt: skip


def names(sizes):
    return [f"class{label}" for label in range(len(sizes))]


def counts(part, classes):
    return [sum(picture.label == label for picture in part) for label in range(classes)]


@pytest.mark.parametrize(
    ("total", "sizes", "parts"),
    [
        (0, [3, 3], [0, 0]),
        (6, [3, 3], [3, 3]),
        (5, [10, 10, 10], [2, 2, 1]),
        (10, [100, 10, 1], [9, 1, 0]),
        (3, [5, 3, 2], [1, 1, 1]),
        (1, [0, 7], [0, 1]),
        (0, [0, 0], [0, 0]),
    ],
)
def test_parts_are_proportional_and_add_up(total, sizes, parts):
    assert splits.share_out(total, sizes) == parts


def test_parts_are_within_one_of_their_quota_whatever_the_sizes():
    generator = random.Random(1)
    for _ in range(500):
        sizes = [generator.randint(0, 60) for _ in range(generator.randint(1, 12))]
        total = generator.randint(0, sum(sizes))
        parts = splits.share_out(total, sizes)
        assert sum(parts) == total
        for part, size in zip(parts, sizes):
            assert part <= size
            assert abs(part - total * size / max(1, sum(sizes))) < 1


def test_a_third_calibrates_and_the_rest_judges():
    calibration, evaluation = splits.split(pictures(30, 60, 9), names([1, 1, 1]))
    assert counts(calibration, 3) == [10, 20, 3]
    assert counts(evaluation, 3) == [20, 40, 6]
    assert not set(calibration) & set(evaluation)


@pytest.mark.parametrize(("calibration", "evaluation"), [(20, 30), (0.2, 0.3), (20, 0.3)])
def test_amounts_and_shares_are_of_all_images(calibration, evaluation):
    first, second = splits.split(pictures(50, 50), names([1, 1]), calibration, evaluation)
    assert (counts(first, 2), counts(second, 2)) == ([10, 10], [15, 15])
    assert not set(first) & set(second)


def test_the_division_follows_from_content_and_seed_alone():
    given = pictures(20, 10)
    divided = splits.split(given, names([1, 1]), seed=7)
    shuffled = random.Random(3).sample(given, len(given))
    assert splits.split(shuffled, names([1, 1]), seed=7) == divided
    renamed = [Picture(f"x/{picture.sha256}", picture.label, picture.sha256) for picture in given]
    again = splits.split(renamed, names([1, 1]), seed=7)
    assert [[p.sha256 for p in part] for part in again] == [[p.sha256 for p in part] for part in divided]
    assert splits.split(given, names([1, 1]), seed=8) != divided


def test_the_first_so_many_of_a_part_have_its_mix_of_classes():
    _, evaluation = splits.split(pictures(90, 30, 30), names([1, 1, 1]))
    for first in (10, 25, 50):
        for found, share in zip(counts(evaluation[:first], 3), (0.6, 0.2, 0.2)):
            assert abs(found - share * first) <= 1.5


@pytest.mark.parametrize(
    ("sizes", "calibration", "evaluation", "words"),
    [
        ((1, 9), 1 / 3, None, "class 'class0' has too few images .1. to be among the 3 calibration images"),
        ((2, 2), 3, None, "'class0' has too few images .2. to be among the 1 evaluation"),
        ((5, 5), 8, 8, "8 calibration and 8 evaluation images are asked for, and there are 10"),
        ((5, 5), 11, None, "11 images are asked for, and there are 10"),
        ((5, 5), 0, None, "at least one calibration image"),
        ((5, 5), 0.0, None, "between 0 and 1, not 0"),
        ((5, 5), 1.0, None, "between 0 and 1, not 1"),
        ((5, 5), float("nan"), None, "between 0 and 1, not nan"),
        ((5, 5), 0.5, -1, "at least one evaluation image"),
    ],
)
def test_what_cannot_be_divided_so(sizes, calibration, evaluation, words):
    with pytest.raises(InputError, match=words):
        splits.split(pictures(*sizes), names(sizes), calibration, evaluation)


def test_amounts_as_they_are_typed():
    assert splits.amount_of("200") == 200
    assert isinstance(splits.amount_of("200"), int)
    assert splits.amount_of("0.25") == 0.25
    for text in ("", "a third", "1/3", "25%"):
        with pytest.raises(InputError, match="neither a number"):
            splits.amount_of(text)
