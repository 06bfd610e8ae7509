"""Rows of production as rows of the model's table: with the types that its schema wants."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest

from mlops_nb.data.dialect import Dialect
from mlops_nb.data.tables import dialect_of, validate
from mlops_nb.errors import DataError
from mlops_nb.model.signature import make_signature
from mlops_nb.monitor.prediction_log import LoggedPrediction
from mlops_nb.retrain.dataset import (
    LabelledRows,
    join_rows,
    labelled_rows,
    reference_of,
    save_table,
    without_known_things,
)
from mlops_nb.spec import ModelSpec
from mlops_nb.store.artifacts import FolderStore


@pytest.mark.parametrize("coerce", [False, True])
@pytest.mark.parametrize("values", [[1, 0, None], [1, 0, 1], [None, None, None]], ids=["some", "all", "none"])
@pytest.mark.parametrize("kind", ["boolean", "Int64", "Int8", "UInt16", "Float64", "Float32", float])
def test_logged_rows_have_the_types_of_a_schema_that_allows_missing_values(kind, values, coerce):
    column, y = pa.Column(kind, nullable=True), pa.Column("Int64")
    schema = pa.DataFrameSchema({"x": pa.Column(float), "maybe": column, "y": y}, coerce=coerce)
    spec = ModelSpec(name="toy", load=lambda: None, target="y", schema=schema, make_estimator=None)
    table = pd.DataFrame({"x": [0.5] * 3, "maybe": pd.array(values, kind), "y": pd.array([0, 1, 0], "Int64")})
    signature = make_signature(schema, ["x", "maybe"], "y", classes=[0, 1])
    given = [{"x": 0.5, "maybe": bool(v) if kind == "boolean" and v is not None else v} for v in values]
    now = datetime.now(UTC)
    logged = [
        LoggedPrediction(f"{i}", now, "toy", 1, "production", 1.0, inputs, 0, None, y)
        for i, (inputs, y) in enumerate(zip(given, [0, 1, 0], strict=True))
    ]
    recent = labelled_rows(spec, signature, logged)
    assert recent.excluded == {}
    pd.testing.assert_frame_equal(recent.table, validate(table, schema))


def test_label_that_is_no_whole_number_is_excluded_from_a_schema_that_allows_missing_values():
    schema = pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column("Int64")})
    spec = ModelSpec(name="toy", load=lambda: None, target="y", schema=schema, make_estimator=None)
    signature, now = make_signature(schema, ["x"], "y", classes=[0, 1]), datetime.now(UTC)
    labels = [*[0, 1] * 10, 0.5]
    logged = [
        LoggedPrediction(f"{i:02d}", now, "toy", 1, "production", 1.0, {"x": 1.0}, 0, None, y)
        for i, y in enumerate(labels)
    ]
    recent = labelled_rows(spec, signature, logged)
    assert recent.table["y"].tolist() == labels[:-1]
    assert recent.excluded == {"break the schema": 1}


@pytest.mark.parametrize("is_known", [True, False])
def test_texts_of_a_retrained_version_are_read_as_those_of_the_version_before(tmp_path, is_known):
    schema = pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column(int)})
    spec = ModelSpec("toy", lambda: pd.DataFrame({"x": [0.5, 1.5], "y": [0, 1]}), "y", schema, make_estimator=None)
    artifacts = FolderStore(tmp_path)
    sha256 = save_table(spec.load(), artifacts).sha256 if is_known else "lost"
    written = Dialect(decimal=",", texts=("note",)).to_dict()
    table, _ = reference_of(spec, {"data": {"sha256": sha256}, "signature": {"dialect": written}}, artifacts)
    assert table["x"].tolist() == [0.5, 1.5]
    assert dialect_of(table.assign(note="a"))["dialect"] == written


def rows_of(table: pd.DataFrame) -> LabelledRows:
    now = datetime.now(UTC)
    return LabelledRows(table, [f"{i}" for i in range(len(table))], [now] * len(table), {})


def test_retraining_tests_on_no_thing_that_it_trains_on():
    schema = pa.DataFrameSchema({"born": pa.Column(int), "y": pa.Column(int)})
    spec = ModelSpec("toy", lambda: None, "y", schema, make_estimator=None, group="born")
    reference = pd.DataFrame({"born": [1950, 1950, 1960], "y": [0, 0, 1]})
    training, holdout = (rows_of(pd.DataFrame({"born": born, "y": 1})) for born in ([1970], [1960, 1970, 1980]))
    assert without_known_things(spec, reference, training, holdout).table["born"].tolist() == [1980]
    with pytest.raises(DataError, match="All 1 rows to evaluate on agree in 'born' with rows that are trained on"):
        without_known_things(spec, reference, training, training)


def test_retraining_keeps_the_column_of_things_that_is_no_input(tmp_path):
    schema = pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column(int)})
    table = pd.DataFrame({"x": [0.5, 1.5], "y": [0, 1], "customer": ["a", "a"], "other": [1, 2]})
    spec = ModelSpec(
        "toy", lambda: table, "y", schema, make_estimator=None, group="customer", ignored=["customer", "other"]
    )
    artifacts = FolderStore(tmp_path)
    reference, sha256 = reference_of(spec, {"data": {"sha256": save_table(table, artifacts).sha256}}, artifacts)
    assert list(reference) == ["x", "y", "customer"]
    logged = rows_of(pd.DataFrame({"x": [2.5], "y": [1]}))
    assert len(without_known_things(spec, reference, logged, logged)) == 1  # of which customer they are is not logged
    joined = join_rows(reference, sha256, 1, logged, logged)
    assert joined["customer"].replace({np.nan: None}).tolist() == ["a", "a", None]
