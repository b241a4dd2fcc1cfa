"""The TCP ports of the Ray that a coordinator starts: one block of a range that a firewall can name.

Ray listens on all interfaces whatever address it is told. Several coordinators on a machine take a block each; a block
is held by the name of an abstract socket, which the kernel frees with the process. Starting Ray is left to ``own_ray``.
"""

import contextlib
import errno
import importlib.util
import socket
from collections.abc import Iterator

FIRST = 20765
"""Below the ports that Linux gives to clients (from 32768), so that no connection lies in the way."""

BLOCK = 256
"""Ports of one Ray: eight with a purpose, and one for each worker process: about as many as cores and actors."""

BLOCKS = 16

_FIXED = (
    "--port",
    "--node-manager-port",
    "--object-manager-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
    "--metrics-export-port",
)


class PortsTaken(Exception):
    """No block is free; the message is one sentence."""


def options(first: int) -> list[str]:
    """What ``ray start --head`` is told, so that it and its processes listen on the block from ``first`` on alone."""
    fixed = [f"{name}={first + offset}" for offset, name in enumerate(_FIXED)]
    if importlib.util.find_spec("grpc") is not None:
        # Where the extra ray[client] is installed, Ray serves its clients too, and cannot be told not to.
        fixed.append(f"--ray-client-server-port={first + len(_FIXED)}")
    return [*fixed, f"--min-worker-port={first + len(_FIXED) + 1}", f"--max-worker-port={first + BLOCK - 1}"]


@contextlib.contextmanager
def take(first: int | None) -> Iterator[int]:
    """Hold the block that begins at ``first``, or (None) the first free one of the range; its first port.

    Raises ``PortsTaken``.
    """
    begins = [FIRST + number * BLOCK for number in range(BLOCKS)] if first is None else [first]
    for begin in begins:
        with contextlib.ExitStack() as stack:
            if not held(stack, f"tailfleet-ray-ports-{begin}"):
                continue
            used = next((port for port in range(begin, begin + BLOCK) if not _free(port)), None)
            if used is None:
                yield begin
                return
    if first is None:
        raise PortsTaken(f"no {BLOCK} ports for Ray are free between {FIRST} and {FIRST + BLOCKS * BLOCK - 1}")
    raise PortsTaken(f"the ports {first} to {first + BLOCK - 1}, which Ray is to use, are not all free")


def held(stack: contextlib.ExitStack, name: str) -> bool:
    """Whether the machine-wide name is ours now; it is let go with ``stack``, or with the process."""
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holder.bind(f"\0{name}")
    except OSError as error:
        holder.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    stack.enter_context(holder)
    return True


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Ray's own sockets do: connections that have ended do not count, listeners do.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
