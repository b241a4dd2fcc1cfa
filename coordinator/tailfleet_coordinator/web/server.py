"""``tailfleet up``: puts the coordinator together, says when it is ready, and takes it apart again.

Blocks until SIGTERM or SIGINT. Prints nothing; it logs. Everything that lasts is in the state folder.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import uvicorn

from tailfleet_coordinator import agent_bundle, bundled, host
from tailfleet_coordinator.artifacts import Artifacts
from tailfleet_coordinator.curves import CurveReader
from tailfleet_coordinator.db import migrate
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.leadership import Leadership
from tailfleet_coordinator.refusals import TokenRefused
from tailfleet_coordinator.settings import Settings
from tailfleet_coordinator.tls import Certificate, read_certificate
from tailfleet_coordinator.web.access import hashed, new_token
from tailfleet_coordinator.web.api import create_app
from tailfleet_coordinator.web.context import Context
from tailfleet_coordinator.web.enrolment import clear_warning, local_url, loopback_warning, public_url
from tailfleet_coordinator.web.tokens import LOCAL_TOKEN
from tailfleet_schema.errors import ConfigurationError

log = logging.getLogger("tailfleet")

TASK_TOKEN = "ray-tasks"

PROMISE_SECONDS = 900.0
"""A machine of the Ray cluster imports torch once before it enrols."""

GOODBYE_SECONDS = 5
"""Requests under way get so long to end."""


def serve(settings: Settings) -> None:
    """Run a coordinator until it is told to stop.

    Raises ``ConfigurationError`` for what keeps it from starting, ``LabError`` where it lost its hold on the database.
    """
    # Imported here: Ray reads its environment when it is imported, and reading the database needs no Ray.
    from tailfleet_coordinator.cluster import ray_runtime
    from tailfleet_coordinator.cluster.artifact_api import ArtifactApi
    from tailfleet_coordinator.cluster.boards import BoardReconciler
    from tailfleet_coordinator.cluster.campaign import Surroundings, namespace_of
    from tailfleet_coordinator.cluster.keeper import BoardOrder
    from tailfleet_coordinator.cluster.reconciler import Part, Reconciler, keep_reconciling

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    certificate = read_certificate(settings)
    with contextlib.ExitStack() as stack:
        state_dir = settings.state_dir.expanduser()
        place = stack.enter_context(_alone(state_dir))
        machine = host.machine_id()
        migrate.prepare(settings.url)
        store = stack.enter_context(contextlib.closing(Store(settings.url)))
        leadership = Leadership(store, settings.leadership_seconds)
        epoch = leadership.take(
            f"{socket.gethostname()}, process {os.getpid()}, state folder {state_dir}", f"{machine}-{place}"
        )
        stack.callback(leadership.end)
        stack.enter_context(_in_thread(leadership.run, "leadership"))
        artifacts = Artifacts(settings.artifacts_dir)
        artifacts.discard_drafts()
        register_bundled(store, artifacts)
        listener = stack.enter_context(_listener(settings.host, settings.port))
        port = listener.getsockname()[1]
        https = certificate is not None
        url = public_url(settings.host, port, settings.public_url, https)
        in_the_clear = clear_warning(url)
        if in_the_clear is not None:
            log.warning("%s", in_the_clear)
        warning = loopback_warning(url, port, https) or in_the_clear
        context = Context(settings, store, artifacts, agent_bundle.build(), CurveReader(store), url, warning)
        token = _operator_token(store, settings.ready_file)
        settings.ready_file.unlink(missing_ok=True)
        # Tasks reach the coordinator as programs of this machine do, or, from a cluster's other machines, as boards do.
        ready = {"url": local_url(settings.host, port, https), "token": token}
        if certificate is not None:
            ready |= for_programs_here(certificate, ready["url"], url)
        stack.enter_context(ray_runtime.connected(settings))
        reach = url if settings.ray_address is not None else ready["url"]
        ca = None if certificate is None else certificates_of(certificate.file)
        folders = {name: str(folder) for name, folder in settings.dataset_folders.items()}
        artifact_api = ArtifactApi(reach, task_token(store), ca, dataset_folders=folders)
        write_private(settings.database_file, settings.url)
        stack.callback(settings.database_file.unlink, missing_ok=True)
        surroundings = Surroundings(
            str(settings.database_file), namespace_of(settings.url, machine), artifact_api, machine,
            settings.claimable_seconds, epoch,
        )  # fmt: skip
        parts: list[Part] = [Reconciler(store, surroundings)]
        if settings.ray_address is not None:
            order = BoardOrder("", reach, surroundings.namespace, context.agent.content, ca)
            parts.append(BoardReconciler(store, surroundings.namespace, order, partial(promise_board, store)))
        stack.enter_context(_in_thread(keep_reconciling(parts, settings.step_seconds), "reconciler"))
        _Server(context, settings.ready_file, ready, leadership, certificate).run([listener])
        log.info("stopping")
    if leadership.lost is not None:
        raise leadership.lost


def register_bundled(store: Store, artifacts: Artifacts) -> None:
    """Make the models and images that come with tailfleet known, by content address."""
    artifacts.put(bundled.checkpoint_bytes())
    for dataset, content in bundled.datasets():
        artifacts.put(content)
        store.put_dataset(dataset)
    for model in bundled.models():
        store.put_model(model)


class _Server(uvicorn.Server):
    """uvicorn, but it says when it is ready, ends when the database is lost to it, lets waiting boards go when it ends,
    and leaves signals to its caller."""

    def __init__(
        self,
        context: Context,
        ready_file: Path,
        ready: dict[str, str],
        leadership: Leadership,
        certificate: Certificate | None,
    ) -> None:
        app = create_app(context)
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=GOODBYE_SECONDS,
                ssl_context_factory=None if certificate is None else lambda config, default: certificate.context,
            )
        )
        self._let_go = app.state.let_go
        self._ready_file = ready_file
        self._ready = ready
        self._leadership = leadership

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await asyncio.to_thread(write_private, self._ready_file, json.dumps(self._ready) + "\n")
        log.info("listening at %s", self._ready["url"])

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._leadership.lost is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._let_go()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal once more at its end, which would skip all that is to be ended after it.
        def stop(number: int, frame: FrameType | None) -> None:
            self.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        yield


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, readable by its owner alone; whoever looks sees the old or the new one."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(draft, path)


def for_programs_here(certificate: Certificate, url: str, public: str) -> dict[str, str]:
    """What programs on this machine need beyond the token: whom to trust, and by which address."""
    refused = certificate.refused_as(urlsplit(public).hostname or "")
    if refused is not None:
        log.warning("boards that are told %s will refuse the certificate: %s", public, refused.verify_message)
    covered = certificate.covers(urlsplit(url).hostname or "")
    return {"url": url if covered else public, "ca": str(certificate.file.resolve())}


def _operator_token(store: Store, ready_file: Path) -> str:
    """The token that the last start left, if it still opens the door; else a new one, and the old is void."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, TokenRefused):
        token = str(json.loads(ready_file.read_text())["token"])
        caller = store.find_caller(hashed(token))
        if caller is not None and (caller.role, caller.name) == ("operator", LOCAL_TOKEN):
            return token
    token = new_token("operator")
    store.replace_token(LOCAL_TOKEN, "operator", hashed(token))
    return token


