"""How often the decisions about models are wrong: retraining, promotion, labels of some rows, estimates without labels.

`python -m benchmarks.decisions` calls the functions that decide (`compare_champion`, `outcome`, `alpha_of_try`,
`find_selection`, `estimate_performance`) in the worlds of the tests, with more seeds.
"""

import sys
import time
from collections.abc import Iterator

import numpy as np
from sklearn.linear_model import LogisticRegression

from mlops_nb.model.champion import alpha_of_try
from mlops_nb.model.jackknife import compare_champion
from mlops_nb.model.profile import calibrate
from mlops_nb.model.signature import Predictions
from mlops_nb.monitor.estimate import estimate_performance
from tests.model.test_champion import compare
from tests.monitor.test_performance import logistic
from tests.monitor.test_selection import approve_only

TOLERANCE, HOLDOUT = 0.01, 300  # of the gate; newest labelled rows of 1,000
WORSE = (1.2, 1.05)  # signal that champion and challenger see


def retrained(seed: int, turn: float) -> str:
    """Return the outcome for a model that also learned from 700 new rows, in a world that has turned so far."""
    rng = np.random.default_rng(seed)

    def draw(n: int, angle: float):
        X = rng.normal(size=(n, 8))
        signal = 1.5 * (np.cos(angle) * X[:, 0] + np.sin(angle) * X[:, 1]) + 0.5 * X[:, 2]
        return X, (rng.random(n) < 1 / (1 + np.exp(-signal))).astype(int)

    (X, y), (new, of_new), (tested, truth) = draw(5000, 0.0), draw(700, turn), draw(HOLDOUT, turn)
    champion = LogisticRegression().fit(X, y)
    weights = np.repeat([1.0, len(X) / len(new)], [len(X), len(new)])  # half of all weight is that of production
    challenger = LogisticRegression().fit(np.vstack([X, new]), np.concatenate([y, of_new]), weights)
    both = [Predictions(m.predict(tested), m.predict_proba(tested), (0, 1)) for m in (challenger, champion)]
    return compare_champion([both[0]], [both[1]], [truth], "roc_auc").outcome(TOLERANCE, alpha_of_try(1))


def promoted_worse(rows: int, tries: int, world: int) -> bool:
    """Whether any of the tries promotes a challenger that is worse by more than the tolerance."""
    found = (compare(1000 * world + k, rows, *WORSE, "roc_auc") for k in range(tries))
    return any(one.outcome(TOLERANCE, alpha_of_try(k)) == "better" for k, one in enumerate(found, 1))


def estimate_holds(seed: int, test_rows: int) -> bool:
    """Whether the interval of an accuracy without labels holds the one with them."""
    rng = np.random.default_rng(seed)
    curves = calibrate(*logistic(rng, test_rows, sharpness=2.0))
    answer, truth = logistic(rng, 500, sharpness=2.0)
    (found,) = estimate_performance(answer, ["accuracy"], curves)
    return found.estimated_low <= np.mean(answer.prediction == truth) <= found.estimated_high


def rows_of_table() -> Iterator[tuple[str, int, int, str]]:
    """Yield what is counted, how often, of how many, and the aim."""
    for world, turn, is_better, what in (("an unchanged", 0.0, False, "refused"), ("a changed", 1.0, True, "promoted")):
        found = _count((retrained(s, turn) == "better") is is_better for s in range(40))
        yield f"retrained in {world} world, {what}", *found, "at least 38"
    off = -np.mean([compare(s, 20_000, *WORSE, "roc_auc").difference for s in range(5)])
    for rows in (90, 180, 600, 3000):
        for tries, worlds in ((1, 100), (10, 40)):
            what = f"challenger worse by {off:.3f} of ROC AUC, {rows:,} rows, promoted in {tries} tries"
            yield what, *_count(promoted_worse(rows, tries, w) for w in range(worlds)), f"at most {worlds // 20}"
    worse = _count(approve_only(s)[1].worse is True for s in range(100))
    yield "labels of approved loans alone, unchanged model: worse", *worse, "at most 5"
    worse = _count(approve_only(s, change=0.5)[1].worse is True for s in range(40))
    yield "the same, half of these labels have turned: worse", *worse, "at least 38"
    for rows in (114, 1000):
        held = _count(estimate_holds(s, rows) for s in range(200))
        yield f"interval of the accuracy without labels holds it, {rows:,} test rows", *held, "186 to 194"


def _count(found: Iterator[bool]) -> tuple[int, int]:
    each = [*found]
    return sum(each), len(each)


def main() -> None:
    """Print a Markdown table."""
    began = time.perf_counter()
    print("| decision | times | of | aim |\n|---|---|---|---|")
    for row in rows_of_table():
        print("|", " | ".join(map(str, row)), "|", flush=True)
    print(f"{time.perf_counter() - began:,.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
