"""Steps of skrub and imbalanced-learn are packaged and served; what cannot be is refused before training."""

import json
import sys
from dataclasses import replace
from importlib import import_module
from types import ModuleType

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
import sklearn
from pandera.engines.pandas_engine import DateTime
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlops_nb.errors import TrainingError
from mlops_nb.features import AsCategories
from mlops_nb.model.bundle import _how_to_install
from mlops_nb.model.columns import input_frame
from mlops_nb.model.train import check_loadable, fit
from mlops_nb.model.trusted_types import (
    _STEPS,
    EXTRA_LIBRARIES,
    _is_harmless_class,
    describe_refused,
    harmless_types,
)
from mlops_nb.spec import ModelSpec
from tests.factories import optional, served

UNSEEN = {"unseen": "ignore"}
INPUTS = {
    "amount": pa.Column(float, nullable=True),
    "rooms": pa.Column("Int64", nullable=True),
    "home": pa.Column(str, pa.Check.isin(["own", "rent", "other"]), metadata=UNSEEN, nullable=True),
    "street": pa.Column(str, nullable=True),
    "built": pa.Column(DateTime(), nullable=True),
}


def rows_of(n: int = 240, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"amount": rng.normal(size=n), "rooms": pd.array(rng.integers(1, 6, n), "Int64")})
    rows["home"] = rng.choice(["own", "rent", "other"], n)
    rows["street"] = [f"{rng.choice(['Oak', 'Elm', 'Lake'])} street {i % 60}" for i in range(n)]
    rows["built"] = pd.Timestamp("1990-01-01") + pd.to_timedelta(rng.integers(0, 9000, n), "D")
    rows["price"] = rows["amount"] + rows["rooms"].astype(float) + 2 * (rows["home"] == "own")
    rows["label"] = (rows["price"] > 5).astype(int)
    for number, name in enumerate(INPUTS):
        rows.loc[number :: 9 + number, name] = None
    return rows


def spec_of(make_estimator, target: str, columns=tuple(INPUTS)) -> ModelSpec:
    kind, task = (pa.Column(int), "classification") if target == "label" else (pa.Column(float), "regression")
    schema = pa.DataFrameSchema({name: INPUTS[name] for name in columns} | {target: kind}, coerce=True)
    return ModelSpec("homes", rows_of, target, schema, make_estimator, "roc_auc" if target == "label" else "r2", task)


def dirty_rows(columns) -> list[dict]:
    """Rows with missing values, and with categories, streets and years that were not there in training."""
    rows = json.loads(rows_of(30, 1)[[*columns]].to_json(orient="records", date_format="iso"))
    new = {"home": "boat", "street": "a street that nobody saw", "built": "2045-01-01"}
    rows += [row | {name: value for name, value in new.items() if name in row} for row in rows[:5]]
    return [*rows, dict.fromkeys(columns)]


def figures(predictions) -> np.ndarray:
    return predictions.prediction if predictions.probability is None else predictions.probability


def assert_served(spec: ModelSpec, folder):
    """A bundle predicts what was trained, also for missing and unseen values, alone as in a batch."""
    estimator, _, predictor = served(spec, folder)
    fresh = input_frame(spec, spec.schema.validate(rows_of(seed=2)))
    kind = "predict_proba" if spec.task == "classification" else "predict"
    got = figures(predictor.predict_frame(fresh))
    np.testing.assert_allclose(got, getattr(estimator, kind)(fresh), atol=1e-6)
    assert np.ptp(got) > 0.1
    dirty = dirty_rows(spec.inputs)
    batch = figures(predictor.predict_rows(dirty))
    assert np.isfinite(batch).all()
    alone = [figures(predictor.predict_rows([row]))[0] for row in (*dirty[:3], *dirty[-7:])]
    np.testing.assert_allclose(alone, batch[[0, 1, 2, *range(-7, 0)]], atol=1e-6)


