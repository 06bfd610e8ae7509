"""Helper, no test: the service of a project that adds something which must see every request.

Gunicorn makes an application by `tests.serving.project_app:make('before_request')`. Each addition notes the request ids
that it sees in the file of `SEEN_FILE`.
"""

import os
from collections.abc import Callable

import flask
from flask import request

from mlops_nb.serving.protocols import predict
from mlops_nb.serving.service import Service
from mlops_nb.settings import Settings
from serve import app as project
from serve.app import create_app

SEEN_FILE = "SEEN_FILE"


def see(environ: dict):
    """Note that a request was seen, by an id that the client gave."""
    if file := os.environ.get(SEEN_FILE):
        with open(file, "a") as seen:  # noqa: PTH123 (one write of an appending process)
            seen.write(environ.get("HTTP_X_NUMBER", "?") + "\n")


def refuse():
    see(request.environ)
    return "refused", 418


def keep(response):
    see(request.environ)
    return response


class Middleware:
    """A WSGI middleware that delegates what it does not know, as many do."""

    def __init__(self, app):
        self._app = app

    def __call__(self, environ, start_response):
        see(environ)
        return self._app(environ, start_response)

    def __getattr__(self, name):
        return getattr(self._app, name)


class Subclass(Service):
    def full_dispatch_request(self):
        see(request.environ)
        return super().full_dispatch_request()


def before_request(app):
    app.before_request(refuse)


def blueprint_hook(app):
    routes = flask.Blueprint("own", __name__)
    routes.before_app_request(refuse)
    app.register_blueprint(routes)


def after_request(app):
    app.after_request(keep)


def teardown_request(app):
    app.teardown_request(lambda error: see(request.environ))


def teardown_appcontext(app):
    app.teardown_appcontext(lambda error: see({}))  # the request is gone


def url_value_preprocessor(app):
    app.url_value_preprocessor(lambda endpoint, values: see(request.environ))


def on_signal(app):
    app.on_signal = lambda sender, **_: see(request.environ)  # kept: signals hold weak references
    flask.request_started.connect(app.on_signal)


def middleware(app):
    app.wsgi_app = Middleware(app.wsgi_app)


def replaced_method(app):
    dispatch = app.full_dispatch_request
    app.full_dispatch_request = lambda *given: see(request.environ) or dispatch(*given)


def replaced_view(app):
    app.view_functions["predict.predict"] = lambda: see(request.environ) or predict.predict()


ADDITIONS: dict[str, Callable] = {
    f.__name__: f
    for f in (
        before_request,
        blueprint_hook,
        after_request,
        teardown_request,
        teardown_appcontext,
        url_value_preprocessor,
        on_signal,
        middleware,
        replaced_method,
        replaced_view,
    )
}


def make_app(addition: str, settings: Settings | None = None) -> Service:
    """Make the service of a project with one addition."""
    if addition == "subclass":
        app = Subclass(__name__, settings)
        for protocol in project.PROTOCOLS:
            app.register_blueprint(protocol.routes)
    elif addition == "shadowed_route":
        app = Service(__name__, settings)
        app.add_url_rule("/predict", "own", refuse, methods=["POST"])
        for protocol in project.PROTOCOLS:
            app.register_blueprint(protocol.routes)
    else:
        app = create_app(settings)
        if addition in ADDITIONS:
            ADDITIONS[addition](app)
    return app


def make(addition: str):
    """Make and start it, as a project's wsgi.py does."""
    app = make_app(addition)
    app.start()
    return Middleware(app) if addition == "wrapper" else app
