"""Judging units: against whole reduced models run the long way, and against counts made by hand."""

import dataclasses
import math

import pytest
import torch

from tailfleet_agent.worker import datasets, judge, models
from tailfleet_reduce import METHODS, apply
from tailfleet_reduce.queries import attach
from tailfleet_schema.curve import WHOLE, Part, Unit
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.schedule import Schedule, dense
from tailfleet_schema.workload import Workload

UNTRAINED = sorted(set(METHODS) - {"cropr"})


@pytest.fixture
def order(artifacts, tiny):
    """A function that makes a job of units and schedules on the tiny model, with a checkpoint and images."""
    model = artifacts.model(checkpoint_sha256=artifacts.checkpoint())
    dataset = artifacts.dataset()

    def make(units, schedules=(), seed=7, images=None, dataset=dataset):
        return Job("job", JobKind.PROFILE, Workload(model), list(units), 1, 1, seed, list(schedules), dataset, images)

    return make


def schedule(method, keep):
    return Schedule(method, "tiny_vit", 17, 1, list(keep))


def judged(artifacts, job, unit=None):
    return judge.Judge(job, artifacts.folder, "host").judge(unit or job.units[0])


def by_hand(artifacts, job, split, schedule=None, images=None):
    """Logits of the dense or the reduced model, all images in one batch, and the labels."""
    spec = job.workload.model
    model = models.build(spec, artifacts.folder, seed=0)
    found = datasets.load(job.dataset, artifacts.folder, split, images)
    with torch.no_grad():
        return (apply(model, schedule) if schedule else model)(found.inputs(spec)), found.labels


@pytest.mark.parametrize("method", [*UNTRAINED, "dense"])
def test_accuracy_is_that_of_the_schedule_on_the_evaluation_images(artifacts, order, monkeypatch, method):
    monkeypatch.setattr(judge, "BATCH", 4)
    plan = schedule(method, [17, 17, 17] if method == "dense" else [17, 12, 9])
    job = order([Unit(Part.ACCURACY, 17, 17, plan.digest)], [plan])
    got = judged(artifacts, job)
    logits, labels = by_hand(artifacts, job, "evaluation", plan)
    whole, _ = by_hand(artifacts, job, "evaluation")
    right = [int(a) == int(b) for a, b in zip(logits.argmax(1), labels)]
    assert got.images == 10
    assert got.correct_bits == "".join("01"[hit] for hit in right)
    assert got.correct == sum(right)
    assert got.agreeing == int((logits.argmax(1) == whole.argmax(1)).sum())
    assert got.computed_on == "host"
    expected = torch.nn.functional.kl_div(logits.log_softmax(1), whole.softmax(1), reduction="batchmean")
    assert got.kl_nats == pytest.approx(max(0.0, float(expected)), abs=1e-5)
    if method == "dense":
        assert got.kl_nats == 0
        assert got.agreeing == 10
    else:
        assert got.kl_nats > 1e-4


@pytest.mark.parametrize(
    "cache_bytes", [0, 8 * 17 * 12 * 4, 10**9], ids=["none kept", "one block kept", "all blocks kept"]
)
@pytest.mark.parametrize("method", UNTRAINED)
def test_loss_is_that_of_reducing_at_one_block_alone(artifacts, order, monkeypatch, method, cache_bytes):
    monkeypatch.setattr(judge, "CACHE_BYTES", cache_bytes)
    monkeypatch.setattr(judge, "BATCH", 3)
    units = [Unit(Part.LOSS, 17, 11, method, block) for block in (1, 0, 2)]
    job = order(units)
    one = judge.Judge(job, artifacts.folder, "host")
    for unit in units:
        got = one.judge(unit)
        keep = [17] * unit.block + [11] * (3 - unit.block)
        logits, labels = by_hand(artifacts, job, "calibration", schedule(method, keep))
        assert got.images == 8
        assert got.correct_bits == "".join("01"[int(a) == int(b)] for a, b in zip(logits.argmax(1), labels))
        whole, _ = by_hand(artifacts, job, "calibration")
        expected = torch.nn.functional.kl_div(logits.log_softmax(1), whole.softmax(1), reduction="batchmean")
        assert got.kl_nats == pytest.approx(float(expected), abs=1e-5)
        kept = sum(
            x.numel() * x.element_size() for batches in one._split("calibration")._entering.values() for x in batches
        )
        assert kept <= cache_bytes
        assert (kept > 0) == (cache_bytes > 0)


