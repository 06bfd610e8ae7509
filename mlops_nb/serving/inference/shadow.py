"""A shadow is asked what production was asked, beside the requests; nobody waits for what it says."""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from mlops_nb.model.predictor import Predictor
from mlops_nb.serving.inference.infer import InferenceResult

MAX_WAITING_REQUESTS, MAX_ROWS = 100, 1000  # Most requests that wait, and most rows of each


class Shadow:
    """A bounded queue and one thread; what does not fit is dropped and counted."""

    def __init__(
        self,
        record: Callable,  # `mlops_nb.serving.telemetry.prediction_logger.Log.record`: given what the shadow said, how long it took, and the key
    ):
        self.record = record
        self.counts = {"answered": 0, "failed": 0, "dropped": 0}
        self._queue = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock, self._stop = threading.Lock(), threading.Event()

    def offer(self, predictor: Predictor, rows, n: int, key: str):
        """Have the shadow asked about `n` rows when there is time; this never waits."""
        if self._queue.qsize() >= MAX_WAITING_REQUESTS or n > MAX_ROWS:
            with self._lock:
                self.counts["dropped"] += 1
            return
        self._queue.put((predictor, rows, key))
        if self._thread is None:
            self._start()

    def stop(self):
        """Leave what still waits."""
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
        while self._answer_next():
            pass

    def _answer_next(self) -> bool:
        """A function of its own, so that no predictor outlives its answer."""
        item = self._queue.get()
        if self._stop.is_set():
            return False
        predictor, rows, key = item
        began = time.perf_counter()
        try:
            said = InferenceResult.from_rows(predictor, rows, "shadow")
            self.record(said, time.perf_counter() - began, f"{key}-shadow")
            self.counts["answered"] += 1
        except Exception:  # it is only a shadow: whatever it raises is counted
            self.counts["failed"] += 1
        return True
