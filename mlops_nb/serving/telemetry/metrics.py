"""GET /metrics: counters, gauges and histograms for Prometheus, summed over all workers."""

import os
import threading
import time
from collections import Counter as Counts
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from flask import Blueprint, current_app, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector
from werkzeug import Response as WerkzeugResponse

from mlops_nb.errors import BundleError
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Predictions, label_text
from mlops_nb.spec import ALARM
from mlops_nb.serving.http.periodic import PeriodicThread
from mlops_nb.serving.http.probes import HEALTH_ROUTES
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.telemetry.prediction_logger import PredictionLogger
from mlops_nb.serving.telemetry.request_record import RequestRecord

routes = Blueprint("metrics", __name__)

MANY_ROWS = 32  # of a request, beyond which sorting its labels is quicker than an object for each
COUNT_SECONDS = 0.5  # between two additions of what was recorded
_LOG_COUNTERS = {  # attributes of `mlops_nb.serving.telemetry.prediction_logger.PredictionLogger`
    "dropped": "Requests that could not be recorded, and got no ids",
    "dead_letters": "Lines that no database takes, put aside",
    "unmatched": "Labels given up, because no prediction has their id",
}
_DURATION_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)  # rows; a request of more than half of the last is predicted alone


@routes.get("/metrics")
def metrics() -> WerkzeugResponse:
    """Return Prometheus' text or OpenMetrics, compressed or not, as the client accepts."""
    app = make_wsgi_app(current_app.extensions["metrics"].collect())
    # its application takes no HEAD; Werkzeug sends no body for one
    return WerkzeugResponse.from_app(app, {**request.environ, "REQUEST_METHOD": "GET"}, buffered=True)


