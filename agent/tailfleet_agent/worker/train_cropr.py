"""Train Cropr's queries for a model on labelled images: ``python -m tailfleet_agent.worker.train_cropr``.

One ``TrainOrder`` in, ``TrainEvent`` lines out. After every epoch the state is written beside the result, without a
pickle and in one step, so that a training that was ended at any moment can be resumed. Training itself is
``tailfleet_reduce.train``'s work.
"""

import os
import signal
import sys
import time
from typing import IO, Callable, Dict, Iterator, Optional, Tuple

import torch
from torch import nn

from tailfleet_agent.worker import checkpoint, datasets, models, preprocess
from tailfleet_agent.worker.train import augment
from tailfleet_reduce import apply, queries
from tailfleet_reduce.train import Classification, Losses, Settings, Training, arrays, constant_drop, for_share, train
from tailfleet_schema import codec
from tailfleet_schema.errors import InputError, TailfleetError
from tailfleet_schema.job import Failure
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.training import Judged, TrainEvent, TrainOrder, state_path
from tailfleet_schema.workload import ModelSpec

JUDGED_SPLIT = "calibration"

TELL_SECONDS = 0.5
"""Within an epoch, no more often than this."""

INTERRUPTED = 130


class Batches:
    """``images`` in another order each epoch, as many batches as are full, or one; ``tell`` hears how far it is."""

    def __init__(
        self, images: datasets.Images, model: ModelSpec, batch: int, moved: bool, tell: Callable[[float], None]
    ) -> None:
        self._images = images
        self._model = model
        self._batch = min(batch, len(images))
        self._moved = moved
        self._tell = tell

    def __len__(self) -> int:
        return len(self._images) // self._batch

    def __iter__(self) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(self._images))[: len(self) * self._batch].view(-1, self._batch)
        for number, index in enumerate(order):
            self._tell(number / len(self))
            pixels = torch.cat([self._images.pixels(self._model, one, one + 1) for one in index.tolist()])
            inputs = preprocess.normalised(pixels, self._model)
            yield (augment(inputs, self._background()) if self._moved else inputs), self._images.labels[index]

    def _background(self) -> float:
        """What comes in at an image's borders: black for grey ones, the mean for colours."""
        if self._model.geometry.channels != 1:
            return 0.0
        return float(preprocess.normalised(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), self._model))


def top1(model: nn.Module, images: datasets.Images, spec: ModelSpec, batch: int) -> float:
    """Percent of ``images`` that ``model`` names rightly."""
    right = 0
    with torch.no_grad():
        for start in range(0, len(images), batch):
            inputs = preprocess.normalised(images.pixels(spec, start, start + batch), spec)
            right += int((model(inputs).argmax(1) == images.labels[start : start + batch]).sum())
    return 100.0 * right / len(images)


def schedule_of(order: TrainOrder) -> Schedule:
    """The schedule that is meant. Raises ``ScheduleError``."""
    spec = order.model
    if order.schedule is not None:
        order.schedule.check_fits(spec.name, spec.geometry)
        return order.schedule
    if order.drop is not None:
        return constant_drop(spec.name, spec.geometry, order.drop, order.fusion)
    assert order.keep_share is not None
    return for_share(spec.name, spec.geometry, order.keep_share, order.fusion)


def run(order: TrainOrder, say: Callable[[TrainEvent], None]) -> None:
    """Train, judge, write. Raises ``TailfleetError`` for what cannot be done; a state is left where one was written."""
    spec = order.model
    if spec.checkpoint_sha256 is None and not spec.pretrained:
        raise InputError("model {!r} has random weights, which hold nothing that could be kept".format(spec.name))
    resume = _state(order)
    schedule = schedule_of(order)
    images = datasets.load(order.dataset, order.artifacts, order.split, folder=order.folder)
    held_out = datasets.load(order.dataset, order.artifacts, JUDGED_SPLIT, folder=order.folder)
    model = models.build(spec, order.artifacts, order.seed)
    say(TrainEvent(0.0, schedule=schedule))
    dense = top1(model, held_out, spec, order.batch)
    done, told = 0, 0.0

    def tell(part: float) -> None:
        nonlocal told
        if time.monotonic() > told + TELL_SECONDS:
            told = time.monotonic()
            say(TrainEvent(done + part))

    def after_epoch(training: Training, losses: Losses) -> None:
        nonlocal done
        done = losses.epoch
        state = {name: value.numpy() for name, value in training.state().items()}
        checkpoint.write(state_path(order.out), state)
        say(TrainEvent(float(done), losses.auxiliary, losses.main))

    done = 0 if resume is None else int(resume["epoch"])
    found = train(
        model,
        schedule,
        Classification(order.dataset.classes),
        Batches(images, spec, order.batch, order.fine_tune, tell),
        Settings(epochs=order.epochs, fine_tune=order.fine_tune, seed=order.seed),
        resume=resume,
        after_epoch=after_epoch,
        data="{} {} {}".format(order.dataset.sha256, order.split, order.batch),
    )
    pruned = top1(apply(model, schedule), held_out, spec, order.batch)
    checkpoint.write(order.out, _result(order, model, found))
    if os.path.exists(state_path(order.out)):
        os.remove(state_path(order.out))
    say(TrainEvent(float(order.epochs), judged=Judged(len(held_out), dense, pruned)))


def _state(order: TrainOrder) -> Optional[Dict[str, torch.Tensor]]:
    """What to go on from; None to start anew. Raises ``InputError`` where what is asked for is not what is there."""
    path = state_path(order.out)
    if not order.resume:
        if os.path.exists(path):
            raise InputError(
                "{} holds a training that was stopped".format(path), "go on with --resume, or remove the file"
            )
        return None
    if not os.path.exists(path):
        raise InputError("there is no {} to go on from".format(path), "start without --resume")
    held = datasets.read_arrays(path, path)
    return {name: torch.from_numpy(array) for name, array in held.items()}


def _result(order: TrainOrder, model: nn.Module, found: Dict[int, torch.Tensor]) -> checkpoint.Arrays:
    """The model's arrays and its queries: those it came with, in their own precision, where only queries learned."""
    written = {name: value.numpy() for name, value in arrays(model, found).items()}
    sha256 = order.model.checkpoint_sha256
    if sha256 is not None and not order.fine_tune:
        what = "the checkpoint of model {!r}".format(order.model.name)
        own, _ = queries.separated(datasets.read_arrays(datasets.artifact(order.artifacts, sha256, what), what))
        written.update(own)
    return written


def main(orders: IO[str] = sys.stdin, channel: IO[str] = sys.stdout) -> int:
    """Serve one order; 0, 1 after a failure, 130 where it was interrupted."""

    def say(event: TrainEvent) -> None:
        channel.write(codec.dumps(event) + "\n")
        channel.flush()

    try:
        run(codec.loads(TrainOrder, orders.readline(), "order"), say)
    except TailfleetError as error:
        sentence = error.sentence + ("; mend: {}".format(error.mend) if error.mend else "")
        say(TrainEvent(0.0, failure=Failure(sentence, error.blame)))
        return 1
    except (KeyboardInterrupt, BrokenPipeError):  # the second: nobody listens any more
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    # The command ends it so, also where it was itself started by something that lets background jobs ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
