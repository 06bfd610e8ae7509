"""The usual request takes the shortcut, any other the route, and nobody can tell which from the answer."""

import gzip
from dataclasses import replace
from io import BufferedReader, BytesIO
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from flask import Flask
from hypothesis import example, given
from hypothesis import strategies as st

from mlops_nb.model.domain import Domain
from mlops_nb.model.engine import SklearnEngine
from mlops_nb.serving.inference.loading import FALLBACK_PAUSE_SECONDS, inline_rule
from mlops_nb.serving.service import live_model
from serve.app import create_app
from tests.factories import logged
from tests.serving.protocols.test_openapi import BODIES

JSON = {"content_type": "application/json"}
BODY = orjson.dumps({"features": [[1, 0]]})


@pytest.fixture
def closed(app, monkeypatch):
    """No request gets to Flask."""
    monkeypatch.setattr(Flask, "wsgi_app", None)
    return app.test_client()


@pytest.mark.parametrize("probability", [False, True, "named"])
def test_usual_request_needs_no_flask(closed, app, probability):
    response = closed.post("/predict", json={"features": [[1, 0], [0, 1]], "probability": probability})
    assert response.json["prediction"] == [1, 0]
    assert response.headers["X-Request-ID"]
    assert logged(app).predictions.index.tolist() == response.json["ids"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/json;charset=UTF-8"])
def test_clients_that_name_the_encoding_need_no_flask(closed, kind):
    assert closed.post("/predict", data=BODY, content_type=kind).json["prediction"] == [1]


def chunked(stream) -> dict:
    """A request whose body came in chunks, as a server hands it on."""
    environ = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": stream}
    return JSON | {"path": "/predict", "method": "POST", "environ_overrides": environ}


def test_chunked_body_that_the_server_has_whole_needs_no_flask(closed):
    assert closed.open(**chunked(BytesIO(BODY))).json["prediction"] == [1]


def test_chunked_body_that_may_be_anything_is_for_flask(closed):
    too_large = b" " * closed.application.config["MAX_CONTENT_LENGTH"] + BODY
    for stream in (BufferedReader(BytesIO(BODY)), BytesIO(too_large)):
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):
            closed.open(**chunked(stream))


@pytest.mark.parametrize(
    "unusual",
    [
        JSON | {"path": "/predict/"},
        JSON | {"method": "PUT"},
        {"content_type": "application/json; charset=latin-1"},
        {"content_type": "application/json; version=1"},
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


QUICK = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n\r\n" + BODY
HEAVY = {
    "rows": QUICK.replace(b"[1,0]", b"[1,0],[0,1],[1,1]"),
    "bytes": QUICK.replace(b"\r\n\r\n", b"\r\nX-A: " + b"a" * 4096 + b"\r\n\r\n"),
    "packed rows": QUICK.replace(b"\r\n\r\n", b"\r\ncontent-Encoding: gzip\r\n\r\n"),
    "columns": QUICK.replace(b"\r\n\r\n", b"\r\nContent-Type: application/vnd.apache.Arrow.stream\r\n\r\n"),
    "explanations": QUICK.replace(b"}", b', "explain": true}'),
    "explanations in other letters": QUICK.replace(b"}", b', "\\u0065xplain": true}'),
    "route": QUICK.replace(b"/predict", b"/predictions"),
    "method": QUICK.replace(b"POST", b"GET"),
}


def test_small_request_of_a_quick_model_is_quick(app):
    assert app.runs_inline(QUICK)
    assert app.runs_inline(QUICK.replace(b"[1,0]", b'{"a":1,"b":0}'))
    assert app.runs_inline(QUICK.replace(b"[1,0]", b'["\\u00e4",0]'))


QUICK_ROUTES = {
    "/models/toy/predict": {"features": [[1, 0], [0, 1]]},
    "/invocations": {"inputs": [[1, 0]]},
    "/v1/models/toy:predict": {"instances": [[1, 0]]},
    "/v2/models/toy/infer": {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 0]}]},
    "/v2/models/toy/versions/1/infer": {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 0]}]},
}


@pytest.mark.parametrize(("route", "body"), QUICK_ROUTES.items())
def test_small_request_in_any_protocol_is_quick(app, route, body):
    request = QUICK.replace(b"/predict", route.encode()).replace(BODY, orjson.dumps(body))
    assert app.runs_inline(request)
    assert not app.runs_inline(request.replace(b"toy", b"other")) or b"toy" not in request
    assert app.test_client().post(route, json=body).status_code == 200


@pytest.mark.parametrize("what", HEAVY)
def test_request_that_may_be_more_is_not_quick(app, what):
    assert not app.runs_inline(HEAVY[what])


