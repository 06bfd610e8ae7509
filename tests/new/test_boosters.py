"""`mlops-nb new` with LightGBM, XGBoost or CatBoost: they are tried, and chosen only beyond the spread."""

import sys
import time
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from mlops_nb.data.explore import explore
from mlops_nb.project import baseline, estimator_code
from mlops_nb.project.baseline import BaselineComparison, compare_estimators
from mlops_nb.project.draft import draft_notebook
from mlops_nb.project.estimator_code import EstimatorKind, candidate_kinds
from mlops_nb.project.table_source import TableSource
from tests.factories import optional
from tests.new.tables import Given
from tests.new.test_new import Made

BOOSTERS = [kind for kind in EstimatorKind if kind.library]
FOLDS = np.linspace(-0.02, 0.02, 5)


def towns(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Prices that depend on a category of forty, and on a product: a table for native categories."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"size": rng.normal(size=n).round(4), "age": rng.normal(size=n).round(4)})
    number, table["port"] = rng.integers(0, 40, n), rng.choice(["S", "C", "Q"], n)
    table["town"] = [f"town {i}" for i in number]
    level = np.random.default_rng(9).normal(size=40)[number] * (table["port"] == "S") * 2
    table["price"] = (table["size"] * table["age"] + level + 0.3 * rng.normal(size=n)).round(4)
    table.loc[::7, "size"], table.loc[::9, "port"] = np.nan, None
    return table


def only(monkeypatch, *libraries: str):
    """Try these libraries, on two folds."""
    splits = baseline._splits
    monkeypatch.setattr(baseline, "_splits", lambda *given: splits(*given)[:2])
    monkeypatch.setattr(estimator_code, "_is_installed", lambda library: library in libraries)


def script_of(table: pd.DataFrame, target: str, comparison: BaselineComparison) -> str:
    return draft_notebook("m", TableSource("read()", (), ""), explore(table, target), comparison)


def test_without_a_library_nothing_of_it_is_tried(monkeypatch):
    for library in ("lightgbm", "xgboost", "catboost"):
        monkeypatch.setitem(sys.modules, library, ModuleType(library))  # without a spec
    kinds = candidate_kinds(explore(towns(), "price"))
    assert not [kind for kind in kinds if kind.library]


@pytest.mark.slow
def test_libraries_come_last_and_not_where_there_is_a_text(monkeypatch):
    only(monkeypatch, "lightgbm", "catboost")
    kinds = candidate_kinds(explore(towns(), "price"))
    assert kinds[-2:] == [EstimatorKind.LIGHTGBM, EstimatorKind.CATBOOST]
    words = np.random.default_rng(0).choice(["park", "lake", "loft", "view", "near", "flat"], (300, 6))
    kinds = candidate_kinds(explore(towns().assign(note=[" ".join(row) for row in words]), "price"))
    assert not [kind for kind in kinds if kind.library]


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOOSTERS)
def test_library_is_chosen_only_beyond_the_spread(kind):
    def chosen(gain: float) -> BaselineComparison:
        scores = {EstimatorKind.TREES: tuple(0.8 + FOLDS), kind: tuple(0.8 + gain + FOLDS[::-1])}
        return BaselineComparison((0.5,) * 5, scores, 1000)

    near, far = chosen(0.005), chosen(0.1)
    assert (near.chosen, far.chosen) == (EstimatorKind.TREES, kind)
    assert f"It needs no library beyond scikit-learn; {kind} was not better" in script_of(towns(), "price", near)
    script = script_of(towns(), "price", far)
    assert f"It needs `mlops-nb[{kind.library}]`, which settings.ini and both locks name." in script
    assert f"from {kind.library} import " in script


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOOSTERS)
def test_library_stands_in_the_table_with_score_spread_and_seconds(kind, monkeypatch):
    optional(kind.library)
    only(monkeypatch, kind.library)
    comparison = compare_estimators(explore(towns(900), "price"), towns(900))
    mean, spread = comparison.scores[kind]
    assert mean > comparison.baseline_score + 0.2
    row = f"| {kind} | {mean:.3f} | ± {spread:.3f} | {comparison.seconds[kind]:.1f} |"
    assert row in script_of(towns(900), "price", comparison)


