"""From the rows of a request to its predictions, for every protocol."""

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from flask import current_app, request

from mlops_nb.errors import InputError, TooManyRowsError
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Predictions
from mlops_nb.model.columns import InvalidRowsError, Table, describe_value, is_of_arrow
from mlops_nb.serving.http.errors import RequestError
from mlops_nb.serving.http.claim import claim_response
from mlops_nb.serving.http.request_id import trace_id_of
from mlops_nb.spec import ALARM

if TYPE_CHECKING:
    from mlops_nb.serving.inference.live_model import LiveModel, ServingState


@dataclass(slots=True)
class InferenceResult:
    """The predictions of a model for the rows of a request."""

    predictor: Predictor
    table: Table  # the rows, validated
    predictions: Predictions
    role: str = "production"  # or "canary", "shadow"
    key: str | None = None  # in the prediction log; None when the rows are not logged

    @classmethod
    def from_rows(cls, predictor: Predictor, rows, role: str = "production") -> "InferenceResult":
        """Predict rows as a client sends them."""
        table = predictor.parse(rows)
        return cls(predictor, table, predictor.predict(table), role)

    @property
    def ids(self) -> list[str] | None:
        """The ids of the rows in the prediction log."""
        if self.key is None:
            return None
        return [self.key + suffix for suffix in id_suffixes(len(self.predictions.prediction))]


def infer(
    live: "LiveModel",
    rows,
    name: str = "'features'",
    probability: bool = False,
    canary: bool = True,
    interval: bool = False,
) -> InferenceResult:
    """Predict rows of the current request with a model; `rows` may be an array of numbers or an Arrow table."""
    extensions, state = current_app.extensions, live.serving()
    return run_inference(request.environ, extensions, live, state, rows, name, probability, canary, interval)


def run_inference(
    environ: dict,
    extensions: dict,
    live: "LiveModel",
    state: "ServingState",  # of the model, with a version in production
    rows,
    name: str = "'features'",
    probability: bool = False,
    canary: bool = True,
    interval: bool = False,
) -> InferenceResult:
    """Predict rows of a request with a model, and log them: the one way to a prediction."""
    live.used_at = begin = time.perf_counter()
    predictor = live.loaded(state)
    if probability and not predictor.signature.probability:
        raise RequestError(f"The model {predictor.name!r} has no probabilities; leave 'probability' out.")
    if interval and predictor.signature.interval is None:
        raise RequestError(
            f"Version {predictor.version} of the model {predictor.name!r} has no interval; leave 'interval' out, or build "
            "a version whose spec has one: ModelSpec(..., interval=0.9)."
        )
    if isinstance(rows, list | np.ndarray) or is_of_arrow(rows):
        check_rows(len(rows), name, extensions["settings"].max_rows)
    if state.trial is None or not canary:
        result = InferenceResult.from_rows(predictor, rows)
    else:
        result = state.trial.infer(rows, probability, environ.get("HTTP_X_CANARY_KEY"), interval)
    claim_response(environ)  # only what gets this response may be in the log
    environ["serving.result"] = result
    trace_id = trace_id_of(environ)
    key = extensions["log"].record(result, time.perf_counter() - begin, trace_id=trace_id)
    result.key = key
    if key is not None and state.shadow is not None:
        live.shadow.offer(state.shadow, rows, len(result.predictions.prediction), key, trace_id)
    return result


def id_suffixes(n_rows: int) -> list[str]:
    """Return what follows the key of a request in the ids of its rows."""
    global _suffixes
    suffixes = _suffixes
    if n_rows > len(suffixes):
        suffixes = _suffixes = [f"-{row}" for row in range(n_rows)]
    return suffixes[:n_rows]


_suffixes: list[str] = []  # of a long request before


def records_of(predictions: Predictions) -> list:
    """Return the predictions of a protocol that has one list of them; of anomalies score and flag of each row."""
    values = predictions.prediction.tolist()
    if predictions.anomaly is None:
        return values
    return [{"prediction": v, ALARM: f} for v, f in zip(values, predictions.anomaly.tolist(), strict=True)]


@dataclass(slots=True)
class PartialResult:
    """The predictions of the rows that have one, and the errors of the others."""

    n_rows: int
    result: InferenceResult | None  # None: no row has a prediction
    rows: list[int]  # which ones have, by number
    errors: dict[int, InputError]  # of every other row, by number

    def in_place(self, values: list) -> list:
        """Return values of the rows with a prediction at their places, and None at the others."""
        places: list = [None] * self.n_rows
        for row, value in zip(self.rows, values, strict=True):
            places[row] = value
        return places


def infer_each(live: "LiveModel", rows: list, probability: bool = False, interval: bool = False) -> PartialResult:
    """Predict the rows of the current request that can be predicted, and keep the error of each other."""
    rows = rows if isinstance(rows[0], list | dict) else [rows]  # a flat list is one row
    check_rows(len(rows), "'features'")
    kept, errors = list(range(len(rows))), dict[int, InputError]()
    parse = live.loaded().parse
    while kept:
        try:
            result = infer(live, [rows[i] for i in kept], probability=probability, interval=interval)
            return PartialResult(len(rows), result, kept, errors)
        except InvalidRowsError as e:
            found = {kept[i]: e.of_row(i, kept[i]) for i in np.flatnonzero(~e.fits).tolist()}
        except InputError:
            each = ((i, _error_of(parse, rows[i], i, rows[kept[0]])) for i in kept)
            if not (found := {i: error for i, error in each if error is not None}):
                raise
        errors |= found
        kept = [i for i in kept if i not in found]
    return PartialResult(len(rows), None, kept, errors)


def _error_of(parse, row, number: int, first) -> InputError | None:
    """Return the error of one row, with its number in the request."""
    if not isinstance(row, list | dict) or type(row) is not type(first):
        form = "a list" if isinstance(first, list) else "an object"
        return InputError(f"Row {number} is {describe_value(row)}; the first is {form}, so all must be.", row=number)
    try:
        parse([row])
    except InputError as e:
        return InputError(re.sub("^Row 0", f"Row {number}", str(e)), **e.details | {"row": number})
    return None


def interval_content(result: InferenceResult) -> dict:
    """Return the level, and the intervals or the sets of labels, of predictions; nothing of a model that has none."""
    interval, predictions = result.predictor.signature.interval, result.predictions
    if interval is None:
        return {}
    if predictions.classes is None or predictions.probability is None:
        return {"level": interval.level, "interval": interval.bounds(predictions.prediction).tolist()}
    sets = interval.sets(predictions.prediction, predictions.probability, predictions.classes)
    return {"level": interval.level, "prediction_set": sets}


def check_rows(n: int, name: str, limit: int | None = None):
    """Raise `TooManyRowsError` for more rows than one request may have."""
    limit = limit or current_app.extensions["settings"].max_rows
    if n > limit:
        raise TooManyRowsError(f"{name} has {n:,} rows; at most {limit:,} are taken. Send them in parts.")
