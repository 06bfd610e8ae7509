"""The usual request takes the shortcut, any other the route, and nobody can tell which from the answer."""

import gzip
from dataclasses import replace

import orjson
import pytest
from flask import Flask
from hypothesis import example, given
from hypothesis import strategies as st

from serve.app import create_app, live_model, stop
from tests.serve.conftest import logged
from tests.serve.test_openapi import BODIES

JSON = {"content_type": "application/json"}
BODY = orjson.dumps({"features": [[1, 0]]})


@pytest.fixture
def closed(app, monkeypatch):
    """No request gets to Flask."""
    monkeypatch.setattr(Flask, "wsgi_app", None)
    return app.test_client()


@pytest.mark.parametrize("probability", [False, True, "named"])
def test_usual_request_needs_no_flask(closed, app, probability):
    said = closed.post("/predict", json={"features": [[1, 0], [0, 1]], "probability": probability})
    assert said.json["prediction"] == [1, 0] and said.headers["X-Request-ID"]
    assert logged(app).facts.index.tolist() == said.json["ids"]


@pytest.mark.parametrize(
    "unusual",
    [
        JSON | {"path": "/predict/"},
        JSON | {"method": "PUT"},
        {"content_type": "application/json; charset=utf-8"},
        JSON | {"headers": {"Content-Encoding": "gzip"}, "data": gzip.compress(BODY)},
        JSON | {"headers": {"Accept": "application/vnd.apache.arrow.stream"}},
        JSON | {"data": BODY[:-1]},
        JSON | {"data": b"[]"},
        JSON | {"data": b'{"features": [[NaN, 1]]}'},
    ],
)
def test_unusual_request_is_for_flask(closed, unusual):
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        closed.open(**{"path": "/predict", "method": "POST", "data": BODY} | unusual)


def without_ids(answer):
    content = answer.get_json()
    content.pop("ids", None)
    return answer.status_code, answer.mimetype, answer.content_length and content


@given(st.one_of(BODIES.map(lambda body: repr(body).encode()), BODIES.map(lambda b: orjson_or_text(b)), st.binary()))
@example(b'{"features": [[41, 1200.5, "own"]], "probability": "named"}')
@example(b'{"features": [[41, 1200.5, "own"]], "features": [[42, 1200.5, "own"]]}')
@example(b'{"features": [[41, 1e999, "own"]]}')
def test_both_ways_say_the_same(mixed, content):
    service = mixed.application
    shortcut = service.shortcut
    quick = mixed.post("/predict", data=content, **JSON)
    try:
        service.shortcut = lambda environ: None
        slow = mixed.post("/predict", data=content, **JSON)
    finally:
        service.shortcut = shortcut
    assert without_ids(quick) == without_ids(slow)


def orjson_or_text(body) -> bytes:
    """JSON, also of numbers that orjson does not write."""
    try:
        return orjson.dumps(body)
    except TypeError:
        return str(body).replace("'", '"').encode()


def test_keys_are_asked_for(settings):
    app = create_app(replace(settings, api_keys="k" * 16))
    live_model(app).refresh()
    client = app.test_client()
    said = [client.post("/predict", data=BODY, headers=h, **JSON) for h in ({}, {"X-API-Key": "l" * 16})]
    assert [answer.status_code for answer in said] == [401, 403]
    stop(app)


def test_body_that_ended_too_early_is_refused(client):
    environ = {"CONTENT_LENGTH": str(len(BODY) + 1)}
    said = client.post("/predict", data=BODY, environ_overrides=environ, **JSON)
    assert said.status_code == 400


def test_defect_is_answered_once_and_not_recorded(app, client, monkeypatch, capfd):
    monkeypatch.setattr(live_model(app).predictor, "answer", lambda table: 1 / 0)
    assert client.post("/predict", data=BODY, **JSON).status_code == 500
    assert capfd.readouterr().err.count("ZeroDivisionError") == 1
    assert not len(logged(app).facts)


def test_both_ways_are_counted_as_one_route(app, client):
    client.post("/predict", data=BODY, **JSON)
    client.post("/predict", data=b"{}", **JSON)
    shown = client.get("/metrics").text
    for status in (200, 400):
        assert f'mlops_requests_total{{route="/predict",status="{status}"}} 1.0' in shown
