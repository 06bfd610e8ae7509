"""False alerts of repeated checks without drift, and rows until a drift is found: `python -m benchmarks.monitoring`.

It calls the functions that `mlops-nb monitor` calls (`spend_budget`, `measure_newest`, `measure_joint_drift`) on
streams of rows, and prints the simulated year of `benchmarks.simulated_year`.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from benchmarks import simulated_year
from benchmarks.simulated_year import level_of
from mlops_nb.model.profile import profile_numbers, profile_texts, profile_values
from mlops_nb.monitor.false_alerts import AlertBudget, measure_newest
from mlops_nb.monitor.joint_drift import measure_joint_drift
from tests.monitor import test_seasons as seasons

REFERENCE, COLUMNS, WINDOW = 5000, 20, 10_000


def draw(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Twelve numbers, one with missing values, counts, three rare or common answers, names of 5, 500 and 900 kinds."""
    columns = {f"number{i}": rng.normal(size=n) for i in range(12)}
    columns |= {"gaps": np.where(rng.random(n) < 0.01, np.nan, rng.normal(size=n)), "count": rng.poisson(1, n) * 1.0}
    columns |= {f"yes{share}": (rng.random(n) < share / 100).astype(float) for share in (1, 10, 30)}
    columns |= {"five": rng.choice(list("abcde"), n, p=[0.4, 0.3, 0.2, 0.08, 0.02])}
    columns |= {"postcode": rng.integers(500, size=n).astype(str), "street": (rng.zipf(1.5, n) % 900).astype(str)}
    return pd.DataFrame(columns)


def profile_of(frame: pd.DataFrame) -> dict:
    return {"inputs": {name: _profile(name, column) for name, column in frame.items()}}


def _profile(name: str, column: pd.Series) -> dict:
    made = profile_texts if name == "mail" else profile_numbers if column.dtype == float else profile_values
    return made(column.to_numpy())


def _mask(rng, column: pd.Series, share: float, value) -> pd.Series:
    return column.mask(rng.random(len(column)) < share, value)


def mails(rng: np.random.Generator, n: int, word: str = "w007") -> np.ndarray:
    """Texts of eight words, of which one in five has a certain word."""
    words = np.array([f"w{i:03}" for i in range(500)])
    chosen = words[np.minimum(rng.zipf(1.3, (n, 8)) + 7, 499)]
    chosen[rng.random(n) < 0.2, 0] = word
    return np.array([" ".join(row) for row in chosen.tolist()], dtype=object)


NORMAL = np.append(-np.inf, np.append(np.linspace(-4, 5, 500), np.inf))


def normal(shift: float) -> np.ndarray:
    return np.diff(stats.norm.cdf(NORMAL - shift)) + 1e-300


def yes(share: float) -> np.ndarray:
    return np.array([share, 1 - share])


CHANGES = {  # name: column, its change, limit of the median of rows, shares of the cells before and after
    "1 sigma in one number of 20 columns": ("number0", lambda _, c: c + 1, 150, normal(0), normal(1)),
    "0.5 sigma": ("number0", lambda _, c: c + 0.5, 450, normal(0), normal(0.5)),
    "10 to 20 %": ("yes10", lambda rng, c: (rng.random(len(c)) < 0.2) * 1.0, 600, yes(0.1), yes(0.2)),
    "yes 1 to 3 %": ("yes1", lambda rng, c: (rng.random(len(c)) < 0.03) * 1.0, 4000, yes(0.01), yes(0.03)),
    "missing 1 to 5 %": ("gaps", lambda rng, c: _mask(rng, c, 0.0405, np.nan), 1500, yes(0.01), yes(0.05)),
    "a new category at 2 %": ("five", lambda rng, c: _mask(rng, c, 0.02, "new"), 800, yes(0), yes(0.02)),
    "half of 500 categories gone": (
        "postcode",
        lambda rng, c: rng.integers(250, size=len(c)).astype(str),
        2000,
        np.full(500, 1 / 500),
        np.repeat([1 / 250, 0], 250),
    ),
    "900 values collapse to one": ("street", lambda _, c: c.where(c.isna(), "unknown"), 200, yes(0), yes(1)),
    "a frequent word of texts is replaced by a new one": (
        "mail",
        lambda _, c: c.str.replace("w007", "invoice"),
        2000,
        yes(0),
        yes(0.2),
    ),
}


def least_rows(before: np.ndarray, after: np.ndarray) -> float:
    """Return the rows that the likelihood ratio of these cells needs on average, were the change and its time known.

    That is log(1 / level) over the divergence of both from their mixture (Wald), with a reference of 5,000 rows.
    """
    level = level_of("drift", 1.0, 1) / COLUMNS

    def evidence(n: float) -> float:
        pooled = (n * after + REFERENCE * before) / (n + REFERENCE)
        return float(n * special.rel_entr(after, pooled).sum() + REFERENCE * special.rel_entr(before, pooled).sum())

    return optimize.brentq(lambda n: evidence(n) + np.log(level), 1e-3, 1e6)


def rows_to_detection(column: str, change: Callable, seed: int, most: int = 8000, apart: float = 0.05) -> float:
    """Return the rows of the new world after which a check finds it; infinite: not by `most`.

    The level is that of a check a minute. Bonferroni's correction makes the test of one column at a twentieth of the
    level the same as that of twenty columns. Checks are a share of the rows apart.
    """
    rng = np.random.default_rng(seed)
    profile = profile_of(_column(rng, column, REFERENCE))
    level = level_of("drift", 1.0, 1) / COLUMNS
    before, after = _column(rng, column, WINDOW), _column(rng, column, most)
    stream = pd.concat([before, after.assign(**{column: change(rng, after[column])})], ignore_index=True)
    rows = 7
    while rows < most:
        if measure_newest(profile, stream.iloc[rows : rows + WINDOW], None, level).drifting:
            return rows
        rows += max(7, int(rows * apart))
    return np.inf


