"""Responses that the worker itself sends: to a request that reaches no application, or one that takes too long."""

import re
from http import HTTPStatus
from typing import NamedTuple

import orjson

from mlops_nb.monitor.log_records import read_trace_id

TOO_LARGE = "The body is larger than {:g} MiB, the limit (MLOPS_MAX_BODY_MB). Send fewer rows at a time."

_MAX_SEARCHED_BYTES = 2**16  # of an incomplete request, in which its path and id are looked for
# of a first line, as far as it is there; the rest of a body of which a wrong length was sent is none
_match_line = re.compile(rb"(?:\r\n)?([A-Z-]{1,20})(?![^ \r])(?: ((?:/|https?://)[^ ?\r]*|\*))?").match
_find_request_id = re.compile(rb"\r\nx-request-id:[ \t]*([A-Za-z0-9._:-]{1,128})[ \t]*\r\n", re.IGNORECASE).search
_find_traceparents = re.compile(rb"\r\ntraceparent:[ \t]*([!-~]+)[ \t]*(?=\r\n)", re.IGNORECASE).findall


class RequestHead(NamedTuple):
    """The beginning of a request, as far as it arrived."""

    request_id: str | None
    method: str
    path: str
    trace_id: str | None = None


class EarlyResponse(Exception):  # noqa: N818 (a response, raised where no application can return one)
    """An error response in the shape of `mlops_nb.serving.http.errors`."""

    def __init__(self, status: int, error: str, code: str | None = None, retry: bool = False):
        super().__init__(error)
        self.status, self.retry = HTTPStatus(status), retry
        self.code = code or re.sub(r"\W+", "_", self.status.phrase.lower())

    def render(self, path: str, request_id: str) -> tuple[bytes, int]:
        """Return the whole response and the size of its body."""
        shape = {} if path == "/v2" or path.startswith("/v2/") else {"code": self.code}
        body = orjson.dumps({"error": str(self), **shape})
        head = [
            f"HTTP/1.1 {self.status} {self.status.phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "X-Content-Type-Options: nosniff",
            f"X-Request-ID: {request_id}",
            "Connection: close",
        ]
        if self.retry:
            head.append("Retry-After: 1")
        return "\r\n".join([*head, "\r\n"]).encode() + body, len(body)


def parse_request_head(data: bytes | bytearray) -> RequestHead:
    """Return ids, method and path of a request that was not parsed, as far as it has them."""
    head = bytes(data[:_MAX_SEARCHED_BYTES]).partition(b"\r\n\r\n")[0] + b"\r\n"
    line, given = _match_line(head), _find_request_id(head)
    method, path = ((part or b"").decode("latin-1") for part in line.groups()) if line else ("", "")
    traces = _find_traceparents(head)
    trace_id = read_trace_id(traces[0].decode()) if len(traces) == 1 else None
    return RequestHead(given[1].decode() if given else None, method, path, trace_id)
