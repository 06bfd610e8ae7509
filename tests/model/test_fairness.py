"""Gates of slices and groups: they fail for a real difference, and seldom for chance."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from mlops_nb.errors import GateError, SpecError
from mlops_nb.model.evaluate import Evaluation, evaluate
from mlops_nb.model.fairness import (
    check_fairness,
    fairness_gates,
    group_masks,
    keep_group_columns,
    slice_limits,
)
from mlops_nb.model.gates import GateResult
from mlops_nb.model.measurement import Measurement, measure
from mlops_nb.model.signature import Predictions
from mlops_nb.model.statistics import wilson_interval
from mlops_nb.spec import RATES, Gates, ModelSpec

RNG = np.random.default_rng(0)


def spec(**changes) -> ModelSpec:
    schema = pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column(int)})
    given = {"ignored": ["sex", "region"]} | changes
    return ModelSpec("toy", pd.DataFrame, "y", schema, make_estimator=lambda params: None, **given)


def drawn(sizes: dict[str, int], selected: dict[str, float], base: float = 0.5, rng=RNG):
    """Draw rows whose groups have these selection rates; a prediction knows nothing of the truth."""
    sex = np.repeat(list(sizes), list(sizes.values()))
    predicted = (rng.uniform(size=len(sex)) < np.vectorize(selected.get)(sex)).astype(int)
    truth = (rng.uniform(size=len(sex)) < base).astype(int)
    return pd.DataFrame({"x": 0.0, "sex": sex}), truth, Predictions(predicted, classes=(0, 1))


PARITY = spec(gates=Gates(groups={"sex": {"selection_rate": 0.1, "true_positive_rate": 0.1}}))


@pytest.mark.slow
def test_equal_groups_fail_at_most_one_build_in_twenty():
    """The limit is next to nothing, so that every interval without 0 is a failure: the worst case."""
    strict = spec(gates=Gates(groups={"sex": {"selection_rate": 1e-9, "true_positive_rate": 1e-9, "precision": 1e-9}}))
    rng, sizes = np.random.default_rng(1), {"f": 400, "m": 300, "x": 90}
    failed = []
    for _ in range(600):
        gates = fairness_gates(strict, *drawn(sizes, dict.fromkeys(sizes, 0.3), rng=rng))
        failed.append(any(not gate.passed for gate in gates))
    assert 0 < np.mean(failed) <= 0.05


@pytest.mark.slow
def test_difference_of_twice_the_limit_is_found_with_2000_rows_a_group():
    rng, found = np.random.default_rng(2), []
    for _ in range(200):
        selection, _ = fairness_gates(PARITY, *drawn({"f": 2000, "m": 2000}, {"f": 0.4, "m": 0.6}, rng=rng))
        found.append(not selection.passed and not selection.inconclusive)
    assert np.mean(found) >= 0.95


def test_true_positive_rate_is_compared_on_positive_rows_alone():
    """Both groups are selected equally often, and qualified women half as often as qualified men."""
    sex = np.repeat(["f", "m"], 2000)
    truth = np.tile([1, 0], 2000)
    share = np.where(sex == "f", np.where(truth, 0.4, 0.6), np.where(truth, 0.8, 0.2))
    predicted = Predictions((np.random.default_rng(3).uniform(size=4000) < share).astype(int), classes=(0, 1))
    selection, opportunity = fairness_gates(PARITY, pd.DataFrame({"sex": sex}), truth, predicted)
    assert (selection.passed, selection.inconclusive, opportunity.passed) == (True, False, False)
    assert opportunity.value == pytest.approx(0.4, abs=0.05)
    assert str(opportunity).startswith("FAILED: groups of 'sex' true_positive_rate difference 0.")


def test_ranking_of_equal_groups_passes_and_of_unequal_ones_fails():
    rng = np.random.default_rng(4)
    sex, truth = np.repeat(["f", "m"], 1500), np.tile([0, 1], 1500)
    gates = spec(scorer="roc_auc", gates=Gates(groups={"sex": {"roc_auc": 0.1}}))
    for noise_of_women, passed in ((1.0, True), (5.0, False)):
        score = truth + rng.normal(size=3000) * np.where(sex == "f", noise_of_women, 1.0)
        p = 1 / (1 + np.exp(-score))
        predictions = Predictions((p > 0.5).astype(int), np.column_stack([1 - p, p]), (0, 1))
        (gate,) = fairness_gates(gates, pd.DataFrame({"sex": sex}), truth, predictions)
        assert (gate.passed, gate.inconclusive) == (passed, False), str(gate)


def test_regression_compares_errors_of_groups():
    sex, rng = np.repeat(["f", "m"], 800), np.random.default_rng(5)
    truth = rng.normal(size=1600) * np.where(sex == "f", 3, 1)
    errors = spec(task="regression", scorer="r2", gates=Gates(groups={"sex": {"neg_mean_absolute_error": 0.5}}))
    (gate,) = fairness_gates(errors, pd.DataFrame({"sex": sex}), truth, Predictions(np.zeros(1600)))
    assert not gate.passed
    assert gate.low < 2 * np.sqrt(2 / np.pi) < gate.high


@pytest.mark.parametrize("policy", ["pass", "fail"])
def test_small_group_is_inconclusive_and_the_spec_decides(policy):
    small = spec(gates=Gates(groups={"sex": {"selection_rate": 0.1}}, inconclusive=policy))
    (gate,) = fairness_gates(small, *drawn({"f": 29, "m": 29}, {"f": 0.0, "m": 1.0}))
    assert (gate.inconclusive, gate.passed) == (True, policy == "pass")
    assert "too few rows to tell, 'f' has 29, 'm' has 29 of the 30 that it takes" in str(gate)


def test_small_group_leaves_a_difference_of_the_others_to_be_found():
    sizes = {"f": 2000, "m": 2000, "x": 3}
    (unequal, _), (equal, _) = (
        fairness_gates(PARITY, *drawn(sizes, {"f": 0.3, "m": of_men, "x": 0.5})) for of_men in (0.6, 0.3)
    )
    assert (unequal.passed, unequal.inconclusive) == (False, False)
    assert (equal.passed, equal.inconclusive, equal.high) == (True, True, None)


def test_slice_gates_fail_pass_and_are_inconclusive():
    X = pd.DataFrame({"x": np.repeat([0.0, 1.0, 2.0, 3.0], [500, 500, 40, 5])})
    predicted = np.concatenate([np.arange(500) < 450, np.arange(500) < 200, np.arange(40) < 26, np.ones(5)]).astype(int)
    slices = {name: lambda X, i=i: X["x"] == i for i, name in enumerate(["good", "bad", "few", "fewest"])}
    of_all = spec(slices=slices, gates=Gates(slices={"accuracy": 0.6}))
    gates = fairness_gates(of_all, X, np.ones(1045, dtype=int), Predictions(predicted, classes=(0, 1)))
    assert [(g.subject, g.passed, g.inconclusive) for g in gates] == [
        ("good", True, False),
        ("bad", False, False),
        ("few", True, True),
        ("fewest", True, True),
    ]
    assert str(gates[1]).startswith("FAILED: slice 'bad' accuracy 0.4 (0.3")
    own = spec(slices=slices, gates=Gates(slices={"accuracy": 0.6, "bad": {"accuracy": 0.1}}))
    assert [limits["accuracy"] for limits in slice_limits(own).values()] == [0.6, 0.1, 0.6, 0.6]


def test_more_gates_have_wider_intervals():
    table, truth, predictions = drawn({"f": 500, "m": 500}, {"f": 0.4, "m": 0.6})
    both = spec(gates=Gates(groups={"sex": {"selection_rate": 0.1}, "region": {"selection_rate": 0.1}}))
    table["region"] = np.tile([*"abcde"], 200)
    one, *_ = fairness_gates(PARITY, table, truth, predictions)
    many, regions = fairness_gates(both, table, truth, predictions)
    assert many.low < one.low < many.value < one.high < many.high
    assert regions.low == 0


def test_column_that_the_rows_lack_is_not_within_its_limit():
    table, truth, predictions = drawn({"f": 50, "m": 50}, {"f": 0.5, "m": 0.5})
    gates = fairness_gates(PARITY, table[["x"]], truth, predictions)
    assert [(g.passed, g.inconclusive) for g in gates] == [(False, False)] * 2
    assert "the rows have no column 'sex'" in str(gates[0])


def test_one_group_alone_is_inconclusive():
    gates = fairness_gates(PARITY, *drawn({"f": 100}, {"f": 0.5}))
    assert all(g.inconclusive for g in gates)
    assert "all rows are of the group 'f'" in str(gates[0])


def test_positive_label_of_the_spec_is_the_one_that_is_selected():
    *_, predictions = drawn({"f": 300, "m": 300}, {"f": 0.2, "m": 0.8})
    words = Predictions(np.where(predictions.prediction, "yes", "no"), classes=("no", "yes"))
    found = [measure(words, words.prediction, "selection_rate", positive).right for positive in ("yes", "no")]
    assert found == [int(predictions.prediction.sum()), int((predictions.prediction == 0).sum())]
    with pytest.raises(GateError, match="it is not known of which"):
        measure(words, words.prediction, "selection_rate")


@pytest.mark.slow
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_rates_are_those_of_scikit_learn(rows):
    predicted, truth = (np.array(values, dtype=int) for values in zip(*rows, strict=True))
    predictions = Predictions(predicted, classes=(0, 1))
    tn, fp, fn, tp = sk.confusion_matrix(truth, predicted, labels=[0, 1]).ravel()
    expected = {
        "selection_rate": (tp + fp, len(rows)),
        "true_positive_rate": (tp, tp + fn),
        "recall": (tp, tp + fn),
        "false_negative_rate": (fn, tp + fn),
        "false_positive_rate": (fp, fp + tn),
        "true_negative_rate": (tn, fp + tn),
        "precision": (tp, tp + fp),
        "accuracy": (tp + tn, len(rows)),
    }
    assert {*RATES} < {*expected}
    for metric, (right, of) in expected.items():
        found = measure(predictions, truth, metric)
        assert found.rows == of
        assert found.value == pytest.approx(right / of if of else np.nan, nan_ok=True)
        assert found.right == right or "15 are needed" in found.note


counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.slow
@given(counts, counts, st.floats(0.5, 0.9999))
def test_interval_of_a_difference_holds_it_and_is_the_other_way_round_for_the_other_way(a, b, confidence):
    first, second = (Measurement(right / rows, rows, right) for right, rows in (a, b))
    low, high = first.difference(second, confidence)
    assert -1 - 1e-9 <= low <= a[0] / a[1] - b[0] / b[1] <= high <= 1 + 1e-9
    assert second.difference(first, confidence) == pytest.approx((-high, -low))
    share_low, share_high = wilson_interval(*a, confidence)
    assert share_low <= a[0] / a[1] + 1e-12
    assert a[0] / a[1] - 1e-12 <= share_high


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from("abcdef"), counts, min_size=1), st.floats(0.001, 0.9))
def test_gate_is_failed_within_and_inconclusive_by_its_interval_alone(groups, limit):
    sex = np.repeat([*groups], [n for _, n in groups.values()])
    predicted = np.concatenate([np.arange(n) < k for k, n in groups.values()]).astype(int)
    limited = spec(gates=Gates(groups={"sex": {"selection_rate": limit}}))
    (gate,) = fairness_gates(limited, pd.DataFrame({"sex": sex}), predicted, Predictions(predicted, classes=(0, 1)))
    large = [k / n for k, n in groups.values() if n >= 30]
    if len(large) < 2:
        assert gate.inconclusive
        return
    assert gate.value == pytest.approx(max(large) - min(large))
    assert gate.low <= gate.value + 1e-9
    assert gate.high is None or gate.value <= gate.high + 1e-9
    assert (gate.high is None) == (len(large) < len(groups))
    assert (not gate.passed) == (gate.low > limit)
    assert gate.inconclusive == (gate.low <= limit and (gate.high is None or gate.high > limit))


def test_evaluation_has_gates_and_groups_and_survives_json():
    table, truth, predictions = drawn({"f": 40, "m": 40, "x": 2}, {"f": 0.5, "m": 0.5, "x": 1.0})
    found = evaluate(replace(PARITY, gates=replace(PARITY.gates, over_baseline=-1.0)), table, truth, truth, predictions)
    again = Evaluation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert [str(gate) for gate in again.gates] == [str(gate) for gate in found.gates]
    assert again.groups["sex"]["x"]["selection_rate"] == 1
    assert again.passed
    assert len(again.inconclusive) == 2
    assert again.group_table().loc[("sex", "f"), "rows"] == 40
    assert [*again.gate_table()][5:] == ["subject", "low", "high", "inconclusive", "note"]
    assert "selection_rate" in again._repr_html_()


def test_gate_of_an_older_manifest_is_read_and_shown_as_before():
    old = {"gate": "minimum", "metric": "accuracy", "value": 0.9, "required": 0.8, "passed": True}
    assert str(GateResult.from_dict(old)) == "passed: minimum accuracy 0.9, required at least 0.8"
    evaluation = {"metrics": {}, "baseline": {}, "champion": None, "champion_version": None, "slices": {}}
    found = Evaluation.from_dict(evaluation | {"gates": [old]})
    assert found.groups == {}
    assert [*found.gate_table()] == [*old]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gates": Gates(groups={"sexx": {"selection_rate": 0.1}})}, "by the column 'sexx', .* Did you mean 'sex'"),
        ({"gates": Gates(groups={"y": {"selection_rate": 0.1}})}, "by the column 'y'"),
        ({"gates": Gates(slices={"recall": 0.5})}, "the spec has no slices"),
        ({"gates": Gates(slices={"old": {"recall": 0.5}}), "slices": {"older": len}}, "Did you mean 'older'"),
        ({"gates": Gates(slices={"old": 0.5}), "slices": {"old": len}}, "The gate of the slice 'old' needs a metric"),
        ({"gates": Gates(groups={"sex": {"selection_rate": 0.1}}), "task": "regression"}, "the task is regression"),
    ],
)
def test_unknown_names_are_refused_when_the_spec_is_made(changes, message):
    with pytest.raises(SpecError, match=message):
        spec(**changes)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ({"groups": {"sex": {"demographic_parity_difference": 0.1}}}, "is the difference of selection_rate"),
        ({"groups": {"sex": {"selection_rate": "10%"}}}, "must be a number above 0, got '10%'"),
        ({"groups": {"sex": {"selection_rate": float("nan")}}}, "must be a number above 0, got nan"),
        ({"groups": {"sex": ["selection_rate"]}}, "need a limit a metric"),
        ({"slices": {"recall": None}}, "must be a number, got None"),
        ({"slices": {"old": {"false_negative_rate": 0.1}}}, "give 'true_positive_rate'"),
        ({"inconclusive": True}, "must be 'pass' or 'fail', got True"),
    ],
)
def test_limits_that_no_model_could_keep_are_refused(gates, message):
    with pytest.raises(SpecError, match=message):
        Gates(**gates)


@pytest.mark.parametrize(
    ("gates", "rows", "message"),
    [
        (Gates(groups={"sex": {"recal": 0.1}}), {}, "'recal' is not a metric. Did you mean 'recall'"),
        (Gates(slices={"acuracy": 0.1}), {}, "'acuracy' is not a metric. Did you mean 'accuracy'"),
        (PARITY.gates, {"y": ["a", "b"] * 20}, "say which is meant, e.g. positive='b'"),
        (PARITY.gates, {"y": [*range(4)] * 10}, "compare 'accuracy'"),
        (PARITY.gates, {"sex": range(40)}, "has 40 values, .* at most 20 groups"),
    ],
)
def test_gates_that_the_rows_do_not_define_are_refused_before_training(gates, rows, message):
    table = pd.DataFrame({"x": 0.0, "y": [0, 1] * 20, "sex": ["f", "m"] * 20} | rows)
    with pytest.raises(SpecError, match=message):
        check_fairness(spec(gates=gates, slices={"all of it": lambda X: X["x"] == 0}), table, table)


def test_column_that_is_no_input_is_kept_and_one_that_is_absent_refused():
    loaded = pd.DataFrame({"sex": ["f", None, 3], "x": [0.0, 1.0, 2.0], "y": [0, 1, 0]})
    table = loaded[["x", "y"]]
    table.attrs["lineage"] = {"rows": 3}
    kept = keep_group_columns(PARITY, loaded, table)
    assert kept["sex"].dropna().tolist() == ["f", "3"]
    assert kept.attrs == table.attrs
    assert [*group_masks(kept["sex"])] == ["3", "f", "missing"]
    assert keep_group_columns(spec(), loaded, table) is table
    assert keep_group_columns(PARITY, table, table, required=False) is table
    with pytest.raises(SpecError, match="by the column 'sex', which the table does not have"):
        keep_group_columns(PARITY, table, table)
