"""CPU seconds and peak memory as rows, columns, versions, logged rows, models and connections grow.

`python -m benchmarks.growth` measures and writes docs/growth.md; names of axes measure those alone, `--most N` leaves
larger sizes out, and what was not measured this time is taken from the figures of before. Each size has a process of
its own. CPU seconds hold better than a clock when the machine does other work.
"""

import argparse
import json
import math
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import sqlalchemy as sa

from benchmarks.measure import ROOT

RESULTS, PAGE = Path(__file__).parent / "growth.json", ROOT / "docs/growth.md"
SIZES = {
    "rows": (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    "columns": (10, 100, 1_000, 3_000),
    "versions": (1, 100, 1_000, 10_000),
    "logged rows": (10_000, 100_000, 1_000_000, 10_000_000),
    "models": (1, 10, 100),
    "connections": (8, 100, 500, 2_000),
}
FURTHER = {"logged rows": 100_000_000}  # sizes on paper, by the growth between the two largest that were measured
Task = tuple[str, Callable[[], object]]


def of_rows(n: int, home: Path) -> Iterator[Task]:
    """A table of 20 numbers: from its file to drift."""
    from benchmarks.models import put_into_production
    from mlops_nb.batch.jobs import predict_batch
    from mlops_nb.batch.requests import BatchRequest
    from mlops_nb.data.tables import read_table, snapshot
    from mlops_nb.model.profile import profile_numbers
    from mlops_nb.monitor.drift import measure_drift
    from mlops_nb.settings import Settings

    rng, file = np.random.default_rng(0), home / "rows.parquet"
    names = [f"x{i}" for i in range(20)]
    pd.DataFrame(rng.normal(size=(n, 20)).round(4), columns=names).to_parquet(file, row_group_size=50_000)
    put_into_production("logistic", home)
    table = read_table(str(file))
    profile = {"inputs": {name: profile_numbers(table[name].to_numpy()) for name in names}}
    yield "read a Parquet file", lambda: read_table(str(file))
    yield "keep it as a snapshot", lambda: snapshot(table, home / "data")
    yield "profile it", lambda: [profile_numbers(table[name].to_numpy()) for name in names]
    yield "measure its drift", lambda: measure_drift(profile, table)
    request = BatchRequest("bench", str(file), str(home / "scores"), chunk_rows=50_000)
    yield (
        "batch job, logistic regression",
        lambda: predict_batch(request, settings=Settings.read({"MLOPS_HOME": str(home)})),
    )


def of_columns(n: int, home: Path) -> Iterator[Task]:
    """A table of 300 rows: drafted, and a logistic regression of it packaged and loaded."""
    from sklearn.linear_model import LogisticRegression

    from benchmarks.models import FACTS
    from mlops_nb.model.bundle import write_bundle
    from mlops_nb.model.predictor import Predictor
    from mlops_nb.model.signature import Input, Signature

    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, n)).round(4), columns=[f"x{i}" for i in range(n)])
    y = (X.iloc[:, :5].sum(axis=1) + rng.normal(size=300) > 0).astype(int)
    signature = Signature(tuple(map(Input, X.columns)), "classification", "y", (0, 1))
    model = LogisticRegression(max_iter=200).fit(X, y)
    bundle = write_bundle(home / "bundle", "bench", model, signature, X.tail(100), X, FACTS)
    predictor = Predictor.load(bundle.path)
    row = X.iloc[0].tolist()
    yield (
        "package with its ONNX graph",
        lambda: write_bundle(home / "again", "bench", model, signature, X.tail(100), X, FACTS),
    )
    yield "load and verify", lambda: Predictor.load(bundle.path).close()
    yield "predict one row, 100 times", lambda: [predictor.predict_rows([row]) for _ in range(100)]
    X.assign(y=y).to_csv(home / "table.csv", index=False)
    command = ["new", "drafted", "--data", "table.csv", "--target", "y", "--minutes", "0", "--json"]
    yield "mlops-nb new --minutes 0", lambda: _command(command, home)


