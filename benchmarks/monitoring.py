"""False alerts of repeated checks without drift, and rows until a drift is found: `python -m benchmarks.monitoring`.

It calls the functions that `mlops-nb monitor` calls (`spend_budget`, `measure_newest`) on a stream of rows.
"""

import sys
import time
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pandas as pd

from mlops_nb.model.profile import profile_numbers, profile_values
from mlops_nb.monitor.false_alerts import DAYS_PER_YEAR, FIRST_DAYS, AlertBudget, measure_newest, spend_budget

REFERENCE, COLUMNS, WINDOW = 5000, 20, 10_000
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


def draw(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Twelve numbers, one with missing values, counts, three rare or common answers, names of 5, 500 and 900 kinds."""
    columns = {f"number{i}": rng.normal(size=n) for i in range(12)}
    columns |= {"gaps": np.where(rng.random(n) < 0.01, np.nan, rng.normal(size=n)), "count": rng.poisson(1, n) * 1.0}
    columns |= {f"yes{share}": (rng.random(n) < share / 100).astype(float) for share in (1, 10, 30)}
    columns |= {"five": rng.choice(list("abcde"), n, p=[0.4, 0.3, 0.2, 0.08, 0.02])}
    columns |= {"postcode": rng.integers(500, size=n).astype(str), "street": (rng.zipf(1.5, n) % 900).astype(str)}
    return pd.DataFrame(columns)


def profile_of(frame: pd.DataFrame) -> dict:
    made = {True: profile_numbers, False: profile_values}
    return {"inputs": {name: made[c.dtype == float](c.to_numpy()) for name, c in frame.items()}}


def _mask(rng, column: pd.Series, share: float, value) -> pd.Series:
    return column.mask(rng.random(len(column)) < share, value)


CHANGES = {  # name: column, its change, limit of the median of rows
    "1 sigma in one number of 20 columns": ("number0", lambda _, c: c + 1, 150),
    "0.5 sigma": ("number0", lambda _, c: c + 0.5, 450),
    "10 to 20 %": ("yes10", lambda rng, c: (rng.random(len(c)) < 0.2).astype(float), 600),
    "yes 1 to 3 %": ("yes1", lambda rng, c: (rng.random(len(c)) < 0.03).astype(float), 4000),
    "missing 1 to 5 %": ("gaps", lambda rng, c: _mask(rng, c, 0.0405, np.nan), 1500),
    "a new category at 2 %": ("five", lambda rng, c: _mask(rng, c, 0.02, "new"), 800),
    "half of 500 categories gone": ("postcode", lambda rng, c: rng.integers(250, size=len(c)).astype(str), 2000),
    "900 values collapse to one": ("street", lambda _, c: c.where(c.isna(), "unknown"), 200),
}


def count_openings(
    rows_a_day: int, days: float, per_year: float, seed: int, every: timedelta, shift: float = 0.0
) -> tuple[int, float]:
    """Count the alerts that the checks of some days open, and return the bound of the budget."""
    rng = np.random.default_rng(seed)
    profile = profile_of(draw(rng, REFERENCE))
    ends = rows_a_day + np.cumsum(rng.poisson(rows_a_day * (every / DAY), int(days * DAY / every)))
    stream = draw(rng, int(ends[-1]))
    stream.loc[stream.index >= rows_a_day, "number0"] += shift
    budget, opened, count = spend_budget(per_year), dict[str, float](), 0
    for end in ends:
        budget = spend_budget(per_year, every, budget.left)
        report = measure_newest(profile, stream.iloc[end - rows_a_day : end], None, budget.level, opened)
        count += sum(c.name not in opened for c in report.drifting)
        stays = [c for c in report.columns if c.drifted or (c.name in opened and c.drifted is None)]
        opened = {c.name: opened.get(c.name, c.effect or 0.0) for c in stays}
    return count, per_year * (days + FIRST_DAYS) / DAYS_PER_YEAR


def rows_to_detection(column: str, change: Callable, seed: int, most: int = 8000) -> float:
    """Return the rows of the new world after which a check finds it; infinite: not by `most`.

    The level is that of a check a minute, half of it for drift. Bonferroni's correction makes the test of one column
    at a twentieth of the level the same as that of twenty columns. Checks are 10 % of the rows apart.
    """
    rng = np.random.default_rng(seed)
    profile = profile_of(draw(rng, REFERENCE)[[column]])
    level = AlertBudget(MINUTE / DAY / DAYS_PER_YEAR, 0.0).level / 2 / COLUMNS
    before, after = draw(rng, WINDOW)[[column]], draw(rng, most)[[column]]
    stream = pd.concat([before, after.assign(**{column: change(rng, after[column])})], ignore_index=True)
    rows = 7
    while rows < most:
        if measure_newest(profile, stream.iloc[rows : rows + WINDOW], None, level).drifting:
            return rows
        rows += max(7, rows // 10)
    return np.inf


def main(seeds: int = 11) -> None:
    """Print Markdown tables of all figures."""
    began = time.perf_counter()
    for name, (column, change, most) in CHANGES.items():
        found = [rows_to_detection(column, change, seed) for seed in range(seeds)]
        print(f"| {name} | {np.median(found):,.0f} | {most:,} |", flush=True)
    for rows_a_day, days, models, every in ((1000, 0.25, 2, MINUTE), (1000, 10, 3, HOUR), (10_000, 3, 1, HOUR)):
        counted = [count_openings(rows_a_day, days, 1000.0, seed, every) for seed in range(models)]
        total, bound = sum(n for n, _ in counted), sum(b for _, b in counted)
        what = f"{models} x {days:g} days of {rows_a_day:,} rows, a check every {every}"
        print(f"| {what} | {total} | {bound:.1f} |", flush=True)
    for rows_a_day in (10_000, 1000):
        opened, _ = count_openings(rows_a_day, 4, 1.0, 0, HOUR, shift=0.15)
        print(f"| 0.15 sigma, 4 days of {rows_a_day:,} rows, a check an hour | {opened} | |", flush=True)
    print(f"{time.perf_counter() - began:,.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
