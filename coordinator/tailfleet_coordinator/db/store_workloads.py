"""Queries on models and datasets: what can be run."""

import hashlib

from sqlalchemy import Connection, insert, select, update

from tailfleet_coordinator.db.engine import Database, Now, lock_table
from tailfleet_coordinator.db.tables import DatasetTable, ModelTable
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_schema import codec
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

    def list_models(self) -> list[ModelSpec]:
        """All models by name."""
        with self.reading() as connection:
            rows = connection.execute(select(ModelTable.spec_json).order_by(ModelTable.name))
            return [codec.loads(ModelSpec, text) for text in rows.scalars()]

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
            text = connection.execute(select(DatasetTable.spec_json).where(DatasetTable.name == name)).scalar()
        if text is None:
            raise UnknownName(f"no dataset is called {name!r}")
        return codec.loads(DatasetSpec, text)


def load_model(connection: Connection, name: str) -> ModelSpec:
    """The model so named. Raises ``UnknownName``."""
    text = connection.execute(select(ModelTable.spec_json).where(ModelTable.name == name)).scalar()
    if text is None:
        raise UnknownName(f"no model is called {name!r}", "tailfleet model list")
    return codec.loads(ModelSpec, text)
