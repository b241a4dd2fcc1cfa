"""What is said to and by the child that trains Cropr's queries: one order as JSON, then events, a line each.

How training goes is ``tailfleet_reduce.train``'s; which images, and what becomes of the result, the coordinator's.
"""

from dataclasses import dataclass
from typing import Optional

from tailfleet_schema.errors import InputError
from tailfleet_schema.job import Failure
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import DatasetSpec, ModelSpec


@dataclass(frozen=True)
class TrainOrder:
    """One line of JSON on the standard input of ``python -m tailfleet_agent.worker.train_cropr``."""

    model: ModelSpec
    """With weights: there is nothing to learn from random ones."""
    dataset: DatasetSpec
    artifacts: str
    """Folder that holds weights and dataset, each named by its sha256."""
    split: str
    """Of the dataset, which is trained on; its calibration images never are."""
    out: str
    """``.npz`` to write: the model's arrays, and its queries. The state between epochs lies beside it."""
    folder: Optional[str] = None
    """Where the image files of a dataset of files are."""
    schedule: Optional[Schedule] = None
    """Which tokens leave where; or this is None, and one of the next two says it."""
    keep_share: Optional[float] = None
    drop: Optional[int] = None
    fusion: bool = True
    """Whether all tokens come back before the last block, where no schedule is given."""
    fine_tune: bool = True
    """Whether the model's own weights are trained, too."""
    epochs: int = 10
    batch: int = 64
    seed: int = 0
    resume: bool = False
    """Go on from the state beside ``out``."""

    def __post_init__(self) -> None:
        given = sum(one is not None for one in (self.schedule, self.keep_share, self.drop))
        if given != 1:
            raise InputError(
                "a training has one schedule, one share of tokens, or one drop; {} are given".format(given)
            )
        if self.epochs < 1 or self.batch < 1:
            raise InputError("epochs and batch must be at least 1")


def state_path(out: str) -> str:
    """Where the state of a training that writes ``out`` lies between epochs."""
    return out + ".state"


@dataclass(frozen=True)
class Judged:
    """Top-1 in percent on the calibration images, of the model before training and of the pruned one after it."""

    images: int
    dense: float
    pruned: float


@dataclass(frozen=True)
class TrainEvent:
    """One line of its answer. What is None does not concern it."""

    epochs_done: float
    """With the part of the one under way."""
    auxiliary_loss: Optional[float] = None
    """Of the epoch that was ended, as ``main_loss``: mean over steps."""
    main_loss: Optional[float] = None
    schedule: Optional[Schedule] = None
    """The first event's: under which is trained."""
    judged: Optional[Judged] = None
    """The last event's."""
    failure: Optional[Failure] = None
    """Instead of the last event."""
