"""LightGBM, XGBoost and CatBoost: trained, packaged, loaded and served as any estimator."""

import importlib
import json
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlops_nb.features import AsCategories
from mlops_nb.model.columns import input_frame, to_table
from mlops_nb.model.conversion import convert, to_onnx
from mlops_nb.model.signature import signature_of
from mlops_nb.model.splits import find_splits
from mlops_nb.spec import ModelSpec
from tests.factories import optional, served

pytestmark = pytest.mark.slow

QUIET = {
    "lightgbm": {"verbose": -1, "n_estimators": 20, "min_child_samples": 5},
    "xgboost": {"n_estimators": 20},
    "catboost": {"verbose": 0, "iterations": 20, "allow_writing_files": False},
}
NAMES = {"lightgbm": "LGBM", "xgboost": "XGB", "catboost": "CatBoost"}
INPUTS = {
    "amount": pa.Column(float, nullable=True),
    "rooms": pa.Column("Int64", nullable=True),
    "home": pa.Column(str, pa.Check.isin(["own", "rent", "other"]), metadata={"unseen": "ignore"}, nullable=True),
}


@pytest.fixture(params=list(NAMES))
def library(request) -> str:
    optional(request.param)
    return request.param


def booster(library: str, task: str, **more):
    """An estimator of a library, with the names of its own."""
    kind = getattr(importlib.import_module(library), NAMES[library] + task)
    return kind(**QUIET[library] | more)


def rows_of(n: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"amount": rng.normal(size=n), "rooms": pd.array(rng.integers(1, 6, n), "Int64")})
    rows["home"] = rng.choice(["own", "rent", "other"], n)
    rows["price"] = rows["amount"] + rows["rooms"].astype(float) + 2 * (rows["home"] == "own")
    rows["label"] = (rows["price"] > 3.6).astype(int)
    rows.loc[::7, "amount"], rows.loc[3::9, "rooms"], rows.loc[5::8, "home"] = np.nan, pd.NA, None
    return rows


def spec_of(make_estimator, target: str, columns=tuple(INPUTS)) -> ModelSpec:
    kind, task = (pa.Column(int), "classification") if target == "label" else (pa.Column(float), "regression")
    schema = pa.DataFrameSchema({name: INPUTS[name] for name in columns} | {target: kind}, coerce=True)
    scorer = "roc_auc" if target == "label" else "r2"
    return ModelSpec("homes", rows_of, target, schema, make_estimator, scorer, task)


def categorical(library: str, task: str):
    """An estimator that splits categories into groups."""
    fill = "missing" if library == "catboost" else None
    more = {"lightgbm": {}, "xgboost": {"enable_categorical": True}, "catboost": {"cat_features": ("home",)}}
    return make_pipeline(AsCategories(fill=fill), booster(library, task, **more[library]))


@pytest.mark.parametrize(("target", "task"), [("label", "Classifier"), ("price", "Regressor")])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_numbers_with_gaps_are_served_as_they_were_trained(library, target, task, tmp_path):
    spec = spec_of(lambda params: booster(library, task, **params), target, ("amount", "rooms"))
    estimator, X, predictor = served(spec, tmp_path)
    sent = json.loads(rows_of(seed=1)[["amount", "rooms"]].to_json(orient="records"))
    fresh = input_frame(spec, spec.schema.validate(rows_of(seed=1)))
    got = predictor.predict_rows(sent)
    np.testing.assert_allclose(got.prediction, estimator.predict(fresh), rtol=1e-5)
    if task == "Classifier":
        np.testing.assert_allclose(got.probability, estimator.predict_proba(fresh), atol=1e-6)
    again = predictor.predict_rows(json.loads(X.to_json(orient="records"))).prediction
    assert estimator.score(X, again) == pytest.approx(1)


