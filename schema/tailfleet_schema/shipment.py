"""Shipments: a schedule as it travels to a board, what it was planned on, and what the board answers.

The schedule travels as the very text that its digest is of, so that a board can hold one against the other before it
reads it, and can say what is wrong with one that it does not understand. Pure; files and requests are left to others.
"""

import hashlib
from dataclasses import dataclass
from typing import Optional

from tailfleet_schema import codec
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.limits import check_digest
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Geometry

REASON_LENGTH = 400
"""Characters of a refusal that are kept."""


@dataclass(frozen=True)
class PlannedOn:
    """What a schedule was planned on; all None but ``model_digest`` for one that a person made."""

    model_digest: str
    """Of the ``ModelSpec``: its weights, its shape, its preprocessing."""
    campaign: Optional[str] = None
    curve_id: Optional[int] = None
    dataset_sha256: Optional[str] = None
    """Together with ``model_digest`` the accuracy profile; None where the model has no images."""
    fingerprint: Optional[str] = None
    """Environment of the board when it was measured."""

    def __post_init__(self) -> None:
        check_digest("model_digest", self.model_digest)
        for path, value in (("dataset_sha256", self.dataset_sha256), ("fingerprint", self.fingerprint)):
            if value is not None:
                check_digest(path, value)


@dataclass(frozen=True)
class Shipment:
    """A schedule for one board; what is told of it beside ``schedule_json`` must be true of that."""

    digest: str
    """sha256 of ``schedule_json``, by which everybody names the schedule."""
    model: str
    geometry: Geometry
    """Of the model as the coordinator knows it now."""
    schedule_json: str
    verified: bool
    """Whether this board has measured it, and found that it does what was asked."""
    planned_on: PlannedOn

    def schedule(self) -> Schedule:
        """The schedule itself. Raises ``InputError`` where the text is not what its digest says, is no schedule that
        this release knows, or is for another model or token count."""
        check_digest("digest", self.digest)
        found = hashlib.sha256(self.schedule_json.encode("utf-8")).hexdigest()
        if found != self.digest:
            raise ScheduleError(
                "what arrived as schedule {} has the hash {}".format(self.digest[:12], found[:12]), "ship it again"
            )
        schedule = codec.loads(Schedule, self.schedule_json, "schedule")
        try:
            schedule.check_fits(self.model, self.geometry)
        except InputError as error:
            raise error.inside("schedule")
        return schedule


@dataclass(frozen=True)
class Receipt:
    """What a board did with a shipment."""

    digest: str
    verified: bool
    """As it was shipped: one that was shipped anew in the meantime is not meant."""
    refusal: Optional[str] = None
    """Why the board did not take it, in one sentence; None: it lies where the user's program finds it."""

    def __post_init__(self) -> None:
        check_digest("digest", self.digest)
        if self.refusal is not None and not 0 < len(self.refusal) <= REASON_LENGTH:
            raise InputError("must have between 1 and {} characters".format(REASON_LENGTH), path="refusal")
