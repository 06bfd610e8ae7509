"""A model of several outputs: each is trained, scored, packaged and predicted as a model of its own would be."""

import json
from dataclasses import replace

import numpy as np
import orjson
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from mlops_nb.data.tables import split, strata
from mlops_nb.errors import DataError, GateError, InputError, SpecError, TrainingError
from mlops_nb.model.evaluate import evaluate
from mlops_nb.model.fairness import check_fairness
from mlops_nb.model.metric_checks import check_metrics
from mlops_nb.model.model_card import model_card
from mlops_nb.model.outputs import predict_outputs, signature_of_outputs, target_values
from mlops_nb.model.plots import plot_evaluation
from mlops_nb.model.scoring import score
from mlops_nb.model.signature import Output, Predictions, Signature, signature_of
from mlops_nb.model.train import fit
from mlops_nb.spec import Gates, ModelSpec
from tests.factories import served, several_outputs

BINARY = {"names": ("a", "b"), "kinds": (int, int)}
WRAPPED = {
    "logistic": lambda: MultiOutputClassifier(LogisticRegression()),
    "boosting": lambda: MultiOutputClassifier(HistGradientBoostingClassifier(max_iter=5)),
    "chain": lambda: ClassifierChain(LogisticRegression()),
    "ridge": RidgeClassifier,
    "neighbours": KNeighborsClassifier,
    "tree": DecisionTreeClassifier,
    "network": lambda: MLPClassifier((4,), max_iter=20),
}
REGRESSORS = {
    "linear": LinearRegression,
    "network": lambda: MLPRegressor(hidden_layer_sizes=(4,), max_iter=20),
    "wrapped": lambda: MultiOutputRegressor(HistGradientBoostingRegressor(max_iter=5)),
    "chain": lambda: RegressorChain(Ridge()),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", WRAPPED)
def test_predictions_and_probabilities_of_a_classifier_are_those_of_its_outputs(kind, tmp_path):
    spec = several_outputs(**BINARY, make=WRAPPED[kind])
    estimator, X, predictor = served(spec, tmp_path)
    predictions = predictor.predict_rows(X.head(20).to_dict("records"))
    expected = np.asarray(estimator.predict(X.head(20)))
    found = [[row["a"], row["b"]] for row in predictions.prediction]
    assert found == expected.astype(int).tolist()
    assert predictor.signature.probability == hasattr(estimator, "predict_proba")
    for name in ("a", "b") if predictor.signature.probability else ():
        part = predictions.outputs[name]
        assert part.probability.shape == (20, 2)
        if kind != "chain":  # whose probabilities are not those that its labels follow from
            assert (part.probability.argmax(axis=1) == part.prediction).mean() > 0.9
        assert np.allclose(part.probability.sum(axis=1), 1)
    assert predictor.bundle.engine == "scikit-learn"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", REGRESSORS)
def test_predictions_of_a_regression_are_those_of_its_outputs(kind, tmp_path):
    spec = several_outputs(("a", "b", "c"), (float,) * 3, make=REGRESSORS[kind])
    estimator, X, predictor = served(spec, tmp_path, folds=2)
    predictions = predictor.predict_rows(X.head(20).to_dict("records"))
    assert np.allclose([list(row.values()) for row in predictions.prediction], estimator.predict(X.head(20)))
    assert predictions.probability is None


@pytest.mark.parametrize(
    ("kinds", "make", "wrapper"),
    [
        ((int, int), LogisticRegression, "MultiOutputClassifier"),
        ((int, bool), HistGradientBoostingClassifier, "MultiOutputClassifier"),
        ((str, str), MLPClassifier, "MultiOutputClassifier"),  # takes 0 and 1 alone
        ((float, float), HistGradientBoostingRegressor, "MultiOutputRegressor"),
    ],
)
def test_an_estimator_of_one_output_is_refused_before_it_is_fitted_on_all_rows(kinds, make, wrapper):
    spec, fitted = several_outputs(("a", "b"), kinds), []

    class Recorded(make):
        def fit(self, X, y, sample_weight=None):
            fitted.append(len(X))
            return super().fit(X, y)

    spec = replace(spec, make_estimator=lambda params: Recorded())
    rows = spec.load()
    with pytest.raises(TrainingError, match=f"(predicts one output|does not take these labels).*{wrapper}"):
        fit(spec, rows[["x"]], rows[spec.target], folds=0)
    assert all(n <= 50 for n in fitted)


ODD = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=12).filter(str.strip)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_outputs_of_any_number_kind_and_name_come_back_as_json(data, tmp_path_factory):
    names = data.draw(st.lists(ODD.filter(lambda name: name not in ("x", "home")), min_size=2, max_size=5, unique=True))
    is_regression = data.draw(st.booleans())
    kind = st.just(float) if is_regression else st.sampled_from([int, bool, str])
    kinds = tuple(data.draw(kind) for _ in names)
    spec = several_outputs(tuple(names), kinds, n=60)
    _, X, predictor = served(spec, tmp_path_factory.mktemp("outputs"))
    signature = predictor.signature
    assert Signature.from_dict(json.loads(json.dumps(signature.to_dict()))) == signature
    predictions = predictor.predict_rows(json.loads(X.to_json(orient="records")))
    written = orjson.loads(orjson.dumps(predictions.prediction.tolist()))
    rates = None if predictions.probability is None else orjson.loads(orjson.dumps(predictions.probability.tolist()))
    again = signature.read_predictions(written, rates)
    truth = spec.load()[spec.target]
    for name, kind in zip(names, kinds, strict=True):
        assert {type(row[name]) for row in written} == {kind}
        assert again.outputs[name].prediction.tolist() == predictions.outputs[name].prediction.tolist()
        if kind is not float:  # the trees know their rows
            assert (predictions.outputs[name].prediction == truth[name].to_numpy()).mean() > 0.7
    metric = "r2" if is_regression else "accuracy"
    scores = score(again, truth, [metric, *(f"{metric} of {name}" for name in names)])
    assert scores[metric] == pytest.approx(np.mean([scores[f"{metric} of {name}"] for name in names]))
    half = predictions.take(np.arange(len(truth)) % 2 == 0)
    assert half.prediction.tolist() == predictions.prediction.tolist()[::2]


