"""What a parameter means does not depend on how it came to the notebook."""

import ast
import json
import warnings

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from papermill.translators import PythonTranslator
from sklearn.cluster import KMeans
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import RadiusNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mlops_nb.errors import TrainingError
from mlops_nb.model.train import fit
from mlops_nb.spec import ModelSpec

X = pd.DataFrame({"x": np.arange(40.0)})
LABELS = {"int": [0, 1], "bool": [False, True], "text": ["no", "yes"], "negative": [-1, 1]}


def spec_of(task="classification", make_estimator=lambda params: DecisionTreeClassifier(**params)):
    schema = pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column()})
    return ModelSpec("keys", lambda: pd.DataFrame(), "y", schema, make_estimator=make_estimator, task=task)


def as_it_is(value):
    return value


def through_papermill(value):
    return ast.literal_eval(PythonTranslator.translate(value))


def through_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [lambda value: value, through_papermill, through_json], ids=["python", "papermill", "json"]
)
@pytest.mark.parametrize("kind", LABELS)
def test_keys_of_a_mapping_are_labels_on_every_way(kind, way):
    labels = LABELS[kind]
    y = pd.Series(labels * 20, name="y")
    params = {"class_weight": dict(zip([str(v) if way is through_json else v for v in labels], (1.5, 2), strict=True))}
    training = fit(spec_of(), X, y, way(params), folds=0)
    assert training.estimator.class_weight == dict(zip(labels, (1.5, 2), strict=True))
    assert [type(key) for key in training.params["class_weight"]] == [type(label) for label in labels]
    space = {"class_weight": [None, params["class_weight"]]}
    found = fit(spec_of(), X, y, space=way(space), folds=2)
    assert found.params["class_weight"] in (None, dict(zip(labels, (1.5, 2), strict=True)))


def given_to_make_estimator(y, task, params):
    made = []

    def make(given):
        made.append(given)
        return DummyClassifier() if task == "classification" else DummyRegressor()

    fit(spec_of(task, make), X, pd.Series(y, name="y"), params, folds=0)
    return made[-1]


def test_key_is_a_label_before_it_is_a_number():
    """scikit-learn itself reads text labels of digits as numbers, so no estimator of its own can show this."""
    params = {"weight": {"0": 1, "2": {"-1": "a"}, "x": 1}}
    assert given_to_make_estimator(["0", "1"] * 20, "classification", params) == {
        "weight": {"0": 1, 2: {-1: "a"}, "x": 1}
    }
    assert given_to_make_estimator(np.arange(40.0), "regression", params) == {"weight": {0: 1, 2: {-1: "a"}, "x": 1}}


def test_estimator_that_refuses_rows_far_away_is_named_in_training():
    rows = pd.DataFrame({"x": np.linspace(0, 1, 60)})
    labels = (rows["x"] > 0.5).astype(int)
    schema = pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column(int)})

    def spec(**params):
        return ModelSpec("toy", lambda: rows, "y", schema, lambda _: RadiusNeighborsClassifier(0.3, **params))

    with pytest.warns(UserWarning, match=r"RadiusNeighborsClassifier has no prediction .* Give it outlier_label"):
        fit(spec(), rows, labels, folds=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(spec(outlier_label=0), rows, labels, folds=2)


@pytest.mark.parametrize(
    "wrong", [None, LogisticRegression, {"a": 1}, "forest", lambda: None], ids=lambda wrong: type(wrong).__name__
)
def test_what_is_no_estimator_is_refused_in_one_sentence(wrong):
    spec = toy_spec(lambda params: wrong)
    with pytest.raises(TrainingError, match=r"make_estimator of 'toy' must return an unfitted estimator, .* got "):
        fit(spec, TOY_ROWS[["x"]], TOY_ROWS["y"])


@pytest.mark.parametrize("error", [TypeError, ImportError, AttributeError, KeyError, ValueError])
@pytest.mark.parametrize("folds", [0, 2])
def test_whatever_an_estimator_raises_is_one_sentence(error, folds, monkeypatch):
    def fail(self, X, y, sample_weight=None):
        raise error("a")

    monkeypatch.setattr(LogisticRegression, "fit", fail)
    kind = "" if error is ValueError else f"{error.__name__}: "
    with pytest.raises(TrainingError, match=rf"(Cross-validation of|Fitting) 'toy' with params {{}} failed: {kind}'?a"):
        fit(toy_spec(lambda params: LogisticRegression()), TOY_ROWS[["x"]], TOY_ROWS["y"], folds=folds)


@pytest.mark.parametrize(
    ("task", "make", "message"),
    [
        ("classification", Ridge, "Ridge is a regressor, and the task is classification: take a classifier"),
        ("regression", LogisticRegression, "LogisticRegression is a classifier, and the task is regression"),
        ("classification", KMeans, "KMeans is a clusterer"),
        ("classification", StandardScaler, "ends with StandardScaler, which has no predict"),
    ],
)
def test_estimator_of_another_kind_than_the_task_is_refused_before_fitting(task, make, message, monkeypatch):
    monkeypatch.setattr(make, "fit", lambda *_: pytest.fail("it was fitted"))
    spec = toy_spec(lambda params: make(), task=task, scorer="r2" if task == "regression" else "accuracy")
    with pytest.raises(TrainingError, match=message):
        fit(spec, TOY_ROWS[["x"]], TOY_ROWS["y"])


TOY_ROWS = pd.DataFrame({"x": [0.0, 1.0] * 20, "y": [0, 1] * 20})


def toy_spec(make, **more) -> ModelSpec:
    schema = pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column(int)})
    return ModelSpec("toy", lambda: TOY_ROWS, "y", schema, make, **more)
