"""A drafted model takes what its table did not show: missing values and new categories, in every column."""

import json
import types

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_nb.data.explore import explore
from mlops_nb.data.tables import validate
from mlops_nb.model.columns import input_frame, rows_of
from mlops_nb.model.engine import SklearnEngine
from mlops_nb.model.parser import InputParser
from mlops_nb.model.signature import signature_of
from mlops_nb.model.train import fit
from mlops_nb.project.baseline import BaselineComparison, compare_estimators
from mlops_nb.project.draft import draft_notebook
from mlops_nb.project.estimator_code import EstimatorKind, candidate_kinds
from mlops_nb.project.table_formats import missing_word_warnings
from mlops_nb.project.table_source import TableSource, open_table
from tests.factories import optional

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),  # of a fit on few rows
]


def drafted(table: pd.DataFrame, target: str, kind: EstimatorKind, time: str | None = None):
    """The spec of the notebook that is drafted for a table, without its trials."""
    summary = explore(table, target, time)
    comparison = BaselineComparison((0.1, 0.1), {kind: (0.9, 0.9)}, len(table))
    return spec_of(draft_notebook("m", TableSource("read()", (), "words"), summary, comparison), table)


@pytest.mark.parametrize("group", [["customer"], ["age", "size"]])
def test_drafted_notebook_runs_with_rows_of_one_thing(group):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"customer": rng.integers(0, 30, 120), "age": rng.integers(20, 60, 120).astype(float)})
    table = table.assign(size=rng.normal(size=120), y=rng.integers(0, 2, 120))
    summary = explore(table, "y", group=group)
    comparison = BaselineComparison((0.1, 0.1), {EstimatorKind.LINEAR: (0.9, 0.9)}, len(table))
    script = draft_notebook("m", TableSource("read()", (), "words"), summary, comparison)
    assert f"Rows that agree in `{'`, `'.join(group)}` are of one thing" in script
    module = types.ModuleType("m")
    module.__dict__["read"] = lambda: table
    cells = [
        cell for cell in script.split("\n\n# %%") if not cell.lstrip().startswith("[markdown]") and "plot" not in cell
    ]
    exec("\n\n".join(cells), module.__dict__)
    spec = module.__dict__["spec"]
    assert list(spec.group) == group
    assert "customer" in (spec.ignored if group == ["customer"] else spec.inputs)
    assert len(module.__dict__["training"].scores) == 3


def spec_of(script: str, table: pd.DataFrame):
    """The spec that the exported cells of a drafted notebook make."""
    cells = [cell for cell in script.split("\n\n# %%") if cell.lstrip().startswith("#| export")]
    module = types.ModuleType("m")
    module.__dict__["read"] = lambda: table
    exec("\n\n".join(cells), module.__dict__)
    return module.__dict__["spec"]


@pytest.mark.parametrize(("rare", "often", "lines"), [(1, 0, 0), ("fraud", "fine", 1), (0, 1, 1), (True, False, 0)])
def test_rare_label_gets_a_threshold_that_a_build_chooses_and_a_table_of_what_it_finds(rare, often, lines):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"amount": rng.lognormal(3, 1, 1500), "hour": rng.integers(0, 24, 1500)})
    risk = 1 / (1 + np.exp(7 - 1.2 * np.log(table["amount"])))
    table["label"] = pd.Series(np.where(rng.random(1500) < risk, rare, often)).infer_objects()
    summary = explore(table, "label")
    assert summary.target.shares[1] < 0.1
    comparison = compare_estimators(summary, table, minutes=0)
    script = draft_notebook("m", TableSource("read()", (), "words"), summary, comparison)
    assert f"`{rare}` is rare" in script
    assert script.count("positive=") == lines
    recalls = [point.recall for point in sorted(comparison.points, key=lambda point: -point.threshold)]
    assert recalls == sorted(recalls)
    assert recalls[-1] >= 0.9
    spec = spec_of(script, table)
    training = fit(spec, input_frame(spec, table), table["label"], folds=3)
    flagged = (training.estimator.predict(input_frame(spec, table)) == rare).mean()
    assert 0.2 * summary.target.shares[1] < flagged < 4 * summary.target.shares[1]


