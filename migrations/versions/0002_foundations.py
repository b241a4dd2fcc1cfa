"""One writer (leadership), logs of each attempt, boards that can be revoked; and rows that were never meant to exist.

Revision ID: 0002
Revises: 0001
"""

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from tailfleet_schema.errors import ConfigurationError

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
        "board_not_empty": "board <> ''",
        "expires_after_its_creation": "expires_at > created_at",
        "token_hash_is_a_digest": "length(token_hash) = 64",
    },
    "tokens": {"name_not_empty": "name <> ''", "token_hash_is_a_digest": "length(token_hash) = 64"},
    "models": {"digest_is_a_digest": "length(digest) = 64"},
    "datasets": {"sha256_is_a_digest": "length(sha256) = 64"},
    "jobs": {
        "finished_exactly_if_ended": f"({ENDED}) = (finished_at IS NOT NULL)",
        "failed_has_reason": "state <> 'failed' OR failure_json IS NOT NULL",
        "leased_was_given": "state <> 'leased' OR attempt >= 1",
    },
    "results": {
        "block_counts": "block >= -1",
        "attempt_counts": "attempt >= 1",
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
    "machine_uses": {"holder_named": "holder <> ''"},
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

    Digests of the models in stored curves stay as they were: those were measured on models of another digest.
    """
    normal = {}
    for name, told in _read("datasets", "name", "spec_json"):
        normal[name] = _preprocessing(told)
        _write("datasets", "name", "spec_json", name, told | {"form": "arrays", "pack_sha256": None})
    for name, told in _read("models", "name", "spec_json"):
        _settle(told, normal)
        digest = hashlib.sha256(_text(told).encode()).hexdigest()
        _write("models", "name", "spec_json", name, told)
        op.get_bind().execute(sa.text("UPDATE models SET digest = :d WHERE name = :n"), {"d": digest, "n": name})
    for name, told in _read("jobs", "id", "job_json"):
        own = dict(normal)
        if told.get("dataset") is not None:
            own[told["dataset"]["name"]] = _preprocessing(told["dataset"])
            told["dataset"] |= {"form": "arrays", "pack_sha256": None}
        _settle(told["workload"]["model"], own)
        _write("jobs", "id", "job_json", name, told)


def _preprocessing(dataset: dict[str, Any]) -> dict[str, Any]:
    """Taken from the dataset: how its images became a model's input, in all the words that a model has for it."""
    return {
        "mean": [dataset.pop("mean")],
        "std": [dataset.pop("std")],
        "interpolation": "bilinear",
        "crop_share": 1.0,
        "crop_mode": "center",
    }


def _settle(model: dict[str, Any], normal: dict[str, dict[str, Any]]) -> None:
    model["preprocessing"] = normal.get(model["dataset"])
    model["pretrained"] = False
    if model["preprocessing"] is None:
        # Images that are not there are none.
        model["dataset"] = None


def _read(table: str, key: str, column: str) -> list[tuple[str, dict[str, Any]]]:
    rows = op.get_bind().execute(sa.text(f"SELECT {key}, {column} FROM {table}")).all()
    return [(name, json.loads(text)) for name, text in rows]


def _write(table: str, key: str, column: str, name: str, told: dict[str, Any]) -> None:
    statement = sa.text(f"UPDATE {table} SET {column} = :text WHERE {key} = :name")
    op.get_bind().execute(statement, {"text": _text(told), "name": name})


def _text(told: dict[str, Any]) -> str:
    """As the schema's codec writes it: the digests are of this text."""
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


def downgrade() -> None:
    raise ConfigurationError(
        "revision 0002 cannot be undone: the earlier release could not read the workloads that it wrote",
        "put back the copy of the database from before the upgrade",
    )
