"""What people ask of the fleet, and what they are told: campaigns and their reports."""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import List, Optional, Tuple

from tailfleet_schema.errors import InputError
from tailfleet_schema.job import Effort, Failure
from tailfleet_schema.limits import LABEL_LENGTH, check_count, check_known, check_names
from tailfleet_schema.workload import ATTENTIONS, BACKENDS, DTYPES

METHODS = ("random", "topk", "evit", "pomt", "tome", "zero-tprune", "cropr")
"""Reducing methods that can be planned. ``cropr`` where a model's checkpoint has trained queries."""

DEFAULT_METHODS = ("topk", "pomt", "tome")
"""Those that are, unless others are asked for: the rest is slower for no gain without training, or needs it."""

AUTO = "auto"
"""Among the methods: those named beside it, or the default ones, compete, and one plan takes the best of them."""

BASELINES = {
    "pomt-rule": "pomt",
    "pomt-alpha": "pomt",
    "tome-constant": "tome",
    "tome-decreasing": "tome",
    "evit-keep-rate": "evit",
    "zero-tprune-reported": "zero-tprune",
    "cropr-constant": "cropr",
    "random-block": "random",
}
"""Published ways to choose a schedule, each with the one method that it plans for. ``pomt-rule`` has the one α of its
paper (or of the objective's utility); of the others the one knob is swept, and what suits the objective best is taken:
POMT's α, ToMe's r (constant, or falling), EViT's ρ, how strongly Zero-TPrune's reported shares prune, Cropr's R, and
how many random tokens stay from one block on."""

BY_INPUT = frozenset(["pomt-rule", "pomt-alpha"])
"""Planners that need the accuracy of shortened inputs, too."""

PLANNERS = ("optimal", *BASELINES)
"""``optimal``: exact search over one or more reducing blocks, for every method; and the ``BASELINES``."""


MOST_VERIFIED = 16
"""Points of one plan that a board may be asked to measure."""

_COUNTS = re.compile(r" *[1-9][0-9]{0,6} *(, *[1-9][0-9]{0,6} *){0,9999}")


OFFLINE = ("wait", "skip")
"""What a campaign does with a board that is offline when its turn comes: wait for it, or go on without it."""