@pytest.mark.parametrize("keep", [[12, 12, 9], [17, 12, 9], [17, 17, 17]], ids=["at once", "later", "never"])
@pytest.mark.parametrize("method", UNTRAINED)
def test_loss_of_a_whole_schedule_is_on_calibration_images(artifacts, order, monkeypatch, method, keep):
    monkeypatch.setattr(judge, "BATCH", 3)
    plan = schedule(method, keep)
    job = order([Unit(Part.LOSS, 17, keep[-1], plan.digest, WHOLE)], [plan])
    one = judge.Judge(job, artifacts.folder, "host")
    one.judge(Unit(Part.LOSS, 17, 12, method, 1))
    embedded = []
    one._anatomy.blocks[0].module.register_forward_hook(lambda *_: embedded.append(1))
    got = one.judge(job.units[0])
    logits, labels = by_hand(artifacts, job, "calibration", plan)
    whole, _ = by_hand(artifacts, job, "calibration")
    assert got.images == 8
    assert got.correct_bits == "".join("01"[int(a) == int(b)] for a, b in zip(logits.argmax(1), labels))
    expected = torch.nn.functional.kl_div(logits.log_softmax(1), whole.softmax(1), reduction="batchmean")
    assert got.kl_nats == pytest.approx(float(expected), abs=1e-5)
    # What the dense model makes of the images is known, up to the first reduction.
    assert not embedded


@pytest.mark.parametrize(
    ("block", "kept", "keep"), [(1, 5, [9, 5, 5]), (1, 6, [11, 6, 6]), (2, 3, [9, 5, 3]), (2, 8, [17, 15, 8])]
)
def test_a_loss_below_what_one_block_can_leave_has_the_blocks_before_help(artifacts, order, block, kept, keep):
    job = order([Unit(Part.LOSS, 17, kept, "tome", block)])
    got = judged(artifacts, job)
    logits, labels = by_hand(artifacts, job, "calibration", schedule("tome", keep))
    assert got.correct_bits == "".join("01"[int(a) == int(b)] for a, b in zip(logits.argmax(1), labels))
    whole, _ = by_hand(artifacts, job, "calibration")
    expected = torch.nn.functional.kl_div(logits.log_softmax(1), whole.softmax(1), reduction="batchmean")
    assert got.kl_nats == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("pixel_bytes", "read"),
    [(0, [3, 3, 2] * 3), (3 * 256, [3, 3, 2, 3, 2, 3, 2]), (10**9, [3, 3, 2])],
    ids=["none kept", "one batch kept", "all kept"],
)
def test_pictures_are_read_by_the_batch_and_kept_while_they_fit(
    artifacts, order, tmp_path, monkeypatch, pixel_bytes, read
):
    """Three passes over eight images: one for each unit, and the dense model's."""
    monkeypatch.setattr(judge, "PIXEL_BYTES", pixel_bytes)
    monkeypatch.setattr(judge, "BATCH", 3)
    dataset = artifacts.files(tmp_path / "images", count=24)
    units = [Unit(Part.INPUT, 6, 6), Unit(Part.INPUT, 9, 9)]
    one = judge.Judge(order(units, dataset=dataset), artifacts.folder, "host")
    sizes = []
    images = one._split("calibration")._images
    pictures = images.pictures
    monkeypatch.setattr(images, "pictures", lambda *span: sizes.append(len(pictures(*span))) or pictures(*span))
    for unit in units:
        one.judge(unit)
    assert sizes == read


def test_image_files_are_judged_alike_from_a_folder_and_from_the_pack(artifacts, order, tmp_path):
    job = order([Unit(Part.LOSS, 17, 9, "topk", 1)], dataset=artifacts.files(tmp_path / "images"))
    from_pack = judged(artifacts, job)
    folder = str(tmp_path / "images")
    assert judge.Judge(job, artifacts.folder, "host", dataset_folder=folder).judge(job.units[0]) == from_pack
    assert from_pack.images == 6


@pytest.mark.parametrize("by_backend", [False, True])
def test_without_labels_the_dense_model_s_answers_are_what_is_right(artifacts, order, tmp_path, by_backend):
    plan, whole = schedule("topk", [17, 12, 9]), dense("tiny_vit", artifacts.model().geometry)
    units = [Unit(Part.LOSS, 17, 5, "topk", 0), Unit(Part.INPUT, 5, 5)]
    units += [Unit(Part.ACCURACY, 17, 17, one.digest) for one in (plan, whole)]
    files = {named: artifacts.files(tmp_path / str(named), labelled=named) for named in (True, False)}
    assert [files[False].labelled, files[True].labelled] == [False, True]
    # One that is wrong about everything: even dense agrees with the eager model no more.
    predict = (lambda digest, images: -images[:, 0, 0, :3]) if by_backend else None
    told = []
    for labelled in (True, False):
        job = order(units, [plan, whole], dataset=files[labelled])
        one = judge.Judge(job, artifacts.folder, "host", predict=predict)
        told.append([one.judge(unit) for unit in units])
    for with_labels, without in zip(*told):
        assert without.correct == without.agreeing == with_labels.agreeing
        assert without.correct_bits.count("1") == without.correct
        assert without.kl_nats == with_labels.kl_nats
    assert any(one.correct != other.correct for one, other in zip(*told))
    last = told[1][-1]
    assert (last.agreeing == last.images) is not by_backend


