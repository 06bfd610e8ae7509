"""The service's side of the prediction log: a request appends lines to a local spool, a thread ships them."""

import random
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from mlops_nb.errors import MlopsError
from mlops_nb.monitor.log_records import MAX_SPLIT_ROWS, LabelRecord, PredictionRecord, RequestCount, lines_of
from mlops_nb.monitor.prediction_batches import PredictionBatch, encode_inputs, encode_outputs
from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.settings import Settings, split_names
from mlops_nb.model.signature import Signature
from mlops_nb.model.columns import Table, columns_of, rows_of
from mlops_nb.serving.http.periodic import STOP_SECONDS, PeriodicThread, log
from mlops_nb.serving.http.request_id import make_key
from mlops_nb.serving.inference.infer import InferenceResult
from mlops_nb.serving.telemetry.spool import Spool, SpoolShipper

STEP_SECONDS = 0.25  # between two steps of the thread that maintains and ships the spool
STOP_POLL_SECONDS = 0.02  # between two steps while the worker stops
MAX_STEP_SECONDS = 5.0  # between two steps after several errors of the database
PURGE_INTERVAL = timedelta(minutes=10)  # between two deletions of old predictions
DEAD_LETTERS = "dead-letters.txt"  # file for lines that the database never takes
_OLD_DEAD_LETTERS = "refused.txt"  # its name in earlier versions


class PredictionLogger:
    """Records predictions, labels and request counts of one worker; in one of the workers, ships those of all."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.excluded = set(split_names(settings.log_exclude))
        self.dropped = 0  # requests that could not be recorded
        self.errors = 0  # of the database
        self.unmatched = 0  # labels without a prediction, given up
        self.dead_letters = 0  # lines that the database never takes
        self.stopping = False  # whether the next step is the last
        self.after_step: Callable = lambda _: None  # given this, after each step
        self._spool = Spool(Path(settings.spool), int(settings.spool_mb * 2**20))
        self._shipper = SpoolShipper(Path(settings.spool))
        self._database: PredictionLog | None = None
        self._problem: str | None = None
        self._purged_at: datetime | None = None  # when this worker purged last
        self._seconds_to_next = STEP_SECONDS
        self._thread = PeriodicThread("log", self._maintain)

    def start(self):
        """Start the thread that ships."""
        self._thread.start()

    def stop(self):
        """Ship the remaining lines if the database is available, or wait until another worker has.

        The shipping worker may have read this worker's lines before the last of them, and stop at the same time: so
        this one stops no earlier than that one, unless its lines were shipped.
        """
        if not self._thread.stop():
            return  # the thread waits for the database; what it does not ship stays on disk
        self.stopping = True
        self.after_step(self)
        self._spool.close()
        until = time.monotonic() + STOP_SECONDS
        while self._step() and not self._shipper.leading and self._spool.is_left and time.monotonic() < until:
            time.sleep(STOP_POLL_SECONDS)
        self._shipper.close()
        self._close()

    # in a request

    def record(
        self,
        result: InferenceResult,
        seconds: float,  # from the request to its response
        key: str | None = None,  # a new one by default
        trace_id: str | None = None,  # of the request
    ) -> str | None:  # the key; row i has the id `{key}-{i}`. None: it is not in the log
        """Record the predictions of a request, before its response is sent."""
        share = self.settings.log_share
        if share < 1 and random.random() >= share:
            return None
        now = time.time()
        predictor, predictions = result.predictor, result.predictions
        key = key or make_key(predictor.name, len(predictions.prediction))
        names, kept = predictor.signature.names, None
        if self.excluded:
            kept = [i for i, name in enumerate(names) if name not in self.excluded]
            names = [names[i] for i in kept]
        version, n_rows = cast(int, predictor.version), len(predictions.prediction)
        if n_rows > MAX_SPLIT_ROWS:
            inputs = encode_inputs(names, _inputs(predictor.signature, result.table, kept))
            outputs = encode_outputs(predictions.prediction, predictions.probability)
            sizes = [sum(map(len, inputs)), sum(map(len, outputs))]
            head = sizes[0], key, now, predictor.name, version, result.role, seconds * 1000, n_rows, trace_id
            is_kept = self._spool.append(b"#%d %b\n" % (sum(sizes), orjson.dumps(head)), *inputs, *outputs)
        else:
            entry = PredictionRecord(
                id=key,
                at=now,
                name=predictor.name,
                version=version,
                role=result.role,
                latency_ms=seconds * 1000,
                columns=names,
                rows=_rows(predictor.signature, result.table, kept),
                prediction=predictions.prediction.tolist(),
                probability=None if predictions.probability is None else predictions.probability.tolist(),
                trace_id=trace_id,
            )
            is_kept = self._spool.append(b"".join(lines_of(entry)))
        if not is_kept:
            self.dropped += 1
            return None
        return key

    def label(self, labels: Sequence[tuple[str, object]]) -> bool:
        """Record true labels by the ids of their predictions; False when the spool is full."""
        now = time.time()
        lines = [orjson.dumps(LabelRecord(key, value, now), option=orjson.OPT_APPEND_NEWLINE) for key, value in labels]
        return self._spool.append(b"".join(lines))

    def count(self, counts: Sequence[RequestCount]) -> bool:
        """Record counts of requests, if anything is to be logged; False when the spool is full."""
        if not self.settings.log_share:
            return True
        return self._spool.append(b"".join(orjson.dumps(c, option=orjson.OPT_APPEND_NEWLINE) for c in counts))

    # in the thread

    def _maintain(self) -> float:
        self._seconds_to_next = STEP_SECONDS if self._step() else min(self._seconds_to_next * 2, MAX_STEP_SECONDS)
        self.after_step(self)
        if self._thread.is_stopping:  # `stop` may have given up waiting, and then closes nothing
            self._close()
        return self._seconds_to_next

    def _step(self) -> bool:
        """Maintain the spool, and ship if no other worker does; False when the database is unavailable."""
        try:
            self._spool.maintain()
            if self._shipper.leads():
                database = self._open()
                self._shipper.ship(partial(self._deliver, database))
                self._purge(database)
            self._problem = None
            return True
        except Exception as e:  # the thread that ships must survive any exception
            self._close()
            self.errors += isinstance(e, SQLAlchemyError)
            problem = f"The prediction log waits: {_reason(e)}"
            if problem != self._problem:
                log(problem)
            self._problem = problem
            return False

    def _open(self) -> PredictionLog:
        if self._database is None:
            self._rename_old_dead_letters()
            self._database = PredictionLog.open(self.settings)
        return self._database

    def _close(self):
        if self._database is not None:
            self._database.close()
            self._database = None

    def _deliver(self, database: PredictionLog, lines: list[bytes]):
        """Add lines to the database; put those aside that it never takes, so that the rest can pass."""
        try:
            rows = [line for line in lines if line.startswith(b"[")]
            batches = [_parse_batch(line) for line in lines if line.startswith(b"#")]
            database.add((_parse(line) for line in lines if not line.startswith((b"[", b"#"))), rows, batches)
        except (StatementError, ValueError, TypeError, KeyError) as e:
            if isinstance(e, DBAPIError) and not isinstance(e, DataError | IntegrityError):
                raise  # the database is unavailable: later
            if len(lines) > 1:
                for line in lines:
                    self._deliver(database, [line])
                return
            self._put_aside(lines[0], e)

    def _put_aside(self, line: bytes, error: Exception):
        self.dead_letters += 1
        with (Path(self.settings.spool) / DEAD_LETTERS).open("ab") as file:
            file.write(line)
        log(f"A line of the prediction log was put aside in {DEAD_LETTERS}: {type(error).__name__}.")

    def _rename_old_dead_letters(self):
        """Give a file of an earlier version today's name, unless there is one."""
        old, new = (Path(self.settings.spool) / name for name in (_OLD_DEAD_LETTERS, DEAD_LETTERS))
        if old.is_file() and not new.exists():
            old.rename(new)
            log(f"The prediction log has lines that an earlier version put aside; they are in {DEAD_LETTERS}.")

    def _purge(self, database: PredictionLog):
        """Delete what is older than the settings say, every `PURGE_INTERVAL`."""
        now = datetime.now(UTC)
        if self._purged_at is not None and abs(now - self._purged_at) < PURGE_INTERVAL:  # a clock may be set back
            return
        given_up = database.purge(self.settings.log_days, self.settings.label_hours, now, self._purged_at)
        self._purged_at = now
        if given_up:
            self.unmatched += len(given_up)
            ids = ", ".join(given_up[:3]) + (", ..." if len(given_up) > 3 else "")
            log(f"{len(given_up)} labels had ids that no prediction has, and were given up: {ids}")

    def backlog(self) -> tuple[int, float]:
        """Return the bytes that wait for the database, and for how many seconds the oldest have; zeros unless it ships."""
        return self._shipper.backlog() if self._shipper.leading else (0, 0.0)


