"""The shape of every error: {"error": <what was wrong, what was seen, what to do>, "code": <snake_case>, ...}."""

import re

import orjson
from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from mlops_nb.errors import MlopsError
from mlops_nb.serving.http.periodic import log_exception
from mlops_nb.serving.http.early_response import TOO_LARGE

JSON = "application/json"

# status of each error code: the library itself knows no HTTP
STATUS = {"bad_input": 400, "bad_request": 400, "not_found": 404, "too_many_rows": 413}
STATUS |= {"unsupported_media_type": 415, "no_model": 503, "log_full": 503, "unauthorized": 401, "forbidden": 403}
STATUS |= {"conflict": 409, "already_running": 409, "gate_failed": 409, "registry_error": 409, "no_database": 503}


class RequestError(MlopsError):
    """A request is not what the route takes."""

    code = "bad_request"


class MediaTypeError(RequestError):
    """A body has a media type that the route does not take."""

    code = "unsupported_media_type"


def to_json(value, status: int = 200) -> Response:
    """Return a value as a JSON response."""
    return Response(orjson.dumps(value), status, content_type=JSON)


def to_error(error: str, code: str, status: int, **details) -> Response:
    """Return an error response; the Open Inference Protocol has a shape of its own."""
    shape = {} if request.path == "/v2" or request.path.startswith("/v2/") else {"code": code, **details}
    response = to_json({"error": error, **shape}, status)
    response.headers["X-Content-Type-Options"] = "nosniff"  # the message may quote the request
    return response


def register_error_handlers(app: Flask):
    """Give every error of an application the same shape."""
    app.register_error_handler(MlopsError, _handle_library_error)
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(Exception, _handle_unexpected)


def _handle_library_error(error: MlopsError) -> Response:
    response = to_error(str(error), error.code, STATUS.get(error.code, 500), **error.details)
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _handle_http_error(error: HTTPException) -> Response:
    """Return what Flask itself refuses: an unknown route, a wrong method, a body that is too large."""
    code = re.sub(r"\W+", "_", error.name.lower())
    response = to_error(_explain(error), code, error.code or 500)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(_allowed_methods(error))
    return response


def _explain(error: HTTPException) -> str:
    """Return what was wrong and what to do."""
    path = request.path[:200]
    match error.code:
        case 404:
            routes = sorted({str(rule) for rule in current_app.url_map.iter_rules()})
            return f"There is no {path}. There is: {', '.join(routes)}."
        case 405:
            return f"{request.method[:20]} is not for {path}; use {' or '.join(_allowed_methods(error))}."
        case 413:
            return TOO_LARGE.format(current_app.extensions["settings"].max_body_mb)
    return error.description or error.name


def _allowed_methods(error: HTTPException) -> list[str]:
    return sorted(getattr(error, "valid_methods", None) or ())


def _handle_unexpected(error: Exception) -> Response:
    """Log a failure of the service and return that it failed."""
    log_exception(error)
    message = "The service failed on this request; its log says why. This is a defect: please report it."
    return to_error(message, "internal_error", 500)
