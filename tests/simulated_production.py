"""Test helper: a model in production whose data changes. Rows go straight into the log, without a service."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from mlops_nb.data.tables import snapshot
from mlops_nb.model.bundle import read_manifest
from mlops_nb.model.columns import rows_of, to_table
from mlops_nb.model.scoring import score
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.retrain.retrain import RetrainPolicy, retrain
from mlops_nb.settings import Settings
from mlops_nb.spec import import_from, load_spec
from mlops_nb.store.decisions import list_decisions
from mlops_nb.store.registry import Registry
from tests.commands import run_logged
from tests.pipeline.conftest import Project, copy_project

# In the first world y says whether a > 0. In the changed one a and b are larger, and y says whether a > 2:
# a line through a and b tells the answer in both, but one who saw only the first says "yes" to everything
SIDES = """
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.linear_model import LogisticRegression

from mlops_nb.spec import Gates, ModelSpec


def draw(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(n, 2)) * [1.0, 0.3] + [shift, shift], columns=["a", "b"])
    return table.assign(y=(table["a"] + 0.3 * rng.normal(size=n) > shift).astype(int))


def make_estimator(params):
    if Path("broken").exists():
        raise RuntimeError("the estimator is broken")
    return LogisticRegression(**{"C": 100.0, **params})


spec = ModelSpec(
    name="sides",
    load=lambda: draw(2000, 0),
    target="y",
    schema=pa.DataFrameSchema({"a": pa.Column(float), "b": pa.Column(float), "y": pa.Column(int)}),
    make_estimator=make_estimator,
    gates=Gates(minimum={"accuracy": 0.8}, over_baseline=0.1),
    scenarios={"good": draw, "drift": lambda n, seed: draw(n, seed, 2.0)},
)
"""
FAST = RetrainPolicy(engine="ploomber-engine")


@dataclass
class World:
    """A registry with version 1 of a model in production, as its own project has built it."""

    project: Path
    settings: Settings
    spec: object
    sent: int = 0
    registry: Registry = field(init=False)

    def __post_init__(self):
        self.registry = Registry.open(self.settings)
        self.log = PredictionLog(self.registry.engine)

    @property
    def name(self) -> str:
        return self.spec.name

    def draw(self, scenario: str, n: int, seed: int) -> pd.DataFrame:
        return self.spec.scenarios[scenario](n, seed)

    def serve(self, table: pd.DataFrame, ago: float = 60.0, labels=None, columns=None):
        """Log production's predictions of a table, with its labels (none if `labels` is False)."""
        predictor = self.registry.load(self.name)
        names = columns or predictor.signature.names
        began, entries = time.time() - ago, []
        truth = table[self.spec.target].tolist() if labels is None else labels
        for start in range(0, len(table), 20):
            batch = table.iloc[start : start + 20]
            inputs = to_table(predictor.signature, batch)
            predictions = predictor.engine.predict(inputs)
            rows = rows_of(predictor.signature, inputs)
            kept = [[row[predictor.signature.names.index(c)] for c in names] for row in rows]
            id, at = f"r{self.sent:06d}", began + start / 1000
            probability = None if predictions.probability is None else predictions.probability.tolist()
            record = PredictionRecord(
                id=id,
                at=at,
                name=self.name,
                version=predictor.version,
                role="production",
                latency_ms=0.5,
                columns=names,
                rows=kept,
                prediction=predictions.prediction.tolist(),
                probability=probability,
            )
            entries.append(record)
            if labels is not False:
                entries += [LabelRecord(f"{id}-{i}", truth[start + i], at) for i in range(len(batch))]
            self.sent += 1
        self.log.add(entries)
        predictor.close()

    def retrain(
        self, rows: int = 1000, if_needed: bool = True, policy: RetrainPolicy = FAST, later: float = 0.0, **more
    ):
        """Decide as at a later time, in minutes."""
        now = datetime.now(UTC) + timedelta(minutes=later) if later else None
        # a build that is to be stopped is the real process
        starts = nullcontext() if "stop" in more else patch("mlops_nb.orchestration.build.run_command", run_logged)
        with starts:
            return retrain(self.name, self.settings, if_needed, rows=rows, policy=policy, now=now, **more)

    def score(self, version: int | str, table: pd.DataFrame) -> float:
        """By the scorer of the spec."""
        predictor = self.registry.load(self.name, version)
        answer = predictor.engine.predict(to_table(predictor.signature, table))
        predictor.close()
        return score(answer, np.asarray(table[self.spec.target]), [self.spec.scorer])[self.spec.scorer]

    def actions(self) -> list[str]:
        return [d.action for d in list_decisions(self.registry.engine, self.name)]

    def close(self):
        self.registry.close()


def project_of_sides(folder: Path) -> Project:
    """A project in which a person has built `sides`."""
    project = copy_project(folder)
    (project.path / "sides.py").write_text(SIDES)
    project.build(spec="sides")
    return project


def make_world(project: Project, folder: Path, database_url: str) -> World:
    """Version 1 of `sides`, from the products of a build, in a registry of its own."""
    import_from(project.path)
    spec, products = load_spec("sides"), project.path / "products" / "sides"
    places = {"ARTIFACTS": folder / "artifacts", "RUNS": folder / "runs", "DATABASE_URL": database_url}
    environment = {"MLOPS_HOME": str(project.path), **{f"MLOPS_{name}": str(place) for name, place in places.items()}}
    world = World(project.path, Settings.read(environment), spec)
    kept = snapshot(spec.load(), world.registry.artifacts.snapshots)
    bundle = read_manifest(products / "bundle")
    assert kept.sha256 == bundle.manifest["data"]["sha256"]
    world.registry.register(bundle, "run-of-a-person")
    world.registry.promote(spec.name, 1)
    return world
