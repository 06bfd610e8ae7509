"""A head that is known is not parsed again; nobody can tell by the answer, and nothing else of a request is kept."""

import shutil
from random import Random
from types import SimpleNamespace

import psutil
import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser

from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.serving.server.configuration import gunicorn_settings
from mlops_nb.serving.server.head_cache import MAX_HEADS, HeadCache
from mlops_nb.settings import Settings
from tests.factories import wait_for
from tests.serving.server.test_limits import BODY, Answers, TellingService, answer, connect

CGI = {"SERVER_PROTOCOL": "HTTP/1.1", "CONTENT_LENGTH": "3", "HTTP_ACCEPT": "*/*"}


def meet_twice(heads: HeadCache, head: bytes, environ: dict):
    """Which is how a head gets known."""
    for _ in range(2):
        assert heads.get(head, 3) is None
        heads.add(head, environ, 3)


def test_head_that_came_twice_is_known_by_every_byte_and_without_what_is_of_one_request():
    heads = HeadCache()
    meet_twice(heads, b"head", CGI | {"REMOTE_ADDR": "::1", "wsgi.input": None, "serving.id": "x"})
    assert heads.get(b"head", 3) == CGI
    assert heads.get(b"Head", 3) is None
    heads.get(b"head", 3)["serving.id"] = "y"
    assert heads.get(b"head", 3) == CGI


@pytest.mark.parametrize("odd", [{"SERVER_PROTOCOL": "HTTP/1.0"}, {"CONTENT_LENGTH": "4"}, {"CONTENT_LENGTH": "+3"}])
def test_head_of_a_request_that_may_be_read_in_two_ways_is_not_remembered(odd):
    heads = HeadCache()
    meet_twice(heads, b"head", CGI | odd)
    assert heads.get(b"head", 3) is None


def test_no_more_than_so_many_are_remembered():
    heads = HeadCache()
    for n in range(MAX_HEADS + 1):
        meet_twice(heads, b"%d" % n, CGI)
    assert len(heads._environs) == len(heads._seen) == 1
    assert heads.get(b"%d" % MAX_HEADS, 3)


IDS = b"POST / HTTP/1.1\r\nX-Request-ID: %b\r\nHost: a\r\ntraceparent: %b\r\nContent-Length: 3\r\n\r\n"


def test_heads_that_differ_in_ids_alone_are_one_head_and_each_has_its_own_ids():
    heads = HeadCache()
    for number in (b"1", b"2"):
        assert heads.get(IDS % (number, b"00-1-1-01"), 3) is None
        heads.add(IDS % (number, b"00-1-1-01"), environ_of(IDS % (number, b"00-1-1-01")), 3)
    found = heads.get(IDS % (b"3", b"00-2-2-01"), 3)
    assert found == environ_of(IDS % (b"3", b"00-2-2-01"))
    assert (found["HTTP_X_REQUEST_ID"], found["HTTP_TRACEPARENT"]) == ("3", "00-2-2-01")
    assert heads.get((IDS % (b"3", b"1")).replace(b"Host: a", b"Host: b"), 3) is None
    assert len(heads._environs) == 1


