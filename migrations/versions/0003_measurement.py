"""Memory and energy of results, what a job ran on, and curves taken apart: rounds, treads, cliffs.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

from tailfleet_schema.errors import ConfigurationError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PARTS = (
    "'model', 'sentinel', 'fixed', 'attention', 'mlp', 'reduce', 'schedule', 'accuracy', 'loss', 'input', 'fidelity'"
)


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("runtime_json", sa.Text(), nullable=True))
    with op.batch_alter_table("results") as batch:
        batch.add_column(sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("energy_mj", sa.Double(), nullable=True))
        batch.drop_constraint(op.f("ck_results_part_known"), type_="check")
        batch.create_check_constraint(op.f("ck_results_part_known"), f"part IN ({PARTS})")
        batch.create_check_constraint(op.f("ck_results_peak_memory_counts"), "peak_memory_bytes >= 0")
        batch.create_check_constraint(op.f("ck_results_energy_counts"), "energy_mj >= 0")
    op.create_table(
        "curve_rounds",
        sa.Column("curve_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("factor", sa.Double(), nullable=False),
        sa.Column("disturbed", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint("round >= 0", name=op.f("ck_curve_rounds_round_counts")),
        sa.CheckConstraint("factor > 0", name=op.f("ck_curve_rounds_factor_positive")),
        sa.CheckConstraint("NOT disturbed OR reason <> ''", name=op.f("ck_curve_rounds_disturbed_has_reason")),
        sa.ForeignKeyConstraint(["curve_id"], ["curves.id"], name=op.f("fk_curve_rounds_curve_id_curves")),
        sa.PrimaryKeyConstraint("curve_id", "round", name=op.f("pk_curve_rounds")),
    )
    op.create_table(
        "treads",
        sa.Column("curve_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_tokens", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_tokens", sa.Integer(), nullable=False),
        sa.Column("quiet_ns", sa.Double(), nullable=False),
        sa.CheckConstraint("first_tokens >= 1 AND first_tokens <= last_tokens", name=op.f("ck_treads_first_to_last")),
        sa.CheckConstraint("quiet_ns > 0", name=op.f("ck_treads_quiet_positive")),
        sa.ForeignKeyConstraint(["curve_id"], ["curves.id"], name=op.f("fk_treads_curve_id_curves")),
        sa.PrimaryKeyConstraint("curve_id", "first_tokens", name=op.f("pk_treads")),
    )
    op.create_table(
        "cliffs",
        sa.Column("curve_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("from_tokens", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("to_tokens", sa.Integer(), nullable=False),
        sa.Column("upwards", sa.Boolean(), nullable=False),
        sa.Column("height_ns", sa.Double(), nullable=False),
        sa.Column("height_percent", sa.Double(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.CheckConstraint("from_tokens >= 1 AND from_tokens < to_tokens", name=op.f("ck_cliffs_from_to")),
        sa.CheckConstraint("height_ns > 0", name=op.f("ck_cliffs_height_positive")),
        sa.CheckConstraint("confidence >= 0 AND confidence <= 1", name=op.f("ck_cliffs_confidence_is_a_probability")),
        sa.ForeignKeyConstraint(["curve_id"], ["curves.id"], name=op.f("fk_cliffs_curve_id_curves")),
        sa.PrimaryKeyConstraint("curve_id", "from_tokens", name=op.f("pk_cliffs")),
    )


def downgrade() -> None:
    raise ConfigurationError(
        "revision 0003 cannot be undone: the earlier release could not read the sweeps that it wrote",
        "put back the copy of the database from before the upgrade",
    )