class Metrics:
    """The metrics of one worker, which are added to those of the others when they are scraped.

    With `PROMETHEUS_MULTIPROC_DIR` in the environment, which the service's Gunicorn configuration sets, workers write
    their values to files there, and any of them responds for all; without it an application responds for itself. Other
    modules add their metrics with `registry=metrics.registry`. What does not depend on a worker, such as the length of a
    queue on disk, is a collector in `metrics.collectors`, which each scrape asks.

    A value in such a file costs 2 µs, and a request has five: so requests are recorded, and counted twice a second.
    """

    def __init__(
        self,
        by_model: bool = False,  # whether each metric of a model's requests has the label `model`
    ):
        self.by_model = by_model
        self.registry = CollectorRegistry()
        self.collectors: list = []
        self.health_routes = set(HEALTH_ROUTES)  # counted apart; a project adds its own
        self.in_progress: set[int] = set()  # a number for each request without a response
        self.after_count: Callable = lambda _: None  # given the new requests by model, route and status
        # of the prediction log; asked here, because the thread that ships waits while the database hangs
        self.backlog: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        self._pending: deque[RequestRecord] = deque()
        self._values_of: dict[tuple, _Histogram] = {}  # by the labels of a version
        # model and role to version and identity of the predictor
        self._served_before: dict[str, dict[str, tuple[int | None, int]]] = {}
        self._seen = dict.fromkeys(["errors", *_LOG_COUNTERS], 0)  # values of the log's counters
        self._lock = threading.Lock()
        self._thread = PeriodicThread("metrics", self._count_pending)
        self._make_request_metrics()
        self._make_model_metrics()
        self._make_log_metrics()

    def _make_request_metrics(self):
        own: dict[str, Any] = {"registry": self.registry}
        of_model = ["model"] if self.by_model else []
        what = "Requests without a response yet"
        self._in_progress = Gauge("mlops_requests_in_progress", what, **own, multiprocess_mode="livesum")
        self._requests = Counter("mlops_requests", "Requests with a response", ["route", "status", *of_model], **own)
        what = "Requests of health routes, which no other metric of requests counts"
        self._probes = Counter("mlops_health_requests", what, ["route", "status", *of_model], **own)
        what = "Seconds from a request to its response"
        name = "mlops_request_duration_seconds"
        self._seconds = _Histogram(name, what, ["route", *of_model], buckets=_DURATION_BUCKETS, **own)
        what = "Rows predicted, by class if there are classes"
        self._rows = Counter("mlops_predictions", what, ["version", "class", *of_model], **own)
        self._values = _Histogram("mlops_predicted_value", "Predicted values", ["version", *of_model], **own)

    def _make_model_metrics(self):
        live: dict[str, Any] = {"registry": self.registry, "multiprocess_mode": "livemax"}
        labels = ["model", "version", "role"]
        self._served = Gauge("mlops_model_info", "1 for a version that is served, 0 for one that was", labels, **live)
        what = "Rows of a call that requests may share, see batching in GET /model"
        of_version = ["version", *(["model"] if self.by_model else [])]
        self._batches = _Histogram("mlops_batch_rows", what, of_version, registry=self.registry, buckets=_BATCH_BUCKETS)
        what = "When a version was last loaded"
        self._loaded = Gauge("mlops_model_loaded_timestamp_seconds", what, labels, **live)

    def _make_log_metrics(self):
        own: dict[str, Any] = {"registry": self.registry}
        self._errors = Counter("mlops_database_errors", "Errors of the database", **own)
        self._log = {name: Counter(f"mlops_log_{name}", what, **own) for name, what in _LOG_COUNTERS.items()}
        own["multiprocess_mode"] = "livesum"
        self._spool_bytes = Gauge("mlops_spool_bytes", "Predictions and labels that wait for the database", **own)
        self._spool_age = Gauge("mlops_spool_age_seconds", "How long the oldest of them have waited", **own)

    def start(self):
        """Begin to count by itself, not only when scraped."""
        self._thread.start()

    def stop(self):
        """Count the remaining requests."""
        self._thread.stop()
        self.count()

    def _count_pending(self) -> float:
        self.count()
        return COUNT_SECONDS

    def collect(self) -> CollectorRegistry:
        """Return the metrics of all workers, for one scrape."""
        self.count()
        collected = CollectorRegistry()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            MultiProcessCollector(collected)
        else:
            collected.register(self.registry)
        for collector in self.collectors:
            collected.register(collector)
        return collected

    def requests(self) -> list[tuple[str, str, int]]:
        """Return (route, status, number of requests) of all workers, health routes among them."""
        return [row for rows in self.requests_by_model().values() for row in rows]

    def requests_by_model(self) -> dict[str, list[tuple[str, str, int]]]:
        """Return (route, status, number of requests) of all workers by model, health routes among them.

        The requests of no model are under an empty name; those of a service with one model, too.
        """
        names = {"mlops_requests_total", "mlops_health_requests_total"}
        found: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
        for sample in (s for family in self.collect().collect() for s in family.samples if s.name in names):
            labels = sample.labels
            found[labels.get("model", "")].append((labels["route"], labels["status"], int(sample.value)))
        return found

    def record(self, record: RequestRecord):
        """Record a request that has its response, to be counted later."""
        self._pending.append(record)

    def count(self):
        """Count the recorded requests, and measure what waits for the database."""
        with self._lock:
            pending = [self._pending.popleft() for _ in range(len(self._pending))]
            self._count_requests(pending)
            self._count_predictions(pending)
            self._in_progress.set(len(self.in_progress))
            size, age = self.backlog()
            self._spool_bytes.set(size)
            self._spool_age.set(age)

    def _count_requests(self, pending: list[RequestRecord]):
        requests: dict[str, Counts[tuple[str, str]]] = defaultdict(Counts)
        durations: dict[tuple, list[float]] = defaultdict(list)
        for record in pending:
            route, model = record.route or "none", record.model or ""
            requests[model][route, record.status] += 1
            if route not in self.health_routes:
                durations[route, *self._label_of(model)].append(record.seconds)
        for model, by_route in requests.items():
            for (route, status), n in by_route.items():
                counter = self._probes if route in self.health_routes else self._requests
                counter.labels(route, status, *self._label_of(model)).inc(n)
        self.after_count({model: by_route for model, by_route in requests.items() if model})
        for labels, seconds in durations.items():
            self._seconds.labels(*labels).observe_all(seconds)

    def _label_of(self, model: str) -> tuple[str, ...]:
        return (model,) if self.by_model else ()

    def _count_predictions(self, pending: list[RequestRecord]):
        rows: Counts[tuple] = Counts()
        values: dict[tuple, tuple[Predictor, list]] = {}
        for result in (record.result for record in pending if record.result is not None):
            predictor, predictions = result.predictor, result.predictions
            model = (predictor.name,) if self.by_model else ()
            for label, n in _count_rows(predictions):
                rows[predictor.version, label, *model] += n
            if predictions.outputs is None and predictions.classes is None:
                of_version = values.setdefault((predictor.version, *model), (predictor, []))
                of_version[1].extend(predictions.prediction.tolist())
        for labels, n in rows.items():
            self._rows.labels(*labels).inc(n)
        for labels, (predictor, predicted) in values.items():
            self._histogram_of(labels, predictor).observe_all(predicted)

    def _histogram_of(self, labels: tuple, predictor: Predictor) -> "_Histogram":
        """Return the histogram of a version's values; its buckets come from the bundle, the same in all workers."""
        if labels not in self._values_of:
            self._values_of[labels] = self._values.of(labels, _bounds(predictor))
        return self._values_of[labels]

    def update_gauges(self, live: LiveModel):
        """Update which versions are served, and count the rows of shared calls, after the registry was read."""
        state = live.state
        self._count_batches(live.name, [live.batches.popleft() for _ in range(len(live.batches))])
        if state.problem and (not self.by_model or live.is_awake):
            self._errors.inc()
        served = {role: (predictor.version, id(predictor)) for role, predictor in state.predictors.items()}
        served_before = self._served_before.get(live.name, {})
        for role in served.keys() | served_before.keys():
            before, now = served_before.get(role), served.get(role)
            if before == now:
                continue
            if before is not None:
                self._served.labels(live.name, before[0], role).set(0)
            if now is not None:
                self._served.labels(live.name, now[0], role).set(1)
                self._loaded.labels(live.name, now[0], role).set(time.time())
        self._served_before[live.name] = served

    def _count_batches(self, model: str, batches: list[tuple[int | None, int]]):
        rows: dict[int | None, list[float]] = defaultdict(list)
        for version, n_rows in batches:
            rows[version].append(n_rows)
        for version, observed in rows.items():
            self._batches.labels(version, *self._label_of(model)).observe_all(observed)

    def update_log_metrics(self, log: PredictionLogger):
        """Update the metrics of the prediction log, after its spool was maintained."""
        counters = {"errors": self._errors, **self._log}
        for name, before in self._seen.items():
            counters[name].inc(getattr(log, name) - before)
            self._seen[name] = getattr(log, name)


