"""Cropr's queries are trained by a child with torch and timm: it is started, heard, and ended here.

Nothing of torch is imported. What is shown of its progress is the command line's.
"""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tailfleet_coordinator import bundled
from tailfleet_coordinator.library import datasets
from tailfleet_coordinator.library.admission import EVALUATION
from tailfleet_coordinator.library.child import raised
from tailfleet_coordinator.library.progress import Progress, silent
from tailfleet_schema import codec
from tailfleet_schema.errors import ConfigurationError, DecodeError, InputError
from tailfleet_schema.training import TrainEvent, TrainOrder
from tailfleet_schema.workload import DatasetSpec

CHILD = (sys.executable, "-m", "tailfleet_agent.worker.train_cropr")

TRAIN = "train"
HELD_OUT_SHARE = 0.2
"""Of a folder's images; the pruned model is judged on them, and the others are trained on."""
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Images:
    """What is trained on."""

    spec: DatasetSpec
    content: bytes
    """Of the artifact that ``spec.sha256`` names."""
    split: str
    folder: Path | None
    notes: tuple[str, ...] = ()
    """What a person should know: files that were left out."""


def images(dataset: str, seed: int, progress: Progress = silent) -> Images:
    """A bundled dataset by its name, or a folder that holds one folder of images for each class.

    A fifth of a folder's images, of every class the same share, is held out. Raises ``InputError`` for what is neither.
    """
    for spec, content in bundled.datasets():
        if spec.name == dataset:
            return Images(spec, content, TRAIN, None)
    root = Path(dataset)
    if not root.exists():
        known = ", ".join(sorted(bundled.DATASET_NAMES))
        raise InputError(
            f"{dataset!r} is neither a bundled dataset ({known}) nor a folder",
            "name a folder of images to train on; those that the coordinator keeps are for judging",
        )
    prepared = datasets.prepare("folder", root, HELD_OUT_SHARE, None, seed, None, progress)
    # The index calls what is not held out so, since that is what plans are judged on elsewhere.
    return Images(prepared.spec, prepared.content, EVALUATION, root.resolve(), prepared.notes)


def events(order: TrainOrder) -> Iterator[TrainEvent]:
    """What the child tells while it follows ``order``. Raises its failures as what they are.

    ``KeyboardInterrupt`` ends the child, too, and goes on; the state of its last whole epoch is then on disk.
    """
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C in a terminal reaches it once, from here.
        process = subprocess.Popen(
            CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(codec.dumps(order) + "\n")
                process.stdin.close()
            finished = False
            for line in process.stdout:
                event = _event(line)
                if event.failure is not None:
                    raise raised(event.failure)
                finished = event.judged is not None
                yield event
            process.wait()
            if not finished:
                log.seek(0)
                said = log.read().decode(errors="replace").strip().splitlines()
                raise ConfigurationError(
                    "training ended before its end:"
                    f" {said[-1] if said else f'the child ended with status {process.returncode}'}",
                    f"see that torch, timm and tailfleet are installed for {sys.executable}; --resume goes on",
                )
        finally:
            _end(process)


def _event(line: str) -> TrainEvent:
    try:
        return codec.loads(TrainEvent, line, "event")
    except DecodeError as error:
        raise ConfigurationError(f"the child that trains says what is no event: {error.sentence}") from error


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