@pytest.fixture(scope="module")
def evaluated():
    spec = several_outputs(
        gates=Gates(minimum={"accuracy": 0.5, "roc_auc of late": 0.6}, slices={"accuracy of late": 0.2}),
        positive="yes",
    )
    rows = spec.load()
    train, test = split(rows, spec.target, 0.3, stratify=True)
    estimator = fit(spec, train[spec.inputs], train[spec.target], folds=3).estimator
    predictions = predict_outputs(estimator, test[spec.inputs], signature_of_outputs(spec, estimator))
    result = evaluate(spec, test[spec.inputs], test[spec.target], train[spec.target], predictions)
    return spec, train, test, estimator, predictions, result


@pytest.mark.slow
def test_metrics_are_those_of_a_model_of_each_output_and_their_mean(evaluated):
    spec, train, test, _, predictions, result = evaluated
    each = []
    for name in spec.targets:
        part = predictions.outputs[name]
        one = score(part, test[name], ["accuracy", "f1_macro"])
        assert {metric: result.metrics[f"{metric} of {name}"] for metric in one} == one
        each.append(one["accuracy"])
        most = train[name].mode()[0]
        assert result.baseline[f"accuracy of {name}"] == pytest.approx((test[name] == most).mean())
    assert result.metrics["accuracy"] == pytest.approx(np.mean(each))
    assert next(iter(result.metrics)) == "accuracy"
    assert "roc_auc" not in result.metrics  # one of the outputs has three labels
    assert {"roc_auc of late", 'roc_auc of é "x"', "roc_auc_ovr of a of b"} <= set(result.metrics)
    gates = [(g.gate, g.metric, g.subject) for g in result.gates]
    assert gates[:3] == [("minimum", "accuracy", ""), ("minimum", "roc_auc of late", ""), ("baseline", "accuracy", "")]
    assert gates[3:] == [("slice", "accuracy of late", "owners")]
    assert result.slices["owners"]["rows"] == (test["home"] == "own").sum()
    assert "accuracy of a of b" in result.slices["owners"]


