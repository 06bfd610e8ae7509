"""Responses that the worker itself sends: to a request that reaches no application, or one that takes too long."""

import re
from http import HTTPStatus

import orjson

TOO_LARGE = "The body is larger than {:g} MiB, the limit (MLOPS_MAX_BODY_MB). Send fewer rows at a time."

_MAX_SEARCHED_BYTES = 2**16  # of an incomplete request, in which its path and id are looked for
_find_request_id = re.compile(rb"\r\nx-request-id:[ \t]*([A-Za-z0-9._:-]{1,128})[ \t]*\r\n", re.IGNORECASE).search


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


def parse_request_head(data: bytes | bytearray) -> tuple[str, str, str | None]:
    """Return method, path and id of a request that was not parsed, as far as it has them."""
    head = bytes(data[:_MAX_SEARCHED_BYTES]).partition(b"\r\n\r\n")[0] + b"\r\n"
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    given = _find_request_id(head)
    path = words[1].partition("?")[0] if len(words) > 1 else ""
    return words[0], path, given and given[1].decode()
