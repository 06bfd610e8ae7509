"""Measuring drift of 100,000 rows x 100 columns, against reading them from Parquet and sorting each column once."""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import median
from mlops_nb.model.profile import profile_numbers, profile_values
from mlops_nb.monitor.drift import measure_drift

LIMIT = 1.5  # times reading and sorting
ROWS, COLUMNS = 100_000, 100


def measure(rounds: int = 7) -> list[dict]:
    return [_row("numbers", 0, rounds), _row("30 of them categories", 30, rounds)]


def _row(what: str, categories: int, rounds: int) -> dict:
    rng = np.random.default_rng(0)
    profile, plain, drift = _profile(_table(rng, 20_000, categories)), [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "window.parquet"
        _table(rng, ROWS, categories).to_parquet(path)
        for _ in range(rounds):
            plain.append(_seconds(lambda: _sort(pd.read_parquet(path))))
            drift.append(_seconds(lambda: measure_drift(profile, pd.read_parquet(path))))
    # both in turn, so that a busy machine is busy for both
    ratio = median([d / p for d, p in zip(drift, plain, strict=True)])
    against = f"reading and sorting (limit {LIMIT})"
    return {"what": f"read, drift: {what}", "value": median(drift), "unit": "s", "against": against, "ratio": ratio}


def _table(rng: np.random.Generator, rows: int, categories: int) -> pd.DataFrame:
    columns = {f"number{i}": rng.normal(size=rows) for i in range(COLUMNS - categories)}
    names = [f"category {i}" for i in range(20)]
    return pd.DataFrame(columns | {f"category{i}": rng.choice(names, rows) for i in range(categories)})


def _profile(frame: pd.DataFrame) -> dict:
    made = {True: profile_numbers, False: profile_values}
    return {"inputs": {name: made[column.dtype == float](column.to_numpy()) for name, column in frame.items()}}


def _sort(frame: pd.DataFrame):
    for _, column in frame.items():
        if column.dtype == float:
            np.sort(column.to_numpy())
        else:
            column.sort_values()


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
