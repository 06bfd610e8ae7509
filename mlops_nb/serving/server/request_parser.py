"""From the bytes of a whole request to its parts, by llhttp, the parser of Node.js.

It is strict, and costs a tenth of a parser in Python. `RequestBuffer` has found where the request ends; a request that
llhttp ends elsewhere is refused, so no byte is ever read in two ways. What llhttp leaves to its users is refused here:
too long lines, a coding or an expectation that the service does not know, headers that can be taken for another.
"""

import re
from functools import lru_cache
from io import BytesIO

from gunicorn.config import Config
from gunicorn.util import split_request_uri, unquote_to_wsgi_str
from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from mlops_nb.serving.http.early_response import EarlyResponse
from mlops_nb.serving.http.periodic import log_exception
from mlops_nb.serving.server.request_buffer import RequestBuffer

_is_method = re.compile(rb"[A-Z]{3,20}").fullmatch
_FORBIDDEN_TRAILERS = frozenset({"HOST", "CONTENT-LENGTH", "TRANSFER-ENCODING", "TRAILER", "AUTHORIZATION", "TE"})
_SINGLE_HEADERS = frozenset({"HOST", "CONTENT-TYPE"})  # whose values cannot be joined


class Request:
    """A request, with the attributes that Gunicorn reads of its own requests."""

    scheme, fragment, proxy_protocol_info = "http", "", None
    _expected_100_continue = False  # the worker has asked for the body already

    def __init__(self, method: str, uri: str, version: tuple[int, int], headers: list[tuple[str, str]], body: bytes):
        self.method, self.uri, self.version = method, uri, version
        self.headers, self._last = headers, dict(headers)
        self.trailers: list[tuple[str, str]] = []  # Gunicorn would hand them on; no application reads them
        self.body = BytesIO(body)
        self.path, _, self.query = uri.partition("?")
        if not uri.startswith("/") or "#" in uri:
            parts = split_request_uri(uri)
            self.path, self.query, self.fragment = parts.path, parts.query, parts.fragment

    def should_close(self) -> bool:
        """Whether the client, or the version of its HTTP, wants the connection to end."""
        wanted = [word.strip(" \t") for word in self["CONNECTION"].lower().split(",")] if "CONNECTION" in self else []
        return "close" in wanted or self.method == "CONNECT" or (self.version == (1, 0) and "keep-alive" not in wanted)

    def __contains__(self, name: str) -> bool:
        return name in self._last

    def __getitem__(self, name: str) -> str:
        """Return the values of a header, by its name in upper case, joined by commas."""
        return ",".join([value for each, value in self.headers if each == name])

    @property
    def repeated(self) -> set[str]:
        """The names of headers that came more than once."""
        if len(self._last) == len(self.headers):
            return set()
        return {name for name in self._last if sum(each == name for each, _ in self.headers) > 1}

    def cgi(self) -> dict[str, object]:
        """Return the WSGI environment as far as a request is read without Flask."""
        environ: dict[str, object] = {
            "REQUEST_METHOD": self.method,
            "RAW_URI": self.uri,
            "PATH_INFO": unquote_to_wsgi_str(self.path) if "%" in self.path else self.path,
            "QUERY_STRING": self.query,
            "SERVER_PROTOCOL": "HTTP/{}.{}".format(*self.version),
            "wsgi.input": self.body,
        }
        for name, value in self.headers:
            key = _variable(name)
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        return environ


class RequestParser:
    """The parser of a connection, as Gunicorn's worker uses one: the request that is whole in the buffer comes next."""

    def __init__(self, cfg: Config, buffer: RequestBuffer):
        self._cfg, self.buffer = cfg, buffer
        self._request: Request | None = None  # parsed, and not yet handled

    def peek(self) -> Request:
        """Parse the request in the buffer; raise `EarlyResponse` where it is refused."""
        if self._request is None:
            self._request = self._parse()
            self.buffer.clear()
        return self._request

    def _parse(self) -> Request:
        try:
            return parse_request(self.buffer.request, self._cfg)
        except EarlyResponse:
            raise
        except Exception as e:  # whatever it is: neither the worker nor the connection may end without a response
            log_exception(e)
            raise _malformed("it cannot be read") from e

    def __next__(self) -> Request:
        request = self.peek()
        self._request = None
        return request


class _Events:
    """What llhttp finds in a request."""

    __slots__ = ("body", "completed", "headers", "trailers", "uri", "wanted")

    def __init__(self):
        self.uri, self.completed = b"", False
        self.headers: list[tuple[str, str]] = []
        self.trailers: list[tuple[str, str]] = []
        self.wanted, self.body = self.headers, []

    def on_url(self, part: bytes):
        self.uri += part

    def on_header(self, name: bytes, value: bytes):
        if variable := _upper(name):
            self.wanted.append((variable, value.decode("latin-1").rstrip(" \t")))

    def on_headers_complete(self):
        self.wanted = self.trailers

    def on_body(self, part: bytes):
        self.body.append(part)

    def on_message_complete(self):
        self.completed = True

    def on_message_begin(self):
        if self.completed:
            raise ValueError("more follows where the request should end")


