"""torch as it is: each unit is one call of ordinary, uncompiled modules on the board's CPU or first GPU.

How a unit becomes a call: MODEL(n) embeds the whole image, keeps the first n tokens, and runs all blocks and the
head. ATTENTION(n), MLP(n) and REDUCE(n → m) run all blocks' halves in turn, each with its own weights (a single block
called again and again finds them in the cache and looks up to a fifth too fast), each from the same (B, n, C) input.
FIXED embeds, and runs the head on all tokens. SCHEDULE runs the reduced model that users would run. Inputs are made
before the timed block. Timing itself is ``timing``'s; what tokens to drop is ``tailfleet_reduce``'s.
"""

from typing import Any, Callable, Dict, List, Set

import timm
import torch

from tailfleet_agent.worker import models, timing
from tailfleet_agent.worker.backends import Backend
from tailfleet_reduce import METHODS, apply, dissect
from tailfleet_schema.curve import Part, Unit, UnitKey
from tailfleet_schema.errors import ConfigurationError, InputError
from tailfleet_schema.job import Job

_NO_GRADIENTS = getattr(torch, "inference_mode", torch.no_grad)


class EagerBackend(Backend):
    """The model of ``job``, built once, on the GPU where torch sees one, else on the CPU."""

    def __init__(self, job: Job, artifacts: str) -> None:
        self._job = job
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._clock: Any = timing.CudaClock(torch) if self._device == "cuda" else timing.CpuClock()
        workload = job.workload
        geometry = workload.model.geometry
        self._model = models.build(workload.model, artifacts, job.seed, self._device, workload.dtype)
        self._anatomy = dissect(self._model)
        self._schedules = {schedule.digest: schedule for schedule in job.schedules}
        self._reduced: Dict[str, timing.Call] = {}
        self._met: Set[UnitKey] = set()
        generator = torch.Generator().manual_seed(job.seed)
        images = torch.randn(
            workload.batch, geometry.channels, geometry.image_size, geometry.image_size, generator=generator
        )
        self._images = images.to(device=self._device, dtype=next(self._model.parameters()).dtype)
        with _NO_GRADIENTS():
            self._tokens = self._computed(lambda: self._anatomy.embed(self._images)).contiguous()  # (B, N, C)

    def describe(self) -> Dict[str, str]:
        """Device, threads and versions."""
        device = torch.cuda.get_device_name(0) if self._device == "cuda" else "CPU"
        return {
            "device": device,
            "threads": "{} threads".format(torch.get_num_threads()),
            "torch": "torch {}".format(torch.__version__),
            "timm": "timm {}".format(timm.__version__),
        }

    def warm_up(self) -> None:
        """Run the whole model until its time is steady; see :func:`timing.warm_up`."""
        count = self._job.workload.model.geometry.tokens
        with _NO_GRADIENTS():
            timing.warm_up(self._clock, self.prepare(Unit(Part.SENTINEL, count, count)))

    def preempted_bits(self) -> str:
        """Of the last block, where it ran on the CPU."""
        return str(self._clock.preempted_bits)

    def measure(self, unit: Unit, round_number: int, calls: int) -> List[int]:
        """Time ``calls`` calls; the first time that a unit is met, one untimed call goes before."""
        with _NO_GRADIENTS():
            call = self.prepare(unit)
            if unit.key(0) not in self._met:
                self._computed(call)
                self._met.add(unit.key(0))
            try:
                return timing.timed_block(self._clock, call, calls)
            except RuntimeError:
                if self._device == "cuda":
                    torch.cuda.empty_cache()
                raise

    def prepare(self, unit: Unit) -> timing.Call:
        """The call that ``unit`` times, its inputs made. To be called without gradients.

        Raises ``InputError`` for what this model or these methods do not have.
        """
        anatomy = self._anatomy
        if unit.tokens > self._tokens.shape[1]:
            raise InputError("{} tokens asked for, but the model has {}".format(unit.tokens, self._tokens.shape[1]))
        if unit.part in (Part.MODEL, Part.SENTINEL):
            return lambda: self._pass(unit.tokens)
        if unit.part is Part.FIXED:
            return self._fixed
        if unit.part is Part.SCHEDULE:
            return self._scheduled(unit.label)
        x = self._tokens[:, : unit.tokens].contiguous()  # (B, n, C)
        if unit.part is Part.ATTENTION:
            attentions: List[Callable[[Any], Any]] = [block.attention for block in anatomy.blocks]
            return lambda: _in_turn(attentions, x)
        if unit.part is Part.MLP:
            mlps: List[Callable[[Any], Any]] = [block.mlp for block in anatomy.blocks]
            return lambda: _in_turn(mlps, x)
        if unit.part is Part.REDUCE:
            if unit.label not in METHODS:
                raise InputError("unknown method {!r}; known: {}".format(unit.label, ", ".join(sorted(METHODS))))
            method = METHODS[unit.label]

            def reduce_in_turn() -> None:
                for block in anatomy.blocks:
                    block.attention_reduce(x, method, unit.kept)

            return reduce_in_turn
        raise InputError("{} is judged, not timed".format(unit.part.value))

    def _pass(self, tokens: int) -> Any:
        x = self._anatomy.embed(self._images)  # (B, N, C)
        x = x[:, :tokens]
        for block in self._anatomy.blocks:
            x = block.mlp(block.attention(x))
        return self._anatomy.head(x)

    def _fixed(self) -> Any:
        return self._anatomy.head(self._anatomy.embed(self._images))

    def _scheduled(self, digest: str) -> timing.Call:
        if digest not in self._reduced:
            model = apply(self._model, self._schedules[digest])
            self._reduced[digest] = lambda: model(self._images)
        return self._reduced[digest]

    def _computed(self, call: timing.Call) -> Any:
        """What ``call`` returns; where torch lacks a kernel for the dtype, a sentence about that instead."""
        try:
            return call()
        except RuntimeError as error:
            if "not implemented for" not in str(error):
                raise
            raise ConfigurationError(
                "torch {} cannot compute in {} on this board's {}".format(
                    torch.__version__, self._job.workload.dtype, self._device.upper()
                ),
                "ask for dtype fp32",
            )


def _in_turn(halves: List[Callable[[Any], Any]], x: Any) -> None:
    for half in halves:
        half(x)
