"""GET /metrics: what Prometheus asks for, as one over all workers."""

import collections
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from flask import Blueprint, Response, current_app, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from mlops_nb.model.predictor import Predictor
from mlops_nb.serving.http.periodic import PeriodicThread
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.telemetry.prediction_logger import PredictionLogger
from mlops_nb.serving.inference.infer import InferenceResult

routes = Blueprint("metrics", __name__)

_LOG = {  # Facts of `mlops_nb.serving.telemetry.prediction_logger.Log`
    "lost": "Requests that could not be recorded, and got no ids",
    "refused": "Lines that no database takes, put aside",
    "unmatched": "Labels given up, because no prediction has their id",
}
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@routes.get("/metrics")
def metrics() -> Response:
    """Prometheus' text or OpenMetrics, compressed or not, as the client asks."""
    answer = make_wsgi_app(current_app.extensions["metrics"].shown())
    return Response.from_app(answer, request.environ, buffered=True)


class Metrics:
    """What one worker counts.

    With `PROMETHEUS_MULTIPROC_DIR` in the environment, which serve/gunicorn.conf.py sets, workers write their values to
    files there, and whichever is asked answers for all; without it an application answers for itself. Other modules add
    their metrics with `registry=metrics.registry`. What is the same whoever looks, such as the length of a queue on
    disk, is a collector in `metrics.collectors`, which each scrape asks.

    A value in such a file costs 2 µs, and a request has five: so they are only noted, and counted twice a second.
    """

    def __init__(self):
        own = {"registry": CollectorRegistry()}
        self.registry, self.collectors = own["registry"], []
        self.in_progress = set()  # Whatever stands for a request that is being answered
        live = own | {"multiprocess_mode": "livesum"}
        self._in_progress = Gauge("mlops_requests_in_progress", "Requests that are being answered", **live)
        self._requests = Counter("mlops_requests", "Requests answered", ["route", "status"], **own)
        what = "Seconds from a request to its answer"
        self._seconds = _Histogram("mlops_request_duration_seconds", what, ["route"], buckets=_SECONDS, **own)
        what = "Rows predicted, by class if there are classes"
        self._rows = Counter("mlops_predictions", what, ["version", "class"], **own)
        self._values = _Histogram("mlops_predicted_value", "Predicted values", ["version"], **own)
        self._values_of = {}  # By version
        live = own | {"multiprocess_mode": "livemax"}
        of = ["model", "version", "role"]
        self._served = Gauge("mlops_model_info", "1 for a version that answers, 0 for one that did", of, **live)
        self._loaded = Gauge("mlops_model_loaded_timestamp_seconds", "When a version was last loaded", of, **live)
        self._errors = Counter("mlops_database_errors", "Times that the database did not answer", **own)
        self._log = {fact: Counter(f"mlops_log_{fact}", what, **own) for fact, what in _LOG.items()}
        self._seen = dict.fromkeys(["errors", *_LOG], 0)  # Of the log
        live = own | {"multiprocess_mode": "livesum"}
        self._spool_bytes = Gauge("mlops_spool_bytes", "Predictions and labels that wait for the database", **live)
        self._spool_age = Gauge("mlops_spool_age_seconds", "How long the oldest of them have waited", **live)
        self.after_count: Callable = lambda requests: None  # Told how many there were, by route and status
        self._answering = {}  # Role to version, and which object it is
        self._noted = collections.deque()
        self._lock = threading.Lock()
        self._routine = PeriodicThread("metrics", self._keep_counting)

    def start(self):
        """Count by itself from now on, and not only when asked."""
        self._routine.start()

    def stop(self):
        """Count what is left."""
        self._routine.stop()
        self.count()

    def _keep_counting(self) -> float:
        self.count()
        return 0.5

    def shown(self) -> CollectorRegistry:
        """What a scrape is answered with."""
        self.count()
        shown = CollectorRegistry()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            MultiProcessCollector(shown)
        else:
            shown.register(self.registry)
        for collector in self.collectors:
            shown.register(collector)
        return shown

    def requests(self) -> list[tuple[str, str, int]]:
        """Route, status and how many requests, of all workers."""
        families = (family for family in self.shown().collect() if family.name == "mlops_requests")
        samples = (s for family in families for s in family.samples if s.name == "mlops_requests_total")
        return [(s.labels["route"], s.labels["status"], int(s.value)) for s in samples]

    def note(self, route: str, status: str, seconds: float, said: InferenceResult | None = None):
        """Take down an answered request, and what the model said to it."""
        self._noted.append((route, status, seconds, said))

    def count(self):
        """Count what was taken down."""
        with self._lock:
            noted = [self._noted.popleft() for _ in range(len(self._noted))]
            requests, durations, rows, values = collections.Counter(), defaultdict(list), collections.Counter(), {}
            for route, status, seconds, said in noted:
                requests[route, status] += 1
                durations[route].append(seconds)
                if said is not None:
                    version, prediction = said.predictor.version, said.predictions.prediction.tolist()
                    if said.predictor.signature.classes is None:
                        values.setdefault(version, (said.predictor, []))[1].extend(prediction)
                        rows[version, ""] += len(prediction)
                    else:
                        rows.update((version, label) for label in prediction)
            for labels, n in requests.items():
                self._requests.labels(*labels).inc(n)
            self.after_count(requests)
            for route, seconds in durations.items():
                self._seconds.labels(route).observe_all(seconds)
            for labels, n in rows.items():
                self._rows.labels(*labels).inc(n)
            for predictor, predicted in values.values():
                self._histogram_of(predictor).observe_all(predicted)
            self._in_progress.set(len(self.in_progress))

    def _histogram_of(self, predictor: Predictor) -> "_Histogram":
        """The values of a version, which says where its buckets end: all workers must say the same."""
        if predictor.version not in self._values_of:
            self._values_of[predictor.version] = self._values.of(predictor.version, _bounds(predictor))
        return self._values_of[predictor.version]

    def look(self, live: LiveModel):
        """Take down what answers, after the registry was asked."""
        state = live.state
        if state.problem:
            self._errors.inc()
        answering = {role: (predictor.version, id(predictor)) for role, predictor in state.predictors.items()}
        for role in answering.keys() | self._answering.keys():
            before, now = self._answering.get(role), answering.get(role)
            if before == now:
                continue
            if before is not None:
                self._served.labels(live.name, before[0], role).set(0)
            if now is not None:
                self._served.labels(live.name, now[0], role).set(1)
                self._loaded.labels(live.name, now[0], role).set(time.time())
        self._answering = answering

    def look_at_log(self, log: PredictionLogger):
        """Take down how the prediction log does, after it was tended."""
        counters = {"errors": self._errors, **self._log}
        for fact, before in self._seen.items():
            counters[fact].inc(getattr(log, fact) - before)
            self._seen[fact] = getattr(log, fact)
        size, age = log.backlog()
        self._spool_bytes.set(size)
        self._spool_age.set(age)


class _Histogram(Histogram):
    """A histogram that takes many values at a time, and has buckets of its own for each label."""

    def of(self, label: int, bounds: list[float]) -> "_Histogram":
        """The histogram of a label that is new."""
        self._kwargs["buckets"] = bounds
        return self.labels(label)

    def observe_all(self, values: list[float]):
        """Observe the finite values."""
        values = np.array(values, dtype=np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            self._sum.inc(float(values.sum()))
            places, counts = np.unique(np.searchsorted(self._upper_bounds, values), return_counts=True)
            for place, n in zip(places.tolist(), counts.tolist(), strict=True):
                self._buckets[place].inc(n)


def _bounds(predictor: Predictor) -> list[float]:
    """Where the deciles of the reference data end."""
    try:
        profile = json.loads((predictor.bundle.path / "profile.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it was there when the model was loaded; what is served is in memory
        profile = {}
    return sorted({float(f"{edge:.4g}") for edge in profile.get("output", {}).get("edges", ())}) or [0.0]
