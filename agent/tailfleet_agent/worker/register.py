"""What must be known of a model before the farm can run it: its geometry, how it wants its images, its weights.

One order in, one reply out; see ``RegisterOrder``. What the model is then called and used for, and where the
weights are stored, is left to the coordinator, which starts this as a child since it imports no torch.
"""

from typing import Any, Dict, Optional, cast

from timm import data as timm_data
from torch import nn

from tailfleet_agent.worker import checkpoint, models
from tailfleet_reduce import dissect
from tailfleet_schema.errors import InputError
from tailfleet_schema.messages import RegisterOrder, RegisterReply
from tailfleet_schema.workload import Preprocessing

OUT_OF_REACH = (
    "run this on a machine that reaches huggingface.co, or download the file there and pass --checkpoint FILE,"
    " or give --pretrained-on-board so that each board fetches it itself"
)


def register(order: RegisterOrder) -> RegisterReply:
    """Build the model, fit its weights, and write them where ``order.out`` says.

    Raises ``InputError`` for a model that cannot be built, reduced or filled, ``LabError`` for weights out of reach
    and a disk that cannot be written, ``ConfigurationError`` for a package that is missing.
    """
    if order.checkpoint is not None and order.pretrained:
        raise InputError("a model has a checkpoint or timm's pretrained weights, not both")
    model = models.assemble(order.name, order.architecture, order.arguments)
    # Before anything is read or fetched: a family that is not understood is refused by its name.
    geometry = dissect(model).geometry()
    arrays: Optional[checkpoint.Arrays] = None
    if order.checkpoint is not None:
        arrays = checkpoint.fit(model, order.architecture, checkpoint.read(order.checkpoint), order.checkpoint)
    elif order.pretrained and order.out is not None:
        arrays = checkpoint.arrays_of(
            models.fetch_pretrained(order.name, model, order.architecture, order.arguments, OUT_OF_REACH)
        )
    elif order.pretrained:
        models.check_pretrained(order.name, model, order.architecture)
    wrote = arrays is not None and order.out is not None
    if arrays is not None and order.out is not None:
        checkpoint.write(order.out, arrays)
    return RegisterReply(geometry, preprocessing_of(model, geometry.channels), order.arguments, wrote)


def preprocessing_of(model: nn.Module, channels: int) -> Preprocessing:
    """How ``model`` wants its images, by timm's data config; ImageNet's where timm says nothing of the model.

    timm knows three means; a model of another number of channels gets their average for all.
    """
    config: Dict[str, Any] = cast(Any, timm_data).resolve_data_config({}, model=model)
    mean, std = ([float(value) for value in config[name]] for name in ("mean", "std"))
    if len(mean) != channels:
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    return Preprocessing(
        mean,
        std,
        str(config["interpolation"]),
        float(config["crop_pct"]),
        str(config.get("crop_mode") or "center"),
    )