@pytest.mark.slow
def test_name_of_a_column_or_a_class_that_a_library_does_not_take_is_its_row_of_the_table(monkeypatch):
    for library in ("lightgbm", "xgboost"):
        optional(library)
    only(monkeypatch, "lightgbm", "xgboost")
    table = towns(100).rename(columns={"age": "age [years]", "size": 'size: "m2"'})
    table["dear"] = np.where(table.pop("price") > 0, "yes", "no")
    comparison = compare_estimators(explore(table, "dear"), table)
    assert comparison.skipped.keys() == {EstimatorKind.LIGHTGBM, EstimatorKind.XGBOOST}
    script = script_of(table, "dear", comparison)
    assert "| boosted trees of LightGBM | no fit: Do not support special JSON characters in feature name. |" in script
    assert "| boosted trees of XGBoost | no fit: " in script


class OwnError(Exception):
    """As CatBoost's and LightGBM's, which are no ValueError."""


@pytest.mark.slow
@pytest.mark.parametrize("error", [OwnError("first line\nstack of C++"), ImportError("first line"), OwnError()])
def test_library_that_fails_is_no_reason_to_stop(error, monkeypatch):
    only(monkeypatch, "catboost")
    fitted = baseline._estimator

    def failing(summary, kind):
        if kind.library:
            raise error
        return fitted(summary, EstimatorKind.LINEAR)

    monkeypatch.setattr(baseline, "_estimator", failing)
    comparison = compare_estimators(explore(towns(60), "price"), towns(60))
    reason = "first line" if str(error) else "OwnError"
    assert comparison.skipped == {EstimatorKind.CATBOOST: f"no fit: {reason}"}
    known = {EstimatorKind.LINEAR: "all that is measured before a defect of ours"}
    monkeypatch.setattr(baseline, "_estimator", lambda summary, kind: known[kind] and fitted(summary, kind))
    with pytest.raises(KeyError):
        compare_estimators(explore(towns(60), "price"), towns(60))


@pytest.mark.slow
def test_library_that_is_slow_ends_with_the_time(monkeypatch):
    only(monkeypatch, "catboost")
    clock, measure = {"now": 0.0}, baseline._measure

    def slow(estimator, X, y, split, scorer):
        clock["now"] += 20.0 if "CatBoost" in str(estimator) else 0.1
        return measure(estimator if "CatBoost" not in str(estimator) else fast, X, y, split, scorer)

    fast = baseline._estimator(explore(towns(60), "price"), EstimatorKind.LINEAR)
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(baseline, "_measure", slow)
    comparison = compare_estimators(explore(towns(60), "price"), towns(60), minutes=0.5)
    assert comparison.skipped == {EstimatorKind.CATBOOST: "no time was left (--minutes)"}
    assert clock["now"] < 30, "one fold shows that all take too long"


@pytest.mark.nightly
def test_project_whose_model_needs_a_library_names_it_and_serves_it(tmp_path):
    optional("lightgbm")
    towns(3000).to_csv(tmp_path / "towns.csv", index=False)
    made = Made(tmp_path, "towns_model", Given("towns.csv", "price"), boosters=("lightgbm",))
    assert "The model needs mlops-nb[lightgbm]: settings.ini and both locks name it." in made.output
    assert "mlops-nb[serve,pipeline,lightgbm]==" in (made.path / "settings.ini").read_text()
    for lock in ("requirements.lock", "serve/requirements.lock"):
        assert "\nlightgbm==" in (made.path / lock).read_text()
    made.build(spec=made.spec)
    assert made.read("registration.json", made.spec)["promoted"]
    for command in (["ruff", "check", "."], ["mlops-nb", "check"], ["pytest", "tests", "-q", "-m", "not slow"]):
        done = made.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    out = made.path / "out.csv"
    towns(20, seed=1).drop(columns="price").to_csv(tmp_path / "fresh.csv", index=False)
    words = ["predict", "towns_model", "--input", str(tmp_path / "fresh.csv"), "--output", str(out)]
    done = made.run("mlops-nb", *words)
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(out)["prediction"].std() > 0.3
