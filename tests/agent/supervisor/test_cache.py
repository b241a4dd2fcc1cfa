"""Fetching artifacts over real HTTP from a server that breaks off, lies and resumes; and keeping them in bounds."""

import contextlib
import fcntl
import hashlib
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from tailfleet_agent import cache as cache_room
from tailfleet_agent import client as client_room
from tailfleet_agent.cache import Cache
from tailfleet_agent.client import Client, Refused, Unreachable
from tailfleet_schema.errors import InputError, LabError

CONTENT = bytes(range(256)) * 400


def sha(content):
    return hashlib.sha256(content).hexdigest()


class Shelf:
    """Serves ``CONTENT``, or what ``content`` says. ``asked`` is the Range of each request.

    ``plan`` says how the next requests are answered, each by a name below; after it, rightly.
    """

    def __init__(self):
        self.content = CONTENT
        self.asked = []
        self.plan = []
        shelf = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                wanted = self.headers.get("Range")
                shelf.asked.append(wanted)
                start = int(wanted[len("bytes=") : -1]) if wanted else 0
                how = shelf.plan.pop(0) if shelf.plan else ""
                content, total = shelf.content, len(shelf.content)
                if how == "missing":
                    return self._send(404, b'{"error": "there is no artifact", "blame": "author"}')
                if how == "starting":
                    return self._send(503, b"")
                if how == "shut":
                    self.close_connection = True
                    return self.connection.shutdown(socket.SHUT_RDWR)
                if how == "unsatisfiable" and wanted:
                    return self._send(416, b"", ("Content-Range", "bytes */{}".format(total)))
                if start and how != "whole":
                    begin = start + 1 if how == "shifted" else start
                    span = ("Content-Range", "bytes {}-{}/{}".format(begin, total - 1, total))
                    return self._send(206, content[begin:], span, cut=how == "cut")
                return self._send(200, content, cut=how == "cut")

            def _send(self, status, content, *headers, cut=False):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if cut else content)
                self.close_connection = True

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:{}".format(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def shelf():
    shelf = Shelf()
    yield shelf
    shelf.close()


@pytest.fixture
def client(shelf, monkeypatch):
    monkeypatch.setattr(client_room, "CHUNK_BYTES", 1000)
    return Client(shelf.url, "t")


@pytest.fixture
def cache(tmp_path):
    return Cache(str(tmp_path / "artifacts"), 10**9, pause=lambda seconds: None)


def names(cache):
    return sorted(os.listdir(cache.folder))


def fetch(cache, client, content=CONTENT, breathe=lambda: None):
    name = os.path.join(cache.folder, sha(content))
    with cache.holding(client, [sha(content)], breathe), open(name, "rb") as file:
        return file.read()


def put(cache, content, age=0.0, suffix=""):
    os.makedirs(cache.folder, exist_ok=True)
    name = os.path.join(cache.folder, sha(content) + suffix)
    with open(name, "wb") as file:
        file.write(content)
    os.utime(name, (1e9 - age, 1e9 - age))
    return os.path.basename(name)


def test_an_artifact_is_fetched_once_and_kept(cache, client, shelf):
    assert fetch(cache, client) == CONTENT
    assert fetch(cache, client) == CONTENT
    assert shelf.asked == [None]
    assert names(cache) == [sha(CONTENT)]


@pytest.mark.parametrize("breaks", [["cut"], ["cut", "cut", "cut"], ["cut", "shut", "starting"]])
def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(cache, client, shelf, breaks):
    shelf.plan = list(breaks)
    assert fetch(cache, client) == CONTENT
    have, expected = 0, []
    for how in breaks:
        expected.append(have)
        have += (len(CONTENT) - have) // 2 if how == "cut" else 0
    assert shelf.asked == [None if start == 0 else "bytes={}-".format(start) for start in [*expected, have]]


