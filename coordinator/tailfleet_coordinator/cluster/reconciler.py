"""Keeps exactly one live actor for each running campaign, and lets each take one look after another.

Runs in a thread of the coordinator. What runs is read from the database each time; what is dead is replaced; what an
earlier coordinator left on the same cluster is ended first.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tailfleet_coordinator.cluster.campaign import CampaignActor, Surroundings
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.refusals import Deposed
from tailfleet_schema.campaign import CampaignState
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure

HUNG_SECONDS = 300.0
"""An actor whose look takes longer is taken for hung, and replaced."""

ERRORS = 10
"""A campaign whose looks fail so often in a row is failed: it meets a bug that trying again does not mend."""

log = logging.getLogger("tailfleet.campaign")


@dataclass
class Driven:
    """A campaign's actor and its look that is under way."""

    actor: Any
    look: Any
    since: float


class Reconciler:
    """Needs a process that is connected to a Ray cluster."""

    def __init__(self, store: Store, surroundings: Surroundings) -> None:
        import ray

        self._ray: Any = ray
        self._store = store
        self._surroundings = surroundings
        self._driven: dict[str, Driven] = {}
        self._errors: dict[str, int] = {}

    def reconcile(self) -> None:
        """One look at what should run and what does. Raises ``Deposed`` where another coordinator has taken over."""
        running = self._store.list_running_campaigns()
        for campaign_id in set(self._driven) - set(running):
            self._drop(campaign_id)
        for campaign_id in running:
            self._drive(campaign_id)

    def stop(self) -> None:
        """End all actors. The campaigns stay as they are."""
        for campaign_id in list(self._driven):
            self._drop(campaign_id)

    def _drive(self, campaign_id: str) -> None:
        driven = self._driven.get(campaign_id)
        if driven is None:
            actor = self._start(campaign_id)
            self._driven[campaign_id] = Driven(actor, actor.advance.remote(), time.monotonic())
            return
        if not self._ray.wait([driven.look], timeout=0)[0]:
            if time.monotonic() - driven.since > HUNG_SECONDS:
                log.warning("the actor of campaign %s is hung; replacing it", campaign_id)
                self._drop(campaign_id)
            return
        try:
            self._ray.get(driven.look)
        except self._ray.exceptions.RayTaskError as error:
            log.error("campaign %s: %s", campaign_id, error)
            self._count_error(campaign_id, error)
        except self._ray.exceptions.RayError as error:
            log.warning("the actor of campaign %s died (%s); replacing it", campaign_id, type(error).__name__)
            self._drop(campaign_id)
            return
        else:
            self._errors.pop(campaign_id, None)
        self._driven[campaign_id] = Driven(driven.actor, driven.actor.advance.remote(), time.monotonic())

    def _start(self, campaign_id: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # The actor of that name may belong to who has taken over.
        self._store.check_leadership()
        name = f"campaign-{campaign_id}"
        evict(name, self._surroundings.namespace)
        here = self._ray.get_runtime_context().get_node_id()
        options = {
            "name": name,
            "namespace": self._surroundings.namespace,
            # It waits most of the time; the tasks it starts are what takes cores.
            "num_cpus": 0,
            "max_restarts": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
        }
        return self._ray.remote(**options)(CampaignActor).remote(campaign_id, self._surroundings)

    def _drop(self, campaign_id: str) -> None:
        driven = self._driven.pop(campaign_id)
        # Also frees the name, which a dead actor may keep as long as someone holds a handle.
        self._ray.kill(driven.actor)

    def _count_error(self, campaign_id: str, error: Exception) -> None:
        self._errors[campaign_id] = self._errors.get(campaign_id, 0) + 1
        if self._errors[campaign_id] >= ERRORS:
            cause = Failure("driving the campaign failed again and again", Blame.BUG, str(error)[-4000:])
            self._store.end_campaign(campaign_id, CampaignState.FAILED, cause)


def evict(name: str, namespace: str) -> None:
    """End whatever goes by the name of an actor, alive or dead, so that the name is free."""
    import ray

    with contextlib.suppress(ValueError):
        # One of a coordinator that was killed lives until Ray has noticed, and a dead one keeps its name while
        # anybody holds a handle to it.
        ray.kill(ray.get_actor(name, namespace=namespace))


class Part(Protocol):
    """Something that is kept as rows say it should be."""

    def reconcile(self) -> None:
        """One look; does not wait."""

    def stop(self) -> None:
        """End what was started."""


def keep_reconciling(parts: Sequence[Part], step_seconds: float) -> Callable[[threading.Event], None]:
    """A function that lets ``parts`` reconcile until the event it is given is
    set, and then stops them. It ends early, and says so, where another coordinator has taken over."""

    def run(stopping: threading.Event) -> None:
        try:
            while not stopping.wait(step_seconds):
                for part in parts:
                    _reconcile(part)
        except Deposed as error:
            log.error("%s", error.sentence)
        finally:
            for part in parts:
                part.stop()

    return run


def _reconcile(part: Part) -> None:
    try:
        part.reconcile()
    except Deposed:
        raise
    except Exception:
        # The database may be locked or Ray restarting; the next look starts from rows again.
        log.exception("reconciling failed; trying again")
