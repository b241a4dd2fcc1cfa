"""Who computes on a machine: the gate between measuring it and using it.

A physical board that is measured has its machine for itself. Virtual boards and the coordinator's own tasks share
one, wait while it is measured, and let a waiting measurement pass, so that neither side starves. Decided within the
transaction of who asks; a use that is not renewed runs out by the database's clock.
"""

from sqlalchemy import ColumnElement, Connection, SQLColumnExpression, delete, exists, insert, select, update

from tailfleet_coordinator.db.engine import Now, lock_name
from tailfleet_coordinator.db.tables import BoardTable, JobTable, MachineUseTable
from tailfleet_schema.board import BoardKind
from tailfleet_schema.job import JobState


def job_holder(job_id: str) -> str:
    """The name under which a job uses a machine."""
    return f"job:{job_id}"


def is_measured(machine_id: SQLColumnExpression[str]) -> ColumnElement[bool]:
    """In a query: whether a physical board has the machine for itself now."""
    return exists().where(
        MachineUseTable.machine_id == machine_id, MachineUseTable.exclusive, MachineUseTable.expires_at > Now()
    )


def machine_is_free(connection: Connection, machine_id: str, exclusive: bool, claimable_seconds: float) -> bool:
    """Whether one more may use the machine, alone (``exclusive``) or beside others.

    Call within a writing transaction, and take the machine in the same one.
    """
    # By name, not by the rows of its boards: there may be none, and those are locked by every sign of life.
    lock_name(connection, f"machine:{machine_id}")
    connection.execute(
        delete(MachineUseTable).where(MachineUseTable.machine_id == machine_id, MachineUseTable.expires_at <= Now())
    )
    others = select(MachineUseTable.id).where(MachineUseTable.machine_id == machine_id)
    if not exclusive:
        others = others.where(MachineUseTable.exclusive)
    if connection.execute(others.limit(1)).first() is not None:
        return False
    if exclusive:
        return True
    measurement_waits = exists().where(
        JobTable.board_id == BoardTable.id,
        JobTable.state == JobState.QUEUED.value,
        BoardTable.machine_id == machine_id,
        BoardTable.kind == BoardKind.PHYSICAL.value,
        BoardTable.last_seen_at > Now(-claimable_seconds),
    )
    return not connection.execute(select(measurement_waits)).scalar_one()


def take_machine(connection: Connection, machine_id: str, holder: str, exclusive: bool, seconds: float) -> None:
    """Note that ``holder`` uses the machine for the next ``seconds``, or goes on using it."""
    renewed = connection.execute(
        update(MachineUseTable)
        .where(MachineUseTable.holder == holder)
        .values(machine_id=machine_id, exclusive=exclusive, expires_at=Now(seconds))
        .returning(MachineUseTable.id)
    ).first()
    if renewed is None:
        connection.execute(
            insert(MachineUseTable).values(
                machine_id=machine_id, holder=holder, exclusive=exclusive, expires_at=Now(seconds)
            )
        )


def release_machine(connection: Connection, holder: str) -> None:
    """``holder`` uses no machine any more."""
    connection.execute(delete(MachineUseTable).where(MachineUseTable.holder == holder))
