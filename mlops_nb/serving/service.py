"""Flask application that adds a request id, metrics and an access log line to every request."""

import re
import time
from collections.abc import Mapping

import flask.signals
from flask import Flask, request
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import BaseConverter

from mlops_nb.serving.http.auth import ApiKeys
from mlops_nb.serving.http.claim import claim_response
from mlops_nb.serving.http.early_response import RequestHead
from mlops_nb.serving.http.errors import JSON, register_error_handlers
from mlops_nb.serving.http.periodic import log_exception
from mlops_nb.serving.http.query import QueryCheck
from mlops_nb.serving.http.request_id import make_id, trace_id_of
from mlops_nb.serving.http.sites import SiteCheck
from mlops_nb.serving.http.static import allow_frames
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.inference.models import ServedModels
from mlops_nb.serving.protocols.fast_path import MODEL_ROUTE, ROUTE, FastPath
from mlops_nb.serving.protocols.predict import predict
from mlops_nb.serving.telemetry.access_log import AccessLog
from mlops_nb.serving.telemetry.metrics import Metrics
from mlops_nb.serving.telemetry.prediction_logger import PredictionLogger
from mlops_nb.serving.telemetry.request_counts import RequestCounters
from mlops_nb.serving.telemetry.request_record import RequestRecord
from mlops_nb.settings import Settings, split_ancestors

ENDPOINT = "predict.predict"  # of the route that the fast path stands for
# parts with a thread of their own, in the order in which they start; they stop in the opposite order
_PARTS = ("access_log", "log", "metrics", "models", "dashboard")
# receivers of the signals that Flask sends in every request
_RECEIVERS = tuple(
    signal.receivers
    for signal in (
        flask.signals.appcontext_pushed,
        flask.signals.request_started,
        flask.signals.request_finished,
        flask.signals.request_tearing_down,
        flask.signals.appcontext_tearing_down,
        flask.signals.appcontext_popped,
    )
)
# methods through which Flask takes every request; a project may replace them in the application object
_REQUEST_METHODS = frozenset(
    {
        "wsgi_app",
        "request_context",
        "full_dispatch_request",
        "preprocess_request",
        "dispatch_request",
        "finalize_request",
        "make_response",
        "process_response",
    }
)
_is_valid_id = re.compile(r"[A-Za-z0-9._:-]{1,128}").fullmatch


class _NameConverter(BaseConverter):
    """A part of a path that ends at a colon, as in `/v1/models/<name>:predict`."""

    regex, part_isolating = "[^/:]+", True


def _reject_double_slash():
    """Raise `NotFound` for `//predict`, which Werkzeug routes as `/predict` and a proxy's rules may not know."""
    if request.environ["PATH_INFO"].startswith("//"):
        raise NotFound


def live_model(app: Flask) -> LiveModel:
    """Return the model that an application serves; of several, the one of a request that names none."""
    return app.extensions["models"].default()


