"""A request is read strictly and in one way: as Gunicorn's own parser reads it, or not at all."""

import shutil
from random import Random
from types import SimpleNamespace

import psutil
import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser as GunicornParser

from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.serving.http.early_response import EarlyResponse, parse_request_head
from mlops_nb.serving.server.configuration import gunicorn_settings
from mlops_nb.serving.server.request_buffer import RequestBuffer
from mlops_nb.serving.server.request_parser import Request, RequestParser, parse_request
from mlops_nb.settings import Settings
from tests.factories import wait_for
from tests.serving.server.test_limits import BODY, Answers, Pieces, TellingService, answer, connect

CONFIGURATION = Config()
for _name in ("forwarded_allow_ips", "secure_scheme_headers", "forwarder_headers"):
    CONFIGURATION.set(_name, gunicorn_settings()[_name])


def read(data: bytes) -> Request | int | None:
    """What the worker makes of bytes: a request, the status of a refusal, or nothing before more arrives."""
    buffer = RequestBuffer(Pieces(data), 1)
    try:
        return next(RequestParser(CONFIGURATION, buffer)) if buffer.fill(0) else None
    except EarlyResponse as refusal:
        return int(refusal.status)


def parts(request: Request) -> tuple:
    body = request.body.read()
    return request.method, request.uri, request.version, sorted(request.headers), body, environ(request)


def environ(request) -> dict:
    """What Gunicorn hands to an application, but for what is of the connection."""
    _, made = wsgi.create(request, None, ("::1", 1), ("::1", 2), CONFIGURATION)
    return {name: value for name, value in made.items() if name.isupper() and not name.startswith("REMOTE_")}


def read_by_gunicorn(data: bytes) -> tuple | None:
    """The same by Gunicorn's parser; None where it refuses the request."""
    try:
        request = next(GunicornParser(CONFIGURATION, iter([data]), ("::1", 1)))
        return parts(request)
    except Exception:
        return None


