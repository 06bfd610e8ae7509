"""What an estimator predicts is tried on a few rows, before it is trained on all."""

import importlib

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from sklearn.ensemble import IsolationForest, StackingClassifier, StackingRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 (it enables the next import)
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.impute import IterativeImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import ClassifierChain
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from mlops_nb.errors import TrainingError
from mlops_nb.features import AsCategories
from mlops_nb.model.train import fit
from mlops_nb.spec import ModelSpec
from tests.factories import optional, served

KINDS = {"a": float, "gaps": float, "self": float, "flag": bool, "side": int, "size": str, "sum": float, "one": str}


def table(n: int = 150) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({name: rng.normal(size=n) for name in ("a", "gaps", "self")})
    rows = rows.assign(flag=rng.random(n) < 0.5, side=(rows["a"] > 0).astype(int), one="same")
    rows["gaps"] = rows["gaps"].where(rng.random(n) < 0.8)
    rows["size"] = np.select([rows["a"] < -0.5, rows["a"] < 0.5], ["low", "mid"], "high")
    return rows.assign(sum=rows["a"] + rows["self"])


def spec_of(make, target: str, *columns: str, **more) -> ModelSpec:
    schema = pa.DataFrameSchema({c: pa.Column(KINDS[c], nullable=c == "gaps") for c in (*columns, target)})
    task = "regression" if target == "sum" else "classification"
    return ModelSpec(
        name="tried",
        load=lambda: table()[[*columns, target]],
        target=target,
        schema=schema,
        make_estimator=lambda params: make(),
        task=task,
        scorer="r2" if task == "regression" else "accuracy",
        **more,
    )


def gradient_boosting(library: str, name: str, **params):
    optional(library)
    module = importlib.import_module(library)
    quiet = {"catboost": {"verbose": 0, "allow_writing_files": False, "iterations": 5}}
    return getattr(module, name)(**quiet.get(library, {"n_estimators": 5}) | params)


class Two(KNeighborsRegressor):
    """A regressor of two numbers a row."""

    def predict(self, X):
        return np.column_stack([super().predict(X)] * 2)


REFUSED = {
    "a detector": (IsolationForest, "side", ["a"], r"detector of outliers.* task='anomaly'"),
    "a density": (lambda: GaussianMixture(3), "size", ["a"], "GaussianMixture tells no labels apart"),
    "no probabilities": (
        lambda: GaussianProcessClassifier(multi_class="one_vs_one"),
        "size",
        ["a"],
        "GaussianProcessClassifier has no probabilities, though .* Use one_vs_rest",
    ),
    "several outputs, one target": (
        lambda: ClassifierChain(LogisticRegression()),
        "side",
        ["a"],
        "the spec has the one 'side'",
    ),
    "chance": (
        lambda: make_pipeline(IterativeImputer(sample_posterior=True), LogisticRegression()),
        "side",
        ["a", "gaps"],
        "the same rows otherwise each time",
    ),
    "no refit": (
        lambda: GridSearchCV(LogisticRegression(), {"C": [1]}, refit=False),
        "side",
        ["a"],
        "leave refit=False out",
    ),
    "one label": (LogisticRegression, "one", ["a"], "All 150 training rows have the label 'same' of 'one'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_service_could_serve_is_refused_before_it_is_trained(kind, monkeypatch):
    make, target, columns, words = REFUSED[kind]
    spec, rows = spec_of(make, target, *columns), table()
    monkeypatch.setattr("mlops_nb.model.train._fit", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(TrainingError, match=words):
        fit(spec, rows[columns], rows[target], folds=0)


def test_two_numbers_a_row_are_refused():
    name = f"{__name__}.Two"
    with pytest.raises(TrainingError, match="Two predicts 2 values for a row, and the spec has one target"):
        fit(spec_of(Two, "sum", "a", trusted_types=[name]), table()[["a"]], table()["sum"], folds=0)


TAKEN = {
    "a stack of scikit-learn's own end": (
        lambda: StackingClassifier([("l", LogisticRegression()), ("t", DecisionTreeClassifier(max_depth=2))]),
        "side",
        ["a"],
    ),
    "a search over one": (
        lambda: GridSearchCV(StackingClassifier([("l", LogisticRegression())]), {"l__C": [1]}),
        "side",
        ["a"],
    ),
    "a stack of regressors": (lambda: StackingRegressor([("l", LinearRegression())]), "sum", ["a"]),
    "a column called self": (LogisticRegression, "side", ["self"]),
    "a text called self": (
        lambda: make_pipeline(AsCategories(), gradient_boosting("lightgbm", "LGBMClassifier", verbose=-1)),
        "side",
        ["self", "flag"],
    ),
    "a column of predictions": (lambda: gradient_boosting("catboost", "CatBoostClassifier"), "size", ["a"]),
    "categories of booleans": (
        lambda: make_pipeline(
            AsCategories(), gradient_boosting("xgboost", "XGBClassifier", enable_categorical=True, max_depth=2)
        ),
        "side",
        ["a", "flag"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TAKEN)
def test_what_is_in_order_is_trained_packaged_and_predicts_alike(kind, tmp_path):
    make, target, columns = TAKEN[kind]
    estimator, X, predictor = served(spec_of(make, target, *columns), tmp_path)
    predicted = predictor.predict_frame(X).prediction
    predictor.close()
    expected = np.asarray(estimator.predict(X)).reshape(len(X))
    if target == "sum":
        assert predicted == pytest.approx(expected, rel=1e-5)
    else:
        assert predicted.tolist() == expected.tolist()


def test_stack_of_the_usual_end_has_probabilities():
    make = lambda: StackingClassifier([("l", LogisticRegression())])  # noqa: E731
    fitted = fit(spec_of(make, "side", "a", interval=0.9), table()[["a"]], table()["side"])
    assert fitted.interval.level == 0.9


@pytest.mark.parametrize(
    ("library", "name", "params", "words"),
    [
        ("xgboost", "XGBClassifier", {}, "takes the labels 0, 1, 2"),
        ("lightgbm", "LGBMClassifier", {}, r"Put AsCategories\(\)"),
        ("catboost", "CatBoostClassifier", {"cat_features": (0,)}, "Numbers can be no cat_features"),
    ],
)
def test_words_of_a_library_come_with_what_helps(library, name, params, words):
    rows = table()
    columns = ["a", "one"] if library == "lightgbm" else ["a"]
    spec = spec_of(lambda: gradient_boosting(library, name, **params), "size", *columns)
    with pytest.raises(TrainingError, match=words):
        fit(spec, rows[columns], rows["size"], folds=0)
