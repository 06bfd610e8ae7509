"""A target that training cannot use is one sentence, whatever it holds; what passes can be trained."""

import datetime
import warnings
from contextlib import suppress
from decimal import Decimal

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import Ridge

from mlops_nb.data.tables import split, validate
from mlops_nb.errors import MlopsError
from mlops_nb.model.anomaly import truth_of
from mlops_nb.model.columns import input_frame
from mlops_nb.model.metric_checks import check_metrics
from mlops_nb.model.targets import check_targets
from mlops_nb.model.train import fit
from mlops_nb.spec import ModelSpec

ROWS = 40
TASKS = {
    "classification": ("accuracy", lambda params: RandomForestClassifier(3)),
    "regression": ("r2", lambda params: Ridge()),
    "anomaly": ("roc_auc", lambda params: IsolationForest(n_estimators=3)),
}
USABLE = {
    "whole numbers": ([0, 1], TASKS),
    "booleans": ([True, False], TASKS),
    "texts": (["a", "b"], ["classification"]),
    "empty text": (["", "a"], ["classification"]),
    "categories": (pd.Categorical(["a", "b"] * (ROWS // 2)), ["classification"]),
    "whole categories": (pd.Categorical([3, 4] * (ROWS // 2)), ["classification", "regression"]),
    "nullable numbers": (pd.array([1, 0] * (ROWS // 2), "Int64"), TASKS),
    "nullable booleans": (pd.array([True, False] * (ROWS // 2), "boolean"), TASKS),
    "floats": ([0.5, 1.5], ["regression"]),
    "decimals": ([Decimal(1), Decimal(2)], ["regression"]),
}
UNUSABLE = {
    "booleans and None": [True, False, None],
    "number and text": [1, "1"],
    "number and boolean": [0, 1, True],
    "dates": [datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)],
    "times": pd.to_datetime(["2020-01-01", "2021-01-01"] * (ROWS // 2)),
    "durations": pd.to_timedelta([1, 2] * (ROWS // 2), unit="D"),
    "bytes": [b"a", b"b"],
    "lists": [[1], [2]],
    "complex": np.array([1j, 2j] * (ROWS // 2)),
    "nothing": [None],
    "missing": [np.nan],
    "some missing": [0.0, 1.0, np.nan],
    "infinite": [0.0, 1.0, np.inf],
    "one value": [1],
}


def prepare(task: str, values):
    """Read, check, split and measure as the task `ingest` does; return the spec and the rows to train on."""
    if isinstance(values, list):
        values = (values * ROWS)[:ROWS]
    table = pd.DataFrame({"x": np.random.default_rng(0).normal(size=ROWS), "y": values})
    scorer, make = TASKS[task]
    schema = pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column(None, nullable=True)})
    spec = ModelSpec("toy", lambda: table, "y", schema, make, scorer=scorer, task=task)
    table = validate(table, schema)
    check_targets(spec, table)
    train, test = split(table, spec.target, 0.3, 0, None, task != "regression")
    check_metrics(spec, truth_of(spec, train), truth_of(spec, test))
    return spec, train


@pytest.mark.slow
@pytest.mark.parametrize("kind", USABLE)
@pytest.mark.parametrize("task", TASKS)
def test_target_that_passes_can_be_trained(task, kind):
    values, tasks = USABLE[kind]
    if task not in tasks:
        with pytest.raises(MlopsError, match="'y'"):
            prepare(task, values)
        return
    spec, train = prepare(task, values)
    assert np.isfinite(fit(spec, input_frame(spec, train), truth_of(spec, train), folds=2).scores["score"]).all()


@pytest.mark.parametrize("kind", UNUSABLE)
@pytest.mark.parametrize("task", TASKS)
def test_target_that_cannot_be_used_is_one_sentence(task, kind):
    if (task, kind) == ("regression", "number and boolean"):
        return  # True is 1 there
    with pytest.raises(MlopsError, match="'y'") as caught:
        prepare(task, UNUSABLE[kind])
    assert "not supported" not in str(caught.value)


VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3)),
    *(st.dates(), st.datetimes(), st.decimals(allow_nan=False), st.just(pd.NA), st.just(pd.NaT), st.integers(0, 1)),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(VALUES, min_size=1, max_size=4), st.sampled_from([*TASKS]))
def test_no_target_ends_in_an_error_of_python(values, task):
    with warnings.catch_warnings(), suppress(MlopsError):
        warnings.simplefilter("ignore")
        prepare(task, [*values])
