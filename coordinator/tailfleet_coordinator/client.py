"""``Fleet``: the coordinator from Python. Rows come as pandas DataFrames, single facts as the schema's dataclasses.

::

    from tailfleet_coordinator.client import Fleet
    fleet = Fleet()                                   # this machine's coordinator, or $TAILFLEET_URL
    fleet.curves(model="digits_vit", board="nano-7")  # one row for each measured unit, times in ns
"""

import dataclasses
import hashlib
import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pandas

from tailfleet_coordinator.library import datasets, models
from tailfleet_coordinator.library.progress import Progress, silent
from tailfleet_coordinator.library.splits import CALIBRATION_SHARE, Amount
from tailfleet_coordinator.refusals import NameTaken, UnknownName
from tailfleet_coordinator.replies import (
    CURVE_COLUMNS,
    JOB_COLUMNS,
    POINT_COLUMNS,
    SCHEDULE_COLUMNS,
    AddedSchedule,
    AddSchedule,
    Boards,
    Campaigns,
    Columns,
    DatasetAdded,
    DatasetRequest,
    Datasets,
    Enrolment,
    EnrolmentRequest,
    Health,
    JobDetails,
    JobLog,
    ModelAdded,
    ModelRequest,
    Models,
    NewToken,
    StoredArtifact,
    TokenRequest,
    Tokens,
)
from tailfleet_coordinator.settings import Settings
from tailfleet_coordinator.tls import trusting
from tailfleet_schema import codec
from tailfleet_schema.board import BoardFacts
from tailfleet_schema.campaign import BoardStatus, CampaignReport, CampaignRequest, CampaignStatus
from tailfleet_schema.errors import Blame, ConfigurationError, DecodeError, InputError, LabError, TailfleetError
from tailfleet_schema.messages import ErrorReply
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import FILES, DatasetIndex, DatasetSpec, ModelSpec

T = TypeVar("T")

BOARD_COLUMNS = (
    "name", "kind", "virtual_profile", "online", "soc", "architecture", "cpu", "cpu_cores", "memory_bytes", "gpu",
    "gpu_sms", "os", "python", "torch", "timm", "cuda", "l4t", "agent", "enrolled_at", "last_seen_at",
    "revoked_at",
)  # fmt: skip
"""Columns of :meth:`Fleet.boards`."""

TOKEN_COLUMNS = ("name", "role", "created_at", "revoked_at")
"""Columns of :meth:`Fleet.tokens`."""

_NUMBERS = {
    "quiet_ns": "Float64", "quiet_low_ns": "Float64", "quiet_high_ns": "Float64", "p50_ns": "Float64",
    "p90_ns": "Float64", "p99_ns": "Float64",
}  # fmt: skip


PIECE_BYTES = 1 << 20
"""Files are sent in pieces of this size."""

PATIENT = httpx.Timeout(60.0, read=900.0)
"""For what the coordinator must write to disk, or read through, before it answers."""


class FleetError(TailfleetError):
    """The coordinator refused; the sentence is its own. ``status`` is the HTTP status."""

    def __init__(self, status: int, reply: ErrorReply) -> None:
        super().__init__(reply.error, reply.mend)
        self.status = status
        self.blame = reply.blame


