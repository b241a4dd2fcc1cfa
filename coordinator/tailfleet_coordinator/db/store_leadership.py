"""Queries on leadership: which coordinator writes. One holds a lease and renews it; taking over begins a new epoch.

The clock is the database's. A coordinator that lost its lease unawares is stopped by the fence in ``Database.writing``.
"""

from datetime import datetime

from sqlalchemy import insert, select, update

from tailfleet_coordinator.db.engine import Database, Now
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
        with self.writing() as connection:
            row = connection.execute(
                select(
                    LeadershipTable.epoch,
                    LeadershipTable.holder,
                    LeadershipTable.holder_key,
                    LeadershipTable.expires_at,
                    (LeadershipTable.expires_at > Now()).label("holds"),
                )
                .where(LeadershipTable.id == 1)
                .with_for_update()
            ).first()
            values = {"holder": holder, "holder_key": holder_key, "taken_at": Now(), "expires_at": Now(seconds)}
            if row is None:
                # Two that come first at once: the row's key lets one of them in.
                connection.execute(insert(LeadershipTable).values(id=1, epoch=1, **values))
                epoch = 1
            else:
                if row.holds and row.holder_key != holder_key:
                    raise AnotherWriter(
                        f"the database is held by another coordinator ({row.holder})",
                        f"stop that one; if it is dead, its hold ends at {_clock(row.expires_at)}",
                    )
                epoch = int(row.epoch) + 1
                connection.execute(update(LeadershipTable).values(epoch=epoch, **values))
        self._epoch = epoch
        return epoch

    def renew_leadership(self, seconds: float) -> None:
        """The coordinator lives. Raises ``Deposed`` where another one has taken over."""
        with self.writing() as connection:
            connection.execute(update(LeadershipTable).values(expires_at=Now(seconds)))

    def end_leadership(self) -> None:
        """The coordinator ends: another one may take over at once. Raises ``Deposed`` where one has already."""
        with self.writing() as connection:
            connection.execute(update(LeadershipTable).values(expires_at=Now()))


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S} UTC"
