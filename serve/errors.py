"""The one shape of an error: {"error": <what was wrong, what was seen, what to do>, "code": <snake_case>, ...}."""

import re
import traceback

import orjson
from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from mlops_nb.errors import MlopsError

JSON = "application/json"

# The library knows no HTTP: this is the place where its codes become statuses
STATUS = {"bad_input": 400, "bad_request": 400, "too_many_rows": 413, "unsupported_media_type": 415, "no_model": 503}


class RequestError(MlopsError):
    """A request that is not what the route takes."""

    code = "bad_request"


class MediaTypeError(RequestError):
    """A body of another type than JSON."""

    code = "unsupported_media_type"


def to_json(value, status: int = 200) -> Response:
    """An answer."""
    return Response(orjson.dumps(value), status, content_type=JSON)


def handle(app: Flask):
    """Give every error of an application the one shape."""
    app.register_error_handler(MlopsError, _of_library)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _unexpected)


def _of_library(error: MlopsError) -> Response:
    return to_json({"error": str(error), "code": error.code, **error.details}, STATUS.get(error.code, 500))


def _of_http(error: HTTPException) -> Response:
    """What Flask itself refuses: no such route, wrong method, a body that is too large."""
    code = re.sub(r"\W+", "_", error.name.lower())
    answer = to_json({"error": _explain(error), "code": code}, error.code)
    if error.code == 405:
        answer.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return answer


def _explain(error: HTTPException) -> str:
    """What was wrong and what to do, in our words."""
    path = request.path[:200]
    match error.code:
        case 404:
            routes = sorted({str(rule) for rule in current_app.url_map.iter_rules()})
            return f"There is no {path}. There is: {', '.join(routes)}."
        case 405:
            return f"{request.method[:20]} is not for {path}; use {' or '.join(sorted(error.valid_methods))}."
        case 413:
            limit = current_app.extensions["settings"].max_body_mb
            return f"The body is larger than {limit:g} MiB, the limit (MLOPS_MAX_BODY_MB). Send fewer rows at a time."
    return error.description


def _unexpected(error: Exception) -> Response:
    """A defect of ours: its traceback is for the log, not for the client."""
    traceback.print_exception(error)
    message = "The service failed on this request; its log says why. This is a defect: please report it."
    return to_json({"error": message, "code": "internal_error"}, 500)
