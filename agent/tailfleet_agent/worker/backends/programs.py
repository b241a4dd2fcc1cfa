"""What each timed unit computes on torch, as a module and the tensors it is called with.

MODEL(n) embeds the whole image, keeps the first n tokens, and runs all blocks and the head. ATTENTION(n) and MLP(n) run
all blocks' halves in turn, each with its own weights (a single block called again and again finds them in the
cache and looks up to a fifth too fast) and each on what the one before left, as in the model: a compiler can then
neither drop a half nor share work between two. REDUCE(n → m) runs all blocks' reducing halves, each from the same
(B, n, C) tokens, since n of them must enter every block. FIXED embeds, and runs the head on all tokens. SCHEDULE is the
reduced model that users run.

Token counts are told by the length of a tensor, for that is the one way in which an exported graph can have them free.
How a program is run and timed is left to the backends, which tokens to drop to ``tailfleet_reduce``.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import nn

from tailfleet_agent.worker import models
from tailfleet_agent.worker.backends.attention import EXPLICIT, FUSED
from tailfleet_reduce import METHODS, Anatomy, Method, TokenState, apply, dissect, method_for
from tailfleet_reduce.queries import attached, untrained
from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.errors import InputError
from tailfleet_schema.job import Job


class Program(NamedTuple):
    """A module and what it is called with."""

    module: nn.Module
    inputs: Tuple[Any, ...]


class Whole(nn.Module):
    """MODEL(n): images (B, channels, size, size), n given by ``kept`` (n,) → logits (B, K)."""

    def __init__(self, anatomy: Anatomy) -> None:
        super().__init__()
        self.model = anatomy.model
        self._anatomy = anatomy

    def forward(self, images: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self._anatomy.embed(images)[:, : kept.shape[0]]  # (B, n, C)
        state = self._anatomy.state()
        for block in self._anatomy.blocks:
            x = block.mlp(block.attention(x, state))
        return self._anatomy.head(x)


class Fixed(nn.Module):
    """FIXED: images → logits without any block."""

    def __init__(self, anatomy: Anatomy) -> None:
        super().__init__()
        self.model = anatomy.model
        self._anatomy = anatomy

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        return self._anatomy.head(self._anatomy.embed(images))


class Halves(nn.Module):
    """ATTENTION(n) and MLP(n): one kind of half of every block in turn, (B, n, C) → (B, n, C)."""

    def __init__(self, anatomy: Anatomy, kind: Part) -> None:
        super().__init__()
        self.model = anatomy.model
        self._anatomy = anatomy
        self._kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the last half leaves."""
        state = self._anatomy.state()  # what places need is fetched once, as in the model
        for block in self._anatomy.blocks:
            x = block.attention(x, state) if self._kind is Part.ATTENTION else block.mlp(x)
        return x