START = b"POST /p%20q?a=b HTTP/1.1\r\nHost: a\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
# read alike by both
READ = {
    "get": b"GET / HTTP/1.1\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "after an empty line": b"\r\nGET / HTTP/1.1\r\n\r\n",
    "absolute": b"GET http://a/b?c#d HTTP/1.1\r\n\r\n",
    "two slashes": b"GET //a/b?c HTTP/1.1\r\n\r\n",
    "fragment": b"GET /a?b#c HTTP/1.1\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\n\r\n",
    "tunnel": b"CONNECT a:80 HTTP/1.1\r\n\r\n",
    "body of a get": b"GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    "length with zeros": START + b"Content-Length: 003 \r\n\r\nabc",
    "values with spaces": START + b"X:  a\tb \t\r\nY:\r\n\r\n",
    "values of other alphabets": START + b"X: \xe4\xdf\xff\r\n\r\n",
    "header twice": START + b"X: a\r\nY: b\r\nx: c\r\n\r\n",
    "underscores": START + b"X_A: a\r\nX-A: b\r\nHOST_: c\r\n\r\n",
    "offer of a protocol": START + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
    "offer, without a body": b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "offer, in chunks": CHUNKED[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunks": CHUNKED + b'3;a=b;c="d"\r\nabc\r\n00A\r\n0123456789\r\n0\r\nX: y\r\n\r\n',
    "no body": START + b"\r\n",
}
# refused by both, whatever Gunicorn's status
REFUSED = {
    "bare LF": (400, START + b"X: a\n\r\n\r\n"),
    "bare CR": (400, START + b"X: a\rb\r\n\r\n"),
    "folded line": (400, START + b"X: a\r\n b\r\n\r\n"),
    "space before the colon": (400, START + b"X : a\r\n\r\n"),
    "space before a header": (400, b"GET / HTTP/1.1\r\n X: a\r\n\r\n"),
    "no name": (400, START + b": a\r\n\r\n"),
    "no colon": (400, START + b"X\r\n\r\n"),
    "name with a letter of another alphabet": (400, START + b"X\xff: a\r\n\r\n"),
    "NUL": (400, START + b"X: a\0\r\n\r\n"),
    "DEL": (400, START + b"X: a\x7f\r\n\r\n"),
    "two lengths": (400, START + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "list of lengths": (400, START + b"Content-Length: 3, 3\r\n\r\nabc"),
    "signed length": (400, START + b"Content-Length: +3\r\n\r\nabc"),
    "negative length": (400, START + b"Content-Length: -3\r\n\r\nabc"),
    "empty length": (400, START + b"Content-Length: \r\n\r\n"),
    "length and chunks": (400, CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n0\r\n\r\n"),
    "chunks twice": (400, CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunks of HTTP/1.0": (400, CHUNKED.replace(b"/1.1", b"/1.0") + b"0\r\n\r\n"),
    "unknown coding": (501, START + b"Transfer-Encoding: zip\r\n\r\n"),
    "coding in other words": (501, START + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "unknown expectation": (417, START + b"Expect: more\r\n\r\n"),
    "chunk with 0x": (400, CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk without an end": (400, CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n"),
    "chunk with a bare LF": (400, CHUNKED + b"3\nabc\r\n0\r\n\r\n"),
    "chunk larger than numbers": (400, CHUNKED + b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n"),
    "extension with a control character": (400, CHUNKED + b"3;a=\x01\r\nabc\r\n0\r\n\r\n"),
    "length behind the body": (400, CHUNKED + b"0\r\nContent-Length: 3\r\n\r\n"),
    "key behind the body": (400, CHUNKED + b"0\r\nAuthorization: a\r\n\r\n"),
    "Host twice": (400, START + b"Host: b\r\n\r\n"),
    "Content-Type twice": (400, START + b"Content-Type: a\r\nContent-Type: a\r\n\r\n"),
    "two spaces": (400, b"GET  / HTTP/1.1\r\n\r\n"),
    "tab": (400, b"GET\t/ HTTP/1.1\r\n\r\n"),
    "lower case": (400, b"get / HTTP/1.1\r\n\r\n"),
    "another protocol": (400, b"GET / RTSP/1.0\r\n\r\n"),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": (400, b"GET / HTTP/0.9\r\n\r\n"),
    "host as a target": (400, b"GET a:80 HTTP/1.1\r\n\r\n"),
    "asterisk of a get": (400, b"GET * HTTP/1.1\r\n\r\n"),
    "address without the end of its host": (400, b"GET http://[::1/a HTTP/1.1\r\n\r\n"),
    "target with a letter of another alphabet": (400, b"GET /\xff HTTP/1.1\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\0\r\n\r\n"),
    "long line": (414, b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\n\r\n"),
    "long header": (431, START + b"X: " + b"a" * 9_000 + b"\r\n\r\n"),
    "many headers": (431, START + b"X: a\r\n" * 101 + b"\r\n"),
}
# refused by the worker alone: what it does not know, and what others may read in another way
STRICTER = {
    "method": (501, b"PREDICT / HTTP/1.1\r\n\r\n"),
    "version": (400, b"GET / HTTP/1.2\r\n\r\n"),
    "body of a tunnel": (400, b"CONNECT a:80 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
    "chunks of a tunnel": (400, b"CONNECT a:80 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    "two codings": (501, START + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "space behind the size of a chunk": (400, CHUNKED + b"3 ;a\r\nabc\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("data", READ.values(), ids=READ)
def test_request_is_read_as_by_gunicorn(data):
    request, by_gunicorn = read(data), read_by_gunicorn(data)
    assert isinstance(request, Request), request
    assert {k: v for k, v in request.cgi().items() if k.isupper()}.items() <= by_gunicorn[-1].items()
    assert parts(request) == by_gunicorn


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_what_gunicorn_refuses_is_refused(status, data):
    assert read(data) == status
    assert read_by_gunicorn(data) is None


@pytest.mark.parametrize(("status", "data"), STRICTER.values(), ids=STRICTER)
def test_what_others_may_read_in_another_way_is_refused(status, data):
    assert read(data) == status
    assert read_by_gunicorn(data)


def test_request_that_llhttp_ends_elsewhere_is_refused():
    whole = START + b"Content-Length: 3\r\n\r\nabc"
    assert parse_request(whole, CONFIGURATION).body.read() == b"abc"
    for odd in (whole[:-1], whole + b"G", whole + whole):
        with pytest.raises(EarlyResponse, match="end") as refused:
            parse_request(odd, CONFIGURATION)
        assert refused.value.status == 400


HEADS = {
    b"POST /predict?key=a HTTP/1.1\r\nX-A: b": ("POST", "/predict"),
    b"\r\nPOST /predict HTTP/1.1\r\nX-A: b": ("POST", "/predict"),
    b"GET http://a/b HTTP/1.1\r\n": ("GET", "http://a/b"),
    b"OPTIONS * HTTP/1.1\r\n": ("OPTIONS", "*"),
    b"PREDICT /pre": ("PREDICT", "/pre"),
    b"POST": ("POST", ""),
    b'{"features": [[1.5, 2]]}': ("", ""),
    b'ures": [[1.5,2]]}GET / HTTP/1.1\r\n\r\n': ("", ""),
    b"A [[1.5,2]]}": ("A", ""),
    b"\x16\x03\x01\x02\0\r\n\r\n": ("", ""),
    b"A" * 21 + b" /a": ("", ""),
}


@pytest.mark.parametrize(("data", "expected"), HEADS.items(), ids=range(len(HEADS)))
def test_head_of_a_refused_request_has_method_and_path_and_no_value_of_a_body_that_was_cut(data, expected):
    head = parse_request_head(data)
    assert (head.method, head.path) == expected


def test_defect_of_the_parser_is_logged_and_refuses_the_request(monkeypatch, capfd):
    def fail(*_):
        raise RecursionError("as asked")

    monkeypatch.setattr("mlops_nb.serving.server.request_parser.parse_request", fail)
    assert read(START + b"\r\n") == 400
    assert "RecursionError" in capfd.readouterr().err


CLOSING = {
    b"/1.1\r\nConnection: close": True,
    b"/1.1\r\nConnection: Keep-Alive, Close": True,
    b"/1.1\r\nConnection: closed": False,
    b"/1.1\r\nX: close": False,
    b"/1.0\r\nX: y": True,
    b"/1.0\r\nConnection: keep-alive": False,
}


@pytest.mark.parametrize(("rest", "closes"), CLOSING.items())
def test_connection_ends_where_the_client_or_its_version_wants_it(rest, closes):
    assert read(b"GET / HTTP%b\r\n\r\n" % rest).should_close() is closes


NAMES = (b"X-Request-ID", b"x-request-id", b"traceparent", b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-B3-TraceId")
NAMES += (b"Content-Length", b"Transfer-Encoding", b"Connection", b"Host", b"X_Request_ID", b"b3", b"Expect", b"")
VALUES = (b"1", b"a, b", b"", b" 1", b"1 ", b"1\t2", b"\xe9", b"1\r\n 2", b"1\n", b"\x00", b"x" * 256, b"x" * 257, b"3")
VALUES += (b"chunked", b"X-Request-ID", b"1\r\nX-Request-ID: 2", b"1\r\nContent-Length: 4", b"%41", b"a:b", b'"')
BODIES = (b"abc", b"1\r\na\r\n0\r\n\r\n", b"0\r\n\r\n", b"")


def test_random_request_is_read_as_by_gunicorn_or_refused():
    random = Random(0)
    alike = 0
    for _ in range(5_000):
        names = random.choices(NAMES, k=random.randrange(1, 4))
        lines = [b"%b: %b\r\n" % (name, random.choice(VALUES)) for name in names]
        data = b"".join([b"POST / HTTP/1.1\r\n", *lines, b"\r\n", random.choice(BODIES)])
        request = read(data)
        if isinstance(request, Request):
            alike += 1
            assert parts(request) == read_by_gunicorn(data), data
    assert alike > 1_000


KEY = b"k" * 16
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEAD += b"Content-Length: %d\r\n" % len(BODY)


def asked(body: bytes = BODY, more: bytes = b"X-API-Key: " + KEY) -> bytes:
    assert len(body) == len(BODY), "or it has another head"
    return HEAD + more + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def keyed(homes, tmp_path_factory):
    """One worker, and a key is needed."""
    folder = tmp_path_factory.mktemp("keyed")
    home = shutil.copytree(homes["numbers"], folder / "home")
    settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy"})
    service = TellingService(settings, folder / "log", MLOPS_WORKERS="1", MLOPS_API_KEYS=KEY.decode())
    service.settings = settings
    try:
        yield service
    finally:
        log = service.stop()
    assert "Traceback" not in log, log


@pytest.fixture
def talk(keyed):
    """Send on a connection, and get one answer."""
    with connect(keyed) as connection:
        answers = Answers(connection)

        def talk(content: bytes) -> SimpleNamespace:
            connection.sendall(content)
            return answer(answers)

        yield talk
        answers.close_all()


def is_fast(got: SimpleNamespace) -> bool:
    """As tests.serving.server.tracing_app says."""
    return "X-Fast" in got.headers


@pytest.mark.slow
def test_same_head_is_answered_alike_and_each_body_for_itself(keyed, talk):
    ids = [f"X-API-Key: {KEY.decode()}\r\nX-Request-ID: {name}".encode() for name in ("first", "second")]
    first, again, second = (talk(asked(more=ids[0])) for _ in range(3))
    assert all(is_fast(one) for one in (first, again, second))
    assert list(second.headers) == list(first.headers)
    assert {first.headers["X-Request-ID"], second.headers["X-Request-ID"]} == {"first"}
    told = first.body.pop("ids"), second.body.pop("ids")
    assert first.body == second.body
    assert told[0] != told[1]
    other = talk(asked(BODY.replace(b"1, 0", b"0, 1"), ids[0]))
    assert is_fast(other)
    assert other.body["prediction"] != first.body["prediction"]
    renamed = talk(asked(more=ids[1]))
    assert (is_fast(renamed), renamed.headers["X-Request-ID"]) == (True, "second")
    with connect(keyed, asked(more=ids[0])) as another:
        assert is_fast(answer(another)), "by whoever sends it"
    log = PredictionLog.open(keyed.settings)
    try:
        wanted = {*told[0], *told[1], *other.body["ids"], *renamed.body["ids"]}
        wait_for(lambda: wanted <= set(log.read("toy").predictions.index))
    finally:
        log.close()
    noted = wait_for(lambda: [line for line in keyed.lines("/predict") if line["id"] in ("first", "second")][5:])
    assert {(line["status"], line["rows"]) for line in noted} == {(200, 1)}


@pytest.mark.slow
def test_what_is_wrong_is_answered_as_anywhere(talk):
    assert is_fast([talk(asked()) for _ in range(3)][-1])
    bad = talk(asked(BODY.replace(b"[[1, 0]]", b"[[1   ]]")))
    assert (bad.status, bad.body["code"], bad.body["row"]) == (400, "bad_input", 0)
    assert is_fast(talk(asked())), "the connection goes on"


@pytest.mark.slow
def test_key_is_looked_at_every_time(talk):
    assert {talk(asked()).status for _ in range(3)} == {200}
    for more, status in ((b"X-API-Key: " + b"l" * 16, 403), (b"X-A: 1", 401)):
        got = [talk(asked(more=more)) for _ in range(3)]
        assert {(one.status, is_fast(one)) for one in got} == {(status, False)}


@pytest.mark.slow
def test_connection_that_is_to_end_does_so(keyed):
    for more in (b"Connection: close", b"Connection: Close\r\nX-A: 1"):
        for _ in range(3):
            with connect(keyed, asked(more=b"X-API-Key: " + KEY + b"\r\n" + more)) as connection:
                got = answer(connection)
                assert (got.status, got.headers["Connection"], is_fast(got)) == (200, "close", True)
                assert connection.recv(1) == b""


@pytest.mark.slow
def test_worker_that_is_to_end_says_so(settings, tmp_path):
    service = TellingService(settings, tmp_path / "log", MLOPS_WORKERS="1", GUNICORN_CMD_ARGS="--max-requests 8")
    try:
        with connect(service) as connection:
            fast, ends = zip(*answers_until_close(connection), strict=True)
        assert fast == (True,) * (len(fast) - 1) + (False,), ends
        assert 3 < len(fast) <= 8, ends
        wait_for(lambda: service.log.read_text().count("loaded") == 2)
        wait_for(lambda: len(psutil.Process(service.process.pid).children()) == 1)  # the one before has ended
        wait_for(service.answers)
        with connect(service, asked()) as connection:
            assert answer(connection).headers["Connection"] == "keep-alive"
            service.process.terminate()
            wait_for(lambda: not is_open(service))
            connection.sendall(asked())
            last = answer(connection)
            assert (last.status, last.headers["Connection"], is_fast(last)) == (200, "close", False)
    finally:
        log = service.stop()
    assert "Traceback" not in log, log


def answers_until_close(connection) -> list[tuple[bool, str]]:
    """Was there a fast response, and what becomes of the connection."""
    told = []
    for _ in range(20):
        connection.sendall(asked())
        got = answer(connection)
        told.append((is_fast(got), got.headers["Connection"]))
        if told[-1][1] == "close":
            break
    return told


def is_open(service) -> bool:
    """Is there somebody at the door?"""
    try:
        connect(service).close()
    except OSError:
        return False
    return True
