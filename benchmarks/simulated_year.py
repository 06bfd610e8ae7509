"""A year without drift: false alerts of checks a minute, counted for 100 models at three sizes.

A year of 100 models has a billion checks of columns. A test of one column rejects only where the
count of some cells of a window is beyond a limit, and the limits follow from the formulas of production. So a screen
compares counts of blocks of rows, which hold those of all windows that begin and end inside them, and leaves out what
cannot reject; what is left is decided by production's `measure_newest`, row by row.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import special, stats

from mlops_nb.model.measurement import Measurement
from mlops_nb.model.profile import profile_numbers, profile_values
from mlops_nb.model.statistics import exact_interval
from mlops_nb.monitor.checks import SERVICE_TESTS, Traffic, check_traffic
from mlops_nb.monitor.false_alerts import BUDGET_SHARES, DAYS_PER_YEAR, measure_newest, window_sizes
from mlops_nb.monitor.label_checks import check_performance
from mlops_nb.monitor.performance import MetricResult, Performance
from mlops_nb.spec import Gates

REFERENCE, MAX_ROWS, CODES, BLOCK, CHUNK = 5000, 10_000, 1 << 16, 16, 1 << 15
MINUTES_PER_DAY = 1440


def _tables() -> dict[str, np.ndarray]:
    """Values of the 65,536 equally likely codes of each of 20 columns."""
    u = (np.arange(CODES) + 0.5) / CODES
    tables = {f"number{i}": np.arange(CODES) * 1.0 for i in range(12)}
    tables |= {"gaps": np.where(u < 0.01, None, "x"), "count": stats.poisson(1).ppf(u)}
    tables |= {f"yes{share}": (u < share / 100) * 1.0 for share in (1, 10, 30)}
    tables["five"] = np.array(list("abcde"), dtype=object)[np.searchsorted([0.4, 0.7, 0.9, 0.98], u)]
    tables["postcode"] = (np.arange(CODES) % 500).astype(str).astype(object)
    zipf = 1 / np.arange(1, 901) ** 1.5
    tables["street"] = np.searchsorted(np.cumsum(zipf) / zipf.sum(), u).astype(str).astype(object)
    return tables


TABLES = _tables()


@dataclass(frozen=True)
class Screen:
    """What decides on one column: cells of its codes, and the limits of the counts of sums of cells."""

    table: np.ndarray  # (65536,) values
    profile: dict

    @cached_property
    def is_cumulative(self) -> bool:
        return "grid" in self.profile

    @cached_property
    def reference(self) -> np.ndarray:
        """Rows of the reference in each sum; the last is their number."""
        p = self.profile
        if "grid" in p:
            return np.array([*p["grid"]["upto"], p["rows"]])
        if p["missing"]:
            return np.array([p["missing"], p["rows"]])
        counts, other = ([*p["values"]["counts"]], 0) if "values" in p else _named(p)
        rest = [other, sum(counts) + other]
        return np.array([*counts, *rest])

    @cached_property
    def cells(self) -> np.ndarray:
        """The cell of each code."""
        p = self.profile
        if "grid" in p:
            return np.searchsorted(p["grid"]["points"], self.table).astype(np.uint8)
        codes, values = pd.factorize(self.table, use_na_sentinel=False)
        if p["missing"]:
            return (~pd.isna(values)).astype(np.uint8)[codes]
        names = p["values"]["points"] if "values" in p else [*p.get("sample", p)["counts"]]
        cell = {name: i for i, name in enumerate(names)}
        return np.array([cell.get(v, len(names)) for v in values], dtype=np.uint8)[codes]

    @property
    def tests(self) -> int:
        """Tests by which production multiplies the p-values of the column."""
        return 2 if self.is_cumulative or self.profile["missing"] else 3 if "sample" in self.profile else 1

    def limits(self, n: int, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The largest count of each sum in `n` rows that rejects as too few, and the least that rejects as too many."""
        counts, rows = self.reference[:-1], int(self.reference[-1])
        if self.is_cumulative:  # two rows of slack: production also leaves out the rows at a point
            root = np.sqrt(n * rows / (n + rows))
            d = special.kolmogi(level / self.tests) / (root + 0.12 + 0.11 / root)
            return np.floor((counts / rows - d) * n) + 2, np.ceil((counts / rows + d) * n) - 2
        cells = int((counts > 0).sum())
        level = level / self.tests / (2 * (cells if cells > 2 and not self.profile["missing"] else 1))
        share = n / (n + rows)
        above = partial(_above, counts=counts, share=share)
        too_many = _first(n, lambda k: above(k) <= level, len(counts))
        too_few = _first(n, lambda k: special.bdtr(k, k + counts, share) > level, len(counts)) - 1
        return too_few, too_many


def _above(k: np.ndarray, counts: np.ndarray, share: float) -> np.ndarray:
    return np.where(k > 0, special.bdtrc(np.maximum(k - 1, 0), k + counts, share), 1.0)