def test_cropr_is_judged_by_trained_queries_or_not_at_all(artifacts, order, monkeypatch):
    plan = schedule("cropr", [17, 12, 9])
    units = [Unit(Part.LOSS, 17, 9, "cropr", 1), Unit(Part.ACCURACY, 17, 9, plan.digest)]
    job = order(units, [plan])
    # A backend predicts with untrained ones, for it times with them.
    for predict in (None, lambda digest, images: images[:, 0, 0, :3]):
        one = judge.Judge(job, artifacts.folder, "host", predict=predict)
        for unit in units:
            with pytest.raises(ScheduleError, match="'cropr' needs trained queries, and the model carries none"):
                one.judge(unit)
    build = models.build

    def trained(*given):
        model = build(*given)
        attach(model, {1: torch.arange(12.0)})
        return model

    monkeypatch.setattr(judge.models, "build", trained)
    one = judge.Judge(job, artifacts.folder, "host")
    assert one.judge(units[0]).kl_nats > 1e-4
    with pytest.raises(ScheduleError, match="no Cropr queries are known for block 2; known are those of 1"):
        one.judge(units[1])
    with pytest.raises(ScheduleError, match="for block 0; known are those of 1"):
        one.judge(Unit(Part.LOSS, 17, 9, "cropr", 0))


def test_the_dense_model_runs_once_for_all_units(artifacts, order, monkeypatch):
    units = [Unit(Part.LOSS, 17, kept, "topk", block) for kept, block in ((15, 1), (12, 1), (9, 2), (5, 1))]
    one = judge.Judge(order(units), artifacts.folder, "host")
    first = one.judge(units[0])
    runs = []
    block = one._anatomy.blocks[0].module
    block.register_forward_hook(lambda *_: runs.append(1))
    for unit in units[1:]:
        one.judge(unit)
    assert not runs
    assert one.judge(units[0]) == first


def test_nothing_lost_where_nothing_is_reduced(artifacts, order):
    units = [Unit(Part.LOSS, 17, 17, "topk", 1), Unit(Part.INPUT, 17, 17)]
    for unit in units:
        got = judged(artifacts, order(units), unit)
        assert got.agreeing == 8
        assert got.kl_nats == pytest.approx(0, abs=1e-6)


def test_input_subsets_are_random_but_seeded(artifacts, order):
    unit = Unit(Part.INPUT, 6, 6)
    first = judged(artifacts, order([unit], seed=1))
    assert judged(artifacts, order([unit], seed=1)) == first
    assert judged(artifacts, order([unit], seed=2)).kl_nats != first.kl_nats
    assert first.kl_nats > judged(artifacts, order([Unit(Part.INPUT, 16, 16)], seed=1)).kl_nats > 0


def test_input_subsets_keep_the_prefix_and_differ_between_images(artifacts, order):
    unit = Unit(Part.INPUT, 6, 6)
    one = judge.Judge(order([unit]), artifacts.folder, "host")
    seen = []
    one._anatomy.blocks[0].module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        embedded = [one._anatomy.embed(batch) for batch in one._split("calibration").batches()]
    one.judge(unit)
    picked = [x for x in seen if x.shape[1] == 6]
    x, kept = embedded[0], picked[0]
    assert torch.equal(kept[:, 0], x[:, 0])
    places = [[int((x[image] - token).abs().sum(1).argmin()) for token in kept[image]] for image in range(len(x))]
    assert all(place == sorted(set(place)) for place in places)
    assert len({tuple(place) for place in places}) > 1


def test_images_limit_what_is_judged(artifacts, order):
    got = judged(artifacts, order([Unit(Part.LOSS, 17, 9, "topk", 0)], images=5))
    assert got.images == len(got.correct_bits) == 5


