"""The media type of Arrow, known without importing Arrow."""

from flask import request

from mlops_nb.serving.http.errors import JSON

ARROW = "application/vnd.apache.arrow.stream"


def wants_arrow() -> bool:
    """Whether the client prefers a table to JSON."""
    accepted = request.environ.get("HTTP_ACCEPT")
    return accepted is not None and ARROW in accepted and request.accept_mimetypes.best_match([JSON, ARROW]) == ARROW
