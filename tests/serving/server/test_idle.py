"""Idle connections: one whose requests run inline stays in the poller, and whatever else it sends is handled as ever.

The worker is in this process, without a model: its loop is turned by hand.
"""

import os
import selectors
import socket
from collections import deque
from random import Random
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn

from mlops_nb.serving.http.claim import ResponseClaim
from mlops_nb.serving.http.early_response import EarlyResponse
from mlops_nb.serving.server.configuration import gunicorn_settings
from mlops_nb.serving.server.connections import IdleConnections
from mlops_nb.serving.server.worker import BoundedThreadWorker
from tests.factories import wait_for


class App:
    """Responds with the body; `/inline` in the main loop."""

    def runs_inline(self, request: bytes) -> bool:
        return request.startswith(b"POST /inline ")

    def fast_response(self, environ: dict):
        content = environ["wsgi.input"].read()
        return [("Content-Length", str(len(content)))], content

    def __call__(self, environ, start_response):
        environ["gunicorn.socket"].claim.environ = environ  # as `Service` does; the worker keeps it with the head
        headers, content = self.fast_response(environ)
        start_response("200 OK", headers)
        return [content]


def configured() -> Config:
    """The configuration of the service, as far as the worker reads it."""
    configuration = Config()
    for name, value in gunicorn_settings().items():
        if name in configuration.settings and name not in ("worker_class", "on_starting", "when_ready"):
            configuration.set(name, value)
    return configuration


CONFIGURATION = configured()
CLIENTS: list[socket.socket] = []  # of a test


@pytest.fixture
def worker():
    made = BoundedThreadWorker(1, os.getppid(), [], None, 30, CONFIGURATION, Logger(CONFIGURATION))
    made.wsgi, made.poller, made.tpool = App(), selectors.DefaultSelector(), made.get_thread_pool()
    made.method_queue.init()
    made.poller.register(made.method_queue.fileno(), selectors.EVENT_READ, made.method_queue.run_callbacks)
    made._accepting = True
    yield made
    while CLIENTS:
        CLIENTS.pop().close()
    made.tpool.shutdown()
    for key in list(made.poller.get_map().values()):
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()
    made.poller.close()
    made.method_queue.close()
    made.connections.release()
    made.tmp.close()


def turn(worker: BoundedThreadWorker):
    """Once through the loop, as Gunicorn's `run`."""
    worker.notify()
    worker.wait_for_and_dispatch_events(0.01)
    worker.murder_keepalived()
    worker.murder_pending()


def connected(worker: BoundedThreadWorker) -> tuple[socket.socket, TConn]:
    """Connect a client, whose first requests make the connection idle and its head known."""
    client, accepted = socket.socketpair()
    CLIENTS.append(client)
    client.settimeout(10)
    conn = TConn(worker.cfg, accepted, ("::1", 1), ("::1", 2))
    worker.nr_conns += 1
    client.sendall(asked(b"first"))
    worker.enqueue_req(conn)
    assert answered(worker, client) == (200, b"first")
    assert ask(worker, client, asked(b"again")) == (200, b"again")
    return client, conn


