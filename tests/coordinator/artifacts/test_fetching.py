"""A board's fetching against the real application: a transfer that broke off goes on where it stopped."""

import hashlib

import pytest

from tailfleet_agent import client as client_room
from tailfleet_agent.cache import Cache
from tailfleet_agent.client import Client, Refused

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def transfers(live, monkeypatch):
    """Where each transfer began, and of how many bytes the whole was said to be."""
    seen = []
    init = client_room.Transfer.__init__

    def spy(self, reply, start, total, what):
        seen.append((start, total))
        init(self, reply, start, total, what)

    monkeypatch.setattr(client_room.Transfer, "__init__", spy)
    monkeypatch.setattr(client_room, "CHUNK_BYTES", 1000)
    return seen


@pytest.fixture
def fetch(live, tmp_path):
    live.board("nano")
    folder = tmp_path / "board"
    cache, client = Cache(str(folder), 10**9), Client(live.url, "nano-token")

    def fetch(sha256, breathe=lambda: None):
        with cache.holding(client, [sha256], breathe):
            return (folder / sha256).read_bytes()

    fetch.folder = folder
    return fetch


def test_a_broken_transfer_is_continued(live, fetch, transfers):
    sha256 = live.artifacts.put(CONTENT)
    breaths = []

    def give_up():
        breaths.append(1)
        if len(breaths) == 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(sha256, give_up)
    assert (fetch.folder / f"{sha256}.part").read_bytes() == CONTENT[:300_000]
    assert fetch(sha256) == CONTENT
    assert transfers == [(0, len(CONTENT)), (300_000, len(CONTENT))]
    assert fetch(sha256) == CONTENT
    assert len(transfers) == 2
    assert [path.name for path in fetch.folder.iterdir()] == [sha256]


def test_a_part_that_is_longer_than_the_artifact_is_given_up(live, fetch, transfers):
    sha256 = live.artifacts.put(CONTENT)
    fetch.folder.mkdir()
    (fetch.folder / f"{sha256}.part").write_bytes(CONTENT + b"more")
    assert fetch(sha256) == CONTENT
    assert transfers == [(0, len(CONTENT))]


def test_an_artifact_that_is_not_there_is_refused_in_the_coordinators_words(live, fetch):
    sha256 = hashlib.sha256(b"none").hexdigest()
    with pytest.raises(Refused, match=f"there is no artifact {sha256[:12]}"):
        fetch(sha256)
    assert list(fetch.folder.iterdir()) == []
