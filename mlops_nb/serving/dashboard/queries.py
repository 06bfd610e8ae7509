"""The figures of the dashboard: read from the database rarely, whatever the number of viewers, and with a timeout."""

import bisect
import threading
import time
from collections.abc import Callable, Set
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from mlops_nb.store.artifacts import open_artifacts
from mlops_nb.store.database import connect, reading
from mlops_nb.errors import MlopsError
from mlops_nb.monitor.time_buckets import TimeBuckets
from mlops_nb.store.registry import Registry
from mlops_nb.store.schema import alerts, health
from mlops_nb.settings import Settings
from mlops_nb.serving.http.periodic import PeriodicThread
from mlops_nb.serving.http.probes import HEALTH_ROUTES

FRESH_SECONDS = 1.0  # that figures are cached; longer where they took more than a tenth of it to read
STATEMENT_TIMEOUT_SECONDS = 5  # of PostgreSQL
CONNECT_TIMEOUT_SECONDS = 3  # of PostgreSQL


class CachedFigures(NamedTuple):
    """Figures of a time range, and why newer ones could not be read."""

    read_at: float  # `time.monotonic()`
    until: float  # when to read them again
    figures: dict | None
    problem: str | None


_NO_QUALITY: dict = {"version": None, "rows": 0, "metrics": []}
_NOTHING = CachedFigures(0.0, 0.0, None, None)


class DashboardQueries:
    """The figures of one model over the last hours."""

    def __init__(self, settings: Settings, name: str):
        self.settings, self.name = settings, name
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._cached: dict[float, CachedFigures] = {}  # by hours

    @property
    def registry(self) -> Registry:
        """The registry of the service's database; nothing is read yet."""
        if self._engine is None:
            self._engine = _connect(self.settings.database_url)
        return Registry(self._engine, open_artifacts(self.settings))

    def close(self):
        """Close the connections."""
        if self._engine is not None:
            self._engine.dispose()

    def invalidate(self):
        """Read anew the next time, because something changed."""
        self._cached = {hours: cached._replace(until=0.0) for hours, cached in self._cached.items()}

    def read(self, hours: float, production: int | None = None) -> CachedFigures:
        """Return the figures of the last hours; where the database is unavailable, the latest ones or None, and why.

        Figures of before a move to `production`, the version that the service knows to be there, are read again.
        """
        if (fresh := self._fresh(hours, production)) is not None:
            return fresh
        if not self._lock.acquire(blocking=hours not in self._cached):  # another thread reads; the latest will do
            return self._cached[hours]
        try:
            return self._fresh(hours, production) or self._refresh(hours)
        finally:
            self._lock.release()

    def _fresh(self, hours: float, production: int | None = None) -> CachedFigures | None:
        cached, now = self._cached.get(hours, _NOTHING), time.monotonic()
        moved = production is not None and cached.figures is not None and cached.figures.get("current") != production
        return cached if now < cached.until and not (moved and now >= cached.read_at + FRESH_SECONDS) else None

    def _refresh(self, hours: float) -> CachedFigures:
        begin, problem = time.monotonic(), None
        figures: dict | None
        try:
            figures = self._query(TimeBuckets(hours))
        except (SQLAlchemyError, OSError, MlopsError) as e:
            figures = self._cached.get(hours, _NOTHING).figures
            problem = f"The database does not answer ({type(e).__name__})."
        now = time.monotonic()
        self._cached[hours] = CachedFigures(now, now + max(FRESH_SECONDS, 10 * (now - begin)), figures, problem)
        return self._cached[hours]

    def _query(self, span: TimeBuckets) -> dict:
        from mlops_nb.monitor.bucket_sample import read_sample
        from mlops_nb.monitor.timeseries import (
            checked_metrics,
            event_marks,
            recent_decisions,
            recent_incidents,
            health_summary,
            prediction_series,
            quality,
            version_overview,
            traffic,
        )

        registry, name = self.registry, self.name
        engine, found = registry.engine, version_overview(registry, name)
        manifest = found.pop("manifest")
        task = manifest["signature"]["task"] if manifest else "classification"
        current = found["current"]
        incidents = recent_incidents(engine, name)
        health, alerts = health_summary(engine, name, current, found["since"])
        if health and manifest:
            health["metrics"] = checked_metrics(health, manifest)
        sample = read_sample(engine, name, span)
        return {
            "asked_at": datetime.now(UTC),
            **found,
            "created_at": next((v["created_at"] for v in found["versions"] if v["version"] == current), None),
            "traffic": traffic(engine, name, span, sample),
            "predictions": prediction_series(engine, name, span, task, sample),
            "quality": quality(engine, name, span, manifest, current) if manifest else _NO_QUALITY,
            "health": health,
            "alerts": alerts,
            "incidents": incidents,
            "marks": event_marks(found["history"], incidents),
            "decisions": recent_decisions(engine, name),
        }


class ModelState(NamedTuple):
    """Open alerts of a model, and its last check."""

    alerts: int
    check: dict | None  # version, at, status


