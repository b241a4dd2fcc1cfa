"""torch.compile: each unit is compiled for its own fixed shapes before it is first timed.

A graph costs seconds to minutes, which no timed block sees; the compiler runs in this process alone, so that no
worker of its idles beside a timed block, and keeps what it made in torch's own cache, where a resumed job finds it.
"""

from types import FunctionType
from typing import Any, Callable, Dict, Mapping, Optional

import torch
from torch import nn

from tailfleet_agent.worker import timing
from tailfleet_agent.worker.backends.batches import in_batches
from tailfleet_agent.worker.backends.eager import TorchBackend
from tailfleet_agent.worker.backends.programs import Program
from tailfleet_schema.curve import Unit, UnitKey
from tailfleet_schema.errors import ConfigurationError
from tailfleet_schema.job import Job

_SETTINGS: Dict[str, Dict[str, object]] = {
    # Units are many, and a guard that fails must not silently hand them to eager.
    "torch._dynamo.config": {"suppress_errors": False},
    "torch._inductor.config": {"compile_threads": 1},
}


class CompiledBackend(TorchBackend):
    """As ``TorchBackend``, each program compiled. Raises ``ConfigurationError`` where nothing can be compiled."""

    def __init__(self, job: Job, artifacts: str, runtime: Optional[Mapping[str, str]] = None) -> None:
        self._calls: Dict[UnitKey, timing.Call] = {}
        self._functions: Dict[int, Callable[..., Any]] = {}
        super().__init__(job, artifacts, runtime)

    def check(self, dtype: str) -> None:
        """Also compile a sum of two numbers: that needs all that is ever needed."""
        super().check(dtype)
        if not hasattr(torch, "compile"):
            raise ConfigurationError(
                "torch {} has no torch.compile".format(torch.__version__), "install torch 2 or newer, or ask for eager"
            )
        for module, settings in _SETTINGS.items():
            _configure(module, settings)
        try:
            ones = torch.ones(8, device=self._device)
            _compiled(lambda x: x + x.sin())(ones)
        except Exception as error:
            raise _refusal(error, self._device)

    def prepare(self, unit: Unit) -> timing.Call:
        """As ``TorchBackend.prepare``; a unit is compiled once."""
        key = unit.key(0)
        if key not in self._calls:
            self._calls[key] = super().prepare(unit)
        return self._calls[key]

    def callable(self, program: Program) -> timing.Call:
        """Compile ``program``, and call it once: that is when torch does it."""
        compiled, inputs = self._function(program.module), program.inputs
        compiled(*inputs)
        return lambda: compiled(*inputs)

    def predict(self, digest: str, images: Any) -> Any:
        """See ``Backend``; batch by batch, by the graph of the workload's batch."""
        whole = super().predict
        return in_batches(images, self._job.workload.batch, lambda part: whole(digest, part))

    def runner(self, digest: str) -> Callable[[Any], Any]:
        """The schedule's own graph, that which is timed where it is."""
        return self._function(self._programs.reduced(digest))

    def _function(self, module: nn.Module) -> Callable[..., Any]:
        # Programs keeps the reduced models, so that a schedule is compiled once, for its time and its predictions.
        if id(module) not in self._functions:
            self._functions[id(module)] = _compiled(module.forward)
        return self._functions[id(module)]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, to be compiled at its first call, as users compile a model for one shape.

    torch keeps what it compiled with the code of the function, and tries all of it one after another at each call: code
    that many units shared would slow each of them down. So each gets a copy of the code.
    """
    bound = getattr(function, "__self__", None)
    plain: Any = getattr(function, "__func__", function)
    copy: Any = FunctionType(
        plain.__code__.replace(), plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__
    )
    own = copy if bound is None else copy.__get__(bound)
    compiled: Callable[..., Any] = torch.compile(own, dynamic=False, fullgraph=True)
    return compiled


def _configure(module: str, settings: Dict[str, object]) -> None:
    try:
        config = __import__(module, fromlist=["config"])
    except ImportError:
        return
    for name, value in settings.items():
        if hasattr(config, name):
            setattr(config, name, value)


def _refusal(error: Exception, device: str) -> ConfigurationError:
    text = "{}: {}".format(type(error).__name__, error)
    what, mend = "torch.compile fails with {}".format(text.strip().splitlines()[0][:200]), "ask for backend eager"
    if any(sign in text for sign in ("InvalidCxxCompiler", "C++ compiler", "CppCompileError", "g++")):
        what, mend = "torch.compile finds no C++ compiler that works", "sudo apt-get install g++ (or set CXX)"
    elif "triton" in text.lower() and device == "cuda":
        what, mend = "torch.compile needs triton, which does not work here", "pip install triton"
    elif "Python.h" in text:
        what, mend = "torch.compile needs the headers of Python", "sudo apt-get install python3-dev"
    return ConfigurationError("{} on this board".format(what), mend)
