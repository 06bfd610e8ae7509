"""Limits of slices and groups in production: found where they are broken, and seldom where they are kept."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest

from mlops_nb.model.signature import Input, Output, Signature
from mlops_nb.monitor.group_checks import check_groups
from mlops_nb.monitor.prediction_log import LogWindow
from mlops_nb.spec import Gates, ModelSpec

SIGNATURE = Signature((Input("sex", "string"),), "classification", "repaid", (0, 1), probability=False)
SCHEMA = {"sex": pa.Column(str), "repaid": pa.Column(int)}


def spec(target="repaid", schema=SCHEMA, **more) -> ModelSpec:
    facts = {"gates": Gates(groups={"sex": {"selection_rate": 0.1}})} | more
    return ModelSpec("loans", dict, target, pa.DataFrameSchema(schema), dict, **facts)


def window(sex, prediction, label=None) -> LogWindow:
    rows = {"prediction": list(prediction), "label": list(prediction if label is None else label), "probability": None}
    return LogWindow(pd.DataFrame(rows), pd.DataFrame({"sex": sex}))


def check(rows: LogWindow, of: ModelSpec | None = None, signature=SIGNATURE, **more):
    return check_groups(SimpleNamespace(signature=signature), spec() if of is None else of, rows, **more)


@pytest.mark.slow
@pytest.mark.parametrize("n", [40, 300])
def test_groups_at_their_limit_alert_as_seldom_as_the_level_says(n):
    rng, level, draws = np.random.default_rng(0), 0.02, 400
    sex, found = ["m"] * n + ["f"] * n, 0
    for _ in range(draws):
        predicted = (rng.random(2 * n) < np.repeat([0.55, 0.45], n)).astype(int)
        found += bool(check(window(sex, predicted), level=level).findings)
    assert found / draws <= 1.5 * level


@pytest.mark.parametrize("difference", [0.25, 0.4])
def test_groups_far_beyond_their_limit_are_found_at_the_level_of_a_year(difference):
    n = 1000
    predicted = np.r_[np.arange(n) < n // 2, np.arange(n) < n * (0.5 - difference)].astype(int)
    (finding,) = check(window(["m"] * n + ["f"] * n, predicted), level=1 / 365 / 4).findings
    assert (finding.kind, finding.subject) == ("fairness", "selection_rate by sex")
    assert finding.size == pytest.approx(difference - 0.1)
    assert "the limit is 0.1: 0.5 of 1,000 rows in 'm'" in finding.text


def test_column_that_is_not_logged_and_groups_that_are_too_small_are_inconclusive():
    unlogged = LogWindow(window(["m"] * 50, [1] * 50).predictions, pd.DataFrame({"age": [1] * 50}))
    (why,) = check(unlogged).inconclusive
    assert why.startswith("fairness of selection_rate by sex: the rows have no column 'sex'")
    strict = Gates(groups={"sex": {"selection_rate": 0.1}}, inconclusive="fail")
    few = check(window(["m"] * 50 + ["f"] * 5, [1] * 55), spec(gates=strict))
    assert "'f' has 5 of the 30" in few.inconclusive[0]
    assert not few.findings
    assert not few.evaluated
    assert check(window(["m"] * 50 + ["f"] * 5, [1] * 55)).inconclusive == [], "an inconclusive gate passes by default"


def test_limit_by_a_column_that_is_no_input_is_of_builds_alone():
    apart = spec(schema={"repaid": pa.Column(int), "age": pa.Column(int)}, ignored=["sex"])
    found = check(window(["m"] * 200 + ["f"] * 200, [1] * 200 + [0] * 200), apart, opened=["selection_rate by sex"])
    assert (found.findings, found.inconclusive) == ([], [])
    assert found.evaluated == [("fairness", "selection_rate by sex")], "the alert of an earlier spec closes"


def test_alert_stays_open_where_the_spec_cannot_be_read_or_a_slice_not_be_seen():
    rows = window(["m"] * 200 + ["f"] * 200, [1] * 400)
    assert check_groups(SimpleNamespace(signature=SIGNATURE), None, rows, opened=["a by b"]).evaluated == []
    of = spec(slices={"old": lambda X: X["age"] > 60}, gates=Gates(slices={"accuracy": 0.8}))
    assert check(rows, of, opened=["accuracy in old"]).evaluated == []


def test_labels_that_the_model_could_not_predict_are_left_out():
    predicted, sex = [1] * 100 + [0] * 100, ["m"] * 100 + ["f"] * 100
    assert check(window(sex, predicted, [*predicted[:-1], "maybe"])).findings
    empty = window([], [])
    assert check(empty).findings == check(empty, spec(gates=Gates())).findings == []


def test_each_output_has_its_own_limit():
    signature = Signature(
        (Input("sex", "string"),),
        "classification",
        "late, lost",
        probability=False,
        outputs=(Output("late", (0, 1)), Output("lost", (False, True))),
    )
    schema = {"sex": pa.Column(str), "late": pa.Column(int), "lost": pa.Column(bool)}
    gates = Gates(groups={"sex": {"selection_rate": 0.1, "accuracy": 0.2}})
    of = spec(["late", "lost"], schema, gates=gates)
    rows = [{"late": int(i < 200), "lost": bool(i % 2)} for i in range(400)]
    found = check(window(["m"] * 200 + ["f"] * 200, rows), of, signature)
    assert [f.subject for f in found.findings] == ["selection_rate of late by sex"]
    assert ("fairness", "accuracy of lost by sex") in found.evaluated


def test_slice_below_its_limit_is_found_beside_one_that_cannot_be_seen():
    slices = {"women": lambda X: X["sex"] == "f", "old": lambda X: X["age"] > 60}
    of = spec(slices=slices, gates=Gates(slices={"accuracy": 0.8}))
    predicted = np.ones(400, dtype=int)
    label = np.r_[np.ones(200, dtype=int), np.arange(200) % 2]
    found = check(window(["m"] * 200 + ["f"] * 200, predicted, label), of, level=1e-4)
    assert [(f.subject, f.figures["limit"]) for f in found.findings] == [("accuracy in women", 0.8)]
    assert found.evaluated == [("fairness", "accuracy in women")]
