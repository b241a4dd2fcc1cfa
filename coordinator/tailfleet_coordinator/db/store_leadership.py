"""Queries on leadership: which coordinator writes. One holds a lease and renews it; taking over begins a new epoch.

The clock is the database's. A coordinator that lost its lease unawares is stopped by the fence in ``Database.writing``.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tailfleet_coordinator.db.engine import Database, Now, deposed_by
from tailfleet_coordinator.db.tables import LeadershipTable
from tailfleet_coordinator.refusals import AnotherWriter


class LeadershipQueries(Database):
    """Who may write."""

    def take_leadership(self, holder: str, holder_key: str, seconds: float) -> int:
        """Become the one coordinator that writes, for ``seconds``; the new epoch, which this store writes under.

        ``holder_key`` names a place that one coordinator at a time can hold (and the caller holds it): an earlier
        lease of the same key belongs to a dead process and is taken over at once. Raises ``AnotherWriter``, naming the
        holder, while a lease of another key has not expired.
        """
        self._epoch = None
        values = {"holder": holder, "holder_key": holder_key, "taken_at": Now(), "expires_at": Now(seconds)}
        with self.writing(fenced=False) as connection:
            # Of two that come first at once, the row's key lets one in; the other one finds the row.
            if self._insert_first(connection, values):
                epoch = 1
            else:
                row = connection.execute(_HELD.with_for_update()).one()
                if row.holds and row.holder_key != holder_key:
                    raise AnotherWriter(
                        f"the database is held by another coordinator ({row.holder})",
                        f"stop that one; if it is dead, its hold ends at {_clock(row.expires_at)}",
                    )
                epoch = int(row.epoch) + 1
                connection.execute(update(LeadershipTable).values(epoch=epoch, **values))
        self._epoch = epoch
        return epoch

    def _insert_first(self, connection: Connection, values: dict[str, Any]) -> bool:
        dialect: Any = sqlite if self.is_sqlite else postgresql
        first = dialect.insert(LeadershipTable).values(id=1, epoch=1, **values).on_conflict_do_nothing()
        return connection.execute(first.returning(LeadershipTable.epoch)).first() is not None

    def renew_leadership(self, seconds: float) -> None:
        """The coordinator lives. Raises ``Deposed`` where another one has taken over."""
        self._hold_until(seconds)

    def check_leadership(self) -> None:
        """Raise ``Deposed`` where another coordinator has taken over: before something is done that is no write."""
        with self.writing():
            # The fence stands before every writing transaction, also one with nothing to write.
            pass

    def end_leadership(self) -> None:
        """The coordinator ends: another one may take over at once. Raises ``Deposed`` where one has already."""
        self._hold_until(0.0)

    def _hold_until(self, seconds: float) -> None:
        # The epoch is the fence here as well, in the statement itself: the shared lock of the usual one would have to
        # be raised, and two that raise theirs wait for each other.
        mine = LeadershipTable.epoch == self._epoch
        with self.writing(fenced=False) as connection:
            changed = connection.execute(update(LeadershipTable).where(mine).values(expires_at=Now(seconds)))
            if changed.rowcount == 0:
                raise deposed_by(connection.execute(select(LeadershipTable.holder)).scalar())


_HELD = select(
    LeadershipTable.epoch,
    LeadershipTable.holder,
    LeadershipTable.holder_key,
    LeadershipTable.expires_at,
    (LeadershipTable.expires_at > Now()).label("holds"),
).where(LeadershipTable.id == 1)


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S} UTC"
