"""The child that trains queries, over its real pipes or in this process: what it writes, tells, and refuses."""

import hashlib
import io
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tailfleet_agent.worker import checkpoint, datasets, models, train_cropr
from tailfleet_reduce import apply, dissect
from tailfleet_reduce.queries import attached
from tailfleet_schema import codec
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.training import TrainEvent, TrainOrder, state_path
from tailfleet_schema.workload import DatasetSpec, ModelSpec, Preprocessing

ARGUMENTS = {
    "img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 12, "depth": 4, "num_heads": 2,
}  # fmt: skip
SCHEDULE = Schedule("cropr", "own", 17, 1, [12, 8, 8, 17], restore_before=3)


@pytest.fixture
def order(tmp_path):
    torch.manual_seed(0)
    model = VisionTransformer(**ARGUMENTS)
    path = tmp_path / "content"

    def stored(arrays):
        checkpoint.write(str(path), arrays)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(tmp_path / sha256)
        return sha256

    random = np.random.RandomState(0)
    labels = np.arange(40) % 3
    images = random.randint(0, 60, (40, 8, 8)).astype(np.uint8) + (60 * labels[:, None, None]).astype(np.uint8)
    held = {"images": images, "labels": labels.astype(np.int64), "evaluation": np.zeros(0, dtype=np.int64)}
    held.update(train=np.arange(24), calibration=np.arange(24, 40))
    spec = ModelSpec(
        "own",
        "VisionTransformer",
        dissect(model).geometry(),
        ARGUMENTS,
        stored({name: value.numpy().astype(np.float16) for name, value in model.state_dict().items()}),
        "own",
        Preprocessing([0.4], [0.2], "bilinear"),
    )
    dataset = DatasetSpec("own", stored(held), 3, 16, 0, "a test")
    out = str(tmp_path / "out.npz")
    return TrainOrder(spec, dataset, str(tmp_path), "train", out, schedule=SCHEDULE, epochs=3, batch=8)


def follow(order):
    """The events of a training in this process."""
    events = []
    train_cropr.run(order, events.append)
    return events


