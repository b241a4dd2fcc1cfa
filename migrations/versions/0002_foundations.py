"""One writer (leadership), logs of each attempt, boards that can be revoked; and rows that were never meant to exist.

Revision ID: 0002
Revises: 0001
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ENDED = "state IN ('done', 'failed', 'cancelled')"

CHECKS = {
    "boards": {
        "name_not_empty": "name <> ''",
        "fingerprint_is_a_digest": "length(fingerprint) = 64",
        "token_hash_is_a_digest": "length(token_hash) = 64",
    },
    "enrolments": {
        "expires_after_its_creation": "expires_at > created_at",
        "token_hash_is_a_digest": "length(token_hash) = 64",
    },
    "tokens": {"name_not_empty": "name <> ''", "token_hash_is_a_digest": "length(token_hash) = 64"},
    "models": {"digest_is_a_digest": "length(digest) = 64"},
    "datasets": {"sha256_is_a_digest": "length(sha256) = 64"},
    "jobs": {
        "finished_exactly_if_ended": f"({ENDED}) = (finished_at IS NOT NULL)",
        "failed_has_reason": "state <> 'failed' OR failure_json IS NOT NULL",
    },
    "results": {
        "block_counts": "block >= -1",
        "ok_has_samples_or_judgement": "status <> 'ok' OR call_ns_json <> '[]' OR judgement_json IS NOT NULL",
    },
    "curves": {
        "batch_positive": "batch >= 1",
        "model_digest_is_a_digest": "length(model_digest) = 64",
        "fingerprint_is_a_digest": "length(fingerprint) = 64",
    },
    "profiles": {
        "kept_within_tokens": "kept >= 1 AND kept <= tokens",
        "model_digest_is_a_digest": "length(model_digest) = 64",
        "dataset_sha256_is_a_digest": "length(dataset_sha256) = 64",
    },
    "schedules": {"digest_is_a_digest": "length(digest) = 64"},
}


def upgrade() -> None:
    op.create_table(
        "leadership",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("holder_key", sa.String(length=255), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_leadership_one_row")),
        sa.CheckConstraint("epoch >= 1", name=op.f("ck_leadership_epoch_counts")),
        sa.CheckConstraint("holder <> ''", name=op.f("ck_leadership_holder_named")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leadership")),
    )
    op.create_table(
        "job_logs",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_job_logs_attempt_counts")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_logs_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "attempt", name=op.f("pk_job_logs")),
    )
    op.execute(
        "INSERT INTO job_logs (job_id, attempt, log, stored_at)"
        " SELECT id, attempt, log, COALESCE(finished_at, created_at) FROM jobs WHERE log <> '' AND attempt >= 1"
    )
    _move_preprocessing_to_models()
    # Of several good tokens of one name the newest stays good.
    op.execute(
        "UPDATE tokens SET revoked_at = created_at WHERE revoked_at IS NULL"
        " AND EXISTS (SELECT 1 FROM tokens other WHERE other.name = tokens.name AND other.revoked_at IS NULL"
        " AND other.id > tokens.id)"
    )
    op.create_index(
        "uq_tokens_name_good",
        "tokens",
        ["name"],
        unique=True,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    for table, checks in CHECKS.items():
        with op.batch_alter_table(table) as batch:
            if table == "boards":
                batch.add_column(sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True))
            if table == "jobs":
                batch.drop_column("log")
            for name, condition in checks.items():
                batch.create_check_constraint(op.f(f"ck_{table}_{name}"), condition)


def _move_preprocessing_to_models() -> None:
    """Mean and deviation of the images were the dataset's; now they are the model's, and part of its digest.

    Digests of the models in stored curves stay as they were: those were measured on models of another digest. The
    models that come with the coordinator are registered anew when it starts.
    """
    normal = {}
    for name, told in _read("datasets", "name", "spec_json"):
        normal[name] = {"mean": [told.pop("mean")], "std": [told.pop("std")], "interpolation": "bilinear"}
        _write("datasets", "name", "spec_json", name, told)
    for name, told in _read("models", "name", "spec_json"):
        if told.get("dataset") in normal:
            told["preprocessing"] = normal[told["dataset"]]
            _write("models", "name", "spec_json", name, told)
    for name, told in _read("jobs", "id", "job_json"):
        model, dataset = told["workload"]["model"], told.get("dataset")
        if dataset is not None:
            dataset.pop("mean")
            dataset.pop("std")
        if model.get("dataset") in normal:
            model["preprocessing"] = normal[model["dataset"]]
        _write("jobs", "id", "job_json", name, told)


def _read(table: str, key: str, column: str) -> list[tuple[str, dict[str, Any]]]:
    rows = op.get_bind().execute(sa.text(f"SELECT {key}, {column} FROM {table}")).all()
    return [(name, json.loads(text)) for name, text in rows]


def _write(table: str, key: str, column: str, name: str, told: dict[str, Any]) -> None:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    op.get_bind().execute(
        sa.text(f"UPDATE {table} SET {column} = :text WHERE {key} = :name"), {"text": text, "name": name}
    )


def downgrade() -> None:
    for table, checks in CHECKS.items():
        with op.batch_alter_table(table) as batch:
            for name in checks:
                batch.drop_constraint(op.f(f"ck_{table}_{name}"), type_="check")
            if table == "boards":
                batch.drop_column("revoked_at")
            if table == "jobs":
                batch.add_column(sa.Column("log", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.drop_index("uq_tokens_name_good", "tokens")
    op.execute(
        "UPDATE jobs SET log = COALESCE("
        "(SELECT log FROM job_logs WHERE job_logs.job_id = jobs.id ORDER BY attempt DESC LIMIT 1), '')"
    )
    op.drop_table("job_logs")
    op.drop_table("leadership")
