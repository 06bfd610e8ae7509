"""The application. What happens around every request happens here: its id, its count, its line in the access log."""

import re
import time
from collections.abc import Callable
from contextlib import contextmanager

from flask import Flask
from werkzeug.exceptions import HTTPException

from serve.access_log import AccessLog
from serve.errors import JSON
from serve.ids import make_id
from serve.metrics import Metrics
from serve.rows import Said
from serve.shortcut import ROUTE
from serve.turn import take

_is_sane = re.compile(r"[A-Za-z0-9._:-]{1,128}").fullmatch


class Service(Flask):
    """A Flask application that names, counts and logs every request.

    What a request leaves in the WSGI environment: `serve.id`, `serve.started` (of `time.monotonic`), `serve.said`, what
    the model said to it (`serve.rows.Said`), and `serve.turn` if the server has limits (`serve.turn.Turn`).
    """

    def __init__(self, *given, access_log: bool = True, **named):
        super().__init__(*given, **named)
        self.extensions["access_log"] = self.access_log = AccessLog(access_log)
        self.shortcut: Callable[[dict], bytes | None] = lambda environ: None  # See serve/shortcut.py
        self.is_quick: Callable[[bytes], bool] = lambda request: False  # The same
        self.extensions["metrics"] = self.metrics = Metrics()
        self._addresses = self.url_map.bind("")

    def wsgi_app(self, environ, start_response):
        """Answer a request, with what every answer has."""

        def start(status, headers, exc_info=None):
            take(environ)
            self._note(environ, status, headers)
            return start_response(status, [*headers, ("X-Request-ID", environ["serve.id"])], exc_info)

        with self._in_progress(environ):
            if (turn := getattr(environ.get("gunicorn.socket"), "turn", None)) is not None:
                environ["serve.turn"], turn.environ = turn, environ
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
        content = self.shortcut(environ)
        if content is None:
            return None
        take(environ)
        request_id, size = environ["serve.id"], len(content)
        seconds = time.monotonic() - environ["serve.started"]
        self._take_down(request_id, "POST", ROUTE, ROUTE, "200", seconds, size, environ["serve.said"])
        return [("Content-Type", JSON), ("Content-Length", str(size)), ("X-Request-ID", request_id)], content

    @contextmanager
    def _in_progress(self, environ: dict):
        """Name a request, and count it among those that are being answered."""
        environ["serve.started"] = time.monotonic()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        environ["serve.id"] = given if _is_sane(given) else make_id()
        self.metrics.in_progress.add(id(environ))  # several may have one name
        try:
            yield
        finally:
            self.metrics.in_progress.discard(id(environ))

    def _note(self, environ: dict, status: str, headers: list[tuple[str, str]]):
        """Take down a request when its answer is ready."""
        seconds = time.monotonic() - environ["serve.started"]
        asked = environ["werkzeug.request"]
        rule = asked.url_rule and asked.url_rule.rule  # The route that Flask found
        path = environ["PATH_INFO"] if rule else asked.path
        size = dict(headers).get("Content-Length")
        answered = status[:3], seconds, size and int(size), environ.get("serve.said")
        self._take_down(environ["serve.id"], environ["REQUEST_METHOD"], path, rule, *answered)

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
        said: Said | None = None,
    ):
        self.metrics.note(rule or "none", status, seconds, said)
        self.access_log.note(request_id, method, path, rule, status, seconds, size, said)
