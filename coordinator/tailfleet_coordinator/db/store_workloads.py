"""Queries on models and datasets: what can be run."""

import hashlib
from dataclasses import replace as changed
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tailfleet_coordinator.db.engine import Database, Now, lock_table
from tailfleet_coordinator.db.tables import CampaignTable, DatasetTable, ModelTable, StepTable
from tailfleet_coordinator.library.admission import check_classes, check_model
from tailfleet_coordinator.refusals import NameTaken, UnknownName
from tailfleet_schema import codec
from tailfleet_schema.campaign import CampaignState
from tailfleet_schema.workload import DatasetSpec, ModelSpec


def model_digest(spec: ModelSpec) -> str:
    """sha256 (hex) of the specification: curves and profiles of another one are of another model."""
    return hashlib.sha256(codec.dumps(spec).encode()).hexdigest()


class WorkloadQueries(Database):
    """Models and datasets by name."""

    def put_model(self, spec: ModelSpec) -> None:
        """Register the model, or what its name means from now on."""
        values = {"digest": model_digest(spec), "spec_json": codec.dumps(spec), "registered_at": Now()}
        with self.writing() as connection:
            lock_table(connection, "models")
            known = connection.execute(select(ModelTable.digest).where(ModelTable.name == spec.name)).scalar()
            if known is None:
                connection.execute(insert(ModelTable).values(name=spec.name, **values))
            elif known != values["digest"]:
                connection.execute(update(ModelTable).where(ModelTable.name == spec.name).values(**values))

    def put_dataset(self, spec: DatasetSpec) -> None:
        """Register the dataset, or what its name means from now on."""
        values = {"sha256": spec.sha256, "spec_json": codec.dumps(spec), "registered_at": Now()}
        with self.writing() as connection:
            lock_table(connection, "datasets")
            known = connection.execute(select(DatasetTable.spec_json).where(DatasetTable.name == spec.name)).scalar()
            if known is None:
                connection.execute(insert(DatasetTable).values(name=spec.name, **values))
            elif known != values["spec_json"]:
                connection.execute(update(DatasetTable).where(DatasetTable.name == spec.name).values(**values))

    def add_model(self, spec: ModelSpec, replace: bool = False) -> bool:
        """Register a lab's own model; False where the very same is registered already.

        Raises ``InputError`` for what cannot be run or judged, ``UnknownName`` for a dataset that is not there, and
        ``NameTaken`` where the name means another model: without ``replace``, or while a running campaign uses it,
        whose sweep and verification would be of two models.
        """
        values = {"digest": model_digest(spec), "spec_json": codec.dumps(spec), "registered_at": Now()}
        with self.writing() as connection:
            check_model(spec, None if spec.dataset is None else load_dataset(connection, spec.dataset))
            known = self._claim_name(connection, ModelTable, spec.name, values)
            if known is None or known == values["spec_json"]:
                return known is None
            if not replace:
                raise NameTaken(
                    f"another model is called {spec.name!r}",
                    "choose another name, or replace it with --replace: its curves are then not reused",
                )
            _refuse_in_use(connection, [spec.name])
            connection.execute(update(ModelTable).where(ModelTable.name == spec.name).values(**values))
            return True

    def add_dataset(self, spec: DatasetSpec, replace: bool = False) -> bool:
        """Register a lab's own images; False where the very same are registered already.

        Raises ``InputError`` where a model that is judged on them does not know all their classes, and ``NameTaken``
        as :meth:`add_model` does.
        """
        values = {"sha256": spec.sha256, "spec_json": codec.dumps(spec), "registered_at": Now()}
        with self.writing() as connection:
            text = self._claim_name(connection, DatasetTable, spec.name, values)
            if text is None:
                return True
            known = codec.loads(DatasetSpec, text)
            if changed(known, source=spec.source) == spec:
                return False
            if not replace:
                raise NameTaken(
                    f"another dataset is called {spec.name!r}", "choose another name, or replace it with --replace"
                )
            judged = [model for model in _load_models(connection) if model.dataset == spec.name]
            for model in judged:
                check_classes(model, spec)
            _refuse_in_use(connection, [model.name for model in judged])
            connection.execute(update(DatasetTable).where(DatasetTable.name == spec.name).values(**values))
            return True

    def _claim_name(
        self, connection: Connection, table: type[ModelTable | DatasetTable], name: str, values: dict[str, Any]
    ) -> str | None:
        """Insert the row unless the name is taken; then the specification that it stands for, locked."""
        dialect: Any = sqlite if self.is_sqlite else postgresql
        statement = dialect.insert(table).values(name=name, **values).on_conflict_do_nothing().returning(table.name)
        if connection.execute(statement).first() is not None:
            return None
        return str(connection.execute(select(table.spec_json).where(table.name == name).with_for_update()).scalar_one())

    def list_models(self) -> list[ModelSpec]:
        """All models by name."""
        with self.reading() as connection:
            return _load_models(connection)

    def list_datasets(self) -> list[DatasetSpec]:
        """All datasets by name."""
        with self.reading() as connection:
            rows = connection.execute(select(DatasetTable.spec_json).order_by(DatasetTable.name))
            return [codec.loads(DatasetSpec, text) for text in rows.scalars()]

    def get_model(self, name: str) -> ModelSpec:
        """The model so named. Raises ``UnknownName``."""
        with self.reading() as connection:
            return load_model(connection, name)

    def get_dataset(self, name: str) -> DatasetSpec:
        """The dataset so named. Raises ``UnknownName``."""
        with self.reading() as connection:
            return load_dataset(connection, name)


def load_dataset(connection: Connection, name: str) -> DatasetSpec:
    """The dataset so named. Raises ``UnknownName``."""
    text = connection.execute(select(DatasetTable.spec_json).where(DatasetTable.name == name)).scalar()
    if text is None:
        raise UnknownName(f"no dataset is called {name!r}", "tailfleet dataset list")
    return codec.loads(DatasetSpec, text)


def load_model(connection: Connection, name: str) -> ModelSpec:
    """The model so named. Raises ``UnknownName``."""
    text = connection.execute(select(ModelTable.spec_json).where(ModelTable.name == name)).scalar()
    if text is None:
        raise UnknownName(f"no model is called {name!r}", "tailfleet model list")
    return codec.loads(ModelSpec, text)


def _load_models(connection: Connection) -> list[ModelSpec]:
    rows = connection.execute(select(ModelTable.spec_json).order_by(ModelTable.name))
    return [codec.loads(ModelSpec, text) for text in rows.scalars()]


def _refuse_in_use(connection: Connection, models: list[str]) -> None:
    """Raise ``NameTaken`` where a running campaign measures one of ``models``."""
    using = connection.execute(
        select(StepTable.model, CampaignTable.id)
        .join(CampaignTable, CampaignTable.id == StepTable.campaign_id)
        .where(CampaignTable.state == CampaignState.RUNNING.value, StepTable.model.in_(models))
        .order_by(CampaignTable.created_at)
    ).first()
    if using is not None:
        raise NameTaken(
            f"the running campaign {using.id} uses model {using.model!r}",
            f"wait for its end, or: tailfleet campaign cancel {using.id}",
        )
