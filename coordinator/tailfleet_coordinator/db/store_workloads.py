"""Queries on models and datasets: what can be run."""

from dataclasses import replace as changed
from typing import Any

from sqlalchemy import Connection, insert, select, update

from tailfleet_coordinator.db.engine import Database, Now, lock_table
from tailfleet_coordinator.db.tables import CampaignTable, DatasetTable, ModelTable, StepTable
from tailfleet_coordinator.library.admission import check_classes, check_model
from tailfleet_coordinator.refusals import NameTaken, UnknownName
from tailfleet_schema import codec
from tailfleet_schema.campaign import CampaignState
from tailfleet_schema.workload import DatasetSpec, ModelSpec


class WorkloadQueries(Database):
    """Models and datasets by name."""

    def put_model(self, spec: ModelSpec) -> None:
        """Register the model, or what its name means from now on."""
        with self.writing() as connection:
            lock_table(connection, "models")
            _write(connection, ModelTable, spec.name, _model_values(spec))

    def put_dataset(self, spec: DatasetSpec) -> None:
        """Register the dataset, or what its name means from now on."""
        with self.writing() as connection:
            lock_table(connection, "datasets")
            _write(connection, DatasetTable, spec.name, _dataset_values(spec))

    def add_model(self, spec: ModelSpec, replace: bool = False) -> bool:
        """Register a lab's own model; False where the very same is registered already.

        Raises ``InputError`` for what cannot be run or judged, ``UnknownName`` for a dataset that is not there, and
        ``NameTaken`` where the name means another model: without ``replace``, or while a running campaign uses it,
        whose sweep and verification would be of two models.
        """
        with self.writing() as connection:
            _lock_library(connection)
            check_model(spec, None if spec.dataset is None else load_dataset(connection, spec.dataset))
            known = _known(connection, ModelTable, spec.name)
            if known == codec.dumps(spec):
                return False
            if known is not None:
                if not replace:
                    raise NameTaken(
                        f"another model is called {spec.name!r}",
                        "choose another name, or replace it with --replace: its curves are then not reused",
                    )
                _refuse_in_use(connection, [spec.name])
            _write(connection, ModelTable, spec.name, _model_values(spec))
            return True

    def add_dataset(self, spec: DatasetSpec, replace: bool = False) -> bool:
        """Register a lab's own images; False where the very same are registered already.

        Raises ``InputError`` where a model that is judged on them does not know all their classes, and ``NameTaken``
        as :meth:`add_model` does.
        """
        with self.writing() as connection:
            _lock_library(connection)
            known = _known(connection, DatasetTable, spec.name)
            if known is not None:
                if changed(codec.loads(DatasetSpec, known), source=spec.source) == spec:
                    return False
                if not replace:
                    raise NameTaken(
                        f"another dataset is called {spec.name!r}", "choose another name, or replace it with --replace"
                    )
                judged = [model for model in _load_models(connection) if model.dataset == spec.name]
                for model in judged:
                    check_classes(model, spec)
                _refuse_in_use(connection, [model.name for model in judged])
            _write(connection, DatasetTable, spec.name, _dataset_values(spec))
            return True

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
    text = _known(connection, DatasetTable, name)
    if text is None:
        raise UnknownName(f"no dataset is called {name!r}", "tailfleet dataset list")
    return codec.loads(DatasetSpec, text)


def load_model(connection: Connection, name: str) -> ModelSpec:
    """The model so named. Raises ``UnknownName``."""
    text = _known(connection, ModelTable, name)
    if text is None:
        raise UnknownName(f"no model is called {name!r}", "tailfleet model list")
    return codec.loads(ModelSpec, text)


def _lock_library(connection: Connection) -> None:
    # Both, in one order: a model and the images that it names must not change under each other.
    lock_table(connection, "datasets")
    lock_table(connection, "models")


def _model_values(spec: ModelSpec) -> dict[str, Any]:
    return {"digest": spec.digest, "spec_json": codec.dumps(spec), "registered_at": Now()}


def _dataset_values(spec: DatasetSpec) -> dict[str, Any]:
    return {"sha256": spec.sha256, "spec_json": codec.dumps(spec), "registered_at": Now()}


def _known(connection: Connection, table: type[ModelTable | DatasetTable], name: str) -> str | None:
    """The specification that the name stands for."""
    return connection.execute(select(table.spec_json).where(table.name == name)).scalar()


def _write(connection: Connection, table: type[ModelTable | DatasetTable], name: str, values: dict[str, Any]) -> None:
    """Let the name, whose table is locked, stand for ``values``."""
    known = _known(connection, table, name)
    if known is None:
        connection.execute(insert(table).values(name=name, **values))
    elif known != values["spec_json"]:
        connection.execute(update(table).where(table.name == name).values(**values))


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
