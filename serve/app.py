"""The prediction service of this project: its protocols, and what the project adds to them."""

from mlops_nb.serving.dashboard import pipeline
from mlops_nb.serving.dashboard import views as dashboard
from mlops_nb.serving.protocols import (
    docs,
    feedback,
    health,
    kserve_v1,
    mlflow,
    model_info,
    open_inference,
    openapi,
    predict,
    repository,
)
from mlops_nb.serving.service import Service
from mlops_nb.serving.telemetry import metrics
from mlops_nb.settings import Settings

# a protocol that is left out is not served, and not described in /openapi.json
PROTOCOLS = (
    predict,
    feedback,
    mlflow,
    kserve_v1,
    open_inference,
    repository,
    health,
    model_info,
    metrics,
    openapi,
    docs,
    dashboard,
    pipeline,
)


def create_app(settings: Settings | None = None) -> Service:
    """Return the service; nothing is loaded before `app.start()`."""
    app = Service(__name__, settings)
    for protocol in PROTOCOLS:
        app.register_blueprint(protocol.routes)
    # Routes, hooks and middleware of this project go here. A route needs an admin key unless its level is declared:
    #     app.extensions["keys"].levels["/mine"] = "key"  # or "open"
    # A hook or a middleware (app.wsgi_app = Middleware(app.wsgi_app)) sees every request, which makes /predict slower.
    return app