def of_versions(n: int, home: Path) -> Iterator[Task]:
    """A model with so many versions, each promoted once."""
    from mlops_nb.monitor.timeseries import version_overview
    from mlops_nb.settings import Settings
    from mlops_nb.store.database import writing
    from mlops_nb.store.registry import Registry
    from mlops_nb.store.retention import plan_cleanup
    from mlops_nb.store.runs import RunStore
    from mlops_nb.store.schema import aliases, history, models, versions

    now, manifest = datetime.now(UTC), json.loads((ROOT / _BUNDLE / "manifest.json").read_text())
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home)}))
    common = {"name": "emails", "gates_passed": True, "manifest": manifest, "created_at": now}
    moved = {"name": "emails", "alias": "production", "action": "promote", "who": "ann", "why": "better", "at": now}
    with writing(registry.engine) as connection:
        connection.execute(sa.insert(models).values(name="emails", created_at=now))
        numbers = range(1, n + 1)
        keys = [{"version": i, "identity": f"{i:064x}", "digest": f"{i:064x}"} for i in numbers]
        rows = [common | key | {"location": f"bundles/emails/{key['version']}"} for key in keys]
        connection.execute(sa.insert(versions), rows)
        moves = [moved | {"from_version": i - 1 or None, "to_version": i} for i in numbers]
        connection.execute(sa.insert(history), moves)
        connection.execute(sa.insert(aliases).values(name="emails", alias="production", version=n))
    yield "read one version", lambda: registry.get("emails", "production")
    yield "list all (models list)", lambda: registry.summaries("emails")
    yield "list of the dashboard", lambda: version_overview(registry, "emails")
    runs, before = RunStore(home / "runs"), now - timedelta(days=1)
    yield "plan a cleanup (gc)", lambda: plan_cleanup(registry, runs, before)


_BUNDLE = "tests/data/bundles/emails-format-2"


def of_logged_rows(n: int, home: Path) -> Iterator[Task]:
    """So many predictions over thirty days in SQLite, a third labelled; of a busy day the dashboard reads a sample."""
    from mlops_nb.model.signature import Input, Signature
    from mlops_nb.monitor.bucket_sample import read_sample
    from mlops_nb.monitor.prediction_log import PredictionLog
    from mlops_nb.monitor.time_buckets import TimeBuckets
    from mlops_nb.monitor.timeseries import prediction_series, quality, traffic
    from mlops_nb.store.database import open_database

    engine = open_database(f"sqlite:///{home}/log.db")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        now = datetime.now(UTC).timestamp()
        values = {"n": n, "first_ms": int((now - _MONTH) * 1000), "step": _MONTH / n, "first": now - _MONTH}
        for statement in _FILL:
            connection.execute(sa.text(statement), values if ":n" in statement else {})
    log, span = PredictionLog(engine), TimeBuckets(24)
    signature = Signature(tuple(map(Input, "abcd")), "classification", "y", (0, 1))
    manifest = {"signature": signature.to_dict(), "evaluation": {"metrics": {}, "gates": []}}
    id = log.read("toy", last=1).predictions.index[0]
    quality(engine, "toy", TimeBuckets(1), manifest, 1)  # which imports the metrics
    yield "one prediction by its id", lambda: log.get(id)
    yield "predictions of a trace", lambda: log.of_trace("f" * 32)
    yield "newest 10,000 rows", lambda: log.read("toy", last=10_000)

    def traffic_and_predictions():
        sample = read_sample(engine, "toy", span)
        traffic(engine, "toy", span, sample)
        prediction_series(engine, "toy", span, sample=sample)

    yield "dashboard of a day: traffic, predictions", traffic_and_predictions
    yield "dashboard of a day: quality", lambda: quality(engine, "toy", span, manifest, 1)
    yield "delete the oldest 1,000 (purge)", lambda: log.purge(30 - 1000 / n * 30, 1e6)


_MONTH = 30 * 86_400
_FILL = (
    "PRAGMA synchronous=OFF",
    "BEGIN",
    """INSERT INTO predictions (id, name, version, role, at, ms, inputs, prediction, probability)
    WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < :n)
    SELECT printf('%012x%016x-0', CAST(:first_ms + i * :step * 1000 AS INTEGER), i), 'toy', 1, 'production',
        strftime('%Y-%m-%d %H:%M:%f', :first + i * :step, 'unixepoch') || '000', i % 20,
        json_object('a', i % 7, 'b', i % 11, 'c', i % 13, 'd', 0.5), i % 2, '[0.25,0.75]' FROM s""",
    "INSERT INTO labels (id, label, at) SELECT id, 1, at FROM predictions WHERE rowid % 3 = 0",
    "COMMIT",
)


