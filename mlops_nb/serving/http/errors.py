"""The one shape of an error: {"error": <what was wrong, what was seen, what to do>, "code": <snake_case>, ...}."""

import re

import orjson
from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from mlops_nb.errors import MlopsError
from mlops_nb.serving.http.periodic import log_exception
from mlops_nb.serving.http.early_response import TOO_LARGE

JSON = "application/json"

# The library knows no HTTP: this is the place where its codes become statuses
STATUS = {"bad_input": 400, "bad_request": 400, "not_found": 404, "too_many_rows": 413}
STATUS |= {"unsupported_media_type": 415, "no_model": 503, "log_full": 503, "unauthorized": 401, "forbidden": 403}
STATUS |= {"conflict": 409, "gate_failed": 409, "registry_error": 409, "no_database": 503}


class RequestError(MlopsError):
    """A request that is not what the route takes."""

    code = "bad_request"


class MediaTypeError(RequestError):
    """A body of another type than JSON."""

    code = "unsupported_media_type"


def to_json(value, status: int = 200) -> Response:
    """An answer."""
    return Response(orjson.dumps(value), status, content_type=JSON)


def to_error(error: str, code: str, status: int, **details) -> Response:
    """An answer that says what was wrong; the Open Inference Protocol has a shape of its own for it."""
    shape = {} if request.path == "/v2" or request.path.startswith("/v2/") else {"code": code, **details}
    answer = to_json({"error": error, **shape}, status)
    answer.headers["X-Content-Type-Options"] = "nosniff"  # it may quote what was sent
    return answer


def register_error_handlers(app: Flask):
    """Give every error of an application the one shape."""
    app.register_error_handler(MlopsError, _of_library)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _unexpected)


def _of_library(error: MlopsError) -> Response:
    answer = to_error(str(error), error.code, STATUS.get(error.code, 500), **error.details)
    if answer.status_code == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _of_http(error: HTTPException) -> Response:
    """What Flask itself refuses: no such route, wrong method, a body that is too large."""
    code = re.sub(r"\W+", "_", error.name.lower())
    answer = to_error(_explain(error), code, error.code)
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
            return TOO_LARGE.format(current_app.extensions["settings"].max_body_mb)
    return error.description


def _unexpected(error: Exception) -> Response:
    """A defect of ours."""
    log_exception(error)
    message = "The service failed on this request; its log says why. This is a defect: please report it."
    return to_error(message, "internal_error", 500)
