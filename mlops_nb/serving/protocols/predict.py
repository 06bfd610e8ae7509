"""POST /predict: predictions of rows as JSON or as an Arrow table."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from flask import Blueprint, Response, current_app, request

from mlops_nb.model.signature import label_text
from mlops_nb.serving.protocols.arrow import ARROW, read_table, wants_arrow, write_table
from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.http.body import reject_unknown_keys, read_object
from mlops_nb.serving.inference.infer import InferenceResult, infer

routes = Blueprint("predict", __name__)


@routes.post("/predict")
def predict() -> Response:
    """Return a prediction and an id for each row; with `"probability": true` the probabilities of the classes too."""
    live = current_app.extensions["live_model"]
    live.loaded()
    probability: bool | str
    if request.mimetype == ARROW:
        result, probability = infer(read_table(), "The table"), False
    else:
        rows, probability = read_features(read_object())
        result = infer(rows, probability=bool(probability))
    return write_table(result, live.name) if wants_arrow() else to_json(content_of(result, live.name, probability))


def read_features(body: dict) -> tuple[object, bool | str]:
    """Return the rows, and the form of the probabilities: False, True (lists) or "named"."""
    reject_unknown_keys(body, {"features", "probability"})
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
    if probability:
        rows = cast(np.ndarray, predictions.probability).tolist()
        classes = list(cast(Sequence, predictions.classes))
        if probability == "named":
            names = list(map(label_text, classes))
            rows = [dict(zip(names, row, strict=True)) for row in rows]
        content |= {"probability": rows, "classes": classes}
    return content
