"""The drafted estimator on real tables, beside plain baselines on the same folds."""

from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from mlops_nb.project import estimator_code
from mlops_nb.project.judgement import judge_table
from mlops_nb.project.table_formats import in_own_formats
from mlops_nb.project.table_source import open_table

SHIPPED = Path(__file__).parents[1] / "data" / "shipped"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


def baselines(numbers: list[str], categories: list[str], classifies: bool) -> list:
    """What a person would try first."""
    one_hot = (OneHotEncoder(handle_unknown="ignore"), categories)
    coded = (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), categories)
    linear = make_column_transformer((make_pipeline(SimpleImputer(), StandardScaler()), numbers), one_hot)
    trees = make_column_transformer((SimpleImputer(), numbers), coded)
    kinds = (HistGradientBoostingRegressor, RandomForestRegressor)
    if classifies:
        kinds = (HistGradientBoostingClassifier, RandomForestClassifier)
    first = LogisticRegression(max_iter=2000) if classifies else Ridge()
    return [make_pipeline(linear, first), *(make_pipeline(trees, kind(random_state=0)) for kind in kinds)]


def drafted(summary, kind):
    """The estimator of the drafted code."""
    code, imports = estimator_code.estimator_code(summary, kind)
    names = {}
    exec("\n".join([*imports, *estimator_code.column_lists(summary), code]), names)
    return names["make_estimator"]({})


def shortfall(table, target: str, monkeypatch) -> tuple[float, str]:
    """By how much the drafted estimator is below the best of the baselines, and both in words."""
    monkeypatch.setattr(estimator_code, "_is_installed", lambda library: False)  # their trials take longest
    judged = judge_table(table, target, minutes=10)
    summary, scorer = judged.summary, judged.summary.target.scorer
    classifies = summary.target.task == "classification"
    X, y = table[[c.name for c in summary.used]], table[target]
    cut = (StratifiedKFold if classifies else KFold)(5, shuffle=True, random_state=1)
    plain = baselines(summary.named("number", "whole number", "boolean"), summary.named("category"), classifies)
    best = max(cross_val_score(one, X, y, scoring=scorer, cv=cut).mean() for one in plain)
    own = cross_val_score(drafted(summary, judged.comparison.chosen), X, y, scoring=scorer, cv=cut).mean()
    assert np.isfinite(own)
    return best - own, f"{judged.comparison.chosen}: {own:.4f} against {best:.4f}"


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("wine", 0.01),
        ("diabetes", 0.02),
        pytest.param("iris", 0.01, marks=pytest.mark.nightly),
        pytest.param("breast_cancer", 0.01, marks=pytest.mark.nightly),
    ],
)
def test_drafted_estimator_reaches_the_best_of_plain_baselines(name, limit, monkeypatch):
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    behind, figures = shortfall(bunch.frame, bunch.target.name, monkeypatch)
    assert behind < limit, figures


@pytest.mark.parametrize(
    ("file", "target", "limit"),
    [
        ("penguins.csv", "species", 0.01),
        ("cars.json", "Miles_per_Gallon", 0.02),
        ("gbsg2.csv", "cens", 0.01),
    ],
)
def test_draft_of_a_table_that_a_package_ships_reaches_the_best_of_plain_baselines(file, target, limit, monkeypatch):
    table = in_own_formats(open_table(str(SHIPPED / file))).frame
    behind, figures = shortfall(table[table[target].notna()].reset_index(drop=True), target, monkeypatch)
    assert behind < limit, figures
