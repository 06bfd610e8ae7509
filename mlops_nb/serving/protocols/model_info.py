"""GET /model and GET /models: signature, version and provenance of the served models."""

from flask import Blueprint, Response, current_app

from mlops_nb.serving.http.errors import to_json
from mlops_nb.serving.inference.batching import batching_of
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.inference.models import ServedModels, model_of

routes = Blueprint("model", __name__)

_FIELDS = ("signature", "onnx", "params", "seed", "data", "code", "python", "packages", "run_id", "created")


@routes.get("/models")
def names() -> Response:
    """Return the models of the service, and the state of each."""
    models = current_app.extensions["models"]
    return to_json({"models": [_overview(models, live) for live in models.by_name.values()]})


def _overview(models: ServedModels, live: LiveModel) -> dict:
    """Return what is known of a model without loading it."""
    state = live.state
    return {
        "name": live.name,
        "state": models.state_of(live),
        "production": state.aliases.get("production"),
        "roles": state.roles,
        "reason": models.reason_of(live),
    }


@routes.get("/model")
@routes.get("/models/<name>")
def model(name: str | None = None) -> Response:
    """Return signature, version and provenance of a served model."""
    live = model_of(name)
    state = live.serving()
    predictor = live.loaded(state)
    manifest = predictor.bundle.manifest
    evaluation = manifest.get("evaluation") or {}
    evaluated = {key: evaluation.get(key) for key in ("metrics", "baseline", "gates")}
    shown = {key: manifest.get(key) for key in _FIELDS}
    shown |= {"engine": predictor.engine.name, "parity": _without_texts(manifest.get("parity"))}
    shown["providers"] = predictor.engine.providers  # of its graph; None: it has none
    shown["batching"] = batching_of(predictor).to_dict()
    return to_json({"name": live.name, "version": predictor.version, "roles": state.roles, **shown, **evaluated})


def _without_texts(parity: dict | None) -> dict | None:
    """Return what was verified, without the texts of rows that the model was trained with."""
    if not parity:
        return None
    return {**parity, "domain": {key: value for key, value in parity["domain"].items() if key != "known"}}