def _named(profile: dict) -> tuple[list[int], int]:
    sample = profile.get("sample", {"counts": profile["counts"], "other": profile["other"]})
    return [*sample["counts"].values()], sample["other"]


def _first(n: int, holds, size: int) -> np.ndarray:
    """The least count from 0 to `n` + 1 of each sum for which a monotone condition holds."""
    low, high = np.zeros(size, dtype=np.int64), np.full(size, n + 1)
    while (low < high).any():
        middle = (low + high) // 2
        yes = holds(middle)
        low, high = np.where(yes, low, middle + 1), np.where(yes, middle, high)
    return low


def screened(screen: Screen, codes: np.ndarray, sizes: list[int], level: float) -> Iterator[tuple[int, int]]:
    """Yield first and last end of the windows of a stream that may reject, with some that do not."""
    cells, width = screen.cells[codes], len(screen.reference) - 1
    blocks = len(cells) // BLOCK
    flat = np.repeat(np.arange(blocks) * (width + 1), BLOCK) + np.minimum(cells[: blocks * BLOCK], width)
    counts = np.bincount(flat, minlength=blocks * (width + 1)).reshape(blocks, width + 1)[:, :width].astype(np.int16)
    if screen.is_cumulative:
        np.cumsum(counts, axis=1, out=counts)
    sums = np.zeros((blocks + 1, width), dtype=np.int16)  # wraps around; differences are small
    np.cumsum(counts, axis=0, out=sums[1:])
    for n in sizes:
        few, many = (a.astype(np.int16) for a in screen.limits(n, level))
        step = max(1, int(np.sqrt(n) / BLOCK))  # blocks
        outer, inner = -(-n // BLOCK) + step, n // BLOCK - step
        ends = np.arange(outer, blocks + 1, step)
        most, least = sums[ends] - sums[ends - outer], sums[ends - step] - sums[ends - step - inner]
        # the other cells have at least so many rows
        found = ((most >= many) & (inner * BLOCK - least <= n - many)).any(axis=1)
        found |= ((least <= few) & (outer * BLOCK - most >= n - few)).any(axis=1) if (few >= 0).any() else False
        for end in ends[found].tolist():
            yield (end - step) * BLOCK + 1, end * BLOCK


def drift_alerts(rows_a_day: int, days: float, per_year: float, seed: int) -> int:
    """Count the alerts that checks a minute of one model open about its columns, without drift."""
    rng = np.random.default_rng(seed)
    window, level = min(rows_a_day, MAX_ROWS), BUDGET_SHARES["drift"] * per_year / DAYS_PER_YEAR / MINUTES_PER_DAY
    sizes, of_column = window_sizes(window), level / len(TABLES)
    checks = window + np.unique(rng.poisson(rows_a_day / MINUTES_PER_DAY, int(days * MINUTES_PER_DAY)).cumsum())
    opened = 0
    for table in TABLES.values():
        reference = table[rng.integers(CODES, size=REFERENCE)]
        profile = profile_numbers(reference) if table.dtype == float else profile_values(reference)
        screen = Screen(table, profile)
        stream = rng.integers(CODES, size=int(checks[-1]), dtype=np.uint16)
        suspects = set[int]()
        for start in range(0, len(stream), CHUNK):
            begin = max(0, start - window - 2 * BLOCK * 8) // BLOCK * BLOCK
            for first, last in screened(screen, stream[begin : start + CHUNK + BLOCK], sizes, of_column / len(sizes)):
                ends = np.searchsorted(checks, [begin + first, begin + last + 1])
                suspects.update(checks[slice(*ends)].tolist())
        opened += _count_openings(profile, table, stream, sorted(suspects), checks, window, of_column)
    return opened


def _count_openings(profile, table, stream, suspects, checks, window: int, level: float) -> int:
    """Count the openings among the checks that may open an alert; those in between can only close it."""
    count, size, last, exact = 0, None, 0, _Exact(profile, table, stream, window, level)
    for end in suspects:
        if not exact.may_reject(end):
            continue
        between = checks[np.searchsorted(checks, last, "right") : np.searchsorted(checks, end)]
        if size is not None and any(exact.measure(check, size).drifted is False for check in between):
            size = None
        column, last = exact.measure(end, size), end
        count += bool(column.drifted) and size is None
        if column.drifted is False:
            size = None
        elif column.drifted and size is None:
            size = column.effect
    return count


class _Exact:
    """The column at one check: first by the counts of its windows, then by production."""

    def __init__(self, profile, table, stream, window: int, level: float):
        self.profile, self.table, self.stream, self.window, self.level = profile, table, stream, window, level
        self.screen, self.sizes = Screen(table, profile), window_sizes(window)
        self.limits = {n: self.screen.limits(n, level / len(self.sizes)) for n in self.sizes}

    def may_reject(self, end: int) -> bool:
        width = len(self.screen.reference) - 1
        for n, (few, many) in self.limits.items():
            counts = np.bincount(self.screen.cells[self.stream[end - n : end]], minlength=width + 1)[:width]
            counts = counts.cumsum() if self.screen.is_cumulative else counts
            if (counts <= few).any() or (counts >= many).any():
                return True
        return False

    def measure(self, end: int, size: float | None):
        rows = pd.DataFrame({"x": self.table[self.stream[end - self.window : end]]})
        opened = None if size is None else {"x": size}
        return measure_newest({"inputs": {"x": self.profile}}, rows, None, self.level, opened).columns[0]


def error_alerts(requests_a_day: int, days: float, per_year: float, seed: int) -> int:
    """Count the alerts about failed and refused requests, whose true shares are just at their limits."""
    rng, limits = np.random.default_rng(seed), (0.01, 0.1)
    level = BUDGET_SHARES["service"] / SERVICE_TESTS * per_year / DAYS_PER_YEAR / MINUTES_PER_DAY
    minutes = int((days + 1) * MINUTES_PER_DAY)
    sent = np.diff(np.arange(minutes + 1) * requests_a_day // MINUTES_PER_DAY)
    counts = (rng.binomial(sent, limit).cumsum() for limit in limits)
    return sum(_service_openings(found, requests_a_day, level, limits, i) for i, found in enumerate(counts))


def _service_openings(counts: np.ndarray, n: int, level: float, limits: tuple[float, float], which: int) -> int:
    subject = ("failed (5xx)", "refused (4xx)")[which]

    def is_alert(k: int, opened: tuple[str, ...]) -> bool:
        traffic = Traffic(n, k * which, k * (1 - which), 0.0, None)
        return any(f.subject == subject for f in check_traffic(traffic, *limits, level, opened).findings)

    found = counts[MINUTES_PER_DAY:] - counts[:-MINUTES_PER_DAY]
    opens, closes = (bisect_left(range(n), True, key=lambda k, o=o: is_alert(k, o)) for o in ((), (subject,)))
    return _count_runs(found >= opens, found < closes)


def performance_alerts(labels_a_day: int, days: float, per_year: float, seed: int, accuracy: float = 0.9) -> int:
    """Count the alerts about the accuracy of a model that is as good as it was on 2,000 test rows."""
    rng, n, test_rows = np.random.default_rng(seed), min(labels_a_day, 2000), 2000
    level = BUDGET_SHARES["performance"] * per_year / DAYS_PER_YEAR / MINUTES_PER_DAY
    release, spec = rng.binomial(test_rows, accuracy) / test_rows, SimpleNamespace(gates=Gates(tolerance=0.0))

    def is_below(right: int, opened: tuple[str, ...]) -> bool:
        value, (low, high) = right / n, exact_interval(right, n)
        measured = Measurement(value, n, right)
        of_all = MetricResult("all", "accuracy", n, value, low, high, None, release, None, high < release, "", measured)
        result = check_performance(Performance(n, 0.95, [of_all]), spec, level, opened, test_rows)
        unknown = ("performance", "accuracy") not in result.evaluated  # which leaves an alert open
        return bool(result.findings) or bool(opened and unknown)

    opens, closes = (bisect_left(range(n), True, key=lambda k, o=o: not is_below(k, o)) for o in ((), ("accuracy",)))
    right = np.concatenate([[0], (rng.random(int(labels_a_day * days) + n) < accuracy).cumsum()])
    found = right[n:] - right[:-n]
    return _count_runs(found < opens, found >= closes)


def _count_runs(opens: np.ndarray, closes: np.ndarray) -> int:
    """Count the openings of an alert that is open until a check closes it."""
    events = np.flatnonzero(opens | closes)
    is_open = opens[events]
    return int(is_open[:1].sum() + (is_open[1:] & ~is_open[:-1]).sum())


# rows a day, days, budget of a year: each spends what a budget of 1 has in a year
YEARS = ((1000, 365, 1.0), (10_000, 18.25, 20.0), (1_000_000, 0.09125, 4000.0))


def main(models: int = 100) -> None:
    """Print the number of alerts without drift at each size."""
    print("| checks | rows a day | days a model | budget a year | alerts | bound | CPU |", "|---" * 7 + "|", sep="\n")
    whole = [(rows, 365, 1.0) for rows, _, _ in YEARS]
    counted = [("drift", drift_alerts, YEARS), ("service", error_alerts, whole)]
    counted.append(("performance", performance_alerts, whole[:1]))
    for kind, count, years in counted:
        for rows, days, per_year in years:
            began = time.process_time()
            alerts = sum(count(rows, days, per_year, seed) for seed in range(models))
            figures = (kind, f"{rows:,}", f"{days:g}", f"{per_year:g}", alerts, f"{models * BUDGET_SHARES[kind]:g}")
            print("|", " | ".join(map(str, figures)), f"| {time.process_time() - began:,.0f} s |", flush=True)


if __name__ == "__main__":
    main()
