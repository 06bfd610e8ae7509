"""The drafted estimator on real tables, beside plain baselines on the same folds."""

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


@pytest.mark.parametrize(
    "name",
    ["wine", "diabetes", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("iris", "breast_cancer"))],
)
def test_drafted_estimator_reaches_the_best_of_plain_baselines(name, monkeypatch):
    monkeypatch.setattr(estimator_code, "_is_installed", lambda library: False)  # their trials take longest
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    table, target = bunch.frame, bunch.target.name
    judged = judge_table(table, target, minutes=10)
    summary, scorer = judged.summary, judged.summary.target.scorer
    classifies = summary.target.task == "classification"
    X, y = table[[c.name for c in summary.used]], table[target]
    cut = (StratifiedKFold if classifies else KFold)(5, shuffle=True, random_state=1)
    plain = baselines(summary.named("number", "whole number", "boolean"), summary.named("category"), classifies)
    best = max(cross_val_score(one, X, y, scoring=scorer, cv=cut).mean() for one in plain)
    own = cross_val_score(drafted(summary, judged.comparison.chosen), X, y, scoring=scorer, cv=cut).mean()
    assert np.isfinite(own)
    assert own > best - (0.01 if classifies else 0.02), f"{judged.comparison.chosen}: {own:.4f} against {best:.4f}"
