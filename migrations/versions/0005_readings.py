"""Curves as plans read them, made of their samples when they are filed.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "curve_readings",
        sa.Column("curve_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("reading", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["curve_id"], ["curves.id"], name=op.f("fk_curve_readings_curve_id_curves")),
        sa.PrimaryKeyConstraint("curve_id", name=op.f("pk_curve_readings")),
    )


def downgrade() -> None:
    # Whoever has none reads the samples.
    op.drop_table("curve_readings")