def skrub_steps(name: str):
    import skrub
    import skrub.selectors as s

    trees, line = HistGradientBoostingClassifier(max_iter=20), LogisticRegression(max_iter=500)
    return {
        "tabular, trees": lambda: skrub.tabular_pipeline("classifier"),
        "tabular, linear": lambda: skrub.tabular_pipeline(line),
        "tabular, regressor": lambda: skrub.tabular_pipeline(Ridge()),
        "topics of texts": lambda: make_pipeline(
            skrub.TableVectorizer(high_cardinality=skrub.GapEncoder(n_components=4, random_state=0)), trees
        ),
        "hashes of texts": lambda: make_pipeline(
            skrub.TableVectorizer(high_cardinality=skrub.MinHashEncoder(n_components=4)), trees
        ),
        "seasons": lambda: make_pipeline(
            skrub.DropCols(["street"]),
            skrub.TableVectorizer(datetime=skrub.DatetimeEncoder(periodic_encoding="circular")),
            trees,
        ),
        "columns by selector": lambda: make_pipeline(
            skrub.ApplyToCols(skrub.StringEncoder(n_components=3, random_state=0), cols=["street"]),
            skrub.SelectCols(s.numeric() | s.glob("street*")),
            trees,
        ),
        "scaled beside outliers": lambda: make_pipeline(
            skrub.SelectCols(["amount", "rooms"]), skrub.SquashingScaler(), SimpleImputer(), line
        ),
    }[name]()


QUICK = ("tabular, regressor", "hashes of texts", "columns by selector", "SMOTE", "searched", "forest")