@pytest.mark.parametrize("task", ["Classifier", "Regressor"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_categories_are_split_natively_and_a_new_or_missing_one_is_taken(library, task, tmp_path):
    spec = spec_of(lambda params: categorical(library, task), "label" if task == "Classifier" else "price")
    _, _, predictor = served(spec, tmp_path, folds=2)
    rows = [{"amount": 0.5, "rooms": 2, "home": home} for home in ("own", "rent", "boat", None)]
    values = predictor.predict_rows(rows)
    figures = values.prediction if task == "Regressor" else values.probability[:, 1]
    assert figures[0] > figures[1] + 0.2
    assert figures[2] == figures[3], "a new category is a missing one"
    assert np.isfinite(figures).all()


INSIDE = {
    "pipeline": lambda trees: make_pipeline(SimpleImputer(), StandardScaler(), trees),
    "calibrated": lambda trees: CalibratedClassifierCV(trees, cv=3),
    "stacked": lambda trees: make_pipeline(
        SimpleImputer(), StackingClassifier([("trees", trees)], LogisticRegression(), cv=3)
    ),
    "searched": lambda trees: GridSearchCV(trees, {"max_depth": [2, 3]}, cv=3),
}


@pytest.mark.parametrize("place", INSIDE)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_booster_inside_of_another_estimator_is_served(library, place, tmp_path):
    spec = spec_of(lambda params: INSIDE[place](booster(library, "Classifier")), "label", ("amount", "rooms"))
    estimator, X, predictor = served(spec, tmp_path)
    np.testing.assert_allclose(predictor.predict_frame(X).probability, estimator.predict_proba(X), atol=1e-6)


def test_service_without_the_library_says_what_to_install(library, tmp_path):
    spec = spec_of(lambda params: booster(library, "Classifier"), "label", ("amount", "rooms"))
    served(spec, tmp_path)
    program = f"import sys; sys.modules[{library!r}] = None; sys.modules[{library + '.sklearn'!r}] = None\n"
    program += "from mlops_nb.model.predictor import Predictor\nfrom mlops_nb.errors import BundleError\n"
    program += f"try:\n    Predictor.load({str(tmp_path / 'bundle')!r})\nexcept BundleError as e:\n    print(e)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"pip install 'mlops-nb[{library}]'" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def converter():
    optional("xgboost")
    optional("onnxmltools")


def converted(estimator, target: str = "label", columns=("amount", "rooms")):
    spec = spec_of(lambda params: estimator, target, columns)
    rows = spec.schema.validate(rows_of())
    X = input_frame(spec, rows)
    signature = signature_of(spec, estimator.fit(X, rows[target]))
    return convert(estimator, signature, to_table(signature, X))


@pytest.mark.parametrize("task", ["Classifier", "Regressor"])
@pytest.mark.parametrize("steps", [(), (SimpleImputer(), StandardScaler())])
def test_trees_of_xgboost_over_numbers_are_verified_at_each_threshold_and_served_by_onnx(converter, task, steps):
    model = booster("xgboost", task)
    found = converted(make_pipeline(*steps, model) if steps else model, "label" if task == "Classifier" else "price")
    assert found.onnx is not None, found.reason
    assert found.reason.startswith("agrees with scikit-learn on")
    assert found.max_difference < 1e-5
    assert (
        sum(len(splits.thresholds) for splits in find_splits(model, np.zeros((1, 2)), np.random.default_rng(0))) > 100
    )


@pytest.mark.parametrize("place", ["splits", "leaves", "missing"])
def test_graph_of_xgboost_that_differs_in_one_tree_is_not_served(converter, monkeypatch, place):
    def changed(part):
        model = json.loads(part.get_booster().save_raw("json"))
        tree = model["learner"]["gradient_booster"]["model"]["trees"][0]
        node = next(i for i, left in enumerate(tree["left_children"]) if (left < 0) == (place == "leaves"))
        if place == "missing":
            tree["default_left"] = [1 - left for left in tree["default_left"]]
        else:
            value = np.float32(tree["split_conditions"][node])
            tree["split_conditions"][node] = float(
                value + np.float32(0.3) if place == "leaves" else np.nextafter(value, 9)
            )
        part.get_booster().load_model(bytearray(json.dumps(model), "utf-8"))

    def wrongly(estimator, signature, variant):
        other = deepcopy(estimator)
        changed(other)
        return to_onnx(other, signature, variant)

    monkeypatch.setattr("mlops_nb.model.conversion.to_onnx", wrongly)
    found = converted(booster("xgboost", "Classifier"))
    if place == "missing":  # rows with a missing value are left to the library
        assert found.domain is None or set(found.domain.missing) & {"amount", "rooms"}, found.reason
        return
    assert found.onnx is None, found.reason
    assert found.reason.startswith("disagrees with scikit-learn"), found.reason


def test_why_a_booster_is_served_by_its_own_library_is_one_sentence(converter, monkeypatch):
    reasons = {
        "LightGBM compares in double precision": lambda: converted(booster("lightgbm", "Classifier")),
        "CatBoost writes a graph of its own": lambda: converted(booster("catboost", "Classifier")),
        "a tree splits on categories": lambda: converted(categorical("xgboost", "Classifier"), columns=tuple(INPUTS)),
        "not inside another estimator": lambda: converted(INSIDE["searched"](booster("xgboost", "Classifier"))),
    }
    for reason, make in reasons.items():
        if "LightGBM" in reason or "CatBoost" in reason:
            optional(reason.split()[0].lower())
        assert reason in make().reason
    monkeypatch.setattr("mlops_nb.model.conversion.find_spec", lambda name: None)
    assert "pip install 'mlops-nb[xgboost]'" in converted(booster("xgboost", "Classifier")).reason
