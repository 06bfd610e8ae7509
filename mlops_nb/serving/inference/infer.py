"""From the rows of a request to its predictions, for every protocol."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow
from flask import current_app, request

from mlops_nb.errors import TooManyRowsError
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Predictions
from mlops_nb.model.columns import Table
from mlops_nb.serving.http.errors import RequestError
from mlops_nb.serving.http.claim import claim_response


@dataclass(slots=True)
class InferenceResult:
    """The predictions of a model for the rows of a request."""

    predictor: Predictor
    table: Table  # the rows, validated
    predictions: Predictions
    role: str = "production"  # or "canary", "shadow"
    ids: list[str] | None = None  # of the rows in the prediction log; None when they are not logged

    @classmethod
    def from_rows(cls, predictor: Predictor, rows, role: str = "production") -> "InferenceResult":
        """Predict rows as a client sends them."""
        table = predictor.parse(rows)
        return cls(predictor, table, predictor.predict(table), role)


def infer(rows, name: str = "'features'", probability: bool = False, canary: bool = True) -> InferenceResult:
    """Predict rows of the current request with the live model; `rows` may be an array of numbers or an Arrow table."""
    return run_inference(request.environ, current_app.extensions, rows, name, probability, canary)


def run_inference(
    environ: dict, extensions: dict, rows, name: str = "'features'", probability: bool = False, canary: bool = True
) -> InferenceResult:
    """Predict rows of a request with the live model, and log them: the one way to a prediction."""
    begin = time.perf_counter()
    live = extensions["live_model"]
    state = live.state
    predictor = live.loaded(state)
    if probability and not predictor.signature.probability:
        raise RequestError(f"The model {predictor.name!r} has no probabilities; leave 'probability' out.")
    if isinstance(rows, _BATCH_TYPES):
        check_rows(len(rows), name, extensions["settings"].max_rows)
    if state.trial is None or not canary:
        result = InferenceResult.from_rows(predictor, rows)
    else:
        result = state.trial.infer(rows, probability, environ.get("HTTP_X_CANARY_KEY"))
    claim_response(environ)  # only what gets this response may be in the log
    environ["serving.result"] = result
    key = extensions["log"].record(result, time.perf_counter() - begin)
    if key is not None:
        result.ids = [f"{key}-{row}" for row in range(len(result.predictions.prediction))]
        if state.shadow is not None:
            live.shadow.offer(state.shadow, rows, len(result.ids), key)
    return result


_BATCH_TYPES = (list, np.ndarray, pyarrow.Table)


def check_rows(n: int, name: str, limit: int | None = None):
    """Raise `TooManyRowsError` for more rows than one request may have."""
    limit = limit or current_app.extensions["settings"].max_rows
    if n > limit:
        raise TooManyRowsError(f"{name} has {n:,} rows; at most {limit:,} are taken. Send them in parts.")
