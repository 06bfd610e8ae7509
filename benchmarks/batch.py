"""Batch inference of 10,000,000 x 20 rows, against a loop of reading, predicting and writing, in a process each."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow
from pyarrow import parquet

from benchmarks.measure import ROOT, environment, median
from benchmarks.models import put_into_production

ROWS, STEP, ROUNDS = 10_000_000, 100_000, 3
LIMITS = {"speed": 0.8, "memory": 1024}  # of the plain loop; MiB


def measure() -> list[dict]:
    with TemporaryDirectory() as folder:
        home = Path(folder)
        put_into_production("logistic", home)
        _write_input(home / "rows.parquet")
        took = {"plain": [], "job": []}
        for _ in range(ROUNDS):  # in turn, so that a busy machine is busy for both
            for how, seen in took.items():
                seen.append(_run(how, home))
    ratio = median([p["seconds"] / j["seconds"] for p, j in zip(took["plain"], took["job"], strict=True)])
    speeds = {how: ROWS / median([s["seconds"] for s in seen]) for how, seen in took.items()}
    memory = max(s["mib"] for s in took["job"])
    return [
        _row("read, predict, write in one loop", speeds["plain"], "rows/s", 1.0, "itself"),
        _row("batch job of 10,000,000 x 20", speeds["job"], "rows/s", ratio, f"that loop (limit {LIMITS['speed']})"),
        _row("its peak memory", memory, "MiB", memory / LIMITS["memory"], f"{LIMITS['memory']} MiB (limit 1)"),
    ]


def _row(what: str, value: float, unit: str, ratio: float, against: str) -> dict:
    return {"what": what, "value": value, "unit": unit, "against": against, "ratio": ratio}


def _write_input(path: Path):
    """Rows in row groups of a million, as pyarrow writes them."""
    rng, names = np.random.default_rng(0), [f"x{i}" for i in range(20)]
    some = {name: rng.normal(size=1_000_000).round(4) for name in names}
    schema = pyarrow.schema([("id", pyarrow.int64()), *((name, pyarrow.float64()) for name in names)])
    with parquet.ParquetWriter(path, schema) as writer:
        for first in range(0, ROWS, 1_000_000):
            ids = np.arange(first, min(first + 1_000_000, ROWS))
            writer.write_table(pyarrow.table({"id": ids, **{n: v[: len(ids)] for n, v in some.items()}}, schema))


def _run(how: str, home: Path) -> dict:
    """Seconds and peak memory of one way, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.batch", how, str(home)]
    env = environment(home, MLOPS_HOME=str(home), OMP_NUM_THREADS="1") | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{how} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _plain(home: Path) -> float:
    """What anybody would write who does not mind to begin again."""
    from mlops_nb.settings import Settings
    from mlops_nb.store.registry import Registry

    registry = Registry.open(Settings.read())
    predictor = registry.load("bench")
    names = predictor.signature.names
    schema = pyarrow.schema([("id", pyarrow.int64()), ("prediction", pyarrow.int64())])
    started = time.perf_counter()
    with parquet.ParquetWriter(home / "plain.parquet", schema) as writer:
        for batch in parquet.ParquetFile(home / "rows.parquet").iter_batches(STEP):
            table = pyarrow.Table.from_batches([batch])
            answer = predictor.predict_rows(table.select(names))
            writer.write_table(pyarrow.table({"id": table["id"], "prediction": answer.prediction}, schema))
    seconds = time.perf_counter() - started
    predictor.close()
    registry.close()
    return seconds


def _job(home: Path) -> float:
    """The job, as the command runs it, with its set-up."""
    from mlops_nb.batch.jobs import predict_batch
    from mlops_nb.batch.requests import BatchRequest

    request = BatchRequest("bench", str(home / "rows.parquet"), str(home / "scores"), chunk_rows=STEP)
    return predict_batch(request, again=True).seconds


if __name__ == "__main__":
    seconds = {"plain": _plain, "job": _job}[sys.argv[1]](Path(sys.argv[2]))
    # not `ru_maxrss`, which a process inherits from the one that started it
    peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]
    print(json.dumps({"seconds": seconds, "mib": int(peak) / 1024}))
