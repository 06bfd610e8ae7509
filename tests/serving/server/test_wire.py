"""Bytes on a connection are read as by Gunicorn's own threaded worker: requests, their order, and where they end."""

import json
import os
import re
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPResponse
from io import BytesIO

import pytest

from mlops_nb.serving.server.configuration import gunicorn_settings
from tests.commands import StartedCommand
from tests.factories import ROOT, free_port, wait_for
from tests.serving.server.odd_requests import (
    BODY,
    CHUNKED,
    CHUNKS,
    LENGTH,
    TARGETS,
    USUAL,
    aimed,
    mutations,
    pipelines,
    request,
    single_requests,
)
from tests.serving.server.test_limits import Answers, answer

pytestmark = pytest.mark.slow
SHARED = ("secure_scheme_headers", "forwarder_headers", "forwarded_allow_ips", "keepalive")
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@contextmanager
def started(folder, worker_class: str, **environment: str):
    """The port of a Gunicorn with one worker of a class."""
    port, configuration = free_port(), folder / f"{worker_class.rpartition('.')[2]}.py"
    settings = {name: gunicorn_settings()[name] for name in SHARED}
    settings |= {"bind": f"127.0.0.1:{port}", "worker_class": worker_class, "threads": 4, "loglevel": "warning"}
    configuration.write_text("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
    command = ["gunicorn", "-c", str(configuration), "tests.serving.server.echo_app:app"]
    log = configuration.with_suffix(".log")
    log.touch()
    process = StartedCommand(command, ROOT, environment, log, log)
    try:
        wait_for(lambda: is_open(port), 60)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=40)


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


class Received(BytesIO):
    """What was received until the connection ended, for one `HTTPResponse` after the other."""

    def __init__(self, connection: socket.socket, data: bytes):
        content = b""
        with connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while received := connection.recv(65_536):
                    content += received
            except ConnectionError:  # closed before all was read
                pass
        super().__init__(content)

    def makefile(self, _mode: str) -> "Received":
        return self

    def close(self):
        """One response was read: stay open for the next."""


def exchange(port: int, data: bytes, connection: socket.socket | None = None) -> tuple[list[dict], str]:
    """What the application was asked on a connection, and how that ended: "open", "refused 400" or "closed"."""
    received = Received(connection or socket.create_connection(("127.0.0.1", port), 10), data + LAST)
    asked: list[dict] = []
    while received.tell() < len(received.getbuffer()):
        response = HTTPResponse(received)
        response.begin()
        if response.status != 200:
            return asked, f"refused {response.status}"
        asked.append(json.loads(response.headers["Echo"]))
        response.read()
    if asked and asked[-1]["PATH_INFO"] == "/last":
        return asked[:-1], "open"
    return asked, "closed"


# what is refused that Gunicorn hands to the application, by what the application was asked there, and the bytes
STATUS = "501 is for a coding or method that nobody here knows, 400 for what is malformed"
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"}
STRICTER: dict[str, Callable[[dict, bytes], bool]] = {
    "a method that nobody has defined": lambda asked, _: asked["REQUEST_METHOD"] not in METHODS,
    "a version that nobody has defined": lambda asked, _: asked["SERVER_PROTOCOL"] not in ("HTTP/1.0", "HTTP/1.1"),
    "a coding other than chunked": lambda asked, _: asked.get("HTTP_TRANSFER_ENCODING", "chunked").lower() != "chunked",
    "a body beyond MLOPS_MAX_BODY_MB": lambda asked, _: int(asked.get("CONTENT_LENGTH", 0)) > 10**9,
    "a body that is not whole": lambda asked, _: int(asked.get("CONTENT_LENGTH", 0)) > len(asked.get("body", "")),
    "chunks that are not valid, which the application did not read": lambda asked, _: "body" not in asked,
    "a space beside the extension of a chunk": lambda _, data: re.search(rb"\r\n3( ;|; )", data) is not None,
    "more than 16 digits of a chunk": lambda _, data: re.search(rb"\r\n[0-9a-f]{17}", data) is not None,
}