def _column(rng: np.random.Generator, name: str, n: int) -> pd.DataFrame:
    return pd.DataFrame({"mail": mails(rng, n)}) if name == "mail" else draw(rng, n)[[name]]


def rows_to_joint_detection(seed: int, most: int = 3000) -> float:
    """Return the rows after which the test of all columns finds that the correlation of two of ten is -0.8, not 0.8."""
    rng = np.random.default_rng(seed)

    def draw_pair(n: int, correlation: float) -> pd.DataFrame:
        rows = rng.normal(size=(n, 10))
        rows[:, 1] = correlation * rows[:, 0] + np.sqrt(1 - correlation**2) * rows[:, 1]
        return pd.DataFrame(rows, columns=list("abcdefghij"))

    reference, before, after = draw_pair(REFERENCE, 0.8), draw_pair(2000, 0.8), draw_pair(most, -0.8)
    profiles, stream = profile_of(reference)["inputs"], pd.concat([before, after], ignore_index=True)
    budget = AlertBudget(level_of("columns together", 1.0, 60), 0.0)
    for rows in range(50, most, 50):
        at = datetime(2026, 1, 1, tzinfo=UTC)
        if measure_joint_drift(profiles, reference, stream.iloc[rows : rows + 2000], budget, at).drifted:
            return rows
    return np.inf


def shift_openings(rows_a_day: int, days: float, every: int, seed: int) -> int:
    """Count the alerts that checks open about a number that is 0.15 sigma higher from one day on."""
    rng, window = np.random.default_rng(seed), min(rows_a_day, WINDOW)
    profile, level = profile_of(draw(rng, REFERENCE)[["number0"]]), level_of("drift", 1.0, every) / COLUMNS
    ends = window + np.unique(rng.poisson(rows_a_day * every / 1440, int(days * 1440 / every)).cumsum())
    stream = pd.DataFrame({"number0": rng.normal(size=ends[-1])})
    stream.iloc[window:] += 0.15
    size, count = None, 0
    for end in ends:
        opened = None if size is None else {"number0": size}
        (column,) = measure_newest(profile, stream.iloc[end - window : end], None, level, opened).columns
        count += bool(column.drifted) and size is None
        size = (
            None if column.drifted is False else size if size is not None else column.effect if column.drifted else None
        )
    return count


def _detection(name: str, seed: int) -> float:
    if name not in CHANGES:
        return rows_to_joint_detection(seed)
    column, change, *_ = CHANGES[name]
    return rows_to_detection(column, change, seed)


def print_detection(pool: ProcessPoolExecutor, seeds: int) -> None:
    """Print the medians of the rows to detection."""
    print("| change of one column of 20 | median of rows | quartiles | aim | least by theory |\n|---|---|---|---|---|")
    for name in [*CHANGES, JOINT]:
        found = [*pool.map(_detection, [name] * seeds, range(seeds))]
        low, median, high = np.quantile(found, [0.25, 0.5, 0.75], method="nearest")
        most, least = (CHANGES[name][2], f"{least_rows(*CHANGES[name][3:]):,.0f}") if name in CHANGES else (3000, "")
        print(f"| {name} | {median:,.0f} | {low:,.0f} to {high:,.0f} | {most:,} | {least} |", flush=True)


JOINT = "correlation of two of ten columns from 0.8 to -0.8"


def print_shifts(pool: ProcessPoolExecutor, seeds: int) -> None:
    """Print how many alerts a constant shift opens."""
    print("\n| 0.15 sigma more in one column | models | alerts of each: median | most |\n|---|---|---|---|")
    for rows_a_day, days, every, models in ((10_000, 4, 60, seeds), (1000, 4, 60, seeds), (10_000, 0.5, 1, 4)):
        found = [*pool.map(shift_openings, *zip(*[(rows_a_day, days, every, s) for s in range(models)], strict=True))]
        what = f"{days} days of {rows_a_day:,} rows, a check every {every} minutes"
        print(f"| {what} | {models} | {np.median(found):.0f} | {max(found)} |", flush=True)


def print_seasons(seeds: int) -> None:
    """Print in how many months with a weekly pattern a column drifts, and how many with a shift are found."""
    profile = seasons.profile_of(*seasons.draw(np.random.default_rng(0), "2026-01-05", 12 * 7))
    print("\n| month of 300 rows a day with a weekly pattern, a check a day | with an alert | of |\n|---|---|---|")
    for shift in (0.0, 0.7):
        months = (seasons.draw(np.random.default_rng(s), "2026-04-01", 28, shift) for s in range(1, seeds + 1))
        found = sum(bool(seasons.drifting(profile, *month)) for month in months)
        print(f"| {f'with {shift} sigma more' if shift else 'as before'} | {found} | {seeds} |", flush=True)


def main(seeds: int = 21, models: int = 100) -> None:
    """Print Markdown tables of all figures."""
    began = time.perf_counter()
    with ProcessPoolExecutor(2) as pool:
        print_detection(pool, seeds)
        print_shifts(pool, seeds)
    print_seasons(seeds)
    print("\nWithout a change:\n")
    simulated_year.main(models)
    print(f"{time.perf_counter() - began:,.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
