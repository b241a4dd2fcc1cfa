"""The campaign actor: one driver in a process of its own, so that a coordinator full of requests does not slow it.

It may be killed at any moment: a new one reads the rows and goes on. It opens the database itself and therefore
stays on the coordinator's machine. It acts only when it is asked to look.
"""

import logging
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tailfleet_coordinator.cluster.artifact_api import ArtifactApi
from tailfleet_coordinator.cluster.driver import Driver
from tailfleet_coordinator.cluster.ray_runtime import NAMESPACE
from tailfleet_coordinator.cluster.tasks import RayTasks
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.refusals import Deposed

log = logging.getLogger("tailfleet.campaign")


@dataclass(frozen=True)
class Surroundings:
    """What an actor needs to know of the coordinator.

    It travels through the cluster, which must not learn the database's address: that lies in a file which only the
    coordinator's owner can read.
    """

    database_file: str
    namespace: str
    """Where in the cluster the actors live; see :func:`namespace_of`."""
    artifact_api: ArtifactApi
    machine_id: str
    claimable_seconds: float
    epoch: int | None = None
    """The coordinator's, under which the actor writes: one of a coordinator that was replaced cannot."""


def namespace_of(database_url: str, machine_id: str) -> str:
    """Where in a cluster the actors of this database live, so that two coordinators on one do not meet."""
    url = urlsplit(database_url)
    # A file is one only on its machine; a server's password is not what tells two databases apart.
    place = f"{url.hostname}:{url.port}" if url.hostname else machine_id
    return f"{NAMESPACE}-{sha256(f'{place}{url.path}'.encode()).hexdigest()[:12]}"


class CampaignActor:
    """Drives one campaign; made an actor by ``reconciler``."""

    def __init__(self, campaign_id: str, surroundings: Surroundings) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._driver = Driver(
            Store(Path(surroundings.database_file).read_text(), surroundings.epoch),
            RayTasks(surroundings.artifact_api),
            campaign_id,
            surroundings.machine_id,
            surroundings.claimable_seconds,
        )

    def advance(self) -> bool:
        """One look at the campaign; whether it still runs. The actor ends where its coordinator was deposed."""
        try:
            return self._driver.advance()
        except Deposed as error:
            import ray

            log.warning("%s", error.sentence)
            end_actor: Any = ray.actor.exit_actor
            end_actor()
            raise
