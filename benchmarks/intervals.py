"""How often the intervals of metrics hold the truth: `python -m benchmarks.intervals` (about 5 minutes).

It calls `measure`, which gates, monitoring and reports call, on samples of worlds whose metrics are known.
"""

import sys
import time
from collections.abc import Iterator

import numpy as np

from mlops_nb.model.measurement import measure
from mlops_nb.model.scoring import score
from mlops_nb.model.signature import Predictions

MANY = 400_000  # rows from which the true value of a metric is computed
SLOW = ("average_precision", "matthews_corrcoef", "neg_log_loss")  # their jackknife computes them hundreds of times
OF_LABELS = ("roc_auc", "balanced_accuracy", "recall", "precision", "f1", "accuracy", *SLOW)
ERRORS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "Laplace": lambda rng, n: rng.laplace(size=n),
    "Student, 5 df": lambda rng, n: rng.standard_t(5, n),
    "log-normal, 0.7": lambda rng, n: rng.lognormal(0, 0.7, n),
    "log-normal, 1": lambda rng, n: rng.lognormal(0, 1, n),
    "Student, 3 df": lambda rng, n: rng.standard_t(3, n),
}


def draw_labels(
    rng: np.random.Generator, positive: int, negative: int, apart: float, odds: float | None = None
) -> tuple[Predictions, np.ndarray]:
    """Draw normal scores of two classes, whose means are so many standard deviations apart."""
    y = np.repeat([1, 0], [positive, negative])
    evidence = apart * (rng.normal(apart * y) - apart / 2) + np.log(odds or positive / negative)
    yes = 1 / (1 + np.exp(-evidence))
    return Predictions((evidence > -1).astype(int), np.column_stack([1 - yes, yes]), (0, 1), 1), y


def coverage_of_labels(metric: str, positive: int, negative: int, apart: float, trials: int, seed: int = 0) -> float:
    """Return the share of samples whose interval holds the metric; NaN where there is no interval."""
    rng, share = np.random.default_rng(seed), positive / (positive + negative)
    many = round(MANY * share)
    truth = score(*draw_labels(rng, many, MANY - many, apart), [metric])[metric]
    held = []
    for _ in range(trials):
        k = positive  # the rows of each class are given where a metric is one of each class, else they are drawn
        if metric not in ("roc_auc", "balanced_accuracy", "recall"):
            k = int(rng.binomial(positive + negative, share))
        found = measure(*draw_labels(rng, k, positive + negative - k, apart, positive / negative), metric)
        if found.is_known:
            low, high = found.interval()
            held.append(low <= truth <= high)
    return float(np.mean(held)) if held else np.nan


def coverage_of_errors(metric: str, errors: str, rows: int, trials: int, seed: int = 0) -> tuple[float, float]:
    """Return the share of samples whose interval holds the metric, and of those that say it may be too narrow."""
    rng, draw = np.random.default_rng(seed), ERRORS[errors]
    many = np.concatenate([draw(rng, MANY) for _ in range(10)])
    signal = metric == "r2"  # of a target with a standard deviation of 2
    truth = score(Predictions(np.zeros(len(many))), many, [metric])[metric]
    truth = 4 / (4 + many.var()) if signal else truth
    held, said = [], []
    for _ in range(trials):
        known = 2 * rng.normal(size=rows) if signal else np.zeros(rows)
        noise = draw(rng, rows)
        found = measure(Predictions(known + (many.mean() if signal else 0)), known + noise, metric)
        low, high = found.interval()
        held.append(low <= truth <= high)
        said.append(bool(found.note))
    return float(np.mean(held)), float(np.mean(said))


SIZES = ((10, 190), (20, 180), (20, 1980), (60, 60), (60, 540))  # rows of the positive and of the other class


def rows_of_table(trials: int) -> Iterator[str]:
    for metric in OF_LABELS:
        for positive, negative in SIZES if metric not in SLOW else SIZES[1:4:2]:
            for apart in (1.0, 2.0) if metric != "roc_auc" else (0.8, 1.5, 2.3):
                n = trials if metric not in SLOW else trials // 4
                found = coverage_of_labels(metric, positive, negative, apart, n if positive >= 15 else 9)
                holds = "inconclusive" if np.isnan(found) else f"{found:.1%}"
                yield f"| {metric} | {apart} apart | {positive + negative:,} | {positive} | {holds} | |"
    for metric in ("neg_mean_absolute_error", "neg_root_mean_squared_error", "r2"):
        for errors in ERRORS:
            for rows in (100, 300, 1000):
                held, said = coverage_of_errors(metric, errors, rows, trials if rows < 1000 else trials // 2)
                yield f"| {metric} | {errors} | {rows:,} | | {held:.1%} | {said:.0%} |"


def main(trials: int = 1000) -> None:
    """Print a Markdown table of all figures."""
    began = time.perf_counter()
    print("| metric | world | rows | rarer class | holds the truth | says that it may be too narrow |")
    print("|---|---|---|---|---|---|")
    for row in rows_of_table(trials):
        print(row, flush=True)
    print(f"{time.perf_counter() - began:,.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
