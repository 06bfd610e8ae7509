"""Answers that the worker itself gives, to requests that reach no application or for which it takes too long."""

import re
from http import HTTPStatus

import orjson

TOO_LARGE = "The body is larger than {:g} MiB, the limit (MLOPS_MAX_BODY_MB). Send fewer rows at a time."

_given_id = re.compile(rb"\r\nx-request-id:[ \t]*([A-Za-z0-9._:-]{1,128})[ \t]*\r\n", re.IGNORECASE).search


class EarlyResponse(Exception):
    """An answer with the one shape of an error (mlops_nb/serving/http/errors.py)."""

    def __init__(self, status: int, error: str, code: str | None = None, retry: bool = False):
        super().__init__(error)
        self.status, self.retry = HTTPStatus(status), retry
        self.code = code or re.sub(r"\W+", "_", self.status.phrase.lower())

    def answer(self, path: str, request_id: str) -> tuple[bytes, int]:
        """All that is sent, and how long its body is."""
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
    """Method, path and id, as far as they are there, of a request that nobody parsed."""
    head = bytes(data[: 2**16]).partition(b"\r\n\r\n")[0] + b"\r\n"
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    given = _given_id(head)
    path = words[1].partition("?")[0] if len(words) > 1 else ""
    return words[0], path, given and given[1].decode()
