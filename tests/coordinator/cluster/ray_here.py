"""Real Rays for tests: this process connected to one, further local nodes, and what their processes listen on."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tailfleet_coordinator.cluster import ray_runtime
from tailfleet_coordinator.cluster.own_ray import die_with_parent
from tailfleet_coordinator.cluster.reconciler import Reconciler

PATIENCE_SECONDS = 120.0


@contextlib.contextmanager
def undisturbed():
    """Ray changes handlers and variables of the process that it is used in; afterwards they are as before."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    environment = dict(os.environ)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)


@contextlib.contextmanager
def connected(settings):
    with undisturbed(), ray_runtime.connected(settings):
        yield


def until(what, look):
    """The first true answer of ``look``, which is asked again and again, up to a deadline."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        answer = look()
        if answer:
            return answer
        # Not oftener: who looks takes time from who works.
        time.sleep(0.02)
    raise AssertionError(f"not in time: {what}")


@contextlib.contextmanager
def node(address, *options, **environment):
    """One more node on this machine, in a session of its own; its id."""
    import ray

    before = {known["NodeID"] for known in ray.nodes()}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", "--block", *options]
    process = subprocess.Popen(
        [*command, "--object-store-memory=80000000", "--disable-usage-stats"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        (joined,) = until("the node joins", lambda: {n["NodeID"] for n in ray.nodes()} - before)
        yield joined
    finally:
        # It takes leave; a node that is only killed counts as alive for half a minute.
        process.terminate()
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    until("the node leaves", lambda: not [n for n in ray.nodes() if n["NodeID"] == joined and n["Alive"]])


def actors(namespace):
    """Campaign actors of a namespace as the cluster's control service lists them: name, state, node."""
    import ray
    from ray.core.generated import gcs_pb2

    accessor = ray._private.state.state._connect_and_get_accessor()
    listed = [gcs_pb2.ActorTableData.FromString(row) for row in accessor.get_actor_table(None, None)]
    return [
        (actor.name, gcs_pb2.ActorTableData.ActorState.Name(actor.state), actor.address.node_id.hex())
        for actor in listed
        if actor.ray_namespace == namespace and actor.name.startswith("campaign-")
    ]


class Watched(Reconciler):
    """A reconciler that, at each look, sees how many actors of each campaign live."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.most = 0

    def reconcile(self):
        super().reconcile()
        live = [name for name, state, _ in actors(self._surroundings.namespace) if state != "DEAD"]
        self.most = max([self.most, *(live.count(name) for name in live)])


def listening(pids):
    """(port, address) of every TCP socket on which one of the processes listens."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                target = os.readlink(entry)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    found = set()
    for family, table in ((socket.AF_INET, "/proc/net/tcp"), (socket.AF_INET6, "/proc/net/tcp6")):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                raw = bytes.fromhex(address)
                words = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
                found.add((int(port, 16), socket.inet_ntop(family, words)))
    return found
