"""POST /predict."""

import json
import os
import time

import orjson
from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import RequestEntityTooLarge

from mlops_nb.errors import TooManyRowsError, known_names
from serve.errors import MediaTypeError, RequestError, to_json

routes = Blueprint("predict", __name__)

_KEYS = {"features", "probability"}


@routes.post("/predict")
def predict() -> Response:
    """One prediction and one id a row; with `"probability": true` the probabilities of the classes too."""
    live = current_app.extensions["live_model"]
    predictor = live.loaded()
    body = read_object()
    if not body.keys() <= _KEYS:
        unknown = min(body.keys() - _KEYS)
        raise RequestError(f"The body has an unknown key {unknown!r}. {known_names(unknown, _KEYS)}")
    if "features" not in body:
        raise RequestError(
            "The body has no 'features'; send {\"features\": [[...], ...]}. GET /model lists the columns."
        )
    rows, wants_probability = body["features"], body.get("probability", False)
    limit = current_app.extensions["settings"].max_rows
    if isinstance(rows, list) and len(rows) > limit:
        raise TooManyRowsError(f"'features' has {len(rows):,} rows; at most {limit:,} are taken. Send them in parts.")
    if not isinstance(wants_probability, bool):
        raise RequestError("'probability' must be true or false.")
    answer = predictor.predict_rows(rows)
    prediction = answer.prediction.tolist()
    said = {
        "prediction": prediction,
        "ids": make_ids(len(prediction)),
        "model": live.name,
        "version": predictor.version,
    }
    if wants_probability:
        if answer.probability is None:
            raise RequestError(f"The model {live.name!r} has no probabilities; leave 'probability' out.")
        said |= {"probability": answer.probability.tolist(), "classes": list(answer.classes)}
    return to_json(said)


def read_object() -> dict:
    """The JSON object in the body of the request."""
    kind = request.mimetype
    if kind != "application/json" and not kind.endswith("+json"):
        raise MediaTypeError(f"The body must be application/json, got {kind[:100] or 'no Content-Type'}.")
    content = request.get_data(cache=False)
    if request.content_length is None and len(content) >= request.max_content_length:
        raise RequestEntityTooLarge()  # a body sent in chunks is cut off at the limit, without a word
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as e:
        body = _lenient(content, e)
    if not isinstance(body, dict):
        raise RequestError('The body must be a JSON object; send {"features": [[...], ...]}.')
    return body


def _lenient(content: bytes, error: ValueError):
    """JSON as Python writes it, with NaN and Infinity: then the row and the column can be named."""
    try:
        body = json.loads(content)
        json.dumps(body, ensure_ascii=False).encode()  # half a character, "\ud800", can be neither used nor answered
    except (ValueError, RecursionError):
        reason = "the body is empty" if not content.strip() else str(error)
        raise RequestError(f"The body is not JSON: {reason}.") from None
    return body


def make_ids(n: int) -> list[str]:
    """Ids that nobody else has and that sort by time: milliseconds, chance, row."""
    prefix = f"{time.time_ns() // 1_000_000:012x}{os.urandom(8).hex()}"
    return [f"{prefix}-{row}" for row in range(n)]
