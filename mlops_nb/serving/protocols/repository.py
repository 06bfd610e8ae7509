"""The model repository extension of the Open Inference Protocol, as Triton has it: /v2/repository."""

from flask import Blueprint, Response, current_app

from mlops_nb.serving.http.body import parse_object, read_body, reject_unknown_keys
from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.inference.live_model import FIRST_LOAD, LiveModel
from mlops_nb.serving.inference.models import ServedModels, model_of

routes = Blueprint("repository", __name__, url_prefix="/v2/repository")


@routes.post("/index")
def index() -> Response:
    """Return the models of the service with their states; with `"ready": true` those that can predict."""
    body = _read({"ready"})
    if not isinstance(body.get("ready", False), bool):
        raise RequestError("'ready' must be true or false.")
    models: ServedModels = current_app.extensions["models"]
    entries = [_entry(models, live) for live in models.by_name.values()]
    return to_json([entry for entry in entries if entry["state"] == "READY" or not body.get("ready")])


@routes.post("/models/<name>/load")
def load(name: str) -> Response:
    """Load a model, also one that was unloaded."""
    live = model_of(name)
    if _read({"parameters"}).get("parameters"):
        raise RequestError("A model is loaded as it is registered: leave 'parameters' out.")
    current_app.extensions["models"].load(live)
    return to_json({})


@routes.post("/models/<name>/unload")
def unload(name: str) -> Response:
    """Release a model until it is loaded by name; its requests get 503 meanwhile."""
    live = model_of(name)
    parameters = _read({"parameters"}).get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError("'parameters' must be an object.")
    reject_unknown_keys(parameters, {"unload_dependents"}, "'parameters'")  # a model has no dependents here
    current_app.extensions["models"].unload(live)
    return to_json({})


def _read(keys: set[str]) -> dict:
    """Return the JSON object of the body, which may be empty."""
    content = read_body()
    body = parse_object(content, "{}") if content.strip() else {}
    reject_unknown_keys(body, keys)
    return body


def _entry(models: ServedModels, live: LiveModel) -> dict:
    version = live.state.production.version if live.state.production else live.state.aliases.get("production")
    is_known = live.state.problem != FIRST_LOAD
    ready = live.can_predict or (is_known and models.state_of(live) == "not loaded")
    entry = {"name": live.name, "version": "" if version is None else str(version)}
    if ready and not models.is_unloaded(live):
        return entry | {"state": "READY", "reason": ""}
    reason = "unloaded" if models.is_unloaded(live) else models.reason_of(live)
    return entry | {"state": "UNAVAILABLE", "reason": reason or models.state_of(live)}
