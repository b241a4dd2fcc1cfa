"""Artifacts, models and datasets over HTTP: what is taken in, what is refused, and that a refusal stores nothing."""

import dataclasses
import hashlib
import io
import json
import resource
import socket
import zipfile

import httpx
import pytest

from tailfleet_coordinator import bundled
from tailfleet_coordinator.replies import DatasetAdded, DatasetRequest, ModelAdded, ModelRequest, StoredArtifact
from tailfleet_schema import codec
from tailfleet_schema.messages import ErrorReply
from tailfleet_schema.workload import DatasetIndex, DatasetSpec, ImageFile, ModelSpec, Preprocessing

PREPROCESSING = Preprocessing([0.5], [0.5])


@pytest.fixture
def ask(live):
    with httpx.Client(base_url=live.url, headers={"Authorization": f"Bearer {live.operator}"}) as client:
        yield client.request


def refusal(answer, status, words):
    assert answer.status_code == status, answer.text
    reply = codec.loads(ErrorReply, answer.content)
    assert words in reply.error, reply.error
    return reply


def named(content):
    return hashlib.sha256(content).hexdigest()


def changed(request, name, changes):
    """The request's body with some fields of its part ``name`` changed, whether that makes sense or not."""
    told = codec.encode(request)
    for field, value in changes.items():
        value = codec.encode(value)
        told[name][field] = {**told[name][field], **value} if field == "geometry" else value
    return json.dumps(told)


def put(ask, content, sha256=None, **options):
    return ask("PUT", f"/v1/artifacts/{sha256 or named(content)}", content=content, **options)


def stored(live):
    folder = live.settings.state_dir / "artifacts"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_artifact_is_sent_asked_for_and_read_in_parts(live, ask):
    content = bytes(range(256)) * 40_000
    where = f"/v1/artifacts/{named(content)}"
    assert ask("HEAD", where).status_code == 404
    for _ in range(2):
        answer = put(ask, content)
        assert codec.loads(StoredArtifact, answer.content) == StoredArtifact(named(content), len(content))
    head = ask("HEAD", where)
    assert (head.status_code, int(head.headers["Content-Length"])) == (200, len(content))
    assert ask("GET", where).content == content
    part = ask("GET", where, headers={"Range": "bytes=5000000-"})
    assert (part.status_code, part.content) == (206, content[5_000_000:])
    assert stored(live) == [named(content)]


def test_bytes_without_a_length_are_taken(live, ask):
    content = [b"a" * 100_000, b"b" * 100_000]
    answer = ask("PUT", f"/v1/artifacts/{named(b''.join(content))}", content=iter(content))
    assert codec.loads(StoredArtifact, answer.content).size == 200_000


def test_other_bytes_than_promised_leave_nothing(live, ask):
    refusal(put(ask, b"weights", "0" * 64), 422, f"7 bytes arrived whose sha256 is {named(b'weights')}, not 0000")
    for name in ("x", "A" * 64, "0" * 63, "..%2f..%2fx"):
        assert put(ask, b"weights", name).status_code in (404, 422)
    assert stored(live) == []


def change(live, **settings):
    for name, value in settings.items():
        object.__setattr__(live.settings, name, value)


def test_an_artifact_larger_than_allowed(live, ask):
    change(live, artifact_bytes=1000)
    content = b"x" * 1001
    refusal(put(ask, content), 413, "may have 1000 bytes")
    refusal(ask("PUT", f"/v1/artifacts/{named(content)}", content=iter([content])), 413, "may have 1000 bytes")
    # Long enough that no socket swallows it: the answer comes while it is being sent.
    refusal(put(ask, bytes(100 << 20), "0" * 64), 413, "may have 1000 bytes")
    assert stored(live) == []


def test_a_full_disk_is_a_sentence_before_and_while_it_fills(live, ask):
    change(live, artifact_bytes=1 << 62)
    with begun(live, 1 << 60) as connection, connection.makefile("rb") as answer:
        assert b" 507 " in answer.readline()
    content = bytes(24 << 20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 20, before[1]))
    try:
        reply = refusal(put(ask, content), 507, "no room for artifact")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "make room" in reply.mend
    assert stored(live) == []
    assert put(ask, content).status_code == 200


def begun(live, length):
    """A connection over which an upload of ``length`` bytes has been announced."""
    host, port = live.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(
        f"PUT /v1/artifacts/{'0' * 64} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n"
        f"Authorization: Bearer {live.operator}\r\n\r\n".encode()
    )
    return connection


