"""A project's own routes are treated as the library's, and what it adds sees every request."""

import shutil
from http.client import HTTPConnection

import flask
import orjson
import pytest

from mlops_nb.serving.protocols import predict
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve import app as project
from serve.app import create_app
from tests.factories import Service, wait_for
from tests.serving.project_app import ADDITIONS, SEEN_FILE, make_app, refuse

BODY = orjson.dumps({"features": [[1, 0]]})
RAW = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n" + BODY
KEY, ADMIN = "predict-" + "k" * 16, "admin-" + "a" * 16
ALL = [*ADDITIONS, "subclass", "shadowed_route"]


@pytest.fixture
def make(settings):
    """Make services of projects, with a model and without threads."""
    apps = []

    def make(addition: str = "", **more: str):
        own = Settings.read({"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": "toy", **more})
        apps.append(make_app(addition, own))
        live_model(apps[-1]).refresh()
        return apps[-1]

    yield make
    for app in apps:
        live_model(app).stop()
        if hasattr(app, "on_signal"):
            flask.request_started.disconnect(app.on_signal)


def ask(client, **options):
    return client.post("/predict", data=BODY, content_type="application/json", **options)


# a route of the project's


@pytest.fixture
def own(make):
    """A service with keys and two routes of the project's, one of them without a declared level."""
    app = make(MLOPS_API_KEYS=KEY, MLOPS_ADMIN_KEYS=ADMIN)
    app.add_url_rule("/mine/<name>", view_func=lambda name: {"hello": name}, endpoint="mine")
    app.add_url_rule("/reload", view_func=lambda: "", endpoint="reload", methods=["POST"])
    app.extensions["keys"].levels["/mine/<name>"] = "key"
    return app


def bearer(key: str) -> dict:
    return {"Authorization": f"Bearer {key}"}


def test_route_of_a_project_is_answered_counted_and_logged(own, capfd):
    response = own.test_client().get("/mine/joe", headers={**bearer(KEY), "X-Request-ID": "abc"})
    assert (response.status_code, response.json, response.headers["X-Request-ID"]) == (200, {"hello": "joe"}, "abc")
    assert ("/mine/<name>", "200", 1) in own.metrics.requests()
    line = orjson.loads(capfd.readouterr().out)
    assert (line["id"], line["route"], line["status"]) == ("abc", "/mine/<name>", 200)


def test_error_of_a_projects_route_has_the_shape_of_ours(own, capfd):
    own.add_url_rule("/fails", view_func=lambda: 1 / 0, endpoint="fails")
    own.extensions["keys"].levels["/fails"] = "open"
    response = own.test_client().get("/fails")
    assert (response.status_code, response.json["code"]) == (500, "internal_error")
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [("GET", "/mine/joe", (401, 403, 200, 200)), ("POST", "/reload", (401, 403, 403, 200))],
)
def test_route_of_a_project_is_for_admins_unless_its_level_is_declared(own, method, path, statuses):
    headers = [{}, bearer("x" * 16), bearer(KEY), bearer(ADMIN)]
    client = own.test_client()
    assert tuple(client.open(path, method=method, headers=h).status_code for h in headers) == statuses


# what must see every request


def test_service_without_additions_and_with_a_route_of_its_own_keeps_the_fast_path(make, own):
    for app in (make(), own):
        assert app.has_fast_path
        assert app.runs_inline(RAW)


@pytest.mark.parametrize("addition", ALL)
def test_addition_switches_the_fast_path_off(make, addition):
    app = make(addition)
    assert not app.has_fast_path
    assert not app.runs_inline(RAW)


@pytest.mark.slow
@pytest.mark.parametrize("addition", ALL)
def test_addition_sees_every_request(make, addition, tmp_path, monkeypatch):
    monkeypatch.setenv(SEEN_FILE, str(tmp_path / "seen"))
    client = make(addition).test_client()
    for _ in range(3):
        ask(client)
    assert (tmp_path / "seen").read_text() == "?\n" * 3


@pytest.mark.slow
@pytest.mark.parametrize("addition", ADDITIONS)
def test_addition_after_the_first_requests_sees_the_next(make, addition, tmp_path, monkeypatch):
    monkeypatch.setenv(SEEN_FILE, str(tmp_path / "seen"))
    app = make()
    client = app.test_client()
    assert [ask(client).status_code for _ in range(3)] == [200] * 3
    ADDITIONS[addition](app)
    ask(client)
    assert (tmp_path / "seen").read_text() == "?\n"


def test_hook_that_is_put_in_flasks_own_table_sees_the_next(make):
    app = make()
    client = app.test_client()
    assert client.get("/health/live").status_code == 200  # from now on Flask refuses `app.before_request`
    app.before_request_funcs[None].append(refuse)
    assert ask(client).status_code == 418


def test_signal_whose_receiver_is_gone_gives_the_fast_path_back(make):
    app = make("on_signal")
    flask.request_started.disconnect(app.on_signal)
    assert app.has_fast_path


def test_protocol_that_is_left_out_is_not_found_and_not_described(settings, monkeypatch):
    kept = tuple(protocol for protocol in project.PROTOCOLS if protocol is not predict)
    monkeypatch.setattr(project, "PROTOCOLS", kept)
    app = create_app(settings)
    live_model(app).refresh()
    client = app.test_client()
    assert not app.runs_inline(RAW)
    assert [ask(client).status_code for _ in range(3)] == [404] * 3
    paths = client.get("/openapi.json").json["paths"]
    assert "/predict" not in paths
    assert "/invocations" in paths
    app.stop()


# with a real Gunicorn: neither the worker's inline requests nor its cache of heads go past an addition


@pytest.mark.slow
@pytest.mark.parametrize(
    "addition",
    [
        *["before_request", "middleware", "wrapper", "shadowed_route"],
        *(
            pytest.param(name, marks=pytest.mark.nightly)
            for name in ("after_request", "teardown_request", "on_signal", "replaced_view", "subclass")
        ),
    ],
)
def test_addition_sees_every_request_under_gunicorn(homes, tmp_path, addition):
    seen = tmp_path / "seen"
    home = shutil.copytree(homes["numbers"], tmp_path / "home")

    class ProjectService(Service):
        app = f"tests.serving.project_app:make('{addition}')"

        def answers(self) -> bool:
            return self.process.poll() is None and ask_over(self, 1, "start")[0] in (200, 418)

    more = {"MLOPS_WORKERS": "1", SEEN_FILE: str(seen)}
    service = ProjectService(Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy"}), tmp_path / "log", **more)
    try:
        refuses = addition in ("before_request", "shadowed_route")
        seen.write_text("")
        assert ask_over(service, 6, "same") == [418 if refuses else 200] * 6
        wait_for(lambda: seen.read_text().split().count("same") >= 6)
        assert seen.read_text().split().count("same") == 6
    finally:
        log = service.stop()
    assert "Traceback" not in log, log


def ask_over(service: Service, times: int, number: str) -> list[int]:
    """Send the same request several times on one connection; the statuses, or [0] while nobody listens."""
    connection, statuses = HTTPConnection("127.0.0.1", service.port, timeout=10), []
    headers = {"Content-Type": "application/json", "X-Number": number, "X-Request-ID": "same"}
    try:
        for _ in range(times):
            connection.request("POST", "/predict", BODY, headers)
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
    except OSError:
        return [0]
    finally:
        connection.close()
    return statuses
