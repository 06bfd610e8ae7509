"""GET /health/live and GET /health/ready: liveness of the process, readiness of its model."""

from flask import Blueprint, Response, current_app

from mlops_nb.serving.http.errors import to_json
from mlops_nb.serving.inference.live_model import NoModelError

routes = Blueprint("health", __name__, url_prefix="/health")


@routes.get("/live")
def live() -> Response:
    """Return that the process is alive."""
    return to_json({"live": True})


@routes.get("/ready")
def ready() -> Response:
    """Return whether a verified model is loaded, and which versions are refused, with reasons."""
    live = current_app.extensions["live_model"]
    now = live.state
    refused = [{"version": version, "reason": reason} for version, reason in sorted(now.refused.items())]
    state = {"model": live.name, "production": now.aliases.get("production"), "roles": now.roles, "refused": refused}
    state |= {"problem": now.problem, "from_cache": now.from_cache, "canary": now.trial and now.trial.counts()}
    state |= {"shadow": now.shadow and live.shadow.counts, "rolled_back": now.rolled_back}
    try:
        predictor = live.loaded(now)
    except NoModelError as e:
        return to_json({"ready": False, "error": str(e), "code": e.code, **state}, 503)
    return to_json({"ready": True, "version": predictor.version, "engine": predictor.engine.name, **state})