def test_who_sends_all_before_listening_hears_why_it_was_refused(live):
    change(live, artifact_bytes=1000)
    with begun(live, 50 << 20) as connection, connection.makefile("rb") as answer:
        for _ in range(50):
            connection.sendall(bytes(1 << 20))
        assert b" 413 " in answer.readline()


def test_a_connection_that_breaks_leaves_nothing(live, ask):
    with begun(live, 50 << 20) as connection:
        connection.sendall(bytes(10 << 20))
        while not stored(live):
            pass
    # The server has one loop: while it answers this, it hears of the end of that.
    while stored(live):
        assert ask("GET", "/v1/health").status_code == 200


def test_viewers_and_boards_may_read_but_not_write(live):
    live.board("nano")
    with httpx.Client(base_url=live.url) as client:
        for token in (live.viewer, "nano-token"):
            headers = {"Authorization": f"Bearer {token}"}
            for method, path in (
                ("PUT", "/v1/artifacts/" + named(b"x")),
                ("POST", "/v1/models"),
                ("POST", "/v1/datasets"),
            ):
                assert client.request(method, path, headers=headers, content=b"x").status_code == 403
            assert client.head("/v1/artifacts/" + "0" * 64, headers=headers).status_code == 404
        assert client.head("/v1/artifacts/" + "0" * 64, headers={"Authorization": "Bearer guess"}).status_code == 401
    assert stored(live) == []


# Models


def model(live, **changes):
    return dataclasses.replace(live.lab.model, **{"name": "mine", "preprocessing": PREPROCESSING, **changes})


def post_model(ask, spec, replace=False):
    return ask("POST", "/v1/models", content=codec.dumps(ModelRequest(spec, replace)))


def test_a_model_is_registered_once_its_weights_are_here(live, ask):
    weights = named(b"weights")
    spec = model(live, checkpoint_sha256=weights)
    reply = refusal(post_model(ask, spec), 422, f"the checkpoint {weights[:12]} is not here")
    assert weights in reply.mend
    put(ask, b"weights")
    first = codec.loads(ModelAdded, post_model(ask, spec).content)
    assert (first.model, first.new, len(first.digest)) == (spec, True, 64)
    assert codec.loads(ModelAdded, post_model(ask, spec).content) == dataclasses.replace(first, new=False)
    assert live.lab.store.get_model("mine") == spec


def test_a_name_that_is_taken_is_replaced_on_demand_alone(live, ask):
    post_model(ask, model(live))
    other = model(live, arguments={"depth": 4})
    reply = refusal(post_model(ask, other), 409, "another model is called 'mine'")
    assert "--replace" in reply.mend
    assert live.lab.store.get_model("mine") == model(live)
    assert codec.loads(ModelAdded, post_model(ask, other, replace=True).content).new
    assert live.lab.store.get_model("mine") == other


def test_bundled_names_stay_what_they_are(live, ask):
    for spec in bundled.models():
        refusal(post_model(ask, model(live, name=spec.name), replace=True), 409, "comes with tailfleet")
    assert post_model(ask, bundled.deit_small()).status_code == 200
    dataset = DatasetSpec("digits", "0" * 64, 2, 1, 1, "", "files")
    refusal(post_dataset(ask, dataset, replace=True), 409, "comes with tailfleet")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "model.name: is empty"),
        ({"name": "a b"}, "cannot be called 'a b'"),
        ({"name": "../x"}, "cannot be called '../x'"),
        ({"name": "x" * 129}, "model.name: has 129 characters; at most 128"),
        ({"checkpoint_sha256": "../x"}, "model.checkpoint_sha256: must be a sha256"),
        ({"dataset": "ghost", "pretrained": True}, "no dataset is called 'ghost'"),
        ({"dataset": "small"}, "random weights"),
        ({"dataset": "many", "pretrained": True}, "dataset 'many' has 11 classes, and model 'mine' tells 10 apart"),
        ({"preprocessing": Preprocessing([0.5] * 2, [0.5] * 2)}, "means of 2 channels, and the model takes 3"),
        ({"geometry": {"depth": 1001}}, "model.geometry.depth: must be at most 1000"),
        ({"geometry": {"tokens": 65537}}, "65536 tokens"),
    ],
)
def test_a_model_that_cannot_be_run_or_judged(live, ask, changes, words):
    for name, classes in (("small", 10), ("many", 11)):
        live.lab.store.put_dataset(DatasetSpec(name, "0" * 64, classes, 1, 1, ""))
    told = changed(ModelRequest(model(live)), "model", changes)
    refusal(ask("POST", "/v1/models", content=told), 404 if "ghost" in words else 422, words)
    assert [known.name for known in live.lab.store.list_models()] == ["tiny"]


