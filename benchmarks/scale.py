"""Two workers of a Dask cluster against one, each a process with one thread, on a batch job and on a search.

A cluster's workers stay, so each has done a small job and a small search before: what it imports, it has imported.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.ensemble import RandomForestClassifier

from benchmarks.measure import environment, median
from benchmarks.models import put_into_production
from mlops_nb.batch.jobs import predict_batch
from mlops_nb.batch.requests import BatchRequest
from mlops_nb.model.train import fit
from mlops_nb.orchestration.dask import cluster, dask_runner, fits_on_cluster
from mlops_nb.settings import Settings
from mlops_nb.spec import ModelSpec

ROWS, CHUNK, ROUNDS = 1_000_000, 25_000, 3
LIMIT = 1.7  # Times as fast with two


def measure() -> list[dict]:
    with TemporaryDirectory() as folder:
        home = Path(folder)
        put_into_production("forest", home)
        _write_input(home / "rows.parquet", ROWS, CHUNK)
        _write_input(home / "few.parquet", 800, 50)
        took = {(what, n): [] for what in (_job, _search) for n in (1, 2)}
        for _ in range(ROUNDS):  # in turn, so that a busy machine is busy for both
            for workers in (1, 2):
                with _workers(workers, home) as scheduler:
                    for what in (_job, _search):
                        what(scheduler, home, warm=True)
                        took[what, workers].append(_seconds(lambda what=what, at=scheduler: what(at, home)))
    rows = []
    names = {_job: f"batch job of {ROWS:,} x 20, forest", _search: "search, 20 fits of a forest"}
    for what, name in names.items():
        ratio = median([one / two for one, two in zip(took[what, 1], took[what, 2], strict=True)])
        rows.append(_row(name, median(took[what, 1]), 1.0, "one worker"))
        rows.append(
            _row(f"  with two workers (aim {LIMIT})", median(took[what, 2]), ratio, "one worker, times as fast")
        )
    return rows


def _row(what: str, seconds: float, ratio: float, against: str) -> dict:
    return {"what": what, "value": seconds, "unit": "s", "against": against, "ratio": ratio}


def _seconds(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def _write_input(path: Path, rows: int, chunk: int):
    some = np.random.default_rng(0).normal(size=(rows, 20)).round(4)
    pd.DataFrame(some, columns=[f"x{i}" for i in range(20)]).to_parquet(path, row_group_size=chunk)


@contextmanager
def _workers(number: int, home: Path) -> Iterator[str]:
    """A scheduler and so many workers, each a process; its address."""
    file = home / "scheduler.json"
    file.unlink(missing_ok=True)
    env = environment(home, MLOPS_HOME=str(home), OMP_NUM_THREADS="1", DASK_TEMPORARY_DIRECTORY=str(home))
    env["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"  # as docs/scaling.md advises
    command = [sys.executable, "-m", "distributed.cli.dask_{}", "--scheduler-file", str(file), "--no-dashboard"]
    options = {"scheduler": ["--host", "127.0.0.1", "--port", "0"], "worker": ["--nthreads", "1", "--no-nanny"]}
    started = []
    for kind in ("scheduler", *["worker"] * number):
        order = [part.format(kind) for part in command] + options[kind]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(order, cwd=home, env=env, **quiet))
    try:
        while not file.is_file():
            time.sleep(0.05)
        import json

        address = json.loads(file.read_text())["address"]
        with cluster(address) as client:
            client.wait_for_workers(number, timeout=60)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def _job(scheduler: str, home: Path, warm: bool = False):
    name, chunk = ("few", 50) if warm else ("rows", CHUNK)
    request = BatchRequest("bench", str(home / f"{name}.parquet"), str(home / f"{name}-scores"), chunk_rows=chunk)
    with cluster(scheduler) as client:
        predict_batch(request, again=True, settings=Settings.read({"MLOPS_HOME": str(home)}), run=dask_runner(client))


def _search(scheduler: str, _home: Path, warm: bool = False):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300 if warm else 6000, 20)), columns=[f"x{i}" for i in range(20)])
    y = pd.Series((X.sum(axis=1) + rng.normal(size=len(X)) > 0).astype(int))
    columns = {name: pa.Column(float) for name in X.columns} | {"y": pa.Column(int)}
    schema = pa.DataFrameSchema(columns)
    spec = ModelSpec("search", lambda: None, "y", schema, lambda params: RandomForestClassifier(**params))
    with fits_on_cluster(scheduler):
        fit(spec, X, y, {"n_estimators": 60}, {"max_depth": [6, 8, 10, 12]})
