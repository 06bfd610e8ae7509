"""A shadow version predicts the rows of production's requests in a thread of its own; no request waits for it."""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from mlops_nb.model.predictor import Predictor
from mlops_nb.serving.inference.infer import InferenceResult

MAX_WAITING_REQUESTS = 100  # others are dropped
MAX_ROWS = 1000  # of a request; a larger one is dropped


class Shadow:
    """A bounded queue and one thread; requests that do not fit are dropped and counted."""

    def __init__(
        self,
        record: Callable,  # `PredictionLogger.record`: given the result, its seconds, its key and its trace
    ):
        self.record = record
        self.counts = {"answered": 0, "failed": 0, "dropped": 0}
        self._queue: SimpleQueue = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock, self._stop = threading.Lock(), threading.Event()

    def offer(self, predictor: Predictor, rows, n: int, key: str, trace_id: str | None = None):
        """Queue `n` rows for the shadow; this never blocks."""
        if self._queue.qsize() >= MAX_WAITING_REQUESTS or n > MAX_ROWS:
            with self._lock:
                self.counts["dropped"] += 1
            return
        self._queue.put((predictor, rows, key, trace_id))
        if self._thread is None:
            self._start()

    def stop(self):
        """Stop the thread; what still waits is dropped."""
        self._stop.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _start(self):
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()

    def _run(self):
        while self._predict_next():
            pass

    def _predict_next(self) -> bool:
        """Predict the next request; a function of its own, so that it keeps no predictor while it waits."""
        item = self._queue.get()
        if self._stop.is_set():
            return False
        predictor, rows, key, trace_id = item
        begin = time.perf_counter()
        try:
            result = InferenceResult.from_rows(predictor, rows, "shadow")
            self.record(result, time.perf_counter() - begin, f"{key}-shadow", trace_id)
            self.counts["answered"] += 1
        except Exception:  # whatever a shadow raises is counted, and harms no request
            self.counts["failed"] += 1
        return True