class CampaignState(Enum):
    """Where a campaign stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Statistic(Enum):
    """Which time of many calls is meant where a latency is named."""

    QUIET = "quiet"
    """10th percentile: the board undisturbed."""
    P50 = "p50"
    P99 = "p99"
    """What one call in a hundred exceeds: the tail, disturbances and all."""


class Measure(Enum):
    """What is lost where tokens are dropped, as plans weigh it and reports show it."""

    TOP1 = "top-1"
    """Percentage points of top-1 on labelled images."""
    AGREEMENT = "agreement"
    """Percentage points of agreement with the dense model (eager, fp32) on images that have no labels."""
    WORK = "work"
    """Percent of token × block that is left out: there are no images."""


@dataclass(frozen=True)
class Objective:
    """What a plan is to achieve.

    With ``max_accuracy_drop`` (percentage points of top-1, or of agreement with the dense model where images have no
    labels): the fastest schedule that loses no more. With a latency budget, as a share of dense or in nanoseconds: the
    schedule within it that loses least. With both: the accuracy limit for models that have labelled images, the budget
    for others.
    With ``utility_alpha`` = α: argmax of α·(1 − L/L_dense) + (1 − α)·A/A_dense. With ``front``: the whole front of
    latency and loss, some points of it verified, and none recommended. With ``deadline_ns``: the highest throughput,
    which at one batch size is the fastest schedule that loses no more than ``max_accuracy_drop`` and meets it;
    campaigns of several batch sizes are compared by what they measured.
    Every latency in it, "fastest" and the dense one included, is ``on`` one statistic.
    """

    max_accuracy_drop: Optional[float] = None
    latency_share: Optional[float] = None
    latency_ns: Optional[int] = None
    utility_alpha: Optional[float] = None
    on: Statistic = Statistic.QUIET
    front: bool = False
    deadline_ns: Optional[int] = None
    """Of one call of the whole batch."""

    def __post_init__(self) -> None:
        if self.max_accuracy_drop is not None and not 0 <= self.max_accuracy_drop <= 100:
            raise InputError("must lie between 0 and 100 percentage points", path="max_accuracy_drop")
        if self.latency_share is not None and not 0 < self.latency_share <= 1:
            raise InputError("a share of dense must lie above 0 and be at most 1", path="latency_share")
        if self.latency_ns is not None and self.latency_ns <= 0:
            raise InputError("a latency budget must be positive", path="latency_ns")
        if self.latency_share is not None and self.latency_ns is not None:
            raise InputError("give one latency budget: a share of dense or a time", path="latency_ns")
        if self.utility_alpha is not None and not 0 <= self.utility_alpha <= 1:
            raise InputError("must lie between 0 and 1", path="utility_alpha")
        chosen = [self.max_accuracy_drop, self.latency_share, self.latency_ns, self.utility_alpha]
        if self.deadline_ns is not None:
            self._check_deadline()
        if self.front and any(value is not None for value in chosen):
            raise InputError("stands alone: it shows every trade of latency for accuracy", path="front")
        if not self.front and self.deadline_ns is None and all(value is None for value in chosen):
            raise InputError("an objective needs an accuracy drop, a latency budget, a utility, or the front")
        if self.utility_alpha is not None and any(value is not None for value in chosen[:3]):
            raise InputError("stands alone: it already weighs latency against accuracy", path="utility_alpha")
        if not isinstance(self.on, Statistic):
            names = ", ".join("Statistic." + statistic.name for statistic in Statistic)
            raise InputError("must be one of {}, not {!r}".format(names, self.on), path="on")

    def drop_limit(self, measure: "Measure") -> Optional[float]:
        """The points of ``measure`` that may be lost; None where there is no limit, or where images have no labels and
        a latency budget decides."""
        budgeted = self.latency_share is not None or self.latency_ns is not None
        return None if budgeted and measure is not Measure.TOP1 else self.max_accuracy_drop

    def _check_deadline(self) -> None:
        if self.deadline_ns is not None and self.deadline_ns <= 0:
            raise InputError("a deadline must be positive", path="deadline_ns")
        if self.front or any(value is not None for value in (self.latency_share, self.latency_ns, self.utility_alpha)):
            raise InputError("goes with an accuracy limit alone: it is the latency budget itself", path="deadline_ns")


@dataclass(frozen=True)
class SweepSettings:
    """How curves are measured."""

    counts: str = "adaptive"
    """``adaptive``: a coarse grid, refined where neighbours differ beyond noise; ``all``: every count from 2 to N; or a
    comma-separated list. (``auto`` is what earlier releases called ``adaptive``.)"""
    rounds: int = 3
    """Undisturbed rounds that everything is measured in at least."""
    calls: int = 2
    fresh: bool = False
    """Measure again even where a fitting curve is stored."""
    precision: float = 0.02
    """As in ``Effort``."""
    budget_seconds: float = 600.0
    """As in ``Effort``; of each sweep."""

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds, 1, 1000)
        check_count("calls", self.calls, 1, 10000)
        if self.counts not in ("adaptive", "all", "auto") and not _COUNTS.fullmatch(self.counts):
            raise InputError(
                "must be adaptive, all, or token counts separated by commas, not {!r}".format(self.counts[:60]),
                path="counts",
            )
        self.effort(None)

    def effort(self, least_tokens: Optional[int]) -> Effort:
        """That of a sweep. Raises ``InputError``."""
        return Effort(self.precision, max(self.rounds, Effort.most_rounds), self.budget_seconds, least_tokens)


@dataclass(frozen=True)
class CampaignRequest:
    """A campaign: boards × models, measured, and, where an objective is given, planned and verified."""

    models: List[str]
    boards: List[str]
    methods: List[str] = field(default_factory=lambda: list(DEFAULT_METHODS))
    planners: List[str] = field(default_factory=lambda: ["optimal"])
    objective: Optional[Objective] = None
    """None: a sweep alone; nothing is planned."""
    sweep: SweepSettings = field(default_factory=SweepSettings)
    batch: int = 1
    dtype: str = "fp32"
    backend: str = "eager"
    """Of physical boards; virtual ones have their own."""
    attention: str = "auto"
    offline: str = "wait"
    """One of ``OFFLINE``."""
    verify: int = 3
    """Of each plan, so many points of its front are measured at most: the chosen one, and such as fall back on less
    where that one misses on the board what was predicted; for the objective ``front``, points spread over it. Under the
    method ``auto`` what the methods that did not win would have come to is measured besides, unless this is 1."""

    def __post_init__(self) -> None:
        check_names("models", self.models)
        check_names("boards", self.boards, LABEL_LENGTH)
        known_methods = (*METHODS, AUTO)
        for name, values, known in (("methods", self.methods, known_methods), ("planners", self.planners, PLANNERS)):
            check_names(name, values)
            for place, value in enumerate(values):
                check_known("{}[{}]".format(name, place), value, known)
        check_count("batch", self.batch, 1)
        check_count("verify", self.verify, 1, MOST_VERIFIED)
        check_known("dtype", self.dtype, DTYPES)
        check_known("backend", self.backend, [backend for backend in BACKENDS if backend != "virtual"])
        check_known("attention", self.attention, ATTENTIONS)
        check_known("offline", self.offline, OFFLINE)
        for planner in self.planners:
            method = BASELINES.get(planner)
            if method is not None and method not in self.reducing_methods:
                words = "{} plans for the method {}, which is not among the methods".format(planner, method)
                raise InputError(words, path="planners")

    @property
    def reducing_methods(self) -> List[str]:
        """The methods whose cost and loss are measured; for ``auto`` alone the default ones."""
        return [method for method in self.methods if method != AUTO] or list(DEFAULT_METHODS)

    def competing(self, method: str) -> List[str]:
        """The methods that a plan for ``method`` takes one of: all of them for ``auto``, else itself."""
        return self.reducing_methods if method == AUTO else [method]

    def plans(self) -> List[Tuple[str, str]]:
        """Every (planner, method) that is planned for each board × model, in the order of the report."""
        searched = [AUTO] if AUTO in self.methods else self.methods
        return [
            (planner, method)
            for planner in self.planners
            for method in ([BASELINES[planner]] if planner in BASELINES else searched)
        ]


@dataclass(frozen=True)
class StepStatus:
    """Progress of one board × model within a campaign."""

    board: str
    model: str
    phase: str
    """waiting, sweep, profile, plan, verify, done, failed, or cancelled"""
    done: int
    total: int
    """Units of the phase's job, done and in all; 0 of 0 where it has none."""
    note: str = ""
    """For instance that a stored curve was reused, or why it failed."""
    failure: Optional[Failure] = None
    """Why it failed or was cancelled, and who must act; ``note`` says the same sentence."""
    rounds_begun: int = 0
    """Of the phase's job; an open-ended one ends when its precision or its budget is reached."""


