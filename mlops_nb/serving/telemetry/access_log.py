"""The access log: one line of JSON for each request, on stdout.

A system call for each line would cost a request more than the line itself, so lines are written in batches, ten times a
second. What a worker has not written yet is lost when it is killed with SIGKILL, not when it stops.
"""

import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import orjson

from mlops_nb.serving.http.periodic import PeriodicThread
from mlops_nb.serving.telemetry.request_record import RequestRecord

WRITE_SECONDS = 0.1  # between two batches
MAX_PENDING_LINES = 100_000  # while nobody reads the log; the oldest are dropped
STDOUT = 1  # file descriptor


RESULT = RequestRecord._fields.index("result")  # the fields before it make a line


class AccessLog:
    """The lines of one worker; each is written at once until `start()` and after `stop()`."""

    def __init__(self, on: bool = True):
        self._on = on
        # when, the fields of a record without its result, and of the result: rows, model, version, role
        self._pending: deque[tuple[float, tuple, tuple | None]] = deque(maxlen=MAX_PENDING_LINES)
        self._lock = threading.Lock()
        self._started = False
        self._thread = PeriodicThread("access log", self._write_batch)

    def start(self):
        """Begin to write in batches."""
        self._started = True
        self._thread.start()

    def stop(self):
        """Write what is left."""
        self._started = False
        self._thread.stop()
        self.write()

    def _write_batch(self) -> float:
        self.write()
        return WRITE_SECONDS

    def record(self, record: RequestRecord):
        """Record a request that has its response; its rows and predictions are not kept."""
        if not self._on:
            return
        result, model = record.result, None
        if result is not None:
            predictor = result.predictor
            model = len(result.predictions.prediction), predictor.name, predictor.version, result.role
        self._pending.append((time.time(), record[:RESULT], model))
        if not self._started:
            self.write()

    def write(self):
        """Write the pending lines, in parts that a pipe takes whole, so that lines of several workers do not mix."""
        with self._lock, suppress(OSError):  # nobody may read the log
            lines = [_render(*self._pending.popleft()) for _ in range(len(self._pending))]
            for part in _parts(lines):
                os.write(STDOUT, part)


def _render(at: float, fields: tuple, model: tuple | None) -> bytes:
    """Return one line, of the fields of a record; `model` is rows, name, version and role."""
    record = RequestRecord(*fields)
    line = {
        "at": datetime.fromtimestamp(at, UTC),
        "id": record.request_id,
        "method": record.method[:20],
        "route": record.route,
        "status": int(record.status),
        "ms": int(record.seconds * 1_000_000) / 1000,
        "bytes": record.size,
    }
    if record.trace_id is not None:
        line["trace_id"] = record.trace_id
    if record.route is None:
        line["path"] = record.path[:100]
    if model is not None:
        line |= zip(("rows", "model", "version", "role"), model, strict=True)
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _parts(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join lines up to the size that a pipe takes whole."""
    part = b""
    for line in lines:
        if len(part) + len(line) > select.PIPE_BUF:
            yield part
            part = b""
        part += line
    yield part
