"""KServe's V1 protocol, that of TensorFlow Serving: /v1/models."""

from flask import Blueprint, Response, current_app

from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.http.body import pop_flag, read_object, reject_unknown_keys
from mlops_nb.serving.inference.infer import infer, interval_content, records_of
from mlops_nb.serving.inference.models import model_of

routes = Blueprint("kserve", __name__, url_prefix="/v1/models")


@routes.get("")
def names() -> Response:
    """Return the names of the service's models."""
    return to_json({"models": [*current_app.extensions["models"].by_name]})


@routes.get("/<name>")
def ready(name: str) -> Response:
    """Return whether the model is loaded."""
    current_app.extensions["models"].require_ready(model_of(name))
    return to_json({"name": name, "ready": True})


@routes.post("/<name>:predict")
def predict(name: str) -> Response:
    """Return the predictions of instances; with `"interval": true` their intervals or sets of labels, too."""
    live = model_of(name)
    live.loaded()
    body = read_object('{"instances": [[...], ...]}')
    reject_unknown_keys(body, {"instances", "signature_name", "interval"})
    if "instances" not in body:
        raise RequestError("The body has no 'instances'; send {\"instances\": [[...], ...]}.")
    with_interval = pop_flag(body, "interval")
    result = infer(live, body["instances"], "'instances'", interval=with_interval)
    return to_json(
        {"predictions": records_of(result.predictions)} | (interval_content(result) if with_interval else {})
    )