SLOW = {
    "slow": ("mlops_nb.serving.inference.loading.INLINE_SECONDS", 0),
    "very slow outside the domain": ("mlops_nb.serving.inference.loading.MAX_FALLBACK_SECONDS", 0),
    "another engine": ("mlops_nb.serving.inference.loading.OnnxEngine", SklearnEngine),
}


@pytest.mark.parametrize("reason", SLOW)
def test_request_of_a_model_that_may_be_slow_is_not_quick(app, registry, monkeypatch, reason):
    assert app.runs_inline(QUICK)
    monkeypatch.setattr(Domain, "holds_all", lambda *_: False)  # as of a model with scikit-learn beside its graph
    monkeypatch.setattr(*SLOW[reason])
    registry.promote("toy", 2)
    live_model(app).refresh()
    assert live_model(app).predictor.version == 2
    assert not app.runs_inline(QUICK)


def test_after_a_row_that_takes_long_outside_the_domain_threads_predict_for_a_while(app, registry, monkeypatch):
    monkeypatch.setattr("mlops_nb.serving.inference.loading.INLINE_FALLBACK_SECONDS", 0)
    registry.promote("toy", 2)
    live_model(app).refresh()
    engine, client = live_model(app).predictor.engine, app.test_client()
    monkeypatch.setattr(engine, "_outside", lambda table: None)
    assert client.post("/predict", json={"features": [[1, 0]]}).status_code == 200
    assert app.runs_inline(QUICK)
    monkeypatch.setattr(engine, "_outside", lambda table: np.ones(1, dtype=bool))
    assert client.post("/predict", json={"features": [[1, 0]]}).status_code == 200
    assert not app.runs_inline(QUICK)
    monkeypatch.setattr(engine, "fell_back_at", engine.fell_back_at - FALLBACK_PAUSE_SECONDS)
    assert app.runs_inline(QUICK)


def test_model_of_which_no_row_is_left_to_try_is_not_quick(app):
    predictor = live_model(app).predictor
    assert inline_rule(predictor).allows()
    (predictor.bundle.path / "golden.json").unlink()
    assert not inline_rule(predictor).allows()


def test_request_that_a_canary_may_get_is_not_quick(app, registry):
    registry.promote("toy", 2, alias="canary")
    live_model(app).refresh()
    assert not app.runs_inline(QUICK)
    registry.clear("toy", "canary", "it was good")
    live_model(app).refresh()
    assert app.runs_inline(QUICK)


def without_ids(answer):
    content = answer.get_json()
    content.pop("ids", None)
    return answer.status_code, answer.mimetype, answer.content_length and content


@pytest.mark.slow
@given(st.one_of(BODIES.map(lambda body: repr(body).encode()), BODIES.map(lambda b: orjson_or_text(b)), st.binary()))
@example(b'{"features": [[41, 1200.5, "own"]], "probability": "named"}')
@example(b'{"features": [[41, 1200.5, "own"]], "features": [[42, 1200.5, "own"]]}')
@example(b'{"features": [[41, 1e999, "own"]]}')
def test_both_ways_say_the_same(mixed, content):
    service = mixed.application
    fast_path = service._fast_path
    quick = mixed.post("/predict", data=content, **JSON)
    try:
        service._fast_path = SimpleNamespace(respond=lambda environ: None)
        slow = mixed.post("/predict", data=content, **JSON)
    finally:
        service._fast_path = fast_path
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
    response = [client.post("/predict", data=BODY, headers=h, **JSON) for h in ({}, {"X-API-Key": "l" * 16})]
    assert [answer.status_code for answer in response] == [401, 403]
    app.stop()


def test_body_that_ended_too_early_is_refused(client):
    environ = {"CONTENT_LENGTH": str(len(BODY) + 1)}
    response = client.post("/predict", data=BODY, environ_overrides=environ, **JSON)
    assert response.status_code == 400


def test_defect_is_answered_once_and_not_recorded(app, client, monkeypatch, capfd):
    monkeypatch.setattr(live_model(app).predictor, "predict", lambda table: 1 / 0)
    assert client.post("/predict", data=BODY, **JSON).status_code == 500
    assert capfd.readouterr().err.count("ZeroDivisionError") == 1
    assert not len(logged(app).predictions)


def test_both_ways_are_counted_as_one_route(app, client):
    client.post("/predict", data=BODY, **JSON)
    client.post("/predict", data=b"{}", **JSON)
    shown = client.get("/metrics").text
    for status in (200, 400):
        assert f'mlops_requests_total{{route="/predict",status="{status}"}} 1.0' in shown