def of_all_kinds(seed: int, rows: int = 120) -> pd.DataFrame:
    """A table without a gap."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"amount": rng.normal(50, 9, rows), "count": rng.integers(0, 9, rows)})
    table["member"] = rng.random(rows) < 0.4
    table["port"] = rng.choice(["S", "C", "Q"], rows)
    table["town"] = rng.choice([f"town {i}" for i in range(30)], rows)
    table["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, rows), "D")
    table["written"] = table["day"].dt.strftime("%d.%m.%Y")
    words = np.array(["quiet", "flat", "near", "park", "lake", "with", "view", "loft"])
    table["note"] = [" ".join(rng.choice(words, 5)) for _ in range(rows)]
    table["price"] = np.exp(table["amount"] / 9 + 0.1 * rng.normal(size=rows))
    table["label"] = np.where(table["amount"] + 9 * rng.normal(size=rows) > 50, "yes", "no")
    return table


KINDS = [
    (target, kind)
    for target in ("label", "price")
    for kind in candidate_kinds(explore(of_all_kinds(0).drop(columns={"label", "price"} - {target}), target))
]
KINDS += [("label", EstimatorKind.LIGHTGBM), ("price", EstimatorKind.XGBOOST), ("label", EstimatorKind.CATBOOST)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda given: f"{given[0]}-{given[1].name.lower()}")
def model(request):
    target, kind = request.param
    table = of_all_kinds(0).drop(columns={"label", "price"} - {target})
    if kind.library:
        optional(kind.library)
        table = table.drop(columns="note")
    spec = drafted(table, target, kind)
    rows = validate(table, spec.schema)
    training = fit(spec, input_frame(spec, rows), rows[target], folds=2 if kind.library else 0)
    signature = signature_of(spec, training.estimator)
    return spec, SklearnEngine(training.estimator, signature), InputParser(signature), table


def figures(predictions):
    """The numbers that a prediction is made of."""
    return predictions.prediction if predictions.probability is None else predictions.probability


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_value_may_be_missing_or_new(model, data):
    spec, engine, parser, table = model
    row = json.loads(table[spec.inputs].iloc[[3]].to_json(orient="records", date_format="iso"))[0]
    gone = data.draw(st.sets(st.sampled_from(spec.inputs)))
    new = {"port": "X", "town": "elsewhere", "note": "words that nobody wrote before"}
    new = {name: value for name, value in new.items() if name in spec.inputs}
    changed = data.draw(st.sets(st.sampled_from(sorted(new))))
    sent = row | {name: new[name] for name in changed} | dict.fromkeys(gone)
    if data.draw(st.booleans()):  # an absent column is a missing value
        sent = {name: value for name, value in sent.items() if value is not None}
    parsed = parser.parse([sent, row] if sent else [dict.fromkeys(spec.inputs), row])
    assert np.isfinite(figures(engine.predict(parsed))).all()


def test_training_takes_what_a_request_takes(model):
    spec, engine, parser, table = model
    dirty = table.astype({"count": "Int64", "member": "boolean"})
    for number, name in enumerate(spec.inputs):
        dirty.loc[number::20, name] = None
    dirty.loc[19, "port"] = "X"
    rows = validate(dirty, spec.schema)
    fit(spec, input_frame(spec, rows), rows[spec.target], folds=0)
    of_table = engine.predict(parser.parse(rows_of(parser.signature, parser.parse(_json(dirty[spec.inputs])))))
    assert np.isfinite(figures(of_table)).all()


def _json(rows: pd.DataFrame) -> list[dict]:
    return json.loads(rows.to_json(orient="records", date_format="iso"))


def test_column_that_splits_by_time_must_be_there():
    spec = drafted(of_all_kinds(1).drop(columns="price"), "label", EstimatorKind.TREES, time="day")
    assert not spec.schema.columns["day"].nullable
    assert spec.schema.columns["port"].nullable


@pytest.mark.parametrize("header", [True, False])
def test_word_that_is_read_as_missing_in_a_column_of_texts_is_named(tmp_path, header):
    lines = [f"{country},{i}.5,{'yn'[i % 3 == 0]}" for i, country in enumerate(["NA", "AO", "ZA", "", "None"] * 20)]
    (tmp_path / "places.csv").write_text("\n".join([*["country,price,sold"] * header, *lines, "AO,NA,y"]) + "\n")
    table = open_table(str(tmp_path / "places.csv"), header=header)
    target = table.frame.columns[2]
    [warning] = missing_word_warnings(table, explore(table.frame, target), header)
    name = "country" if header else "column_1"
    assert warning.startswith(f"`{name}`: read as missing: 'NA' (20 rows), 'None' (20 rows). If it is a value")
