"""Ray itself: started on this machine and ended with the coordinator, or an existing cluster that is joined.

Ray listens on every interface whatever it is told, so a cluster of our own lets nobody in without its token. Only
what was started here is ever ended here.
"""

import os
import secrets
import shutil
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from tailfleet_coordinator.settings import Settings
from tailfleet_schema.errors import ConfigurationError

OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Weights, images and samples pass through it one at a time; the least that Ray accepts is 75 MB."""

NAMESPACE = "tailfleet"


def start(settings: Settings) -> None:
    """Connect this process to Ray. Call once, from the main thread: Ray's processes die with the thread that started
    them, which is what ends them when the coordinator is killed. Raises ``ConfigurationError``.
    """
    if settings.ray_address is None:
        _require_token(settings)
    import ray

    quiet: dict[str, Any] = {"configure_logging": False, "log_to_driver": False, "namespace": NAMESPACE}
    try:
        if settings.ray_address is not None:
            ray.init(address=settings.ray_address, **quiet)
            return
        folder = session_dir(settings.state_dir)
        # Left behind by a coordinator that was killed; one alone uses this state folder.
        shutil.rmtree(folder, ignore_errors=True)
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=settings.ray_cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
            _node_ip_address="127.0.0.1",
            **quiet,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        where = f"at {settings.ray_address}" if settings.ray_address else "on this machine"
        lines = str(error).splitlines()
        raise ConfigurationError(
            f"Ray {where} cannot be used: {lines[0] if lines else type(error).__name__}",
            "see the coordinator's log; --ray-address wants host:port of a cluster of the same Ray",
        ) from error


def stop(settings: Settings) -> None:
    """Leave the cluster; end it where it was started here."""
    import ray

    ray.shutdown()
    if settings.ray_address is None:
        shutil.rmtree(session_dir(settings.state_dir), ignore_errors=True)


def session_dir(state_dir: Path) -> Path:
    """Where Ray keeps sockets and logs: one short path for each state folder, since a socket's path may have no more
    than 107 characters."""
    name = sha256(str(state_dir.expanduser().resolve()).encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"tailfleet-ray-{os.getuid()}-{name}"


def _require_token(settings: Settings) -> None:
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
