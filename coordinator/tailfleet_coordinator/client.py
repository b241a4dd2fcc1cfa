"""``Fleet``: the coordinator from Python. Rows come as pandas DataFrames, single facts as the schema's dataclasses.

::

    from tailfleet_coordinator.client import Fleet
    fleet = Fleet()                                   # this machine's coordinator, or $TAILFLEET_URL
    fleet.curves(model="digits_vit", board="nano-7")  # one row for each unit, measured or inferred, times in ns
    fleet.cliffs(board="nano-7")                      # one row for each step, with its height and confidence

How a coordinator is found and spoken to is left to ``connection``.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pandas

from tailfleet_coordinator.connection import Connection, FleetError, part_of_path
from tailfleet_coordinator.library import datasets, models
from tailfleet_coordinator.library.progress import Progress, silent
from tailfleet_coordinator.library.splits import CALIBRATION_SHARE, Amount
from tailfleet_coordinator.refusals import NameTaken, UnknownName
from tailfleet_coordinator.replies import (
    CLIFF_COLUMNS,
    CURVE_COLUMNS,
    JOB_COLUMNS,
    POINT_COLUMNS,
    ROUND_COLUMNS,
    SAMPLE_COLUMNS,
    SCHEDULE_COLUMNS,
    SHIPMENT_COLUMNS,
    TREAD_COLUMNS,
    TRUE_COLUMNS,
    AddedSchedule,
    AddSchedule,
    Boards,
    Campaigns,
    Columns,
    CurveDetails,
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
    ShipRequest,
    StoredArtifact,
    TokenRequest,
    Tokens,
)
from tailfleet_schema import codec
from tailfleet_schema.board import BoardFacts
from tailfleet_schema.campaign import BoardStatus, CampaignReport, CampaignRequest, CampaignStatus
from tailfleet_schema.errors import InputError, LabError
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import FILES, DatasetIndex, DatasetSpec, ModelSpec, Preprocessing

__all__ = ["Fleet", "FleetError"]

BOARD_COLUMNS = (
    "name", "kind", "virtual_profile", "online", "soc", "architecture", "cpu", "cpu_cores", "memory_bytes", "gpu",
    "gpu_sms", "os", "python", "torch", "timm", "cuda", "l4t", "agent", "enrolled_at", "last_seen_at",
    "revoked_at",
)  # fmt: skip
"""Columns of :meth:`Fleet.boards`."""

TOKEN_COLUMNS = ("name", "role", "created_at", "revoked_at")
"""Columns of :meth:`Fleet.tokens`."""

PIECE_BYTES = 1 << 20
"""Files are sent in pieces of this size."""

PATIENT = httpx.Timeout(60.0, read=900.0)
"""For what the coordinator must write to disk, or read through, before it answers."""


class Fleet(Connection):
    """A coordinator and its boards; see ``Connection`` for how it is found."""

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
        return self._post(f"/v1/boards/{part_of_path(name)}/revoke", None, BoardStatus)

    def tokens(self) -> pandas.DataFrame:
        """One row a token of a person or a program: name, role, when it was made and revoked."""
        return _tokens(self._get("/v1/tokens", Tokens))

    def create_token(self, name: str, role: str) -> NewToken:
        """A token to speak as ``role`` (operator or viewer). It cannot be asked for again."""
        return self._post("/v1/tokens", TokenRequest(name, role), NewToken)

    def revoke_token(self, name: str) -> pandas.DataFrame:
        """Make the token void; all tokens as ``tokens`` tells them."""
        return _tokens(self._post(f"/v1/tokens/{part_of_path(name)}/revoke", None, Tokens))

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
        preprocessing: Preprocessing | None = None,
        replace: bool = False,
        progress: Progress = silent,
    ) -> ModelAdded:
        """Register a model of timm's, built and read by torch and timm on this machine.

        ``arguments`` are timm's (``num_classes``, ``img_size``, …). ``checkpoint`` is a file of its weights
        (``.safetensors``, ``.npz``, or ``.pt`` that holds tensors alone); ``pretrained`` takes timm's own and sends
        them, ``pretrained_on_board`` lets every board fetch them; with none of the three the weights are random, and
        only its latency means anything. ``dataset`` is the one that it is judged on, ``preprocessing`` how it wants
        its images where that is not as timm says. Raises ``InputError`` for what the author got wrong; nothing is
        registered then.
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
            if preprocessing is not None:
                spec = dataclasses.replace(spec, preprocessing=preprocessing)
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
        labels: bool = True,
    ) -> tuple[DatasetAdded, tuple[str, ...]]:
        """Register a folder of images, one folder a class; what came of it, and sentences on files left out.

        Without ``labels`` whatever lies below the folder counts, and models are judged by whether a reduced one agrees
        with the dense one.

        ``calibration`` and ``evaluation`` are numbers of images (``int``) or shares of them (``float``); of every class
        the same share. ``class_index`` gives folders their labels, where they are a part of a model's classes. With
        ``index_only`` the files stay here, and every board names a folder of its own that holds them. Raises
        ``InputError`` for what is no such folder; nothing is registered then.
        """
        prepared = datasets.prepare(name, Path(path), calibration, evaluation, seed, class_index, progress, labels)
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

    def download(self, sha256: str, path: str | Path, progress: Progress = silent) -> None:
        """Write an artifact to ``path``, piece by piece. Raises ``InputError`` where that cannot be written, and
        ``LabError`` where what arrives is not what was asked for."""
        path, digest, done = Path(path), hashlib.sha256(), 0
        try:
            with path.open("wb") as file:
                for piece, size in self._pieces_of(f"/v1/artifacts/{part_of_path(sha256)}"):
                    file.write(piece)
                    digest.update(piece)
                    done += len(piece)
                    progress("fetching", done, size)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
        if digest.hexdigest() != sha256:
            raise LabError(f"what {self.url} sends as artifact {sha256[:12]} is something else", "ask again")

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
        """One row a stored curve, the oldest first: whether it is stable or why not, how many of all counts were
        measured, steps found, rounds and how many of them were disturbed."""
        return self._curve_table("/v1/curves", CURVE_COLUMNS, model, board)

    def curve(self, curve_id: int) -> CurveDetails:
        """One curve without its points: how it was ordered, and what it ran on."""
        return self._get(f"/v1/curves/{curve_id}", CurveDetails)

    def curves(self, model: str | None = None, board: str | None = None) -> pandas.DataFrame:
        """One row for each measured unit of each stored curve, and for each of its counts in between, the oldest
        curve first.

        ``part`` says what was timed (``model``: the curve itself), ``tokens`` → ``kept``; ``source`` whether it was
        ``measured`` or ``inferred`` from its neighbours; ``quiet_ns`` is the low quantile that plans rest on, with its
        interval; ``p50_ns``, ``p90_ns``, ``p99_ns`` are typical times of what was measured; ``energy_mj`` is of one
        call. Latencies of rows with ``board_kind`` ``virtual`` are modelled, not measured.
        """
        return self._curve_table("/v1/curves/points", POINT_COLUMNS, model, board)

    def treads(self, model: str | None = None, board: str | None = None) -> pandas.DataFrame:
        """One row for each stretch of counts without a step, both ends included; ``quiet_ns`` is at its last count."""
        return self._curve_table("/v1/curves/treads", TREAD_COLUMNS, model, board)

    def cliffs(self, model: str | None = None, board: str | None = None) -> pandas.DataFrame:
        """One row for each step between the counts ``from_tokens`` and ``to_tokens``, with its height and confidence;
        where not ``upwards``, more tokens are faster."""
        return self._curve_table("/v1/curves/cliffs", CLIFF_COLUMNS, model, board)

    def rounds(self, model: str | None = None, board: str | None = None) -> pandas.DataFrame:
        """One row for each round of each curve, as it was judged: ``factor`` says how much slower than the quietest it
        was, ``disturbed`` whether its blocks are left out, ``reason`` why."""
        return self._curve_table("/v1/curves/rounds", ROUND_COLUMNS, model, board)

    def samples(self, curve_id: int) -> pandas.DataFrame:
        """One row for each timed call of a curve's sweep in the order of arrival, nothing left out.

        ``call`` counts within a block (one unit in one round); what is known of the block stands in each of its rows.
        A block without a time (``status`` ``oom``) has one row.
        """
        frame = self._columns(f"/v1/curves/{curve_id}/samples", SAMPLE_COLUMNS, {})
        frame = frame.explode("call_ns", ignore_index=False)
        frame.insert(list(frame.columns).index("call_ns"), "call", frame.groupby(level=0).cumcount())
        return _with_numbers(frame.reset_index(drop=True))

    def true_curve(self, curve_id: int) -> pandas.DataFrame:
        """One row for each count of a virtual board's curve: what its latency is without noise. Of a real board nobody
        knows; it is refused."""
        return _with_numbers(self._columns(f"/v1/curves/{curve_id}/truth", TRUE_COLUMNS, {}))

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
        return self._get(f"/v1/campaigns/{part_of_path(campaign)}", CampaignStatus)

    def cancel(self, campaign: str) -> CampaignStatus:
        """Stop a campaign; what was measured stays."""
        return self._post(f"/v1/campaigns/{part_of_path(campaign)}/cancel", None, CampaignStatus)

    def report(self, campaign: str) -> CampaignReport:
        """What was planned, and what the boards measured of it; may be asked for before the campaign has ended."""
        return self._get(f"/v1/campaigns/{part_of_path(campaign)}/report", CampaignReport)

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
        return self._get(f"/v1/jobs/{part_of_path(job)}", JobDetails)

    def job_log(self, job: str, attempt: int | None = None) -> JobLog:
        """The end of what the measured child said in an attempt of a job, by default the last; while it runs, too."""
        return self._get(
            f"/v1/jobs/{part_of_path(job)}/log", JobLog, {} if attempt is None else {"attempt": str(attempt)}
        )

    def cancel_job(self, job: str) -> JobDetails:
        """Cancel a job: one that waits is over at once, one that is measured stops before its next count. What it
        measured stays."""
        return self._post(f"/v1/jobs/{part_of_path(job)}/cancel", None, JobDetails)

    def schedules(
        self, board: str | None = None, model: str | None = None, campaign: str | None = None
    ) -> pandas.DataFrame:
        """One row for each schedule that was planned, chosen or as a contender, board and campaign, and for each added
        one that no campaign planned, with these left empty; ``keep`` is a list of counts as JSON."""
        wanted = {"board": board, "model": model, "campaign": campaign}
        return _with_times(self._columns("/v1/schedules", SCHEDULE_COLUMNS, wanted), "planned_at")

    def schedule(self, digest: str) -> Schedule:
        """The schedule whose digest begins so."""
        return self._get(f"/v1/schedules/{part_of_path(digest)}", Schedule)

    def add_schedule(self, schedule: Schedule) -> str:
        """Keep a schedule for a model that the coordinator knows; its digest. Adding it twice does nothing."""
        return self._post("/v1/schedules", AddSchedule(schedule), AddedSchedule).digest

    def ship_schedule(self, digest: str, boards: Sequence[str]) -> pandas.DataFrame:
        """Queue a schedule for boards, which fetch it themselves; how it stands there, as ``shipments`` tells it."""
        return _shipments(self._post("/v1/shipments", ShipRequest(digest, list(boards)), Columns))

    def shipments(
        self, board: str | None = None, model: str | None = None, digest: str | None = None
    ) -> pandas.DataFrame:
        """One row for each schedule and board that it was shipped to: how far it has come, and what it was planned on.

        ``state`` is queued, refused, delivered, verified, replaced or stale; ``reason`` says why it is refused or
        stale, ``renew`` is the command that mends a stale one.
        """
        wanted = {"board": board, "model": model, "digest": digest}
        return _shipments(
            self._get("/v1/shipments", Columns, {key: value for key, value in wanted.items() if value is not None})
        )

    def pull_schedule(self, digest: str, path: str | Path) -> Schedule:
        """Write the schedule whose digest begins so to ``path``, for ``tailfleet_reduce.load_schedule``; the schedule.

        Raises ``InputError`` where that cannot be written; what lay there stays then.
        """
        path, schedule = Path(path), self.schedule(digest)
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            draft.write_text(codec.dumps(schedule) + "\n")
            draft.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
        return schedule

    def _curve_table(self, path: str, names: tuple[str, ...], model: str | None, board: str | None) -> pandas.DataFrame:
        frame = _with_numbers(self._columns(path, names, {"model": model, "board": board}))
        return _with_times(frame, "measured_at") if "measured_at" in names else frame

    def _columns(self, path: str, names: tuple[str, ...], wanted: Mapping[str, str | None]) -> pandas.DataFrame:
        table = self._get(path, Columns, {key: value for key, value in wanted.items() if value is not None})
        return pandas.DataFrame({name: table.columns.get(name, []) for name in names}, columns=list(names))


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


def _tokens(answer: Tokens) -> pandas.DataFrame:
    rows = [[getattr(token, column) for column in TOKEN_COLUMNS] for token in answer.tokens]
    return _with_times(pandas.DataFrame(rows, columns=list(TOKEN_COLUMNS)), "created_at", "revoked_at")


def _shipments(answer: Columns) -> pandas.DataFrame:
    # As they are: what is missing of one row must not make floats of another's numbers.
    frame = pandas.DataFrame({name: answer.columns.get(name, []) for name in SHIPMENT_COLUMNS}, dtype=object)
    return _with_times(frame, "queued_at", "delivered_at", "verified_at")


def _with_times(frame: pandas.DataFrame, *names: str) -> pandas.DataFrame:
    for name in names:
        frame[name] = pandas.to_datetime(frame[name], utc=True, format="ISO8601")
    return frame


def _with_numbers(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Times, energies and bytes as floats, also where all of them are missing: NaN."""
    names = [name for name in frame.columns if name.endswith(("_ns", "_mj", "_bytes"))]
    return frame.astype(dict.fromkeys(names, "Float64")).astype(dict.fromkeys(names, "float64"))
