"""Trees of files as boards of five kinds have them: what the sensors look at, and some that they must not take.

``trees/*.json`` hold them by path; null is a file that is there and cannot be read (a part that sleeps). Names, layouts
and texts are those of public documentation and of dumps that owners of such boards published; figures are of the size
that those boards have.
"""

import json
import os

import pytest

TREES = os.path.join(os.path.dirname(__file__), "trees")

NAMES = {
    "nano": "nano-jetpack4",
    "tx2": "tx2-jetpack4",
    "agx": "agx-orin-jetpack5",
    "orin": "orin-nano-jetpack6",
    "desktop": "desktop-rtx3060",
}


def tree(name):
    if name not in NAMES:
        return {}
    with open(os.path.join(TREES, NAMES[name] + ".json"), encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture
def boards():
    """The files of each board, by path."""
    return {name: tree(name) for name in NAMES}


@pytest.fixture
def plant(tmp_path):
    """Lays out a named board's files, changed as told (None: left out), and gives their root."""

    def make(name, changes=None):
        files = dict(tree(name), **(changes or {}))
        for path, text in files.items():
            if text is None and path in (changes or {}):
                continue
            place = tmp_path / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                # What cannot be read by root either.
                place.mkdir(exist_ok=True)
            else:
                place.write_bytes(text.encode())
        return str(tmp_path)

    return make
