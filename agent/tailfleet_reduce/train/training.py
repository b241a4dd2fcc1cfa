"""Train Cropr's queries for one model and schedule, epoch by epoch, so that it can be stopped and taken up again.

Every forward pass is that of the very :class:`~tailfleet_reduce.apply.ReducedModel` that is deployed, pruned by the
scores as they are at that moment. loss = main + Σ auxiliary, in equal parts; branches see detached tokens, so that they
teach the queries alone. Without ``fine_tune`` nothing else learns, and only the auxiliary losses are computed with
gradients. What an epoch draws at random follows from the seed and its number, so a training that was taken up again
ends, on the same machine and torch, with the same bits as one that was never stopped. Files are left to the caller: a
state is a dictionary of tensors.
"""

import contextlib
import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, cast

import torch
from torch import nn

from tailfleet_reduce import queries as cropr_queries
from tailfleet_reduce.apply import ReducedModel
from tailfleet_reduce.train.scorer import LearningCropr, Scorer
from tailfleet_reduce.train.tasks import Classification, Task
from tailfleet_schema import codec
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.schedule import Schedule

State = Dict[str, torch.Tensor]

_SEED_STRIDE = 1000003
"""Prime, so that no epoch of one seed draws what a near epoch of a near seed does."""


@dataclass(frozen=True)
class Settings:
    """How long and how fast."""

    epochs: int = 10
    fine_tune: bool = True
    """Whether the backbone, and a head that was given, learn too. Without, tokens that queries choose can be worse to
    have than as many random ones: the model never learned to do without the others."""
    learning_rate: float = 1e-3
    """Of scorers, at its peak."""
    backbone_learning_rate: float = 1e-4
    """Of everything else that learns."""
    weight_decay: float = 0.05
    warmup_share: float = 0.1
    """Part of all steps in which the rate rises."""
    clip: float = 1.0
    """Longest gradient of a step."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError("must be at least 1, not {}".format(self.epochs), path="epochs")
        for name in ("learning_rate", "backbone_learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError("must be positive, not {}".format(getattr(self, name)), path=name)


@dataclass(frozen=True)
class Losses:
    """Means over the steps of one epoch."""

    epoch: int
    """How many are done."""
    auxiliary: float
    """Σ over scorers."""
    main: Optional[float]
    """None where there is no head to compute it with."""


class Training:
    """One training, between two epochs.

    Queries are trained for every block that the schedule reduces at, and beside them, on what arrives there, for
    every other but the last, so that the model can be profiled and planned for at any block.

    ``batches`` is iterated once an epoch, with torch's random state set for it: pairs of images (B, channels, S, S) and
    what ``task`` calls targets; it has a length. ``head`` maps what the last block leaves (B, n, C) to what the task's
    main loss takes; without, a classification uses the model's own. ``data`` names images and batches: a state of
    others is not taken up. Raises ``InputError`` for a schedule of another method or one that reduces nothing, and what
    ``apply`` raises.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        task: Task,
        batches: Any,
        settings: Optional[Settings] = None,
        head: Optional[Callable[[torch.Tensor], Any]] = None,
        data: str = "",
    ) -> None:
        if schedule.method != "cropr" or schedule.is_dense:
            raise ScheduleError(
                "queries are trained under a schedule of method 'cropr' that reduces; this is {!r}{}".format(
                    schedule.method, ", and drops nothing" if schedule.is_dense else ""
                )
            )
        if not len(batches):
            raise InputError("there are no images to train on")
        self.settings = settings = Settings() if settings is None else settings
        self.epoch = 0
        """How many are done."""
        self._task = task
        self._batches = batches
        device = next(model.parameters()).device
        dim = int(cast(Any, model).embed_dim)
        with _drawing(settings.seed, 0, device):
            self._scorers = {block: Scorer(dim, task.queries, task.classes) for block in _blocks(schedule)}
        self._learning = LearningCropr(self._scorers)
        self.reduced = ReducedModel(model, schedule, self.queries())
        """Under the queries as they are."""
        self.reduced.method = self._learning.to(device)
        prefix = schedule.prefix
        self.reduced.watch = lambda block, x: self._learning.watch(block, x, prefix)
        self._head = self._head_for(head)
        self._about = _about(model, schedule, task, settings, data)
        for scorer in self._scorers.values():
            scorer.to(device)
        self._learners = {"scorer.{}".format(block): cast(nn.Module, one) for block, one in self._scorers.items()}
        if settings.fine_tune:
            self._learners["model"] = model
            if isinstance(head, nn.Module):
                self._learners["head"] = head
        self._optimizer = self._optimizer_for()
        # Scorers that no choice of this schedule hangs on do not shorten the steps of the others.
        beside = ["scorer.{}".format(block) for block in self._scorers if block not in schedule.reducing_blocks]
        self._clipped = [
            [p for name, learner in self._learners.items() if (name in beside) is aside for p in learner.parameters()]
            for aside in (False, True)
        ]

    def _head_for(self, head: Optional[Callable[[torch.Tensor], Any]]) -> Optional[Callable[[torch.Tensor], Any]]:
        anatomy = self.reduced.anatomy
        if head is None and isinstance(self._task, Classification):
            if anatomy.geometry().classes != self._task.classes:
                raise InputError(
                    "the model tells {} classes apart, the images have {}".format(
                        anatomy.geometry().classes, self._task.classes
                    )
                )
            return anatomy.head
        if head is None and self.settings.fine_tune:
            raise InputError("a backbone can only be trained with a head; give one, or leave the backbone as it is")
        return head

    def queries(self) -> Dict[int, torch.Tensor]:
        """As they are now, folded: {block: (C,)} fp32."""
        return {block: scorer.folded().cpu() for block, scorer in sorted(self._scorers.items())}

    def step_epoch(self) -> Losses:
        """One pass over the images. Raises ``InputError`` where all epochs are done."""
        settings = self.settings
        if self.epoch >= settings.epochs:
            raise InputError("all {} epochs are done".format(settings.epochs))
        auxiliary, main, steps = 0.0, 0.0, len(self._batches)
        device = next(self.reduced.model.parameters()).device
        learning = _learning(self.reduced, self._learners, settings.fine_tune)
        with learning, _drawing(settings.seed, self.epoch + 1, device):
            for step, (images, targets) in enumerate(self._batches):
                images = images.to(device)
                # A detector's are lists of dictionaries: where they lie is its own business.
                targets = targets.to(device) if isinstance(targets, torch.Tensor) else targets
                share = (self.epoch + step / steps) / settings.epochs
                losses = self._step(images, targets, rate_factor(share, settings.warmup_share))
                auxiliary, main = auxiliary + losses[0], main + losses[1]
        self.epoch += 1
        return Losses(self.epoch, auxiliary / steps, None if self._head is None else main / steps)

    def _step(self, images: torch.Tensor, targets: Any, factor: float) -> Tuple[float, float]:
        self._learning.watching = True
        try:
            with torch.set_grad_enabled(self.settings.fine_tune):
                x = self.reduced.forward_tokens(images)
        finally:
            self._learning.watching = False
        with torch.set_grad_enabled(self.settings.fine_tune):
            main = x.new_zeros(()) if self._head is None else self._task.main_loss(self._head(x), targets)
        losses = [self._task.auxiliary_loss(logits, targets) for logits in self._learning.logits().values()]
        auxiliary = torch.stack(losses).sum()
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self._optimizer.zero_grad()
        torch.autograd.backward(main + auxiliary if self.settings.fine_tune else auxiliary)
        for together in self._clipped:
            nn.utils.clip_grad_norm_(together, self.settings.clip)
        self._optimizer.step()
        return float(auxiliary.detach()), float(main.detach())

    def state(self) -> State:
        """All that another ``Training`` of the same arguments needs to go on from here; tensors on the CPU."""
        state = {"about": _bytes(self._about), "epoch": torch.tensor(self.epoch)}
        for name, parameter in self._named():
            state[name] = parameter.detach().cpu().clone()
            for key, value in self._optimizer.state.get(parameter, {}).items():
                state["{}/{}".format(name, key)] = torch.as_tensor(value).detach().cpu().clone()
        return state

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from ``state``. Raises ``InputError`` for one of another model, schedule, task or settings."""
        about = bytes(state["about"].tolist()).decode("utf-8") if "about" in state else ""
        if about != self._about:
            raise InputError(
                "this is the state of another training{}".format(_difference(about, self._about)),
                "resume with the options that it was started with, or start anew",
            )
        kept: Dict[int, Dict[str, Any]] = {}
        for number, (name, parameter) in enumerate(self._in_order()):
            with torch.no_grad():
                parameter.copy_(state[name])
            moments = {key: _plain(state[key]) for key in state if key.startswith(name + "/")}
            if moments:
                kept[number] = {key[len(name) + 1 :]: value for key, value in moments.items()}
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": kept, "param_groups": groups})
        self.epoch = int(state["epoch"])

    def _named(self) -> Iterator[Tuple[str, nn.Parameter]]:
        for learner, module in self._learners.items():
            for name, parameter in module.named_parameters():
                yield "{}.{}".format(learner, name), parameter

    def _in_order(self) -> List[Tuple[str, nn.Parameter]]:
        """As the optimiser counts them."""
        names = {parameter: name for name, parameter in self._named()}
        return [(names[p], p) for group in self._optimizer.param_groups for p in group["params"]]

    def _optimizer_for(self) -> torch.optim.Optimizer:
        """AdamW, which decays matrices alone, and not queries."""
        groups: Dict[Tuple[float, float], List[nn.Parameter]] = {}
        for name, parameter in self._named():
            scorer = name.startswith("scorer.")
            peak = self.settings.learning_rate if scorer else self.settings.backbone_learning_rate
            decays = parameter.dim() > 1 and not name.endswith(".queries")
            groups.setdefault((peak, self.settings.weight_decay if decays else 0.0), []).append(parameter)
        return torch.optim.AdamW(
            [{"params": params, "weight_decay": decay, "peak": peak} for (peak, decay), params in groups.items()],
            lr=self.settings.learning_rate,
        )


def _blocks(schedule: Schedule) -> List[int]:
    """Those of the schedule, and then the others that a schedule may reduce at."""
    reducing = schedule.reducing_blocks
    return [*reducing, *(block for block in range(len(schedule.keep) - 1) if block not in reducing)]


@contextlib.contextmanager
def _learning(reduced: ReducedModel, learners: Mapping[str, nn.Module], fine_tune: bool) -> Iterator[None]:
    """Within, what learns has gradients, and what is trained drops out; behind it all is as it was."""
    modules = {module: module.training for owner in [reduced, *learners.values()] for module in owner.modules()}
    parameters = {p: p.requires_grad for owner in learners.values() for p in owner.parameters()}
    reduced.train(fine_tune)
    for learner in learners.values():
        learner.train()
        learner.requires_grad_(True)
    try:
        yield
    finally:
        for module, training in modules.items():
            module.training = training
        for parameter, wanted in parameters.items():
            parameter.requires_grad_(wanted)
            parameter.grad = None


def train(
    model: nn.Module,
    schedule: Schedule,
    task: Task,
    batches: Any,
    settings: Optional[Settings] = None,
    head: Optional[Callable[[torch.Tensor], Any]] = None,
    resume: Optional[Mapping[str, torch.Tensor]] = None,
    after_epoch: Optional[Callable[[Training, Losses], None]] = None,
    data: str = "",
) -> Dict[int, torch.Tensor]:
    """Train to the end; the folded queries {block: (C,)}, which ``model`` carries from then on.

    For the arguments see :class:`Training`. ``resume`` is a state of a training that was stopped; ``after_epoch`` is
    called between epochs, where ``Training.state()`` is what to save. With ``fine_tune`` the model itself is changed.
    """
    training = Training(model, schedule, task, batches, settings, head, data)
    if resume is not None:
        training.restore(resume)
    while training.epoch < training.settings.epochs:
        losses = training.step_epoch()
        if after_epoch is not None:
            after_epoch(training, losses)
    found = training.queries()
    cropr_queries.attach(model, found)
    return found


def arrays(model: nn.Module, queries: Mapping[int, torch.Tensor]) -> State:
    """What a checkpoint of ``model`` with ``queries`` holds: ``numpy.savez(FILE, **{name: tensor.numpy() …})``."""
    held = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    held.update({cropr_queries.array_name(block): query for block, query in queries.items()})
    return held


def rate_factor(share: float, warmup_share: float) -> float:
    """What a learning rate's peak is multiplied with after that ``share`` of all steps: up a line, down a cosine."""
    if share < warmup_share:
        return max(share / warmup_share, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (share - warmup_share) / (1 - warmup_share)))