class AlertQueries:
    """The open alerts and the last check of each model."""

    def __init__(self, settings: Settings):
        self._url = settings.database_url
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._until = 0.0  # when to read again, `time.monotonic()`
        self._read: tuple[dict[str, ModelState] | None, str | None] = None, None

    def read(self) -> tuple[dict[str, ModelState] | None, str | None]:
        """Return the states, None where the database is unavailable, and why; those of the last second will do."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._read = self._query()
                self._until = time.monotonic() + FRESH_SECONDS
            return self._read

    def close(self):
        """Close the connections."""
        if self._engine is not None:
            self._engine.dispose()

    def _query(self) -> tuple[dict[str, ModelState] | None, str | None]:
        try:
            if self._engine is None:
                self._engine = _connect(self._url)
            query = (
                sa.select(alerts.c.name, sa.func.count().label("n"))
                .where(alerts.c.closed_at.is_(None))
                .group_by(alerts.c.name)
            )
            newest = sa.select(health.c.name, sa.func.max(health.c.id).label("id")).group_by(health.c.name).subquery()
            checks = sa.select(health.c.name, health.c.version, health.c.at, health.c.status).join(
                newest, health.c.id == newest.c.id
            )
            with reading(self._engine) as connection:
                opened = {row.name: row.n for row in connection.execute(query)}
                checked = {row["name"]: dict(row) for row in connection.execute(checks).mappings()}
            return {n: ModelState(opened.get(n, 0), checked.get(n)) for n in {*opened, *checked}}, None
        except (SQLAlchemyError, OSError, MlopsError) as e:
            return None, f"The database does not answer ({type(e).__name__})."


def _connect(url: str) -> Engine:
    """Return an engine with short timeouts; nothing is opened yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return connect(url)
    if "connect_timeout" not in parsed.query:
        parsed = parsed.update_query_dict({"connect_timeout": str(CONNECT_TIMEOUT_SECONDS)})
    engine = connect(parsed.render_as_string(hide_password=False))
    sa.event.listen(engine, "connect", _set_timeout)
    return engine


def _set_timeout(connection, _):
    connection.autocommit = True
    connection.cursor().execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'")
    connection.autocommit = False


class ErrorHistory:
    """The number of failed requests of all workers, by model and by minute since this worker started."""

    def __init__(self, requests: Callable, health_routes: Set[str] = HEALTH_ROUTES):
        self._requests = requests  # `mlops_nb.serving.telemetry.metrics.Metrics.requests_by_model`
        self._health_routes = health_routes
        self._minutes: list[int] = []  # their beginnings, seconds since 1970
        self._totals: list[dict[str, tuple[int, int]]] = []  # 4xx and 5xx of each model at the beginning of each minute
        self._lock = threading.Lock()
        self._thread = PeriodicThread("failures", self._record)

    def start(self):
        """Start to record the counts each minute."""
        self._thread.start()

    def stop(self):
        """Stop to record the counts."""
        self._thread.stop()

    def _record(self) -> float:
        self.count()
        return 60 - time.time() % 60

    def count(self, model: str = "") -> tuple[list[dict], tuple[int, int], list[dict]]:
        """Return the requests by route and status until now, the numbers of 4xx and 5xx, and the health routes apart.

        The dashboard's own requests are left out. `model` is one of several; without it, requests that are of none, which
        are those of the only model, too.
        """
        found = {name: [row for row in rows if not _is_own(row[0])] for name, rows in self._requests().items()}
        totals = {name: self._errors_in(rows) for name, rows in found.items()}
        minute = int(time.time()) // 60 * 60
        with self._lock:
            if not self._minutes or self._minutes[-1] < minute:
                self._minutes.append(minute)
                self._totals.append(totals)
            del self._minutes[:-_MAX_MINUTES], self._totals[:-_MAX_MINUTES]
        every = found.get(model, [])
        rows = [row for row in every if row[0] not in self._health_routes]
        probes = [row for row in every if row[0] in self._health_routes]
        return _by_route(rows), totals.get(model, (0, 0)), _by_route(probes)

    def _errors_in(self, rows: list[tuple[str, str, int]]) -> tuple[int, int]:
        """Return the numbers of 4xx and 5xx, health routes left out."""
        counted = [(status[0], n) for route, status, n in rows if route not in self._health_routes]
        return sum(n for kind, n in counted if kind == "4"), sum(n for kind, n in counted if kind == "5")

    def over(self, span: TimeBuckets, model: str = "") -> dict:
        """Return the numbers of 4xx and 5xx of a model in each bucket; None where they were not counted."""
        routes, now, probes = self.count(model)
        ends = [*span.starts[1:], span.starts[-1] + span.seconds]
        with self._lock:
            pairs = [
                (self._at(start, now, model), self._at(end, now, model))
                for start, end in zip(span.starts, ends, strict=True)
            ]
            counted = [end > self._minutes[0] for end in ends]
            first = self._minutes[0]
        client, server = (
            [after[i] - before[i] if seen else None for seen, (before, after) in zip(counted, pairs, strict=True)]
            for i in range(2)
        )
        since = datetime.fromtimestamp(first, UTC) if first > span.starts[0] else None
        counts = {"at": span.starts, "client": client, "server": server, "complete_since": since}
        return counts | {"routes": routes, "probes": probes}

    def _at(self, second: int, now: tuple[int, int], model: str) -> tuple[int, int]:
        """Return the counts at the beginning of a minute, or the first ones."""
        place = bisect.bisect_left(self._minutes, second)
        return now if place == len(self._minutes) else self._totals[place].get(model, (0, 0))


def _is_own(route: str) -> bool:
    """Whether a route is of a page for people."""
    return route == "/" or route.startswith(("/dashboard/", "/pipeline", "/docs"))


def _by_route(rows: list[tuple[str, str, int]]) -> list[dict]:
    """Return the routes with their numbers of requests by status, the busiest first."""
    by_route: dict[str, dict[str, int]] = {}
    for route, status, n in rows:
        by_route.setdefault(route, {})[status] = n
    routes = [{"route": r, "requests": sum(s.values()), "statuses": s} for r, s in by_route.items()]
    return sorted(routes, key=lambda r: -r["requests"])


_MAX_MINUTES = 7 * 24 * 60 + 1  # a week of minutes, which are kept
