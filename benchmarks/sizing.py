"""What one worker does, and what its log weighs: the figures that docs/operations.md counts with."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import sqlalchemy as sa

from benchmarks.measure import median
from benchmarks.models import LIMITS, put_into_production
from benchmarks.service import SERVERS, load, row, running, sent, write_requests
from mlops_nb.monitor.prediction_log import PredictionLog, PredictionRecord
from mlops_nb.store.database import open_database

POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/test"
ENTRIES = 500  # In one transaction: 20 columns in 256 KiB of the spool


def measure(rounds: int = 10) -> Iterator[dict]:
    for kind in LIMITS:
        with TemporaryDirectory() as folder:
            put_into_production(kind, Path(folder))
            yield from one_worker(kind, Path(folder), rounds)
    with TemporaryDirectory() as folder:
        yield from log_of("SQLite", f"sqlite:///{folder}/log.db")
    with schema() as url:
        yield from log_of("PostgreSQL", url)


def one_worker(kind: str, home: Path, rounds: int) -> Iterator[dict]:
    """One-row requests on 8 connections, all of them logged into SQLite: how many, and what they cost a worker."""
    body = write_requests(home / "post.lua", [{"features": [row]} for row in sent(home)], is_traced=True)
    with running(SERVERS["ours"], home, body, MLOPS_WORKERS="1") as (port, server):
        load(port, home)
        worker = psutil.Process(server.pid).children()[0]
        before = worker.cpu_times()
        turns = [load(port, home) for _ in range(rounds)]
        after = worker.cpu_times()
        memory, shared = worker.memory_full_info().uss / 2**20, worker.memory_info().rss / 2**20
    rate, p50, p99 = (median([turn[i] for turn in turns]) for i in range(3))
    yield row(f"{kind}, one worker", rate, "requests/s", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", None)
    cpu = after.user + after.system - before.user - before.system  # It holds whatever else the machine does
    yield row(f"{kind}, its CPU a request", cpu / sum(turn[0] for turn in turns) * 1e6, "us", "shipping included", None)
    yield row(f"{kind}, its memory", memory, "MiB", f"resident {shared:.0f}", None)


def log_of(kind: str, url: str, transactions: int = 40) -> Iterator[dict]:
    """Rows of 20 numbers a second into the log by one connection, as it is shipped; what a row takes there."""
    engine, rng = open_database(url), np.random.default_rng(0)
    log, names, took = PredictionLog(engine), [f"x{i}" for i in range(20)], []
    for _ in range(transactions):
        entries = [
            PredictionRecord(
                uuid.uuid4().hex, time.time(), "bench", 1, "production", 0.3, names, [r], [1], [[0.2, 0.8]]
            )
            for r in rng.normal(size=(ENTRIES, 20)).round(4).tolist()
        ]
        start = time.perf_counter()
        log.add(entries)
        took.append(time.perf_counter() - start)
    with engine.connect() as connection:
        size = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        if kind == "PostgreSQL":
            size = "SELECT pg_total_relation_size('predictions')"
        stored = connection.execute(sa.text(size)).scalar() / (ENTRIES * transactions)
    engine.dispose()
    yield row(f"log into {kind}", ENTRIES / median(took), "rows/s", f"{stored:,.0f} bytes a row", None)


@contextmanager
def schema() -> Iterator[str]:
    """A schema of its own in the database that the tests use."""
    name, engine = f"b{uuid.uuid4().hex[:12]}", sa.create_engine(POSTGRES)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(name))
    try:
        yield f"{POSTGRES}?options=-csearch_path%3D{name}"
    finally:
        with engine.begin() as connection:
            connection.execute(sa.schema.DropSchema(name, cascade=True))
        engine.dispose()
