"""Fetching artifacts from a real server: whole or not at all, resumed, once, and refused in words."""

import hashlib
import http.server
import threading
from typing import ClassVar

import pytest

from tailfleet_coordinator.cluster import artifact_api
from tailfleet_coordinator.cluster.artifact_api import ArtifactApi, fetch
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import Blame, LabError, TailfleetError
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.workload import FILES, DatasetSpec, Workload

CONTENT = bytes(range(256)) * 8192


@pytest.fixture
def api(live, tmp_path):
    return ArtifactApi(live.url, live.viewer, folder=str(tmp_path / "cache"))


def test_an_artifact_comes_whole_and_once(api, live):
    sha256 = live.artifacts.put(CONTENT)
    folder = fetch(api, [sha256])
    assert (folder / sha256).read_bytes() == CONTENT
    assert not (folder / f"{sha256}.part").exists()
    live.artifacts.path(sha256).unlink()
    assert fetch(api, [sha256]) == folder


def test_a_broken_transfer_goes_on_where_it_was(api, live, tmp_path):
    sha256 = live.artifacts.put(CONTENT)
    api.cache.mkdir()
    (api.cache / f"{sha256}.part").write_bytes(CONTENT[:1000])
    # Only what is missing comes: what was there before is kept, right or wrong, until the hash is looked at.
    assert (fetch(api, [sha256]) / sha256).read_bytes() == CONTENT
    (api.cache / sha256).unlink()
    (api.cache / f"{sha256}.part").write_bytes(b"x" * 1000)
    with pytest.raises(LabError, match="arrived damaged"):
        fetch(api, [sha256])
    assert not (api.cache / f"{sha256}.part").exists()
    assert (fetch(api, [sha256]) / sha256).read_bytes() == CONTENT


class Breaking(http.server.BaseHTTPRequestHandler):
    """Sends half of what is asked for and hangs up, then the rest; notes the ranges."""

    ranges: ClassVar[list] = []

    def do_GET(self):
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        begin = 0 if asked is None else int(asked[6:-1])
        self.send_response(200 if asked is None else 206)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        self.wfile.write(CONTENT[begin : len(CONTENT) // 2] if asked is None else CONTENT[begin:])

    def log_message(self, *arguments):
        """Nothing."""


def test_a_server_that_hangs_up_is_asked_for_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact_api, "PAUSES_SECONDS", (0.0,))
    Breaking.ranges.clear()
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    with http.server.HTTPServer(("127.0.0.1", 0), Breaking) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        api = ArtifactApi("http://127.0.0.1:{}".format(server.server_port), "t", folder=str(tmp_path))
        assert (fetch(api, [sha256]) / sha256).read_bytes() == CONTENT
        server.shutdown()
        thread.join()
    assert Breaking.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_coordinator_that_is_away_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact_api, "PAUSES_SECONDS", (0.0,))
    with pytest.raises(LabError, match="could not be fetched from") as error:
        fetch(ArtifactApi("http://127.0.0.1:9", "t", folder=str(tmp_path)), ["a" * 64])
    assert "--public-url" in error.value.mend


def test_a_refusal_comes_in_the_coordinator_s_words(api, live):
    with pytest.raises(TailfleetError, match="there is no artifact") as error:
        fetch(api, ["a" * 64])
    assert error.value.blame is Blame.AUTHOR
    stranger = ArtifactApi(live.url, "not-a-token", folder=api.folder)
    with pytest.raises(TailfleetError, match="opens nothing"):
        fetch(stranger, ["a" * 64])


def test_two_at_once_fetch_it_once(api, live):
    sha256 = live.artifacts.put(CONTENT)
    both = [threading.Thread(target=fetch, args=(api, [sha256])) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert (api.cache / sha256).read_bytes() == CONTENT


def test_a_dataset_of_files_has_an_index_and_a_pack(lab):
    index, pack = "a" * 64, "b" * 64
    dataset = DatasetSpec("pictures", index, 10, 5, 5, "made up", FILES, pack)
    job = Job("p", JobKind.PROFILE, Workload(lab.model), [Unit(Part.INPUT, 17, 17)], 1, 1, 0, dataset=dataset)
    assert job.artifacts() == [index, pack]


def test_the_token_is_not_shown(api, live):
    assert live.viewer not in repr(api)
