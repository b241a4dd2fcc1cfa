"""What every request needs at hand: the store, the artifacts, the settings, and what was made of them at the start."""

from dataclasses import dataclass

from tailfleet_coordinator.agent_bundle import Bundle
from tailfleet_coordinator.artifacts import Artifacts
from tailfleet_coordinator.curves import CurveReader
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.settings import Settings


@dataclass(frozen=True)
class Context:
    """One running coordinator."""

    settings: Settings
    store: Store
    artifacts: Artifacts
    agent: Bundle
    curves: CurveReader
    public_url: str
    """Where boards are told to reach it."""
    warning: str | None = None
    """Why that address is of no use to other machines or not safe, where that is known."""