def test_names_at_the_edge_are_good(live, ask):
    for name in ("x" * 128, "vit_small_patch16_224.augreg_in21k-ft", "7"):
        assert post_model(ask, model(live, name=name)).status_code == 200


def test_a_model_in_use_is_not_replaced(live, ask):
    live.board("nano")
    post_model(ask, model(live))
    live.lab.campaign("c1", "nano", models=["mine"])
    other = model(live, arguments={"depth": 4})
    reply = refusal(post_model(ask, other, replace=True), 409, "the running campaign c1 uses model 'mine'")
    assert "cancel c1" in reply.mend
    ask("POST", "/v1/campaigns/c1/cancel")
    assert post_model(ask, other, replace=True).status_code == 200


# Datasets

FILES = [
    ImageFile("cat/1.png", 0, "calibration", "a" * 64),
    ImageFile("dog/1.png", 1, "calibration", "b" * 64),
    ImageFile("cat/2.png", 0, "evaluation", "c" * 64),
]


def zipped(paths, **options):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", **options) as archive:
        for path in paths:
            archive.writestr(path, b"image")
    return packed.getvalue()


def dataset(index, pack=None, **changes):
    content = index if isinstance(index, bytes) else codec.dumps(index).encode()
    spec = DatasetSpec("pets", named(content), 2, 2, 1, "a test", "files", None if pack is None else named(pack))
    return dataclasses.replace(spec, **changes)


def post_dataset(ask, spec, replace=False):
    return ask("POST", "/v1/datasets", content=codec.dumps(DatasetRequest(spec, replace)))


def sent(ask, index, pack=None, **changes):
    """Send index and pack; their dataset."""
    content = index if isinstance(index, bytes) else codec.dumps(index).encode()
    assert put(ask, content).status_code == 200
    if pack is not None:
        assert put(ask, pack).status_code == 200
    return dataset(content, pack, **changes)


def test_a_dataset_is_registered_once_all_of_it_is_here(live, ask):
    index, pack = DatasetIndex(["cat", "dog"], FILES), zipped(file.path for file in FILES)
    spec = dataset(index, pack)
    refusal(post_dataset(ask, spec), 422, f"the index {spec.sha256[:12]} is not here")
    put(ask, codec.dumps(index).encode())
    refusal(post_dataset(ask, spec), 422, f"the pack {spec.pack_sha256[:12]} is not here")
    put(ask, pack)
    assert codec.loads(DatasetAdded, post_dataset(ask, spec).content) == DatasetAdded(spec, True)
    elsewhere = dataclasses.replace(spec, source="another folder with the same images")
    assert not codec.loads(DatasetAdded, post_dataset(ask, elsewhere).content).new
    assert live.lab.store.list_datasets() == [spec]


def test_a_dataset_without_a_pack(live, ask):
    spec = sent(ask, DatasetIndex(["cat", "dog"], FILES))
    assert codec.loads(DatasetAdded, post_dataset(ask, spec).content) == DatasetAdded(spec, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "p/q"}, "a dataset cannot be called 'p/q'"),
        ({"form": "arrays"}, "only datasets of form 'files' can be added"),
        ({"classes": 3}, "dataset.classes is 3, but the index has 2"),
        ({"calibration_images": 1}, "dataset.calibration_images is 1, but the index has 2"),
        ({"evaluation_images": -1}, "dataset.evaluation_images: must be at least 0"),
        ({"sha256": "x"}, "dataset.sha256: must be a sha256"),
        ({"pack_sha256": "x"}, "dataset.pack_sha256: must be a sha256"),
    ],
)
def test_a_dataset_that_is_not_what_it_says(live, ask, changes, words):
    told = changed(DatasetRequest(sent(ask, DatasetIndex(["cat", "dog"], FILES))), "dataset", changes)
    refusal(ask("POST", "/v1/datasets", content=told), 422, words)
    assert live.lab.store.list_datasets() == []


def test_an_index_without_images_of_a_split(live, ask):
    spec = sent(ask, DatasetIndex(["cat", "dog"], FILES[:2]), evaluation_images=0)
    refusal(post_dataset(ask, spec), 422, "dataset.evaluation_images must be at least 1")


