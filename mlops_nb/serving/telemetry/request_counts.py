"""Counts of the requests of each model, by minute and status, for the database.

A request that fails leaves no prediction, and monitoring reads only the database.
"""

import threading
import time
from collections import Counter
from collections.abc import Mapping

from mlops_nb.monitor.prediction_log import RequestCount
from mlops_nb.serving.http.request_id import make_id
from mlops_nb.serving.telemetry.prediction_logger import PredictionLogger

# routes that predict
INFERENCE_ROUTES = frozenset(
    {
        "/predict",
        "/models/<name>/predict",
        "/invocations",
        "/v1/models/<name>:predict",
        "/v2/models/<name>/infer",
        "/v2/models/<name>/versions/<version>/infer",
    }
)
WRITE_SECONDS = 5.0  # between two records of the counts that grew


class RequestCounters:
    """The counts of all models of one worker."""

    def __init__(self):
        self._by_model: dict[str, RequestCounter] = {}

    def add(self, requests: Mapping[str, Mapping[tuple[str, str], int]]):
        """Add requests by model, and of each by route and status."""
        for model, found in requests.items():
            if model not in self._by_model:
                self._by_model = {**self._by_model, model: RequestCounter(model)}  # another thread writes them
            self._by_model[model].add(found)

    def write(self, log: PredictionLogger):
        """Record the counts that grew in the log."""
        for counter in self._by_model.values():
            counter.write(log)


class RequestCounter:
    """The counts of one model in one worker; the largest count of an id stays, so a count may be recorded any number of times."""

    def __init__(self, name: str):
        self._name, self._worker = name, make_id()
        self._counts: Counter[tuple[int, str]] = Counter()  # by minute and status
        self._grown: set[tuple[int, str]] = set()
        self._lock = threading.Lock()
        self._written = time.monotonic()

    def add(self, requests: Mapping[tuple[str, str], int]):
        """Add requests by route and status."""
        minute = int(time.time()) // 60
        with self._lock:
            for (route, status), n in requests.items():
                if route in INFERENCE_ROUTES:
                    self._counts[minute, status] += n
                    self._grown.add((minute, status))

    def write(self, log: PredictionLogger):
        """Record the counts that grew in the log, every `WRITE_SECONDS`."""
        if time.monotonic() - self._written < WRITE_SECONDS and not log.stopping:
            return
        self._written = time.monotonic()
        with self._lock:
            grown = [(key, self._counts[key]) for key in sorted(self._grown)]
        entries = [self._entry(*key, n) for key, n in grown]
        if not entries or not log.count(entries):
            return
        minute = int(time.time()) // 60
        with self._lock:
            self._grown -= {key for key, n in grown if self._counts[key] == n}
            for key in [key for key in self._counts if key[0] < minute - 1 and key not in self._grown]:
                del self._counts[key]

    def _entry(self, minute: int, status: str, n: int) -> RequestCount:
        return RequestCount(f"{self._worker}-{minute}-{status}", self._name, minute * 60.0, int(status), n)
