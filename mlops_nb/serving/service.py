"""Flask application that adds a request id, metrics and an access log line to every request."""

import re
import time
from contextlib import contextmanager

from flask import Flask, request_finished, request_started, request_tearing_down
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from mlops_nb.serving.telemetry.access_log import AccessLog
from mlops_nb.serving.http.errors import JSON, register_error_handlers
from mlops_nb.serving.http.request_id import make_id
from mlops_nb.serving.telemetry.metrics import Metrics
from mlops_nb.serving.inference.infer import InferenceResult
from mlops_nb.serving.protocols.fast_path import ROUTE, FastPath
from mlops_nb.serving.protocols.predict import predict
from mlops_nb.serving.http.auth import ApiKeys
from mlops_nb.serving.http.periodic import log_exception
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.telemetry.prediction_logger import PredictionLogger
from mlops_nb.serving.telemetry.request_counts import RequestCounter
from mlops_nb.settings import Settings
from mlops_nb.serving.http.claim import claim_response

ENDPOINT = "predict.predict"  # of the route that the fast path stands for
_SIGNALS = (request_started, request_finished, request_tearing_down)
# parts with a thread of their own; the logs end last
_PARTS = ("access_log", "log", "metrics", "live_model", "dashboard")
_is_sane = re.compile(r"[A-Za-z0-9._:-]{1,128}").fullmatch


class _NameConverter(BaseConverter):
    """A part of a path that ends at a colon, as in `/v1/models/<name>:predict`."""

    regex, part_isolating = "[^/:]+", True


def live_model(app: Flask) -> LiveModel:
    """Return the model that an application serves."""
    return app.extensions["live_model"]


