"""Models and images sent by ``Fleet`` to the real application."""

import dataclasses
import hashlib
import io
import zipfile

import pytest

from tailfleet_coordinator.client import Fleet, FleetError
from tailfleet_coordinator.plan.decision import Plan
from tailfleet_coordinator.refusals import NameTaken, UnknownName
from tailfleet_schema import codec
from tailfleet_schema.campaign import CampaignState, Objective
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import InputError, LabError
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.schedule import dense
from tailfleet_schema.workload import Workload


def stored(live):
    folder = live.settings.state_dir / "artifacts"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_folder_of_images_becomes_a_dataset(live, fleet, pets):
    told = []
    added, notes = fleet.add_dataset("pets", pets, progress=lambda *news: told.append(news))
    spec = added.dataset
    assert added.new
    assert notes == ()
    assert (spec.classes, spec.calibration_images, spec.evaluation_images) == (2, 3, 6)
    assert spec.source == "image folder 'pets', 9 images, divided with seed 0"
    index = fleet.dataset_index("pets")
    assert index.classes == ["cat", "dog"]
    assert [(file.split, file.label) for file in index.files].count(("calibration", 0)) == 2
    with zipfile.ZipFile(io.BytesIO(live.artifacts.read(spec.pack_sha256))) as archive:
        for file in index.files:
            content = archive.read(file.path)
            assert content == (pets / file.path).read_bytes()
            assert hashlib.sha256(content).hexdigest() == file.sha256
    assert {what for what, _, _ in told} == {"reading", "packing", "sending"}
    assert all(done <= total for _, done, total in told)
    assert fleet.dataset("pets") == spec
    row = fleet.datasets().iloc[0]
    assert (row["name"], row["form"], row["files"]) == ("pets", "files", "coordinator")


def test_a_folder_of_images_without_labels_becomes_a_dataset(live, fleet, pets):
    added, _ = fleet.add_dataset("pets", pets, labels=False)
    assert (added.dataset.classes, added.dataset.calibration_images, added.dataset.evaluation_images) == (0, 3, 6)
    assert not fleet.dataset("pets").labelled
    assert fleet.dataset_index("pets").classes == []
    # The same images with labels are others.
    with pytest.raises(NameTaken, match="another dataset"):
        fleet.add_dataset("pets", pets)


def test_nothing_is_sent_twice(live, fleet, pets):
    told = []
    first, _ = fleet.add_dataset("pets", pets)
    again, _ = fleet.add_dataset("pets", pets, progress=lambda what, *_: told.append(what))
    assert (again.dataset, again.new) == (first.dataset, False)
    assert set(told) == {"reading", "packing"}


def test_the_images_may_stay_where_they_are(live, fleet, pets):
    added, _ = fleet.add_dataset("pets", pets, index_only=True)
    assert added.dataset.pack_sha256 is None
    assert stored(live) == [added.dataset.sha256]
    assert fleet.datasets()["files"].tolist() == ["board"]


def test_a_taken_name_is_refused_before_anything_is_sent(live, fleet, pets):
    first, _ = fleet.add_dataset("pets", pets, index_only=True)
    with pytest.raises(NameTaken, match="another dataset is called 'pets'"):
        fleet.add_dataset("pets", pets, seed=1)
    assert stored(live) == [first.dataset.sha256]
    second, _ = fleet.add_dataset("pets", pets, seed=1, index_only=True, replace=True)
    assert fleet.dataset("pets") == second.dataset != first.dataset


def test_what_is_wrong_with_a_folder_stores_nothing(live, fleet, pets, tmp_path):
    (pets / "cat" / "letter.jpg").write_bytes(b"Dear Sir")
    for path, options, words in (
        (tmp_path / "nowhere", {}, "there is no"),
        (pets, {}, "letter.jpg is no image"),
    ):
        with pytest.raises(InputError, match=words):
            fleet.add_dataset("pets", path, **options)
    (pets / "cat" / "letter.jpg").unlink()
    for options, words in (
        ({"calibration": 0.9}, "too few images"),
        ({"class_index": {"cat": 0}}, "no label to dog"),
    ):
        with pytest.raises(InputError, match=words):
            fleet.add_dataset("pets", pets, **options)
    with pytest.raises(InputError, match="cannot be called"):
        fleet.add_dataset("my pets", pets)
    assert stored(live) == []
    assert fleet.datasets().empty


def test_a_file_is_sent_by_its_content(live, fleet, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(5 << 20) + b"end")
    sha256 = fleet.upload(path)
    assert live.artifacts.path(sha256).read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="nowhere cannot be read"):
        fleet.upload(tmp_path / "nowhere")


def test_refusals_of_an_upload_reach_the_sender(live, fleet, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(5 << 20))
    object.__setattr__(live.settings, "artifact_bytes", 1000)
    with pytest.raises(FleetError, match="may have 1000 bytes") as refusal:
        fleet.upload(path)
    assert refusal.value.status == 413
    with Fleet(live.url, live.viewer) as viewer, pytest.raises(FleetError, match="role viewer"):
        viewer.upload(path)
    with Fleet("http://127.0.0.1:9", "token") as nobody, pytest.raises(LabError, match="no coordinator answers"):
        nobody.upload(path)
    assert stored(live) == []


def test_names_that_nobody_has(fleet):
    for look in (fleet.model, fleet.dataset, fleet.dataset_index):
        with pytest.raises(UnknownName, match="is called 'ghost'"):
            look("ghost")
    with pytest.raises(UnknownName, match="no dataset is called 'ghost'"):
        fleet.add_model("mine", "vit_tiny_patch16_224", pretrained=True, dataset="ghost")


def test_a_report_is_of_the_model_that_was_measured(live, fleet):
    """The name has come to mean a model of another depth since."""
    lab, board_id = live.lab, live.board("nano")
    lab.campaign("c1", "nano", objective=Objective(latency_share=0.8))
    whole = dense("tiny", lab.model.geometry)
    units = [Unit(Part.SCHEDULE, 17, 17, whole.digest)]
    job = Job("v", JobKind.VERIFY, Workload(lab.model), units, 2, 1, 0, schedules=[whole])
    assert lab.store.create_job("c1", board_id, "tiny", job)
    lab.claim(board_id)
    lab.add(board_id, job, 1, lab.results_of(job))
    plan = codec.dumps(Plan(None, 9e9, 9e9, 9e9, 9e9, None, "do not prune"))
    lab.store.add_plan("c1", board_id, "tiny", "optimal", "topk", plan, None)
    lab.store.end_campaign("c1", CampaignState.DONE)
    (before,) = fleet.report("c1").rows
    assert before.dense_ns == pytest.approx(1000, abs=1)
    deeper = dataclasses.replace(lab.model, geometry=dataclasses.replace(lab.model.geometry, depth=5))
    lab.store.add_model(deeper, replace=True)
    assert fleet.report("c1").rows == [before]