def _rows(
    signature: Signature,
    table: Table,
    kept: list[int] | None,  # numbers of the columns; None: all
) -> list[list]:
    """Return the rows of a request as lists of JSON values."""
    if isinstance(table, np.ndarray):
        return (table if kept is None else table[:, kept]).tolist()
    rows = rows_of(signature, table)
    return rows if kept is None else [[row[i] for i in kept] for row in rows]


def _inputs(
    signature: Signature,
    table: Table,
    kept: list[int] | None,  # numbers of the columns; None: all
) -> np.ndarray | list[list]:
    """Return the inputs of many rows, numbers as they are in memory: a list of each row would take longer than the model."""
    if isinstance(table, np.ndarray):
        return table if kept is None else table[:, kept]
    columns = columns_of(signature, table)
    return columns if kept is None else [columns[i] for i in kept]


def _parse_batch(line: bytes) -> PredictionBatch:
    """Return the batch in a line and the bytes behind it."""
    begin = line.index(b"\n") + 1
    size, *values = orjson.loads(line[:begin].partition(b" ")[2])
    values += line[begin : begin + size], line[begin + size :]
    return PredictionBatch(*values)


def _parse(line: bytes) -> PredictionRecord | LabelRecord | RequestCount:
    values = orjson.loads(line)
    rows = values.get("rows")  # an earlier release wrote many rows so, and then each was a row of the database
    if isinstance(rows, str):  # floats as in memory
        values["rows"] = np.frombuffer(b64decode(rows)).reshape(len(values["prediction"]), -1).tolist()
    elif isinstance(rows, dict):
        values["rows"] = list(zip(*rows["columns"], strict=True)) or [()] * len(values["prediction"])
    if "ms" in values:  # the key of lines that were spooled before the field named its unit
        values["latency_ms"] = values.pop("ms")
    kind = LabelRecord if "label" in values else RequestCount if "status" in values else PredictionRecord
    return kind(**values)


def _reason(error: Exception) -> str:
    """Return why, without an address or a value."""
    return str(error) if isinstance(error, MlopsError) else f"{type(error).__name__}."
