"""Rows of concurrent requests are predicted in one call, where a call costs much and a further row in it little.

A request whose call can begin at once waits for nobody. Requests that come during a call wait for its end, and share
the next one; none waits longer than its limit, after which it begins a call beside the running one. Rows of different
versions never meet, because each predictor has an engine of its own.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np

from mlops_nb.errors import MlopsError
from mlops_nb.model.columns import Table
from mlops_nb.model.domain import count_rows, take_rows
from mlops_nb.model.engine import TOLERANCE, compare
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Predictions
from mlops_nb.serving.http.periodic import log
from mlops_nb.settings import Settings

MAX_BATCH_ROWS = 64  # of a shared call; a request with more than half of them is predicted alone
MIN_ROW_SECONDS = 0.001  # a row that takes less costs no more than waiting for others
MIN_GAIN = 2.0  # rows a second in full calls, against those of one-row calls
TIMING_SECONDS = 0.2  # for which a call is timed again and again; its quickest counts, as others may use the machine
MIN_TIMINGS, MAX_TIMINGS = 3, 20
COMPARING_SECONDS = 1.0  # for which golden rows are predicted alone, to be compared with all in one call
MIN_PATIENCE_SECONDS = 1.0  # after which a shared call is given up, unless such calls take long


@dataclass(frozen=True)
class Batching:
    """Measured call times of a predictor, and whether requests share its calls."""

    is_on: bool
    reason: str
    row_seconds: float | None = None  # of a call with one row
    batch_seconds: float | None = None  # of a call with `MAX_BATCH_ROWS`
    wait_seconds: float = 0.0  # that a request waits for others, at most

    def to_dict(self) -> dict:
        """Return it for people, in milliseconds."""
        times = {"row_ms": self.row_seconds, "batch_ms": self.batch_seconds, "wait_ms": self.wait_seconds}
        shown = {name: None if t is None else float(f"{t * 1000:.3g}") for name, t in times.items()}
        return {"on": self.is_on, "reason": self.reason, "max_rows": MAX_BATCH_ROWS, **shown}


_batching_of: WeakKeyDictionary[Predictor, Batching] = WeakKeyDictionary()


def batching_of(predictor: Predictor) -> Batching:
    """Return what `share_calls` chose."""
    return _batching_of.get(predictor, Batching(False, "It was not measured."))


def is_shared(predictor: Predictor | None) -> bool:
    """Whether requests share the calls of a predictor."""
    return predictor is not None and isinstance(predictor.engine, BatchingEngine)


def share_calls(predictor: Predictor, settings: Settings, on_call: Callable[[int], object] = lambda _: None):
    """Let requests share the calls of a new predictor, where that was measured to gain and to change no prediction."""
    try:
        batching = measure_batching(predictor, settings.batch_ms)
    except Exception as e:  # whatever a measurement raises: the model was verified, and is served without it
        reason = str(e) if isinstance(e, MlopsError) else type(e).__name__
        batching = Batching(False, f"It cannot be measured: {reason}")
    _batching_of[predictor] = batching
    if batching.is_on:
        patience = max(MIN_PATIENCE_SECONDS, 10 * (batching.batch_seconds or 0))
        patience = min(patience, settings.request_seconds / 2)
        predictor.engine = BatchingEngine(predictor.engine, batching, patience, on_call)
        log(f"{predictor.name} version {predictor.version}: requests share calls. {batching.reason}")


def measure_batching(predictor: Predictor, batch_ms: float | None) -> Batching:
    """Measure whether calls are shared with gain, and whether a row's prediction depends on the rows beside it."""
    if batch_ms == 0:
        return Batching(False, "MLOPS_BATCH_MS is 0.")
    golden = predictor.parse(predictor.bundle.golden()["features"])
    row, batch = take_rows(golden, slice(0, 1)), take_rows(golden, np.arange(MAX_BATCH_ROWS) % count_rows(golden))
    alone = _seconds(lambda: predictor.predict(row))
    if alone < MIN_ROW_SECONDS:
        return Batching(False, f"A row takes {alone * 1000:.2g} ms: waiting for others would take longer.", alone)
    together = _seconds(lambda: predictor.predict(batch))
    gain = MAX_BATCH_ROWS * alone / together
    measured = f"{MAX_BATCH_ROWS} rows in one call are {gain:.2g} times as fast as one by one"
    if gain < MIN_GAIN:
        return Batching(False, f"{measured}, less than {MIN_GAIN:g}.", alone, together)
    if problem := _find_dependence(predictor, golden, alone):
        reason = f"Rows in one call have other predictions than alone: {problem}. A row must not depend on others."
        return Batching(False, reason, alone, together)
    # by default the next call of all who wait begins when the running one ends, also on a busy machine
    wait = 2 * together if batch_ms is None else batch_ms / 1000
    return Batching(True, f"{measured}.", alone, together, wait)


def _find_dependence(predictor: Predictor, golden: Table, row_seconds: float) -> str | None:
    """Return how golden rows in one call differ from the same rows alone; None if they do not."""
    n_rows = min(count_rows(golden), max(4, int(COMPARING_SECONDS / row_seconds)))
    together = predictor.predict(take_rows(golden, slice(0, n_rows)))
    for number in range(n_rows):
        alone = predictor.predict(take_rows(golden, slice(number, number + 1)))
        problem, _ = compare(alone, together.take(np.array([number])), TOLERANCE)
        if problem:
            return problem
    return None


