"""A year without drift: false alerts of checks a minute, counted for 100 models at three sizes.

A year of 100 models has a billion checks of columns. A test of one column rejects only where the
count of some cells of a window is beyond a limit, and the limits follow from the formulas of production. So a screen
compares counts of blocks of rows, which hold those of all windows that begin and end inside them, and leaves out what
cannot reject; what is left is decided by production's `measure_newest`, row by row.
"""

import sys
import time
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import special, stats

from mlops_nb.model.profile import profile_numbers, profile_values
from mlops_nb.model.signature import Predictions
from mlops_nb.monitor.checks import SERVICE_TESTS, Traffic, check_traffic
from mlops_nb.monitor.false_alerts import BUDGET_SHARES, measure_newest, spend_budget, window_sizes
from mlops_nb.monitor.label_checks import check_performance
from mlops_nb.monitor.performance import measure_performance
from mlops_nb.spec import Gates

REFERENCE, MAX_ROWS, CODES, CHUNK = 5000, 10_000, 1 << 16, 1 << 16
BLOCK, MERGED, LONG = 16, 4, 1024  # rows of a block, points that are merged, least rows of a long window
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

    @cached_property
    def known(self) -> dict:
        """Limits by window and level."""
        return {}

    @property
    def tests(self) -> int:
        """Tests by which production multiplies the p-values of the column."""
        return 2 if self.is_cumulative or self.profile["missing"] else 3 if "sample" in self.profile else 1

    def limits(self, n: int, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The largest count of each sum in `n` rows that rejects as too few, and the least that rejects as too many."""
        if (n, level) not in self.known:
            self.known[n, level] = self._limits(n, level)
        return self.known[n, level]

    def _limits(self, n: int, level: float) -> tuple[np.ndarray, np.ndarray]:
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


@dataclass(frozen=True)
class Sums:
    """Counts of the rows before each block of a stream, by cell; of few cells where those are merged."""

    counts: np.ndarray  # (cells, blocks + 1), which wraps around; differences are small
    groups: np.ndarray | None  # first point of each group of merged points; None: every cell is counted
    block: int  # rows

    @classmethod
    def of(cls, screen: Screen, codes: np.ndarray, block: int, merged: int) -> "Sums":
        cells, width = screen.cells, len(screen.reference) - 1
        groups = np.arange(0, width, merged) if merged > 1 and screen.is_cumulative else None
        if groups is not None:
            cells, width = (np.searchsorted(groups, cells, "right") - 1).astype(np.uint8), len(groups)
            cells[screen.cells >= len(screen.reference) - 1] = width
        blocks = len(codes) // block
        first = np.minimum(cells, width) * np.int64(blocks)  # of each code
        flat = np.repeat(np.arange(blocks), block) + first[codes[: blocks * block]]
        counts = np.bincount(flat, minlength=blocks * (width + 1)).reshape(width + 1, blocks)[:width].astype(np.int16)
        if screen.is_cumulative:
            np.cumsum(counts, axis=0, out=counts)
        sums = np.zeros((width, blocks + 1), dtype=np.int16)
        np.cumsum(counts, axis=1, out=sums[:, 1:])
        return cls(sums, groups, block)

    def limits(self, few: np.ndarray, many: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the limits of too few and of too many, and those of merged points.

        Rows up to any point of a group are at most those up to its last one, and at least those up to the last of the
        group before.
        """
        if self.groups is None:
            return few, many
        lowest = np.maximum.reduceat(few, self.groups)
        return np.append(lowest[1:], -1), np.minimum.reduceat(many, self.groups)


def screened(screen: Screen, codes: np.ndarray, sizes: list[int], level: float) -> Iterator[tuple[int, int, int]]:
    """Yield rows, first and last end of the windows of a stream that may reject, with some that do not."""
    long = [n for n in sizes if n >= LONG]
    whole = [n for n in sizes if n < LONG and not _may_merge(screen, n, level)]
    short = [n for n in sizes if n < LONG and n not in whole]
    for block, merged, of in ((BLOCK, MERGED, short), (BLOCK, 1, whole), (4 * BLOCK, 1, long)):
        if of and len(codes) >= block:
            sums = Sums.of(screen, codes, block, merged)
            for n in of:
                yield from _found(sums, n, *sums.limits(*screen.limits(n, level)))


def _may_merge(screen: Screen, n: int, level: float) -> bool:
    """Whether the first points, before which no rows are counted, cannot have too few."""
    return not screen.is_cumulative or screen.limits(n, level)[0][:MERGED].max() < 0


def _found(sums: Sums, n: int, few: np.ndarray, many: np.ndarray) -> Iterator[tuple[int, int, int]]:
    counts, block, few, many = sums.counts, sums.block, few.astype(np.int16)[:, None], many.astype(np.int16)[:, None]
    step = max(1, int(np.sqrt(n) / block))  # blocks
    outer, inner = -(-n // block) + step, max(0, n // block - step)
    ends = np.arange(outer, counts.shape[1], step)
    at = {lag: counts[:, outer - lag : counts.shape[1] - lag : step] for lag in (0, outer, step, step + inner)}
    most, least = at[0] - at[outer], at[step] - at[step + inner]
    too_many, too_few = most >= many, least <= few
    if sums.groups is None and (too_many.any() or too_few.any()):  # the other cells have at least so many rows
        too_many &= inner * block - least <= n - many
        too_few &= outer * block - most >= n - few
    for end in ends[(too_many | too_few).any(axis=0)].tolist():
        yield n, (end - step) * block + 1, end * block


def drift_alerts(rows_a_day: int, days: float, per_year: float, seed: int, every: int = 1) -> int:
    """Count the alerts that checks every so many minutes of one model open about its columns, without drift."""
    rng = np.random.default_rng(seed)
    window, level = min(rows_a_day, MAX_ROWS), level_of("drift", per_year, every)
    sizes, of_column = window_sizes(window), level / len(TABLES)
    new = rng.poisson(rows_a_day * every / MINUTES_PER_DAY, int(days * MINUTES_PER_DAY / every))
    checks = window + np.unique(new.cumsum())
    opened = 0
    for table in TABLES.values():
        reference = table[rng.integers(CODES, size=REFERENCE)]
        profile = profile_numbers(reference) if table.dtype == float else profile_values(reference)
        stream = rng.integers(CODES, size=int(checks[-1]), dtype=np.uint16)
        suspects = _suspects(Screen(table, profile), stream, checks, window, of_column / len(sizes))
        opened += _count_openings(profile, table, stream, suspects, checks, window, of_column)
    return opened


def _suspects(screen: Screen, stream: np.ndarray, checks: np.ndarray, window: int, level: float) -> list[int]:
    """Return the checks that may reject: by blocks where checks are close, else by the counts of their windows."""
    sizes = window_sizes(window)
    if len(checks) * len(sizes) * BLOCK < len(stream):
        return rejecting(screen, stream, checks, sizes, level)
    found: dict[int, set[int]] = {n: set() for n in sizes}
    for start in range(0, len(stream), CHUNK):
        begin = max(0, start - window - 2 * BLOCK * 8) // BLOCK * BLOCK
        for n, first, last in screened(screen, stream[begin : start + CHUNK + BLOCK], sizes, level):
            ends = np.searchsorted(checks, [begin + first, begin + last + 1])
            found[n].update(checks[slice(*ends)].tolist())
    each = (rejecting(screen, stream, np.array(sorted(ends), dtype=np.int64), [n], level) for n, ends in found.items())
    return sorted({end for ends in each for end in ends})


def rejecting(screen: Screen, stream: np.ndarray, checks: np.ndarray, sizes: list[int], level: float) -> list[int]:
    """Return the checks of which a window has a count beyond its limits."""
    parts = np.array_split(checks, len(checks) // 200 + 1) if len(checks) else []
    return [end for part in parts for end in part[_are_beyond(screen, stream, part, sizes, level)].tolist()]


def _are_beyond(screen: Screen, stream: np.ndarray, checks: np.ndarray, sizes: list[int], level: float) -> np.ndarray:
    width = len(screen.reference) - 1
    bounds = np.unique(checks[:, None] - [0, *sizes])
    part = np.repeat(np.arange(1, len(bounds)), np.diff(bounds)) * (width + 1)
    cells = np.minimum(screen.cells, width)[stream[bounds[0] : bounds[-1]]]
    counts = np.bincount(part + cells, minlength=len(bounds) * (width + 1)).reshape(len(bounds), width + 1)[:, :width]
    counts = counts.cumsum(axis=0)
    counts = counts.cumsum(axis=1) if screen.is_cumulative else counts
    beyond, ends = np.zeros(len(checks), dtype=bool), np.searchsorted(bounds, checks)
    for n in sizes:
        few, many = screen.limits(n, level)
        of_window = counts[ends] - counts[np.searchsorted(bounds, checks - n)]
        beyond |= ((of_window <= few) | (of_window >= many)).any(axis=1)
    return beyond


def level_of(kind: str, per_year: float, every: int) -> float:
    """Return what each of checks every so many minutes spends on a kind of check, by the rule of production."""
    budget = spend_budget(per_year)
    for _ in range(60):  # until it is steady
        budget = spend_budget(per_year, timedelta(minutes=every), budget.left)
    return budget.level_of(kind)


def _count_openings(profile, table, stream, suspects, checks, window: int, level: float) -> int:
    """Count the openings among the checks that may open an alert; those in between can only close it."""
    count, size, last, exact = 0, None, 0, _Exact(profile, table, stream, window, level)
    for end in suspects:
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
    """The column at one check, by production."""

    def __init__(self, profile, table, stream, window: int, level: float):
        self.profile, self.table, self.stream, self.window, self.level = profile, table, stream, window, level

    def measure(self, end: int, size: float | None):
        rows = pd.DataFrame({"x": self.table[self.stream[end - self.window : end]]})
        opened = None if size is None else {"x": size}
        return measure_newest({"inputs": {"x": self.profile}}, rows, None, self.level, opened).columns[0]


def error_alerts(requests_a_day: int, days: float, per_year: float, seed: int, every: int = 1) -> int:
    """Count the alerts about failed and refused requests, whose true shares are just at their limits."""
    rng, limits = np.random.default_rng(seed), (0.01, 0.1)
    level = level_of("service", per_year, every) / SERVICE_TESTS
    minutes = int((days + 1) * MINUTES_PER_DAY)
    sent = np.diff(np.arange(minutes + 1) * requests_a_day // MINUTES_PER_DAY)
    counts = (rng.binomial(sent, limit).cumsum() for limit in limits)
    return sum(_service_openings(found, requests_a_day, level, limits, i, every) for i, found in enumerate(counts))


def _service_openings(
    counts: np.ndarray, n: int, level: float, limits: tuple[float, float], which: int, every: int
) -> int:
    subject = ("failed (5xx)", "refused (4xx)")[which]

    def is_alert(k: int, opened: tuple[str, ...]) -> bool:
        traffic = Traffic(n, k * which, k * (1 - which), 0.0, None)
        return any(f.subject == subject for f in check_traffic(traffic, *limits, level, opened).findings)

    found = (counts[MINUTES_PER_DAY:] - counts[:-MINUTES_PER_DAY])[::every]
    opens, closes = (bisect_left(range(n), True, key=lambda k, o=o: is_alert(k, o)) for o in ((), (subject,)))
    return _count_runs(found >= opens, found < closes)


def performance_alerts(
    labels_a_day: int, days: float, per_year: float, seed: int, every: int = 1, now: float = 0.9
) -> int:
    """Count the alerts about an accuracy that was 0.9 when 2,000 test rows were drawn."""
    rng, n, test_rows = np.random.default_rng(seed), min(labels_a_day, 2000), 2000
    level = level_of("performance", per_year, every)
    release = {"metrics": {"accuracy": rng.binomial(test_rows, 0.9) / test_rows}}
    release |= {"slices": {"all": {"rows": test_rows}}}
    spec = SimpleNamespace(scorer="accuracy", slices={}, positive=None, gates=Gates(tolerance=0.0))
    rows = pd.DataFrame(index=range(n))

    def is_below(right: int, opened: tuple[str, ...]) -> bool:
        answer = Predictions((np.arange(n) >= right).astype(int), None, (0, 1))
        performance = measure_performance(spec, rows, np.zeros(n, dtype=int), answer, release)
        result = check_performance(performance, spec, level, opened)
        unknown = ("performance", "accuracy") not in result.evaluated  # which leaves an alert open
        return bool(result.findings) or bool(opened and unknown)

    opens, closes = (bisect_left(range(n), True, key=lambda k, o=o: not is_below(k, o)) for o in ((), ("accuracy",)))
    right = np.concatenate([[0], (rng.random(int(labels_a_day * days) + n) < now).cumsum()])
    found = (right[n:] - right[:-n])[:: max(1, round(labels_a_day * every / MINUTES_PER_DAY))]
    return _count_runs(found < opens, found >= closes)


def _count_runs(opens: np.ndarray, closes: np.ndarray) -> int:
    """Count the openings of an alert that is open until a check closes it."""
    events = np.flatnonzero(opens | closes)
    is_open = opens[events]
    return int(is_open[:1].sum() + (is_open[1:] & ~is_open[:-1]).sum())


# kind, its function, rows a day, minutes between checks, days and budget of a year: a year in all
MINUTE, HOUR, DAY = 1, 60, 1440
CASES = (
    *(("drift", drift_alerts, 10_000, every, 365, 1.0) for every in (MINUTE, DAY)),
    *(("drift", drift_alerts, 1000, every, 365, 1.0) for every in (MINUTE, HOUR, DAY)),
    ("drift", drift_alerts, 1_000_000, MINUTE, 0.09125, 4000.0),
    *(("performance", performance_alerts, 1000, every, 365, 1.0) for every in (MINUTE, HOUR, DAY)),
    *(("service", error_alerts, rows, MINUTE, 365, 1.0) for rows in (1000, 10_000, 1_000_000)),
    *(("service", error_alerts, 10_000, every, 365, 1.0) for every in (HOUR, DAY)),
)
EVERY = {MINUTE: "minute", HOUR: "hour", DAY: "day"}


def rate_of(alerts: int, years: int) -> str:
    """Return alerts a model and year with the exact interval of a Poisson count."""
    low, high = stats.chi2.ppf(0.025, 2 * alerts) / 2 if alerts else 0.0, stats.chi2.ppf(0.975, 2 * alerts + 2) / 2
    return f"{alerts / years:.2f} ({low / years:.2f} to {high / years:.2f})"


def main(models: int = 100, workers: int = 2) -> None:
    """Print the number of alerts without drift of each case, and their sum."""
    names = ("kind", "rows a day", "a check every", "days a model", "alerts", "a model and year", "bound", "CPU")
    print("|", " | ".join(names), "|")
    print("|---" * len(names) + "|")
    total = 0
    with ProcessPoolExecutor(workers) as pool:
        for kind, count, rows, every, days, per_year in CASES:
            cases = ((count, rows, days, per_year, seed, every) for seed in range(models))
            found = [*pool.map(_timed, *zip(*cases, strict=True))]
            alerts, seconds = (sum(column) for column in zip(*found, strict=True))
            total += alerts if (every, days) == (MINUTE, 365) and rows == {"performance": 1000}.get(kind, 10_000) else 0
            figures = (
                kind,
                f"{rows:,}",
                EVERY[every],
                f"{days:g}",
                alerts,
                rate_of(alerts, models),
                BUDGET_SHARES[kind],
            )
            print("|", " | ".join(map(str, figures)), f"| {seconds:,.0f} s |", flush=True)
    print(f"| the three together | 10,000 | minute | 365 | {total} | {rate_of(total, models)} | 0.9 | |")


def _timed(count, rows: int, days: float, per_year: float, seed: int, every: int) -> tuple[int, float]:
    began = time.process_time()
    return count(rows, days, per_year, seed, every), time.process_time() - began


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
