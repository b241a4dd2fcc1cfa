"""Content-addressed files: whole or absent, and nothing outside the folder."""

import errno
import hashlib
import os

import pytest

from tailfleet_coordinator.artifacts import Artifacts
from tailfleet_coordinator.refusals import StorageFull, UnknownName
from tailfleet_schema.errors import InputError, LabError


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


def test_an_artifact_arrives_in_pieces_and_appears_when_it_is_whole(artifacts, tmp_path):
    sha256 = hashlib.sha256(b"weights").hexdigest()
    with artifacts.draft(sha256) as draft:
        for piece in (b"wei", b"", b"ghts"):
            draft.write(piece)
            assert not artifacts.has(sha256)
        draft.keep()
    assert draft.size == 7
    assert artifacts.read(sha256) == b"weights"
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [sha256]


def test_other_bytes_than_promised_are_not_kept(artifacts, tmp_path):
    sha256 = hashlib.sha256(b"weights").hexdigest()
    with artifacts.draft(sha256) as draft:
        draft.write(b"weight")
        with pytest.raises(InputError, match="6 bytes arrived"):
            draft.keep()
    assert not any((tmp_path / "artifacts").iterdir())


def test_a_draft_that_is_given_up_leaves_nothing(artifacts, tmp_path):
    with artifacts.draft("0" * 64) as draft:
        draft.write(b"weights")
    assert not any((tmp_path / "artifacts").iterdir())


def test_what_a_killed_writer_left_is_removed_and_nothing_else(artifacts, tmp_path):
    sha256 = artifacts.put(b"weights")
    (tmp_path / "artifacts" / ".draft-killed").write_bytes(b"half of it")
    artifacts.discard_drafts()
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [sha256]


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, LabError)]
)
def test_a_disk_that_refuses_is_named(artifacts, tmp_path, monkeypatch, code, kind):
    def refuse(descriptor, content):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.write", refuse)
    with pytest.raises(kind, match="artifact") as refusal, artifacts.draft("0" * 64) as draft:
        draft.write(b"weights")
    assert type(refusal.value) is kind
    assert str(tmp_path / "artifacts") in refusal.value.mend