@pytest.mark.parametrize(
    ("unit", "sentence"),
    [
        (Unit(Part.LOSS, 17, 9, "topk", 3), "no block 3; the model has 3"),
        (Unit(Part.LOSS, 16, 9, "topk", 1), "17 tokens enter every block of the dense model, not 16"),
        (Unit(Part.LOSS, 17, 8, "tome", 0), "tome cannot leave 8 of 17 tokens behind block 0"),
        (Unit(Part.LOSS, 17, 4, "tome", 1), "tome cannot leave 4 of 17 tokens behind block 1"),
        (Unit(Part.LOSS, 17, 5, "magic", 1), "unknown method 'magic'"),
        (Unit(Part.LOSS, 17, 17, "dense", 1), "dense cannot leave"),
        (Unit(Part.INPUT, 1, 1), "cannot have 1 tokens"),
        (Unit(Part.INPUT, 18, 18), "cannot have 18 tokens"),
        (Unit(Part.MODEL, 17, 17), "timed, not judged"),
    ],
)
def test_units_that_do_not_fit_are_refused(artifacts, order, unit, sentence):
    with pytest.raises(InputError, match=sentence):
        judged(artifacts, order([unit]), unit)


def test_a_schedule_that_the_job_does_not_carry_is_refused(artifacts, order):
    job = order([Unit(Part.INPUT, 6, 6)])
    with pytest.raises(InputError, match="does not carry the schedule abc"):
        judged(artifacts, job, Unit(Part.ACCURACY, 17, 17, "abc"))
    with pytest.raises(InputError, match="does not carry the schedule abc"):
        judged(artifacts, job, Unit(Part.LOSS, 17, 17, "abc", WHOLE))


def test_divergence_and_agreement_are_those_of_their_definitions():
    whole = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).log()
    other = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]).log()
    got = judge.compare(other, whole, torch.tensor([1, 0]), "board")
    assert got.correct_bits == "10"
    assert (got.images, got.correct, got.agreeing) == (2, 1, 1)
    assert got.kl_nats == pytest.approx((0.5 * math.log(2) - 0.25 * math.log(2)) / 2)


def test_the_dense_schedule_of_the_schema_is_judged_as_dense(artifacts, order, tiny):
    plan = dense("tiny_vit", tiny.geometry)
    assert judged(artifacts, order([Unit(Part.ACCURACY, 17, 17, plan.digest)], [plan])).agreeing == 10


def test_a_backends_predictions_are_judged_against_eager_fp32(artifacts, order, monkeypatch):
    monkeypatch.setattr(judge, "BATCH", 4)
    plan = schedule("topk", [17, 12, 9])
    job = order([Unit(Part.ACCURACY, 17, 17, plan.digest)], [plan])
    whole, labels = by_hand(artifacts, job, "evaluation")
    asked = []

    def predict(digest, images):
        asked.append((digest, images.shape, str(images.dtype)))
        start = sum(shape[0] for _, shape, _ in asked[:-1])
        return whole.flip(1)[start : start + len(images)].numpy()

    got = judge.Judge(job, artifacts.folder, "board", predict=predict).judge(job.units[0])

    assert asked == [(plan.digest, (size, 1, 16, 16), "float32") for size in (4, 4, 2)]
    right = whole.flip(1).argmax(1) == labels
    assert got.correct_bits == "".join("01"[int(hit)] for hit in right)
    assert got.agreeing == int((whole.flip(1).argmax(1) == whole.argmax(1)).sum())
    assert got.kl_nats > 0.01


@pytest.mark.parametrize("method", ["dense", "topk"])
def test_fidelity_is_that_of_the_predictions_to_eager_fp32_under_the_same_schedule(artifacts, order, method):
    plan = schedule("topk", [17, 12, 9])
    label = "" if method == "dense" else plan.digest
    job = order([Unit(Part.FIDELITY, 17, 17, label)], [plan], dataset=None)
    model = models.build(job.workload.model, artifacts.folder, seed=0)
    reduced = apply(model, plan) if label else model
    shift = torch.zeros(3)
    shift[0] = 3.0

    def predict(digest, images):
        assert digest == label
        with torch.no_grad():
            return (reduced(torch.from_numpy(images)) + shift).numpy()

    got = judge.Judge(job, artifacts.folder, "board", predict=predict).judge(job.units[0])

    assert got.images == len(got.correct_bits) == judge.FIDELITY_IMAGES
    assert got.correct == got.agreeing < got.images
    assert got.kl_nats > 1e-3
    shift[0] = 0.0
    # The reference is fp32 whatever dtype the backend computes in.
    job = dataclasses.replace(job, workload=dataclasses.replace(job.workload, dtype="bf16"))
    exact = judge.Judge(job, artifacts.folder, "board", predict=predict).judge(job.units[0])
    assert exact.correct == exact.images
    assert exact.kl_nats < 1e-9


def test_fidelity_without_a_backend_is_refused(artifacts, order):
    with pytest.raises(InputError, match="here is none"):
        judged(artifacts, order([Unit(Part.FIDELITY, 17, 17)], dataset=None))
