"""The query of a request: a parameter that means nothing here, or is there twice, is refused and not ignored."""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.serving.http.auth import LEVELS
from mlops_nb.serving.http.probes import HEALTH_ROUTES
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app

TAKEN = {"/dashboard/data.json": ["hours", "model"]}
TAKEN |= {rule: ["model"] for rule in ("/invocations", "/openapi.json", "/admin/promote", "/admin/rollback")}
STRICT = sorted((LEVELS["key"] | LEVELS["admin"]) - HEALTH_ROUTES)
LENIENT = sorted(HEALTH_ROUTES | LEVELS["open"])


@pytest.fixture(scope="module")
def clients(homes, tmp_path_factory):
    """Clients of a service with the fast path, and of one without."""
    home = shutil.copytree(homes["numbers"], tmp_path_factory.mktemp("query") / "home")
    apps = [create_app(Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy"})) for _ in "ab"]
    for app in apps:
        live_model(app).refresh()
    apps[1].before_request(lambda: None)
    assert [app.has_fast_path for app in apps] == [True, False]
    yield [app.test_client() for app in apps]
    for app in apps:
        app.stop()


@pytest.fixture(scope="module")
def client(clients):
    return clients[0]


def call(client, rule: str, **more):
    path = rule.replace("<name>", "toy").replace("<version>", "1")
    rules = client.application.url_map.iter_rules()
    is_get = any("GET" in (r.methods or ()) for r in rules if r.rule == rule)
    if is_get:
        return client.get(path, **more)
    return client.post(path, json={}, headers={"X-Dashboard": "move"}, **more)


def test_every_route_is_strict_or_lenient(client):
    assert {r.rule for r in client.application.url_map.iter_rules()} == {*STRICT, *LENIENT}


@pytest.mark.parametrize("rule", STRICT)
def test_parameter_that_means_nothing_is_refused(client, rule):
    response = call(client, rule, query_string={"modle": "x"})
    assert response.status_code == 400
    error = response.get_json()["error"]
    assert "'modle'" in error
    assert f"{rule} takes no" in error
    if rule in TAKEN:
        assert "Did you mean 'model'?" in error
        for name in TAKEN[rule]:
            twice = call(client, rule, query_string=[(name, "toy"), (name, "toy")])
            assert (twice.status_code, f"{name!r} 2 times" in twice.get_json()["error"]) == (400, True)


@pytest.mark.slow
@pytest.mark.parametrize("rule", LENIENT)
def test_probe_and_file_take_any_parameter(client, rule):
    expected = 403 if rule in ("/pipeline/notebook", "/dashboard/card") else 200  # without their ticket
    assert call(client, rule, query_string={"v": "2"}).status_code == expected


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/predict", "/models/<name>/predict"),
        ("/feedback", "/models/<name>/feedback"),
        ("/model", "/models/<name>"),
    ],
)
def test_route_of_the_first_model_says_where_another_is_named(client, path, route):
    error = call(client, path, query_string={"model": "toy"}).get_json()["error"]
    assert f"Use {route}." in error


def test_model_of_a_route_that_takes_one_is_found(client):
    assert client.post("/invocations?model=toy", json={"instances": [[1, 0]]}).status_code == 200
    assert client.post("/invocations?model=tyo", json={"instances": [[1, 0]]}).status_code == 404
    assert client.get("/dashboard/data.json?hours=1&model=toy").status_code == 200
    assert client.get("/dashboard/data.json?hours=2").status_code == 400


@pytest.mark.slow
@given(query=st.text(st.characters(codec="latin-1", exclude_characters="\r\n#"), max_size=20))
def test_whatever_the_query_is_the_fast_path_agrees_with_the_routes(clients, query):
    fast, slow = (
        client.post("/predict", json={"features": [[1, 0]]}, environ_overrides={"QUERY_STRING": query})
        for client in clients
    )
    assert fast.status_code == slow.status_code
    assert fast.status_code == (200 if query.strip("&") == "" else 400), query


def test_route_of_the_project_takes_what_it_likes(app):
    app.add_url_rule("/mine", "mine", lambda: "mine")
    app.extensions["keys"].levels["/mine"] = "open"
    assert app.test_client().get("/mine?a=1&a=2").status_code == 200
    app.extensions["query"].names["/model"] = {"a"}
    assert app.test_client().get("/model?a=1").status_code == 200
