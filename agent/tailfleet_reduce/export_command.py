"""``python -m tailfleet_reduce.export``: a timm model, its weights and a schedule from the command line to a file.

For users of the library alone; ``tailfleet model export`` does the same for the models of a farm.
"""

import argparse
import importlib
import json
import os
import sys
from typing import Any, Dict, List, Optional, Tuple, cast

import timm
import torch
from torch import nn

from tailfleet_reduce import queries
from tailfleet_reduce.export import DTYPES, FORMATS, OPSET, export
from tailfleet_reduce.schedule_file import load_schedule
from tailfleet_schema.errors import ConfigurationError, InputError, TailfleetError


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command line; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        schedule = load_schedule(options.schedule)
        model = build(options.timm, dict(options.set), options.checkpoint, options.pretrained)
        done = export(
            model,
            schedule,
            options.out,
            options.format or "",
            options.batch,
            options.dtype,
            options.opset,
            options.name or options.timm,
        )
    except TailfleetError as error:
        print("tailfleet_reduce.export: {}".format(error.sentence), file=sys.stderr)
        if error.mend:
            print("  mend: {}".format(error.mend), file=sys.stderr)
        return 1
    print("wrote {}: {:.1f} MB".format(done.path, done.bytes / 1e6))
    print("tokens that leave each block: {}".format(" ".join(map(str, schedule.keep))))
    print(
        "its logits differ from eager's by {:.1g} at most, on {} images in {}".format(
            done.checked.difference, done.checked.images, done.checked.by
        )
    )
    return 0


def build(name: str, arguments: Dict[str, Any], checkpoint: Optional[str], pretrained: bool) -> nn.Module:
    """timm's model ``name`` with its own weights or those of a file. Raises ``InputError``."""
    if checkpoint is not None and pretrained:
        raise InputError("a model has one set of weights", "give --checkpoint or --pretrained")
    arrays = None if checkpoint is None else read(checkpoint)
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    # What timm asks for its weights has exceptions of its own.
    except Exception as error:
        raise InputError("timm {} cannot build {!r}: {}".format(timm.__version__, name, _first_line(error)))
    if arrays is not None:
        own, folded = queries.separated(arrays)
        try:
            model.load_state_dict({key: torch.as_tensor(value) for key, value in own.items()})
        except (RuntimeError, TypeError) as error:
            raise InputError("{} does not fit {}: {}".format(checkpoint, name, " ".join(str(error).split())[:300]))
        if folded:
            queries.attach(model, {block: torch.as_tensor(value) for block, value in folded.items()})
    return model.eval()


def read(path: str) -> Dict[str, Any]:
    """The arrays of a ``.npz`` or ``.safetensors`` by name; nothing in it is executed. Raises ``InputError``."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".npz", ".safetensors"):
        raise InputError("{} is of no kind that is read here".format(path), "weights are .npz or .safetensors")
    package = "numpy" if suffix == ".npz" else "safetensors.torch"
    try:
        reader: Any = importlib.import_module(package)
    except ImportError:
        raise ConfigurationError(
            "{} cannot be read without {}".format(path, package.split(".")[0]),
            "{} -m pip install {}".format(sys.executable, package.split(".")[0]),
        )
    try:
        if suffix == ".safetensors":
            return cast(Dict[str, Any], reader.load_file(path))
        with reader.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    # A damaged file is told by many exceptions, the format's own among them.
    except Exception as error:
        raise InputError("{} cannot be read: {}".format(path, _first_line(error)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tailfleet_reduce.export", description="Write a reduced model.")
    parser.add_argument("--timm", required=True, metavar="NAME", help="timm's name of the model")
    parser.add_argument("--checkpoint", metavar="FILE", help="its weights: .npz or .safetensors, by timm's own names")
    parser.add_argument("--pretrained", action="store_true", help="timm's own weights")
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="KEY=VALUE", help="an argument for timm, as JSON"
    )
    parser.add_argument("--schedule", required=True, metavar="FILE", help="a schedule as JSON")
    parser.add_argument("--name", help="what the schedule calls the model, where that is not timm's name")
    parser.add_argument("--out", required=True, metavar="FILE", help="what to write")
    parser.add_argument("--format", choices=FORMATS, help="default: as the file's name ends")
    parser.add_argument("--batch", type=_batch, default=1, metavar="N|any", help="images a call (1)")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32", help="what it computes in (fp32)")
    parser.add_argument("--opset", type=int, default=OPSET, help="of ONNX ({})".format(OPSET))
    return parser


def _batch(text: str) -> Optional[int]:
    return None if text == "any" else int(text)


def _setting(text: str) -> Tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(text)
    return key, json.loads(value)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
