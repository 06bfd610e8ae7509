"""Columns that are known only after the outcome are said, by degrees; what is known in time is kept."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from mlops_nb.data.explore import explore
from mlops_nb.project.judgement import judge_table


def people(n: int = 600) -> tuple[pd.DataFrame, np.random.Generator]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(n, 2)), columns=["x", "z"])
    return table.assign(y=(table["x"] + rng.normal(0, 2, n) > 0.8).astype(int)), rng


@pytest.mark.slow
@pytest.mark.parametrize(("auc", "words"), [(0.93, " well"), (0.97, " very well"), (0.995, " nearly perfectly")])
def test_noisy_leaks_have_a_warning_by_degrees(auc, words):
    table, rng = people()
    table["score"] = norm.ppf(auc) * 2**0.5 * table["y"] + rng.normal(size=len(table))
    judged = judge_table(table, "y", minutes=0)
    assert any(f"Alone, 'score' predicts 'y'{words}" in w for w in judged.warnings), judged.warnings
    assert "score" in [c.name for c in judged.summary.used]


@pytest.mark.slow
def test_value_that_only_the_positives_have_is_said():
    table, rng = people()
    table["refund"] = np.where(
        (table["y"] == 1) & (rng.random(len(table)) < 0.8), rng.normal(50, 9, len(table)), np.nan
    )
    assert any(
        "next one" in w and "by whether it has a value at all" in w for w in judge_table(table, "y", minutes=0).warnings
    )


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.9])
def test_word_that_tells_the_label_is_said(share):
    table, rng = people()
    words = [" ".join(rng.choice([f"w{i}" for i in range(200)], 8)) for _ in table["y"]]
    told = (table["y"] == 1) & (rng.random(len(table)) < share)
    table["note"] = np.where(told, pd.Series(words) + " cancelled", words)
    said = [w for w in judge_table(table, "y", minutes=0).warnings if "Alone, the word 'cancelled' in 'note'" in w]
    assert len(said) == bool(share)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("lag", [1, 3, -1])
def test_target_of_an_earlier_row_is_an_input_and_that_of_a_later_one_is_not(lag, shuffled):
    walk = pd.Series(100 + np.cumsum(np.random.default_rng(0).normal(size=400)))
    days = pd.date_range("2024-01-01", periods=400).astype(str)
    table = pd.DataFrame({"day": days, "x": np.sin(np.arange(400)), "other": walk.shift(lag), "y": walk})
    table = table.sample(frac=1, random_state=0) if shuffled else table
    column = {c.name: c for c in explore(table, "y", time="day").columns}["other"]
    assert column.univariate_score > 0.9
    if lag > 0:
        assert column.exclusion_reason == ""
        assert f"'y' of {lag} row(s) before" in column.note
    else:
        assert column.exclusion_reason == "it is 'y' of 1 row(s) later: known only afterwards"
