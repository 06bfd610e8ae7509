"""Continuous training of an anomaly detector that never has a label."""

import pytest

from mlops_nb.settings import Settings
from mlops_nb.spec import import_from, load_spec
from tests.pipeline.conftest import copy_project
from tests.simulated_production import World

GAUGES = """
import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.ensemble import IsolationForest

from mlops_nb.spec import Gates, ModelSpec


def draw(n, seed, shift=0.0):
    return pd.DataFrame(np.random.default_rng(seed).normal(shift, size=(n, 2)), columns=["a", "b"])


spec = ModelSpec(
    name="gauges",
    load=lambda: draw(2000, 0),
    target=None,
    task="anomaly",
    schema=pa.DataFrameSchema({"a": pa.Column(float), "b": pa.Column(float)}),
    make_estimator=lambda params: IsolationForest(n_estimators=30, contamination=0.03, **params),
    gates=Gates(alarm_rate=(0.002, 0.1)),
    scenarios={"good": draw, "drift": lambda n, seed: draw(n, seed, 2.0)},
)
"""


@pytest.mark.slow
@pytest.mark.nightly
def test_detector_without_labels_is_built_watched_and_retrained_from_the_newest_rows(tmp_path):
    project = copy_project(tmp_path / "project")
    (project.path / "gauges.py").write_text(GAUGES)
    project.build(spec="gauges")
    card = (project.path / "products" / "gauges" / "bundle" / "model_card.md").read_text()
    assert "**Task:** anomalies, without labels" in card
    assert "**Decides by:** `alarm_rate`" in card
    import_from(project.path)
    world = World(project.path, Settings.read({"MLOPS_HOME": str(project.path)}), load_spec("gauges"))
    try:
        world.serve(world.draw("good", 1000, 1), labels=False)
        assert world.retrain().action == "nothing"
        world.serve(world.draw("drift", 200, 2), labels=False)
        waiting = world.retrain(rows=200)
        assert waiting.action == "waiting"
        assert waiting.reasons[0] == "waiting for rows: 200 rows that version 1 has not seen, 300 are needed"
        world.serve(world.draw("drift", 1000, 3), labels=False)
        decision = world.retrain()
        assert decision.action == "promoted", decision.reasons
        assert any(reason.startswith("alarms of alarm rate") for reason in decision.reasons)
        world.serve(world.draw("drift", 1000, 4), labels=False)
        assert world.retrain().action == "nothing"
        card = (world.registry.fetch(world.registry.get("gauges", 2)) / "model_card.md").read_text()
        assert "and 700 are rows of production" in card
    finally:
        world.close()
