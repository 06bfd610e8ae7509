"""scikit-learn beside a graph that predicts every row: loaded by the first row that is too close, and verified then."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlops_nb.errors import BundleError
from mlops_nb.model.bundle import load_engine, write_bundle
from mlops_nb.model.engine import EXACT_TOLERANCE, TOLERANCE, LazyEngine, SklearnEngine
from mlops_nb.model.probes import boundary_rows
from mlops_nb.model.signature import Input, Signature
from tests.factories import NUMBERS
from tests.model.test_bundle import FACTS, rehash, rewrite

RNG = np.random.default_rng(0)
X = pd.DataFrame(RNG.normal(size=(300, 2)), columns=["a", "b"])
SIDE = (X["a"] > X["b"]).astype(int)


def close_row(bundle) -> np.ndarray:
    """A row on the border between the two classes, as near as numbers go."""
    _, engine = load_engine(bundle.path, engine="scikit-learn")
    coef, intercept = engine.estimator.coef_[0], engine.estimator.intercept_[0]
    return np.array([[0.0, -intercept / coef[1]]])


def test_linear_model_is_verified_in_double_precision_for_every_row(original):
    parity = original.manifest["parity"]
    assert parity["tolerance"] == EXACT_TOLERANCE
    assert parity["domain"] == {"numbers": {}, "texts": {}, "known": {}, "missing": []}
    assert original.manifest["onnx"]["max_difference"] < 1e-12


def test_fallback_is_loaded_by_the_first_close_row_alone(bundle, monkeypatch):
    loaded, close = [], close_row(bundle)
    load = SklearnEngine.__init__
    monkeypatch.setattr(SklearnEngine, "__init__", lambda self, *args: (loaded.append(1), load(self, *args))[1])
    _, engine = load_engine(bundle.path, lazy=True)
    for rows in ([[1.0, 0.0]], [[1e300, -1e308], [0.0, 1e-300]], X.to_numpy()):
        engine.predict(np.array(rows))
    assert loaded == []
    for _ in range(2):
        engine.predict(close)
    assert loaded == [1]


@pytest.mark.slow
def test_labels_on_the_border_are_those_of_scikit_learn(bundle):
    _, engine = load_engine(bundle.path, lazy=True)
    _, fitted = load_engine(bundle.path, engine="scikit-learn")
    table = X.to_numpy()
    border = np.concatenate(boundary_rows(lambda rows: fitted.predict(rows).prediction, NUMBERS, table, RNG))
    assert (engine.graph.predict(border).prediction != fitted.predict(border).prediction).any(), "the graph differs"
    for row in border:
        assert engine.predict(row.reshape(1, -1)).prediction == fitted.predict(row.reshape(1, -1)).prediction


def test_file_that_was_changed_since_is_refused_when_it_is_needed(bundle):
    close = close_row(bundle)
    _, engine = load_engine(bundle.path, lazy=True)
    model = bundle.path / "model.skops"
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(BundleError, match=r"model\.skops of toy was changed"):
        engine.predict(close)
    assert engine.predict(np.array([[1.0, 0.0]])).prediction.tolist() == [1]


def test_strange_type_is_refused_at_load_whoever_needs_the_file(bundle):
    strange = {"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode"}
    rewrite(bundle.path / "model.skops", lambda schema, _: schema.update(strange))
    rehash(bundle.path, "model.skops")
    with pytest.raises(BundleError, match=r"not on the allow-list: subprocess\.Popen"):
        load_engine(bundle.path, lazy=True)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x00" * 1000])
def test_broken_model_file_is_refused_at_load(bundle, content):
    (bundle.path / "model.skops").write_bytes(content)
    rehash(bundle.path, "model.skops")
    with pytest.raises(BundleError, match="is not a model file"):
        load_engine(bundle.path, lazy=True)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 0.1, 1, "1e-10", None, True])
def test_tolerance_that_is_none_is_refused(bundle, tolerance):
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["parity"]["tolerance"] = tolerance
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="its tolerance is no number"):
        load_engine(bundle.path)


def test_others_than_services_load_scikit_learn_at_once(bundle):
    assert isinstance(load_engine(bundle.path)[1].fallback, SklearnEngine)
    assert isinstance(load_engine(bundle.path, lazy=True)[1].fallback, LazyEngine)


ESTIMATORS = {
    "scaled": (make_pipeline(StandardScaler(), LogisticRegression()), True),
    "numbers": (LinearRegression(), True),
    "forest": (RandomForestClassifier(5, random_state=0), False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_model_whose_rows_may_leave_the_graph_has_scikit_learn_before_it_serves(name, tmp_path):
    estimator, is_lazy = ESTIMATORS[name]
    regression = Signature((Input("a"), Input("b")), "regression", "y")
    signature, y = (regression, X["a"] - 0.7 * X["b"]) if name == "numbers" else (NUMBERS, SIDE)
    bundle = write_bundle(tmp_path / "toy", "toy", estimator.fit(X, y), signature, X, X, FACTS)
    assert bundle.manifest["parity"]["tolerance"] == (EXACT_TOLERANCE if is_lazy else TOLERANCE)
    assert isinstance(load_engine(bundle.path, lazy=True)[1].fallback, LazyEngine) == is_lazy


@pytest.mark.slow
@pytest.mark.parametrize("unseen", ["error", "ignore"])
def test_linear_model_of_numbers_and_categories_needs_no_scikit_learn(unseen, tmp_path):
    rows = X.assign(home=RNG.choice(["own", "rent"], 300))
    home = Input("home", "string", categories=("own", "rent"), unseen=unseen)
    signature = Signature((Input("a"), Input("b"), home), "classification", "y", (0, 1))
    columns = make_column_transformer(
        (StandardScaler(), ["a", "b"]), (OneHotEncoder(handle_unknown="ignore"), ["home"])
    )
    estimator = make_pipeline(columns, LogisticRegression()).fit(rows, SIDE)
    bundle = write_bundle(tmp_path / "toy", "toy", estimator, signature, rows, rows, FACTS)
    assert isinstance(load_engine(bundle.path, lazy=True)[1].fallback, LazyEngine)
