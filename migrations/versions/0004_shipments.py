"""Shipments: which schedule is on its way to which board, or there.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shipments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("schedule_digest", sa.String(64), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("model_digest", sa.String(64), nullable=False),
        sa.Column("campaign_id", sa.String(32), nullable=True),
        sa.Column("curve_id", sa.Integer(), nullable=True),
        sa.Column("dataset_sha256", sa.String(64), nullable=True),
        sa.Column("fingerprint", sa.String(64), nullable=True),
        sa.CheckConstraint("state IN ('queued', 'delivered', 'verified')", name=op.f("ck_shipments_state_known")),
        sa.CheckConstraint(
            "(state = 'queued') = (delivered_at IS NULL)", name=op.f("ck_shipments_delivered_exactly_if_not_queued")
        ),
        sa.CheckConstraint(
            "state = 'queued' OR (state = 'verified') = (verified_at IS NOT NULL)",
            name=op.f("ck_shipments_verified_exactly_if_measured"),
        ),
        sa.CheckConstraint(
            "refusal IS NULL OR (state = 'queued' AND refusal <> '')",
            name=op.f("ck_shipments_refused_only_while_queued"),
        ),
        sa.CheckConstraint("length(model_digest) = 64", name=op.f("ck_shipments_model_digest_is_a_digest")),
        sa.CheckConstraint("length(dataset_sha256) = 64", name=op.f("ck_shipments_dataset_sha256_is_a_digest")),
        sa.CheckConstraint("length(fingerprint) = 64", name=op.f("ck_shipments_fingerprint_is_a_digest")),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_shipments_board_id_boards")),
        sa.ForeignKeyConstraint(
            ["schedule_digest"], ["schedules.digest"], name=op.f("fk_shipments_schedule_digest_schedules")
        ),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_shipments_model_models")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_shipments_campaign_id_campaigns")),
        sa.ForeignKeyConstraint(["curve_id"], ["curves.id"], name=op.f("fk_shipments_curve_id_curves")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shipments")),
        sa.UniqueConstraint("board_id", "schedule_digest", name=op.f("uq_shipments_board_id_schedule_digest")),
    )
    op.create_index(op.f("ix_shipments_board_id_state"), "shipments", ["board_id", "state"])


def downgrade() -> None:
    # What boards have stays with them; only that they have it is forgotten.
    op.drop_table("shipments")
