"""No answer says what is none of a client's business: where things are, how they failed, what the settings are."""

import gzip

import orjson
import pytest

from mlops_nb.serving.inference.live_model import ServingState
from mlops_nb.serving.protocols.arrow import ARROW
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.factories import ROOT

KEY, ADMIN, PASSWORD = "predict-" + "k" * 16, "admin-" + "a" * 16, "hunter2-of-the-database"
WRONG = "somebody-else-s-key"
SECRET = "what-the-predictor-was-told"

BODIES = [
    b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b"[" * 50_000, b'{"\\ud800": 1}', b'{"features": {"a": {"b": []}}}',
    *map(orjson.dumps, (
        {}, {"features": None}, {"features": [[1]]}, {"features": [[1, "x"]]}, {"features": [{"c": 1}]}, {"x": 1},
        {"features": [[1, 0]], "probability": "x"}, {"instances": 1}, {"inputs": {"a": 1}}, {"dataframe_split": {}},
        {"inputs": [{"name": "a", "shape": [9], "datatype": "FP64", "data": []}]}, {"labels": [{}]}, {"id": "x"},
        {"features": [[1e300, 1e300]]}, {"instances": [[1e300, 1e300]]}, {"outputs": 1, "inputs": 1},
    )),
]  # fmt: skip
GOOD = {
    "/predict": {"features": [[1, 0]]},
    "/invocations": {"inputs": [[1, 0]]},
    "/v1/models/toy:predict": {"instances": [[1, 0]]},
    "/v2/models/toy/infer": {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 0]}]},
}
KINDS = [
    "application/json",
    "text/csv",
    ARROW,
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
]


@pytest.fixture
def app(settings):
    """A service with something to hide."""
    own = {"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": "toy", "MLOPS_API_KEYS": KEY, "MLOPS_ADMIN_KEYS": ADMIN}
    app = create_app(Settings.read(own))
    live_model(app).refresh()
    yield app
    live_model(app).stop()


@pytest.fixture
def hidden(settings) -> list[str]:
    """What no answer may have in it."""
    return [
        "Traceback", 'File "', ".py", "site-packages", " at 0x", str(settings.home), str(ROOT), "/tmp/", "/root",
        "sqlite", "postgresql", "mlops.db", PASSWORD, KEY, ADMIN, WRONG, SECRET, "MLOPS_API_KEYS",
    ]  # fmt: skip


def paths(app) -> list[str]:
    """Every address of the service, and some that are none."""
    rules = {str(rule).replace("<name>", "toy").replace("<version>", "1") for rule in app.url_map.iter_rules()}
    others = {rule.replace("toy", "other") for rule in rules} | {"/nowhere", "/v2/nowhere", "/../../etc/passwd", "/%00"}
    return sorted(rules | others)


def ask(app, paths: list[str]):
    """Answers to every body of every kind, on every path, by every method, with every key and without."""
    client = app.test_client()
    for path in paths:
        for key in (None, WRONG, KEY, ADMIN):
            headers = {} if key is None else {"X-API-Key": key}
            for method in ("GET", "POST", "PUT", "OPTIONS", "TRACE"):
                yield path, client.open(path, method=method, headers=headers)
        for body in [*BODIES, orjson.dumps(GOOD.get(path, {}))]:
            for kind in KINDS:
                yield path, client.post(path, data=body, headers={"X-API-Key": KEY, "Content-Type": kind})
        for packed in (b"x", gzip.compress(b"{")):
            yield path, client.post(path, data=packed, headers={"X-API-Key": KEY, "Content-Encoding": "gzip"})


def assert_nothing_leaks(app, paths: list[str], hidden: list[str]) -> set[int]:
    """Which statuses there were."""
    statuses = set()
    for path, answer in ask(app, paths):
        statuses.add(answer.status_code)
        result = f"{answer.headers}\n{answer.get_data(as_text=True)}"
        assert [word for word in hidden if word in result] == [], (path, answer.status_code, result)
    return statuses


@pytest.mark.slow
def test_no_answer_of_any_route_carries_a_traceback_a_path_or_a_setting(app, hidden):
    assert {200, 400, 401, 403, 404, 405, 415} <= assert_nothing_leaks(app, paths(app), hidden)


class Broken(Exception):
    """What a model raises when it is at its worst."""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["parse", "predict"])
def test_model_that_breaks_says_nothing_of_itself(app, hidden, part, monkeypatch, capfd):
    def fail(*_):
        raise Broken(f"{SECRET} at {app.extensions['settings'].home} for {KEY}: {PASSWORD}")

    monkeypatch.setattr(live_model(app).predictor, part, fail)
    client = app.test_client()
    for path, body in GOOD.items():
        assert client.post(path, json=body, headers={"X-API-Key": KEY}).status_code == 500, path
    assert 500 in assert_nothing_leaks(app, [*GOOD], hidden)
    log = "".join(capfd.readouterr())
    assert "Broken" in log
    assert not [secret for secret in (SECRET, KEY, PASSWORD) if secret in log]


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["database", "bundle", "manifest"])
def test_service_without_a_model_says_nothing_of_where_it_looked(app, settings, registry, hidden, problem, monkeypatch):
    from sqlalchemy.exc import OperationalError

    live = live_model(app)
    live.state = ServingState()
    if problem == "database":
        cause = Exception(f"could not connect to postgresql://me:{PASSWORD}@db/mlops")
        monkeypatch.setattr(
            live._registry, "aliases", lambda *_: (_ for _ in ()).throw(OperationalError("SELECT", {}, cause))
        )
    else:
        broken = registry.get("toy", 1).path / ("model.onnx" if problem == "bundle" else "manifest.json")
        broken.unlink()
        if problem == "manifest":
            broken.mkdir()
        live._loads.clear()
        live._aliases = None
    live.refresh()
    answer = app.test_client().get("/health/ready")
    assert answer.status_code == 503
    assert answer.get_json()["error"]
    assert 503 in assert_nothing_leaks(app, ["/health/ready", "/model", "/openapi.json", "/metrics", *GOOD], hidden)
