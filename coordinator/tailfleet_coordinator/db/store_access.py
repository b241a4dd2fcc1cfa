"""Queries on tokens: who may speak. Only hashes are stored; making and hashing tokens is left to the web room."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tailfleet_coordinator.db.engine import Database, Now, lock_table
from tailfleet_coordinator.db.rows import Caller, Token
from tailfleet_coordinator.db.tables import BoardTable, EnrolmentTable, TokenTable
from tailfleet_coordinator.refusals import NameTaken, TokenRefused, UnknownName

NEW_LINE = "tailfleet board enroll NAME (on the coordinator) prints a new line"


class AccessQueries(Database):
    """Tokens of people and programs, of boards, and of boards to be."""

    def find_caller(self, token_hash: str) -> Caller | None:
        """Whose token it is; None for nobody's.

        Raises ``TokenRefused`` for one that has opened something: a revoked, used or expired one.
        """
        with self.reading() as connection:
            return (
                _board(connection, token_hash) or _person(connection, token_hash) or _promised(connection, token_hash)
            )

    def create_token(self, name: str, role: str, token_hash: str) -> datetime:
        """Let who brings the token speak as ``role``; since when. Raises ``NameTaken``."""
        dialect: Any = sqlite if self.is_sqlite else postgresql
        with self.writing() as connection:
            created_at: datetime | None = connection.execute(
                dialect.insert(TokenTable)
                .values(name=name, role=role, token_hash=token_hash, created_at=Now())
                .on_conflict_do_nothing()
                .returning(TokenTable.created_at)
            ).scalar()
        if created_at is None:
            raise NameTaken(f"a token called {name!r} exists already", f"tailfleet token revoke {name}")
        return created_at

    def replace_token(self, name: str, role: str, token_hash: str) -> None:
        """Make ``token_hash`` the only good token of that name."""
        with self.writing() as connection:
            lock_table(connection, "tokens")
            _revoke(connection, name)
            connection.execute(insert(TokenTable).values(name=name, role=role, token_hash=token_hash, created_at=Now()))

    def revoke_token(self, name: str) -> None:
        """The token opens nothing from now on. Raises ``UnknownName``; revoking twice does no harm."""
        with self.writing() as connection:
            _revoke(connection, name)
            if connection.execute(select(TokenTable.id).where(TokenTable.name == name)).first() is None:
                raise UnknownName(f"no token is called {name!r}", "tailfleet token list")

    def list_tokens(self) -> list[Token]:
        """All tokens of people and programs, the revoked ones too, in the order of their creation."""
        query = select(TokenTable.name, TokenTable.role, TokenTable.created_at, TokenTable.revoked_at)
        with self.reading() as connection:
            return [Token(*row) for row in connection.execute(query.order_by(TokenTable.id))]


def check_promise(used_at: datetime | None, expired: bool) -> None:
    """Raise ``TokenRefused`` unless the enrolment token can still be used."""
    if used_at is not None:
        raise TokenRefused("this enrolment token was used already", NEW_LINE)
    if expired:
        raise TokenRefused("this enrolment token has expired", NEW_LINE)


def _revoke(connection: Connection, name: str) -> None:
    good = (TokenTable.name == name, TokenTable.revoked_at.is_(None))
    connection.execute(update(TokenTable).where(*good).values(revoked_at=Now()))


def _board(connection: Connection, token_hash: str) -> Caller | None:
    query = select(BoardTable.id, BoardTable.name, BoardTable.revoked_at).where(BoardTable.token_hash == token_hash)
    found = connection.execute(query).first()
    if found is None:
        return None
    if found.revoked_at is not None:
        raise TokenRefused(
            f"the token of board {found.name!r} was revoked",
            f"tailfleet board enroll {found.name} (on the coordinator) prints a line that lets it in again",
        )
    return Caller("board", found.name, found.id)


def _person(connection: Connection, token_hash: str) -> Caller | None:
    query = select(TokenTable.role, TokenTable.name, TokenTable.revoked_at).where(TokenTable.token_hash == token_hash)
    found = connection.execute(query).first()
    if found is None:
        return None
    if found.revoked_at is not None:
        raise TokenRefused(
            f"the token {found.name!r} was revoked",
            f"an operator makes another one: tailfleet token create NAME --role {found.role}",
        )
    return Caller(found.role, found.name)


def _promised(connection: Connection, token_hash: str) -> Caller | None:
    query = select(
        EnrolmentTable.board, EnrolmentTable.used_at, (EnrolmentTable.expires_at <= Now()).label("expired")
    ).where(EnrolmentTable.token_hash == token_hash)
    found = connection.execute(query).first()
    if found is None:
        return None
    check_promise(found.used_at, found.expired)
    return Caller("enrolment", found.board)
