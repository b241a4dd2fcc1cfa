"""The bodies of the board's requests and of the coordinator's replies, one dataclass each.

::

    POST /v1/enroll                    EnrolRequest → EnrolReply       (enrolment token)
    POST /v1/lease                     LeaseRequest → LeaseReply       (board token; waits up to wait_seconds)
    POST /v1/jobs/{id}/results         ResultsUpload → ResultsReply    (also renews the lease)
    POST /v1/jobs/{id}/heartbeat       HeartbeatRequest → HeartbeatReply     (waits up to wait_seconds)
    POST /v1/jobs/{id}/finish          FinishRequest → FinishReply
    POST /v1/receipts                  ReceiptsUpload → ReceiptsReply
    GET  /v1/artifacts/{sha256}        bytes
    GET  /v1/agent.pyz                 bytes                           (enrolment token or board token)

Every request brings its token in ``Authorization: Bearer …``. An enrolment token opens the two places that name it,
while it is neither used nor expired; the board token that it is traded for opens the others.

Every refusal is an ``ErrorReply`` with a 4xx status. 401: who are you; 403: not you; 404: no such thing;
409: the lease is no longer yours (drop the job, ask for the next); 413: too large; 422: bad input. A 5xx status passes:
503 while another coordinator takes over.

While a job runs, its holder hears that it was cancelled before it begins the next unit, by a *held heartbeat*: it
sends a heartbeat with ``wait_seconds``, the coordinator renews the lease at once and keeps the answer back until the
job is cancelled (``cancel``), the lease is lost (409), or the time is over. Meanwhile the holder measures. Between two
units it asks its operating system whether the answer has come, which sends nothing and waits for nothing; when it has
come, or the connection broke, the holder speaks once without waiting (results, or a heartbeat with no
``wait_seconds``) and then holds the next one, so that no moment is left in which a cancellation goes unheard. A
connection that breaks ends no job. Results travel on connections of their own, as rarely as before.

Schedules reach a board with the answer to its request for work, which comes at once where one is queued; so nothing is
said of them while a job runs. What the board did with each it says by ``receipts``, and until then is told of it again.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Dict, List, Optional

from tailfleet_schema.board import BoardFacts, Telemetry
from tailfleet_schema.curve import Unit, UnitResult
from tailfleet_schema.errors import Blame, InputError
from tailfleet_schema.job import Failure, Job, Key
from tailfleet_schema.limits import LABEL_LENGTH, check_count
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.shipment import Receipt, Shipment
from tailfleet_schema.version import PROTOCOL
from tailfleet_schema.workload import Geometry, ModelSpec, Preprocessing, Workload

LOG_BYTES = 64 * 1024
"""So much of the end of the measured child's log is sent and kept, one text for each attempt."""

MOST_RECEIPTS = 1000
"""In one upload; far more than a board is told of at once."""

RUNTIME_ENTRIES = 40
RUNTIME_CHARACTERS = 400


def check_runtime(runtime: Dict[str, str]) -> None:
    """Refuse what is too long to be a short account of a runtime."""
    if len(runtime) > RUNTIME_ENTRIES:
        raise InputError("has more than {} entries".format(RUNTIME_ENTRIES), path="runtime")
    for name in sorted(runtime):
        if not 0 < len(name) <= LABEL_LENGTH or len(runtime[name]) > RUNTIME_CHARACTERS:
            raise InputError("the entry {!r} is too long".format(name[:LABEL_LENGTH]), path="runtime")


@dataclass(frozen=True)
class ErrorReply:
    """The one shape of every refusal."""

    error: str
    """One sentence."""
    blame: Blame
    mend: Optional[str] = None


@dataclass(frozen=True)
class EnrolRequest:
    """An agent that brings the single-use token that ``tailfleet board enroll`` printed asks to be let in."""

    facts: BoardFacts
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class EnrolReply:
    """The board's name and its own token, shown this once."""

    board: str
    board_token: str


@dataclass(frozen=True)
class LeaseRequest:
    """An agent that has delivered everything asks for work; whatever it held before, it no longer runs."""

    facts: BoardFacts
    wait_seconds: float = 20.0
    telemetry: Optional[Telemetry] = None
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class Lease:
    """A job given to a board. Only the holder of ``attempt`` may speak for the job."""

    job: Job
    attempt: int
    lease_seconds: float
    """It expires this long after the last upload or heartbeat, by the database's clock."""
    known: List[Key]
    """Keys whose results are stored already: not to be measured again."""
    earlier: List[UnitResult] = field(default_factory=list)
    """These results themselves, without telemetry, where the job has an ``Effort``: the child decides by them."""
    runtime: Dict[str, str] = field(default_factory=dict)
    """What an earlier attempt ran on, as the child told it; this attempt must run on the same."""


@dataclass(frozen=True)
class LeaseReply:
    """Work, or none for now, and schedules that are to be put where the user's program finds them."""

    lease: Optional[Lease] = None
    shipments: List[Shipment] = field(default_factory=list)
    """In the order in which they were queued: of the same model, the last verified one stays."""


@dataclass(frozen=True)
class ReceiptsUpload:
    """What the board did with each shipment; saying it twice does no harm."""

    receipts: List[Receipt]

    def __post_init__(self) -> None:
        check_count("receipts", len(self.receipts), 0, MOST_RECEIPTS)


@dataclass(frozen=True)
class ReceiptsReply:
    """How many shipments are no longer queued, or are now known to be refused."""

    noted: int


@dataclass(frozen=True)
class ResultsUpload:
    """Results measured so far; sending one twice does no harm."""

    attempt: int
    results: List[UnitResult]
    log: Optional[str] = None
    """Last part of what the child has said so far, where that is new; see ``LOG_BYTES``."""
    runtime: Dict[str, str] = field(default_factory=dict)
    """What the child runs on (``WorkerEvent.runtime``), once it has told; empty before."""

    def __post_init__(self) -> None:
        check_runtime(self.runtime)