def difference(data: bytes, stock: tuple[list[dict], str], ours: tuple[list[dict], str]) -> str:
    """Why two outcomes differ, of the reasons that are meant; empty: they do not; fail where there is none."""
    (theirs, their_end), (asked, end) = stock, ours
    assert asked == theirs[: len(asked)], data
    if len(asked) < len(theirs):
        assert end.startswith("refused"), data
        return next(reason for reason, holds in STRICTER.items() if holds(theirs[len(asked)], data))
    ends = their_end.split()[0], end.split()[0]
    if ends == ("open", "closed"):
        words = asked[-1]["HTTP_CONNECTION"].lower().replace(" ", "").split(",")
        assert "close" in words, data
        assert len(words) > 1, data
        return "close is one of several words"
    if ends == ("closed", "refused"):
        return "what is not whole gets a response"
    assert ends[0] == ends[1], (data, their_end, end)
    if their_end[:9] != end[:9]:
        assert b"ransfer-Encoding" in data or end == "refused 501", (data, their_end, end)
        return STATUS
    return ""


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    """Gunicorn's own worker and ours, before the same application."""
    folder = tmp_path_factory.mktemp("wire")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_")}
    ours = "mlops_nb.serving.server.worker.BoundedThreadWorker"
    with started(folder, "gthread", **environment) as stock, started(folder, ours, **environment) as port:
        yield stock, port
    assert "Traceback" not in (folder / "BoundedThreadWorker.log").read_text()


def differences(ports: tuple[int, int], requests: list[bytes]) -> Counter:
    """How often two workers differ for which reason."""
    with ThreadPoolExecutor(8) as pool:
        stock, ours = ([*pool.map(partial(exchange, port), requests)] for port in ports)
    return Counter(map(difference, requests, stock, ours))


def test_odd_request_is_read_as_by_gunicorn_or_refused(ports):
    requests = aimed(single_requests())
    found = differences(ports, requests)
    assert len(requests) > 1_000
    assert found[""] > 0.85 * len(requests)
    ends = {"close is one of several words", "what is not whole gets a response", STATUS}
    assert found.keys() - {""} == {*STRICTER, *ends}, "a reason that explains nothing belongs to no table"


def test_what_follows_an_odd_request_is_read_as_by_gunicorn(ports):
    requests = aimed(pipelines())
    found = differences(ports, requests)
    assert found[""] > 0.95 * len(requests)
    assert found.keys() == {"", "chunks that are not valid, which the application did not read"}


def test_changed_byte_is_read_as_by_gunicorn_or_refused(ports):
    found = differences(ports, [*mutations(600)])
    assert found[""] > 500
    assert found.keys() <= {
        "",
        *STRICTER,
        STATUS,
    }


def test_request_that_is_repeated_is_read_anew(ports):
    ids = [b"X-Request-ID: 1", b"X-Request-ID: 2", b"X-Request-ID: 1\r\nX-Request-ID: 2", b"traceparent: 00-1-1-01"]
    heads = [
        [LENGTH],
        [LENGTH, *ids[:1]],
        *([LENGTH, one] for one in ids),
        [b"Content-Length: 2"],
        [b"Content-Length: 04"],
        [CHUNKED],
    ]
    heads += [[LENGTH, b"Connection: close"], [LENGTH, b"X : a"]]
    for target in TARGETS:
        for first in heads[:-2]:
            for other in heads:
                requests = [complete(head).replace(b"%b", target) for head in (first, first, other, first)]
                stock, ours = (in_turn(port, requests) for port in ports)
                assert ours == stock, requests


def complete(head: list[bytes]) -> bytes:
    """A request with a head and the body that it announces."""
    bodies = {CHUNKED: CHUNKS, b"Content-Length: 2": b"ab", b"Content-Length: 04": b"abcd"}
    return request(*head, body=bodies.get(head[0], BODY))


def in_turn(port: int, requests: list[bytes]) -> list:
    """The responses to requests, each sent after the response to the one before, as far as the connection goes."""
    found: list = []
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        answers = Answers(connection)
        for one in requests:
            connection.sendall(one)
            got = answer(answers, lambda content: content)
            found.append(json.loads(got.headers["Echo"]) if got.status == 200 else "refused")
            if got.status != 200 or got.headers["Connection"] == "close":
                break
        answers.close_all()
    return found


def test_request_in_two_parts_is_read_as_the_whole(ports):
    stock, port = ports
    for one in aimed(USUAL):
        whole = exchange(stock, one)
        connections = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(1, len(one))]
        for place, connection in enumerate(connections, 1):
            connection.sendall(one[:place])
        assert exchange(port, one) == whole, "by then the parts before have been read"
        for place, connection in enumerate(connections, 1):
            assert exchange(port, one[place:], connection=connection) == whole, place
