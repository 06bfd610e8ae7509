"""The body of a request: decompressed, within its limit, as a JSON object."""

import json
import zlib
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import cast

import orjson
from flask import request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from mlops_nb.errors import known_names
from mlops_nb.model.columns import describe_value
from mlops_nb.serving.http.errors import MediaTypeError, RequestError
from mlops_nb.serving.http.unique_keys import check_unique_keys, loads


def read_object(example: str = '{"features": [[...], ...]}') -> dict:
    """Return the JSON object in the body of the current request."""
    kind = request.mimetype
    if kind != "application/json" and not kind.endswith("+json"):
        raise MediaTypeError(f"The body must be application/json, got {kind[:100] or 'no Content-Type'}.")
    return parse_object(read_body(), example)


def read_body() -> bytes:
    """Return the body of the current request, decompressed; raise an error where it is over the limit."""
    length, limit = request.content_length, _max_bytes()
    if length is None:
        try:
            content = request.stream.read()
        except HTTPException:
            raise
        except Exception as e:  # the server has the bytes: what its reader of chunks raises is the client's mistake
            raise RequestError(f"The chunked body is malformed: {type(e).__name__}.") from e
        if len(content) >= limit:
            raise RequestEntityTooLarge()  # Flask cuts a chunked body off at the limit, silently
    else:
        stream = request.stream  # refuses a length over the limit
        if type(whole := request.environ["wsgi.input"]) is BytesIO:
            content = whole.getvalue()[:length]  # the server has it; Flask's stream would copy it twice
        else:
            content = stream.read(length)  # in one read, which is faster for a large body
            while len(content) < length and (more := stream.read(length - len(content))):
                content += more
        if len(content) < length:
            raise RequestError(f"The body ended after {len(content)} of its {length} bytes.")
    encoding = request.environ.get("HTTP_CONTENT_ENCODING")
    return content if encoding is None else _decompress(content, encoding.strip().lower(), limit)


def _max_bytes() -> int:
    """Return the limit of a body, which the service always sets."""
    return cast(int, request.max_content_length)


def _decompress(content: bytes, encoding: str, limit: int) -> bytes:
    """Decompress a body, at most to the limit."""
    if encoding in ("identity", ""):
        return content
    if encoding not in ("gzip", "deflate"):
        raise MediaTypeError(f"The Content-Encoding must be gzip or deflate, got {encoding[:100]!r}.")
    stream = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        whole = stream.decompress(content, limit + 1)
    except zlib.error:
        raise RequestError(f"The body is not {encoding}, as its Content-Encoding says.") from None
    if len(whole) > limit:
        raise RequestEntityTooLarge()
    if not stream.eof or stream.unused_data:
        raise RequestError(f"The body is not one whole {encoding} stream, as its Content-Encoding says.")
    return whole


def parse_object(content: bytes, example: str) -> dict:
    """Return the JSON object in a body; `example` is what an error shows."""
    try:
        body = loads(content)
    except orjson.JSONDecodeError as e:
        body = _parse_leniently(content, e)
    if not isinstance(body, dict):
        raise RequestError(f"The body must be a JSON object; send {example}.")
    return body


def _parse_leniently(content: bytes, error: ValueError):
    """Return JSON as Python writes it, with NaN and Infinity, so that an error can name the row and column."""
    try:
        body = json.loads(content, parse_int=_parse_integer)
        json.dumps(body, ensure_ascii=False).encode()  # half a character, "\ud800", is no text
    except (ValueError, RecursionError):
        reason = "the body is empty" if not content.strip() else str(error)
        raise RequestError(f"The body is not JSON: {reason}.") from None
    check_unique_keys(content)
    return body


def _parse_integer(digits: str) -> int | float:
    """Return a 64-bit integer, or the nearest float, which may be infinite."""
    number = int(digits) if len(digits) <= 20 else 2**64
    return number if -(2**63) <= number < 2**64 else float(digits)


def pop_flag(body: dict, name: str) -> bool:
    """Take a key that is true or false out of an object; false is the default."""
    if not isinstance(value := body.pop(name, False), bool):
        raise RequestError(f"'{name}' must be true or false, got {describe_value(value)}.")
    return value


def reject_unknown_keys(body: Mapping, known: set[str], what: str = "The body", others: Iterable[str] = ()):
    """Reject unknown keys of a request object; `others` are known, too, and not in this one."""
    if not body.keys() <= known:
        unknown = min(body.keys() - known)
        raise RequestError(f"{what} has an unknown key {unknown!r}. {known_names(unknown, {*known, *others})}")
