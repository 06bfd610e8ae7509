"""The access log: one line of JSON a request, on stdout.

A system call for each line would cost a request more than the line itself, so lines are written some at a time, ten
times a second. What a worker has not written yet is lost when it is killed with -9, not when it ends.
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
from mlops_nb.serving.inference.infer import InferenceResult

PERIOD = 0.1  # Seconds between two writings
MOST = 100_000  # Lines that wait while nobody takes the log; the oldest go


class AccessLog:
    """What one worker answered; written at once until it is started."""

    def __init__(self, on: bool = True):
        self._on = on
        self._noted: deque[tuple] = deque(maxlen=MOST)
        self._lock = threading.Lock()
        self._started = False
        self._routine = PeriodicThread("access log", self._keep_writing)

    def start(self):
        """Write by itself from now on."""
        self._started = True
        self._routine.start()

    def stop(self):
        """Write what is left, and each line at once from now on."""
        self._started = False
        self._routine.stop()
        self.write()

    def _keep_writing(self) -> float:
        self.write()
        return PERIOD

    def note(
        self,
        request_id: str,
        method: str,
        path: str,
        rule: str | None,  # None: there is no such route
        status: str,
        seconds: float,
        size: int | None,  # Bytes of the answer
        said: InferenceResult | None,  # What the model said, if it was asked
    ):
        """Take down an answered request."""
        if not self._on:
            return
        facts = said and (len(said.predictions.prediction), said.predictor.name, said.predictor.version, said.role)
        self._noted.append((time.time(), request_id, method, path, rule, status, seconds, size, facts))
        if not self._started:
            self.write()

    def write(self):
        """Write what was taken down, in pieces that a pipe takes whole, so that lines of several workers do not mix."""
        with self._lock, suppress(OSError):  # nobody may take the log
            lines = [_line(*self._noted.popleft()) for _ in range(len(self._noted))]
            for piece in _pieces(lines):
                os.write(1, piece)


def _line(at, request_id, method, path, rule, status, seconds, size, facts) -> bytes:
    line = {
        "at": datetime.fromtimestamp(at, UTC),
        "id": request_id,
        "method": method[:20],
        "route": rule,
        "status": int(status),
        "ms": int(seconds * 1_000_000) / 1000,
        "bytes": size,
    }
    if rule is None:  # what was asked for that is not there
        line["path"] = path[:100]
    if facts is not None:
        line |= zip(("rows", "model", "version", "role"), facts, strict=True)
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    piece = b""
    for line in lines:
        if len(piece) + len(line) > select.PIPE_BUF:
            yield piece
            piece = b""
        piece += line
    yield piece
