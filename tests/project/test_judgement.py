"""A table is judged before it is modelled: leaks, noise, and the kinds of estimator that are tried."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from mlops_nb.data.explore import explore
from mlops_nb.model.trusted_types import check_types
from mlops_nb.project.baseline import BaselineComparison, _estimator, _measure, _typed_sample, compare_estimators
from mlops_nb.project.draft import draft_notebook
from mlops_nb.project.estimator_code import EstimatorKind, candidate_kinds
from mlops_nb.project.judgement import judge_table
from mlops_nb.project.spec_code import gates_code
from mlops_nb.project.table_source import TableSource
from mlops_nb.spec import Gates

pytestmark = pytest.mark.usefixtures("scikit_learn_alone")
FAST = 0  # minutes: the first kind alone is measured


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other take longer than the fits of small tables."""
    with threadpool_limits(1):
        yield


def leak_of_two(n=300):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.integers(0, 50, n), "b": rng.integers(0, 50, n), "noise": rng.uniform(size=n)})
    return table.assign(total=table["a"] + table["b"])


@pytest.mark.slow
def test_parts_of_a_sum_are_left_out_with_a_warning_in_the_notebook():
    judged = judge_table(leak_of_two(), "total", minutes=FAST)
    assert [c.name for c in judged.summary.used] == ["noise"]
    assert "Together, 'a' and 'b' predict 'total'" in judged.warnings[0]
    assert "was left out: 'a', 'b'" in judged.warnings[-1]
    script = draft_notebook("m", TableSource("read()", (), ""), judged.summary, judged.comparison, judged.warnings)
    assert "Look at `a`, `b`" in script
    assert "Together, 'a' and 'b'" in script
    assert "ignored=['a', 'b']" in script


@pytest.mark.parametrize(("keep", "used"), [(("a",), ["a", "noise"]), (("a", "b"), ["a", "b", "noise"])])
def test_column_that_is_kept_stays_in_the_model(keep, used):
    judged = judge_table(leak_of_two(), "total", keep=keep, minutes=FAST)
    assert [c.name for c in judged.summary.used] == used
    assert "in the model: take what is not known" in judged.warnings[0]


@pytest.mark.slow
def test_rule_of_two_columns_that_a_model_found_stays_with_the_gravest_warning():
    table = leak_of_two().drop(columns="total")
    judged = judge_table(table.assign(dear=table["a"] + 0.4 * table["b"] > 35), "dear", minutes=FAST)
    assert [c.name for c in judged.summary.used] == ["a", "b", "noise"]
    assert judged.warnings[0].startswith("Together, 'a' and 'b' predict 'dear' (almost) perfectly, by a rule")
    assert "'a', 'b' stay in the model: take what is not known" in judged.warnings[0]
    assert [leak.is_certain for leak in judged.leaks] == [False]


@pytest.mark.parametrize(("ahead", "chosen"), [(0.001, "LINEAR"), (0.006, "TREES")])
def test_simpler_kind_is_drafted_only_if_it_loses_nothing_that_matters(ahead, chosen):
    noise = np.random.default_rng(0).normal(0, 0.03, 10)
    folds = {EstimatorKind.LINEAR: tuple(0.7 + noise), EstimatorKind.TREES: tuple(0.7 + ahead + noise[::-1])}
    compared = BaselineComparison((0.5,) * 10, folds, 1000)
    assert compared.chosen == EstimatorKind[chosen]
    folds[EstimatorKind.XGBOOST] = tuple(0.705 + ahead + noise[::-1] + noise)
    assert compared.chosen == EstimatorKind[chosen], "no library for what may be chance"


@pytest.mark.slow
def test_copy_of_the_target_can_be_kept_and_a_perfect_score_has_a_warning():
    table = leak_of_two().drop(columns=["a", "b"]).assign(gross=lambda t: t["total"] * 1.19)
    with_copy = judge_table(table, "total", keep=["gross"], minutes=FAST)
    assert [c.name for c in with_copy.summary.used] == ["noise", "gross"]
    assert any("'gross' predicts 'total' nearly perfectly" in w for w in with_copy.warnings)
    assert any("The trial is nearly perfect" in w for w in with_copy.warnings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "words"), [(0.2, "nearly perfectly"), (0.45, "very well"), (0.75, "well"), (3, None)]
)
def test_column_far_ahead_of_the_others_has_a_warning_by_degrees(noise, words):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=400), "b": rng.normal(size=400)})
    table["y"] = table["a"] + noise * rng.normal(size=400)
    warnings = [w for w in judge_table(table, "y", minutes=FAST).warnings if w.startswith("Alone, 'a'")]
    assert [f"predicts 'y' {words} (" in w for w in warnings] == ([True] if words else [])