def test_a_champion_of_other_outputs_is_refused(evaluated):
    spec, train, test, _, predictions, _ = evaluated
    one = Predictions(np.array(["yes"] * len(test)), None, ("maybe", "no", "yes"))
    arguments = test[spec.inputs], test[spec.target], train[spec.target], predictions
    with pytest.raises(GateError, match="Version 3 of 'several' in production has one output, and the spec has 'late'"):
        evaluate(spec, *arguments, one, 3)
    same = evaluate(spec, *arguments, predictions, 2)
    assert [g.metric for g in same.gates if g.gate == "champion"] == ["accuracy"]


def test_plots_and_card_show_each_output(evaluated):
    spec, _, test, estimator, predictions, result = evaluated
    figure = plot_evaluation(spec, test[spec.target], predictions)
    assert [sub.get_suptitle() for sub in figure.subfigs] == [*spec.targets]
    data = {"test_rows": 90, "train_rows": 210, "rows": 300, "source": "x", "split": "s", "sha256": "0"}
    facts = {"data": data, "code": {"commit": None, "dirty": False}, "seed": 0, "params": {}}
    card = model_card(spec, signature_of(spec, estimator), result, facts)
    assert "classification of `late` into `False`, `True`; `a of b` into" in card
    assert "| `roc_auc of late` |" in card


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"gates": Gates(minimum={"recall": 0.5})}, GateError, "Output 'a of b': 'recall' is a metric of two classes"),
        ({"gates": Gates(minimum={"recall of late": 0.5})}, None, ""),
        ({"scorer": "acuracy"}, GateError, "Output 'late': 'acuracy' is not a metric"),
        ({"positive": "never", "scorer": "recall of late"}, GateError, "positive='never' of the spec is not among"),
    ],
)
def test_metrics_are_checked_before_training(change, error, problem):
    spec = replace(several_outputs(), **change)
    rows = spec.load()
    train, test = split(rows, spec.target, 0.3, stratify=True)
    if error is None:
        check_metrics(spec, train[spec.target], test[spec.target])
        check_fairness(spec, train, test)
        return
    with pytest.raises(error, match=problem):
        check_metrics(spec, train[spec.target], test[spec.target])


def test_targets_of_two_tasks_are_refused():
    spec = several_outputs(("a", "b"), (float, float))
    rows = spec.load()
    mixed = replace(spec, task="classification", scorer="accuracy")
    with pytest.raises(SpecError, match=r"The target 'a' has numbers such as .* and the task is classification"):
        check_metrics(mixed, rows[spec.target], rows[spec.target])
    texts = several_outputs(("a", "b"), (str, int), task="regression", scorer="r2")
    with pytest.raises(SpecError, match=r"The target 'a' has texts or times, such as .*, and the task is regression"):
        check_metrics(texts, texts.load()[texts.target], texts.load()[texts.target])


def test_rows_without_a_target_are_refused_by_name():
    spec = several_outputs(("a", "b"), (float, float))
    rows = spec.load().assign(b=lambda t: t["b"].where(t.index > 3))
    with pytest.raises(DataError, match="4 of 300 rows have no 'b', which is a target"):
        fit(spec, rows[spec.inputs], rows[spec.target], folds=0)


def test_a_search_takes_the_mean_over_the_outputs():
    spec = several_outputs(("a", "b"), (int, str))
    spec = replace(spec, make_estimator=lambda params: RandomForestClassifier(5, **params), schema=spec.schema)
    rows = spec.load()
    training = fit(spec, rows[["x"]], rows[spec.target], space={"max_depth": [1, 6]}, folds=3)
    assert training.search["mean"].is_monotonic_decreasing
    assert training.scores["score"].between(0.5, 1).all()


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abc")), min_size=12, max_size=60),
    st.sampled_from([0.1, 0.2, 0.5]),
)
def test_a_split_keeps_the_shares_of_combinations_where_there_are_enough_rows(labels, test_size):
    table = pd.DataFrame(labels, columns=["one", "two"])
    if (table.nunique() < 2).any() or len(table) * test_size < 1:
        return
    least = round(1 / test_size)
    groups = strata(table, least)
    assert groups.value_counts().min() >= min(least, len(table))
    train, test = split(table, ["one", "two"], test_size, stratify=True)
    assert len(train) + len(test) == len(table)


