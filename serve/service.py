"""The application. What happens around every request happens here: its id, its count, its line in the access log."""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import orjson
from flask import Flask
from werkzeug.exceptions import HTTPException

from serve.errors import JSON
from serve.ids import make_id
from serve.metrics import Metrics
from serve.rows import Said
from serve.turn import take

_is_sane = re.compile(r"[A-Za-z0-9._:-]{1,128}").fullmatch


class Service(Flask):
    """A Flask application that names, counts and logs every request.

    What a request leaves in the WSGI environment: `serve.id`, `serve.started` (of `time.monotonic`), `serve.said`, what
    the model said to it (`serve.rows.Said`), `serve.route` when it took the shortcut, and `serve.turn` if the server
    has limits (`serve.turn.Turn`).
    """

    def __init__(self, *given, access_log: bool = True, **named):
        super().__init__(*given, **named)
        self.access_log = access_log
        self.shortcut: Callable[[dict], bytes | None] = lambda environ: None  # See serve/shortcut.py
        self.extensions["metrics"] = self.metrics = Metrics()
        self._addresses = self.url_map.bind("")

    def wsgi_app(self, environ, start_response):
        """Answer a request, with what every answer has."""
        environ["serve.started"] = time.monotonic()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        environ["serve.id"] = request_id = given if _is_sane(given) else make_id()
        if (turn := getattr(environ.get("gunicorn.socket"), "turn", None)) is not None:
            environ["serve.turn"], turn.environ = turn, environ

        def start(status, headers, exc_info=None):
            take(environ)
            self._note(environ, status, headers)
            return start_response(status, [*headers, ("X-Request-ID", request_id)], exc_info)

        self.metrics.in_progress.add(request_id)
        try:
            content = self.shortcut(environ)
            if content is None:
                return super().wsgi_app(environ, start)
            start("200 OK", [("Content-Type", JSON), ("Content-Length", str(len(content)))])
            return [content]
        finally:
            self.metrics.in_progress.discard(request_id)

    def _note(self, environ: dict, status: str, headers: list[tuple[str, str]]):
        """Take down a request when its answer is ready."""
        seconds = time.monotonic() - environ["serve.started"]
        rule = environ.get("serve.route") or _rule(environ)
        path = environ["PATH_INFO"] if rule else environ["werkzeug.request"].path
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
        if not self.access_log:
            return
        line = {
            "at": datetime.now(UTC),
            "id": request_id,
            "method": method[:20],
            "route": rule,
            "status": int(status),
            "ms": int(seconds * 1_000_000) / 1000,
            "bytes": size,
        }
        if rule is None:  # what was asked for that is not there
            line["path"] = path[:100]
        if said is not None:
            line |= {
                "rows": len(said.answer.prediction),
                "model": said.predictor.name,
                "version": said.predictor.version,
                "role": said.role,
            }
        write_line(line)


def _rule(environ: dict) -> str | None:
    """The route that Flask found."""
    rule = environ["werkzeug.request"].url_rule
    return rule and rule.rule


def write_line(line: dict):
    """One write to stdout, so that lines of several threads and workers do not mix."""
    with suppress(OSError):  # a request must not fail because nobody takes the log
        os.write(1, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
