"""This process's connection to Ray: to one of its own, which ends with it, or to an existing cluster.

Ray listens on every interface whatever it is told. A Ray of our own lets nobody in without the token in the state
folder; for a cluster of others the environment's ``RAY_AUTH_*`` counts, as for any program that uses it.
"""

import contextlib
import logging
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from tailfleet_coordinator.cluster import ray_ports
from tailfleet_coordinator.cluster.own_ray import Order, OwnRay
from tailfleet_coordinator.settings import Settings
from tailfleet_schema.errors import ConfigurationError

OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Samples and plans pass through it; the least that Ray accepts is 75 MB."""

NAMESPACE = "tailfleet"

START_SECONDS = 120.0
"""Ray takes five seconds to start, and many times that on a small machine under load."""

REACH_SECONDS = 5.0

TOKEN_MEND = "give this process the cluster's token: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"

log = logging.getLogger("tailfleet.ray")


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[None]:
    """Be connected to Ray within the block. Enter it in the main thread: that one's end is what ends a Ray of our own
    that is left behind. Raises ``ConfigurationError``.
    """
    with contextlib.ExitStack() as stack:
        if settings.ray_address is None:
            own = _start_own(settings)
            stack.callback(own.stop)
            address = f"127.0.0.1:{own.port}"
            _until_started(own, lambda: _init(address))
            last = own.port + ray_ports.BLOCK - 1
            log.info("Ray listens on ports %d to %d of all interfaces: close them to other machines", own.port, last)
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                _reach(settings.ray_address)
                _init(settings.ray_address)
            except _ray_errors() as error:
                raise ConfigurationError(
                    f"Ray at {settings.ray_address} cannot be used: {_sentence(error)}",
                    "--ray-address wants host:port of a cluster of the same Ray that this machine is a node of",
                ) from error
        import ray

        stack.callback(ray.shutdown)
        yield


def session_dir(state_dir: Path) -> Path:
    """Where Ray keeps sockets and logs: one short path for each state folder, since a socket's path may have no more
    than 107 characters."""
    name = sha256(str(state_dir.expanduser().resolve()).encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"tailfleet-ray-{os.getuid()}-{name}"


def _start_own(settings: Settings) -> OwnRay:
    require_token(settings)
    # A task may look at its environment, and none is to learn where the database is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAILFLEET_")}
    order = Order(str(session_dir(settings.state_dir)), settings.ray_ports, settings.ray_cpus, OBJECT_STORE_BYTES)
    return OwnRay(order, environment)


def _until_started(own: OwnRay, connect: Callable[[], None]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        problem = "it does not listen"
        if _listens("127.0.0.1", own.port):
            try:
                connect()
                return
            except _ray_errors() as error:
                problem = _sentence(error)
        if not own.runs or time.monotonic() > deadline:
            words = problem if own.runs else own.last_words()
            own.stop()
            raise ConfigurationError(f"Ray on this machine does not start: {words}", "see the coordinator's log")
        time.sleep(0.05)


def _init(address: str) -> None:
    import ray

    ray.init(address=address, configure_logging=False, log_to_driver=False, namespace=NAMESPACE)


def _reach(address: str) -> None:
    """Raise ``ConfigurationError`` at once for what ``ray.init`` would try again for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(f"{address!r} is no address of a Ray cluster", "--ray-address HOST:PORT")
    if not _listens(host.strip("[]"), int(port)):
        raise ConfigurationError(
            f"nothing answers at {address}", "start the cluster, or leave --ray-address out to have one started"
        )
    import ray

    raylet: Any = ray._raylet
    try:
        raylet.GcsClient(address=address)
    except ray.exceptions.AuthenticationError as error:
        raise ConfigurationError(f"the Ray cluster at {address} refuses this process's token", TOKEN_MEND) from error


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), REACH_SECONDS).close()
    except OSError:
        return False
    return True


def _ray_errors() -> tuple[type[Exception], ...]:
    import ray

    return (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError)


def _sentence(error: Exception) -> str:
    """What Ray says, on one line: its sentences begin with a heading of their own line."""
    words = " ".join(str(error).split())
    return words[:300] or type(error).__name__


def require_token(settings: Settings) -> None:
    """Let Ray's processes speak with who has the token in the state folder, and with nobody else."""
    path = settings.state_dir.expanduser() / "ray.token"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path.resolve())
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if "ray" in sys.modules:
        # Ray reads these once, when it is imported.
        raylet: Any = sys.modules["ray._raylet"]
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