class Service(Flask):
    """Flask application that identifies, measures and logs every request, and holds the models that it serves.

    Its parts are in `extensions`: `settings`, `models`, `log`, `metrics`, `access_log`, `keys`, `sites` and `query`. A request leaves
    in its WSGI environment: `serving.id`, `serving.started` (`time.monotonic()`), `serving.result` (the
    `InferenceResult`), `serving.model` (the name of the model) and `serving.claim` (the `ResponseClaim`, where the server has limits).
    """

    def __init__(self, import_name: str, settings: Settings | None = None, **options):
        self._predict_is_ours = False
        super().__init__(import_name, **{"static_folder": None, **options})
        settings = settings or Settings.read()
        max_body_bytes = int(settings.max_body_mb * 2**20)
        self.config["MAX_CONTENT_LENGTH"] = max_body_bytes
        log = PredictionLogger(settings)
        self.models = models = ServedModels(settings, log.record)
        self.metrics, self.access_log = Metrics(by_model=not models.is_single), AccessLog(settings.access_log)
        models.after_refresh = self.metrics.update_gauges
        counts = RequestCounters()
        self.metrics.after_count, self.metrics.backlog = counts.add, log.backlog
        log.after_step = lambda log: (self.metrics.update_log_metrics(log), counts.write(log))
        keys = ApiKeys(settings)
        sites, query = SiteCheck(settings, keys), QueryCheck()
        self.extensions |= {"settings": settings, "log": log, "models": models, "keys": keys, "sites": sites}
        self.extensions |= {"metrics": self.metrics, "access_log": self.access_log, "query": query}
        self.before_request(_reject_double_slash)
        self.before_request(sites.check)
        self.before_request(keys.check)
        self.before_request(query.check)
        if settings.frame_ancestors:
            self.after_request(allow_frames(split_ancestors(settings.frame_ancestors)))
        self._own_hooks = {None: [_reject_double_slash, sites.check, keys.check, query.check]}
        self._fast_path = FastPath(self.extensions, keys, sites, max_body_bytes)
        register_error_handlers(self)
        self.url_map.converters["default"] = _NameConverter
        self.url_map.merge_slashes = False  # a path with two slashes is not found, not redirected
        self._urls = self.url_map.bind("")

    def add_url_rule(self, *args, **kwargs):
        """Add a route, and see whether `POST /predict` is still the library's."""
        super().add_url_rule(*args, **kwargs)
        try:
            match = self.url_map.bind("").match
            self._predict_is_ours = all(
                match(path, "POST")[0] == ENDPOINT for path in (ROUTE, MODEL_ROUTE.replace("<name>", "x"))
            )
        except HTTPException:
            self._predict_is_ours = False

    # the life of a worker

    def start(self):
        """Load a model and follow the registry; begin to count requests and to ship the prediction log."""
        for part in _PARTS:
            if part in self.extensions:
                self.extensions[part].start()

    def stop(self):
        """Release the models, ship the prediction log, count the remaining requests."""
        for part in reversed(_PARTS):
            try:
                if part in self.extensions:
                    self.extensions[part].stop()
            except Exception as e:  # all others stop as well
                log_exception(e)

    @property
    def has_model(self) -> bool:
        """Whether a model can predict; a worker without one leaves requests to the others."""
        return self.models.can_predict()

    @property
    def shares_calls(self) -> bool:
        """Whether requests wait for each other to share calls of a model, so that they need more threads."""
        return any(live.state.shares_calls for live in self.models.by_name.values())

    # the fast path: a usual request without Flask's objects

    @property
    def has_fast_path(self) -> bool:
        """Whether nothing of the project's must see every request: no hook, signal, middleware or route of its own."""
        return (
            self._predict_is_ours
            and self.view_functions.get(ENDPOINT) is predict
            and self.before_request_funcs == self._own_hooks
            and not (
                self.after_request_funcs
                or self.teardown_request_funcs
                or self.teardown_appcontext_funcs
                or self.url_value_preprocessors
            )
            and type(self) is Service
            and self.__dict__.keys().isdisjoint(_REQUEST_METHODS)
            and not any(_RECEIVERS)
        )

    def runs_inline(self, request: bytes) -> bool:
        """Whether a response to a whole raw request takes less time than a thread would take to receive it."""
        return self._fast_path.runs_inline(request) and self.has_fast_path

    def fast_response(self, environ: dict) -> tuple[list[tuple[str, str]], bytes] | None:
        """Return headers and body of a response with status 200 to a request that runs inline; None: `wsgi_app` responds."""
        self._begin(environ)
        try:
            return self._fast_response(environ)
        finally:
            self._end(environ)

    def _fast_response(self, environ: dict) -> tuple[list[tuple[str, str]], bytes] | None:
        content = self._fast_path.respond(environ)
        if content is None:
            return None
        claim_response(environ)
        request_id, size = environ["serving.id"], len(content)
        seconds = time.monotonic() - environ["serving.started"]
        path, route, model = environ["PATH_INFO"], environ["serving.route"], environ["serving.model"]
        result = environ["serving.result"]
        trace_id = trace_id_of(environ)
        self._record(RequestRecord(request_id, "POST", path, route, "200", seconds, size, trace_id, result, model))
        return [("Content-Type", JSON), ("Content-Length", str(size)), ("X-Request-ID", request_id)], content

    # every request

    def wsgi_app(self, environ, start_response):
        """Respond to a request, by the fast path where it can."""

        def start(status, headers, exc_info=None):
            claim_response(environ)
            self._record_response(environ, status, headers)
            return start_response(status, [*headers, ("X-Request-ID", environ["serving.id"])], exc_info)

        self._begin(environ)
        try:
            if (claim := getattr(environ.get("gunicorn.socket"), "claim", None)) is not None:
                environ["serving.claim"], claim.environ = claim, environ
            response = self._fast_response(environ) if self.has_fast_path else None
            if response is None:
                return super().wsgi_app(environ, start)
            headers, content = response
            start_response("200 OK", headers)
            return [content]
        finally:
            self._end(environ)

    def _begin(self, environ: dict):
        """Give a request its id, and count it among those in progress."""
        environ["serving.started"] = time.monotonic()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        environ["serving.id"] = given if _is_valid_id(given) else make_id()
        self.metrics.in_progress.add(id(environ))  # several may have one id of a client

    def _end(self, environ: dict):
        self.metrics.in_progress.discard(id(environ))

    def _record_response(self, environ: dict, status: str, headers: list[tuple[str, str]]):
        """Record a request when its response is ready."""
        seconds = time.monotonic() - environ["serving.started"]
        request = environ["werkzeug.request"]
        route = request.url_rule and request.url_rule.rule
        size = dict(headers).get("Content-Length")
        self._record(
            RequestRecord(
                request_id=environ["serving.id"],
                method=environ["REQUEST_METHOD"],
                path=environ["PATH_INFO"] if route else request.path,
                route=route,
                status=status[:3],
                seconds=seconds,
                size=None if size is None else int(size),
                trace_id=trace_id_of(environ),
                result=environ.get("serving.result"),
                model=environ.get("serving.model") or self._model_of(request.view_args),
            )
        )

    def record_refused(self, head: RequestHead, status: str, seconds: float, size: int):
        """Record a request that the server responded to itself; its head may be incomplete."""
        method, path = head.method, head.path
        try:
            rule, view_args = self._urls.match(path, method, return_rule=True)
        except HTTPException:
            route = model = None
        else:
            route, model = rule.rule, self._model_of(view_args)
        request_id = head.request_id or make_id()
        self._record(RequestRecord(request_id, method, path, route, status, seconds, size, head.trace_id, None, model))

    def _model_of(self, view_args: Mapping | None) -> str | None:
        """Return the name of the model that a path names, or of the service's first; None where it is not known."""
        name = (view_args or {}).get("name")
        first = self.models.first
        if name is None or self.models.is_single:
            return None if first is None else first.name
        return name if name in self.models.by_name else None

    def _record(self, record: RequestRecord):
        self.metrics.record(record)
        self.access_log.record(record)
