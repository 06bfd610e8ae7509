"""The prediction log as the service keeps it: a request writes a line to disk, a thread ships the lines."""

import random
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from mlops_nb.errors import MlopsError
from mlops_nb.monitor.prediction_log import RequestCount, LabelRecord, PredictionRecord, PredictionLog, lines_of
from mlops_nb.settings import Settings, split_names
from mlops_nb.model.signature import Signature
from mlops_nb.model.columns import Table, columns_of, rows_of
from mlops_nb.serving.http.periodic import STOP_SECONDS, PeriodicThread, log
from mlops_nb.serving.http.request_id import make_id
from mlops_nb.serving.inference.infer import InferenceResult
from mlops_nb.serving.telemetry.spool import SpoolShipper, Spool

STEP_SECONDS = 0.25  # Seconds between two looks at the spool
STOP_POLL_SECONDS = 0.02  # The same, when all that is left to do is to end
MAX_STEP_SECONDS = 5.0  # After several errors of the database
PURGE_INTERVAL = timedelta(minutes=10)  # Between two deletions of what is old
MAX_SPLIT_ROWS = 32  # Rows of a request up to which each is a line of its own, ready for the database
DEAD_LETTERS = "refused.txt"  # Lines that the database will never take


class PredictionLogger:
    """Records predictions and labels; in one worker of all, ships them."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.excluded = set(split_names(settings.log_exclude))
        self.dropped = 0  # Requests that could not be recorded
        self.errors = 0  # Of the database
        self.unmatched = 0  # Labels that were given up
        self.dead_letters = 0  # Lines that the database will never take
        self.stopping = False  # Nothing is taken after the next step
        self.after_step: Callable = lambda log: None  # Called when the spool was tended, with this
        self._spool = Spool(Path(settings.spool), int(settings.spool_mb * 2**20))
        self._shipper = SpoolShipper(Path(settings.spool))
        self._database: PredictionLog | None = None
        self._problem: str | None = None
        self._purged_at: datetime | None = None  # When, if this worker has
        self._seconds_to_next = STEP_SECONDS
        self._thread = PeriodicThread("log", self._maintain)

    def start(self):
        """Begin to ship."""
        self._thread.start()

    def stop(self):
        """Ship what there is once more, if the database lets us, or see that another worker has.

        Who ships may have looked at our lines before the last of them came, and end as we do: so we do not end earlier
        than it does, unless it has shipped them.
        """
        if not self._thread.stop():
            return  # it waits for the database, and what it does not ship stays on disk
        self.stopping = True
        self.after_step(self)
        self._spool.close()
        until = time.monotonic() + STOP_SECONDS
        while self._step() and not self._shipper.leading and self._spool.is_left and time.monotonic() < until:
            time.sleep(STOP_POLL_SECONDS)
        self._shipper.close()
        self._close()

    # what a request does

    def record(
        self,
        said: InferenceResult,
        seconds: float,  # From the request to its answer
        key: str | None = None,  # A new one by default
    ) -> str | None:  # The key; row i has the id `{key}-{i}`. None: it is not in the log
        """Write down what a request was answered, before it is."""
        share = self.settings.log_share
        if share < 1 and random.random() >= share:
            return None
        now = time.time()
        key = key or make_id()
        predictor, answer = said.predictor, said.predictions
        names, kept = predictor.signature.names, None
        if self.excluded:
            kept = [i for i, name in enumerate(names) if name not in self.excluded]
            names = [names[i] for i in kept]
        rows = _loggable(predictor.signature, said.table, len(answer.prediction), kept)
        who = (predictor.name, predictor.version, said.role)
        prediction, sure = answer.prediction.tolist(), answer.probability
        entry = PredictionRecord(key, now, *who, seconds * 1000, names, rows, prediction, sure)
        if not self._spool.append(_written(entry)):
            self.dropped += 1
            return None
        return key

    def label(self, labels: Sequence[tuple[str, object]]) -> bool:
        """Write down what was true; False when there is no room."""
        now = time.time()
        lines = [orjson.dumps(LabelRecord(key, value, now), option=orjson.OPT_APPEND_NEWLINE) for key, value in labels]
        return self._spool.append(b"".join(lines))

    def count(self, counts: Sequence[RequestCount]) -> bool:
        """Write down how many requests there were, if anything is to be logged; False when there is no room."""
        if not self.settings.log_share:
            return True
        return self._spool.append(b"".join(orjson.dumps(c, option=orjson.OPT_APPEND_NEWLINE) for c in counts))

    # what the thread does

    def _maintain(self) -> float:
        self._seconds_to_next = STEP_SECONDS if self._step() else min(self._seconds_to_next * 2, MAX_STEP_SECONDS)
        self.after_step(self)
        return self._seconds_to_next

    def _step(self) -> bool:
        """Tend the spool, and ship if nobody else does; False when the database does not answer."""
        try:
            self._spool.maintain()
            if self._shipper.leads():
                self._open()
                self._shipper.ship(self._deliver)
                self._purge()
            self._problem = None
            return True
        except Exception as e:  # the thread that ships must outlive whatever happens to it
            self._close()
            self.errors += isinstance(e, SQLAlchemyError)
            problem = f"The prediction log waits: {_reason(e)}"
            if problem != self._problem:
                log(problem)
            self._problem = problem
            return False

    def _open(self):
        if self._database is None:
            self._database = PredictionLog.open(self.settings)

    def _close(self):
        if self._database is not None:
            self._database.close()
            self._database = None

    def _deliver(self, lines: list[bytes]):
        """Into the database; what it will never take is put aside, so that the rest can pass."""
        try:
            rows = [line for line in lines if line.startswith(b"[")]
            self._database.add((_parse(line) for line in lines if not line.startswith(b"[")), rows)
        except (StatementError, ValueError, TypeError, KeyError) as e:
            if isinstance(e, DBAPIError) and not isinstance(e, DataError | IntegrityError):
                raise  # the database is away or not well: later
            if len(lines) > 1:
                for line in lines:
                    self._deliver([line])
                return
            self._put_aside(lines[0], e)

    def _put_aside(self, line: bytes, error: Exception):
        self.dead_letters += 1
        with (Path(self.settings.spool) / DEAD_LETTERS).open("ab") as file:
            file.write(line)
        log(f"A line of the prediction log was put aside in {DEAD_LETTERS}: {type(error).__name__}.")

    def _purge(self):
        """Now and then: delete what is older than the settings say."""
        now = datetime.now(UTC)
        if self._purged_at is not None and abs(now - self._purged_at) < PURGE_INTERVAL:  # a clock may be set back
            return
        given_up = self._database.forget(self.settings.log_days, self.settings.label_hours, now, self._purged_at)
        self._purged_at = now
        if given_up:
            self.unmatched += len(given_up)
            ids = ", ".join(given_up[:3]) + (", ..." if len(given_up) > 3 else "")
            log(f"{len(given_up)} labels had ids that no prediction has, and were given up: {ids}")

    def backlog(self) -> tuple[int, float]:
        """Bytes that wait for the database, and for how many seconds the oldest do; who does not ship knows of none."""
        return self._shipper.backlog() if self._shipper.leading else (0, 0.0)


_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


def _loggable(
    signature: Signature,
    table: Table,
    n_rows: int,
    kept: list[int] | None,  # Numbers of the columns; None: all
) -> np.ndarray | dict[str, list] | list[list]:
    """Floats as they are, many rows by column: a list of each row would take longer than the model."""
    if signature.is_float:
        return table if kept is None else table[:, kept]
    if n_rows > MAX_SPLIT_ROWS:
        columns = columns_of(signature, table)
        return {"columns": columns if kept is None else [columns[i] for i in kept]}
    rows = rows_of(signature, table)
    return rows if kept is None else [[row[i] for i in kept] for row in rows]


def _written(entry: PredictionRecord) -> bytes:
    """The lines of a request: ready for the database if its rows are few, else one that takes the request less time."""
    sure = entry.probability
    if len(entry.prediction) > MAX_SPLIT_ROWS:
        entry.probability = None if sure is None else sure.astype(np.float64)
        if not isinstance(entry.rows, np.ndarray):
            return orjson.dumps(entry, _plain, _LINE)
        floats, entry.rows = b64encode(np.ascontiguousarray(entry.rows)), None
        return orjson.dumps(entry, _plain, _LINE).replace(_NO_ROWS, b'"rows":"%b"' % floats, 1)  # it escapes nothing
    entry.probability = None if sure is None else sure.tolist()
    if isinstance(entry.rows, np.ndarray):
        entry.rows = entry.rows.tolist()
    return b"".join(lines_of(entry))


_NO_ROWS = b'"rows":null'


def _plain(array: np.ndarray) -> list:
    """What orjson does not write itself."""
    return array.tolist()


def _parse(line: bytes) -> PredictionRecord | LabelRecord | RequestCount:
    values = orjson.loads(line)
    rows = values.get("rows")
    if isinstance(rows, str):  # floats, as they are in memory
        values["rows"] = np.frombuffer(b64decode(rows)).reshape(len(values["prediction"]), -1).tolist()
    elif isinstance(rows, dict):
        values["rows"] = list(zip(*rows["columns"], strict=True)) or [()] * len(values["prediction"])
    kind = LabelRecord if "label" in values else RequestCount if "status" in values else PredictionRecord
    return kind(**values)


def _reason(error: Exception) -> str:
    """Why, without an address or a value."""
    return str(error) if isinstance(error, MlopsError) else f"{type(error).__name__}."