class Fleet:
    """A coordinator and its boards.

    ``url`` and ``token`` default to ``$TAILFLEET_URL`` and ``$TAILFLEET_TOKEN``, else to what the coordinator of this
    machine wrote into ``coordinator.json``. ``ca`` is a file of certificates to trust for https, of authorities or of
    the coordinator itself; it defaults to ``$TAILFLEET_CA``, else to the one named beside the URL that was found, else
    to the system's. Methods raise ``FleetError`` for a refusal, ``LabError`` where nobody answers.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        ca: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        url = url or os.environ.get("TAILFLEET_URL")
        token = token or os.environ.get("TAILFLEET_TOKEN")
        ca = ca or os.environ.get("TAILFLEET_CA")
        if url is None or token is None:
            known = _this_machines_coordinator(url is None)
            if url is None:
                url, ca = known["url"], ca or known.get("ca")
            token = token or known["token"]
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            verify=trusting(ca) if ca is not None and self.url.startswith("https:") else True,
            transport=transport,
            timeout=timeout_seconds,
        )

    def close(self) -> None:
        """Close the connections; the object is of no use afterwards."""
        self._http.close()

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def health(self) -> Health:
        """That the coordinator answers, and its version."""
        return self._get("/v1/health", Health)

    def boards(self) -> pandas.DataFrame:
        """One row a board: name, kind, hardware, software; ``online``: heard of within the last minute."""
        rows = []
        for board in self._get("/v1/boards", Boards).boards:
            facts = codec.loads(BoardFacts, board.facts_json)
            told = {**codec.encode(facts.hardware), **codec.encode(facts.software), **codec.encode(board)}
            rows.append([told[column] for column in BOARD_COLUMNS])
        frame = pandas.DataFrame(rows, columns=list(BOARD_COLUMNS))
        return _with_times(frame, "enrolled_at", "last_seen_at", "revoked_at")

    def enroll_board(
        self, name: str, virtual_profile: str | None = None, minutes: int = 60, ca: str | None = None
    ) -> Enrolment:
        """Promise the name to a board; ``line`` is to be pasted there within ``minutes``.

        ``ca`` is a file on the board with the certificates that it is to trust for https.
        """
        return self._post("/v1/enrolments", EnrolmentRequest(name, virtual_profile, minutes, ca), Enrolment)

    def revoke_board(self, name: str) -> BoardStatus:
        """Make the board's token void. Its curves stay; ``enroll_board`` lets it in again."""
        return self._post(f"/v1/boards/{_safe(name)}/revoke", None, BoardStatus)

    def tokens(self) -> pandas.DataFrame:
        """One row a token of a person or a program: name, role, when it was made and revoked."""
        return _tokens(self._get("/v1/tokens", Tokens))

    def create_token(self, name: str, role: str) -> NewToken:
        """A token to speak as ``role`` (operator or viewer). It cannot be asked for again."""
        return self._post("/v1/tokens", TokenRequest(name, role), NewToken)

    def revoke_token(self, name: str) -> pandas.DataFrame:
        """Make the token void; all tokens as ``tokens`` tells them."""
        return _tokens(self._post(f"/v1/tokens/{_safe(name)}/revoke", None, Tokens))

    def models(self) -> pandas.DataFrame:
        """One row a model: name, architecture, shape, whether it has weights and images."""
        names = (
            "name",
            "architecture",
            "depth",
            "dim",
            "heads",
            "tokens",
            "prefix",
            "image_size",
            "classes",
            "weights",
            "dataset",
        )
        rows = [
            (
                model.name,
                model.architecture,
                model.geometry.depth,
                model.geometry.dim,
                model.geometry.heads,
                model.geometry.tokens,
                model.geometry.prefix,
                model.geometry.image_size,
                model.geometry.classes,
                weights_in_words(model),
                model.dataset,
            )
            for model in self._get("/v1/models", Models).models
        ]
        return pandas.DataFrame(rows, columns=list(names))

    def model(self, name: str) -> ModelSpec:
        """One model. Raises ``UnknownName``."""
        for model in self._get("/v1/models", Models).models:
            if model.name == name:
                return model
        raise UnknownName(f"no model is called {name!r}", "tailfleet model list")

    def add_model(
        self,
        name: str,
        architecture: str,
        *,
        arguments: Mapping[str, Any] | None = None,
        checkpoint: str | Path | None = None,
        pretrained: bool = False,
        pretrained_on_board: bool = False,
        dataset: str | None = None,
        replace: bool = False,
        progress: Progress = silent,
    ) -> ModelAdded:
        """Register a model of timm's, built and read by torch and timm on this machine.

        ``arguments`` are timm's (``num_classes``, ``img_size``, …). ``checkpoint`` is a file of its weights
        (``.safetensors``, ``.npz``, or ``.pt`` that holds tensors alone); ``pretrained`` takes timm's own and sends
        them, ``pretrained_on_board`` lets every board fetch them; with none of the three the weights are random, and
        only its latency means anything. ``dataset`` is the one that it is judged on. Raises ``InputError`` for what
        the author got wrong; nothing is registered then.
        """
        if dataset is not None:
            self.dataset(dataset)
        with models.register(
            name,
            architecture,
            arguments or {},
            checkpoint=None if checkpoint is None else Path(checkpoint),
            pretrained=pretrained,
            pretrained_on_board=pretrained_on_board,
            dataset=dataset,
        ) as registered:
            spec = registered.spec
            weights = registered.weights
            if weights is not None:
                spec = dataclasses.replace(spec, checkpoint_sha256=sha256_of(weights, progress))
            taken = any(known.name == name and known != spec for known in self._get("/v1/models", Models).models)
            if taken and not replace:
                raise NameTaken(f"another model is called {name!r}", "choose another name, or add --replace")
            if weights is not None and spec.checkpoint_sha256 is not None:
                self._upload(spec.checkpoint_sha256, weights.stat().st_size, lambda: _pieces(weights), progress)
        return self._post("/v1/models", ModelRequest(spec, replace), ModelAdded)

    def datasets(self) -> pandas.DataFrame:
        """One row a dataset; ``files`` says who has the images: the ``coordinator``, or each ``board`` in a folder."""
        names = ("name", "form", "classes", "calibration_images", "evaluation_images", "files", "sha256", "source")
        rows = [
            (
                dataset.name,
                dataset.form,
                dataset.classes,
                dataset.calibration_images,
                dataset.evaluation_images,
                "board" if dataset.form == FILES and dataset.pack_sha256 is None else "coordinator",
                dataset.sha256,
                dataset.source,
            )
            for dataset in self._get("/v1/datasets", Datasets).datasets
        ]
        return pandas.DataFrame(rows, columns=list(names))

    def dataset(self, name: str) -> DatasetSpec:
        """One dataset. Raises ``UnknownName``."""
        for dataset in self._get("/v1/datasets", Datasets).datasets:
            if dataset.name == name:
                return dataset
        raise UnknownName(f"no dataset is called {name!r}", "tailfleet dataset list")

    def dataset_index(self, name: str) -> DatasetIndex | None:
        """Classes and files of a dataset; None for one of arrays, which has no files."""
        spec = self.dataset(name)
        if spec.form != FILES:
            return None
        return self._get(f"/v1/artifacts/{spec.sha256}", DatasetIndex)

    def add_dataset(
        self,
        name: str,
        path: str | Path,
        *,
        calibration: Amount = CALIBRATION_SHARE,
        evaluation: Amount | None = None,
        seed: int = 0,
        class_index: Mapping[str, int] | None = None,
        index_only: bool = False,
        replace: bool = False,
        progress: Progress = silent,
    ) -> tuple[DatasetAdded, tuple[str, ...]]:
        """Register a folder of images, one folder a class; what came of it, and sentences on files left out.

        ``calibration`` and ``evaluation`` are numbers of images (``int``) or shares of them (``float``); of every class
        the same share. ``class_index`` gives folders their labels, where they are a part of a model's classes. With
        ``index_only`` the files stay here, and every board names a folder of its own that holds them. Raises
        ``InputError`` for what is no such folder; nothing is registered then.
        """
        prepared = datasets.prepare(name, Path(path), calibration, evaluation, seed, class_index, progress)
        taken = any(
            known.name == name and known.sha256 != prepared.spec.sha256
            for known in self._get("/v1/datasets", Datasets).datasets
        )
        if taken and not replace:
            raise NameTaken(f"another dataset is called {name!r}", "choose another name, or add --replace")
        if not index_only:
            prepared = prepared.packed(progress)
            assert prepared.spec.pack_sha256 is not None
            self._upload(prepared.spec.pack_sha256, prepared.pack_bytes, prepared.pack, progress)
        self._upload(prepared.spec.sha256, len(prepared.content), lambda: iter([prepared.content]), silent)
        added = self._post("/v1/datasets", DatasetRequest(prepared.spec, replace), DatasetAdded, PATIENT)
        return added, prepared.notes

    def upload(self, path: str | Path, progress: Progress = silent) -> str:
        """Send a file to the coordinator's artifacts, unless it is there; its sha256."""
        path = Path(path)
        sha256 = sha256_of(path)
        self._upload(sha256, path.stat().st_size, lambda: _pieces(path), progress)
        return sha256

    def _upload(self, sha256: str, size: int, pieces: Callable[[], Iterator[bytes]], progress: Progress) -> None:
        """Send what ``pieces`` gives, unless the coordinator has it; piece by piece, never whole in memory."""
        where = f"/v1/artifacts/{sha256}"
        # Whatever is refused here is refused below, in a sentence.
        if self._send("HEAD", where).is_success:
            return

        def told() -> Iterator[bytes]:
            sent = 0
            for piece in pieces():
                yield piece
                sent += len(piece)
                progress("sending", sent, size)

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self._ask("PUT", where, StoredArtifact, content=told(), headers=headers, timeout=PATIENT)

    def curve_list(self, model: str | None = None, board: str | None = None) -> pandas.DataFrame:
        """One row a stored curve, the oldest first."""
        frame = self._columns("/v1/curves", CURVE_COLUMNS, {"model": model, "board": board})
        return _with_times(frame, "measured_at")

    def curves(self, model: str | None = None, board: str | None = None) -> pandas.DataFrame:
        """One row for each measured unit of each stored curve, the oldest curve first.

        ``part`` says what was timed (``model``: the curve itself), ``tokens`` → ``kept``; ``quiet_ns`` is the low
        quantile that plans rest on, with its interval; ``p50_ns``, ``p90_ns``, ``p99_ns`` are typical times. Latencies
        of rows with ``board_kind`` ``virtual`` are modelled, not measured.
        """
        frame = self._columns("/v1/curves/points", POINT_COLUMNS, {"model": model, "board": board})
        return _with_times(frame.astype(_NUMBERS).astype(dict.fromkeys(_NUMBERS, "float64")), "measured_at")

    def run_campaign(self, request: CampaignRequest) -> str:
        """Start a campaign; its id."""
        return self._post("/v1/campaigns", request, CampaignStatus).id

    def campaigns(self) -> pandas.DataFrame:
        """One row a campaign, the newest first."""
        names = ("id", "state", "created_at", "finished_at", "steps", "done", "failed")
        rows = []
        for campaign in self._get("/v1/campaigns", Campaigns).campaigns:
            phases = [step.phase for step in campaign.steps]
            rows.append(
                (
                    campaign.id,
                    campaign.state.value,
                    campaign.created_at,
                    campaign.finished_at,
                    len(phases),
                    phases.count("done"),
                    phases.count("failed"),
                )
            )
        return _with_times(pandas.DataFrame(rows, columns=list(names)), "created_at", "finished_at")

    def campaign(self, campaign: str) -> CampaignStatus:
        """Where a campaign stands."""
        return self._get(f"/v1/campaigns/{_safe(campaign)}", CampaignStatus)

    def cancel(self, campaign: str) -> CampaignStatus:
        """Stop a campaign; what was measured stays."""
        return self._post(f"/v1/campaigns/{_safe(campaign)}/cancel", None, CampaignStatus)

    def report(self, campaign: str) -> CampaignReport:
        """What was planned, and what the boards measured of it; may be asked for before the campaign has ended."""
        return self._get(f"/v1/campaigns/{_safe(campaign)}/report", CampaignReport)

    def jobs(
        self,
        campaign: str | None = None,
        board: str | None = None,
        model: str | None = None,
        state: str | None = None,
        limit: int = 50,
    ) -> pandas.DataFrame:
        """One row a job, the newest first, at most ``limit`` of them.

        ``done`` of ``total`` results are stored; ``attempt`` is how often it was given to its board. ``failure`` says
        why a failed job failed and ``who_must_act``, or by whom a cancelled one was cancelled.
        """
        wanted = {"campaign": campaign, "board": board, "model": model, "state": state, "limit": str(limit)}
        frame = self._columns("/v1/jobs", JOB_COLUMNS, wanted)
        return _with_times(frame, "created_at", "started_at", "finished_at")

    def job(self, job: str) -> JobDetails:
        """All there is to know of a job; its id, or the beginning of it."""
        return self._get(f"/v1/jobs/{_safe(job)}", JobDetails)

    def job_log(self, job: str, attempt: int | None = None) -> JobLog:
        """The end of what the measured child said in an attempt of a job, by default the last; while it runs, too."""
        return self._get(f"/v1/jobs/{_safe(job)}/log", JobLog, {} if attempt is None else {"attempt": str(attempt)})

    def cancel_job(self, job: str) -> JobDetails:
        """Cancel a job: one that waits is over at once, one that is measured stops before its next count. What it
        measured stays."""
        return self._post(f"/v1/jobs/{_safe(job)}/cancel", None, JobDetails)

    def schedules(
        self, board: str | None = None, model: str | None = None, campaign: str | None = None
    ) -> pandas.DataFrame:
        """One row for each planned schedule, board and campaign, and for each added one that no campaign planned, with
        these left empty; ``keep`` is a list of counts as JSON."""
        wanted = {"board": board, "model": model, "campaign": campaign}
        return _with_times(self._columns("/v1/schedules", SCHEDULE_COLUMNS, wanted), "planned_at")

    def schedule(self, digest: str) -> Schedule:
        """The schedule whose digest begins so."""
        return self._get(f"/v1/schedules/{_safe(digest)}", Schedule)

    def add_schedule(self, schedule: Schedule) -> str:
        """Keep a schedule for a model that the coordinator knows; its digest. Adding it twice does nothing."""
        return self._post("/v1/schedules", AddSchedule(schedule), AddedSchedule).digest

    def _columns(self, path: str, names: tuple[str, ...], wanted: Mapping[str, str | None]) -> pandas.DataFrame:
        table = self._get(path, Columns, {key: value for key, value in wanted.items() if value is not None})
        return pandas.DataFrame({name: table.columns.get(name, []) for name in names}, columns=list(names))

    def _get(self, path: str, kind: type[T], parameters: Mapping[str, str] | None = None) -> T:
        return self._ask("GET", path, kind, params=parameters)

    def _post(self, path: str, message: object, kind: type[T], timeout: httpx.Timeout | None = None) -> T:
        content = b"" if message is None else codec.dumps(message).encode()
        headers = {"Content-Type": "application/json"}
        return self._ask("POST", path, kind, content=content, headers=headers, timeout=timeout or self._http.timeout)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise _unanswered(self.url, error) from error

    def _ask(self, method: str, path: str, kind: type[T], **options: Any) -> T:
        answer = self._send(method, path, **options)
        if answer.is_success:
            return codec.loads(kind, answer.content, "reply")
        try:
            refusal = codec.loads(ErrorReply, answer.content)
        except DecodeError:
            refusal = ErrorReply(f"{self.url} answers with status {answer.status_code}", Blame.BUG)
        raise FleetError(answer.status_code, refusal)