def parse_request(data: bytes | bytearray, cfg: Config) -> Request:
    """Parse a whole request; raise `EarlyResponse` where it is refused.

    `cfg` has the limits of lines and headers.
    """
    events = _Events()
    parser = HttpRequestParser(events)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade as upgrade:
        if (end := upgrade.args[0]) < len(data):
            return _parse_without_upgrade(data, end, cfg)
    except HttpParserError as error:
        raise _explain(data, events, error) from None
    method, version = parser.get_method().decode(), parser.get_http_version()
    line = b"%b %b HTTP/%b\r\n" % (parser.get_method(), events.uri, version.encode())
    if not (data.startswith(line) or data.startswith(b"\r\n" + line)) or version not in ("1.0", "1.1"):
        raise _malformed("the first line is not METHOD TARGET HTTP/1.1")
    _check_lines(line, events.headers, len(data), cfg)
    if not events.completed:
        raise _malformed("it does not end where it says")
    uri = events.uri.decode("latin-1")
    if (uri == "*") != (uri[:1] == "*" and method == "OPTIONS"):
        raise _malformed("the target * is for OPTIONS alone")
    try:
        request = Request(method, uri, (1, int(version[2])), events.headers, b"".join(events.body))
    except ValueError:
        raise _malformed("its target is no address") from None
    _check_headers(request)
    if events.trailers:
        _check_trailers(events.trailers)
    return request


def _parse_without_upgrade(data: bytes | bytearray, end: int, cfg: Config) -> Request:
    """Parse a request that offers another protocol, for which llhttp would not read the body."""
    lines = data[:end].split(b"\r\n")
    offers = [line for line in lines if line[:8].lower() == b"upgrade:"]
    if not offers:
        raise _malformed("CONNECT has no body")
    request = parse_request(b"\r\n".join([line for line in lines if line not in offers]) + data[end:], cfg)
    request.headers += [("UPGRADE", line[8:].strip(b" \t").decode("latin-1")) for line in offers]
    return request


def _explain(data: bytes | bytearray, events: _Events, error: HttpParserError) -> EarlyResponse:
    """Return the response to a request that llhttp refuses."""
    _check_coding(dict(events.headers).get("TRANSFER-ENCODING", "chunked"))
    method = data.split(b" ", 1)[0]
    if isinstance(error, HttpParserInvalidMethodError) and _is_method(method):
        return EarlyResponse(501, f"The service does not know the method {method.decode()}.")
    return _malformed(str(error.__context__ or error).rstrip())


def _malformed(reason: str) -> EarlyResponse:
    return EarlyResponse(400, f"The request is not valid HTTP: {reason}.")


def _check_lines(line: bytes, headers: list[tuple[str, str]], n_bytes: int, cfg: Config):
    """Raise `EarlyResponse` for lines beyond Gunicorn's limits."""
    if len(line) - 2 > cfg.limit_request_line > 0:
        raise EarlyResponse(414, f"The first line of the request is longer than {cfg.limit_request_line} bytes.")
    size = cfg.limit_request_field_size or n_bytes
    is_long = n_bytes > size and any(len(name) + len(value) + 4 > size for name, value in headers)
    if is_long or len(headers) > cfg.limit_request_fields:
        limits = f"{cfg.limit_request_fields} headers, none longer than {size} bytes"
        raise EarlyResponse(431, f"A request has at most {limits}. Send less.")


def _check_headers(request: Request):
    """Raise `EarlyResponse` for what the service does not know, or what can be read in two ways."""
    if "EXPECT" in request and request["EXPECT"].lower() != "100-continue":
        raise EarlyResponse(417, "The service knows no expectation but 100-continue.")
    if "TRANSFER-ENCODING" in request:
        _check_coding(request["TRANSFER-ENCODING"])
        if request.version == (1, 0):
            raise _malformed("HTTP/1.0 has no Transfer-Encoding")
    if twice := request.repeated & _SINGLE_HEADERS:
        raise _malformed(f"{min(twice).title()} came twice")


def _check_trailers(trailers: list[tuple[str, str]]):
    if forbidden := dict(trailers).keys() & _FORBIDDEN_TRAILERS:
        raise _malformed(f"{min(forbidden).title()} may not follow the body")


def _check_coding(coding: str):
    if coding.lower() != "chunked":
        raise EarlyResponse(501, "The service knows no transfer coding but chunked.")


@lru_cache(256)
def _upper(name: bytes) -> str:
    """Return the name of a header in upper case; "" where it would be taken for another: X_A for X-A."""
    return "" if b"_" in name else name.decode("ascii").upper()


@lru_cache(256)
def _variable(name: str) -> str:
    """Return the name of a header in the WSGI environment."""
    variable = name.replace("-", "_")
    return variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"
