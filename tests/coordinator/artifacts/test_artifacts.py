"""Content-addressed files: whole or absent, and nothing outside the folder."""

import hashlib

import pytest

from tailfleet_coordinator.artifacts import Artifacts
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_schema.errors import LabError


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(tmp_path / "artifacts")


def test_what_is_put_is_found_under_its_hash(artifacts, tmp_path):
    sha256 = artifacts.put(b"weights")
    assert sha256 == hashlib.sha256(b"weights").hexdigest() == artifacts.put(b"weights")
    assert artifacts.read(sha256) == b"weights"
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [sha256]


@pytest.mark.parametrize("name", ["", ".", "..", "../secret", "secret", "0" * 64, "A" * 64, "0" * 63])
def test_other_names_lead_nowhere(artifacts, tmp_path, name):
    (tmp_path / "secret").write_bytes(b"secret")
    artifacts.put(b"weights")
    with pytest.raises(UnknownName):
        artifacts.path(name)


def test_a_damaged_file_is_not_handed_out(artifacts):
    sha256 = artifacts.put(b"weights")
    artifacts.path(sha256).write_bytes(b"wreck")
    with pytest.raises(LabError, match="damaged"):
        artifacts.read(sha256)


def test_a_write_that_fails_leaves_nothing(artifacts, tmp_path, monkeypatch):
    artifacts.put(b"first")
    monkeypatch.setattr("os.fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        artifacts.put(b"second")
    assert len(list((tmp_path / "artifacts").iterdir())) == 1
