"""Queries on boards and enrolments."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, exists, func, insert, select, update

from tailfleet_coordinator.db.engine import Database, Now, lock_table
from tailfleet_coordinator.db.rows import Board
from tailfleet_coordinator.db.store_access import NEW_LINE, check_promise
from tailfleet_coordinator.db.store_jobs import give_back_jobs
from tailfleet_coordinator.db.store_shipments import queue_shipments_again
from tailfleet_coordinator.db.tables import BoardTable, EnrolmentTable, JobTable
from tailfleet_coordinator.refusals import NameTaken, TokenRefused, UnknownName
from tailfleet_schema import codec
from tailfleet_schema.board import BoardFacts, BoardKind, fingerprint
from tailfleet_schema.errors import InputError


class BoardQueries(Database):
    """Boards, from the promise of an enrolment on."""

    def create_enrolment(self, board: str, virtual_profile: str | None, token_hash: str, seconds: float) -> datetime:
        """Promise the name to who brings the token; when that ends. Earlier promises of the name become void.

        A revoked board's name may be promised again, and so may that of one that enrolled and never came to work: it
        lost the reply. Raises ``NameTaken`` for any other board's, ``InputError`` where curves of another kind of board
        are stored under the name.
        """
        with self.writing() as connection:
            lock_table(connection, "enrolments")
            known = connection.execute(
                select(
                    (BoardTable.last_seen_at.is_not(None) & BoardTable.revoked_at.is_(None)).label("speaks"),
                    BoardTable.virtual_profile,
                    exists().where(JobTable.board_id == BoardTable.id).label("has_worked"),
                ).where(BoardTable.name == board)
            ).first()
            if known is not None and known.speaks:
                raise NameTaken(
                    f"a board called {board!r} is enrolled already",
                    f"choose another name; or, to give it a new token: tailfleet board revoke {board}",
                )
            if known is not None and known.has_worked and known.virtual_profile != virtual_profile:
                raise InputError(
                    f"{board!r} was {_kind_in_words(known.virtual_profile)}, and its curves are kept",
                    "choose another name for another kind of board",
                )
            connection.execute(
                delete(EnrolmentTable).where(EnrolmentTable.board == board, EnrolmentTable.used_at.is_(None))
            )
            return connection.execute(
                insert(EnrolmentTable)
                .values(
                    board=board,
                    virtual_profile=virtual_profile,
                    token_hash=token_hash,
                    created_at=Now(),
                    expires_at=Now(seconds),
                )
                .returning(EnrolmentTable.expires_at)
            ).scalar_one()

    def enroll(self, token_hash: str, facts: BoardFacts, board_token_hash: str) -> str:
        """Use up an enrolment; the board's name.

        Raises ``TokenRefused`` for an unknown, used or expired token, ``InputError`` for facts of another kind of
        board than was promised, ``NameTaken``; the token stays good after the latter two.
        """
        with self.writing() as connection:
            # Also for the board of that name, which nobody else makes.
            lock_table(connection, "enrolments")
            promise = connection.execute(
                select(
                    EnrolmentTable.id,
                    EnrolmentTable.board,
                    EnrolmentTable.virtual_profile,
                    EnrolmentTable.used_at,
                    (EnrolmentTable.expires_at <= Now()).label("expired"),
                ).where(EnrolmentTable.token_hash == token_hash)
            ).first()
            if promise is None:
                raise TokenRefused("this enrolment token is not known", NEW_LINE)
            check_promise(promise.used_at, promise.expired)
            if promise.virtual_profile != facts.virtual_profile:
                raise InputError(
                    f"{promise.board!r} is to be {_kind_in_words(promise.virtual_profile)}, but"
                    f" {_kind_in_words(facts.virtual_profile)} asks for the name",
                    "paste the line that the coordinator printed as it is",
                )
            self._put_board(connection, promise.board, facts, board_token_hash)
            connection.execute(update(EnrolmentTable).where(EnrolmentTable.id == promise.id).values(used_at=Now()))
            return str(promise.board)

    def _put_board(self, connection: Connection, name: str, facts: BoardFacts, token_hash: str) -> None:
        values: dict[str, Any] = {
            "kind": facts.kind.value,
            "virtual_profile": facts.virtual_profile,
            "facts_json": codec.dumps(facts),
            "machine_id": facts.hardware.machine_id,
            "fingerprint": fingerprint(facts),
            "token_hash": token_hash,
            "enrolled_at": Now(),
            "last_seen_at": None,
            "revoked_at": None,
        }
        renewed = connection.execute(
            update(BoardTable)
            .where(BoardTable.name == name, BoardTable.last_seen_at.is_(None) | BoardTable.revoked_at.is_not(None))
            .values(**values)
            .returning(BoardTable.id)
        ).first()
        if renewed is not None:
            queue_shipments_again(connection, renewed.id)
            return
        if connection.execute(select(BoardTable.id).where(BoardTable.name == name)).first() is not None:
            raise NameTaken(f"a board called {name!r} is enrolled already", NEW_LINE)
        connection.execute(insert(BoardTable).values(name=name, **values))

    def revoke_board(self, name: str) -> int:
        """The board's token opens nothing from now on, and what it holds waits for it to enrol again; its id.

        Promises of its name become void. Its results and curves stay. Raises ``UnknownName``; doing it twice does no
        harm.
        """
        with self.writing() as connection:
            found = connection.execute(select(BoardTable.id).where(BoardTable.name == name)).scalar()
            if found is None:
                raise UnknownName(f"no board is called {name!r}", "tailfleet board list")
            board_id = int(found)
            lock_table(connection, "enrolments")
            connection.execute(
                delete(EnrolmentTable).where(EnrolmentTable.board == name, EnrolmentTable.used_at.is_(None))
            )
            give_back_jobs(connection, board_id)
            connection.execute(
                update(BoardTable)
                .where(BoardTable.id == board_id, BoardTable.revoked_at.is_(None))
                .values(revoked_at=Now())
            )
            # A job that was claimed in between; none can be from here on.
            give_back_jobs(connection, board_id)
            return board_id

    def see_board(self, board_id: int, facts: BoardFacts, power_mode: str | None) -> None:
        """Note that the board asks for work, and what it is now. Raises ``InputError`` where it changed its kind."""
        with self.writing() as connection:
            seen = connection.execute(
                update(BoardTable)
                .where(
                    BoardTable.id == board_id,
                    BoardTable.kind == facts.kind.value,
                    BoardTable.virtual_profile.is_not_distinct_from(facts.virtual_profile),
                )
                .values(
                    facts_json=codec.dumps(facts),
                    machine_id=facts.hardware.machine_id,
                    fingerprint=fingerprint(facts, power_mode),
                    last_seen_at=Now(),
                )
                .returning(BoardTable.id)
            ).first()
            if seen is None:
                raise InputError("a board cannot become another kind of board", "enroll it under another name")

    def list_boards(self, online_seconds: float) -> list[Board]:
        """All enrolled boards, in the order of their enrolment."""
        with self.reading() as connection:
            return [_board(row) for row in connection.execute(_boards(online_seconds).order_by(BoardTable.id))]

    def get_board(self, board_id: int, online_seconds: float = 60.0) -> Board:
        """One board."""
        with self.reading() as connection:
            return _board(connection.execute(_boards(online_seconds).where(BoardTable.id == board_id)).one())

    def find_boards(self, names: list[str]) -> list[int]:
        """Ids of the boards so named, in that order. Raises ``UnknownName``, ``InputError`` for a revoked one."""
        query = select(BoardTable.name, BoardTable.id, BoardTable.revoked_at).where(BoardTable.name.in_(names))
        with self.reading() as connection:
            found = {row.name: row for row in connection.execute(query)}
        for name in names:
            if name not in found:
                raise UnknownName(f"no board is called {name!r}", "tailfleet board list")
            if found[name].revoked_at is not None:
                raise InputError(f"board {name!r} is revoked", f"tailfleet board enroll {name}")
        return [found[name].id for name in names]


def _boards(online_seconds: float) -> Any:
    heard = func.coalesce(BoardTable.last_seen_at > Now(-online_seconds), False)
    online = heard & BoardTable.revoked_at.is_(None)
    return select(
        BoardTable.id,
        BoardTable.name,
        BoardTable.kind,
        BoardTable.virtual_profile,
        BoardTable.facts_json,
        BoardTable.machine_id,
        BoardTable.fingerprint,
        BoardTable.enrolled_at,
        BoardTable.last_seen_at,
        online.label("online"),
        BoardTable.revoked_at,
    )


def _board(row: Any) -> Board:
    return Board(
        id=row.id,
        name=row.name,
        kind=BoardKind(row.kind),
        virtual_profile=row.virtual_profile,
        facts=codec.loads(BoardFacts, row.facts_json),
        machine_id=row.machine_id,
        fingerprint=row.fingerprint,
        enrolled_at=row.enrolled_at,
        last_seen_at=row.last_seen_at,
        online=bool(row.online),
        revoked_at=row.revoked_at,
    )


def _kind_in_words(profile: str | None) -> str:
    return "a physical board" if profile is None else f"a virtual {profile}"
