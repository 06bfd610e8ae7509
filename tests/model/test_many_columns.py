"""Cost of a table of many columns: a small multiple of what pandas and plain loops take."""

import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mlops_nb.data.univariate import ColumnScorer
from mlops_nb.model.bundle_files import PROFILE, find_problem
from mlops_nb.model.columns import to_frame, to_table
from mlops_nb.model.conversion import convert
from mlops_nb.model.engine import MATRIX, OnnxEngine, SklearnEngine
from mlops_nb.model.profile import profile_numbers, split_words
from mlops_nb.model.signature import Input, Signature

pytestmark = pytest.mark.slow
COLUMNS = 1_000


def seconds(work, rounds: int = 3) -> float:
    """Return the least CPU time of some rounds."""
    found = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)


@pytest.mark.parametrize("kind", ["float", "int", "string"])
def test_a_row_of_thousands_of_columns_becomes_a_data_frame_as_fast_as_pandas_makes_one(kind):
    signature = Signature(tuple(Input(f"x{i}", kind) for i in range(COLUMNS)), "classification", "y", (0, 1))
    row = {name: np.array(["a"], dtype=object) for name in signature.names}
    table = row if kind == "string" else np.ones((1, COLUMNS))
    plain = {
        i.name: pd.array(row[i.name], dtype="str") if kind == "string" else np.ones(1, i.dtype)
        for i in signature.inputs
    }
    frame = to_frame(signature, table)
    pd.testing.assert_frame_equal(frame, pd.DataFrame(plain))
    assert seconds(lambda: to_frame(signature, table)) < 4 * seconds(lambda: pd.DataFrame(plain)) + 0.04


def test_the_data_frame_of_a_request_is_a_copy_of_its_numbers():
    signature = Signature((Input("a"), Input("b", "int")), "classification", "y", (0, 1))
    table = np.ones((2, 2))
    frame = to_frame(signature, table)
    frame.iloc[0, 0] = 5
    assert table.tolist() == [[1, 1], [1, 1]]


def test_scores_of_columns_are_those_of_scikit_learn_in_a_fraction_of_its_time():
    rng = np.random.default_rng(0)
    y = pd.Series(rng.integers(0, 3, 300)).map({0: "a", 1: "b", 2: "c"})
    columns = [pd.Series(pd.factorize(y)[0] + rng.normal(size=300) * k) for k in range(1, 9)]

    def expected(values: pd.Series) -> float:
        cv, tree = (
            StratifiedKFold(3, shuffle=True, random_state=0),
            DecisionTreeClassifier(min_samples_leaf=3, random_state=0),
        )
        return max(
            0.0, 2 * cross_val_score(tree, values.to_frame().to_numpy(), y, scoring="roc_auc_ovr", cv=cv).mean() - 1
        )

    scorer = ColumnScorer(y, "classification")
    assert [scorer.score(column) for column in columns] == pytest.approx([max(0.0, expected(c)) for c in columns])
    ours, theirs = seconds(lambda: [*map(scorer.score, columns)]), seconds(lambda: [*map(expected, columns)], 2)
    assert ours < theirs / 2


def test_the_score_of_numbers_beyond_single_precision_is_none():
    y = pd.Series(range(30), dtype=float)
    assert ColumnScorer(y, "regression").score(y * 1e200) == 0


def test_the_profile_of_thousands_of_columns_is_checked_in_little_more_time_than_its_values_are_counted():
    column = profile_numbers(np.random.default_rng(0).normal(size=1_000))
    output = {"output": column, "probability": None, "calibration": None}
    profile = {"inputs": {f"x{i}": column for i in range(COLUMNS)}, **output}
    assert find_problem(profile, PROFILE) is None
    values = [value for _ in range(COLUMNS) for part in column["grid"].values() for value in part]
    assert seconds(lambda: find_problem(profile, PROFILE)) < 5 * seconds(
        lambda: [isinstance(v, float | int) for v in values]
    )


@pytest.mark.parametrize("wrong", ["1", None, True, float("inf"), -float("inf"), 10**400])
def test_one_wrong_number_among_many_is_found(wrong):
    points = [0.5] * 50 + [wrong] + [1] * 50
    assert find_problem({"points": points}, {"points": [float]}) == find_problem(
        {"points[50]": wrong}, {"points[50]": float}
    )


def test_words_are_told_apart_in_little_more_time_than_they_are_split():
    rng = np.random.default_rng(0)
    texts = [" ".join(row) for row in np.array([f"w{i}" for i in range(3_000)])[rng.integers(0, 3_000, (20_000, 20))]]
    rows, words, names = split_words(texts)
    found = {(row, names[word].as_py()) for row, word in zip(rows.tolist(), words.tolist(), strict=True)}
    assert len(found) == len(rows)
    assert found == {(row, word) for row, text in enumerate(texts) for word in text.split()}
    array = pa.array(texts)
    assert seconds(lambda: split_words(texts)) < 5 * seconds(lambda: pc.split_pattern_regex(array, r"[^\pL\pN]+"))


@pytest.mark.parametrize("remainder", ["drop", "passthrough"])
def test_numbers_that_a_pipeline_takes_by_their_names_are_one_input_of_its_graph(remainder):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(200, 6)), columns=[*"abcdef"]).assign(f=rng.integers(0, 9, 200))
    y = (X["d"] + 2 * X["b"] - X["a"] > 0).astype(int)
    scaled = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    columns = make_column_transformer((StandardScaler(), ["d"]), (scaled, ["b", "a"]), remainder=remainder)
    signature = Signature((*map(Input, "abcde"), Input("f", "int")), "classification", "y", (0, 1))
    model, table = make_pipeline(columns, LogisticRegression()).fit(X, y), to_table(signature, X)
    found = convert(model, signature, table)
    assert found.onnx is not None, found.reason
    engine, expected = OnnxEngine(found.onnx, signature), SklearnEngine(model, signature).predict(table)
    assert [*engine._inputs] == [MATRIX]
    np.testing.assert_allclose(engine.predict(table).probability, expected.probability, atol=1e-5)
    assert model.steps[0][1].transformers_[0][2] == ["d"]


@pytest.mark.parametrize("kind", [Pipeline, type("OwnPipeline", (Pipeline,), {})])
def test_steps_of_a_pipeline_run_once_for_labels_and_probabilities(kind, monkeypatch):
    X, y = pd.DataFrame({"a": np.arange(40.0)}), np.arange(40) % 3
    model = kind([("scale", StandardScaler()), ("none", "passthrough"), ("model", LogisticRegression())]).fit(X, y)
    signature, calls = Signature((Input("a"),), "classification", "y", (0, 1, 2)), []
    transform = StandardScaler.transform
    monkeypatch.setattr(StandardScaler, "transform", lambda *given: calls.append(1) or transform(*given))
    found = SklearnEngine(model, signature).predict(to_table(signature, X))
    assert len(calls) == (1 if kind is Pipeline else 2), "another class may run its steps in another way"
    np.testing.assert_array_equal(found.prediction, model.predict(X))
    np.testing.assert_array_equal(found.probability, model.predict_proba(X))
