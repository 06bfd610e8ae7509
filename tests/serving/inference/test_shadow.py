"""A shadow sees what production sees; no request waits for it."""

import gc
import threading
import weakref

import pytest

from mlops_nb.serving.service import live_model
from tests.factories import logged, wait_for


@pytest.fixture
def live(app, registry):
    """Version 1 in production, version 2 its shadow."""
    registry.promote("toy", 2, alias="shadow")
    live = live_model(app)
    live.refresh()
    return live


def ask(client, n: int = 1):
    answer = client.post("/predict", json={"features": [[1, 0]] * n})
    assert answer.status_code == 200
    return answer.get_json()


def test_shadow_is_asked_what_production_was_asked_and_only_recorded(live, client):
    body = ask(client, 2)
    assert body["version"] == 1
    wait_for(lambda: live.shadow.counts["answered"] == 1)
    first, second = (logged(client.application, [role]) for role in ("production", "shadow"))
    assert first.predictions.index.tolist() == body["ids"]
    assert second.predictions["version"].tolist() == [2, 2]
    assert second.predictions.index.tolist() == [i.replace("-", "-shadow-") for i in body["ids"]]
    assert first.inputs.values.tolist() == second.inputs.values.tolist() == [[1, 0], [1, 0]]
    ready = client.get("/health/ready").get_json()
    assert ready["roles"] == {"production": 1, "shadow": 2}
    assert ready["shadow"] == {"answered": 1, "failed": 0, "dropped": 0}


def test_shadow_that_raises_is_counted_and_goes_on(live, client, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(live.state.shadow, "predict", lambda rows: 1 / 0)
        ask(client)
        wait_for(lambda: live.shadow.counts["failed"] == 1)
    ask(client)
    wait_for(lambda: live.shadow.counts["answered"] == 1)


@pytest.mark.slow
def test_no_request_waits_for_a_shadow_that_hangs_and_what_does_not_fit_is_dropped(live, client, monkeypatch):
    goes_on, ask_shadow = threading.Event(), live.state.shadow.predict
    monkeypatch.setattr(live.state.shadow, "predict", lambda rows: goes_on.wait(60) and ask_shadow(rows))
    ask(client)
    wait_for(lambda: live.shadow._queue.qsize() == 0)
    for _ in range(120):
        ask(client)
    ask(client, 1001)
    assert live.shadow.counts == {"answered": 0, "failed": 0, "dropped": 21}
    goes_on.set()
    wait_for(lambda: live.shadow.counts["answered"] == 101)


@pytest.mark.slow
def test_shadow_that_is_taken_away_is_let_go(live, client, registry):
    ask(client)
    wait_for(lambda: live.shadow.counts["answered"] == 1)
    shadow = weakref.ref(live.state.shadow)
    registry.clear("toy", "shadow")
    live.refresh()
    gc.collect()
    assert shadow() is None
    assert live.state.roles == {"production": 1}
