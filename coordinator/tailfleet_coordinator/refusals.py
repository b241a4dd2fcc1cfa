"""The refusals that the coordinator adds to the one exception tree, each with the HTTP status it travels as.

::

    InputError
     ├─ UnknownName       404  no such board, model, campaign, …
     ├─ NameTaken         409  the name is in use
     ├─ JobEnded          409  a job that is over cannot be cancelled
     ├─ BodyTooLarge      413
     ├─ UnreadableBody    415  not plain JSON
     └─ RangeRefused      416  a part that the artifact does not have
    LabError
     ├─ LeaseGone         409  the lease is no longer this board's
     ├─ StorageFull       507  the coordinator's disk has no room
     └─ Deposed           503  another coordinator writes to the database now
    ConfigurationError
     ├─ AnotherWriter     503  a coordinator holds the database
     ├─ DatabaseAway      503  the database does not answer, or undid what was asked
     ├─ TokenRefused      401  who are you
     ├─ RoleRefused       403  not you
     └─ ProtocolRefused   422  an agent of another protocol
"""

from tailfleet_schema.errors import ConfigurationError, InputError, LabError, TailfleetError


class UnknownName(InputError):
    """Something was named that does not exist."""


class NameTaken(InputError):
    """A name is in use already."""


class JobEnded(InputError):
    """A job that is over was to be cancelled."""


class BodyTooLarge(InputError):
    """A request is larger than is read."""


class UnreadableBody(InputError):
    """A request's body is of another form than the one that is read."""


class RangeRefused(InputError):
    """A part of an artifact was asked for that it does not have."""


class LeaseGone(LabError):
    """A board spoke for a job that it no longer holds."""


class StorageFull(LabError):
    """The coordinator's disk has no room for what was sent."""


class Deposed(LabError):
    """A coordinator that was taken for dead, and replaced, tried to write."""


class AnotherWriter(ConfigurationError):
    """A live coordinator holds the database already."""


class DatabaseAway(ConfigurationError):
    """The database cannot be reached, or gave up a transaction; nothing of that transaction is stored."""


class TokenRefused(ConfigurationError):
    """No token, or one that opens nothing."""


class RoleRefused(ConfigurationError):
    """A good token, but not for this."""


class ProtocolRefused(ConfigurationError):
    """An agent of a release that speaks another protocol."""


_STATUS: tuple[tuple[type[TailfleetError], int], ...] = (
    (UnknownName, 404),
    (NameTaken, 409),
    (JobEnded, 409),
    (BodyTooLarge, 413),
    (UnreadableBody, 415),
    (RangeRefused, 416),
    (LeaseGone, 409),
    (StorageFull, 507),
    (Deposed, 503),
    (AnotherWriter, 503),
    (DatabaseAway, 503),
    (TokenRefused, 401),
    (RoleRefused, 403),
    (ProtocolRefused, 422),
    (InputError, 422),
)


def status_of(error: TailfleetError) -> int:
    """The HTTP status ``error`` travels as; 500 where the coordinator itself is at fault."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