def _count_rows(predictions: Predictions) -> Iterator[tuple[str, int]]:
    """Yield what rows are counted under, and their number.

    That is their class, "<output>: <class>" of several outputs, the name of an output of numbers, or the alarm.
    """
    for name, part in predictions.parts.items():
        prefix = f"{name}: " if name else ""
        if part.anomaly is not None:
            yield from ((ALARM if flag else "normal", n) for flag, n in _count_labels(part.anomaly).items())
        elif part.classes is None:
            yield name, len(part.prediction)
        else:
            yield from ((prefix + label_text(label), n) for label, n in _count_labels(part.prediction).items())


def _count_labels(labels: np.ndarray) -> dict:
    """Return each label and its number; of many whole numbers without an object for each."""
    if labels.dtype.kind in "biu" and len(labels) > MANY_ROWS:
        found, counts = np.unique(labels, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))
    return Counts(labels.tolist())


class _Histogram(Histogram):
    """A histogram that observes many values at a time, with buckets of its own for each version."""

    def of(self, labels: tuple, bounds: list[float]) -> "_Histogram":
        """Return the histogram of new labels, with its upper bounds."""
        self._kwargs["buckets"] = bounds
        return self.labels(*labels)

    def observe_all(self, observed: list[float]):
        """Observe the finite values."""
        values = np.array(observed, dtype=np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            self._sum.inc(float(values.sum()))
            places, counts = np.unique(np.searchsorted(self._upper_bounds, values), return_counts=True)
            for place, n in zip(places.tolist(), counts.tolist(), strict=True):
                self._buckets[place].inc(n)


def _bounds(predictor: Predictor) -> list[float]:
    """Return the deciles of the reference data."""
    try:
        edges = predictor.bundle.profile()["output"].get("edges", ())
    except BundleError:  # it was there when the model was loaded; what is served is in memory
        edges = ()
    return sorted({float(f"{edge:.4g}") for edge in edges}) or [0.0]
