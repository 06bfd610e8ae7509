"""Bundles that earlier releases wrote: they load, verify and predict what they predicted, for ever."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlops_nb.model.bundle import FORMAT
from mlops_nb.model.predictor import Predictor

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"
OLD = sorted(p.name for p in BUNDLES.iterdir() if p.is_dir())


@pytest.fixture(params=OLD)
def old(request):
    """The folder of a bundle, and predictions of it that were written down when it was packaged."""
    return BUNDLES / request.param, json.loads((BUNDLES / f"{request.param}.json").read_text())


def test_there_is_one_of_each_kind():
    assert {f"{name}-format-{n}" for name in ("emails", "loans") for n in range(1, FORMAT + 1)} <= {*OLD}


def test_graph_is_served_only_if_it_was_verified_on_hostile_rows(old):
    path, written = old
    predictor = Predictor.load(path)
    manifest = predictor.bundle.manifest
    assert manifest["engine"] == "onnxruntime"
    assert predictor.engine.name == ("scikit-learn" if manifest["format"] == 1 else "onnxruntime")
    expected = written["expected"]["scikit-learn"]["prediction"]
    assert predictor.predict_rows(written["features"]).prediction.tolist() == expected
    predictor.close()


@pytest.mark.parametrize("engine", ["onnxruntime", "scikit-learn"])
def test_old_bundle_loads_verifies_and_predicts_what_it_predicted(old, engine):
    path, written = old
    predictor = Predictor.load(path, engine=engine)  # verified: hashes, types, golden rows
    predictions = predictor.predict_rows(written["features"])
    expected = written["expected"][engine]
    assert predictions.prediction.tolist() == expected["prediction"]
    assert np.abs(predictions.probability - expected["probability"]).max() <= 1e-6
    predictor.close()
