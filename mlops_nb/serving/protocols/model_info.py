"""GET /model: signature, version and provenance of the served model."""

from flask import Blueprint, Response, current_app

from mlops_nb.serving.http.errors import to_json
from mlops_nb.serving.inference.batching import batching_of

routes = Blueprint("model", __name__)

_FIELDS = ("signature", "onnx", "params", "seed", "data", "code", "python", "packages", "run_id", "created")


@routes.get("/model")
def model() -> Response:
    """Return signature, version and provenance of the served model."""
    live = current_app.extensions["live_model"]
    state = live.state
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