@dataclass(frozen=True)
class CampaignStatus:
    """Progress of a campaign."""

    id: str
    state: CampaignState
    created_at: str
    steps: List[StepStatus]
    finished_at: Optional[str] = None
    failure: Optional[Failure] = None


@dataclass(frozen=True)
class ReportRow:
    """One planned board × model × method, verified on the board. Times in ns, all ``on`` one statistic; None: not
    known."""

    board: str
    board_kind: str
    """``physical`` or ``virtual``; a virtual board's latencies are modelled."""
    model: str
    planner: str
    method: str
    schedule_digest: Optional[str]
    """None: do not prune."""
    keep: Optional[List[int]]
    dense_ns: Optional[float]
    predicted_ns: Optional[float]
    predicted_low_ns: Optional[float]
    predicted_high_ns: Optional[float]
    measured_ns: Optional[float]
    measured_low_ns: Optional[float]
    measured_high_ns: Optional[float]
    speedup: Optional[float]
    """Measured dense over measured pruned, of the same interleaved rounds."""
    top1_dense: Optional[float]
    """Percent of evaluation images; None where ``measure`` is another."""
    top1_pruned: Optional[float]
    top1_computed_on: Optional[str]
    """``board`` or ``host``; None where there is no top-1."""
    recommended: bool
    verdict: str
    on: Statistic = Statistic.QUIET
    """That of the campaign's objective."""
    curve_id: Optional[int] = None
    """The curve that the plan rests on."""
    reduces_by: Optional[str] = None
    """The schedule's own method, where several competed (``method`` is ``auto``)."""
    measure: Measure = Measure.TOP1
    agreement_dense: Optional[float] = None
    """Percent of evaluation images, labelled or not, whose answer is that of the dense model in eager fp32 (on a
    virtual board: in the workload's dtype); None where nothing was judged."""
    agreement_pruned: Optional[float] = None
    kl_nats: Optional[float] = None
    """Mean divergence of the pruned model's answers from the same."""
    agreement_computed_on: Optional[str] = None
    """``board`` or ``host``; None where nothing was judged."""

    @property
    def right(self) -> Tuple[Optional[float], Optional[float]]:
        """Percent of evaluation images that the dense and the pruned model are right on, by the row's measure."""
        if self.measure is Measure.AGREEMENT:
            return self.agreement_dense, self.agreement_pruned
        return self.top1_dense, self.top1_pruned


@dataclass(frozen=True)
class FrontPoint:
    """A schedule that no other beats in latency and loss, by prediction."""

    latency_ns: float
    loss: float
    """Cautious loss, as the front's ``measure`` has it."""
    keep: List[int]
    method: str = ""
    """The schedule's; empty in what was stored before methods competed."""


@dataclass(frozen=True)
class Front:
    """What one planner saw for one board × model × method: a thinned Pareto front, by rising latency."""

    board: str
    board_kind: str
    model: str
    planner: str
    method: str
    dense_ns: float
    """Predicted as the points are, ``on`` the same statistic."""
    measure: Measure
    """What the points lose."""
    points: List[FrontPoint]
    on: Statistic = Statistic.QUIET


@dataclass(frozen=True)
class CampaignReport:
    """All rows of a campaign, and the fronts that its plans were chosen from."""

    campaign: str
    rows: List[ReportRow]
    fronts: List[Front] = field(default_factory=list)


@dataclass(frozen=True)
class BoardStatus:
    """A board as ``tailfleet board list`` shows it."""

    name: str
    kind: str
    virtual_profile: Optional[str]
    enrolled_at: Optional[str]
    last_seen_at: Optional[str]
    online: bool
    facts_json: str
    """The board's facts as JSON text, as it last told them."""
    revoked_at: Optional[str] = None
    """Since when its token opens nothing; None while it may speak."""
