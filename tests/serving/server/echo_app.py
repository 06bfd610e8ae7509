"""Helper: an application that responds with what it was asked; inline, where the target begins with /fast."""

import json


def _echo(environ) -> list[tuple[str, str]]:
    names = [name for name in environ if name.isupper() and not name.startswith(("REMOTE_", "SERVER_"))]
    asked = {name: environ[name] for name in [*names, "SERVER_PROTOCOL"] if name != "SCRIPT_NAME"}
    if not environ["PATH_INFO"].startswith("/unread"):
        asked["body"] = environ["wsgi.input"].read().decode("latin-1")
    return [("Echo", json.dumps(asked)), ("Content-Length", "0")]  # in a header, which HEAD has as well


class EchoApplication:
    def __call__(self, environ, start_response):
        start_response("200 OK", _echo(environ))
        return [b""]

    def runs_inline(self, request: bytes) -> bool:
        return b" /fast" in request[:32]

    def fast_response(self, environ):
        return _echo(environ), b""


app = EchoApplication()
