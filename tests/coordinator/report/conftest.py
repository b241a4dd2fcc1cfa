"""Lets the tests of this folder import ``plan_board``: with importlib mode, folders of tests are on no path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "plan"))

import pytest
from plan_board import MadeUpBoard


@pytest.fixture
def board():
    return MadeUpBoard()
