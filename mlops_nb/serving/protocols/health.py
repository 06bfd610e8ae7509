"""GET /health/live and GET /health/ready: liveness of the process, readiness of its models."""

from flask import Blueprint, Response, current_app

from mlops_nb.serving.http.errors import to_json
from mlops_nb.serving.inference.live_model import LiveModel, NoModelError
from mlops_nb.serving.inference.models import ServedModels, model_of

routes = Blueprint("health", __name__)


@routes.get("/health/live")
def live() -> Response:
    """Return that the process is alive."""
    return to_json({"live": True})


@routes.get("/health/ready")
def ready() -> Response:
    """Return whether a verified model is loaded, and which versions are refused, with reasons; or of several, all."""
    models: ServedModels = current_app.extensions["models"]
    if models.is_single:
        return _to_response(models.default())
    served = {
        live.name: {
            "ready": live.can_predict and not models.is_unloaded(live),
            "state": models.state_of(live),
            **_state_of(live),
        }
        for live in models.by_name.values()
    }
    try:
        models.require_any()
    except NoModelError as e:
        return to_json({"ready": False, "error": str(e), "code": e.code, "models": served}, 503)
    return to_json({"ready": True, "models": served})


@routes.get("/models/<name>/health/ready")
def model_ready(name: str) -> Response:
    """Return whether a model can predict; one that was not loaded yet is loaded."""
    return _to_response(model_of(name))


def _to_response(live: LiveModel) -> Response:
    try:
        current_app.extensions["models"].require_ready(live)
    except NoModelError as e:
        return to_json({"ready": False, "error": str(e), "code": e.code, **_state_of(live)}, 503)
    predictor = live.predictor
    served = {"version": predictor.version, "engine": predictor.engine.name} if predictor else {}
    return to_json({"ready": True, **served, **_state_of(live)})


def _state_of(live: LiveModel) -> dict:
    now = live.state
    refused = [{"version": version, "reason": reason} for version, reason in sorted(now.refused.items())]
    state: dict = {
        "model": live.name,
        "production": now.aliases.get("production"),
        "roles": now.roles,
        "refused": refused,
    }
    state |= {"problem": now.problem, "from_cache": now.from_cache, "canary": now.trial and now.trial.counts()}
    return state | {"shadow": now.shadow and live.shadow.counts, "rolled_back": now.rolled_back}