@dataclass(frozen=True)
class ResultsReply:
    """``stored`` counts the new ones; ``cancel`` asks the agent to stop within one unit."""

    stored: int
    cancel: bool = False


@dataclass(frozen=True)
class HeartbeatRequest:
    """The holder lives."""

    attempt: int
    wait_seconds: float = 0.0
    """Hold the answer back for so long unless there is something to say; 0: answer at once. The coordinator may
    answer earlier, so that the lease is renewed in time."""
    log: Optional[str] = None
    """Last part of what the child has said so far, where that is new; see ``LOG_BYTES``."""


@dataclass(frozen=True)
class HeartbeatReply:
    """``cancel`` asks the agent to stop within one unit."""

    cancel: bool = False


class Outcome(Enum):
    """How a run of the measured child ended."""

    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """The child died or was stopped from outside; the rest may be given again."""
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class FinishRequest:
    """The holder is through with the job."""

    attempt: int
    outcome: Outcome
    failure: Optional[Failure] = None
    log: str = ""
    """Last part of what the child said; see ``LOG_BYTES``."""
    results: Optional[int] = None
    """Of a job with an ``Effort`` that is done: how many results it has in all, earlier attempts' included."""
    runtime: Dict[str, str] = field(default_factory=dict)
    """As in ``ResultsUpload``."""

    def __post_init__(self) -> None:
        check_runtime(self.runtime)
        if self.results is not None:
            check_count("results", self.results, 0)


@dataclass(frozen=True)
class FinishReply:
    """The state the job is in now."""

    state: str
    missing: int = 0
    """Keys that still have no result: a job cannot be done while any is missing. Of a job with an ``Effort``: how many
    of the results that its holder claims are not stored."""


@dataclass(frozen=True)
class WorkerOrder:
    """One line of JSON on the measured child's standard input; see ``tailfleet_agent.worker``."""

    job: Job
    known: List[Key] = field(default_factory=list)
    artifacts: str = ""
    """Folder that holds artifacts, each named by its sha256."""
    virtual_profile: Optional[str] = None
    handshake: bool = False
    """Wait for a line (``go`` or ``stop``) on standard input after each result."""
    judge_threads: Optional[int] = None
    """Threads for judged units; None: as many as torch takes. Timed units always get those, as users' programs do."""
    judge_on_gpu: bool = False
    """Of what is judged for no board (a profile): on the GPU, where torch sees one, else on the CPU; which of the two,
    ``WorkerEvent.runtime`` tells as ``device``. What is judged for a board is where that board's own backend is."""
    dataset_folder: Optional[str] = None
    """Where this machine has the image files of the job's dataset; None: in the dataset's pack, among the artifacts."""
    earlier: List[UnitResult] = field(default_factory=list)
    runtime: Dict[str, str] = field(default_factory=dict)
    """Both as in ``Lease``."""


@dataclass(frozen=True)
class WorkerEvent:
    """One line of JSON on the measured child's standard output; exactly one of the fields is set."""

    result: Optional[UnitResult] = None
    done: bool = False
    failure: Optional[Failure] = None
    note: Optional[str] = None
    """Progress in words: loading, warming up."""
    runtime: Optional[Dict[str, str]] = None
    """What it runs on, said once before the first result: device, threads, versions, kind of attention, provider."""


@dataclass(frozen=True)
class TruthOrder:
    """One line of JSON on the standard input of ``python -m tailfleet_agent.worker truth``: what a virtual board's
    latencies are without noise."""

    virtual_profile: str
    workload: Workload
    units: List[Unit]
    schedules: List[Schedule] = field(default_factory=list)


@dataclass(frozen=True)
class TruthReply:
    """The one line of its answer, unless that is a ``WorkerEvent`` with a failure."""

    ns: List[float]
    """Of one call of each unit, in order."""


@dataclass(frozen=True)
class RegisterOrder:
    """One line of JSON on the standard input of ``python -m tailfleet_agent.worker register``: a model to be known."""

    name: str
    architecture: str
    """As in ``ModelSpec``."""
    arguments: Dict[str, Any] = field(default_factory=dict)
    checkpoint: Optional[str] = None
    """Path of its weights, ``.npz``, ``.safetensors`` or ``.pt``; None: there are none."""
    pretrained: bool = False
    """The weights are timm's own."""
    out: Optional[str] = None
    """Path of the ``.npz`` of its weights to write; None: they are not written, and timm's own not fetched."""


@dataclass(frozen=True)
class RegisterReply:
    """The one line of its answer, unless that is a ``WorkerEvent`` with a failure."""

    geometry: Geometry
    preprocessing: Preprocessing
    arguments: Dict[str, Any]
    wrote: bool


@dataclass(frozen=True)
class DeployOrder:
    """One line of JSON on the standard input of ``python -m tailfleet_agent.worker deploy``: a model under a schedule
    to be written as a file."""

    model: ModelSpec
    schedule: Schedule
    out: str
    """Path of the file."""
    artifacts: str = ""
    """Folder in which the checkpoint lies under its sha256."""
    format: str = "onnx"
    batch: Optional[int] = 1
    """Images a call; None: any number."""
    dtype: str = "fp32"
    opset: Optional[int] = None
    """Of ONNX; None: the oldest that is written."""


@dataclass(frozen=True)
class DeployReply:
    """The one line of its answer, unless that is a ``WorkerEvent`` with a failure: the file is written and checked."""

    bytes: int
    difference: float
    """Greatest difference of its logits from eager's."""
    images: int
    """That it was checked on."""
    checked_by: str
    written_by: str
