"""The champion gate: its four outcomes, how often they are wrong, and what is stored of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mlops_nb.errors import GateError, SpecError
from mlops_nb.model.champion import ChampionComparison, alpha_of_try
from mlops_nb.model.evaluate import Evaluation, evaluate
from mlops_nb.model.gates import check_gates
from mlops_nb.model.jackknife import compare_champion
from mlops_nb.model.scoring import score
from mlops_nb.model.signature import Predictions
from mlops_nb.spec import Gates
from tests.model.test_evaluate import spec


def predictions(scores: np.ndarray) -> Predictions:
    probability = 1 / (1 + np.exp(-scores))
    return Predictions((probability > 0.5).astype(int), np.column_stack([1 - probability, probability]), (0, 1))


def world(seed: int, n: int, champion: float, challenger: float, share: float = 0.3):
    """Draw labels and the predictions of two models that see the signal so strongly, and share most of their noise."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(int)
    shared = rng.normal(size=n)
    scores = [y * strength + 0.8 * shared + 0.6 * rng.normal(size=n) - 0.6 for strength in (champion, challenger)]
    return y, *map(predictions, scores)


def compare(seed: int, n: int, champion: float, challenger: float, metric: str) -> ChampionComparison:
    y, old, new = world(seed, n, champion, challenger)
    return compare_champion([new], [old], [y], metric)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "balanced_accuracy"])
@pytest.mark.parametrize("n", [90, 180])
def test_interval_of_equal_models_holds_what_it_promises(metric, n):
    found = [compare(seed, n, 1.2, 1.2, metric) for seed in range(150)]
    covered = np.mean([low <= 0 <= high for low, high in (each.interval() for each in found)])
    assert 0.9 <= covered <= 1  # 95 % promised, less three standard errors of 150 trials
    assert np.mean([each.outcome(0) == "better" for each in found]) <= 0.07


@pytest.mark.slow
def test_challenger_that_is_worse_is_hardly_ever_promoted_in_ten_tries():
    promoted = 0
    for world_number in range(40):
        tries = (compare(1000 * world_number + k, 90, 1.2, 1.05, "roc_auc") for k in range(10))
        promoted += any(each.outcome(0.01, alpha_of_try(k + 1)) == "better" for k, each in enumerate(tries))
    assert promoted <= 2  # 5 % of the worlds


@pytest.mark.slow
def test_much_better_challenger_is_found_and_a_much_worse_one_fails():
    assert all(compare(seed, 300, 0.6, 1.6, "roc_auc").outcome(0.01) == "better" for seed in range(20))
    assert all(compare(seed, 300, 1.6, 0.6, "roc_auc").outcome(0.01) == "worse" for seed in range(20))


@pytest.mark.parametrize(
    ("n", "share", "metric", "note"),
    [
        (11, 0.5, "accuracy", "11 rows, 12 are needed"),
        (200, 0.04, "roc_auc", "of the rarest class 1, 15 are needed"),
    ],
)
def test_too_few_rows_are_inconclusive_and_say_how_many_are_needed(n, share, metric, note):
    y, old, new = world(0, n, 1.2, 1.2, share)
    found = compare_champion([new], [old], [y], metric)
    assert (found.error, found.outcome(1.0)) == (None, "inconclusive")
    assert note in found.note


def gate_of(comparison: ChampionComparison, **gates):
    given = spec(scorer="roc_auc", gates=Gates(minimum={"roc_auc": 0.1}, tolerance=0.01, **gates))
    metrics = {"roc_auc": 0.8 + comparison.difference}
    return check_gates(given, metrics, {"roc_auc": 0.1}, {"roc_auc": 0.8}, comparison)[-1]


@pytest.mark.parametrize(
    ("difference", "error", "passed", "inconclusive"),
    [(0.03, 0.01, True, False), (0.0, 0.004, True, False), (-0.02, 0.01, True, True), (-0.05, 0.01, False, False)],
)
def test_a_build_is_promoted_unless_it_is_worse(difference, error, passed, inconclusive):
    gate = gate_of(ChampionComparison("roc_auc", 300, difference, error))
    assert (gate.gate, gate.passed, gate.inconclusive) == ("champion", passed, inconclusive)
    assert gate.low < gate.value < gate.high


def test_inconclusive_comparison_fails_where_the_spec_asks_for_it():
    unknown = ChampionComparison("roc_auc", 20, -0.02, None, "20 rows, 30 are needed")
    assert gate_of(unknown).passed
    assert not gate_of(unknown, inconclusive="fail").passed
    assert str(gate_of(unknown)) == (
        "passed (inconclusive): champion roc_auc 0.78, required at least 0.79; 20 rows, 30 are needed"
    )


@pytest.mark.parametrize("name", ["tolerance", "over_baseline"])
@pytest.mark.parametrize("limit", [float("nan"), float("inf"), True, "0.1"])
def test_limit_that_no_value_can_be_below_is_refused(name, limit):
    with pytest.raises(SpecError, match=f"{name} must be a number"):
        Gates(**{name: limit})
    with pytest.raises(SpecError, match="The minimum of 'accuracy' must be a number"):
        Gates(minimum={"accuracy": limit})


def test_negative_tolerance_and_a_dialect_of_another_kind_are_refused():
    with pytest.raises(SpecError, match=r"tolerance must be at least 0, got -0\.1"):
        Gates(tolerance=-0.1)
    with pytest.raises(SpecError, match=r"dialect must be a Dialect of mlops_nb\.data\.dialect, got 'csv'"):
        spec(dialect="csv")


