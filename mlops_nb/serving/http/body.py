"""The body of a request: unpacked, within the limits, as a JSON object."""

import json
import zlib
from collections.abc import Mapping

import orjson
from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from mlops_nb.errors import known_names
from mlops_nb.serving.http.errors import MediaTypeError, RequestError


def read_object(example: str = '{"features": [[...], ...]}') -> dict:
    """The JSON object in the body of the request."""
    kind = request.mimetype
    if kind != "application/json" and not kind.endswith("+json"):
        raise MediaTypeError(f"The body must be application/json, got {kind[:100] or 'no Content-Type'}.")
    return parse_object(read_body(), example)


def read_body() -> bytes:
    """The body of the request, unpacked, within the limit."""
    length = request.content_length
    if length is None:
        content = request.stream.read()
        if len(content) >= request.max_content_length:
            raise RequestEntityTooLarge()  # a body sent in chunks is cut off at the limit, without a word
    else:
        content = request.stream.read(length)  # in one piece, which is faster for a large one
        while len(content) < length and (more := request.stream.read(length - len(content))):
            content += more
        if len(content) < length:
            raise RequestError(f"The body ended after {len(content)} of its {length} bytes.")
    packed = request.environ.get("HTTP_CONTENT_ENCODING")
    return content if packed is None else _unpack(content, packed.strip().lower())


def _unpack(content: bytes, encoding: str) -> bytes:
    """A compressed body, never more of it than a body may have."""
    if encoding in ("identity", ""):
        return content
    if encoding not in ("gzip", "deflate"):
        raise MediaTypeError(f"The Content-Encoding must be gzip or deflate, got {encoding[:100]!r}.")
    stream = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        unpacked = stream.decompress(content, request.max_content_length + 1)
    except zlib.error:
        raise RequestError(f"The body is not {encoding}, as its Content-Encoding says.") from None
    if len(unpacked) > request.max_content_length:
        raise RequestEntityTooLarge()
    if not stream.eof or stream.unused_data:
        raise RequestError(f"The body is not one whole {encoding} stream, as its Content-Encoding says.")
    return unpacked


def parse_object(content: bytes, example: str) -> dict:
    """A JSON object."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as e:
        body = _lenient(content, e)
    if not isinstance(body, dict):
        raise RequestError(f"The body must be a JSON object; send {example}.")
    return body


def _lenient(content: bytes, error: ValueError):
    """JSON as Python writes it, with NaN and Infinity: then the row and the column can be named."""
    try:
        body = json.loads(content, parse_int=_whole)
        json.dumps(body, ensure_ascii=False).encode()  # half a character, "\ud800", can be neither used nor answered
    except (ValueError, RecursionError):
        reason = "the body is empty" if not content.strip() else str(error)
        raise RequestError(f"The body is not JSON: {reason}.") from None
    return body


def _whole(digits: str) -> int | float:
    """A whole number that 64 bits hold, or else the nearest float, which may be infinite."""
    number = int(digits) if len(digits) <= 20 else 2**64
    return number if -(2**63) <= number < 2**64 else float(digits)


def reject_unknown_keys(body: Mapping, known: set[str], what: str = "The body"):
    """Refuse a key that nobody knows: it was meant for something."""
    if not body.keys() <= known:
        unknown = min(body.keys() - known)
        raise RequestError(f"{what} has an unknown key {unknown!r}. {known_names(unknown, known)}")
