"""KServe's V1 protocol, that of TensorFlow Serving: /v1/models."""

from flask import Blueprint, Response, current_app

from mlops_nb.errors import NotFoundError
from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.http.body import reject_unknown_keys, read_object
from mlops_nb.serving.inference.infer import infer, records_of

routes = Blueprint("kserve", __name__, url_prefix="/v1/models")


@routes.get("")
def names() -> Response:
    """Return the name of the service's model."""
    return to_json({"models": [current_app.extensions["live_model"].name]})


@routes.get("/<name>")
def ready(name: str) -> Response:
    """Return whether the model is loaded."""
    _check_name(name)
    current_app.extensions["live_model"].loaded()
    return to_json({"name": name, "ready": True})


@routes.post("/<name>:predict")
def predict(name: str) -> Response:
    """Return the predictions of instances."""
    _check_name(name)
    current_app.extensions["live_model"].loaded()
    body = read_object('{"instances": [[...], ...]}')
    reject_unknown_keys(body, {"instances", "signature_name"})
    if "instances" not in body:
        raise RequestError("The body has no 'instances'; send {\"instances\": [[...], ...]}.")
    result = infer(body["instances"], "'instances'")
    return to_json({"predictions": records_of(result.predictions)})


def _check_name(name: str):
    served = current_app.extensions["live_model"].name
    if name != served:
        raise NotFoundError(f"There is no model {name[:100]!r} here. There is: {served!r}.")
