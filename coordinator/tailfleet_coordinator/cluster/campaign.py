"""The campaign actor: one driver in a process of its own, so that a coordinator full of requests does not slow it.

It may be killed at any moment: a new one reads the rows and goes on. It opens the database itself and therefore
stays on the coordinator's machine.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from tailfleet_coordinator.artifacts import Artifacts
from tailfleet_coordinator.cluster.driver import Driver
from tailfleet_coordinator.cluster.tasks import RayTasks
from tailfleet_coordinator.db.store import Store


@dataclass(frozen=True)
class Surroundings:
    """What an actor needs to know of the coordinator."""

    database_url: str
    artifacts_dir: str
    machine_id: str
    claimable_seconds: float
    epoch: int | None = None
    """The coordinator's; an actor that outlives it can no longer write. None: unfenced."""


class CampaignActor:
    """Drives one campaign; made an actor by ``reconciler``."""

    def __init__(self, campaign_id: str, surroundings: Surroundings) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._driver = Driver(
            Store(surroundings.database_url, surroundings.epoch),
            Artifacts(Path(surroundings.artifacts_dir)),
            RayTasks(),
            campaign_id,
            surroundings.machine_id,
            surroundings.claimable_seconds,
        )

    def advance(self) -> bool:
        """One look at the campaign; whether it still runs."""
        return self._driver.advance()