def kinds(*names: str) -> list:
    """Parameters of a test, of which some are quick enough for CI."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.nightly) for name in names]


SKRUB = ["tabular, trees", "tabular, linear", "tabular, regressor", "topics of texts", "hashes of texts", "seasons"]
SKRUB += ["columns by selector", "scaled beside outliers"]


@pytest.mark.slow
@pytest.mark.parametrize("name", kinds(*SKRUB))
@pytest.mark.filterwarnings("ignore")
def test_steps_of_skrub_are_served_as_they_were_trained(name, tmp_path):
    optional("skrub")
    assert_served(spec_of(lambda params: skrub_steps(name), "price" if "regressor" in name else "label"), tmp_path)


def imbalanced(name: str):
    from imblearn import ensemble, over_sampling, under_sampling
    from imblearn.pipeline import make_pipeline as pipeline_of_samplers

    line = LogisticRegression(max_iter=500)
    columns = make_column_transformer(
        (SimpleImputer(), ["amount", "rooms"]), (OneHotEncoder(handle_unknown="ignore"), ["home"])
    )
    return {
        "SMOTE": lambda: pipeline_of_samplers(columns, over_sampling.SMOTE(random_state=0), line),
        "over": lambda: pipeline_of_samplers(over_sampling.RandomOverSampler(random_state=0), columns, line),
        "under": lambda: pipeline_of_samplers(under_sampling.RandomUnderSampler(random_state=0), columns, line),
        "searched": lambda: GridSearchCV(
            pipeline_of_samplers(columns, over_sampling.SMOTE(random_state=0), line),
            {"smote__k_neighbors": [3, 5]},
            cv=3,
        ),
        "forest": lambda: make_pipeline(columns, ensemble.BalancedRandomForestClassifier(20, random_state=0)),
        "bags": lambda: make_pipeline(columns, ensemble.BalancedBaggingClassifier(n_estimators=5, random_state=0)),
        "easy": lambda: make_pipeline(columns, ensemble.EasyEnsembleClassifier(n_estimators=3, random_state=0)),
        "boosted": lambda: make_pipeline(columns, ensemble.RUSBoostClassifier(n_estimators=5, random_state=0)),
    }[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", kinds("SMOTE", "over", "under", "searched", "forest", "bags", "easy", "boosted"))
@pytest.mark.filterwarnings("ignore")
def test_samplers_work_in_training_alone_and_are_served(name, tmp_path):
    optional("imblearn")
    assert_served(spec_of(lambda params: imbalanced(name), "label", ("amount", "rooms", "home")), tmp_path)


@pytest.mark.slow
def test_histogram_boosting_with_categories_of_pandas_and_a_transformed_target_is_served(tmp_path):
    trees = HistGradientBoostingRegressor(max_iter=20, categorical_features="from_dtype")
    model = TransformedTargetRegressor(trees, func=np.arcsinh, inverse_func=np.sinh)
    spec = spec_of(lambda params: make_pipeline(AsCategories(), model), "price", ("amount", "rooms", "home"))
    assert_served(spec, tmp_path)


def test_weights_of_rows_are_left_out_where_a_sampler_takes_other_rows():
    optional("imblearn")
    from imblearn.pipeline import make_pipeline as pipeline_of_samplers
    from imblearn.under_sampling import RandomUnderSampler

    spec = spec_of(
        lambda params: pipeline_of_samplers(RandomUnderSampler(), SimpleImputer(), LogisticRegression()), "label"
    )
    assert not fit(spec, X, Y, folds=2, weights=np.ones(len(X))).weighted
    assert fit(
        replace(spec, make_estimator=lambda params: LogisticRegression()), X, Y, folds=0, weights=np.ones(len(X))
    ).weighted


def test_steps_that_are_allowed_exist_and_run_nothing_when_they_are_loaded():
    found = []
    for module, listed in _STEPS.items():
        if module.partition(".")[0] in EXTRA_LIBRARIES:
            optional(module.partition(".")[0])
        for name in listed.split():
            path, _, own = f"{module}.{name}".rpartition(".")
            part = getattr(import_module(path), own)
            assert part.__module__ == path
            assert not isinstance(part, type) or _is_harmless_class(part), name
            found.append(f"{path}.{own}")
    assert set(found) <= harmless_types()
    assert not {n for n in harmless_types() if n.startswith(("skrub._data_ops", "imblearn.base", "category_encoders"))}


X = rows_of()[["amount", "rooms"]].astype(float).fillna(0)
Y = rows_of()["label"]


class OrdinalEncoder(TransformerMixin, BaseEstimator):
    """As that of category-encoders, without its installation."""

    def fit(self, X, y=None):
        pytest.fail("it was fitted")


def test_category_encoders_are_refused_before_fitting_with_what_to_use(monkeypatch):
    monkeypatch.setattr(OrdinalEncoder, "__module__", "category_encoders.ordinal")
    module = ModuleType("category_encoders.ordinal")
    module.OrdinalEncoder = OrdinalEncoder
    monkeypatch.setitem(sys.modules, "category_encoders", ModuleType("category_encoders"))
    monkeypatch.setitem(sys.modules, "category_encoders.ordinal", module)
    with pytest.raises(TrainingError, match=r"'ordinalencoder' .* pandas tables, .*: use OneHotEncoder, Ordinal"):
        check_loadable(make_pipeline(OrdinalEncoder(), LogisticRegression()), X, Y)
    assert "could call any function: use tabular_pipeline" in describe_refused("skrub._data_ops._data_ops.Call")


@pytest.mark.parametrize("place", ["alone", "in a pipeline", "under another name", "in a scorer"])
def test_estimator_that_asks_for_weights_is_refused_because_a_build_has_none(place, monkeypatch):
    monkeypatch.setattr(LogisticRegression, "fit", lambda *_: pytest.fail("it was fitted"))
    with sklearn.config_context(enable_metadata_routing=True):
        line = LogisticRegression()
        estimator = {
            "alone": lambda: line.set_fit_request(sample_weight=True),
            "in a pipeline": lambda: make_pipeline(SimpleImputer(), line.set_fit_request(sample_weight=True)),
            "under another name": lambda: line.set_fit_request(sample_weight="weight"),
            "in a scorer": lambda: GridSearchCV(
                line, {"C": [1]}, scoring=make_scorer(accuracy_score).set_score_request(sample_weight=True)
            ),
        }[place]()
        with pytest.raises(TrainingError, match="has a request for metadata such as sample_weight, and a build"):
            check_loadable(estimator, X, Y)


def test_weights_of_classes_are_part_of_the_estimator():
    check_loadable(make_pipeline(SimpleImputer(), LogisticRegression(class_weight="balanced")), X, Y)


def test_service_without_a_library_says_which_extra_to_install():
    assert "pip install 'mlops-nb[imbalanced-learn]'" in _how_to_install("imblearn.pipeline")
    assert "pip install 'mlops-nb[skrub]'" in _how_to_install("skrub")