def encoded(*changes, classes=("cat", "dog")):
    """The canonical index with the fields of some of its files changed, whether that makes sense or not."""
    told = {"classes": list(classes), "files": [codec.encode(file) for file in FILES]}
    for number, fields in changes:
        told["files"][number].update(fields)
    return json.dumps(told, sort_keys=True, separators=(",", ":")).encode()


INDICES = [
    (b"", "not valid JSON"),
    (b"PK", "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
    (encoded().replace(b'":', b'": '), "not canonical"),
    (encoded((0, {"colour": 1})), "index.files[0].colour: unknown field"),
    (encoded((0, {"label": "0"})), "index.files[0].label: must be a whole number"),
    (encoded((0, {"label": 2})), "has the label 2, but there are 2 classes"),
    (encoded((0, {"path": "../../etc/passwd"})), "is not the path of a file below"),
    (encoded((1, {"path": "cat/1.png"})), "cat/1.png occurs twice"),
    (encoded((2, {"sha256": "a" * 64})), "lies in both splits"),
    (encoded((1, {"sha256": "a" * 64})), "cat/1.png and dog/1.png are the same image under two classes"),
    (encoded((2, {"split": "calibration"})), "dataset.calibration_images is 2, but the index has 3"),
]


@pytest.mark.parametrize(("index", "words"), INDICES)
def test_an_index_that_vouches_for_nothing(live, ask, index, words):
    refusal(post_dataset(ask, sent(ask, index)), 422, words)
    assert live.lab.store.list_datasets() == []


@pytest.mark.parametrize(
    ("pack", "words"),
    [
        (b"no zip", "the pack is not a zip"),
        (zipped(["cat/1.png", "dog/1.png"]), "the pack lacks 'cat/2.png'"),
        (zipped([*(file.path for file in FILES), "setup.py"]), "the pack holds, but the index does not, 'setup.py'"),
        (zipped((file.path for file in FILES), compression=zipfile.ZIP_DEFLATED), "compressed"),
    ],
)
def test_a_pack_that_is_not_the_index_s(live, ask, pack, words):
    refusal(post_dataset(ask, sent(ask, DatasetIndex(["cat", "dog"], FILES), pack)), 422, words)
    assert live.lab.store.list_datasets() == []


def test_other_images_take_the_name_on_demand_and_never_under_a_campaign(live, ask):
    live.board("nano")
    first = sent(ask, DatasetIndex(["cat", "dog"], FILES))
    post_dataset(ask, first)
    put(ask, b"weights")
    judged = model(live, checkpoint_sha256=named(b"weights"), dataset="pets")
    assert post_model(ask, judged).status_code == 200
    second = sent(ask, encoded((2, {"sha256": "d" * 64})))
    refusal(post_dataset(ask, second), 409, "another dataset is called 'pets'")
    live.lab.campaign("c1", "nano", models=["mine"])
    refusal(post_dataset(ask, second, replace=True), 409, "the running campaign c1 uses model 'mine'")
    ask("POST", "/v1/campaigns/c1/cancel")
    many = sent(ask, encoded(classes=["cat", "dog", *"abcdefghi"]), classes=11)
    refusal(post_dataset(ask, many, replace=True), 422, "dataset 'pets' has 11 classes, and model 'mine' tells 10")
    assert live.lab.store.list_datasets() == [first]
    assert codec.loads(DatasetAdded, post_dataset(ask, second, replace=True).content).new
    assert live.lab.store.list_datasets() == [second]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"model": {}, "dataset": {}}', b'{"model": 1}'])
def test_bodies_that_are_none(live, ask, path, body):
    answer = ask("POST", path, content=body)
    assert answer.status_code == 422
    assert codec.loads(ErrorReply, answer.content).error


def test_a_geometry_that_cannot_be(live, ask):
    told = codec.encode(ModelRequest(model(live)))
    for field, value, words in (
        ("depth", 0, "model.geometry.depth: must be at least 1"),
        ("heads", 3, "is no multiple of 3 heads"),
        ("tokens", 10**30, "64 bits"),
        ("tokens", "17", "must be a whole number"),
    ):
        changed = json.loads(json.dumps(told))
        changed["model"]["geometry"][field] = value
        refusal(ask("POST", "/v1/models", content=json.dumps(changed)), 422, words)
    assert isinstance(live.lab.model, ModelSpec)
    assert [known.name for known in live.lab.store.list_models()] == ["tiny"]
