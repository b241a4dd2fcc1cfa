"""Which schedules beside the chosen one a plan wants measured.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "contenders",
        sa.Column("plan_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("schedule_digest", sa.String(length=64), nullable=False),
        sa.CheckConstraint("place >= 1", name=op.f("ck_contenders_place_counts")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_contenders_plan_id_plans")),
        sa.ForeignKeyConstraint(
            ["schedule_digest"], ["schedules.digest"], name=op.f("fk_contenders_schedule_digest_schedules")
        ),
        sa.PrimaryKeyConstraint("plan_id", "place", name=op.f("pk_contenders")),
    )
    op.create_index(op.f("ix_contenders_schedule_digest"), "contenders", ["schedule_digest"])


def downgrade() -> None:
    # Plans name them in their own text.
    op.drop_table("contenders")