def _unanswered(url: str, error: httpx.HTTPError) -> LabError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return LabError(
                f"the certificate of {url} is not trusted: {cause.verify_message}",
                "name the file of its authority's certificate: TAILFLEET_CA",
            )
        cause = cause.__cause__ or cause.__context__
    return LabError(f"no coordinator answers at {url} ({error})", "tailfleet up")


def weights_in_words(model: ModelSpec) -> str:
    """``random``, ``pretrained`` (timm's own, fetched by each board), or the beginning of the checkpoint's sha256."""
    if model.pretrained:
        return "pretrained"
    return "random" if model.checkpoint_sha256 is None else model.checkpoint_sha256[:12]


def sha256_of(path: Path, progress: Progress = silent) -> str:
    """The file's sha256 in hexadecimal. Raises ``InputError`` where it cannot be read."""
    digest, done = hashlib.sha256(), 0
    for piece in _pieces(path):
        digest.update(piece)
        done += len(piece)
        progress("hashing", done, max(done, path.stat().st_size))
    return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _this_machines_coordinator(needs_url: bool) -> dict[str, str]:
    path = Settings().ready_file
    try:
        known = json.loads(path.read_text())
        return {name: str(known[name]) for name in ("url", "token", *(["ca"] if "ca" in known else []))}
    except FileNotFoundError:
        what = "no coordinator runs on this machine" if needs_url else "no token is given"
        raise ConfigurationError(
            f"{what}: there is no {path}", "tailfleet up, or set TAILFLEET_URL and TAILFLEET_TOKEN"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", "start the coordinator again") from error


def _safe(name: str) -> str:
    """``name`` as one part of a path."""
    from urllib.parse import quote

    return quote(name, safe="") or "-"


def _tokens(answer: Tokens) -> pandas.DataFrame:
    rows = [[getattr(token, column) for column in TOKEN_COLUMNS] for token in answer.tokens]
    return _with_times(pandas.DataFrame(rows, columns=list(TOKEN_COLUMNS)), "created_at", "revoked_at")


def _with_times(frame: pandas.DataFrame, *names: str) -> pandas.DataFrame:
    for name in names:
        frame[name] = pandas.to_datetime(frame[name], utc=True, format="ISO8601")
    return frame
