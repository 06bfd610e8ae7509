"""POST /predict: predictions of rows as JSON or as an Arrow table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from flask import Blueprint, Response, request

from mlops_nb.errors import InputError, TooManyRowsError
from mlops_nb.model.columns import describe_value, rows_of
from mlops_nb.model.contributions import check_one_output, measure_contributions
from mlops_nb.model.signature import Predictions, label_text
from mlops_nb.spec import ALARM
from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.http.body import pop_flag, read_object, reject_unknown_keys
from mlops_nb.serving.http.media_types import ARROW, wants_arrow
from mlops_nb.serving.inference.infer import InferenceResult, PartialResult, infer, infer_each, interval_content
from mlops_nb.serving.inference.models import model_of

routes = Blueprint("predict", __name__)


@routes.post("/predict")
@routes.post("/models/<name>/predict")
def predict(name: str | None = None) -> Response:
    """Return a prediction and an id for each row; with `"probability": true` the probabilities of the classes too.

    Of anomalies the prediction is the score, higher for a more anomalous row, and `anomaly` has the flags.
    With `"on_error": "row"` a row that cannot be predicted refuses no other: it has null, and its error in `errors`.
    With `"explain": true` each row has the effect of every column on its prediction, with `"interval": true` its interval
    or its set of labels.
    """
    live = model_of(name)
    signature = live.loaded().signature
    if wants_arrow():
        from mlops_nb.serving.protocols.arrow import check_columns

        check_columns(signature)
    probability: bool | str
    if request.mimetype == ARROW:
        from mlops_nb.serving.protocols.arrow import read_table, wants_interval

        table = read_table()
        options, probability = _Options(interval=wants_interval(table)), False
        result = infer(live, table, "The table", interval=options.interval)
    else:
        body = read_object()
        options = _pop_options(body)
        rows, probability = read_features(body)
        if (options.by_row or options.explain) and wants_arrow():
            raise RequestError(
                "An Arrow table has no place for errors and explanations; accept JSON, or leave them out."
            )
        if options.explain:
            check_one_output(signature)
            _check_explained(rows)
        if options.by_row and rows and isinstance(rows, list | dict):
            rows = [rows] if isinstance(rows, dict) else rows
            partial = infer_each(live, rows, bool(probability), options.interval)
            return to_json(_content_by_row(partial, live, probability, options))
        result = infer(live, rows, probability=bool(probability), interval=options.interval)
    if wants_arrow():
        from mlops_nb.serving.protocols.arrow import write_table

        return write_table(result, live.name, options.interval)
    content = content_of(result, live.name, probability)
    return to_json(content if options == _Options() else content | _optional_content(result, options))


MAX_EXPLAINED_ROWS = 10  # of a request
MAX_EXPLAINING_ROWS = 2000  # rows that are predicted to explain one


@dataclass(frozen=True, slots=True)
class _Options:
    """Parts of a response that a request adds to predictions and probabilities."""

    by_row: bool = False  # an error is of its row alone
    explain: bool = False
    interval: bool = False


OPTIONS = {"on_error", "explain", "interval"}  # keys of the body beside rows and probabilities


def _pop_options(body: dict) -> _Options:
    """Take the options out of the body."""
    on_error = body.pop("on_error", "request")
    if on_error not in ("request", "row"):
        raise RequestError(f'\'on_error\' must be "request" or "row", got {describe_value(on_error)}.')
    return _Options(on_error == "row", pop_flag(body, "explain"), pop_flag(body, "interval"))


def _check_explained(rows: object):
    """Raise a `TooManyRowsError` for more rows than one request may have explained."""
    n_rows = len(rows) if isinstance(rows, list) and rows and isinstance(rows[0], list | dict) else 1
    if n_rows > MAX_EXPLAINED_ROWS:
        message = f"'features' has {n_rows:,} rows; at most {MAX_EXPLAINED_ROWS} are explained. Send them in parts."
        raise TooManyRowsError(message)


def _explanations(result: InferenceResult) -> list[dict]:
    """Return how much each column moved the prediction of each row, the largest effect first."""
    signature, explanations = result.predictor.signature, []
    for number, row in enumerate(rows_of(signature, result.table)):
        named = dict(zip(signature.names, row, strict=True))
        try:
            found, mean = measure_contributions(result.predictor, named, max_rows=MAX_EXPLAINING_ROWS)
        except InputError as e:  # of a row that nobody sent
            raise InputError(_UNEXPLAINED.format(number), row=number) from e
        explanations.append({"mean": mean, "contributions": [asdict(contribution) for contribution in found]})
    return explanations


_UNEXPLAINED = "Row {}: it cannot be explained, because the model does not predict every mixture of it and a golden row. Leave 'explain' out."


def _optional_content(result: InferenceResult, options: _Options) -> dict:
    """Return the explanations and intervals that a request asks for."""
    content: dict[str, Any] = {"explanations": _explanations(result)} if options.explain else {}
    return content | interval_content(result) if options.interval else content


def _content_by_row(partial: PartialResult, live, probability: bool | str, options: _Options) -> dict:
    """Return the body of a response with null for each row that has no prediction, and the errors."""
    if partial.result is None:
        content = _empty_content(live, probability, options)
    else:
        content = content_of(partial.result, live.name, probability) | _optional_content(partial.result, options)
    for name in ("prediction", ALARM, "ids", "probability", "explanations", "interval", "prediction_set"):
        if content.get(name) is not None:
            content[name] = partial.in_place(content[name])
    errors = [e.details | {"error": str(e), "code": e.code} for _, e in sorted(partial.errors.items())]
    return content | {"errors": errors}


def _empty_content(live, probability: bool | str, options: _Options) -> dict[str, Any]:
    """Return the body of a response without a prediction, with all that was asked for."""
    predictor = live.loaded()
    signature = predictor.signature
    content: dict[str, Any] = {"prediction": [], "ids": [], "model": live.name, "version": predictor.version}
    content |= {ALARM: []} if signature.task == "anomaly" else {}
    content |= {"explanations": []} if options.explain else {}
    if probability and signature.probability:
        classes = {name: list(part.classes or ()) for name, part in signature.parts.items()}
        content |= {"probability": [], "classes": classes if signature.outputs else classes[signature.output]}
    if options.interval and signature.interval is not None:
        content |= {
            "level": signature.interval.level,
            "interval" if signature.classes is None else "prediction_set": [],
        }
    return content


def read_features(body: dict) -> tuple[object, bool | str]:
    """Return the rows, and the form of the probabilities: False, True (lists) or "named"."""
    reject_unknown_keys(body, {"features", "probability"}, others=OPTIONS)
    if "features" not in body:
        raise RequestError(
            "The body has no 'features'; send {\"features\": [[...], ...]}. GET /model lists the columns."
        )
    probability = body.get("probability", False)
    if not isinstance(probability, bool) and probability != "named":
        raise RequestError("'probability' must be true, false or \"named\".")
    return body["features"], probability


def content_of(result: InferenceResult, model: str, probability: bool | str) -> dict:
    """Return the body of the response."""
    predictions = result.predictions
    content = {
        "prediction": predictions.prediction.tolist(),
        "ids": result.ids,
        "model": model,
        "version": result.predictor.version,
    }
    if predictions.anomaly is not None:
        content[ALARM] = predictions.anomaly.tolist()
    if probability:
        content |= _probabilities(predictions, probability)
    return content


def _probabilities(predictions: Predictions, form: bool | str) -> dict:
    """Return the probabilities of rows, and the labels in their order; of several outputs objects, by name."""
    if predictions.outputs is not None:
        each = {name: _probabilities(part, form) for name, part in predictions.outputs.items()}
        columns = (content["probability"] for content in each.values())
        rows = [dict(zip(each, row, strict=True)) for row in zip(*columns, strict=True)]
        return {"probability": rows, "classes": {name: content["classes"] for name, content in each.items()}}
    rows = cast(np.ndarray, predictions.probability).tolist()
    classes = list(cast(Sequence, predictions.classes))
    if form == "named":
        names = list(map(label_text, classes))
        rows = [dict(zip(names, row, strict=True)) for row in rows]
    return {"probability": rows, "classes": classes}