def test_a_signature_of_outputs_that_do_not_fit_is_refused():
    outputs = (Output("a", (0, 1)), Output("b", (0, 1)))
    whole = Signature((), "classification", "a, b", outputs=outputs)
    assert [part.classes for part in whole.parts.values()] == [(0, 1), (0, 1)]
    for change in ({"task": "regression"}, {"outputs": outputs[:1]}, {"outputs": (outputs[0], outputs[0])}):
        with pytest.raises(SpecError, match="outputs"):
            replace(whole, **change)


def test_the_manifest_of_a_model_of_one_output_does_not_change():
    spec = several_outputs(("a", "b"), (int, int))
    one = replace(spec, target="a", schema=spec.schema.remove_columns(["b"]))
    rows = one.load()
    estimator = fit(one, rows[one.inputs], rows["a"], folds=0).estimator
    assert signature_of(one, estimator).to_dict().keys() == {
        "inputs",
        "task",
        "output",
        "classes",
        "probability",
        "ignored",
    }
    assert isinstance(target_values(one, rows["a"]), pd.Series)


def test_row_without_a_finite_prediction_of_each_output_is_refused(tmp_path):
    x = np.linspace(0, 1, 60)
    table = pd.DataFrame({"x": x, "z": x[::-1], "p": 2 * x, "q": 20 * x[::-1]})
    schema = pa.DataFrameSchema(dict.fromkeys(table, pa.Column(float)))
    spec = ModelSpec("toy", lambda: table, ["p", "q"], schema, lambda _: LinearRegression(), "r2", "regression")
    _, _, predictor = served(spec, tmp_path)
    assert len(predictor.predict_rows([[0.5, 0.5]]).prediction) == 1
    with pytest.raises(InputError, match="Row 1: the model has no finite prediction"):
        predictor.predict_rows([[0.5, 0.5], [0.0, 1e308]])


@pytest.mark.parametrize("target", ["late", ["late", "b"]])
def test_time_is_no_target(target):
    spec = several_outputs(("late", "b"), (bool, int))
    with pytest.raises(SpecError, match="'late' is the time column and a target"):
        replace(spec, target=target, time="late")


@pytest.mark.parametrize("name", ["", "  ", "a\tb", "a\r\nb", "\x7f", "\u2029"])
def test_output_whose_name_cannot_be_written_is_refused(name):
    with pytest.raises(SpecError, match="is empty or has line breaks or control characters"):
        several_outputs((name, "b"), (int, int))


@pytest.mark.parametrize("wrapper", [ClassifierChain, OneVsRestClassifier])
@pytest.mark.parametrize("kinds", [(str, str), (str, int)])
def test_estimator_of_zeros_and_ones_is_not_given_texts(wrapper, kinds):
    spec = several_outputs(("a", "b"), kinds, make=lambda: wrapper(LogisticRegression()))
    rows = spec.load()
    with pytest.raises(
        TrainingError, match=r"does not take these labels of 'a', 'b', only 0 and 1: make columns of 0 and 1"
    ):
        fit(spec, rows[spec.inputs], rows[spec.target], folds=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: MultiOutputClassifier(LinearSVC()), r"MultiOutputClassifier\(CalibratedClassifierCV\(LinearSVC\("),
        (lambda: ClassifierChain(LinearSVC()), r"ClassifierChain\(CalibratedClassifierCV\(LinearSVC\("),
        (lambda: RidgeClassifier(), r"MultiOutputClassifier\(CalibratedClassifierCV\(RidgeClassifier\("),
    ],
)
def test_advice_for_probabilities_of_each_output_works(make, advice):
    spec = several_outputs(("a", "b"), (int, int), make=make, scorer="roc_auc")
    rows = spec.load()
    with pytest.raises(GateError, match=advice):
        fit(spec, rows[spec.inputs], rows[spec.target], folds=2)
    calibrated = CalibratedClassifierCV(LinearSVC(), cv=2)
    wrapped = ClassifierChain(calibrated) if "Chain" in advice else MultiOutputClassifier(calibrated)
    spec = several_outputs(("a", "b"), (int, int), make=lambda: wrapped, scorer="roc_auc")
    assert fit(spec, rows[spec.inputs], rows[spec.target], folds=2).scores["score"].min() > 0.5