def _seconds(work: Callable[[], object]) -> float:
    """Return the time that work takes at its quickest."""
    took: list[float] = []
    end = time.perf_counter() + TIMING_SECONDS
    while len(took) < MIN_TIMINGS or (len(took) < MAX_TIMINGS and time.perf_counter() < end):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return min(took)


def _form(table: Table) -> tuple:
    """Return what two tables have in common whose rows may be joined without converting a value."""
    if isinstance(table, np.ndarray):
        return (table.dtype, table.shape[1])
    return tuple(sorted((name, column.dtype.str) for name, column in table.items()))


def _join(tables: list[Table]) -> Table:
    """Join the rows of tables of one form."""
    if isinstance(tables[0], np.ndarray):
        return np.concatenate(cast(list[np.ndarray], tables))
    columns = cast(list[dict[str, np.ndarray]], tables)
    return {name: np.concatenate([table[name] for table in columns]) for name in columns[0]}


class _State(Enum):
    WAITING = auto()  # for a call
    LEADS = auto()  # its own thread calls the engine for it and those who wait
    TAKEN = auto()  # it is in the call of another
    DONE = auto()  # that call is over


class _Request:
    """The rows of one request, on their way through a shared call."""

    __slots__ = ("began", "form", "n_rows", "predictions", "state", "table", "woken")

    def __init__(self, table: Table, n_rows: int):
        self.table, self.n_rows, self.form = table, n_rows, _form(table)
        self.state = _State.WAITING
        self.woken = threading.Event()  # it leads, or is done
        self.predictions: Predictions | None = None  # None: predict them alone
        self.began = 0.0  # when its call did, if it leads


class BatchingEngine:
    """An engine whose calls are shared by the requests that come at the same time, from threads of their own.

    If a shared call fails or hangs, each of its requests is predicted alone in its own thread, so that it gets its own
    error; only the thread that called cannot leave a call that hangs. A request that is not waited for any more costs
    its rows in a call, and changes no other.
    """

    def __init__(
        self, engine, batching: Batching, patience_seconds: float, on_call: Callable[[int], object] = lambda _: None
    ):
        self.engine, self.name, self.signature = engine, engine.name, engine.signature
        self.providers = engine.providers
        self.wait_seconds, self.patience_seconds = batching.wait_seconds, patience_seconds
        self._on_call = on_call  # given the number of rows of each call
        self._waiting: list[_Request] = []
        self._running: set[_Request] = set()  # those who lead a call
        self._lock = threading.Lock()

    def predict(self, table: Table) -> Predictions:
        """Predict the rows of a table, in a call with others."""
        n_rows = count_rows(table)
        if n_rows > MAX_BATCH_ROWS // 2:
            return self._predict_alone(table, n_rows)
        mine = _Request(table, n_rows)
        with self._lock:
            self._waiting.append(mine)
            if self._is_idle():
                self._begin(mine)
        if mine.state is not _State.LEADS and not mine.woken.wait(self.wait_seconds):
            with self._lock:
                if mine.state is _State.WAITING:
                    self._begin(mine)
            if mine.state is not _State.LEADS:
                mine.woken.wait(self.patience_seconds)
        predictions = self._lead(mine) if mine.state is _State.LEADS else mine.predictions
        return self._predict_alone(table, n_rows) if predictions is None else predictions

    def _predict_alone(self, table: Table, n_rows: int) -> Predictions:
        self._on_call(n_rows)
        return self.engine.predict(table)

    def _is_idle(self) -> bool:
        """Whether no call runs, but for one that hangs."""
        now = time.monotonic()
        return all(now - leader.began > self.patience_seconds for leader in self._running)

    def _begin(self, leader: _Request):
        leader.state, leader.began = _State.LEADS, time.monotonic()
        self._running.add(leader)

    def _lead(self, leader: _Request) -> Predictions | None:
        """Call the engine for a request and those who wait, and have the next call begin; None where the call failed."""
        requests = [leader]
        try:
            with self._lock:
                requests = self._take(leader)
            if len(requests) == 1:
                return self._predict_alone(leader.table, leader.n_rows)
            with suppress(Exception):  # each is predicted alone then, where one that is to blame meets its error again
                self._predict(requests)
            return leader.predictions
        finally:
            self._end(leader, requests)

    def _end(self, leader: _Request, requests: list[_Request]):
        """Have the next call begin, and wake those who were in this one."""
        with self._lock:
            self._running.discard(leader)
            following = next((request for request in self._waiting if request.state is _State.WAITING), None)
            if following is not None and self._is_idle():
                self._begin(following)
                following.woken.set()
        for request in requests:
            if request is not leader:
                request.state = _State.DONE
                request.woken.set()

    def _predict(self, requests: list[_Request]):
        """Predict the rows of several requests in one call."""
        self._on_call(sum(request.n_rows for request in requests))
        predictions, start = self.engine.predict(_join([request.table for request in requests])), 0
        parts = []
        for request in requests:
            parts.append(predictions.take(np.arange(start, start + request.n_rows)))
            start += request.n_rows
        for request, part in zip(requests, parts, strict=True):
            request.predictions = part

    def _take(self, leader: _Request) -> list[_Request]:
        """Take the leader and as many of those who wait as fit into its call, the first first."""
        taken, n_rows = [leader], leader.n_rows
        for request in self._waiting:
            fits = n_rows + request.n_rows <= MAX_BATCH_ROWS and request.form == leader.form
            if request.state is _State.WAITING and fits:
                request.state, n_rows = _State.TAKEN, n_rows + request.n_rows
                taken.append(request)
        self._waiting = [request for request in self._waiting if request not in taken]
        return taken

    def close(self):
        """Release the engine, before the process ends."""
        self.engine.close()