@pytest.mark.slow
def test_row_number_of_a_table_that_is_sorted_by_the_target_is_named():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"n": range(0, 600, 2), "x": rng.normal(size=300), "y": np.sort(rng.normal(size=300))})
    judged = judge_table(table, "y", minutes=FAST)
    assert [c.name for c in judged.summary.used] == ["x"]
    assert "What predicts it was left out: 'n'" in judged.warnings[-1]


@pytest.mark.slow
def test_gate_of_a_series_whose_past_says_nothing_of_its_future_can_be_passed():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"day": range(300), "x": rng.normal(size=300)}).assign(y=lambda t: t["day"] / 30 + t["x"])
    summary = explore(table, "y", time="day")
    comparison = compare_estimators(summary, table, minutes=FAST)
    gates = eval(gates_code(summary, comparison), {"Gates": Gates})
    assert comparison.baseline_score < -1
    assert 0 < gates.minimum["r2"] < 1
    assert gates.tolerance == "1%"


@pytest.mark.slow
def test_rows_in_the_order_of_a_date_get_a_hint():
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=200).strftime("%Y-%m-%d")
    table = pd.DataFrame({"day": days, "x": rng.normal(size=200)})
    table["y"] = table["x"] + rng.normal(size=200)
    for rows, words in (
        (table, "in the order of 'day'"),
        (table.sample(frac=1, random_state=0), "one each step of 'day'"),
    ):
        judged = judge_table(rows, "y", minutes=FAST)
        assert judged.summary.time == "day"
        assert any(words in w and "--no-time splits at random" in w for w in judged.warnings)
    judged = judge_table(table, "y", minutes=FAST, find_time=False)
    assert judged.summary.time is None
    assert any("in the order of 'day': --time 'day'" in w for w in judged.warnings)
    some = table.sample(frac=0.4, random_state=0)
    assert judge_table(some, "y", minutes=FAST).summary.time is None


@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_like_their_neighbours_have_a_warning_where_the_file_shows_it(shuffled):
    walks = np.cumsum(np.random.default_rng(0).normal(size=(300, 3)), axis=0)
    table = pd.DataFrame(walks, columns=["x", "z", "y"])
    table = table.sample(frac=1, random_state=0) if shuffled else table
    alike = [
        w for w in judge_table(table, "y", minutes=FAST).warnings if "Rows beside each other in the file are alike" in w
    ]
    assert len(alike) == (not shuffled)
    by_x = judge_table(table.sort_values("x"), "y", minutes=FAST).warnings
    assert not [w for w in by_x if "Rows beside each other" in w]


@pytest.mark.slow
def test_equal_rows_and_several_rows_of_one_customer_have_a_warning():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"customer_id": rng.integers(5000, 5060, 300), "x": rng.normal(size=300).round(3)})
    table = table.assign(z=rng.normal(size=300).round(3), y=lambda t: t["x"] + rng.normal(size=300))
    warnings = judge_table(table, "y", minutes=FAST).warnings
    assert [w for w in warnings if "equal to an earlier" in w] == []
    assert any("'customer_id' names something with several rows (5.1 each" in w for w in warnings)
    table = table.drop(columns="customer_id")
    twice = judge_table(pd.concat([table, table.head(6)], ignore_index=True), "y", minutes=FAST)
    assert any("2.0% of the rows are equal to an earlier one" in w for w in twice.warnings)
    assert twice.summary.group == ("x", "z")
    few = pd.DataFrame({"kind": ["a", "b"] * 150, "label": ["y", "n", "n"] * 100})
    assert not any("equal to an earlier" in w for w in judge_table(few, "label", minutes=FAST).warnings)


def patients(rows_each: int, kept: bool, seed: int = 0) -> pd.DataFrame:
    """Several rows of each patient, whose columns and random label are the same in all, and a visit that is not."""
    rng, n = np.random.default_rng(seed), 150
    table = pd.DataFrame({"patient": [f"p{i}" for i in rng.permutation(n)], "age": rng.integers(20, 90, n)})
    table = table.assign(income=rng.normal(3000, 500, n).round(2), label=rng.integers(0, 2, n)).loc[
        np.repeat(range(n), rows_each)
    ]
    table = table.sample(frac=1, random_state=seed).reset_index(drop=True).assign(visit=rng.normal(size=n * rows_each))
    return table if kept else table.drop(columns="patient")