@contextlib.contextmanager
def _drawing(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Torch's random state for one epoch of one seed; the caller's own is left as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed * _SEED_STRIDE + epoch)
        yield


def _about(model: nn.Module, schedule: Schedule, task: Task, settings: Settings, data: str) -> str:
    """What must be the same for a state to be taken up, as JSON."""
    weights = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        weights.update(name.encode("utf-8"))
        weights.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return codec.dumps(
        {
            "weights": weights.hexdigest(),
            "schedule": schedule.digest,
            "task": type(task).__name__,
            "queries": task.queries,
            "classes": task.classes,
            "images_and_batches": data,
            **asdict(settings),
        }
    )


def _difference(theirs: str, ours: str) -> str:
    """Which entries differ, in words."""
    try:
        theirs_, ours_ = codec.loads(Dict[str, Any], theirs), codec.loads(Dict[str, Any], ours)
    except InputError:
        return ""
    names = [name.replace("_", " ") for name in sorted(ours_) if theirs_.get(name) != ours_[name]]
    return ": it differs in {}".format(", ".join(names)) if names else ""


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode("utf-8")), dtype=torch.uint8)


def _plain(value: torch.Tensor) -> Any:
    """An optimiser's step as it was: older torches count in Python's integers."""
    return int(value) if value.dim() == 0 and value.dtype is torch.int64 else value
