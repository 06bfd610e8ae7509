"""Requests share calls of a slow model; each gets its own predictions, its own errors and its own version."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from mlops_nb.errors import SettingsError
from mlops_nb.estimators import OnnxClassifier, OnnxRegressor
from mlops_nb.model.engine import TOLERANCE
from mlops_nb.model.signature import Predictions
from mlops_nb.serving.inference import batching
from mlops_nb.serving.inference.batching import MAX_BATCH_ROWS, Batching, BatchingEngine, is_shared, measure_batching
from mlops_nb.serving.inference.canary import position_of
from mlops_nb.serving.inference.loading import inline_rule
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from tests.factories import logged, served, wait_for
from tests.model.test_onnx_models import spec_of, train_line, train_softmax  # noqa: F401 (the names that specs give)

LONG = 20.0  # seconds that no test waits for


class Engine:
    """An engine that doubles its rows; `held` stops its first call, so that requests come meanwhile."""

    name, signature, providers = "test", None, None

    def __init__(self, held: bool = False):
        self.calls: list[np.ndarray] = []
        self.began, self.may_end = threading.Event(), threading.Event()
        if not held:
            self.may_end.set()

    def predict(self, table) -> Predictions:
        values = table if isinstance(table, np.ndarray) else table["a"]
        self.calls.append(values.copy())
        if len(self.calls) == 1:
            self.began.set()
            assert self.may_end.wait(LONG)
        if (values < 0).any():
            raise ValueError(f"negative: {values.min():g}")
        return Predictions(2 * values.reshape(len(values), -1)[:, 0])

    def close(self):
        pass


def shared(engine: Engine, wait: float = LONG, patience: float = LONG, on_call=lambda _: None) -> BatchingEngine:
    return BatchingEngine(engine, Batching(True, "", 0.005, 0.01, wait), patience, on_call)


def predict_during_a_call(engine: Engine, sharing: BatchingEngine, tables: list) -> list:
    """Predict the first table, the others while its call runs; return predictions and errors."""

    def predict(table):
        try:
            return sharing.predict(table).prediction
        except ValueError as e:
            return e

    with ThreadPoolExecutor(len(tables)) as pool:
        first = pool.submit(predict, tables[0])
        assert engine.began.wait(LONG)
        others = [pool.submit(predict, table) for table in tables[1:]]
        waiting = sum(1 for table in tables[1:] if batching.count_rows(table) <= MAX_BATCH_ROWS // 2)
        wait_for(lambda: len(sharing._waiting) == waiting)
        engine.may_end.set()
        return [future.result(LONG) for future in (first, *others)]


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@pytest.mark.slow
@hypothesis_settings(max_examples=30, deadline=None)
@given(SIZES, st.lists(st.integers(0, 12), max_size=3), st.booleans())
def test_each_request_gets_what_its_rows_alone_would_get(sizes, bad, named):
    """Whatever the numbers of rows, and wherever the rows are that no engine predicts."""
    numbers = np.split(np.arange(1.0, sum(sizes) + 2), np.cumsum([1, *sizes])[:-1])
    for i in bad:
        if 0 < i < len(numbers):
            numbers[i][-1] = -i
    tables = [{"a": part} if named else part[:, None] for part in numbers]
    engine, counted = Engine(held=True), []
    results = predict_during_a_call(engine, shared(engine, on_call=counted.append), tables)
    for part, result in zip(numbers, results, strict=True):
        if (part < 0).any():
            assert str(result) == f"negative: {part.min():g}"
        else:
            assert result.tolist() == (2 * part).tolist()
    assert [len(call) for call in engine.calls] == counted
    assert max(counted) <= MAX_BATCH_ROWS
    small = [n for n in sizes if n <= MAX_BATCH_ROWS // 2]
    if not any((part < 0).any() for part in numbers) and sum(small) <= MAX_BATCH_ROWS:
        assert len(counted) == 1 + bool(small) + len(sizes) - len(small), "all that fit share one call"


def test_request_that_finds_no_call_waits_for_nobody_and_is_not_copied():
    engine, table = Engine(), np.ones((3, 2))
    sharing = shared(engine)
    engine.predict = lambda given: Predictions(np.zeros(len(given)), probability=given)
    for _ in range(3):
        assert sharing.predict(table).probability is table
    assert not sharing._running
    assert not sharing._waiting


def test_request_waits_no_longer_than_its_limit():
    engine = Engine(held=True)
    sharing = shared(engine, wait=0.01)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(sharing.predict, np.ones((1, 1)))
        assert engine.began.wait(LONG)
        begin = time.monotonic()
        assert sharing.predict(np.full((1, 1), 3.0)).prediction.tolist() == [6.0], "beside the call that still runs"
        assert time.monotonic() - begin < LONG / 2
        engine.may_end.set()
        assert first.result(LONG).prediction.tolist() == [2.0]
    assert not sharing._running


@pytest.mark.slow
def test_call_that_hangs_delays_its_requests_by_their_patience_and_nobody_after_it():
    class Hanging(Engine):
        def predict(self, table):
            if len(table) > 1 and 7 in table:
                self.hangs.set()
                assert self.ends.wait(LONG)
            return super().predict(table)

    engine = Hanging(held=True)
    engine.hangs, engine.ends = threading.Event(), threading.Event()
    sharing = shared(engine, wait=2, patience=0.05)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(sharing.predict, np.ones((1, 1)))
        assert engine.began.wait(LONG)
        others = [pool.submit(sharing.predict, np.full((1, 1), value)) for value in (7.0, 8.0, 9.0)]
        wait_for(lambda: len(sharing._waiting) == 3)
        engine.may_end.set()
        assert engine.hangs.wait(LONG)
        wait_for(lambda: sum(future.done() for future in others) == 2)
        wait_for(lambda: sharing._is_idle())
        begin = time.monotonic()
        assert sharing.predict(np.full((1, 1), 5.0)).prediction.tolist() == [10.0]
        assert time.monotonic() - begin < LONG / 2, "it waits for no call that hangs"
        engine.ends.set()
        results = sorted(future.result(LONG).prediction[0] for future in (first, *others))
    assert results == [2.0, 14.0, 16.0, 18.0]


def test_rows_of_different_types_share_no_call():
    """Joined, a number would be converted, which may change its prediction."""
    engine = Engine(held=True)
    tables = [np.ones((1, 1)), np.ones((1, 1), dtype=np.float32), np.ones((2, 1)), np.ones((2, 1), dtype=np.float32)]
    predict_during_a_call(engine, shared(engine), tables)
    assert sorted((call.dtype.name, len(call)) for call in engine.calls) == [
        ("float32", 3),
        ("float64", 1),
        ("float64", 2),
    ]


def test_random_requests_at_any_time_get_their_own_rows():
    """Without a gate: threads come and go as they like, and every tenth request is refused."""
    sharing, rng = shared(Engine(), wait=0.001), np.random.default_rng(0)
    sizes = rng.integers(1, 20, size=400)
    tables = [1 + np.arange(n)[:, None] + 100.0 * i for i, n in enumerate(sizes)]

    def predict(i: int) -> bool:
        table = -tables[i] if i % 10 == 0 else tables[i]
        try:
            return sharing.predict(table).prediction.tolist() == (2 * table[:, 0]).tolist() and i % 10 != 0
        except ValueError as e:
            return i % 10 == 0 and str(e) == f"negative: {table.min():g}"

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(predict, range(len(tables))))
    assert not sharing._running
    assert not sharing._waiting


# What is chosen when a model is loaded


@pytest.fixture
def gains(monkeypatch):
    """Calls are shared whatever they take."""
    monkeypatch.setattr(batching, "MIN_ROW_SECONDS", 0.0)
    monkeypatch.setattr(batching, "MIN_GAIN", 0.0)


def test_calls_of_a_quick_model_are_not_shared(client, app):
    found = client.get("/model").get_json()["batching"]
    assert not found["on"]
    assert re.match(r"A row takes 0\.\d+ ms: waiting for others would take longer", found["reason"])
    assert found["row_ms"] < 1
    assert not is_shared(live_model(app).predictor)
    assert inline_rule(live_model(app).predictor).allows()
    assert not app.shares_calls


@pytest.mark.slow
def test_setting_turns_sharing_off_or_limits_the_wait(gains, client_with):
    waits = {}
    for value in ("0", "7.5", ""):
        client = client_with(MLOPS_BATCH_MS=value)
        waits[value] = client.get("/model").get_json()["batching"]
        assert is_shared(live_model(client.application).predictor) is (value != "0")
    assert (waits["0"]["on"], waits["0"]["reason"]) == (False, "MLOPS_BATCH_MS is 0.")
    assert (waits["7.5"]["on"], waits["7.5"]["wait_ms"]) == (True, 7.5)
    assert waits[""]["wait_ms"] == pytest.approx(2 * waits[""]["batch_ms"], rel=0.02)
    assert Settings.read({}).batch_ms is None


@pytest.mark.parametrize("value", ["-1", "nan", "1001", "fast"])
def test_wait_that_cannot_be_meant_is_refused(value):
    with pytest.raises(SettingsError, match="MLOPS_BATCH_MS must be"):
        Settings.read({"MLOPS_BATCH_MS": value})


def test_model_that_shares_calls_never_runs_in_the_main_loop(gains, client_with):
    live = live_model(client_with().application)
    assert live.state.shares_calls
    assert not live.state.runs_inline, "the loop would wait for other requests, which it has to receive"


@pytest.mark.slow
def test_model_whose_rows_depend_on_each_other_is_not_shared(gains, tmp_path):
    """As those of a network that is quantised anew in each call, by the largest number in it."""
    _, _, predictor = served(spec_of(lambda _: OnnxRegressor(f"{__name__}.train_line"), "size"), tmp_path)
    assert measure_batching(predictor, None).is_on
    inner = predictor.engine.predict
    predictor.engine = SimpleNamespace(predict=lambda table: Predictions(inner(table).prediction + 1e-4 * table.max()))
    found = measure_batching(predictor, None)
    assert not found.is_on
    assert "A row must not depend on others" in found.reason


def test_model_that_cannot_be_measured_is_served_without(gains, monkeypatch, client_with):
    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(batching, "measure_batching", fail)
    client = client_with()
    assert client.get("/model").get_json()["batching"]["reason"] == "It cannot be measured: RuntimeError"
    assert client.post("/predict", json={"features": [[1, 0]]}).status_code == 200


# Rows in one call, and alone


def train_deep(X, y):
    """Three layers with random weights: sums of many products, which depend on their order."""
    from benchmarks.batching import make_network

    return make_network(X, y, layers=3)


KINDS = {
    "forest": ("kind", lambda _: RandomForestClassifier(20, random_state=0)),
    "softmax": ("kind", lambda _: OnnxClassifier(f"{__name__}.train_softmax")),
    "line": ("size", lambda _: OnnxRegressor(f"{__name__}.train_line")),
    "network": ("size", lambda _: OnnxRegressor(f"{__name__}.train_deep")),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_shared_call_have_the_predictions_of_rows_alone(kind, tmp_path):
    """To the last bit, but for products of matrices, whose sums ONNX Runtime adds in another order for a single row."""
    target, make = KINDS[kind]
    _, _, predictor = served(spec_of(make, target), tmp_path)
    rng = np.random.default_rng(1)
    table = predictor.parse(np.round(rng.normal(size=(MAX_BATCH_ROWS, 2)) * [1, 3], 3).tolist())
    together = predictor.predict(table)
    alone = [predictor.predict(table[i : i + 1]) for i in range(len(table))]
    values = together.prediction if together.probability is None else together.probability
    single = np.concatenate([a.prediction if a.probability is None else a.probability for a in alone])
    if together.classes is not None:
        assert together.prediction.tolist() == [a.prediction[0] for a in alone]
    if kind == "forest":
        assert values.tolist() == single.tolist()
    np.testing.assert_allclose(values, single, rtol=TOLERANCE, atol=TOLERANCE)


# The service


class Held:
    """Holds the first call of a predictor that shares calls, until `waiting` requests wait for the next."""

    def __init__(self, predictor):
        self.sharing, self.calls = predictor.engine, []
        self.inner, self.began, self.may_end = self.sharing.engine, threading.Event(), threading.Event()
        self.sharing.engine = SimpleNamespace(predict=self.predict, close=self.inner.close, name=self.inner.name)

    def predict(self, table):
        self.calls.append(len(table))
        if len(self.calls) == 1:
            self.began.set()
            assert self.may_end.wait(LONG)
        return self.inner.predict(table)

    def waiting(self, n: int):
        wait_for(lambda: len(self.sharing._waiting) == n)


@pytest.fixture
def sharing_app(gains, client_with):
    return client_with(MLOPS_BATCH_MS="1000").application


GOOD = {"features": [[1, 0], [0, 1], [2, 1]]}
REQUESTS = [
    GOOD,
    {"features": [[1, "x"]]},
    {"features": [[0, 1]], "probability": "named"},
    {"features": [[1, 0], [1, "x"], [0, 1]], "on_error": "row"},
    {"features": [[1, 0]], "explain": True},
    {"features": [[1, 0]] * 33},
    {"features": []},
    {"features": [{"a": 0, "b": 1}], "probability": True},
    {"features": [[1, 0]], "interval": True},
]


def without_ids(response) -> tuple:
    body = response.get_json()
    ids = body.pop("ids", None)
    return response.status_code, body, ids and [i is None for i in ids]


def test_requests_that_share_a_call_get_the_responses_of_requests_alone(sharing_app, client_with):
    alone = client_with(MLOPS_BATCH_MS="0")
    wanted = [without_ids(alone.post("/predict", json=body)) for body in REQUESTS]
    held = Held(live_model(sharing_app).predictor)
    with ThreadPoolExecutor(len(REQUESTS) + 1) as pool:

        def post(body):
            return sharing_app.test_client().post("/predict", json=body)

        first = pool.submit(post, GOOD)
        assert held.began.wait(LONG)
        futures = [pool.submit(post, body) for body in REQUESTS]
        held.waiting(5)
        held.may_end.set()
        responses = [future.result(LONG) for future in futures]
        assert first.result(LONG).status_code == 200
    assert [without_ids(response) for response in responses] == wanted
    assert any(3 < n <= MAX_BATCH_ROWS // 2 for n in held.calls), "some shared a call"
    ids = [i for response in responses for i in response.get_json().get("ids") or [] if i is not None]
    assert len(ids) == len(set(ids))
    window = logged(sharing_app)
    assert set(ids) <= set(window.predictions.index)
    n_rows = 2 * len(ids) + len(GOOD["features"])  # of both services
    assert len(window.predictions) == n_rows, "each row once, with the id of its response"
    by_id = window.inputs.loc[responses[0].get_json()["ids"]]
    assert by_id[["a", "b"]].to_numpy().tolist() == GOOD["features"]


def test_promotion_during_a_call_changes_no_request_that_had_begun(sharing_app, registry):
    live, post = live_model(sharing_app), lambda: sharing_app.test_client().post("/predict", json=GOOD).get_json()
    held = Held(live.predictor)
    with ThreadPoolExecutor(3) as pool:
        begun = [pool.submit(post)]
        assert held.began.wait(LONG)
        begun.append(pool.submit(post))
        held.waiting(1)
        registry.promote("toy", 2)
        live.refresh()
        assert post()["version"] == 2, "it waits for no call of another version"
        held.may_end.set()
        assert [future.result(LONG)["version"] for future in begun] == [1, 1]
    assert live.state.shares_calls


def test_canary_and_production_share_no_call(gains, client_with, registry):
    registry.promote("toy", 2, alias="canary")
    app = client_with(MLOPS_BATCH_MS="1000", MLOPS_CANARY_SHARE="0.5").application
    state, rows = live_model(app).state, 12
    held = {role: Held(state.predictors[role]) for role in ("production", "canary")}

    def post(key: int) -> int:
        body = {"features": [[key, 0]]}
        response = app.test_client().post("/predict", json=body, headers={"X-Canary-Key": str(key)})
        return response.get_json()["version"]

    with ThreadPoolExecutor(rows) as pool:
        futures = [pool.submit(post, key) for key in range(rows)]
        for one in held.values():
            assert one.began.wait(LONG)
        wait_for(lambda: sum(len(one.sharing._waiting) for one in held.values()) == rows - 2)
        for one in held.values():
            one.may_end.set()
        versions = [future.result(LONG) for future in futures]
    assert versions == [2 if position_of("toy", str(key)) < 0.5 else 1 for key in range(rows)]
    assert sum(held["production"].calls) == versions.count(1)
    assert sum(held["canary"].calls) == versions.count(2)
    assert all(len(one.calls) == 2 for one in held.values())


def test_rows_of_each_call_are_counted(sharing_app):
    live, client = live_model(sharing_app), sharing_app.test_client()
    for n in (1, 3, 33, 40):
        assert client.post("/predict", json={"features": [[1, 0]] * n}).status_code == 200
    live.refresh()
    text = client.get("/metrics").get_data(as_text=True)
    assert 'mlops_batch_rows_count{version="1"} 4.0' in text
    assert 'mlops_batch_rows_bucket{le="4.0",version="1"} 2.0' in text
    assert 'mlops_batch_rows_sum{version="1"} 77.0' in text