class Service(Flask):
    """Flask application that identifies, measures and logs every request, and holds the model that it serves.

    Its parts are in `extensions`: `settings`, `live_model`, `log`, `metrics`, `access_log` and `keys`. A request leaves
    in its WSGI environment: `serving.id`, `serving.started` (of `time.monotonic`), `serving.result` (the `InferenceResult`)
    and `serving.claim` (the `ResponseClaim`, where the server has limits).
    """

    def __init__(self, import_name: str, settings: Settings | None = None, **options):
        super().__init__(import_name, **{"static_folder": None, **options})
        settings = settings or Settings.read()
        self.config["MAX_CONTENT_LENGTH"] = int(settings.max_body_mb * 2**20)
        self.metrics, self.access_log = Metrics(), AccessLog(settings.access_log)
        log = PredictionLogger(settings)
        live = LiveModel(settings, log.record)
        live.after_refresh = self.metrics.look
        counts = RequestCounter(live.name)
        self.metrics.after_count = counts.add
        log.after_step = lambda log: (self.metrics.look_at_log(log), counts.write(log))
        keys = ApiKeys(settings)
        self.extensions |= {"settings": settings, "log": log, "live_model": live, "keys": keys}
        self.extensions |= {"metrics": self.metrics, "access_log": self.access_log}
        self.before_request(keys.check)
        self._own_hooks = keys.check
        self._fast_path = FastPath(self.extensions, keys, self.config["MAX_CONTENT_LENGTH"])
        register_error_handlers(self)
        self.url_map.converters["default"] = _NameConverter
        self.url_map.merge_slashes = False  # a path with two slashes is not found, not redirected
        self._addresses = self.url_map.bind("")

    # the life of a worker

    def start(self):
        """Load the model and follow it; count requests, and ship the prediction log."""
        for part in _PARTS:
            if part in self.extensions:
                self.extensions[part].start()

    def stop(self):
        """Release the model, ship the prediction log, count the remaining requests."""
        for part in reversed(_PARTS):
            try:
                if part in self.extensions:
                    self.extensions[part].stop()
            except Exception as e:  # all others end as well
                log_exception(e)

    # the usual request, without Flask's objects

    @property
    def has_fast_path(self) -> bool:
        """Whether nothing of the project's must see every request: no hook, no middleware, no route of its own."""
        return (
            type(self) is Service
            and "wsgi_app" not in vars(self)
            and self.view_functions.get(ENDPOINT) is predict
            and self.before_request_funcs == {None: [self._own_hooks]}
            and not any(hooks for scope in self._hooks() for hooks in scope.values())
            and not any(signal.receivers for signal in _SIGNALS)
        )

    def _hooks(self):
        """All hooks of requests but `before_request`, by scope."""
        return self.after_request_funcs, self.teardown_request_funcs, self.url_value_preprocessors

    def runs_inline(self, request: bytes) -> bool:
        """Whether a whole raw request is answered in less time than a thread would take to receive it."""
        return self._fast_path.runs_inline(request) and self.has_fast_path

    def wsgi_app(self, environ, start_response):
        """Answer a request, with what every answer has."""

        def start(status, headers, exc_info=None):
            claim_response(environ)
            self._note(environ, status, headers)
            return start_response(status, [*headers, ("X-Request-ID", environ["serving.id"])], exc_info)

        with self._in_progress(environ):
            if (turn := getattr(environ.get("gunicorn.socket"), "turn", None)) is not None:
                environ["serving.claim"], turn.environ = turn, environ
            usual = self._answer_usual(environ)
            if usual is None:
                return super().wsgi_app(environ, start)
            start_response("200 OK", usual[0])
            return [usual[1]]

    def answer_usual(self, environ: dict) -> tuple[list[tuple[str, str]], bytes] | None:
        """Headers and content of an answer with status 200; None when `wsgi_app` shall answer, from the beginning."""
        with self._in_progress(environ):
            return self._answer_usual(environ)

    def _answer_usual(self, environ: dict):
        content = self._fast_path.answer(environ) if self.has_fast_path else None
        if content is None:
            return None
        claim_response(environ)
        request_id, size = environ["serving.id"], len(content)
        seconds = time.monotonic() - environ["serving.started"]
        self._take_down(request_id, "POST", ROUTE, ROUTE, "200", seconds, size, environ["serving.result"])
        return [("Content-Type", JSON), ("Content-Length", str(size)), ("X-Request-ID", request_id)], content

    @contextmanager
    def _in_progress(self, environ: dict):
        """Name a request, and count it among those that are being answered."""
        environ["serving.started"] = time.monotonic()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        environ["serving.id"] = given if _is_sane(given) else make_id()
        self.metrics.in_progress.add(id(environ))  # several may have one name
        try:
            yield
        finally:
            self.metrics.in_progress.discard(id(environ))

    def _note(self, environ: dict, status: str, headers: list[tuple[str, str]]):
        """Take down a request when its answer is ready."""
        seconds = time.monotonic() - environ["serving.started"]
        asked = environ["werkzeug.request"]
        rule = asked.url_rule and asked.url_rule.rule  # The route that Flask found
        path = environ["PATH_INFO"] if rule else asked.path
        size = dict(headers).get("Content-Length")
        answered = status[:3], seconds, size and int(size), environ.get("serving.result")
        self._take_down(environ["serving.id"], environ["REQUEST_METHOD"], path, rule, *answered)

    def note_refused(self, request_id: str, method: str, path: str, status: str, seconds: float, size: int):
        """Take down a request that the server answered itself; of what it asked for there may be a part."""
        try:
            rule = self._addresses.match(path, method, return_rule=True)[0].rule
        except HTTPException:
            rule = None
        self._take_down(request_id, method, path, rule, status, seconds, size)

    def _take_down(
        self,
        request_id: str,
        method: str,
        path: str,
        rule: str | None,
        status: str,
        seconds: float,
        size: int | None,
        said: InferenceResult | None = None,
    ):
        self.metrics.note(rule or "none", status, seconds, said)
        self.access_log.note(request_id, method, path, rule, status, seconds, size, said)
