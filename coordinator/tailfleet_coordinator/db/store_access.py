"""Queries on tokens: who may speak. Only hashes are stored; making and hashing tokens is left to the web room."""

from sqlalchemy import insert, select, update

from tailfleet_coordinator.db.engine import Database, Now, lock_table
from tailfleet_coordinator.db.rows import Caller
from tailfleet_coordinator.db.tables import BoardTable, TokenTable


class AccessQueries(Database):
    """Tokens of people and programs, and of boards."""

    def find_caller(self, token_hash: str) -> Caller | None:
        """Whose token it is; None for nobody's, or a revoked one."""
        board = select(BoardTable.id, BoardTable.name).where(BoardTable.token_hash == token_hash)
        person = select(TokenTable.role, TokenTable.name).where(
            TokenTable.token_hash == token_hash, TokenTable.revoked_at.is_(None)
        )
        with self.reading() as connection:
            found = connection.execute(board).first()
            if found is not None:
                return Caller("board", found.name, found.id)
            known = connection.execute(person).first()
            return None if known is None else Caller(known.role, known.name)

    def replace_token(self, name: str, role: str, token_hash: str) -> None:
        """Make ``token_hash`` the only good token of that name."""
        with self.writing() as connection:
            lock_table(connection, "tokens")
            connection.execute(
                update(TokenTable)
                .where(TokenTable.name == name, TokenTable.revoked_at.is_(None))
                .values(revoked_at=Now())
            )
            connection.execute(insert(TokenTable).values(name=name, role=role, token_hash=token_hash, created_at=Now()))
