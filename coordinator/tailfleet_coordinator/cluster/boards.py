"""Enrols the machines of the Ray cluster that carry a ``tailfleet_board`` resource: one keeper actor on each.

Such a machine is measured, so its keeper takes all its cores and no task disturbs it; on the coordinator's own machine
it takes none, since the gate in the database decides there. The agent and its subprocess are left to ``keeper``.
"""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from tailfleet_coordinator.cluster.keeper import BoardKeeper, BoardLook, BoardOrder, BoardState
from tailfleet_coordinator.cluster.nodes import BOARD
from tailfleet_coordinator.cluster.reconciler import evict
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.refusals import NameTaken

CLOSE_SECONDS = 15.0

log = logging.getLogger("tailfleet.boards")


@dataclass
class Kept:
    """A board's keeper and its look that is under way; no keeper where the board was left alone."""

    machine: tuple[str, str]
    """Host name and address."""
    board: str
    keeper: Any = None
    look: Any = None
    told: str = ""
    """The last trouble that was logged, so that it is logged once."""


class BoardReconciler:
    """Needs a process that is connected to a Ray cluster. ``promise`` makes an enrolment token for a name, and raises
    ``NameTaken``; ``order`` is what all keepers have in common."""

    def __init__(self, store: Store, namespace: str, order: BoardOrder, promise: Callable[[str], str]) -> None:
        import ray

        self._ray: Any = ray
        self._store = store
        self._namespace = namespace
        self._order = order
        self._promise = promise
        self._kept: dict[str, Kept] = {}

    def reconcile(self) -> None:
        """One look at which machines are boards and how these are. Raises ``Deposed`` as ``Store`` does."""
        nodes = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"] and BOARD in node["Resources"]}
        for node_id in set(self._kept) - set(nodes):
            self._drop(node_id)
        for node_id, node in sorted(nodes.items(), key=lambda item: (item[1]["NodeManagerAddress"], item[0])):
            machine = (node["NodeManagerHostname"], node["NodeManagerAddress"])
            if node_id not in self._kept and machine not in [kept.machine for kept in self._kept.values()]:
                # A machine whose Ray was started again is there twice until the cluster has missed the old one.
                name = board_name(*machine, [kept.board for kept in self._kept.values()])
                self._kept[node_id] = self._start(node_id, machine, name, node["Resources"])
            if node_id in self._kept:
                self._attend(node_id)

    def stop(self) -> None:
        """End all keepers and their agents. The boards stay enrolled."""
        closing = [kept.keeper.close.remote() for kept in self._kept.values() if kept.keeper is not None]
        if closing:
            self._ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for node_id in list(self._kept):
            self._drop(node_id)

    def _start(self, node_id: str, machine: tuple[str, str], board: str, resources: dict[str, float]) -> Kept:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # The keeper of that name may belong to who has taken over.
        self._store.check_leadership()
        name = f"board-{node_id}"
        evict(name, self._namespace)
        here = node_id == self._ray.get_runtime_context().get_node_id()
        options = {
            "name": name,
            "namespace": self._namespace,
            "num_cpus": 0 if here else resources.get("CPU", 0),
            "resources": {BOARD: resources[BOARD]},
            "max_restarts": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
        }
        keeper = self._ray.remote(**options)(BoardKeeper).remote(replace(self._order, board=board))
        return Kept(machine, board, keeper, keeper.keep.remote())

    def _attend(self, node_id: str) -> None:
        kept = self._kept[node_id]
        if kept.keeper is None or not self._ray.wait([kept.look], timeout=0)[0]:
            return
        try:
            look: BoardLook = self._ray.get(kept.look)
        except self._ray.exceptions.RayError as error:
            log.warning("the keeper of board %s died (%s); replacing it", kept.board, type(error).__name__)
            self._drop(node_id)
            return
        token = None
        if look.state is BoardState.WANTS_TOKEN:
            try:
                token = self._promise(kept.board)
            except NameTaken as error:
                self._say(kept, f"{error.sentence}, but not from the Ray cluster's machine of that name")
                self._leave_alone(kept)
                return
            log.info("enrolling board %s, a machine of the Ray cluster", kept.board)
        elif look.state is BoardState.RUNS:
            kept.told = ""
        else:
            self._say(kept, f"its agent {look.state.value}: {look.words}")
        kept.look = kept.keeper.keep.remote(token)

    def _say(self, kept: Kept, trouble: str) -> None:
        if kept.told != trouble:
            log.warning("board %s: %s", kept.board, trouble)
            kept.told = trouble

    def _leave_alone(self, kept: Kept) -> None:
        self._ray.kill(kept.keeper)
        kept.keeper = kept.look = None

    def _drop(self, node_id: str) -> None:
        kept = self._kept.pop(node_id)
        if kept.keeper is not None:
            # Its agent dies with it.
            self._ray.kill(kept.keeper)


def board_name(hostname: str, address: str, taken: Iterable[str]) -> str:
    """A board's name for a machine: its host name as far as it can be one, with the address where that is taken."""
    name = _plain(hostname)[:63] or "ray-node"
    return name if name not in set(taken) else f"{name[:23]}-{_plain(address)}"[:63]


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")
