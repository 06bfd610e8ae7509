"""Logged rows that are predicted again: a difference is an alert of its own kind, and nothing else is."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mlops_nb.errors import BundleError
from mlops_nb.model.bundle import read_manifest
from mlops_nb.model.predictor import Predictor
from mlops_nb.monitor import recheck as module
from mlops_nb.monitor.alerts import list_alerts
from mlops_nb.monitor.prediction_log import LogWindow
from mlops_nb.monitor.recheck import recheck
from tests.factories import SIGNATURE, package
from tests.monitor.test_health import SUM, Watched


@pytest.fixture
def watched(tmp_path):
    made = Watched(tmp_path, f"sqlite:///{tmp_path}/mlops.db")
    yield made
    made.close()


def misled(watched):
    """A service whose graph computes something else than the model that was trained."""
    graph = watched.predictor.engine.graph
    run = graph.run

    def wrong(table):
        labels, probability = run(table)
        change = 0.01 * probability[:, :1] * probability[:, 1:]
        return [labels, probability + change * [1, -1]]

    engine = SimpleNamespace(predict=lambda table: graph.predictions_of(wrong(table)), close=graph.close)
    watched.predictor.engine = engine


@pytest.mark.slow
def test_service_that_agrees_is_healthy_and_was_evaluated(watched):
    watched.serve()
    health = watched.look()
    assert health.status == "healthy"
    assert ("parity", "predictions") in health.evaluated


@pytest.mark.slow
def test_service_that_differs_is_an_alert_of_its_own_kind_which_closes(watched):
    misled(watched)
    watched.serve(ago=7200)
    health = watched.look()
    (finding,) = health.findings
    assert (finding.kind, finding.subject) == ("parity", "predictions")
    assert finding.text.endswith("in a probability")
    assert finding.figures["version"] == 1
    assert finding.figures["since"]
    (alert,) = list_alerts(watched.registry.engine, "toy")
    assert watched.log.get(alert.figures["ids"][0]).version == 1, "its ids are rows of the log"
    watched.predictor = watched.registry.load("toy")
    watched.serve(ago=60)
    assert watched.look(rows=1000).findings == []
    assert list_alerts(watched.registry.engine, "toy") == []


@pytest.mark.slow
def test_version_that_scikit_learn_serves_is_not_checked(watched):
    watched.serve()
    bundle = read_manifest(watched.registry.fetch(watched.registry.get("toy", 1)))
    bundle.manifest["parity"] = None
    assert recheck(bundle, watched.log.read("toy")) == module.Recheck()


@pytest.mark.slow
def test_empty_window_and_a_log_without_a_column_are_not_evaluated(watched):
    watched.serve()
    bundle, window = watched.predictor.bundle, watched.log.read("toy")
    assert recheck(bundle, LogWindow(window.predictions[:0], window.inputs[:0])) == module.Recheck()
    assert recheck(bundle, LogWindow(window.predictions, window.inputs[["a"]])) == module.Recheck()


@pytest.mark.slow
def test_bundle_that_cannot_be_loaded_is_inconclusive(watched, monkeypatch):
    def refuse(*_, **__):
        raise BundleError("model.skops of toy is missing.")

    watched.serve()
    monkeypatch.setattr(module, "load_engine", refuse)
    assert watched.look().inconclusive == ["parity of predictions: model.skops of toy is missing."]


@pytest.mark.slow
def test_regression_is_compared_relative_to_its_value(tmp_path):
    watched = Watched(tmp_path, f"sqlite:///{tmp_path}/mlops.db", SUM)
    watched.serve()
    window = watched.log.read("toy")
    assert recheck(watched.predictor.bundle, window).findings == []
    window.predictions["prediction"] = [p + 1e-3 for p in window.predictions["prediction"]]
    (finding,) = recheck(watched.predictor.bundle, window).findings
    assert finding.size == pytest.approx(1e-3, rel=0.1)
    watched.close()


def test_missing_values_and_categories_are_predicted_as_they_were_logged(tmp_path):
    bundle = package(tmp_path / "mixed", 1.0, SIGNATURE)
    bundle.manifest.update(engine="onnxruntime", parity={"domain": {}})  # whatever serves: the log is what counts
    rows = [{"age": 41, "income": None, "home": "own"}, {"age": 20, "home": "rent"}]
    rows.append({"age": 70, "income": 3000.5, "home": "own"})
    served = Predictor.load(bundle.path, engine="scikit-learn").predict_rows(rows)
    columns = {"prediction": served.prediction.tolist(), "probability": served.probability.tolist()}
    ids = ["a", "b", "c"]
    window = LogWindow(pd.DataFrame(columns, index=ids), pd.DataFrame(rows, index=ids))
    found = recheck(bundle, window)
    assert (found.rows, found.findings) == (3, [])
    strange = window.inputs.assign(home=["own", "boat", "own"])
    found = recheck(bundle, LogWindow(window.predictions, strange))
    assert (found.rows, found.findings) == (2, []), "a row of an older signature is left out"
    assert np.isnan(window.inputs["income"]).sum() == 2
