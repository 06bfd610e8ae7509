"""A model that is not scikit-learn's: trained by a function of the project, served from its graph."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlops_nb.errors import InputError, TrainingError
from mlops_nb.estimators import OnnxClassifier, OnnxRegressor
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import signature_of
from mlops_nb.model.train import fit
from mlops_nb.spec import ModelSpec
from tests.factories import served

HERE = __name__


def graph_of(weights: np.ndarray, activation: str | None, n_inputs: int = 1) -> bytes:
    """A graph of one layer."""
    weight = numpy_helper.from_array(weights.astype(np.float32), "w")
    nodes = [helper.make_node("MatMul", ["X0", "w"], ["z"])]
    nodes.append(helper.make_node(activation or "Identity", ["z"], ["p"]))
    given = [helper.make_tensor_value_info(f"X{i}", TensorProto.FLOAT, [None, len(weights)]) for i in range(n_inputs)]
    out = helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, weights.shape[1]])
    made = helper.make_graph(nodes, "layer", given, [out], [weight])
    opset = helper.make_opsetid("", 18)
    return helper.make_model(made, opset_imports=[opset], ir_version=9).SerializeToString()


def train_softmax(X, y, steps=100):
    """Several classes, a probability each."""
    weights, truth = np.zeros((X.shape[1], y.max() + 1)), np.eye(y.max() + 1)[y]
    for _ in range(steps):
        scores = np.exp(X @ weights)
        weights -= X.T @ (scores / scores.sum(axis=1, keepdims=True) - truth) / len(X)
    return graph_of(weights, "Softmax")


def train_line(X, y):
    """A quantity, by least squares."""
    return graph_of(np.linalg.lstsq(X, y, rcond=None)[0][:, None], None)


def train_scores(X, y):
    """No probabilities."""
    return graph_of(np.ones((X.shape[1], 2)) * 3, None)


def train_two_inputs(X, y):
    """A graph with a second input."""
    return graph_of(np.ones((X.shape[1], 1)), None, n_inputs=2)


def train_nothing(X, y):
    """No graph."""
    return


def train_logarithm(X, y):
    """A number that is none for negative rows."""
    return graph_of(np.ones((X.shape[1], 1)), "Log")


def rows_of(n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"a": rng.normal(size=n), "b": rng.normal(size=n)})
    rows["size"] = 2 * rows["a"] - rows["b"]
    rows["kind"] = [f"{a > 0} {b > 0}" for a, b in zip(rows["a"], rows["b"], strict=True)]
    return rows


def spec_of(make_estimator, target: str) -> ModelSpec:
    kind, task, scorer = (str, "classification", "accuracy") if target == "kind" else (float, "regression", "r2")
    columns = {name: pa.Column(float, nullable=True) for name in ("a", "b")} | {target: pa.Column(kind)}
    return ModelSpec("layer", rows_of, target, pa.DataFrameSchema(columns), make_estimator, scorer, task)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "name", "kind"), [("kind", "softmax", OnnxClassifier), ("size", "line", OnnxRegressor)]
)
def test_graph_is_served_as_it_was_trained(target, name, kind, tmp_path):
    train = f"{HERE}.train_{name}"
    spec = spec_of(lambda params: make_pipeline(SimpleImputer(), StandardScaler(), kind(train, params)), target)
    estimator, X, predictor = served(spec, tmp_path, folds=2)
    assert estimator.score(X, rows_of()[target]) > 0.9
    got = predictor.predict_rows(json.loads(X.to_json(orient="records", double_precision=15)))
    if kind is OnnxClassifier:
        assert got.prediction.tolist() == estimator.predict(X).tolist()
        np.testing.assert_allclose(got.probability, estimator.predict_proba(X), atol=1e-6)
    else:
        np.testing.assert_allclose(got.prediction, estimator.predict(X), rtol=1e-5, atol=1e-6)
    assert len(predictor.predict_rows([{"a": None, "b": 1.0}]).prediction) == 1


@pytest.mark.slow
def test_service_needs_neither_the_function_nor_its_module(tmp_path):
    spec = spec_of(lambda params: OnnxRegressor(f"{HERE}.train_line"), "size")
    estimator, _, _ = served(spec, tmp_path, folds=2)
    program = "from mlops_nb.model.predictor import Predictor\nimport sys\n"
    program += f"got = Predictor.load({str(tmp_path / 'bundle')!r}).predict_rows([[1.0, 2.0]])\n"
    program += "print(got.prediction.tolist()[0], 'tests' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    number, imported = done.stdout.split()
    wanted = estimator.predict(pd.DataFrame([[1.0, 2.0]], columns=["a", "b"]))[0]
    assert (float(number), imported) == (pytest.approx(wanted), "False")


@pytest.mark.parametrize(
    ("make_estimator", "target", "message"),
    [
        (
            lambda _: OnnxClassifier(f"{HERE}.train_scores"),
            "kind",
            r"must return 4 probabilities a row: the first row has",
        ),
        (lambda _: OnnxRegressor(f"{HERE}.train_scores"), "size", r"returns 2 numbers a row; a regressor returns one"),
        (lambda _: OnnxRegressor(f"{HERE}.train_two_inputs"), "size", r"The graph has 2 inputs; it must have one"),
        (
            lambda _: OnnxRegressor(f"{HERE}.train_nothing"),
            "size",
            r"must return the bytes of an ONNX graph, got NoneType",
        ),
        (lambda _: OnnxRegressor(f"{HERE}.train_other"), "size", r"has no function 'train_other'"),
        (lambda _: OnnxRegressor("train"), "size", r"must be named with its module"),
    ],
    ids=["scores", "width", "inputs", "nothing", "name", "module"],
)
def test_function_that_returns_no_model_is_one_sentence(make_estimator, target, message):
    spec, rows = spec_of(make_estimator, target), rows_of()
    with pytest.raises(TrainingError, match=message):
        fit(spec, rows[["a", "b"]], rows[target], folds=0)


def test_row_without_a_finite_prediction_is_refused(tmp_path):
    rows, spec = rows_of(), spec_of(lambda params: OnnxRegressor(f"{HERE}.train_logarithm"), "size")
    positive = rows.assign(a=rows["a"].abs() + 1, b=rows["b"].abs() + 1)
    estimator = fit(spec, positive[["a", "b"]], positive["size"], folds=0).estimator
    metadata = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": None}
    write_bundle(tmp_path / "b", "layer", estimator, signature_of(spec, estimator), positive, positive, metadata)
    with pytest.raises(InputError, match="Row 0: the model has no finite prediction"):
        Predictor.load(tmp_path / "b").predict_rows([[-1.0, -2.0]])
