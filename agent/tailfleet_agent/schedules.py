"""Where the user's own program finds its schedules: a folder of the agent's home, ``schedules/``.

::

    MODEL.json             the newest schedule of the model that this board has measured and found good
    MODEL.shipment         what that one was planned on
    MODEL.unverified       one that was shipped here by hand, and that this board has not measured; and
    MODEL.unverified-shipment    … what it was planned on

``tailfleet_reduce.load_schedule`` reads the first and the third. Each is replaced whole, so that a program that starts
at any moment, also after a power cut, finds the old schedule or the new one. Left to others: which schedules come, and
in which order (the coordinator), and the answer (``loop``).
"""

import contextlib
import os
import re

from tailfleet_agent.config import write_durably
from tailfleet_schema import codec
from tailfleet_schema.errors import InputError, TailfleetError
from tailfleet_schema.shipment import REASON_LENGTH, Receipt, Shipment

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""A model's name names a file, whatever the coordinator lets it be."""


class Schedules:
    """The schedules of one agent's home."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def path(self, model: str, verified: bool = True) -> str:
        """Where the schedule of ``model`` lies, if there is one."""
        return os.path.join(self._folder, model + (".json" if verified else ".unverified"))

    def take(self, shipment: Shipment) -> Receipt:
        """Put the schedule in its place, or say why not; then what lay there stays. Twice does no harm."""
        try:
            self._put(shipment)
        except TailfleetError as error:
            return _refused(shipment, error.sentence)
        except OSError as error:
            return _refused(shipment, "cannot be written: {}".format(error.strerror or error))
        return Receipt(shipment.digest, shipment.verified)

    def _put(self, shipment: Shipment) -> None:
        shipment.schedule()
        if not _NAME.fullmatch(shipment.model):
            raise InputError("{!r} cannot be the name of a file".format(shipment.model[:60]))
        os.makedirs(self._folder, exist_ok=True)
        self._discard_drafts()
        kind = ".shipment" if shipment.verified else ".unverified-shipment"
        # Before the schedule itself: what a program runs is never without it.
        write_durably(os.path.join(self._folder, shipment.model + kind), codec.dumps(shipment).encode("utf-8"))
        write_durably(self.path(shipment.model, shipment.verified), shipment.schedule_json.encode("utf-8"))
        if shipment.verified:
            self._drop_unverified(shipment)
        self._sync()

    def _drop_unverified(self, shipment: Shipment) -> None:
        """The same schedule as an unverified one is of no use any more; another one is the user's."""
        place = self.path(shipment.model, verified=False)
        try:
            with open(place, "rb") as file:
                same = file.read() == shipment.schedule_json.encode("utf-8")
        except FileNotFoundError:
            return
        for name in (place, place + "-shipment") if same else ():
            with contextlib.suppress(FileNotFoundError):
                os.remove(name)

    def _discard_drafts(self) -> None:
        """What an agent that was cut off left half written; no other one has this home."""
        for name in os.listdir(self._folder):
            if name.endswith(".new"):
                os.remove(os.path.join(self._folder, name))

    def _sync(self) -> None:
        """The names, too, outlive a power cut from here on: the coordinator will not ship this again."""
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refused(shipment: Shipment, reason: str) -> Receipt:
    return Receipt(shipment.digest, shipment.verified, reason[:REASON_LENGTH])