def test_comparison_is_stored_with_the_evaluation():
    y, old, new = world(0, 300, 1.2, 1.2)
    X = pd.DataFrame({"a": np.zeros(300)})
    given = spec(scorer="roc_auc", gates=Gates(minimum={"roc_auc": 0.1}), slices={})
    found = evaluate(given, X, y, y, new, old, 3)
    assert found.comparison == compare_champion([new], [old], [y], "roc_auc")
    again = Evaluation.from_dict(found.to_dict())
    assert (again.comparison, again.gates) == (found.comparison, found.gates)
    without = {key: value for key, value in found.to_dict().items() if key != "comparison"}
    assert Evaluation.from_dict(without).comparison is None


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["precision", "recall", "f1", "jaccard"])
def test_model_that_flags_no_row_is_compared_as_zero_like_in_the_other_gates(metric):
    y, _, finds = world(0, 300, 1.2, 1.2)
    flags_none = Predictions(np.zeros(300, dtype=int), np.tile([0.9, 0.1], (300, 1)), (0, 1))
    worse, better = (compare_champion([a], [b], [y], metric) for a, b in ((flags_none, finds), (finds, flags_none)))
    assert (worse.outcome(0.01), better.outcome(0.01)) == ("worse", "better")
    assert better.difference == pytest.approx(-worse.difference)


@pytest.mark.slow
def test_champion_of_other_classes_is_compared_by_its_labels_alone():
    y, _, new = world(0, 300, 1.2, 1.2)
    other = replace(new, prediction=np.where(new.prediction == 1, 2, 0), classes=(0, 2))
    X = pd.DataFrame({"a": np.zeros(300)})
    for metric in ("roc_auc", "neg_log_loss", "neg_brier_score", "average_precision"):
        with pytest.raises(GateError, match=r"classes \[0, 2\], and the model \[0, 1\].* Build without a champion"):
            evaluate(spec(scorer=metric, gates=Gates(), slices={}), X, y, y, new, other, 3)
    for metric in ("accuracy", "balanced_accuracy", "recall"):
        found = evaluate(spec(scorer=metric, gates=Gates(), slices={}), X, y, y, new, other, 3)
        champion = found.champion[metric] if metric != "recall" else 0
        assert found.comparison.difference == pytest.approx(found.metrics[metric] - champion), metric


def test_stored_difference_that_is_not_known_is_read():
    unknown = ChampionComparison("precision", 300, np.nan, None, "it is not defined on all parts of these rows")
    stored = Evaluation({}, {}, None, 1, {}, [], comparison=unknown).to_dict()
    assert stored["comparison"]["difference"] is None
    assert np.isnan(Evaluation.from_dict(stored).comparison.difference)


def test_several_outputs_are_compared_by_their_mean():
    y, old, new = world(0, 300, 1.2, 1.2)
    z, old_z, new_z = world(1, 300, 1.2, 1.2)
    one, other = (compare_champion([n], [o], [t], "roc_auc") for n, o, t in ((new, old, y), (new_z, old_z, z)))
    both = compare_champion([new, new_z], [old, old_z], [y, z], "roc_auc")
    assert both.difference == pytest.approx((one.difference + other.difference) / 2)
    assert both.error < max(one.error, other.error)
    assert replace(both, difference=0.0).outcome(1.0) == "equivalent"


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1000.0])
@pytest.mark.parametrize("metric", ["neg_mean_absolute_error", "neg_root_mean_squared_error", "neg_mean_squared_error"])
def test_default_tolerance_does_not_depend_on_the_unit_of_the_target(metric, unit):
    rng = np.random.default_rng(0)
    y = rng.normal(scale=50, size=2000)
    error = rng.normal(scale=10, size=2000)
    new, old, mean = (Predictions(unit * (y + e)) for e in (1.001 * error, error, -y))
    truth = unit * y
    found = compare_champion([new], [old], [truth], metric)
    values = [score(p, truth, [metric]) for p in (new, mean, old)]
    given = spec(task="regression", scorer=metric, gates=Gates(over_baseline=0))
    gate = check_gates(given, *values, found)[-1]
    assert gate.passed
    assert not gate.inconclusive
    tolerance = given.gates.tolerance_of(metric, values[1])
    assert str(gate).endswith(f"; the tolerance is {tolerance:.3g}, 1% of the baseline's error")
    assert replace(given.gates, tolerance="5%").tolerance_of(metric, values[1]) == pytest.approx(5 * tolerance)
    if unit == 1000:
        assert found.outcome(0.01) == "worse", "as it was of an absolute tolerance"


def test_share_of_a_metric_with_an_upper_end_is_of_one_and_so_without_a_baseline():
    assert Gates().tolerance_of("roc_auc", {"roc_auc": 0.5}) == 0.01
    assert Gates().tolerance_of("r2 of price", {}) == 0.01
    assert Gates().tolerance_of("neg_mean_absolute_error", {}) == 0.01
    assert Gates(tolerance=3.0).tolerance_of("neg_mean_absolute_error", {"neg_mean_absolute_error": -50.0}) == 3.0


@pytest.mark.parametrize("text", ["1", "1 %", "-1%", "%", "1000.5.5%", "nan%"])
def test_text_that_is_no_share_is_refused(text):
    with pytest.raises(SpecError, match="or a share of the metric's scale, such as '1%'"):
        Gates(tolerance=text)