@pytest.mark.slow
@pytest.mark.parametrize("rows_each", [2, 5])
@pytest.mark.parametrize("kept", [True, False])
def test_several_rows_of_one_thing_have_a_warning_whatever_it_is_called(rows_each, kept):
    judged = judge_table(patients(rows_each, kept), "label", minutes=FAST)
    [found] = [w for w in judged.warnings if "stay on one side of every split" in w]
    assert f"in the target (150 groups of {rows_each}.0 rows)" in found
    assert judged.summary.group == (("patient",) if kept else ("income", "age"))
    assert not judged.comparison.is_useful


@pytest.mark.parametrize("seed", range(3))
def test_values_that_come_often_are_no_rows_of_one_thing(seed):
    rng, n = np.random.default_rng(seed), 600
    table = pd.DataFrame(
        {"zip": rng.integers(0, 100, n), "age": rng.integers(20, 90, n), "x": rng.normal(size=n).round(2)}
    )
    table = table.assign(city=table["zip"] // 5, flag=rng.random(n) < 0.5, rare=rng.random(n) < 0.05)
    table["label"] = (table["x"] + rng.normal(size=n) > 0).astype(int)
    for target in ("label", "rare"):
        warnings = judge_table(table, target, minutes=FAST).warnings
        assert not [w for w in warnings if "one side of every split" in w], warnings


@pytest.mark.slow
@pytest.mark.parametrize("day", ["9999-12-31", "1500-06-01", "0001-01-01"])
def test_days_of_any_century_are_judged(day):
    table = leak_of_two().assign(day=pd.date_range("2020-01-01", periods=300).astype(str))
    table.loc[::20, "day"] = day
    assert judge_table(table, "total", minutes=FAST).warnings


def passes_its_gates(table: pd.DataFrame, target: str) -> bool:
    """Whether the drafted model, trained on four fifths, passes the drafted gates on the others."""
    summary = explore(table, target)
    comparison = compare_estimators(summary, table, minutes=FAST)
    gates = eval(gates_code(summary, comparison), {"Gates": Gates})
    X, y = _typed_sample(summary, table)
    classes = y if summary.target.task == "classification" else None
    cut = train_test_split(np.arange(len(y)), test_size=0.2, random_state=0, stratify=classes)
    reached = _measure(_estimator(summary, comparison.chosen), X, y, cut, summary.target.scorer).score
    least = gates.minimum.get(summary.target.scorer, -np.inf)
    return reached >= least and reached > comparison.score_to_beat + gates.over_baseline


def random_table(seed: int) -> tuple[pd.DataFrame, np.random.Generator]:
    rng = np.random.default_rng(seed)
    n = int(rng.choice([150, 200, 400]))
    table = pd.DataFrame({"num": rng.integers(1, 10, n), "x": rng.normal(size=n), "kind": rng.choice(["a", "b"], n)})
    return table, rng


@pytest.mark.slow
@pytest.mark.soak
def test_at_most_one_of_twenty_tables_of_noise_passes_its_own_gates():
    passed = 0
    for seed in range(20):
        table, rng = random_table(seed)
        labels = rng.choice(["y", "n"], len(table)) if seed % 2 else rng.normal(size=len(table))
        passed += passes_its_gates(table.assign(label=labels), "label")
    assert passed <= 1


@pytest.mark.slow
@pytest.mark.soak
def test_nineteen_of_twenty_models_that_learn_pass_their_own_gates():
    passed = 0
    for seed in range(20):
        table, rng = random_table(seed)
        signal = 1.3 * table["x"] + 0.3 * (table["num"] - 5)
        labels = np.where(rng.uniform(size=len(table)) < 1 / (1 + np.exp(-signal)), "y", "n")
        quantity = signal + rng.normal(size=len(table))
        passed += passes_its_gates(table.assign(label=labels if seed % 2 else quantity), "label")
    assert passed >= 19


def skewed_prices(n=400):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"rooms": rng.integers(1, 7, n), "km": rng.uniform(0, 20, n).round(1)})
    table["note"] = [f"{rng.choice(['quiet flat near park', 'room with a view'])} {i % 300}" for i in range(n)]
    table["price"] = np.exp(3.5 + 0.3 * table["rooms"] - 0.08 * table["km"] + rng.normal(0, 0.6, n)).round(2)
    return table


@pytest.mark.slow
def test_every_kind_of_estimator_fits_and_can_be_loaded_by_a_service():
    table = skewed_prices()
    table.loc[::9, ["rooms", "note"]] = None
    classes = table.assign(dear=np.digitize(table["price"], [20, 200])).drop(columns="price")
    for given, target in ((table, "price"), (classes, "dear")):
        summary = explore(given, target)
        X, y = _typed_sample(summary, given)
        for kind in candidate_kinds(summary):
            estimator = _estimator(summary, kind)
            estimator.set_params(**{k: 5 for k in estimator.get_params() if re.search("histgradient.*max_iter", k)})
            check_types(estimator.fit(X, y))
            assert not (kind.is_positive and (estimator.predict(X) <= 0).any()), kind


