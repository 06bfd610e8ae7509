"""No client can hold a thread, no request can hold one for long; no load lasts, no stop cuts anything."""

import select
import shutil
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import orjson
import psutil
import pytest
from gunicorn.config import Config

from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.serving.http.claim import ClaimExpiredError, ResponseClaim
from mlops_nb.serving.http.early_response import EarlyResponse
from mlops_nb.serving.server.request_buffer import RequestBuffer
from mlops_nb.serving.server.request_parser import RequestParser
from mlops_nb.serving.server.sockets import BufferedSocket
from mlops_nb.settings import Settings
from tests.factories import Service, logged, wait_for

SLOW = 777  # As tests.serving.server.slow_app says
LIMITS = {"MLOPS_ARRIVAL_SECONDS": "3", "MLOPS_REQUEST_SECONDS": "2", "MLOPS_QUEUE_SECONDS": "1"}
LIMITS |= {"MLOPS_MAX_BODY_MB": "1"}
BODY = b'{"features": [[1, 0]]}'
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\n" + BODY[:5] + b"\r\n11\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"


# What is a whole request


class Pieces:
    """A connection on which pieces come in."""

    def __init__(self, *pieces: bytes):
        self.pieces = list(pieces)

    def recv(self, size: int) -> bytes:
        if not self.pieces:
            raise BlockingIOError
        piece = self.pieces.pop(0)
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def recv_into(self, place: memoryview) -> int:
        piece = self.recv(len(place))
        place[: len(piece)] = piece
        return len(piece)


def parsed(arrival: RequestBuffer) -> bytes:
    """The body that the parser finds in what has arrived."""
    parser = RequestParser(Config(), arrival)
    return next(parser).body.read()


TRAILERS = CHUNKED[:-2] + b"X-A: b\r\n\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
REQUESTS = {"get": GET, "length": WHOLE, "chunked": CHUNKED, "trailers": TRAILERS, "empty line": b"\r\n" + GET}


@pytest.mark.parametrize("frame", ["length", "chunked"])
def test_large_bodies_that_arrive_in_turns_are_not_mixed(frame):
    rng, arrivals = np.random.default_rng(0), []
    for i in range(3):
        body = rng.bytes(300_000 + i)
        head = b"Content-Length: %d" % len(body) if frame == "length" else b"Transfer-Encoding: chunked"
        framed = body if frame == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        whole = POST + head + b"\r\n\r\n" + framed
        cuts = [0, *sorted(rng.integers(1, len(whole), 20).tolist()), len(whole)]
        pieces = [whole[a:b] for a, b in pairwise(cuts) if a < b]
        arrivals.append((RequestBuffer(Pieces(), 1), pieces, body))
    while any(pieces for _, pieces, _ in arrivals):
        for arrival, pieces, _ in arrivals:
            if pieces:
                arrival._client.pieces.append(pieces.pop(0))
                while arrival._client.pieces:
                    arrival.fill(0)
    assert [parsed(arrival) == body for arrival, _, body in arrivals] == [True] * 3


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_request_is_whole_at_its_last_byte_wherever_it_was_split(request_):
    for at in range(1, len(request_)):
        arrival = RequestBuffer(Pieces(request_[:at]), 1)
        assert not arrival.fill(0), request_[:at]
        arrival._client.pieces = [request_[at:]]
        assert arrival.fill(0)
        assert parsed(arrival) == (b"" if b"GET" in request_ else BODY)


def test_large_body_comes_out_as_it_went_in():
    body = bytes(range(256)) * 12_000
    arrival = RequestBuffer(Pieces(POST + b"Content-Length: %d\r\n\r\n" % len(body), body), 10)
    while not arrival.fill(0):
        pass
    assert parsed(arrival) == body


def test_what_follows_a_request_is_kept_for_the_next():
    arrival = RequestBuffer(Pieces(WHOLE + CHUNKED + GET[:9], GET[9:]), 1)
    assert arrival.fill(0)
    assert parsed(arrival) == BODY
    assert arrival.next_request(0)
    assert arrival.is_whole()
    assert parsed(arrival) == BODY
    assert arrival.next_request(0)
    assert not arrival.is_whole()
    assert arrival.fill(0)
    assert parsed(arrival) == b""
    assert not arrival.next_request(0)