def asked(body: bytes, path: bytes = b"/inline", more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (path, more, len(body), body)


def ask(worker: BoundedThreadWorker, client: socket.socket, request: bytes) -> tuple[int, bytes]:
    client.sendall(request)
    return answered(worker, client)


def answered(worker: BoundedThreadWorker, client: socket.socket) -> tuple[int, bytes]:
    """Turn the loop until a response is whole; its status and body."""
    client.setblocking(False)
    received = b""

    def is_whole() -> bool:
        nonlocal received
        turn(worker)
        try:
            received += client.recv(1)
            while not received.endswith(b"\r\n\r\n"):
                received += client.recv(1)
        except BlockingIOError:
            pass
        return received.endswith(b"\r\n\r\n")

    wait_for(is_whole)
    client.settimeout(10)
    length = int(received.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += client.recv(length - len(body))
    return int(received.split()[1]), body


def is_idle(worker: BoundedThreadWorker, conn: TConn) -> bool:
    return conn in worker.keepalived_conns and conn.sock in worker.poller.get_map()


def test_connection_stays_in_the_poller_while_its_requests_run_inline(worker):
    client, conn = connected(worker)
    keys = []
    for number in range(5):
        more = b"X-Request-ID: %d\r\n" % number
        assert ask(worker, client, asked(b"%d" % 10**number, more=more)) == (200, b"%d" % 10**number)
        keys.append(worker.poller.get_key(conn.sock))
        assert is_idle(worker, conn)
    assert all(key is keys[0] for key in keys)
    client.close()
    wait_for(lambda: turn(worker) or worker.nr_conns == 0)
    assert len(worker.keepalived_conns) == len(worker.waits) == 0


@pytest.mark.parametrize("path", [b"/inline", b"/thread"])
def test_idle_connection_is_idle_again_after_any_request(worker, path):
    client, conn = connected(worker)
    request = asked(b"body", path)
    for cut in (len(request), 10, len(request) - 2):
        client.sendall(request[:cut])
        turn(worker)
        assert ask(worker, client, request[cut:]) == (200, b"body")
        wait_for(lambda: turn(worker) or is_idle(worker, conn))
    client.sendall(asked(b"1") + asked(b"2", path) + asked(b"3"))
    assert [answered(worker, client) for _ in range(3)] == [(200, b"1"), (200, b"2"), (200, b"3")]
    wait_for(lambda: turn(worker) or is_idle(worker, conn))
    assert (worker.nr_conns, len(worker.keepalived_conns), len(worker.waits)) == (1, 1, 0)
    client.close()


WRONG = {
    b"POST /inline HTTP/1.1\r\nContent-Length: 1\nX: 1\r\n\r\n1": 400,
    b"POST /inline HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12": 400,
    b"POST /inline HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n": 413,
    b"POST /inline HTTP/1.1\r\nX: " + b"x" * 2**16 + b"\r\n\r\n": 431,
}


@pytest.mark.parametrize("request_", WRONG, ids=list(WRONG.values()))
def test_idle_connection_that_sends_what_is_wrong_gets_one_error_and_ends(worker, request_):
    client, conn = connected(worker)
    assert ask(worker, client, request_)[0] == WRONG[request_]
    wait_for(lambda: turn(worker) or conn in worker.waits)  # it lingers
    assert conn not in worker.keepalived_conns
    client.close()
    wait_for(lambda: turn(worker) or worker.nr_conns == 0)
    assert len(worker.waits) == 0


def test_connection_that_was_idle_for_longest_times_out_first(worker):
    (first, one), (_second, other) = connected(worker), connected(worker)
    assert ask(worker, first, asked(b"1")) == (200, b"1")
    assert list(worker.keepalived_conns) == [other, one]
    other.timeout = 0.0
    turn(worker)
    assert list(worker.keepalived_conns) == [one]
    assert worker.nr_conns == 1
    worker.alive = False  # then Gunicorn gives it less time
    assert ask(worker, first, asked(b"1")) == (200, b"1")
    wait_for(lambda: turn(worker) or worker.nr_conns == 0 or conn_lingers(worker, one))


def conn_lingers(worker: BoundedThreadWorker, conn: TConn) -> bool:
    return conn in worker.waits and conn not in worker.keepalived_conns


def test_idle_connections_do_what_a_deque_does():
    random, ours, expected = Random(0), IdleConnections(), deque()
    for number in range(2_000):
        act = random.choice(["append", "append", "remove", "popleft", "renew"])
        if act == "append":
            ours.append(number)
            expected.append(number)
        elif expected:
            one = random.choice(expected)
            if act == "popleft":
                assert ours.popleft() == expected.popleft()
            else:
                getattr(ours, act)(one)
                expected.remove(one)
                if act == "renew":
                    expected.append(one)
        assert (list(ours), len(ours), bool(ours)) == (list(expected), len(expected), bool(expected))
        assert not expected or (ours[0] == expected[0] and expected[-1] in ours)


def test_refusal_of_a_thread_that_comes_too_late_is_neither_sent_nor_counted():
    counted, sent, claim = [], [], ResponseClaim(0)
    assert claim.expire(), "the main loop has responded"

    def refuse():
        raise EarlyResponse(400, "as asked")

    worker = BoundedThreadWorker.__new__(BoundedThreadWorker)
    worker.wsgi = SimpleNamespace(record_refused=lambda *record: counted.append(record))
    parser = SimpleNamespace(peek=refuse, buffer=SimpleNamespace(data=b"GET / HTTP/1.1"))
    assert not worker.handle(SimpleNamespace(sock=SimpleNamespace(claim=claim, sendall=sent.append), parser=parser))
    assert counted == sent == []
