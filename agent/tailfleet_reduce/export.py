"""A reduced model as a file to deploy: ONNX, or PyTorch's ``.pt2``; checked against eager before it takes its name.

::

    python -m tailfleet_reduce.export --timm deit_small_patch16_224 --pretrained --schedule s.json --out model.onnx

A file takes float32 images (B, channels, size, size), normalised as the model wants them, and gives float32 logits
(B, K), whatever it computes in; the schedule lies in its metadata. How a model is found on a command line is left to
:mod:`tailfleet_reduce.export_command`, what its logits are held against to :mod:`tailfleet_reduce.export_check`.
"""

import contextlib
import copy
import importlib
import os
import sys
import tempfile
import warnings
from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Optional, cast

import torch
from torch import nn

from tailfleet_reduce.apply import ReducedModel, apply
from tailfleet_reduce.export_check import Checked, check
from tailfleet_schema import codec
from tailfleet_schema.errors import ConfigurationError, InputError, TailfleetError
from tailfleet_schema.limits import check_count, check_known
from tailfleet_schema.schedule import Schedule

FORMATS = ("onnx", "pt2")

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}

OPSET = 18
"""The oldest that is written, hence what most runtimes read; from 23 on attention is one operator."""

LARGEST_BATCH = 4096

ONE_FILE_BYTES = 1 << 30
"""Larger weights lie beside an ONNX file: it ends at 2 GiB."""

_OLDEST = (2, 5)
"""torch's exporter that keeps a batch free came then."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how far from eager it is."""

    path: str
    bytes: int
    """Of the file, and of the one beside it where weights are large."""
    checked: Checked


class Deployed(nn.Module):
    """``reduced`` with float32 images and logits."""

    def __init__(self, reduced: ReducedModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.reduced = reduced
        self._dtype = dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of ``images`` (B, channels, size, size)."""
        return cast(torch.Tensor, self.reduced(images.to(self._dtype))).float()


def export(
    model: nn.Module,
    schedule: Schedule,
    path: str,
    form: str = "",
    batch: Optional[int] = 1,
    dtype: str = "fp32",
    opset: int = OPSET,
    name: Optional[str] = None,
    queries: Optional[Mapping[int, torch.Tensor]] = None,
) -> Exported:
    """Write ``model`` under ``schedule`` to ``path``; the file is there, whole and checked, or as it was before.

    ``form`` is one of ``FORMATS``; empty: as ``path`` ends. ``batch`` images a call; None: any number. ``name`` and
    ``queries`` as in :func:`tailfleet_reduce.apply`. The model itself stays as it is. Raises ``InputError`` for what
    cannot be meant or written (``ScheduleError``: a schedule that does not fit) and ``ConfigurationError`` where a
    package is missing, torch cannot export the model, or what it wrote computes something else.
    """
    form = form or form_of(path)
    check_known("format", form, FORMATS)
    check_known("dtype", dtype, sorted(DTYPES))
    check_count("opset", opset, OPSET, 1000)
    if batch is not None:
        check_count("batch", batch, 1, LARGEST_BATCH)
    check_installed(form)
    mine = copy.deepcopy(model).eval().requires_grad_(False)
    deployed = Deployed(apply(mine, schedule, name, queries).to("cpu", DTYPES[dtype]), DTYPES[dtype]).eval()
    with _draft(path) as draft:
        try:
            with torch.no_grad(), warnings.catch_warnings():
                # The exporters speak of their own deprecations.
                warnings.simplefilter("ignore")
                _write(deployed, draft, form, batch, opset)
        except (TailfleetError, OSError, MemoryError):
            raise
        except Exception as error:
            raise ConfigurationError(
                "torch {} cannot export this model as {}: {}".format(torch.__version__, form, _first_line(error)),
                "install another torch",
            )
        return Exported(path, _bytes_in(os.path.dirname(draft)), check(deployed, draft, form, batch, dtype))


def form_of(path: str) -> str:
    """The format that a file of this name has. Raises ``InputError`` where the name does not say."""
    form = os.path.splitext(path)[1][1:].lower()
    if form not in FORMATS:
        raise InputError(
            "{!r} does not say which format is wanted".format(os.path.basename(path)),
            "let it end in {}, or name the format".format(" or ".join("." + known for known in FORMATS)),
        )
    return form


def check_installed(form: str) -> None:
    """Raise ``ConfigurationError`` unless what writes and checks ``form`` is installed."""
    if form == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            try:
                importlib.import_module(package)
            except ImportError:
                raise ConfigurationError(
                    "{} is not installed for {}, and an ONNX file cannot be written and checked without it".format(
                        package, sys.executable
                    ),
                    "{} -m pip install onnx onnxscript onnxruntime".format(sys.executable),
                )
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < _OLDEST:
        raise ConfigurationError(
            "torch {} cannot export these models".format(torch.__version__), "install torch 2.5 or newer"
        )


def _write(deployed: Deployed, path: str, form: str, batch: Optional[int], opset: int) -> None:
    reduced = deployed.reduced
    geometry = reduced.anatomy.geometry()
    # With one image as its example an exporter takes the batch for fixed.
    images = torch.zeros(batch or 2, geometry.channels, geometry.image_size, geometry.image_size)
    torch_any = cast(Any, torch)
    free = None if batch is not None else ({0: torch_any.export.Dim("batch", min=1, max=LARGEST_BATCH)},)
    text = codec.dumps(reduced.schedule)
    if form == "pt2":
        program = torch_any.export.export(deployed, (images,), dynamic_shapes=free)
        torch_any.export.save(program, path, extra_files={"tailfleet.schedule.json": text})
        return
    program = torch_any.onnx.export(
        deployed,
        (images,),
        dynamo=True,
        opset_version=opset,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=free,
        verbose=False,
    )
    program.model.metadata_props["tailfleet.schedule"] = text
    weights = sum(value.numel() * value.element_size() for value in deployed.state_dict().values())
    program.save(path, external_data=weights > ONE_FILE_BYTES)


@contextlib.contextmanager
def _draft(path: str) -> Iterator[str]:
    """A path of the same name in a folder of its own beside it; what lies there afterwards takes its place."""
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.isdir(path):
        raise InputError("{} is a folder, not a file to write".format(path))
    try:
        with tempfile.TemporaryDirectory(prefix=".tailfleet-export-", dir=folder) as draft:
            yield os.path.join(draft, name)
            # What lies beside the file comes before the file itself.
            for written in sorted(os.listdir(draft), key=lambda one: one == name):
                os.replace(os.path.join(draft, written), os.path.join(folder, written))
    except OSError as error:
        raise InputError("{} cannot be written: {}".format(path, error.strerror or _first_line(error)))


def _bytes_in(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    from tailfleet_reduce.export_command import main

    sys.exit(main())
