"""The usual request without Flask, whose objects cost more than parsing, model and log together.

Usual is a valid `POST /predict`, or `POST /models/<name>/predict`, of plain JSON to a loaded model. Any other request is left to Flask, which handles it from the start.
"""

import re
from io import BytesIO

import orjson

from mlops_nb.serving.http.auth import ApiKeys
from mlops_nb.serving.http.errors import JSON, RequestError
from mlops_nb.serving.http.media_types import ARROW
from mlops_nb.serving.http.sites import BROWSER_HEADERS, SiteCheck
from mlops_nb.serving.http.unique_keys import loads
from mlops_nb.serving.protocols.predict import content_of, read_features
from mlops_nb.serving.inference.infer import run_inference
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.inference.models import ServedModels

ROUTE = "/predict"
MODEL_ROUTE = "/models/<name>/predict"
_PREFIX, _SUFFIX = MODEL_ROUTE.split("<name>")
# a prediction in any protocol, with the name of the model where it is in the path
_match_prediction = re.compile(
    rb"POST /(?:predict|models/([^/ ]+)/predict|invocations|v1/models/([^/: ]+):predict"
    rb"|v2/models/([^/ ]+)(?:/versions/[^/ ]+)?/infer) "
).match
MAX_INLINE_BYTES = 4 * 2**10  # of a request that runs inline
MAX_INLINE_BRACKETS = 4  # opening brackets in it, [ and {, but for those of shapes: those of one row or two
# in a small request for which many rows are predicted: those that it packs, or those that explain one
_MANY_ROWS = (b"content-encoding", b"arrow", b'"explain"', b"\\u006", b"\\u007")  # or its letters
_UNUSUAL_HEADERS = ("HTTP_CONTENT_ENCODING", *BROWSER_HEADERS)
# what many a client writes; JSON is UTF-8 whatever it says
_USUAL_TYPES = frozenset(
    {JSON, *(f"{JSON};{space}charset={name}" for space in ("", " ") for name in ("utf-8", "UTF-8"))}
)


class FastPath:
    """From the WSGI environment to the body of the response."""

    def __init__(self, extensions: dict, keys: ApiKeys, sites: SiteCheck, max_body_bytes: int):
        self._extensions, self._keys, self._most_bytes = extensions, keys, max_body_bytes
        self._models: ServedModels = extensions["models"]
        self._is_allowed_host = sites.is_allowed_host

    def respond(self, environ: dict) -> bytes | None:
        """Return the body of a response; None, and the request as it was, when Flask shall respond."""
        route, live = self._find(environ["PATH_INFO"])
        if live is None or not self._is_usual(environ):
            return None
        state = live.state
        if state.production is None or state.trial is not None:  # a canary counts what fails
            return None
        length = environ.get("CONTENT_LENGTH")
        content = environ["wsgi.input"].read(int(length) if length else None)
        try:
            if length and len(content) < int(length):
                raise RequestError("The body ended too early.")
            self._keys.require(route, environ)
            rows, probability = read_features(loads(content))
            result = run_inference(environ, self._extensions, live, state, rows, probability=bool(probability))
            environ["serving.model"], environ["serving.route"] = live.name, route
            return orjson.dumps(content_of(result, result.predictor.name, probability))
        except Exception:  # whatever it is: the route meets it again, and responds to it
            environ["wsgi.input"] = BytesIO(content)
            return None

    def runs_inline(self, request: bytes) -> bool:
        """Whether a whole request takes less time than waking a thread for it."""
        if len(request) > MAX_INLINE_BYTES or (found := _match_prediction(request)) is None:
            return False
        name = found[found.lastindex].decode("latin-1") if found.lastindex else None
        live = self._models.first if name is None else self._models.by_name.get(name)
        return (
            live is not None
            and live.state.runs_inline
            and not any(map(request.lower().__contains__, _MANY_ROWS))
            and request.count(b"[") + request.count(b"{") - request.count(b'"shape"') <= MAX_INLINE_BRACKETS
        )

    def _find(self, path: str) -> tuple[str, LiveModel | None]:
        """Return the route of a path and its model; None where another route or Flask shall respond."""
        if path == ROUTE:
            return ROUTE, self._models.first
        if path.startswith(_PREFIX) and path.endswith(_SUFFIX):
            return MODEL_ROUTE, self._models.by_name.get(path[len(_PREFIX) : -len(_SUFFIX)])
        return path, None

    def _is_usual(self, environ: dict) -> bool:
        return (
            environ["REQUEST_METHOD"] == "POST"
            and not environ.get("QUERY_STRING")
            and environ.get("CONTENT_TYPE") in _USUAL_TYPES
            and self._has_usual_body(environ)
            and not any(map(environ.__contains__, _UNUSUAL_HEADERS))
            and self._is_allowed_host(environ.get("HTTP_HOST"))
            and ARROW not in environ.get("HTTP_ACCEPT", "")
        )

    def _has_usual_body(self, environ: dict) -> bool:
        """Whether a body is within the limit, by its length or, where it came in chunks, because the server has it whole."""
        length = environ.get("CONTENT_LENGTH")
        if length:
            return "HTTP_TRANSFER_ENCODING" not in environ and length.isdecimal() and int(length) <= self._most_bytes
        stream = environ["wsgi.input"]
        return (
            "HTTP_TRANSFER_ENCODING" in environ
            and type(stream) is BytesIO
            and stream.getbuffer().nbytes <= self._most_bytes
        )