NAMES = (b"X-Request-ID", b"x-request-id", b"traceparent", b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-B3-TraceId")
NAMES += (b"Content-Length", b"Transfer-Encoding", b"Connection", b"Host", b"X_Request_ID", b"b3")
VALUES = (b"1", b"a, b", b"", b" 1", b"1 ", b"1\t2", b"\xe9", b"1\r\n 2", b"1\n", b"\x00", b"x" * 256, b"x" * 257, b"3")
VALUES += (b"chunked", b"X-Request-ID", b"1\r\nX-Request-ID: 2", b"1\r\nContent-Length: 4", b"%41", b"a:b", b'"')


@pytest.mark.slow
def test_no_head_has_another_environment_from_the_cache_than_from_the_parser():
    """Heads of a few lines each; the cache learns from one, and is asked for another with the same names."""
    random = Random(0)
    known = 0
    for _ in range(3_000):
        names = random.choices(NAMES, k=random.randrange(1, 4))
        learned, asked = (
            b"".join([b"POST / HTTP/1.1\r\n", *(b"%b: %b\r\n" % (n, random.choice(VALUES)) for n in names), END])
            for _ in range(2)
        )
        heads, environ = HeadCache(), environ_of(learned)
        for _ in range(2 if environ else 0):
            heads.add(learned, environ, 3)
        if (found := heads.get(asked, 3)) is not None:
            known += 1
            assert found == environ_of(asked), (learned, asked)
    assert known > 50


END = b"Content-Length: 3\r\n\r\n"
CONFIGURATION = Config()
for _name in ("forwarded_allow_ips", "secure_scheme_headers", "forwarder_headers"):
    CONFIGURATION.set(_name, gunicorn_settings()[_name])


def environ_of(head: bytes) -> dict | None:
    """What Gunicorn's parser makes of a head; None where it refuses it."""
    try:
        message = next(RequestParser(CONFIGURATION, iter([head + b"abc"]), ("::1", 1)))
    except ParseException:
        return None
    _, environ = wsgi.create(message, None, ("::1", 1), ("::1", 2), CONFIGURATION)
    return {name: value for name, value in environ.items() if name.isupper() and not name.startswith("REMOTE_")}


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


def is_known(got: SimpleNamespace) -> bool:
    """As tests.serving.server.tracing_app says."""
    return "X-Known" in got.headers


@pytest.mark.slow
def test_known_head_is_answered_as_the_first_was_and_each_body_for_itself(keyed, talk):
    ids = [f"X-API-Key: {KEY.decode()}\r\nX-Request-ID: {name}".encode() for name in ("first", "second")]
    first, again, second = (talk(asked(more=ids[0])) for _ in range(3))
    assert [is_known(one) for one in (first, again, second)] == [False, False, True]
    assert [name for name in second.headers if name != "X-Known"] == list(first.headers)
    assert {first.headers["X-Request-ID"], second.headers["X-Request-ID"]} == {"first"}
    told = first.body.pop("ids"), second.body.pop("ids")
    assert first.body == second.body
    assert told[0] != told[1]
    other = talk(asked(BODY.replace(b"1, 0", b"0, 1"), ids[0]))
    assert is_known(other)
    assert other.body["prediction"] != first.body["prediction"]
    renamed = talk(asked(more=ids[1]))
    assert (is_known(renamed), renamed.headers["X-Request-ID"]) == (True, "second")
    with connect(keyed, asked(more=ids[0])) as another:
        assert is_known(answer(another)), "by whoever sends it"
    log = PredictionLog.open(keyed.settings)
    try:
        wanted = {*told[0], *told[1], *other.body["ids"], *renamed.body["ids"]}
        wait_for(lambda: wanted <= set(log.read("toy").predictions.index))
    finally:
        log.close()
    noted = wait_for(lambda: [line for line in keyed.lines("/predict") if line["id"] in ("first", "second")][5:])
    assert {(line["status"], line["rows"]) for line in noted} == {(200, 1)}


@pytest.mark.slow
def test_what_is_wrong_behind_a_known_head_is_answered_as_anywhere(talk):
    assert is_known([talk(asked()) for _ in range(3)][-1])
    bad = talk(asked(BODY.replace(b"[[1, 0]]", b"[[1   ]]")))
    assert (bad.status, bad.body["code"], bad.body["row"]) == (400, "bad_input", 0)
    assert is_known(talk(asked())), "the connection goes on"


@pytest.mark.slow
def test_key_is_looked_at_every_time(talk):
    assert {talk(asked()).status for _ in range(3)} == {200}
    for more, status in ((b"X-API-Key: " + b"l" * 16, 403), (b"X-A: 1", 401)):
        got = [talk(asked(more=more)) for _ in range(3)]
        assert {(one.status, is_known(one)) for one in got} == {(status, False)}


@pytest.mark.slow
def test_connection_that_is_to_end_does_so_whatever_is_known(keyed):
    for more in (b"Connection: close", b"Connection: Close\r\nX-A: 1"):
        for _ in range(3):
            with connect(keyed, asked(more=b"X-API-Key: " + KEY + b"\r\n" + more)) as connection:
                got = answer(connection)
                assert (got.status, got.headers["Connection"], is_known(got)) == (200, "close", False)
                assert connection.recv(1) == b""


@pytest.mark.slow
def test_worker_that_is_to_end_says_so_whatever_is_known(settings, tmp_path):
    service = TellingService(settings, tmp_path / "log", MLOPS_WORKERS="1", GUNICORN_CMD_ARGS="--max-requests 8")
    try:
        with connect(service) as connection:
            known, ends = zip(*answers_until_close(connection), strict=True)
        assert known[2:] == (True,) * (len(known) - 3) + (False,), ends
        assert 3 < len(known) <= 8, ends
        wait_for(lambda: service.log.read_text().count("loaded") == 2)
        wait_for(lambda: len(psutil.Process(service.process.pid).children()) == 1)  # the one before has ended
        wait_for(service.answers)
        with connect(service, asked()) as connection:
            assert answer(connection).headers["Connection"] == "keep-alive"
            service.process.terminate()
            wait_for(lambda: not is_open(service))
            connection.sendall(asked())
            last = answer(connection)
            assert (last.status, last.headers["Connection"], is_known(last)) == (200, "close", False)
    finally:
        log = service.stop()
    assert "Traceback" not in log, log


def answers_until_close(connection) -> list[tuple[bool, str]]:
    """Was the head known, and what becomes of the connection."""
    told = []
    for _ in range(20):
        connection.sendall(asked())
        got = answer(connection)
        told.append((is_known(got), got.headers["Connection"]))
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
