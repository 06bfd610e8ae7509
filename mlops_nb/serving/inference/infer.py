"""From rows to predictions, whatever the protocol."""

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
    """What a model said about the rows of a request."""

    predictor: Predictor
    table: Table  # The rows, checked
    predictions: Predictions
    role: str = "production"  # Or "canary", "shadow"
    ids: list[str] | None = None  # One a row, by which it is in the prediction log; None when it is not

    @classmethod
    def from_rows(cls, predictor: Predictor, rows, role: str = "production") -> "InferenceResult":
        """What a predictor says about rows as a client sends them."""
        table = predictor.parse(rows)
        return cls(predictor, table, predictor.predict(table), role)


def infer(rows, name: str = "'features'", probability: bool = False, canary: bool = True) -> InferenceResult:
    """What the live model says about rows of this request, an array of numbers or an Arrow table."""
    return run_inference(request.environ, current_app.extensions, rows, name, probability, canary)


def run_inference(
    environ: dict, extensions: dict, rows, name: str = "'features'", probability: bool = False, canary: bool = True
) -> InferenceResult:
    """What the live model says about rows of a request: the one way to a prediction."""
    began = time.perf_counter()
    live = extensions["live_model"]
    state = live.state
    predictor = live.loaded(state)
    if probability and not predictor.signature.probability:
        raise RequestError(f"The model {predictor.name!r} has no probabilities; leave 'probability' out.")
    if isinstance(rows, _SEVERAL):
        check_rows(len(rows), name, extensions["settings"].max_rows)
    if state.trial is None or not canary:
        said = InferenceResult.from_rows(predictor, rows)
    else:
        said = state.trial.ask(rows, probability, environ.get("HTTP_X_CANARY_KEY"))
    claim_response(environ)  # what is in the log was answered
    environ["serving.result"] = said
    key = extensions["log"].record(said, time.perf_counter() - began)
    if key is not None:
        said.ids = [f"{key}-{row}" for row in range(len(said.predictions.prediction))]
        if state.shadow is not None:
            live.shadow.offer(state.shadow, rows, len(said.ids), key)
    return said


_SEVERAL = (list, np.ndarray, pyarrow.Table)


def check_rows(n: int, name: str, limit: int | None = None):
    """Refuse more rows than one request may have."""
    limit = limit or current_app.extensions["settings"].max_rows
    if n > limit:
        raise TooManyRowsError(f"{name} has {n:,} rows; at most {limit:,} are taken. Send them in parts.")
