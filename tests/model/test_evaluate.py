"""Gates fail closed; metrics are scikit-learn's."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from sklearn import metrics as sk
from sklearn.svm import LinearSVC

from mlops_nb.errors import GateError, SpecError, TrainingError
from mlops_nb.examples.signals import spec as signals
from mlops_nb.model.evaluate import Evaluation, evaluate
from mlops_nb.model.gates import check_gates
from mlops_nb.model.metric_checks import check_metrics
from mlops_nb.model.plots import plot_evaluation
from mlops_nb.model.scoring import BINARY_METRICS, default_metrics, score
from mlops_nb.model.signature import Predictions
from mlops_nb.model.train import fit, make_estimator
from mlops_nb.spec import Gates, ModelSpec

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 200)
P = np.clip(Y * 0.4 + RNG.uniform(size=200) * 0.6, 0, 1)
BINARY = Predictions((P > 0.5).astype(int), np.column_stack([1 - P, P]), (0, 1))


def spec(**changes) -> ModelSpec:
    schema = pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column(int)})
    return ModelSpec("toy", lambda: pd.DataFrame(), "y", schema, make_estimator=lambda params: None, **changes)


def test_metrics_are_those_of_scikit_learn():
    found = score(BINARY, Y, ["accuracy", "roc_auc", "average_precision", "neg_log_loss", "f1", "neg_brier_score"])
    assert found == {
        "accuracy": pytest.approx(sk.accuracy_score(Y, BINARY.prediction)),
        "roc_auc": pytest.approx(sk.roc_auc_score(Y, P)),
        "average_precision": pytest.approx(sk.average_precision_score(Y, P)),
        "neg_log_loss": pytest.approx(-sk.log_loss(Y, P)),
        "f1": pytest.approx(sk.f1_score(Y, BINARY.prediction)),
        "neg_brier_score": pytest.approx(-sk.brier_score_loss(Y, P)),
    }


def test_metrics_of_several_classes_named_by_strings():
    y = np.array(["a", "b", "c"] * 20)
    probability = np.eye(3)[np.tile([0, 1, 2], 20)] * 0.7 + 0.1
    answer = Predictions(y.copy(), probability, ("a", "b", "c"))
    found = score(answer, y, default_metrics(spec(), answer.classes))
    assert found["accuracy"] == found["roc_auc_ovr"] == 1
    assert not any(math.isnan(v) for v in found.values())


def test_all_metrics_of_a_regression_are_numbers():
    found = score(Predictions(P + 0.1), P, default_metrics(spec(task="regression", scorer="r2")))
    assert found["neg_mean_absolute_error"] == pytest.approx(-0.1)
    assert not any(math.isnan(v) for v in found.values())


@pytest.mark.parametrize(
    ("metrics", "baseline", "champion", "message"),
    [
        ({}, {"accuracy": 0.5}, None, "'accuracy' of the model, which was not computed"),
        ({"accuracy": math.nan}, {"accuracy": 0.5}, None, "of the model, which is nan"),
        ({"accuracy": 0.9}, {}, None, "'accuracy' of the baseline, which was not computed"),
        ({"accuracy": 0.9}, {"accuracy": math.nan}, None, "of the baseline, which is nan"),
        ({"accuracy": 0.9}, {"accuracy": 0.5}, {}, "'accuracy' of the champion, which was not computed"),
        ({"accuracy": math.inf}, {"accuracy": 0.5}, None, "which is inf"),
    ],
)
def test_gate_without_its_metric_is_an_error_and_never_a_pass(metrics, baseline, champion, message):
    with pytest.raises(GateError, match=message):
        check_gates(spec(gates=Gates(minimum={"accuracy": 0.1})), metrics, baseline, champion)


@pytest.mark.parametrize(
    ("value", "champion", "passed"),
    [(0.9, None, True), (0.9, 0.91, True), (0.9, 0.92, False), (0.79, None, False), (0.55, None, False)],
)
def test_gates_decide_at_their_limits(value, champion, passed):
    gates = Gates(minimum={"accuracy": 0.8}, over_baseline=0.1, tolerance=0.01)
    rival = None if champion is None else {"accuracy": champion}
    results = check_gates(spec(gates=gates), {"accuracy": value}, {"accuracy": 0.5}, rival)
    assert all(r.passed for r in results) == passed


def test_as_good_as_the_baseline_is_not_better():
    assert not check_gates(spec(), {"accuracy": 0.5}, {"accuracy": 0.5})[0].passed


def test_slice_in_which_a_metric_is_not_defined_is_null_in_json_and_an_empty_one_has_no_rows():
    sliced = spec(slices={"ones": lambda X: Y == 1, "nobody": lambda X: np.zeros(200, dtype=bool)})
    found = evaluate(sliced, pd.DataFrame({"x": P}), Y, Y, BINARY).to_dict()
    assert found["slices"]["nobody"]["rows"] == 0
    assert "NaN" not in str(found["slices"])
    assert Evaluation.from_dict(found).slices["ones"]["rows"] == int(Y.sum())


def test_slice_of_the_wrong_length_is_refused():
    with pytest.raises(GateError, match="Slice 'bad' must give one true or false a row: 200"):
        evaluate(spec(slices={"bad": lambda X: [True]}), pd.DataFrame({"x": P}), Y, Y, BINARY)


@pytest.mark.parametrize(
    ("mask_of", "message"),
    [
        (lambda X: X["xx"] > 0, "Slice 'bad' fails on the test rows: KeyError: 'xx'. It is given the columns ['x']"),
        (lambda X: pd.array([None] * len(X), "boolean"), "Slice 'bad' fails on the test rows: "),
    ],
)
def test_slice_that_fails_is_named(mask_of, message):
    with pytest.raises(GateError, match=re.escape(message)):
        evaluate(spec(slices={"bad": mask_of}), pd.DataFrame({"x": P}), Y, Y, BINARY)


def test_time_that_the_schema_does_not_have_is_refused_when_the_spec_is_made():
    with pytest.raises(SpecError, match="The schema has no column for the time 'z'"):
        spec(time="z")


@pytest.mark.parametrize(
    "terms",
    [{"minimum": {"accuracy": "0.9"}}, {"over_baseline": None}, {"tolerance": None}],
)
def test_gate_that_is_no_number_is_refused_when_the_spec_is_made(terms):
    with pytest.raises(SpecError, match="must be a number, got"):
        Gates(**terms)


@pytest.mark.slow
@pytest.mark.parametrize("probability", [True, False])
def test_plots_are_drawn_for_classifiers_with_and_without_probabilities(probability):
    answer = BINARY if probability else Predictions(BINARY.prediction, None, (0, 1))
    assert len(plot_evaluation(spec(), Y, answer).axes) == 3
    assert len(plot_evaluation(spec(task="regression"), P, Predictions(P)).axes) == 2


def test_training_twice_gives_the_same_model_to_the_last_bit():
    table = signals.load()
    X, y = table[signals.inputs], table["label"]
    one, two = (fit(signals, X, y, seed=3) for _ in range(2))
    assert (one.estimator.predict_proba(X) == two.estimator.predict_proba(X)).all()
    assert one.scores.equals(two.scores)


def test_seed_reaches_every_random_state_inside():
    from sklearn.ensemble import BaggingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeClassifier

    nested = replace(signals, make_estimator=lambda params: make_pipeline(BaggingClassifier(DecisionTreeClassifier())))
    found = {k: v for k, v in make_estimator(nested, {}, seed=5).get_params().items() if k.endswith("random_state")}
    assert found == {"baggingclassifier__random_state": 5, "baggingclassifier__estimator__random_state": 5}


def test_parameter_that_the_estimator_does_not_have_is_named():
    table = signals.load()
    with pytest.raises(TrainingError, match="unexpected keyword argument 'C_'"):
        fit(signals, table[signals.inputs], table["label"], {"C_": 1})
    with pytest.raises(TrainingError, match=r"failed: .*'C' parameter"):
        fit(signals, table[signals.inputs], table["label"], {"C": -1})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"params": "C=10"}, "params must be written like {'C': 10}, with Python's None and True; got 'C=10'."),
        ({"params": 5}, "params must be written like {'C': 10}, with Python's None and True; got 5."),
        ({"space": "C"}, "search must be written like {'C': [0.1, 1, 10]}, with Python's None and True; got 'C'."),
        ({"folds": "abc"}, "folds must be a whole number such as 5, got 'abc'."),
    ],
)
def test_parameter_of_a_build_that_is_mistyped_is_told_its_form(asked, message):
    with pytest.raises(TrainingError, match=re.escape(message)):
        fit(signals, pd.DataFrame(), pd.Series(), **asked)


@pytest.mark.parametrize("labels", [(0, 1), (False, True), ("no", "yes"), ("yes", "no"), (-1, 1), (2, 1)])
def test_metrics_of_the_positive_class_do_not_depend_on_how_labels_are_written(labels):
    named = np.array(labels, dtype=object if isinstance(labels[0], str) else None)
    classes = tuple(sorted(labels))
    order = [classes.index(label) for label in labels]
    probability = np.empty((200, 2))
    probability[:, order] = np.column_stack([1 - P, P])
    positive = None if tuple(labels) == (0, 1) else labels[1]
    written = Predictions(named[BINARY.prediction], probability, classes, positive)
    metrics = default_metrics(spec(), classes, positive)
    assert set(BINARY_METRICS) <= set(metrics)
    assert score(written, named[Y], [*metrics, "f1"]) == pytest.approx(score(BINARY, Y, [*metrics, "f1"]))


def test_metric_of_one_class_is_not_zero_where_rows_do_not_define_it():
    answer = Predictions(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]), (0, 1), 1)
    negative = score(answer, [0, 0, 0], ["recall", "average_precision", "roc_auc", "accuracy"])
    assert [math.isnan(negative[m]) for m in negative] == [True, True, True, False]
    never = Predictions(np.zeros(3, dtype=int), np.tile([0.9, 0.1], (3, 1)), (0, 1), 1)
    assert math.isnan(score(never, [0, 1, 1], ["precision"])["precision"])
    assert score(never, [0, 1, 1], ["recall"])["recall"] == 0, "defined, and bad"
    undefined = {"precision": math.nan}
    gates = check_gates(spec(scorer="precision", gates=Gates(minimum={"precision": 0.1})), undefined, undefined)
    assert [gate.passed for gate in gates] == [False, False]


def test_classifier_with_a_decision_function_has_metrics_of_ranks():
    plain = Predictions(BINARY.prediction, None, (0, 1), 1, decision=P - 0.5)
    ranks = ["roc_auc", "average_precision"]
    assert score(plain, Y, ranks) == pytest.approx(score(BINARY, Y, ranks))
    flipped = Predictions(BINARY.prediction, None, (0, 1), 0, decision=P - 0.5)
    assert score(flipped, Y, ["roc_auc"]) == pytest.approx(score(plain, Y, ["roc_auc"]))


@pytest.mark.parametrize(
    ("changes", "train", "test", "message"),
    [
        ({"scorer": "f1"}, ["no", "yes"], ["no", "yes"], "say in the spec which of them is meant, e.g. positive='yes'"),
        ({"scorer": "f1", "positive": "Yes"}, ["no", "yes"], ["no", "yes"], "positive='Yes' of the spec is not among"),
        ({"scorer": "recall"}, [0, 1, 2], [0, 1, 2], "'recall' is a metric of two classes, and the target has 3"),
        ({"scorer": "roc_auc"}, [0, 1, 1], [1, 1], "is not defined on the 2 test rows whose target is only 1"),
        ({"scorer": "roc_auc"}, [0, 1, 2], [0, 1, 2], "'roc_auc' is not defined"),
        ({"scorer": "r2"}, ["a", "b"], ["a", "b"], "'r2' is not defined on the 2 test rows"),
        ({"scorer": "accuracy", "task": "regression"}, [0.5, 1.5], [0.5, 1.5], "'accuracy' is not defined"),
        ({"scorer": "acc"}, [0, 1], [0, 1], "'acc' is not a metric"),
    ],
)
def test_metric_that_the_labels_do_not_define_is_refused_before_training(changes, train, test, message):
    with pytest.raises(GateError, match=re.escape(message)):
        check_metrics(spec(**changes), train, test)


def test_metric_that_an_estimator_has_no_probabilities_for_is_refused_before_it_is_fitted():
    model = replace(spec(scorer="neg_log_loss"), make_estimator=lambda params: LinearSVC())
    with pytest.raises(GateError, match="'neg_log_loss' needs predict_proba, which LinearSVC does not have"):
        fit(model, pd.DataFrame({"x": P}), pd.Series(Y))
    assert fit(replace(model, scorer="roc_auc"), pd.DataFrame({"x": P}), pd.Series(Y)).scores["score"].min() > 0.5


def test_gate_of_an_error_that_a_few_rows_decide_says_how_few():
    y, regression = np.random.default_rng(0).normal(size=200), spec(task="regression", scorer="neg_mean_squared_error")
    rows = pd.DataFrame({"x": y})
    usual, far = (evaluate(regression, rows, y, y, Predictions(y + e)) for e in (0.1, np.append(np.full(199, 0.1), 5)))
    assert [gate.note for gate in usual.gates] == [""]
    assert str(far.gates[0]).endswith("; 1 of the 200 rows make half of the squared error")
