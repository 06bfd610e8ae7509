"""GET /docs: a page to try the service, which loads nothing from another host."""

from pathlib import Path

from flask import Blueprint, Response

routes = Blueprint("docs", __name__, url_prefix="/docs")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@routes.get("")
def page() -> Response:
    """The page."""
    return send_file("docs.html", "text/html")


@routes.get("/style.css")
def style() -> Response:
    """How it looks."""
    return send_file("docs.css", "text/css")


@routes.get("/script.js")
def script() -> Response:
    """What it does."""
    return send_file("docs.js", "text/javascript")


def send_file(name: str, kind: str) -> Response:
    """A file of this folder, for a browser."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return Response(text, headers=HEADERS, content_type=f"{kind}; charset=utf-8")
