"""The application factory."""

from flask import Flask
from werkzeug.routing import BaseConverter

from mlops_nb.settings import Settings
from serve import dashboard, docs, errors, feedback, health, kserve, metrics, mlflow, model, openapi, predict, v2
from serve.access import Keys
from serve.background import log_defect
from serve.counts import Counts
from serve.live_model import LiveModel
from serve.log import Log
from serve.service import Service
from serve.shortcut import Shortcut


def create_app(settings: Settings | None = None) -> Flask:
    """Make the service; nothing is loaded before `start(app)`."""
    settings = settings or Settings.read()
    app = Service("serve", static_folder=None, access_log=settings.access_log)
    app.config["MAX_CONTENT_LENGTH"] = int(settings.max_body_mb * 2**20)
    app.extensions["settings"] = settings
    app.extensions["log"] = log = Log(settings)
    app.extensions["live_model"] = LiveModel(settings, log.record)
    live_model(app).after_refresh = app.metrics.look
    counts = Counts(live_model(app).name)
    app.metrics.after_count = counts.add
    log.after_step = lambda log: (app.metrics.look_at_log(log), counts.write(log))
    app.extensions["dashboard"] = dashboard.Dashboard(settings, live_model(app), app.metrics)
    app.extensions["keys"] = keys = Keys(settings)
    app.before_request(keys.check)
    shortcut = Shortcut(app.extensions, keys, app.config["MAX_CONTENT_LENGTH"])
    app.shortcut, app.is_quick = shortcut.answer, shortcut.is_quick
    errors.handle(app)
    app.url_map.converters["default"] = _Name
    app.url_map.merge_slashes = False  # an address with two slashes is not found, not redirected
    for module in (predict, feedback, mlflow, kserve, v2, health, model, metrics, openapi, docs, dashboard):
        app.register_blueprint(module.routes)
    return app


class _Name(BaseConverter):
    """A part of an address; what follows a colon is what to do, as in `/v1/models/<name>:predict`."""

    regex, part_isolating = "[^/:]+", True


def live_model(app: Flask) -> LiveModel:
    """The model that an application answers with."""
    return app.extensions["live_model"]


# Those with a thread of their own; the logs end last
_PARTS = ("access_log", "log", "metrics", "live_model", "dashboard")


def start(app: Flask):
    """Load the model and follow it; count, and bring what is predicted to the database."""
    for part in _PARTS:
        app.extensions[part].start()


def stop(app: Flask):
    """Let the model go, ship what was predicted, count what is left."""
    for part in reversed(_PARTS):
        try:
            if part in app.extensions:
                app.extensions[part].stop()
        except Exception as e:  # all others end as well
            log_defect(e)
