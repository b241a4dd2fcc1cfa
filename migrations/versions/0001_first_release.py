"""All tables of the first release: boards, workloads, campaigns, jobs, results, curves, profiles, plans, schedules.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "boards",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("virtual_profile", sa.Text(), nullable=True),
        sa.Column("facts_json", sa.Text(), nullable=False),
        sa.Column("machine_id", sa.String(length=128), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(kind = 'virtual') = (virtual_profile IS NOT NULL)", name=op.f("ck_boards_profile_exactly_if_virtual")
        ),
        sa.CheckConstraint("kind IN ('physical', 'virtual')", name=op.f("ck_boards_kind_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_boards")),
        sa.UniqueConstraint("name", name=op.f("uq_boards_name")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_boards_token_hash")),
    )
    op.create_index(op.f("ix_boards_machine_id"), "boards", ["machine_id"])
    op.create_table(
        "campaigns",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("request_json", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure_json", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (finished_at IS NULL)", name=op.f("ck_campaigns_finished_exactly_if_ended")
        ),
        sa.CheckConstraint(
            "state IN ('running', 'done', 'failed', 'cancelled')", name=op.f("ck_campaigns_state_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
    )
    op.create_index(op.f("ix_campaigns_state"), "campaigns", ["state"])
    op.create_table(
        "datasets",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("spec_json", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_datasets")),
    )
    op.create_table(
        "enrolments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("board", sa.String(length=64), nullable=False),
        sa.Column("virtual_profile", sa.Text(), nullable=True),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrolments")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_enrolments_token_hash")),
    )
    op.create_index(op.f("ix_enrolments_board"), "enrolments", ["board"])
    op.create_table(
        "machine_uses",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("machine_id", sa.String(length=128), nullable=False),
        sa.Column("holder", sa.String(length=255), nullable=False),
        sa.Column("exclusive", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_machine_uses")),
        sa.UniqueConstraint("holder", name=op.f("uq_machine_uses_holder")),
    )
    op.create_index(op.f("ix_machine_uses_machine_id"), "machine_uses", ["machine_id"])
    op.create_table(
        "models",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("spec_json", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_models")),
    )
    op.create_table(
        "profiles",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("dataset_sha256", sa.String(length=64), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("kept", sa.Integer(), nullable=False),
        sa.Column("judgement_json", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("part IN ('loss', 'input')", name=op.f("ck_profiles_part_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_profiles")),
        sa.UniqueConstraint(
            "model_digest", "dataset_sha256", "part", "label", "block", "tokens", "kept", name=op.f("uq_profiles_unit")
        ),
    )
    op.create_table(
        "schedules",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("schedule_json", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_schedules")),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('operator', 'viewer')", name=op.f("ck_tokens_role_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_tokens_token_hash")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("campaign_id", sa.String(length=32), nullable=False),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("job_json", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("fingerprint_changed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure_json", sa.Text(), nullable=True),
        sa.Column("log", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint(
            "(state = 'leased') = (lease_expires_at IS NOT NULL)", name=op.f("ck_jobs_expires_exactly_if_leased")
        ),
        sa.CheckConstraint("kind IN ('sweep', 'verify')", name=op.f("ck_jobs_kind_known")),
        sa.CheckConstraint(
            "state IN ('queued', 'leased', 'done', 'failed', 'cancelled')", name=op.f("ck_jobs_state_known")
        ),
        sa.CheckConstraint("attempt >= 0", name=op.f("ck_jobs_attempt_counts")),
        sa.CheckConstraint("total > 0", name=op.f("ck_jobs_total_positive")),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_jobs_board_id_boards")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_jobs_campaign_id_campaigns")),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_jobs_model_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint(
            "campaign_id", "board_id", "model", "kind", name=op.f("uq_jobs_campaign_id_board_id_model_kind")
        ),
    )
    op.create_index(op.f("ix_jobs_board_id_state"), "jobs", ["board_id", "state"])
    op.create_table(
        "plans",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.String(length=32), nullable=False),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("planner", sa.String(length=32), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("plan_json", sa.Text(), nullable=False),
        sa.Column("schedule_digest", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_plans_board_id_boards")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_plans_campaign_id_campaigns")),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_plans_model_models")),
        sa.ForeignKeyConstraint(
            ["schedule_digest"], ["schedules.digest"], name=op.f("fk_plans_schedule_digest_schedules")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
        sa.UniqueConstraint(
            "campaign_id",
            "board_id",
            "model",
            "planner",
            "method",
            name=op.f("uq_plans_campaign_id_board_id_model_planner_method"),
        ),
    )
    op.create_table(
        "curves",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("backend", sa.String(length=32), nullable=False),
        sa.Column("dtype", sa.String(length=8), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("stable", sa.Boolean(), nullable=False),
        sa.Column("unstable_reason", sa.Text(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("stable OR unstable_reason <> ''", name=op.f("ck_curves_unstable_has_reason")),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_curves_board_id_boards")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_curves_job_id_jobs")),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_curves_model_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_curves")),
        sa.UniqueConstraint("job_id", name=op.f("uq_curves_job_id")),
    )
    op.create_index(op.f("ix_curves_board_id_model"), "curves", ["board_id", "model"])
    op.create_table(
        "results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("kept", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("call_ns_json", sa.Text(), nullable=False),
        sa.Column("judgement_json", sa.Text(), nullable=True),
        sa.Column("telemetry_json", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "part IN ('model', 'sentinel', 'fixed', 'attention', 'mlp', 'reduce', 'schedule', 'accuracy', 'loss',"
            " 'input')",
            name=op.f("ck_results_part_known"),
        ),
        sa.CheckConstraint("status IN ('ok', 'oom')", name=op.f("ck_results_status_known")),
        sa.CheckConstraint("kept >= 1 AND kept <= tokens", name=op.f("ck_results_kept_within_tokens")),
        sa.CheckConstraint("round >= 0", name=op.f("ck_results_round_counts")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_results_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_results")),
        sa.UniqueConstraint("job_id", "part", "label", "block", "tokens", "kept", "round", name=op.f("uq_results_key")),
    )
    op.create_table(
        "verifications",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_verifications_job_id_jobs")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_verifications_plan_id_plans")),
        sa.PrimaryKeyConstraint("plan_id", name=op.f("pk_verifications")),
    )
    op.create_index(op.f("ix_verifications_job_id"), "verifications", ["job_id"])
    op.create_table(
        "steps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.String(length=32), nullable=False),
        sa.Column("board_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("note", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("curve_id", sa.Integer(), nullable=True),
        sa.Column("failure_json", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "phase IN ('waiting', 'sweep', 'profile', 'plan', 'verify', 'done', 'failed', 'cancelled')",
            name=op.f("ck_steps_phase_known"),
        ),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name=op.f("fk_steps_board_id_boards")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_steps_campaign_id_campaigns")),
        sa.ForeignKeyConstraint(["curve_id"], ["curves.id"], name=op.f("fk_steps_curve_id_curves")),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_steps_model_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_steps")),
        sa.UniqueConstraint("campaign_id", "board_id", "model", name=op.f("uq_steps_campaign_id_board_id_model")),
    )


def downgrade() -> None:
    for table in (
        "steps",
        "verifications",
        "results",
        "curves",
        "plans",
        "jobs",
        "tokens",
        "schedules",
        "profiles",
        "models",
        "machine_uses",
        "enrolments",
        "datasets",
        "campaigns",
        "boards",
    ):
        op.drop_table(table)
