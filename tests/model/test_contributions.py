"""Contributions against values that are known, and the time that they take."""

import time

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline

from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.contributions import measure_contributions
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Input, Signature


@pytest.mark.slow
def test_contributions_are_exact_for_two_columns_that_only_matter_together(tmp_path):
    """Of `x` and `y` that give 1 only together each has half: by hand (f(xy) - f(bb)) / 2 on a background of zeros."""
    grid = pd.DataFrame([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)] * 30, columns=["x", "y"])
    signature = Signature((Input("x"), Input("y"), Input("z", required=False)), "classification", "both", (0, 1))
    forest = RandomForestClassifier(50, bootstrap=False, random_state=0)
    model = make_pipeline(make_column_transformer(("passthrough", ["x", "y"])), forest)
    model.fit(grid.assign(z=np.nan), (grid.sum(axis=1) == 2).astype(int))
    zeros = pd.DataFrame({"x": [0.0] * 20, "y": [0.0] * 20, "z": [np.nan] * 20})
    bundle = write_bundle(tmp_path / "b", "both", model, signature, zeros, zeros, {"evaluation": None})
    predictor = Predictor.load(bundle.path)
    found, mean = measure_contributions(predictor, {"x": 1.0, "y": 1.0, "z": None})
    predictor.close()
    effects = {c.column: c.effect for c in found}
    assert mean == pytest.approx(0)
    assert effects == pytest.approx({"x": 0.5, "y": 0.5, "z": 0})


@pytest.mark.slow
def test_thirty_columns_take_less_than_a_second(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 30)), columns=[f"c{i:02d}" for i in range(30)])
    model = RandomForestClassifier(100, random_state=0).fit(frame, (frame["c07"] > 0).astype(int))
    signature = Signature(tuple(map(Input, frame)), "classification", "y", (0, 1))
    bundle = write_bundle(tmp_path / "b", "wide", model, signature, frame, frame, {"evaluation": None})
    predictor, rows = Predictor.load(bundle.path, engine="scikit-learn"), []
    predict = predictor.predict
    monkeypatch.setattr(predictor, "predict", lambda table: rows.append(len(table)) or predict(table))
    began = time.process_time()
    found, _ = measure_contributions(predictor, frame.iloc[0].to_dict())
    seconds = time.process_time() - began
    predictor.close()
    assert found[0].column == "c07"
    assert seconds < 1
    assert sum(rows) <= 10_000