HOPELESS = {
    "bare LF": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "length": POST + b"Content-Length: 12a\r\n\r\n",
    "chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
    "line of a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"a" * 9000,
    "no chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"a" * 9000,
}


@pytest.mark.parametrize("request_", HOPELESS.values(), ids=HOPELESS)
def test_what_never_can_be_a_request_is_not_waited_for(request_):
    arrival = RequestBuffer(Pieces(request_), 1)
    assert any(arrival.fill(0) for _ in range(3))


TOO_MUCH = {
    "length": (413, POST + b"Content-Length: 1048577\r\n\r\n"),
    "long length": (413, POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"),
    "chunk": (413, POST + b"Transfer-Encoding: chunked\r\n\r\n100001\r\n"),
    "header": (431, POST + b"X-A: " + b"a" * 66_000),
}


def fill_repeatedly(arrival: RequestBuffer, times: int):
    for _ in range(times):
        arrival.fill(0)


@pytest.mark.parametrize(("status", "request_"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_is_too_large_is_refused_before_it_is_all_there(status, request_):
    arrival = RequestBuffer(Pieces(request_), 1)
    with pytest.raises(EarlyResponse, match="limit") as refused:
        fill_repeatedly(arrival, 20)
    assert refused.value.status == status


def test_chunks_of_next_to_nothing_are_refused():
    arrival = RequestBuffer(Pieces(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 30_000), 1)
    with pytest.raises(EarlyResponse, match="The chunks of the body are too small") as refused:
        fill_repeatedly(arrival, 100)
    assert refused.value.status == 400


def test_answer_that_nobody_takes_is_kept_and_comes_out_as_it_went_in():
    ours, theirs = socket.socketpair()
    content = bytes(range(256)) * 40_000
    with BufferedSocket(ours) as client, theirs:
        client.sendall(content[:100])
        client.sendall(content[100:])
        assert not client.flush()
        got = b""
        while len(got) < len(content):
            got += theirs.recv(2**20)
            client.flush()
        assert got == content
        assert not client.unsent_bytes


# Who answers


def test_thread_and_main_loop_never_both_answer():
    for_thread, for_loop = ResponseClaim(0), ResponseClaim(0)
    for_thread.claim()
    for_thread.claim()
    assert not for_thread.expire()
    assert for_loop.expire()
    with pytest.raises(ClaimExpiredError):
        for_loop.claim()


@pytest.mark.parametrize("path", ["/predict", "/feedback", "/nowhere"])
def test_answer_that_comes_too_late_leaves_no_trace(app, client, capfd, path):
    claim = ResponseClaim(0)
    claim.expire()
    context = {"gunicorn.socket": SimpleNamespace(claim=claim)}
    with pytest.raises(ClaimExpiredError):
        client.post(path, json={"features": [[1, 0]]}, environ_overrides=context)
    assert capfd.readouterr().out == ""
    assert not app.metrics._pending
    assert len(logged(app).predictions) == 0


def test_request_is_named_before_the_main_loop_may_answer_it(client):
    class Watched(ResponseClaim):
        environ = property(lambda self: {}, lambda self, environ: named.append("serving.id" in environ))

    named = []
    claim = Watched.__new__(Watched)
    claim._lock, claim._is_claimed = threading.Lock(), False
    socket = SimpleNamespace(claim=claim)
    assert client.get("/health/live", environ_overrides={"gunicorn.socket": socket}).status_code == 200
    assert named == [True]


def test_answer_that_is_recorded_is_sent(app, client, monkeypatch):
    claim, record = ResponseClaim(0), app.extensions["log"].record

    def record_late(*given, **named):
        assert not claim.expire()
        return record(*given, **named)

    monkeypatch.setattr(app.extensions["log"], "record", record_late)
    context = {"gunicorn.socket": SimpleNamespace(claim=claim)}
    assert client.post("/predict", json={"features": [[1, 0]]}, environ_overrides=context).status_code == 200
    assert len(app.metrics._pending) == len(logged(app).predictions) == 1


# The service


class SlowService(Service):
    app = "tests.serving.server.slow_app:app"


@contextmanager
def serving(homes, folder, **more):
    home = shutil.copytree(homes["numbers"], folder / "home")
    settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy"})
    service = SlowService(settings, folder / "log", **(LIMITS | more))
    service.settings = settings
    try:
        wait_for(lambda: service.predict()[0] == 200)
        yield service
    finally:
        log = service.stop()
    assert service.process.returncode == 0, log
    assert "Traceback" not in log, log
    assert "terminate called" not in log, log


@pytest.fixture(scope="module")
def crowded(homes, tmp_path_factory):
    """Two workers with four threads each."""
    with serving(homes, tmp_path_factory.mktemp("crowded")) as service:
        yield service


@pytest.fixture(scope="module")
def single(homes, tmp_path_factory):
    """One worker with four threads."""
    more = {"MLOPS_WORKERS": "1", "GUNICORN_CMD_ARGS": "--worker-connections 30"}
    with serving(homes, tmp_path_factory.mktemp("single"), **more) as service:
        yield service


def connect(service: Service, content: bytes = b"", timeout: float = 10, buffer: int | None = None) -> socket.socket:
    """A connection on which something was sent."""
    connection = socket.socket()
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(timeout)
    try:
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(content)
    except OSError:
        connection.close()
        raise
    return connection


class Answers:
    """The answers on a connection, where several may come at a time."""

    def __init__(self, connection: socket.socket):
        self._file = connection.makefile("rb")
        self.read, self.readline, self.close_all = self._file.read, self._file.readline, self._file.close

    def makefile(self, mode: str):
        return self

    def close(self):
        """One answer was read: stay open."""


def answer(connection: socket.socket | Answers, read=orjson.loads) -> SimpleNamespace:
    """One answer, whole."""
    with HTTPResponse(connection) as response:
        response.begin()
        content = response.read()
        return SimpleNamespace(status=response.status, headers=response.headers, body=read(content))


def wait_until_still(count):
    """Wait until a number has not moved for half a second."""
    seen = [time.monotonic(), -1]

    def is_still():
        if seen[1] != (now := count()):
            seen[:] = time.monotonic(), now
        return time.monotonic() - seen[0] > 0.5

    wait_for(is_still)


def predict_slowly(service: Service, seconds: float) -> SimpleNamespace:
    body = orjson.dumps({"features": [[SLOW, seconds]]})
    with connect(service, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body, 30) as connection:
        return answer(connection)


def together(act, *given) -> list:
    """What calls at the same time return."""
    results = []
    threads = [threading.Thread(target=lambda one: results.append(act(one)), args=(one,)) for one in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(given)
    return results


SLOW_CLIENTS = {  # What comes at once, and what follows of it a byte at a time
    "silent": (b"", b""),
    "header": (b"P", POST[1:] + b"X-A: " + b"a" * 10_000),
    "body": (POST + b"Content-Length: 10000\r\n\r\n", b"a" * 10_000),
    "stalled body": (POST + b"Content-Length: 10000\r\n\r\n" + b"a" * 9999, b""),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 2000),
    "too large": (POST + b"Content-Length: 100000000\r\n\r\n", b"a" * 10_000),
    "too large, asking": (POST + b"Expect: 100-continue\r\nContent-Length: 100000000\r\n\r\n", b""),
    "unread body": (POST.replace(b"/predict", b"/nowhere") + b"Content-Length: 900000\r\n\r\n", b"a" * 10_000),
    "closing": (GET.replace(b"Host", b"Connection: close\r\nHost"), b""),
    "not reading": (b"GET /docs/script.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000, b""),
}


@pytest.mark.slow
@pytest.mark.parametrize(("first", "rest"), SLOW_CLIENTS.values(), ids=SLOW_CLIENTS)
def test_slow_clients_hold_no_thread(crowded, first, rest):
    with ExitStack() as stack:
        many = len(first) > 20_000  # answers that are never read, more than the kernel keeps
        clients = [
            stack.enter_context(connect(crowded, first, buffer=4096 if many else None))
            for _ in range(12 if many else 100)
        ]
        if many:
            wait_until_still(lambda: len(crowded.lines("/docs/script.js")))
        connection = HTTPConnection("127.0.0.1", crowded.port, timeout=5)
        for round_ in range(40):
            for client in clients if rest else ():
                with suppress(BrokenPipeError, ConnectionResetError):  # one that was refused goes on all the same
                    client.send(rest[round_ : round_ + 1])
            began = time.monotonic()
            assert crowded.predict(connection)[0] == 200
            assert crowded.call("GET", "/model")[0] == 200  # on a connection of its own
            assert time.monotonic() - began < 1
        connection.close()


@pytest.mark.slow
def test_request_that_is_not_there_in_time_gets_408(crowded):
    post = POST + b"X-Request-ID: mine\r\n"
    begun = [post, post + b"Content-Length: 10\r\n\r\na", post + b"Transfer-Encoding: chunked\r\n\r\n5\r\na"]
    began = time.monotonic()
    with ExitStack() as stack:
        silent = stack.enter_context(connect(crowded))
        clients = [stack.enter_context(connect(crowded, content)) for content in begun]
        for client in clients:
            got = answer(client)
            assert (got.status, got.body["code"]) == (408, "request_timeout"), got
            assert got.headers["X-Request-ID"] == "mine"
            assert got.headers["Connection"] == "close"
            assert client.recv(1) == b""
        assert silent.recv(1) == b""  # closed without a word
    assert 3 <= time.monotonic() - began < 5
    wait_for(lambda: sum(line["status"] == 408 for line in crowded.lines("/predict")) >= 3)


@pytest.mark.slow
def test_who_sends_a_too_large_body_can_read_why_it_is_refused(crowded):
    with connect(crowded, POST + b"Content-Length: 30000000\r\n\r\n") as client:
        for _ in range(30):
            client.sendall(bytes(1_000_000))
        got = answer(client)
        assert (got.status, got.body["code"]) == (413, "request_entity_too_large")
        assert client.recv(1) == b""


@pytest.mark.slow
def test_body_is_asked_for_once_and_only_if_it_is_taken(crowded):
    head = POST + b"Expect: 100-continue\r\n"
    with connect(crowded, head + b"Content-Length: %d\r\n\r\n" % len(BODY)) as client:
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    with connect(crowded, head + b"Content-Length: 2000000\r\n\r\n") as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.slow
def test_requests_that_are_sent_together_or_in_pieces_are_all_answered(crowded):
    with connect(crowded, WHOLE + CHUNKED + GET + WHOLE[:30]) as client:
        answers = Answers(client)
        for name in ("prediction", "prediction", "live"):
            got = answer(answers)
            assert (got.status, name in got.body) == (200, True)
        for byte in WHOLE[30:] + CHUNKED:
            client.send(bytes([byte]))
        assert [answer(answers).status for _ in range(2)] == [200, 200]
        answers.close_all()


BAD = {
    "header": (431, "request_header_fields_too_large", POST + b"X-A: " + b"a" * 70_000),
    "field": (431, "request_header_fields_too_large", POST + b"X-A: " + b"a" * 9_000 + b"\r\n\r\n"),
    "line": (414, "request_uri_too_long", b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\n\r\n"),
    "no HTTP": (400, "bad_request", b"\x16\x03\x01\x02\x00\r\n\r\n"),
    "bare LF": (400, "bad_request", b"GET / HTTP/1.1\nHost: localhost\n\n"),
    "coding": (501, "not_implemented", POST + b"Transfer-Encoding: zip\r\n\r\n"),
    "v2": (413, None, POST.replace(b"/predict", b"/v2/models/toy/infer") + b"Content-Length: 2000000\r\n\r\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("status", "code", "content"), BAD.values(), ids=BAD)
def test_what_no_application_sees_has_the_shape_of_an_error(crowded, status, code, content):
    with connect(crowded, content) as client:
        got = answer(client)
        assert (got.status, got.body.get("code")) == (status, code), got.body
        assert got.body.keys() == ({"error", "code"} if code else {"error"})
        assert got.headers["Content-Type"] == "application/json"
        assert got.headers["X-Request-ID"]


@pytest.mark.slow
def test_connections_that_stall_leave_room_for_another(single):
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connect(single, POST))
        began = time.monotonic()
        assert single.predict()[0] == 200
        assert time.monotonic() - began < 2.5  # not after the 3 s of MLOPS_ARRIVAL_SECONDS


@pytest.mark.slow
def test_no_more_than_so_much_is_held_of_unfinished_requests(single):
    most = POST + b"Content-Length: 1000000\r\n\r\n" + b" " * 990_000
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(single, most)) for _ in range(5)]
        refused, _, _ = select.select(clients, [], [], 10)  # whichever was one too many
        got = answer(refused[0])
        assert (got.status, got.body["code"], got.headers["Retry-After"]) == (503, "overloaded", "1")
        assert single.predict()[0] == 200
    with connect(single, most + b" " * (10_000 - len(BODY)) + BODY) as client:
        assert answer(client).status == 200


@pytest.mark.slow
def test_no_more_than_so_much_is_held_of_answers_that_nobody_takes(homes, tmp_path):
    more = {"MLOPS_WORKERS": "1", "MLOPS_REQUEST_SECONDS": "30"}
    body = b'{"probability": true, "features": [' + b"[1,0]," * 99_999 + b"[1,0]]}"
    asked = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with (
        serving(homes, tmp_path, **more) as service,
        connect(service, asked, 30, buffer=4096) as first,
        connect(service, b"", 30, buffer=4096) as second,
    ):
        assert first.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 "
        second.sendall(asked)
        assert second.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 "
        got = answer(second)
        assert len(got.body["ids"]) == 100_000
        with pytest.raises((ConnectionResetError, IncompleteRead)):
            answer(first)


class TellingService(Service):
    app = "tests.serving.server.tracing_app:app"


@pytest.mark.slow
def test_quick_request_is_answered_without_a_thread_and_any_other_with_one(settings, tmp_path):
    service = TellingService(settings, tmp_path / "log", MLOPS_WORKERS="1")
    large = POST + b"X-A: " + b"a" * 4096 + WHOLE[len(POST) - 2 :]
    bad, defect = WHOLE.replace(b"[[1, 0]]", b"[[1   ]]"), WHOLE.replace(b"Host", b"X-Fail: 1\r\nHost")
    try:
        with connect(service, WHOLE + WHOLE) as client:
            answers = Answers(client)
            first, second = answer(answers), answer(answers)
            assert not {first.body["thread"], second.body["thread"]} & {"MainThread"}, "they came together"
            for content, status in ((bad, 400), (WHOLE, 200), (large, 200), (defect, 500)):
                client.sendall(content)
                got = answer(answers)
                assert got.status == status, got.body
                if status == 200:
                    assert (got.body["thread"] == "MainThread") is (content is WHOLE)
            assert client.recv(1) == b"", "after a defect"
            answers.close_all()
        assert service.predict()[1]["thread"] == "MainThread"
    finally:
        log = service.stop()
    assert log.count("loaded") == 1, "the same worker went on"
    assert "RuntimeError" in log, "the same worker went on"


@pytest.mark.slow
def test_request_that_takes_too_long_gets_503_and_leaves_its_thread_to_others(single):
    began = time.monotonic()
    got = together(lambda seconds: predict_slowly(single, seconds), 4, 4, 4)
    assert 2 <= time.monotonic() - began < 3.5
    assert [(one.status, one.body["code"]) for one in got] == [(503, "timeout")] * 3
    began = time.monotonic()
    got = together(lambda seconds: predict_slowly(single, seconds), 0.6, 0.6, 0.6, 0.6)
    assert time.monotonic() - began < 1.2  # all four at the same time
    assert [one.status for one in got] == [200] * 4
    assert {len(one.body["ids"]) for one in got} == {1}
    wait_for(lambda: b"\nmlops_requests_in_progress 1.0\n" in metrics(single))  # its own; the late ones have ended
    refused = [line["id"] for line in single.lines("/predict") if line["status"] == 503 and line["ms"] > 2000]
    assert len(refused) == len(set(refused)) == 3
    assert sum(line["id"] in refused for line in single.lines("/predict")) == 3
    ids = {key for one in got for key in one.body["ids"]}
    database = PredictionLog.open(single.settings)
    try:
        window = wait_for(lambda: (w := database.read("toy", last=1000)) and ids <= set(w.predictions.index) and w)
    finally:
        database.close()
    assert sorted(window.inputs.loc[window.inputs["a"] == SLOW, "b"]) == [0.6] * 4


def metrics(service: Service) -> bytes:
    with connect(service, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as client:
        return answer(client, bytes).body


@pytest.mark.slow
def test_overload_is_answered_at_once_and_passes(single):
    got, health = [], []
    load = threading.Thread(target=lambda: got.extend(together(lambda s: predict_slowly(single, s), *[1.6] * 16)))
    load.start()
    while load.is_alive():
        began = time.monotonic()
        assert single.get("/health/live")[0] == single.get("/ping")[0] == 200
        health.append(time.monotonic() - began)
    load.join()
    assert len(health) > 10
    assert max(health) < 0.8
    refused = [one for one in got if one.status == 503]
    assert len(got) == 16, [one.status for one in got]
    assert len(refused) == 12, [one.status for one in got]
    assert {(one.body["code"], one.headers["Retry-After"]) for one in refused} == {("overloaded", "1")}
    assert all(single.predict()[0] == 200 for _ in range(50))
    assert all(one.status == 200 for one in together(lambda s: predict_slowly(single, s), *[0.1] * 16))


@pytest.mark.slow
def test_worker_whose_threads_are_all_stuck_is_replaced(single):
    began = single.loads(1)
    got = together(lambda seconds: predict_slowly(single, seconds), *[600] * 4)
    assert [(one.status, one.body["code"]) for one in got] == [(503, "timeout")] * 4
    wait_for(lambda: single.loads(1) == began + 1)
    wait_for(lambda: single.predict()[0] == 200)
    got = together(lambda seconds: predict_slowly(single, seconds), *[600] * 3)
    assert {one.status for one in got} == {503}  # and the service, which is stopped now, does not wait for these


@pytest.mark.slow
def test_stop_cuts_nothing(homes, tmp_path):
    answered, cut, stopped = [], [], threading.Event()

    def send(service, keep: bool):
        client = None
        while True:
            try:
                client = client or connect(service)
            except OSError:
                return  # the door is closed
            try:
                client.sendall(WHOLE)
                got = answer(client)
                answered.append((stopped.is_set(), got.status))
            except Exception as e:
                cut.append(repr(e))
                client.close()
                return
            if not keep or got.headers["Connection"] == "close":
                client.close()
                client = None

    with serving(homes, tmp_path) as service, ExitStack() as stack:
        idle = stack.enter_context(connect(service, GET))
        assert answer(idle).status == 200
        half = stack.enter_context(connect(service, WHOLE[:-5]))
        slow = [threading.Thread(target=lambda: answered.append((True, predict_slowly(service, 1.5).status)))]
        clients = [threading.Thread(target=send, args=(service, n % 2 == 0)) for n in range(8)]
        for thread in slow + clients:
            thread.start()
        wait_for(lambda: len(answered) > 100)
        stopped.set()
        service.process.terminate()
        idle.sendall(WHOLE)
        half.sendall(WHOLE[-5:])
        for client in (idle, half):
            got = answer(client)
            assert (got.status, "ids" in got.body) == (200, True)
        for thread in slow + clients:
            thread.join(timeout=20)
            assert not thread.is_alive()
        service.process.wait(timeout=20)
    assert cut == []
    assert {status for _, status in answered} == {200}
    assert sum(late for late, _ in answered) > 1


@pytest.mark.slow
def test_workers_without_their_master_end_as_if_they_were_told_to(homes, tmp_path):
    home = shutil.copytree(homes["numbers"], tmp_path / "home")
    service = SlowService(Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy"}), tmp_path / "log", **LIMITS)
    wait_for(lambda: service.predict()[0] == 200)
    workers = psutil.Process(service.process.pid).children()
    with connect(service, WHOLE) as client:
        assert answer(client).headers["Connection"] == "keep-alive"
        service.process.kill()
        service.process.wait()
        result = ""
        while result != "close":
            client.sendall(WHOLE)
            got = answer(client)
            result = got.headers["Connection"]
            assert got.status == 200
    wait_for(lambda: not any(worker.is_running() for worker in workers), 10)
    with pytest.raises(ConnectionRefusedError):
        connect(service)