def of_models(n: int, home: Path) -> Iterator[Task]:
    """A service of so many logistic regressions of 20 numbers."""
    from benchmarks.models import put_into_production
    from mlops_nb.settings import Settings
    from serve.app import create_app

    names = [f"bench-{i}" for i in range(n)]
    put_into_production("logistic", home, names)
    app = create_app(Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODELS": ",".join(names)}))
    client, rows = app.test_client(), {"features": [[0.0] * 20]}
    lives = app.extensions["models"].by_name.values()
    yield "load all", lambda: [live.refresh() for live in lives]
    yield "follow the registry once", lambda: [live.refresh() for live in lives]
    yield (
        "1,000 requests in turn",
        lambda: [_expect(client.post(f"/models/{names[i % n]}/predict", json=rows).status_code) for i in range(1_000)],
    )
    app.stop()


def of_connections(n: int, home: Path) -> Iterator[Task]:
    """10,000 one-row requests on so many keep-alive connections, in turn; a worker for every 500."""
    import psutil

    from benchmarks.models import put_into_production
    from benchmarks.service import SERVERS, running

    put_into_production("logistic", home)
    more = {"MLOPS_WORKERS": str(-(-n // CONNECTIONS_OF_WORKER)), "MLOPS_ACCESS_LOG": "false"}
    more["MLOPS_ARRIVAL_SECONDS"] = "600"  # on a busy machine a request may take long to arrive
    with running(SERVERS["ours"], home, _BODY.decode(), **more) as (port, server):
        workers = psutil.Process(server.pid).children()
        clients = list[socket.socket]()
        while len(clients) < n:  # a few at a time: the system keeps so many that no worker has accepted, and no more
            some = [socket.create_connection(("127.0.0.1", port)) for _ in range(min(100, n - len(clients)))]
            _ask(some, len(some))
            clients += some
        before = sum(sum(worker.cpu_times()[:2]) for worker in workers)
        _ask(clients, _REQUESTS)
        used = sum(sum(worker.cpu_times()[:2]) for worker in workers) - before
        yield f"CPU of the workers for {_REQUESTS:,} requests", lambda: used
        yield "memory of a worker, MiB", lambda: workers[0].memory_info().rss / 2**20
        for client in clients:
            client.close()


_REQUESTS = 10_000
CONNECTIONS_OF_WORKER = 500  # half of what it takes at most (`worker_connections` of Gunicorn)
_BODY = json.dumps({"features": [[0.0] * 20]}).encode()
_REQUEST = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)


def _ask(clients: list[socket.socket], requests: int, at_once: int = 8):
    """Send requests on all connections in turn, a few at a time."""
    idle, waiting = deque(clients), selectors.DefaultSelector()
    sent = answered = 0
    while answered < requests:
        while idle and sent < requests and sent - answered < at_once:
            client = idle.popleft()
            client.sendall(_REQUEST % (len(_BODY), _BODY))
            waiting.register(client, selectors.EVENT_READ)
            sent += 1
        for key, _ in waiting.select(timeout=30):
            _expect(int(key.fileobj.recv(65_536)[9:12]))
            waiting.unregister(key.fileobj)
            idle.append(key.fileobj)
            answered += 1


def _expect(status: int):
    if status != 200:
        raise SystemExit(f"The service responded with {status}.")


def _command(words: list[str], home: Path):
    """Run `mlops-nb` in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    code = f"from mlops_nb.cli.main import main; main({words!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mlops-nb {' '.join(words)} failed:\n{done.stderr[-2000:]}")


AXES = {
    "rows": of_rows,
    "columns": of_columns,
    "versions": of_versions,
    "logged rows": of_logged_rows,
    "models": of_models,
    "connections": of_connections,
}


def measure_one(axis: str, n: int):
    """Print the figures of one size as JSON: CPU seconds of each task, and the peak memory of the process in MiB."""
    figures: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        for what, task in AXES[axis](n, Path(folder)):
            before = _cpu_seconds()
            given = task()
            figures[what] = float(given) if isinstance(given, float) else _cpu_seconds() - before
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(json.dumps(figures | {"peak memory, MiB": peak}))


def _cpu_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measure(axes: list[str], most: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures of all axes: of those that are named anew, of the others as they were."""
    for axis in axes:
        for n in (size for size in SIZES[axis] if size <= most):
            command = [sys.executable, "-m", "benchmarks.growth", "--one", axis, str(n)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            begin = time.monotonic()
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{axis} {n:,} failed:\n{done.stderr[-2000:]}")
            found = _read()  # another process may have measured meanwhile
            found.setdefault(axis, {})[str(n)] = json.loads(done.stdout.splitlines()[-1])
            print(f"{axis} {n:,}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return _read()


def _read() -> dict[str, dict[str, dict[str, float]]]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def page(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return docs/growth.md."""
    return "\n".join([_HEAD, *(part for axis in SIZES if axis in found for part in _section(axis, found[axis])), _TAIL])


def _section(axis: str, figures: dict[str, dict[str, float]]) -> list[str]:
    """Return the table of one axis: a column a size, then how the cost of the largest grew."""
    sizes = sorted(map(int, figures))
    further = FURTHER.get(axis)
    heads = [f"{n:,}" for n in sizes] + ([f"{further:,} (on paper)"] if further else []) + ["power"]
    lines = [
        f"## {axis.capitalize()}",
        "",
        AXES[axis].__doc__ or "",
        "",
        f"| | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
    ]
    for what in figures[str(sizes[-1])]:
        values = [figures[str(n)].get(what) for n in sizes]
        power = _power(sizes, values)
        paper = [] if further is None else [_on_paper(values[-1], power, further / sizes[-1])]
        lines.append(f"| {' | '.join([what, *map(_shown, values), *paper, _shown_power(power)])} |")
    missing = [n for n in SIZES[axis] if n not in sizes]
    note = [f"Not measured: {', '.join(f'{n:,}' for n in missing)}.", ""] if missing else []
    return [*lines, "", *note]


def _power(sizes: list[int], values: list[float | None]) -> float | None:
    """Return the power of the size with which a cost grew between the two largest sizes; None below 10 ms."""
    if len(sizes) < 2 or not values[-2] or not values[-1] or values[-1] < 0.01:
        return None
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def _on_paper(value: float | None, power: float | None, factor: float) -> str:
    return "-" if value is None else _shown(value * factor ** max(power or 0.0, 0.0))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _shown_power(power: float | None) -> str:
    return "-" if power is None else f"{power:.1f}"


_HEAD = """\
# Growth

What a thing costs as its size grows. Made by `python -m benchmarks.growth`, which measures and writes this page. The
machine had two cores and much other work, so figures are CPU seconds and the peak memory of the process, not times on
a clock.
`power` is the power of the size with which the cost grew between the two largest sizes: 1 is proportional, 0 is
independent, more than 1 is worse than proportional. A cost below 10 ms has none.
"""
_TAIL = """\
## Dask workers

Measured with one and two ([scaling.md](scaling.md#speed)): two are 1.76 times as fast on a batch job and 1.77 times on
a search. More on paper: a chunk or a fit is a task of its own, which costs the scheduler up to about a millisecond by
[Dask's documentation](https://docs.dask.org/en/stable/best-practices.html). So with chunks of a second of work, a
hundred workers keep it a tenth busy; a source that one process reads, or a database that takes the rows, is the limit.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("axes", nargs="*", help=f"of {', '.join(SIZES)}; all by default")
    parser.add_argument("--most", type=int, default=10**9, help="largest size that is measured")
    parser.add_argument("--one", nargs=2, metavar=("AXIS", "SIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--page", action="store_true", help="only write the page, of the figures that there are")
    given = parser.parse_args()
    if given.one:
        return measure_one(given.one[0], int(given.one[1]))
    if unknown := [axis for axis in given.axes if axis not in SIZES]:
        parser.error(f"There is no axis {unknown[0]!r}; there are {', '.join(SIZES)}.")
    found = measure([] if given.page else given.axes or [*SIZES], given.most)
    PAGE.write_text(page(found))
    return None


if __name__ == "__main__":
    main()
