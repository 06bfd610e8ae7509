"""What the dashboard shows: asked of the database rarely, however many look at it, and never for long."""

import bisect
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from mlops_nb.store.artifacts import open_artifacts
from mlops_nb.store.database import connect
from mlops_nb.errors import MlopsError
from mlops_nb.monitor.timeseries import TimeBuckets, recent_decisions, latest_health, prediction_series, quality, version_overview, traffic
from mlops_nb.store.registry import Registry
from mlops_nb.settings import Settings
from mlops_nb.serving.http.periodic import PeriodicThread

FRESH_SECONDS = 1.0  # Seconds that an answer of the database is good for; ten times as long as it took, if that is more
STATEMENT_TIMEOUT_SECONDS = 5  # Seconds that PostgreSQL may take for a question, and 3 for a connection


class DashboardQueries:
    """The figures of one model over the last hours."""

    def __init__(self, settings: Settings, name: str):
        self.settings, self.name = settings, name
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._kept: dict[float, tuple[float, dict | None, str | None]] = {}  # By hours: until when, figures, problem

    @property
    def registry(self) -> Registry:
        """The versions; nothing is asked yet."""
        if self._engine is None:
            self._engine = _connect(self.settings.database_url)
        return Registry(self._engine, open_artifacts(self.settings))

    def close(self):
        """Let the connections go."""
        if self._engine is not None:
            self._engine.dispose()

    def forget(self):
        """Ask anew the next time: something was changed."""
        self._kept = {hours: (0.0, *rest) for hours, (_, *rest) in self._kept.items()}

    def look(self, hours: float) -> tuple[dict | None, str | None]:
        """The figures, and why the database could not be asked; then the figures are the last there were, or None."""
        if (kept := self._fresh(hours)) is not None:
            return kept
        if not self._lock.acquire(blocking=hours not in self._kept):  # somebody asks already; the last will do
            return self._kept[hours][1:]
        try:
            return self._fresh(hours) or self._ask(hours)
        finally:
            self._lock.release()

    def _fresh(self, hours: float) -> tuple[dict | None, str | None] | None:
        until, figures, problem = self._kept.get(hours, (0.0, None, None))
        return (figures, problem) if time.monotonic() < until else None

    def _ask(self, hours: float) -> tuple[dict | None, str | None]:
        began, problem = time.monotonic(), None
        try:
            figures = self._read(TimeBuckets(hours))
        except (SQLAlchemyError, OSError, MlopsError) as e:
            _, figures, _ = self._kept.get(hours, (0.0, None, None))
            problem = f"The database does not answer ({type(e).__name__})."
        now = time.monotonic()
        self._kept[hours] = (now + max(FRESH_SECONDS, 10 * (now - began)), figures, problem)
        return figures, problem

    def _read(self, span: TimeBuckets) -> dict:
        registry, name = self.registry, self.name
        engine, found = registry.engine, version_overview(registry, name)
        manifest = found.pop("manifest")
        task = manifest["signature"]["task"] if manifest else "classification"
        health, alerts = latest_health(engine, name)
        return {
            "asked_at": datetime.now(UTC),
            **found,
            "created_at": next((v["created_at"] for v in found["versions"] if v["version"] == found["current"]), None),
            "traffic": traffic(engine, name, span),
            "predictions": prediction_series(engine, name, span, task),
            "quality": quality(engine, name, span, manifest) if manifest else {"labels": 0, "metrics": []},
            "health": health,
            "alerts": alerts,
            "decisions": recent_decisions(engine, name),
        }


def _connect(url: str) -> Engine:
    """An engine that gives up soon; nothing is opened yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return connect(url)
    if "connect_timeout" not in parsed.query:
        parsed = parsed.update_query_dict({"connect_timeout": "3"})
    engine = connect(parsed.render_as_string(hide_password=False))
    sa.event.listen(engine, "connect", _hurry)
    return engine


def _hurry(connection, _):
    connection.autocommit = True
    connection.cursor().execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'")
    connection.autocommit = False


class ErrorHistory:
    """How many requests failed, minute by minute since this worker started, of all workers."""

    def __init__(self, requests: Callable):
        self._requests = requests  # See `mlops_nb.serving.telemetry.metrics.Metrics.requests`
        self._minutes: list[int] = []  # Beginnings, seconds since 1970
        self._totals: list[tuple[int, int]] = []  # 4xx and 5xx, as the minute began
        self._lock = threading.Lock()
        self._routine = PeriodicThread("failures", self._keep)

    def start(self):
        """Note the counts each minute."""
        self._routine.start()

    def stop(self):
        """Note no more."""
        self._routine.stop()

    def _keep(self) -> float:
        self.count()
        return 60 - time.time() % 60

    def count(self) -> tuple[list[dict], tuple[int, int]]:
        """Requests by route and status until now, without the dashboard's own, and how many were 4xx and 5xx."""
        rows = [row for row in self._requests() if row[0] != "/" and not row[0].startswith("/dashboard/")]
        totals = tuple(sum(n for _, status, n in rows if status[0] == kind) for kind in "45")
        minute = int(time.time()) // 60 * 60
        with self._lock:
            if not self._minutes or self._minutes[-1] < minute:
                self._minutes.append(minute)
                self._totals.append(totals)
            del self._minutes[:-_MAX_MINUTES], self._totals[:-_MAX_MINUTES]
        by_route = {}
        for route, status, n in rows:
            by_route.setdefault(route, {})[status] = n
        routes = [{"route": r, "requests": sum(s.values()), "statuses": s} for r, s in by_route.items()]
        return sorted(routes, key=lambda r: -r["requests"]), totals

    def over(self, span: TimeBuckets) -> dict:
        """4xx and 5xx a bucket; None where nobody counted."""
        routes, now = self.count()
        ends = [*span.starts[1:], span.starts[-1] + span.seconds]
        with self._lock:
            pairs = [(self._at(start, now), self._at(end, now)) for start, end in zip(span.starts, ends, strict=True)]
            counted = [end > self._minutes[0] for end in ends]
        client, server = (
            [after[i] - before[i] if seen else None for seen, (before, after) in zip(counted, pairs, strict=True)]
            for i in range(2)
        )
        return {"at": span.starts, "client": client, "server": server, "routes": routes}

    def _at(self, second: int, now: tuple[int, int]) -> tuple[int, int]:
        """The counts as a minute began, or as counting did."""
        place = bisect.bisect_left(self._minutes, second)
        return now if place == len(self._minutes) else self._totals[place]


_MAX_MINUTES = 7 * 24 * 60 + 1  # Minutes that are kept