def read(path):
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def equal(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("fine_tune", [False, True], ids=["frozen", "fine-tuned"])
def test_what_is_written_is_a_checkpoint_that_reduces_as_was_judged(order, fine_tune):
    events = follow(replace(order, fine_tune=fine_tune))
    assert events[0].schedule == SCHEDULE
    told = [event for event in events if event.auxiliary_loss is not None]
    assert [event.epochs_done for event in told] == [1.0, 2.0, 3.0]
    assert not os.path.exists(state_path(order.out))
    own, written = read(os.path.join(order.artifacts, order.model.checkpoint_sha256)), read(order.out)
    assert sorted(set(written) - set(own)) == ["cropr.0", "cropr.1", "cropr.2"]
    # Where only queries learned, the arrays are what they were, in their own precision.
    assert equal({name: written[name] for name in own}, own) != fine_tune
    with open(order.out, "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    os.rename(order.out, os.path.join(order.artifacts, sha256))
    model = models.build(replace(order.model, checkpoint_sha256=sha256), order.artifacts, 0)
    assert sorted(attached(model)) == [0, 1, 2]
    held_out = datasets.load(order.dataset, order.artifacts, "calibration")
    judged = events[-1].judged
    assert judged.images == 16
    assert judged.pruned == train_cropr.top1(apply(model, SCHEDULE), held_out, order.model, 5)
    original = models.build(order.model, order.artifacts, 0)
    assert judged.dense == train_cropr.top1(original, held_out, order.model, 5)


def test_a_training_that_was_interrupted_is_resumed_to_the_same_bits(order, monkeypatch, tmp_path):
    follow(order)
    whole = read(order.out)
    stopped = replace(order, out=str(tmp_path / "stopped.npz"))

    def interrupt(event):
        if event.epochs_done == 2.0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cropr.run(stopped, interrupt)
    assert not os.path.exists(stopped.out)
    assert os.path.exists(state_path(stopped.out))
    with pytest.raises(InputError, match="holds a training that was stopped"):
        follow(stopped)
    with pytest.raises(InputError, match="it differs in seed"):
        follow(replace(stopped, seed=1, resume=True))
    events = follow(replace(stopped, resume=True))
    assert [event.epochs_done for event in events if event.auxiliary_loss is not None] == [3.0]
    assert equal(read(stopped.out), whole)
    with pytest.raises(InputError, match="to go on from"):
        follow(replace(stopped, resume=True))


def test_batches_are_the_images_in_another_order_each_time(order):
    images = datasets.load(order.dataset, order.artifacts, "train")
    told = []
    batches = train_cropr.Batches(images, order.model, 8, False, told.append)
    torch.manual_seed(0)
    first, second = list(batches), list(batches)
    assert len(batches) == len(first) == 3
    assert told[:3] == [0.0, 1 / 3, 2 / 3]
    everything = images.inputs(order.model)
    seen = torch.cat([inputs for inputs, _ in first])
    assert not torch.equal(seen, torch.cat([inputs for inputs, _ in second]))
    assert all((everything == one).flatten(1).all(1).any() for one in seen)
    place = [int((everything == one).flatten(1).all(1).nonzero()[0]) for one in seen]
    assert sorted(place) == list(range(24))
    assert torch.equal(images.labels[place], torch.cat([labels for _, labels in first]))
    moved = train_cropr.Batches(images, order.model, 100, True, told.append)
    assert len(moved) == 1
    assert not torch.equal(next(iter(moved))[0].sort(0)[0], everything.sort(0)[0])


def test_a_share_or_a_drop_makes_the_schedule(order):
    by_drop = train_cropr.schedule_of(replace(order, schedule=None, drop=4, fusion=False))
    assert by_drop.keep == [12, 8, 4, 4]
    by_share = train_cropr.schedule_of(replace(order, schedule=None, keep_share=0.75))
    assert sum(by_share.entering) <= 0.75 * 4 * 17
    assert by_share.restore_before == 3
    with pytest.raises(ScheduleError, match="made for model 'other'"):
        train_cropr.schedule_of(replace(order, schedule=replace(SCHEDULE, model="other")))


@pytest.mark.parametrize("given", [{}, {"drop": 3, "keep_share": 0.5}, {"schedule": SCHEDULE, "drop": 3}])
def test_one_way_to_say_which_tokens_leave(order, given):
    with pytest.raises(InputError, match="one schedule, one share of tokens, or one drop"):
        replace(order, **dict({"schedule": None}, **given))


def test_random_weights_are_not_trained(order):
    with pytest.raises(InputError, match="has random weights"):
        follow(replace(order, model=replace(order.model, checkpoint_sha256=None, dataset=None)))


def test_a_refusal_is_one_event(order):
    channel = io.StringIO()
    wrong = replace(order, schedule=replace(SCHEDULE, tokens=18, keep=[12, 8, 8, 18]))
    assert train_cropr.main(io.StringIO(codec.dumps(wrong) + "\n"), channel) == 1
    (event,) = [codec.loads(TrainEvent, line) for line in channel.getvalue().splitlines()]
    assert "expects 18 tokens" in event.failure.sentence


def test_ctrl_c_ends_the_child_without_a_traceback_and_leaves_its_state(order):
    child = subprocess.Popen(
        [sys.executable, "-m", "tailfleet_agent.worker.train_cropr"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    try:
        child.stdin.write(codec.dumps(replace(order, epochs=100000)) + "\n")
        child.stdin.flush()
        for line in child.stdout:
            if codec.loads(TrainEvent, line).auxiliary_loss is not None:
                break
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == train_cropr.INTERRUPTED
    assert "Traceback" not in said
    assert int(read(state_path(order.out))["epoch"]) >= 1
