"""The application factory."""

from flask import Flask

from mlops_nb.settings import Settings
from serve import errors, health, model, predict
from serve.live_model import LiveModel


def create_app(settings: Settings | None = None) -> Flask:
    """Make the service; nothing is loaded before `live_model(app).start()`."""
    settings = settings or Settings.read()
    app = Flask("serve", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = int(settings.max_body_mb * 2**20)
    app.extensions["settings"] = settings
    app.extensions["live_model"] = LiveModel(settings)
    errors.handle(app)
    for blueprint in (predict.routes, health.routes, model.routes):
        app.register_blueprint(blueprint)
    return app


def live_model(app: Flask) -> LiveModel:
    """The model that an application answers with."""
    return app.extensions["live_model"]