def test_another_run_of_the_agent_goes_on_as_well(cache, client, shelf):
    shelf.plan = ["cut", *["shut"] * cache_room.TRIES]
    with pytest.raises(Unreachable):
        fetch(cache, client)
    assert names(cache) == [sha(CONTENT) + ".part"]
    shelf.asked.clear()
    assert fetch(Cache(cache.folder, 10**9), client) == CONTENT
    assert shelf.asked == ["bytes={}-".format(len(CONTENT) // 2)]
    assert names(cache) == [sha(CONTENT)]


@pytest.mark.parametrize("how", ["whole", "unsatisfiable", "shifted"])
def test_where_the_rest_cannot_be_had_it_starts_anew(cache, client, shelf, how):
    put(cache, CONTENT, suffix=".part")
    with open(os.path.join(cache.folder, sha(CONTENT) + ".part"), "r+b") as file:
        file.truncate(5000)
    shelf.plan = [how]
    assert fetch(cache, client) == CONTENT
    assert shelf.asked == (["bytes=5000-"] if how == "whole" else ["bytes=5000-", None])


def test_a_part_that_is_whole_already_asks_for_nothing(cache, client, shelf):
    put(cache, CONTENT, suffix=".part")
    assert fetch(cache, client) == CONTENT
    assert shelf.asked == []


def test_what_a_power_cut_spoiled_is_fetched_anew(cache, client, shelf):
    put(cache, CONTENT, suffix=".part")
    with open(os.path.join(cache.folder, sha(CONTENT) + ".part"), "wb") as file:
        file.write(bytes(5000))
    assert fetch(cache, client) == CONTENT
    assert shelf.asked == ["bytes=5000-", None]


def test_what_arrives_damaged_is_not_kept(cache, client, shelf):
    shelf.content = CONTENT[:-1] + b"x"
    with pytest.raises(LabError, match="artifact {} arrived damaged".format(sha(CONTENT)[:12])):
        fetch(cache, client)
    assert names(cache) == []
    assert shelf.asked == [None]


def test_a_server_that_brings_nothing_is_given_up(cache, client, shelf):
    shelf.plan = ["shut"] * 99
    with pytest.raises(Unreachable):
        fetch(cache, client)
    assert len(shelf.asked) == cache_room.TRIES


def test_a_refusal_is_the_coordinators_own(cache, client, shelf):
    shelf.plan = ["missing"]
    with pytest.raises(Refused, match="there is no artifact"):
        fetch(cache, client)
    assert names(cache) == []


@pytest.mark.parametrize("name", ["../agent.json", "a" * 63, "A" * 64, ""])
def test_a_name_that_is_no_hash_leads_nowhere(cache, client, shelf, name):
    with pytest.raises(InputError, match="not the sha256"), cache.holding(client, [name], lambda: None):
        pass
    assert shelf.asked == []


def test_between_chunks_there_is_time_to_breathe(cache, client):
    breaths = []
    fetch(cache, client, breathe=lambda: breaths.append(1))
    assert len(breaths) >= len(CONTENT) // 1000


def test_a_download_that_is_given_up_goes_on_later(cache, client, shelf):
    breaths = []

    def stop():
        breaths.append(1)
        if len(breaths) == 5:
            raise KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        fetch(cache, client, breathe=stop)
    assert fetch(cache, client) == CONTENT
    assert shelf.asked == [None, "bytes=5000-"]


def test_a_full_disk_is_said_and_given_its_room_back(cache, client, monkeypatch):
    """/dev/full is a disk without room; it reads as zeros without end, so it is not read."""
    monkeypatch.setattr(cache_room, "_hashed", lambda file, breathe: (hashlib.sha256(), 0))
    os.makedirs(cache.folder)
    os.symlink("/dev/full", os.path.join(cache.folder, sha(CONTENT) + ".part"))
    with pytest.raises(LabError, match=r"cannot be stored in .*: No space left on device") as caught:
        fetch(cache, client)
    assert "room" in caught.value.mend
    assert names(cache) == []


def test_what_cannot_fit_the_disk_is_not_begun(cache, client, shelf, monkeypatch):
    monkeypatch.setattr(cache_room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    old = put(cache, b"old")
    with pytest.raises(LabError, match=r"0\.0 GB does not fit the disk"):
        fetch(cache, client)
    assert old not in names(cache)


def test_the_longest_unused_goes_first_and_what_is_needed_stays(cache, client):
    oldest, older, old = (put(cache, bytes([n]) * 1000, age=100 - n) for n in (1, 2, 3))
    needed = bytes([4]) * 1000
    put(cache, needed, age=1000)
    part = put(cache, b"left" * 250, age=200, suffix=".part")
    small = Cache(cache.folder, len(CONTENT) + 2000)
    # Not held yet when room is made for the first.
    with small.holding(client, [sha(CONTENT), sha(needed)], lambda: None):
        assert names(cache) == sorted([old, sha(needed), sha(CONTENT)])
    assert part not in names(cache)
    assert oldest not in names(cache)
    assert older not in names(cache)


def test_use_makes_young(cache, client):
    first, second = put(cache, b"1" * 1000, age=2), put(cache, b"2" * 1000, age=1)
    fetch(cache, client, b"1" * 1000)
    fetch(Cache(cache.folder, len(CONTENT) + 1000), client)
    assert first in names(cache)
    assert second not in names(cache)


def test_more_than_the_limit_is_kept_where_one_job_needs_it(cache, client):
    put(cache, b"1" * 1000)
    with Cache(cache.folder, 10).holding(client, [sha(b"1" * 1000), sha(CONTENT)], lambda: None):
        assert len(names(cache)) == 2
    with Cache(cache.folder, 10).holding(client, [], lambda: None):
        assert names(cache) == []


def test_files_of_others_are_left_alone(cache, client):
    os.makedirs(cache.folder)
    with open(os.path.join(cache.folder, "notes.txt"), "wb") as file:
        file.write(b"x" * 1000)
    fetch(Cache(cache.folder, 10), client)
    assert "notes.txt" in names(cache)


def test_what_another_agent_uses_is_not_removed(cache, client):
    used, unused = put(cache, b"1" * 1000, age=2), put(cache, b"2" * 1000, age=1)
    with cache.holding(client, [used], lambda: None):
        fetch(Cache(cache.folder, 10), client)
        assert used in names(cache)
        assert unused not in names(cache)
    fetch(Cache(cache.folder, 10), client)
    assert used not in names(cache)


def test_two_agents_fetch_it_once(cache, client, shelf):
    """The second finds the first at it, waits, and then finds the artifact."""
    other_waits, first_done = threading.Event(), threading.Event()

    def pause(seconds):
        other_waits.set()
        assert first_done.wait(30)

    found = []
    started = threading.Event()
    other = threading.Thread(target=lambda: found.append(fetch(Cache(cache.folder, 10**9, pause), client)))

    def breathe():
        if not started.is_set():
            started.set()
            other.start()
            assert other_waits.wait(30)

    assert fetch(cache, client, breathe=breathe) == CONTENT
    first_done.set()
    other.join(30)
    assert found == [CONTENT]
    assert shelf.asked == [None]


def test_a_part_whose_owner_finished_meanwhile_is_not_written_to(cache, client, shelf, monkeypatch):
    """Between opening the part and getting its lock, another agent has moved it into its place."""
    put(cache, CONTENT, suffix=".part")
    name = os.path.join(cache.folder, sha(CONTENT))
    flock = fcntl.flock

    def late(file, how):
        with contextlib.suppress(FileNotFoundError):
            os.rename(name + ".part", name)
        flock(file, how)

    monkeypatch.setattr(cache_room.fcntl, "flock", late)
    assert fetch(cache, client) == CONTENT
    assert shelf.asked == []
    assert names(cache) == [sha(CONTENT)]


def test_an_artifact_that_is_removed_before_it_is_held_is_fetched_again(cache, client, shelf, monkeypatch):
    name = os.path.join(cache.folder, put(cache, CONTENT))
    flock = fcntl.flock
    removed = []

    def late(file, how):
        if not removed:
            os.remove(name)
            removed.append(name)
        flock(file, how)

    monkeypatch.setattr(cache_room.fcntl, "flock", late)
    assert fetch(cache, client) == CONTENT
    assert shelf.asked == [None]


def test_a_folder_that_cannot_be_made_is_said(client, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LabError, match="artifacts cannot be kept in"):
        fetch(Cache(str(tmp_path / "file" / "artifacts"), 10), client)


def test_what_goes_wrong_while_they_are_held_is_not_the_caches(cache, client):
    with pytest.raises(FileNotFoundError), cache.holding(client, [], lambda: None):
        raise FileNotFoundError("the caller's own")