@pytest.mark.slow
@pytest.mark.soak
def test_skewed_price_is_predicted_as_well_as_by_the_best_of_four_and_never_below_zero():
    from sklearn.compose import TransformedTargetRegressor, make_column_transformer
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import RepeatedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = skewed_prices()
    summary = explore(table, "price")
    comparison = compare_estimators(summary, table)
    X, y = _typed_sample(summary, table)
    assert {EstimatorKind.TREES, EstimatorKind.TREES_WITHOUT_TEXT, EstimatorKind.LOG_LINEAR} <= set(comparison.scores)
    numbers = make_column_transformer((StandardScaler(), ["rooms", "km"]))
    trees = HistGradientBoostingRegressor(max_iter=50, random_state=0)
    plain = [make_pipeline(numbers, model) for model in (Ridge(), trees)]
    rivals = [*plain, *(TransformedTargetRegressor(model, func=np.log, inverse_func=np.exp) for model in plain)]
    cv = RepeatedKFold(n_splits=5, n_repeats=2, random_state=0)  # the folds of the trial
    best = max(cross_val_score(model, X, y, scoring="r2", cv=cv).mean() for model in rivals)
    assert comparison.scores[comparison.chosen][0] > best - 0.02
    assert comparison.chosen.is_positive
    assert (_estimator(summary, comparison.chosen).fit(X, y).predict(X) > 0).all()


@pytest.mark.slow
@pytest.mark.soak
def test_rare_positives_are_ranked_as_well_as_by_the_best_of_four():
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    rng, n = np.random.default_rng(0), 2000
    table = pd.DataFrame(rng.normal(size=(n, 6)).round(3), columns=[f"x{i}" for i in range(6)])
    logit = 0.9 * table["x0"] - 0.8 * table["x1"] + 0.7 * table["x2"].abs() - 5.2
    table["fraud"] = (rng.uniform(size=n) < 1 / (1 + np.exp(-logit))).astype(int)
    summary = explore(table, "fraud")
    comparison = compare_estimators(summary, table)
    assert comparison.is_useful
    X, y = _typed_sample(summary, table)
    linear = LogisticRegression(max_iter=1000)
    rivals = [make_pipeline(StandardScaler(), linear), make_pipeline(StandardScaler(), PolynomialFeatures(2), linear)]
    rivals.append(HistGradientBoostingClassifier(learning_rate=0.05, max_iter=60, l2_regularization=1, random_state=0))
    rivals.append(RandomForestClassifier(60, min_samples_leaf=5, random_state=0))
    cv = RepeatedStratifiedKFold(n_splits=5, n_repeats=1, random_state=0)
    models = [_estimator(summary, comparison.chosen), *rivals]
    drafted, *others = (cross_val_score(model, X, y, scoring="roc_auc", cv=cv).mean() for model in models)
    assert drafted > max(others) - 0.01


def test_kinds_for_which_no_time_is_left_are_listed_in_the_notebook():
    table = skewed_prices().drop(columns="note")
    summary = explore(table, "price")
    comparison = compare_estimators(summary, table, minutes=FAST)
    assert list(comparison.scores) == [EstimatorKind.LINEAR]
    script = draft_notebook("m", TableSource("read()", (), ""), summary, comparison)
    assert "| boosted trees | no time was left (--minutes) | | |" in script


def test_drift_of_what_moves_in_any_case_is_not_tested():
    rng, n = np.random.default_rng(0), 200
    days = pd.date_range("2024-01-01", periods=n).strftime("%Y-%m-%d")
    table = pd.DataFrame({"ordered": rng.permutation(days), "birthday": rng.permutation(days), "x": rng.normal(size=n)})
    table["built"] = rng.integers(1950, 2020, n)
    table["counter"] = np.sort(rng.integers(0, 90_000, n))
    table["y"] = table["x"] + rng.normal(size=n)
    summary = explore(table, "y")
    comparison = BaselineComparison((0.1, 0.1), {EstimatorKind.LINEAR: (0.5, 0.5)}, n)
    script = draft_notebook("m", TableSource("read()", (), ""), summary, comparison)
    assert "drift={'ordered': None, 'counter': None}," in script
    assert "drift=" not in draft_notebook(
        "m", TableSource("read()", (), ""), explore(table[["x", "y"]], "y"), comparison
    )
