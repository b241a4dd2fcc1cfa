"""Writes a job's ONNX graphs, in processes of their own: the one that loads and times them must not import torch.

::

    standard input    WorkerOrder, then any number of {"folder": …, "attention": …, "names": […], "inputs": …}
    standard output   for each of those {"versions": {…}}, or the WorkerEvent of a failure

Beside the graphs it writes, if ``inputs``, ``images.npy`` and ``tokens.npy``, which they are timed with. Weights lie
beside a graph in a file of their own. What the graphs compute is ``programs``', what they are called ``graphs``'.
"""

import importlib
import json
import os
import sys
import warnings
from typing import IO, Any, Dict, List, Tuple

import numpy as np
import timm
import torch
from torch import nn

from tailfleet_agent.worker.backends import graphs
from tailfleet_agent.worker.backends.programs import Program, Programs
from tailfleet_reduce import METHODS
from tailfleet_schema import codec
from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.errors import ConfigurationError, InputError, TailfleetError
from tailfleet_schema.job import Job
from tailfleet_schema.messages import WorkerOrder
from tailfleet_schema.schedule import smallest_reachable


def serve(orders: IO[bytes], channel: IO[bytes]) -> None:
    """Read the order, and write what is asked for until nobody asks any more. Raises what goes wrong."""
    order = codec.loads(WorkerOrder, orders.readline(), "order")
    exporter = Exporter(order.job, order.artifacts)
    for line in iter(orders.readline, b""):
        asked = json.loads(line.decode("utf-8"))
        exporter.write(asked["folder"], asked["attention"], asked["names"], asked["inputs"])
        channel.write(json.dumps({"versions": exporter.versions()}).encode("utf-8") + b"\n")
        channel.flush()


class Exporter:
    """Exports the graphs of one job. Raises ``ConfigurationError`` for a torch or a package that is missing."""

    def __init__(self, job: Job, artifacts: str) -> None:
        for package in ("onnx", "onnxscript"):
            try:
                importlib.import_module(package)
            except ImportError:
                raise ConfigurationError(
                    "{} is not installed for {}, and torch needs it to export a model".format(package, sys.executable),
                    "{} -m pip install onnx onnxscript".format(sys.executable),
                )
        # The exporter that keeps counts free where the model computes with them came with torch 2.5.
        if not hasattr(torch.onnx, "ONNXProgram") or _version() < (2, 5):
            raise ConfigurationError(
                "torch {} cannot export these models to ONNX".format(torch.__version__),
                "install torch 2.5 or newer, or ask for backend eager",
            )
        self._job = job
        self._dtype = job.workload.dtype
        self._programs = Programs(job, artifacts, "cpu")

    def versions(self) -> Dict[str, str]:
        """What the graphs were made with."""
        return {
            "torch": "exported by torch {}".format(torch.__version__),
            "timm": "timm {}".format(timm.__version__),
        }

    def write(self, folder: str, attention: str, names: List[str], inputs: bool = True) -> None:
        """Write the graphs ``names`` into ``folder``, each as NAME.onnx, attention ``fused`` or ``explicit``, and the
        ``inputs`` that they are timed with."""
        programs = self._programs
        if not programs.lacks_fused():
            programs.use(attention)
        with torch.no_grad():
            if inputs:
                np.save(os.path.join(folder, "images.npy"), programs.images.float().numpy())
                np.save(os.path.join(folder, "tokens.npy"), programs.tokens().float().numpy())
            for name in names:
                self._write_one(os.path.join(folder, name + ".onnx"), name, graphs.OPSETS[attention])

    def _write_one(self, path: str, name: str, opset: int) -> None:
        module, inputs, shapes = self._graph(name)
        try:
            with warnings.catch_warnings():
                # The exporter speaks of its own deprecations.
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    module.eval(),
                    inputs,
                    path,
                    dynamo=True,
                    opset_version=opset,
                    input_names=[feed for feed, _ in graphs.feeds_of(name, self._unit(name), 1)],
                    dynamic_shapes=shapes,
                    external_data=True,
                    verbose=False,
                )
        except (TailfleetError, MemoryError):
            raise
        except Exception as error:
            raise ConfigurationError(
                "torch {} cannot export {} to ONNX: {}".format(
                    torch.__version__, name[:40], (str(error).strip().splitlines() or [type(error).__name__])[0]
                ),
                "install another torch, or ask for backend eager",
            )

    def _graph(self, name: str) -> "Tuple[nn.Module, Tuple[Any, ...], Any]":
        """The module, example inputs, and which of their dimensions are free."""
        unit = self._unit(name)
        program = self._programs.program(unit)
        most = self._job.workload.model.geometry.tokens
        shapes: Any = None
        counts = graphs.counts_of(unit)
        if counts:
            free = {dim: torch.export.Dim(dim, min=2, max=most) for dim in sorted(counts)}
            shapes = {
                graphs.MODEL: ({}, {0: free["n"]}),
                SIZED: ({1: free["n"]}, {1: free["n"]}),
            }.get(name, ({1: free["n"]},))
            if "m" in free:
                shapes = ({1: free["n"]}, {0: free["m"]})
        module = _Ported(program, self._programs.images.dtype, len(self._programs.anatomy.blocks))
        inputs = tuple(value[0] if isinstance(value, list) else value for value in program.inputs)
        return module, tuple(value.float() for value in inputs), None if shapes is None else (shapes,)

    def _unit(self, name: str) -> Unit:
        """One unit that runs the graph: its counts, where they are free, are an example."""
        geometry = self._job.workload.model.geometry
        n = max(1, geometry.tokens - 1)
        if name.startswith(graphs.SCHEDULE):
            return Unit(Part.SCHEDULE, geometry.tokens, 1, name[len(graphs.SCHEDULE) :])
        if name.startswith(graphs.REDUCE):
            method = name[len(graphs.REDUCE) :]
            if method not in METHODS:
                raise InputError("unknown method {!r}; known: {}".format(method, ", ".join(sorted(METHODS))))
            least = smallest_reachable(method, n, geometry.prefix)
            return Unit(Part.REDUCE, n, max(least, (least + n) // 2), method)
        if name == graphs.FIXED:
            return Unit(Part.FIXED, geometry.tokens, geometry.tokens)
        if name == SIZED:
            return Unit(Part.ATTENTION, n, n, SIZED)
        return Unit(Part(name), n, n)


class _Ported(nn.Module):
    """A program with fp32 inputs and logits; a REDUCE program's blocks all read the one ``tokens``."""

    def __init__(self, program: Program, dtype: torch.dtype, depth: int) -> None:
        super().__init__()
        self.program = program.module
        self._dtype = dtype
        self._many = isinstance(program.inputs[0], list)
        self._depth = depth

    def forward(self, *given: torch.Tensor) -> Any:
        """What the program gives."""
        first: Any = given[0].to(self._dtype)
        if self._many:
            return self.program([first] * self._depth, *given[1:])
        return self.program(first, *given[1:]).float()


def _version() -> "Tuple[int, ...]":
    return tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