def certificates_of(file: Path) -> str:
    """The certificates in a PEM file, without the key that may lie beside them: what other machines are given."""
    return "".join(re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", file.read_text(), re.S))


def task_token(store: Store) -> str:
    """A new token with which Ray's tasks fetch images and weights; that of the last start is void."""
    token = new_token("viewer")
    store.replace_token(TASK_TOKEN, "viewer", hashed(token))
    return token


def promise_board(store: Store, board: str) -> str:
    """A token with which a machine of the Ray cluster enrols as ``board``. Raises ``NameTaken``."""
    token = new_token("enrol")
    store.create_enrolment(board, None, hashed(token), PROMISE_SECONDS)
    return token


@contextlib.contextmanager
def _alone(state_dir: Path) -> Iterator[str]:
    """Keep the state folder for this process; a key of this very folder, which a copy of it does not have.

    Who got this far with the same key before is dead. Raises ``ConfigurationError`` where another coordinator has it.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (state_dir / "coordinator.lock").open("a+")
    except OSError as error:
        raise ConfigurationError(
            f"the state folder {state_dir} cannot be used: {error.strerror}", "name another one with --state"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"another coordinator already runs on {state_dir}", "stop it, or name another folder with --state"
            ) from None
        lock.seek(0)
        name = lock.read().strip()
        if not re.fullmatch("[0-9a-f]{32}", name):
            name = secrets.token_hex(16)
            lock.truncate(0)
            lock.write(name)
            lock.flush()
        file = os.fstat(lock.fileno())
        yield f"{name}-{file.st_dev:x}-{file.st_ino:x}"


@contextlib.contextmanager
def _listener(address: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # Without the protocol asyncio does not switch Nagle's algorithm off, and every answer takes 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {address} port {port}: {error.strerror or error}",
                "name another one with --host and --port",
            ) from error
        yield listener


@contextlib.contextmanager
def _in_thread(run: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Run ``run`` beside the block, until its event is set at the block's end."""
    stopping = threading.Event()
    thread = threading.Thread(target=run, args=(stopping,), name=name)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
