"""What alembic runs: the migrations on the connection that ``tailfleet_coordinator.db.migrate`` opened.

For developers, ``alembic`` itself is not needed: a new revision is written by hand, and a test compares what the
migrations make with the tables.
"""

from alembic import context

from tailfleet_coordinator.db.tables import Table

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
