"""Rows of one thing stay on one side of every split, and count as fewer rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from sklearn.tree import DecisionTreeClassifier

from mlops_nb.data.groups import group_keys, row_groups
from mlops_nb.data.tables import split
from mlops_nb.errors import DataError, SpecError, TrainingError
from mlops_nb.model.evaluate import evaluate
from mlops_nb.model.fairness import keep_group_columns
from mlops_nb.model.measurement import measure
from mlops_nb.model.signature import Predictions
from mlops_nb.model.train import fit
from mlops_nb.spec import Gates, ModelSpec


def patients(n: int = 60, each: int = 4, seed: int = 0) -> pd.DataFrame:
    """Rows of patients with a random label, the same in all rows of one, as are age and weight."""
    rng = np.random.default_rng(seed)
    of_each = {"patient": rng.permutation(n), "age": rng.normal(50, 9, n), "weight": rng.normal(70, 9, n)}
    table = pd.DataFrame(of_each | {"ill": rng.integers(0, 2, n)})
    return table.loc[np.repeat(range(n), each)].sample(frac=1, random_state=seed).reset_index(drop=True)


def spec_of(**fields) -> ModelSpec:
    schema = pa.DataFrameSchema({"age": pa.Column(float), "weight": pa.Column(float), "ill": pa.Column(int)})
    fields = {"ignored": ["patient"], "scorer": "roc_auc", "group": "patient"} | fields
    return ModelSpec("m", patients, "ill", schema, lambda params: DecisionTreeClassifier(**params), **fields)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("test_size", [0.1, 0.3])
def test_no_thing_is_on_both_sides_of_a_split(seed, stratify, test_size):
    table = patients(seed=seed)
    train, test = split(table, "ill", test_size, seed, stratify=stratify, group=["patient"])
    assert not {*train["patient"]} & {*test["patient"]}
    assert len(train) + len(test) == len(table)
    assert len(test) == pytest.approx(test_size * len(table), abs=4)
    if stratify:
        assert test["ill"].mean() == pytest.approx(table["ill"].mean(), abs=0.1)


def test_rows_of_one_thing_alone_cannot_be_split():
    with pytest.raises(DataError, match="all are of one 'ward', and rows of one stay together"):
        split(patients().assign(ward=1), "ill", group=["ward"])


def test_labels_of_things_are_learned_by_heart_unless_they_stay_on_one_side():
    table, spec = patients(), spec_of()
    X, y = table[spec.inputs], table["ill"]
    assert fit(replace(spec, group=()), X, y).scores["score"].mean() > 0.95
    apart = fit(spec, X, y, space={"max_depth": [2, 5]}, groups=row_groups(spec, table))
    assert apart.scores["score"].mean() < 0.7
    assert apart.search["mean"].max() < 0.7


def test_interval_and_threshold_are_of_rows_whose_thing_was_not_trained_on():
    table = patients(80)
    spec = spec_of(interval=0.9, threshold="precision >= 0.3", scorer="accuracy")
    X, y = table[spec.inputs], table["ill"]
    alone = fit(replace(spec, group=()), X, y)
    apart = fit(spec, X, y, groups=row_groups(spec, table))
    assert alone.interval.quantile < 0.5 < apart.interval.quantile  # one minus the probability of the true label


def test_fit_needs_to_know_what_the_rows_are_of():
    table, spec = patients(), spec_of()
    with pytest.raises(TrainingError, match=r"say which with fit\(groups=row_groups"):
        fit(spec, table[spec.inputs], table["ill"])
    with pytest.raises(TrainingError, match="are of 3 thing"):
        fit(spec, table[spec.inputs], table["ill"], groups=np.arange(len(table)) % 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"group": "patent"}, "neither in the schema nor ignored. Did you mean 'patient'"),
        ({"group": ["age", "ill"]}, "'ill' is in group and the target"),
        ({"time": "age"}, "split by 'age', and cannot be split by group"),
    ],
)
def test_a_group_that_splits_nothing_is_refused(fields, words):
    with pytest.raises(SpecError, match=words):
        spec_of(**fields)


def test_build_keeps_the_column_and_says_where_it_is_absent():
    loaded, spec = patients(), spec_of()
    assert "patient" in keep_group_columns(spec, loaded, loaded[["age", "weight", "ill"]])
    with pytest.raises(SpecError, match="The split makes groups by the column 'patient'"):
        keep_group_columns(spec, loaded[["age"]], loaded[["age"]])
    assert len(np.unique(group_keys(loaded[["age"]], spec.group))) == len(loaded)  # a request carries none


@pytest.mark.parametrize("metric", ["accuracy", "roc_auc", "balanced_accuracy", "recall", "neg_log_loss"])
def test_rows_that_are_copies_count_as_one(metric):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    rate = np.clip(0.5 + 0.2 * (2 * y - 1) + rng.normal(0, 0.3, 200), 0.01, 0.99)

    def width(times: int, things: np.ndarray | None) -> float:
        sure = np.repeat(rate, times)
        predictions = Predictions((sure > 0.5).astype(int), np.stack([1 - sure, sure], 1), (0, 1), 1)
        low, high = measure(predictions, np.repeat(y, times), metric, things=things).interval()
        return high - low

    assert width(5, None) < 0.6 * width(1, None)
    assert width(5, np.repeat(np.arange(200), 5)) == pytest.approx(width(1, None), rel=0.15)


def test_gates_of_a_build_compare_with_intervals_of_things():
    table = patients(40, 10)
    spec = spec_of(gates=Gates(slices={"recall": 0.3}), slices={"old": lambda X: X["age"] > 50})
    old = replace(spec, group=())
    y, rng = table["ill"].to_numpy(), np.random.default_rng(1)
    right = rng.random(40)[group_keys(table, ["patient"])] < 0.7
    ours = Predictions(np.where(right, y, 1 - y), np.stack([1 - y, y], 1) * 0.8 + 0.1, (0, 1), 1)
    theirs = Predictions(
        np.where(rng.random(40)[group_keys(table, ["patient"])] < 0.7, y, 1 - y), np.full((400, 2), 0.5), (0, 1), 1
    )
    alone, together = (evaluate(replace(s, scorer="accuracy"), table, y, y, ours, theirs, 1) for s in (old, spec))
    assert together.comparison.error > 2 * alone.comparison.error
    low, high = ({g.gate: g for g in e.gates}["slice"] for e in (alone, together))
    assert high.high is None or high.high - high.low > 1.5 * (low.high - low.low)
