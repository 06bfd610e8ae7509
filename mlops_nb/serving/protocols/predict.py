"""POST /predict."""

from flask import Blueprint, Response, current_app, request

from mlops_nb.model.signature import label_text
from mlops_nb.serving.protocols.arrow import ARROW, read_table, wants_arrow, write_table
from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.http.body import reject_unknown_keys, read_object
from mlops_nb.serving.inference.infer import InferenceResult, infer

routes = Blueprint("predict", __name__)


@routes.post("/predict")
def predict() -> Response:
    """One prediction and one id a row; with `"probability": true` the probabilities of the classes too."""
    live = current_app.extensions["live_model"]
    live.loaded()
    if request.mimetype == ARROW:
        said, probability = infer(read_table(), "The table"), False
    else:
        said, probability = _ask_json()
    return write_table(said, live.name) if wants_arrow() else to_json(content_of(said, live.name, probability))


def _ask_json() -> tuple[InferenceResult, bool | str]:
    """What the model says about the rows of a JSON body, and in which form the probabilities are wanted."""
    rows, probability = read_features(read_object())
    return infer(rows, probability=bool(probability)), probability


def read_features(body: dict) -> tuple[object, bool | str]:
    """The rows, and in which form the probabilities are wanted."""
    reject_unknown_keys(body, {"features", "probability"})
    if "features" not in body:
        raise RequestError(
            "The body has no 'features'; send {\"features\": [[...], ...]}. GET /model lists the columns."
        )
    probability = body.get("probability", False)
    if not isinstance(probability, bool) and probability != "named":
        raise RequestError("'probability' must be true, false or \"named\".")
    return body["features"], probability


def content_of(said: InferenceResult, model: str, probability: bool | str) -> dict:
    """The answer in JSON."""
    answer = said.predictions
    content = {
        "prediction": answer.prediction.tolist(),
        "ids": said.ids,
        "model": model,
        "version": said.predictor.version,
    }
    if probability:
        rows, classes = answer.probability.tolist(), list(answer.classes)
        if probability == "named":
            names = list(map(label_text, classes))
            rows = [dict(zip(names, row, strict=True)) for row in rows]
        content |= {"probability": rows, "classes": classes}
    return content