class Sized(nn.Module):
    """ATTENTION(n) whose keys are weighed by ``sizes`` (B, n) fp32."""

    def __init__(self, anatomy: Anatomy) -> None:
        super().__init__()
        self.model = anatomy.model
        self._anatomy = anatomy

    def forward(self, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """(B, n, C) → (B, n, C)."""
        state = TokenState.sized(sizes)
        for block in self._anatomy.blocks:
            x = block.attention(x, state)
        return x


class Reducing(nn.Module):
    """REDUCE(n → m): the reducing attention half of every block, each on its own of ``entering``, m by ``kept`` (m,).

    All of ``entering`` may be views of the same tokens; a compiler that does not know so shares nothing between blocks.
    """

    def __init__(self, anatomy: Anatomy, method: Method) -> None:
        super().__init__()
        self.model = anatomy.model
        self._anatomy = anatomy
        self.method = method

    def forward(self, entering: List[torch.Tensor], kept: torch.Tensor) -> List[torch.Tensor]:
        """What each block leaves, (B, m, C)."""
        constants: Dict[Any, Any] = {}
        leaving = []
        for block, x in zip(self._anatomy.blocks, entering):
            state = self._anatomy.state(self.method)
            state.constants = constants  # what places need is fetched once, as in the model
            leaving.append(block.attention_reduce(x, self.method, kept.shape[0], state))
        return leaving


class Programs:
    """The programs of one job on one device, all on the same model, its weights and images as the job's seed says."""

    def __init__(self, job: Job, artifacts: str, device: str) -> None:
        workload, geometry = job.workload, job.workload.model.geometry
        self._name = workload.model.name
        self.model = models.build(workload.model, artifacts, job.seed, device, workload.dtype)
        self.anatomy = dissect(self.model)
        self._schedules = {schedule.digest: schedule for schedule in job.schedules}
        generator = torch.Generator().manual_seed(job.seed)
        images = torch.randn(
            workload.batch, geometry.channels, geometry.image_size, geometry.image_size, generator=generator
        )
        self.images = images.to(device=device, dtype=next(self.model.parameters()).dtype)
        self._embedded: Optional[torch.Tensor] = None
        self._reduced: Dict[str, nn.Module] = {}

    def lacks_fused(self) -> str:
        """Why this torch and timm have no fused attention; empty where they have."""
        return self.anatomy.lacks_fused()

    def use(self, attention: str) -> None:
        """Compute attention ``fused`` or ``explicit`` from now on."""
        self.anatomy.fuse({FUSED: True, EXPLICIT: False}[attention])

    def tokens(self) -> torch.Tensor:
        """What enters block 0, (B, N, C). To be called without gradients."""
        if self._embedded is None:
            self._embedded = self.anatomy.embed(self.images).contiguous()
        return self._embedded

    def program(self, unit: Unit) -> Program:
        """What ``unit`` times, its inputs made. To be called without gradients.

        Raises ``InputError`` for what this model or these methods do not have.
        """
        anatomy = self.anatomy
        most = self.tokens().shape[1]
        if unit.tokens > most:
            raise InputError("{} tokens asked for, but the model has {}".format(unit.tokens, most))
        if unit.part in (Part.MODEL, Part.SENTINEL):
            return Program(Whole(anatomy).eval(), (self.images, self._count(unit.tokens)))
        if unit.part is Part.FIXED:
            return Program(Fixed(anatomy).eval(), (self.images,))
        if unit.part is Part.SCHEDULE:
            return Program(self.reduced(unit.label), (self.images,))
        x = self.tokens()[:, : unit.tokens].contiguous()  # (B, n, C)
        if unit.part is Part.ATTENTION and unit.label == SIZED:
            # What sizes there are decides no time, only that they are not known beforehand.
            return Program(Sized(anatomy).eval(), (x, torch.ones(x.shape[:2], device=x.device)))
        if unit.part in (Part.ATTENTION, Part.MLP) and not unit.label:
            return Program(Halves(anatomy, unit.part).eval(), (x,))
        if unit.part in (Part.ATTENTION, Part.MLP):
            raise InputError("{} has no kind {!r}".format(unit.part.value, unit.label))
        if unit.part is Part.REDUCE:
            if unit.label not in METHODS:
                raise InputError("unknown method {!r}; known: {}".format(unit.label, ", ".join(sorted(METHODS))))
            views = [x.view(x.shape) for _ in anatomy.blocks]
            method = method_for(unit.label, anatomy, queries=self._queries()).to(x.device)
            return Program(Reducing(anatomy, method).eval(), (views, self._count(unit.kept)))
        raise InputError("{} is judged, not timed".format(unit.part.value))

    def reduced(self, digest: str) -> nn.Module:
        """The model under a schedule of the job; empty: the dense one."""
        if not digest:
            return self.model
        if digest not in self._schedules:
            raise InputError("the job does not carry the schedule {}".format(digest[:12]))
        if digest not in self._reduced:
            self._reduced[digest] = apply(self.model, self._schedules[digest], self._name, self._queries())
        return self._reduced[digest]

    def _queries(self) -> Dict[int, torch.Tensor]:
        """The model's own for Cropr, and where it has none, untrained ones: they take as long. Whether what a schedule
        predicts means anything is asked by who judges it."""
        anatomy = self.anatomy
        return {**untrained(anatomy.depth, anatomy.geometry().dim), **(attached(self.model) or {})}

    def _count(self, count: int) -> torch.Tensor:
        return torch.zeros(count, device=self.images.device)
