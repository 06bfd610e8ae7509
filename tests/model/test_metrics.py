"""Models of quantiles and counts are measured by the metrics that suit them, from the first check to the monitor."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import GammaRegressor, LinearRegression, PoissonRegressor, QuantileRegressor, TweedieRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlops_nb.errors import GateError, SpecError, TrainingError
from mlops_nb.model.columns import input_frame
from mlops_nb.model.evaluate import evaluate
from mlops_nb.model.fairness import check_fairness
from mlops_nb.model.metric_checks import check_metrics
from mlops_nb.model.metrics import display_name, get_metric, metric_names
from mlops_nb.model.scoring import baseline, score
from mlops_nb.model.signature import Predictions
from mlops_nb.model.train import fit
from mlops_nb.monitor.performance import measure_performance
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.spec import Gates, ModelSpec
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import served

QUANTILE = "neg_mean_pinball_loss_0.9"


def of_quantile() -> QuantileRegressor:
    return QuantileRegressor(quantile=0.9, alpha=0)


MODELS = {
    "quantile regression": (QUANTILE, of_quantile),
    "boosted quantile": (QUANTILE, lambda: HistGradientBoostingRegressor(loss="quantile", quantile=0.9, max_iter=20)),
    "poisson": ("neg_mean_poisson_deviance", PoissonRegressor),
    "boosted poisson": ("d2_tweedie_score_1", lambda: HistGradientBoostingRegressor(loss="poisson", max_iter=20)),
    "gamma": ("neg_mean_gamma_deviance", GammaRegressor),
    "tweedie": (
        "neg_mean_tweedie_deviance_1.5",
        lambda: make_pipeline(StandardScaler(), TweedieRegressor(power=1.5, link="log")),
    ),
}


def table(n: int = 400, seed: int = 0, least: int = 0) -> pd.DataFrame:
    """Counts that grow with x; with `least=1` none of them is 0."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 2, n)
    return pd.DataFrame({"x": x, "old": rng.integers(0, 2, n), "y": rng.poisson(np.exp(x)) + float(least)})


def spec(scorer: str = QUANTILE, make=of_quantile, load=table, **changes) -> ModelSpec:
    columns = {"x": pa.Column(float), "old": pa.Column(int), "y": pa.Column(float)}
    given = {"task": "regression", "scorer": scorer} | changes
    return ModelSpec("toy", load, "y", pa.DataFrameSchema(columns), make_estimator=lambda params: make(), **given)


def quickly_fitted(of: ModelSpec):
    rows = of.load()
    return fit(of, input_frame(of, rows), rows["y"], folds=3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_model_of_a_quantile_or_a_count_is_gated_served_and_watched(kind, tmp_path):
    scorer, make = MODELS[kind]
    rows = table(least="gamma" in kind)
    groups = {"old": {scorer: 10.0}}
    gates = Gates(minimum={scorer: -10.0}, slices={scorer: -10.0}, groups=groups)
    of = spec(scorer, make, lambda: rows, gates=gates, slices={"small": lambda X: X["x"] < 1})
    check_metrics(of, rows["y"], rows["y"])
    check_fairness(of, rows, rows)
    assert np.isfinite(quickly_fitted(of).scores["score"]).all()
    estimator, _, predictor = served(of, tmp_path)
    fresh = table(300, seed=1, least="gamma" in kind)
    predictions = predictor.predict_frame(fresh)
    assert predictions.prediction == pytest.approx(estimator.predict(fresh[["x", "old"]]), rel=1e-5)
    evaluation = evaluate(of, fresh, fresh["y"], rows["y"], predictions, predictions, 1)
    assert evaluation.passed, evaluation.failed
    assert {g.gate for g in evaluation.gates} == {"minimum", "baseline", "champion", "slice", "groups"}
    assert not evaluation.inconclusive
    expected = get_metric(scorer)(estimator, fresh[["x", "old"]], fresh["y"])
    assert evaluation.metrics[scorer] == pytest.approx(expected, rel=1e-4)
    watched = measure_performance(of, fresh, fresh["y"].tolist(), predictions, evaluation.to_dict())
    result = next(r for r in watched.results if r.slice == "all" and r.metric == scorer)
    assert result.low < result.value < result.high
    assert result.below_gate is False
    settings = Settings.read({"MLOPS_HOME": str(tmp_path), "MLOPS_MODEL": "toy"})
    registry = Registry.open(settings)
    registry.register(predictor.bundle)
    registry.promote("toy", 1)
    registry.close()
    app = create_app(settings)
    live_model(app).refresh()
    answer = app.test_client().post("/predict", json={"features": fresh[["x", "old"]].head(5).to_dict("records")})
    app.stop()
    assert answer.get_json()["prediction"] == pytest.approx(predictions.prediction[:5].tolist())


def test_metrics_with_a_parameter_are_those_of_scikit_learn():
    y, p = np.array([1.0, 2, 5, 3]), np.array([2.0, 2, 3, 4])
    expected = {
        "neg_mean_pinball_loss_0.25": -sk.mean_pinball_loss(y, p, alpha=0.25),
        "d2_pinball_score_0.9": sk.d2_pinball_score(y, p, alpha=0.9),
        "neg_mean_tweedie_deviance_1.5": -sk.mean_tweedie_deviance(y, p, power=1.5),
        "neg_mean_tweedie_deviance_0": -sk.mean_squared_error(y, p),
        "d2_tweedie_score_2": sk.d2_tweedie_score(y, p, power=2),
    }
    assert score(Predictions(p), y, [*expected]) == pytest.approx(expected)


def test_baseline_of_a_quantile_is_the_quantile_and_its_mean_would_be_beaten():
    y = table()["y"]
    found = baseline(spec(), y, 3).prediction
    assert found.tolist() == [np.quantile(y, 0.9, method="inverted_cdf")] * 3
    mean, quantile = (score(Predictions(np.full(len(y), v)), y, [QUANTILE])[QUANTILE] for v in (y.mean(), found[0]))
    assert quantile > mean


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("neg_mean_pinball_loss", "needs a quantile between 0 and 1 at its end, such as 'neg_mean_pinball_loss_0.9'"),
        ("neg_mean_pinball_loss_90", "needs a quantile between 0 and 1"),
        ("neg_mean_pinball_loss_0", "needs a quantile between 0 and 1"),
        ("neg_mean_pinball_loss_1.0", "needs a quantile between 0 and 1"),
        ("neg_mean_pinball_loss_nan", "needs a quantile between 0 and 1"),
        ("d2_pinball_score_-0.1", "needs a quantile between 0 and 1"),
        ("d2_tweedie_score_0.5", "needs a power of 0, or of 1 and more"),
        ("neg_mean_tweedie_deviance_", "needs a power of 0, or of 1 and more"),
        ("neg_mean_tweedie_deviance_1e2", "needs a power of 0, or of 1 and more"),
        ("neg_mean_pinbal_loss_0.9", "is not a metric. Did you mean 'neg_mean_pinball_loss_0.9'"),
    ],
)
def test_wrong_name_is_refused_before_training(name, message):
    y = table()["y"]
    gates = Gates(minimum={name: 0})
    for changes in ({"scorer": name}, {"scorer": "r2", "metrics": [name]}, {"scorer": "r2", "gates": gates}):
        with pytest.raises(GateError, match=message):
            check_metrics(spec(**changes), y, y)
    with pytest.raises((GateError, SpecError), match=message):
        check_fairness(spec("r2", gates=Gates(groups={"old": {name: 0.1}})), table(), table())


