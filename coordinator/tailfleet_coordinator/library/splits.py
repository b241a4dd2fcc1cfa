"""Dividing images into calibration and evaluation: seeded, the same share of every class, no image in both. Pure."""

import hashlib
from collections.abc import Iterable, Sequence

from tailfleet_coordinator.library.imagefolder import Picture
from tailfleet_schema.errors import InputError

CALIBRATION_SHARE = 1 / 3
"""As little as finds a good schedule; the rest judges it."""

Amount = int | float
"""So many images in all (an ``int``), or a share of them above 0 and below 1 (a ``float``)."""


def amount_of(text: str) -> Amount:
    """``200`` or ``0.25`` as typed. Raises ``InputError``."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InputError(f"{text!r} is neither a number of images nor a share of them", "write 200 or 0.25")


def split(
    pictures: Sequence[Picture],
    classes: Sequence[str],
    calibration: Amount = CALIBRATION_SHARE,
    evaluation: Amount | None = None,
    seed: int = 0,
) -> tuple[list[Picture], list[Picture]]:
    """Calibration and evaluation pictures; ``evaluation`` None: all that is left.

    ``pictures`` are of different content; without ``classes`` they have no labels, and are divided as those of one.
    Which of a class go where, and in which order they stand, follows from ``seed`` and their content alone, not from
    their names or order. The first so many of a part have about its mix of classes, too. Raises ``InputError`` where a
    class would be absent from one part.
    """
    by_class: dict[int, list[Picture]] = {}
    for picture in pictures:
        by_class.setdefault(picture.label, []).append(picture)
    labels = sorted(by_class)
    sizes = [len(by_class[label]) for label in labels]
    wanted = total_of(calibration, len(pictures), "calibration")
    first = share_out(wanted, sizes)
    left = [size - taken for size, taken in zip(sizes, first, strict=True)]
    rest = sum(left) if evaluation is None else total_of(evaluation, len(pictures), "evaluation")
    if rest > sum(left):
        raise InputError(
            f"{wanted} calibration and {rest} evaluation images are asked for, and there are {len(pictures)}",
            "ask for fewer",
        )
    second = share_out(rest, left)
    parts: tuple[list[list[Picture]], list[list[Picture]]] = ([], [])
    for label, size, take, then in zip(labels, sizes, first, second, strict=True):
        for what, total, count in (("calibration", wanted, take), ("evaluation", rest, then)):
            if not count:
                whose = f"class {classes[label]!r}" if classes else "the folder"
                raise InputError(
                    f"{whose} has too few images ({size}) to be among the {total} {what} images",
                    f"{'every class' if classes else 'it'} needs one in each split: add images, or change --calibration"
                    " and --evaluation",
                )
        members = _shuffled(by_class[label], seed)
        parts[0].append(members[:take])
        parts[1].append(members[take : take + then])
    return _mixed(parts[0]), _mixed(parts[1])


def total_of(amount: Amount, images: int, what: str) -> int:
    """``amount`` of so many images, in images. Raises ``InputError`` for what is no amount."""
    if isinstance(amount, float):
        if not 0 < amount < 1:
            raise InputError(f"the share of {what} images must lie between 0 and 1, not {amount:g}")
        return round(amount * images)
    if amount < 1:
        raise InputError(f"there must be at least one {what} image, not {amount}")
    return amount


def share_out(total: int, sizes: Sequence[int]) -> list[int]:
    """``total`` in parts proportional to ``sizes``: the nearest whole numbers that add up (largest remainder).

    With ``total`` ≤ the sum of ``sizes`` no part is larger than its size. Of equal remainders the first wins.
    """
    everything = sum(sizes)
    if total > everything:
        raise InputError(f"{total} images are asked for, and there are {everything}", "ask for fewer")
    if not total:
        return [0] * len(sizes)
    parts = [total * size // everything for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(total * sizes[i] % everything))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def _shuffled(pictures: Iterable[Picture], seed: int) -> list[Picture]:
    # A hash instead of a generator: its order is the same in every release of every library.
    return sorted(pictures, key=lambda picture: hashlib.sha256(f"{seed}:{picture.sha256}".encode()).digest())


def _mixed(classes: Iterable[list[Picture]]) -> list[Picture]:
    """All pictures, those of each class at even distances."""
    placed = [
        ((number + 0.5) / len(members), picture.sha256, picture)
        for members in classes
        for number, picture in enumerate(members)
    ]
    return [picture for _, _, picture in sorted(placed, key=lambda place: place[:2])]
