"""Folders of images to send: tiny files that begin like images, and differ."""

import pytest

from tailfleet_coordinator.client import Fleet


@pytest.fixture
def fleet(live):
    with Fleet(live.url, live.operator) as fleet:
        yield fleet


@pytest.fixture
def pets(tmp_path):
    folder = tmp_path / "pets"
    for name, count in (("cat", 6), ("dog", 3)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + f"{name} {number}".encode())
    return folder