@given(st.text(max_size=8))
def test_any_end_of_a_name_is_a_parameter_or_a_sentence(end):
    for begin in ("neg_mean_pinball_loss", "d2_tweedie_score"):
        try:
            metric = get_metric(f"{begin}_{end}")
        except GateError as e:
            if not re.search("needs a (quantile|power)|is not a metric", str(e)):
                raise
        else:
            assert np.isfinite(metric(LinearRegression().fit([[1], [2]], [1, 2]), [[1], [2]], [1, 2]))


@pytest.mark.parametrize(
    ("scorer", "value", "message"),
    [
        (
            "neg_mean_poisson_deviance",
            -1.0,
            "needs a target of at least 0, and 1 of 400 rows have less, the least -1",
        ),
        (
            "neg_mean_gamma_deviance",
            0.0,
            "needs a target above 0, .* the least 0. .*'neg_mean_poisson_deviance'",
        ),
        ("d2_tweedie_score_3", 0.0, "needs a target above 0"),
        ("neg_mean_tweedie_deviance_1.5", -2.0, "needs a target of at least 0"),
    ],
)
def test_target_that_a_deviance_does_not_define_is_refused_before_training(scorer, value, message):
    rows = table()
    good = rows["y"] + 1
    rows.loc[0, "y"] = value
    for train, test in ((rows["y"], good), (good, rows["y"])):
        with pytest.raises(GateError, match=message):
            check_metrics(spec(scorer), train, test)
    with pytest.raises(GateError, match=message):
        quickly_fitted(spec(scorer, PoissonRegressor, lambda: rows))


def test_counts_of_zero_alone_have_no_deviance():
    zeros = pd.Series(np.zeros(50))
    with pytest.raises(GateError, match="needs a target above 0 in some rows, and all 50 have 0"):
        check_metrics(spec("neg_mean_poisson_deviance"), zeros, zeros)


def test_many_zeros_are_counts():
    y = pd.Series([0.0] * 300 + [1.0] * 5)
    check_metrics(spec("neg_mean_poisson_deviance"), y, y)


def test_prediction_that_is_not_positive_is_one_sentence_and_no_nan():
    rows = table()
    rows["y"] = np.where(rows["x"] < 1, 0.0, 30.0)
    of = spec("neg_mean_poisson_deviance", LinearRegression, lambda: rows)
    message = r"'neg_mean_poisson_deviance' needs predictions above 0, and \d+ of \d+ are not, the least -"
    with pytest.raises(TrainingError, match=message):
        quickly_fitted(of)
    predicted = Predictions(LinearRegression().fit(rows[["x"]], rows["y"]).predict(rows[["x"]]))
    with pytest.raises(GateError, match=message):
        evaluate(of, rows, rows["y"], rows["y"], predicted)
    watched = measure_performance(of, rows, rows["y"].tolist(), predicted)
    assert watched.results[0].reason == "not defined on these 400 rows"
    assert watched.worse is None


def test_metric_of_numbers_is_refused_for_labels():
    y = pd.Series([0, 1] * 20)
    for name in (QUANTILE, "neg_mean_poisson_deviance"):
        with pytest.raises(GateError, match="is a metric of numbers, and the task is classification"):
            check_metrics(replace(spec(name), task="classification"), y, y)


def test_dashboard_has_a_name_for_every_metric():
    assert display_name(QUANTILE) == "mean pinball loss of the 0.9 quantile"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = [display_name(name) for name in metric_names()]
    assert len({*names}) == len(names)
    assert not any("neg " in name or "_" in name for name in names)
