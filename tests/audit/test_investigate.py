"""Which rows are behind a drifted column, and where a model is wrong."""

import re

import numpy as np
import pandas as pd
import pytest

from mlops_nb.audit.investigate import errors_of, investigate, rows_behind, worst_parts
from mlops_nb.errors import NotFoundError
from mlops_nb.model.profile import make_profile
from mlops_nb.model.signature import Input, Predictions, Signature
from mlops_nb.monitor.drift import measure_drift
from mlops_nb.monitor.prediction_log import LogWindow
from tests.factories import make_home

SIGNATURE = Signature(
    (Input("n", required=False), Input("k", "string"), Input("t", "string", required=False), Input("few")),
    "regression",
    "y",
)


def frame(n: int = 2000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(["red", "green", "blue"], rng.integers(1, 4))) for _ in range(n)]
    return pd.DataFrame(
        {"n": rng.normal(size=n), "k": rng.choice(["a", "b"], n), "t": texts, "few": rng.choice([1.0, 2.0], n)}
    )


def behind(column: str, inputs: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    known = frame()
    profile = make_profile(SIGNATURE, known, Predictions(known["n"].to_numpy()))
    facts = pd.DataFrame({"prediction": inputs["n"].fillna(0.0), "label": None}, inputs.index)
    report = measure_drift(profile, inputs, Predictions(facts["prediction"].to_numpy()))
    (found,) = [c for c in report.columns if c.name == column]
    assert found.drifted
    return rows_behind(found, LogWindow(facts, inputs), max_rows=5000)


def test_rows_of_the_range_that_has_grown():
    inputs = frame(seed=1).assign(n=lambda t: np.where(np.arange(2000) % 2, t["n"], 5.0))
    where, rows = behind("n", inputs)
    assert (rows["n"] == 5.0).sum() == 1000
    assert "% in the reference" in where


def test_rows_without_a_value():
    inputs = frame(seed=1)
    inputs.loc[::3, "n"] = np.nan
    where, rows = behind("n", inputs)
    assert where.startswith("missing: 33.4% of the rows, 0.0% in the reference")
    assert rows["n"].isna().all()
    assert len(rows) == 667


def test_rows_of_a_number_with_few_values_and_of_a_prediction():
    inputs = frame(seed=1).assign(few=2.0)
    where, rows = behind("few", inputs)
    assert where.startswith("2: 100.0%")
    assert len(rows) == 2000
    inputs = frame(seed=1).assign(n=lambda t: t["n"] + 2)
    where, rows = behind("prediction", inputs)
    assert 0 < len(rows) < 2000
    assert (rows["prediction"] > 0).all()


def test_rows_of_a_date_are_those_of_the_days_that_have_grown():
    signature, rng = Signature((Input("at", "datetime"),), "regression", "y"), np.random.default_rng(0)
    year = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.uniform(0, 365, 2000), "D")
    profile = make_profile(signature, pd.DataFrame({"at": year}), Predictions(np.arange(2000.0)))
    inputs = pd.DataFrame({"at": ["2024-06-01T12:00:00Z"] * 100 + ["2025-03-01T12:00:00Z"] * 399 + ["9999-12-31"]})
    (found,) = measure_drift(profile, inputs).drifting
    facts = pd.DataFrame({"prediction": 0.0, "label": None}, inputs.index)
    where, rows = rows_behind(found, LogWindow(facts, inputs), max_rows=500)
    assert where == "2025-03-01T12:00:00: 79.8% of the rows, 0.0% in the reference"
    assert rows.index.tolist() == list(range(100, 499))
    later = pd.date_range("2025-03-01T12:00:00Z", periods=399, freq="min").strftime("%Y-%m-%dT%H:%M:%SZ").tolist()
    inputs["at"] = [*inputs["at"][:100], *later, "9999-12-31"]
    (found,) = measure_drift(profile, inputs).drifting
    where, rows = rows_behind(found, LogWindow(facts, inputs), max_rows=500)
    assert re.match(r"2024-12-\d\d to 9999-12-31: 80.0% of the rows", where), where
    assert rows.index.tolist() == list(range(100, 500))


