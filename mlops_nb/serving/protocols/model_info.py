"""GET /model: what the service answers with, and where it came from."""

from flask import Blueprint, Response, current_app

from mlops_nb.serving.http.errors import to_json

routes = Blueprint("model", __name__)

_SHOWN = ("signature", "engine", "onnx", "params", "seed", "data", "code", "python", "packages", "run_id", "created")


@routes.get("/model")
def model() -> Response:
    """Signature, version and provenance."""
    live = current_app.extensions["live_model"]
    state = live.state
    predictor = live.loaded(state)
    manifest = predictor.bundle.manifest
    evaluation = manifest.get("evaluation") or {}
    judged = {key: evaluation.get(key) for key in ("metrics", "baseline", "gates")}
    shown = {key: manifest.get(key) for key in _SHOWN}
    return to_json({"name": live.name, "version": predictor.version, "roles": state.roles, **shown, **judged})