def test_rows_of_a_column_that_collapsed_are_those_of_its_one_value_or_those_that_repeat():
    rng = np.random.default_rng(0)
    signature = Signature((Input("client", "string"), Input("mail", "string"), Input("n")), "regression", "y")

    def draw(n):
        mails = [f"dear {i:05} we need {i % 900:03} of them" for i in rng.integers(0, 90_000, n)]
        clients = rng.integers(0, 5000, n).astype(str)
        return pd.DataFrame({"client": clients, "mail": mails, "n": rng.normal(size=n)})

    profile = make_profile(signature, draw(2000), Predictions(np.arange(2000.0)))
    window = draw(1000)
    long, at = "a long mail of many words " * 50, window.index >= 900
    cases = {
        "client": [("unknown", "unknown"), ("", "")],
        "mail": [(long, long[:40])],
        "n": [(0.125, "0.125"), (np.inf, "inf")],
    }
    for name, values in cases.items():
        for value, shown in values:
            inputs = window.assign(**{name: window[name].mask(at, value)})
            (found,) = measure_drift(profile, inputs).drifting
            facts = pd.DataFrame({"prediction": 0.0, "label": None}, inputs.index)
            where, rows = rows_behind(found, LogWindow(facts, inputs), max_rows=500)
            assert found.part == "one value"
            assert where.startswith(f"{shown}: 10"), where
            assert rows.index.tolist() == window.index[at | (window[name] == value)].tolist()
    inputs = window.assign(client=(window["client"].astype(int) % 60).astype(str))
    (found,) = measure_drift(profile, inputs).drifting
    where, rows = rows_behind(found, LogWindow(facts, inputs), max_rows=1000)
    assert where.startswith("repeated: 94.0% of the rows, ")
    assert len(rows) == 940


@pytest.mark.parametrize("categories", [None, (1_000_000, 2_000_000)])
@pytest.mark.parametrize("kind", ["int", "float"])
@pytest.mark.parametrize("missing", [None, 1_000_000])
def test_rows_of_a_large_number_with_few_values_are_found(kind, categories, missing):
    signature = Signature((Input("n", kind, required=False, categories=categories),), "regression", "y")
    known = pd.DataFrame({"n": [1_000_000, 2_000_000] * 1000})
    profile = make_profile(signature, known, Predictions(np.arange(2000.0)))
    inputs = pd.DataFrame({"n": [2_000_000] * 480 + [missing] * 20})
    found = next(c for c in measure_drift(profile, inputs).drifting if c.part == "values")
    facts = pd.DataFrame({"prediction": 0.0, "label": None}, inputs.index)
    assert len(rows_behind(found, LogWindow(facts, inputs), max_rows=500)[1]) == 480


def test_text_is_shown_by_its_length_or_not_at_all():
    inputs = frame(seed=1).assign(t="red " * 40)
    where, rows = behind("t", inputs)
    assert len(rows) == 2000 or "cannot be shown row by row" in where


def test_worst_part_is_first_and_few_unlucky_rows_are_not():
    rng = np.random.default_rng(0)
    inputs = pd.DataFrame({"k": rng.choice(["a", "b", "c"], 900), "n": rng.normal(size=900)})
    inputs.loc[:2, "k"], inputs.loc[850:874, "k"] = "rare", "unlucky"
    inputs.loc[10:200, "n"] = np.nan
    wrong = ((inputs["k"] == "b") & (rng.uniform(size=900) < 0.5)) | (inputs["k"] == "rare")
    wrong[850:875] = np.arange(25) < 15  # a larger share than of b, but of few rows
    found = worst_parts(inputs, wrong.to_numpy())
    assert found.loc[0, ["input", "part"]].tolist() == ["k", "b"]
    assert found.loc[0, "rest"] < 0.05
    assert "rare" not in found["part"].tolist()
    assert "missing" in worst_parts(inputs, wrong.to_numpy(), 99)["part"].tolist()


def test_error_of_a_regression_is_how_far_off_it_is():
    facts = pd.DataFrame({"prediction": [1.0, 2.0], "label": [1.5, 0]})
    assert errors_of(SIGNATURE, LogWindow(facts, facts)).tolist() == [0.5, 2.0]
    inputs = pd.DataFrame({"k": ["a"] * 50 + ["b"] * 50})
    found = worst_parts(inputs, np.r_[np.full(50, 3.0), np.arange(50) / 50])
    assert found.loc[0, ["input", "part", "error"]].tolist() == ["k", "a", 3.0]


@pytest.mark.slow
def test_missing_check_or_alert_is_not_found(tmp_path):
    settings = make_home(tmp_path, promoted=2)
    with pytest.raises(NotFoundError, match="No check has seen rows of version 2 of 'toy' yet: mlops-nb monitor toy"):
        investigate("toy", settings)
    with pytest.raises(NotFoundError, match=r"No alert 7 of 'toy' can be investigated; those that can: \[\]"):
        investigate("toy", settings, alert=7)
