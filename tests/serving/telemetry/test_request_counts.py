"""Requests are counted into the database, those that fail too: by minute and status, of all workers, once."""

import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from mlops_nb.monitor.prediction_log import PredictionLog, RequestCount
from mlops_nb.serving.telemetry import request_counts as counts
from mlops_nb.serving.telemetry.prediction_logger import PredictionLogger
from mlops_nb.serving.telemetry.request_counts import INFERENCE_ROUTES, RequestCounter
from mlops_nb.settings import Settings
from mlops_nb.store.database import open_database
from tests.factories import Service, wait_for

PAST = datetime(2001, 1, 1, tzinfo=UTC)
OTHER_POSTS = {"/feedback", "/models/<name>/feedback", "/admin/promote", "/admin/rollback"}
OTHER_POSTS |= {"/pipeline/commands", "/pipeline/commands/stop"}
OTHER_POSTS |= {f"/v2/repository/{route}" for route in ("index", "models/<name>/load", "models/<name>/unload")}


def counted(settings: Settings, since: datetime = PAST) -> dict[int, int]:
    log = PredictionLog.open(settings)
    found = log.requests("toy", since).sum().to_dict()
    log.close()
    return found


def ask(client, right: int = 0, wrong: int = 0):
    for _ in range(right):
        assert client.post("/predict", json={"features": [[1, 0]]}).status_code == 200
    for _ in range(wrong):
        assert client.post("/predict", json={"features": [["x", 0]]}).status_code == 400


def test_routes_that_ask_the_model_are_those_that_take_rows(app):
    posts = {rule.rule for rule in app.url_map.iter_rules() if "POST" in rule.methods}
    assert posts - INFERENCE_ROUTES == OTHER_POSTS
    assert not INFERENCE_ROUTES - posts


def test_counts_that_are_not_to_be_logged_are_forgotten(settings):
    counted, log = RequestCounter("toy"), PredictionLogger(replace(settings, log_share=0.0))
    log.stopping = True
    counted.add({("/predict", "200"): 1})
    counted.write(log)
    assert not counted._grown
    assert spooled(settings) == []


def spooled(settings) -> list:
    return list(Path(settings.spool).glob("*.jsonl"))


def test_largest_count_of_an_id_stays_on_either_database(database_url):
    log = PredictionLog(open_database(database_url))
    minute = 1_700_000_040.0
    for n in (3, 5, 4):
        log.add([RequestCount("w1", "toy", minute, 200, n), RequestCount("w1", "toy", minute, 200, 1)])
    log.add(
        [
            RequestCount("w2", "toy", minute, 200, 1),
            RequestCount("w3", "toy", minute + 60, 503, 2),
            RequestCount("w4", "other", minute, 200, 9),
        ]
    )
    found = log.requests("toy", datetime.fromtimestamp(minute + 59, UTC))
    assert found.index.tolist() == [datetime.fromtimestamp(minute, UTC), datetime.fromtimestamp(minute + 60, UTC)]
    assert found.to_dict("list") == {200: [6, 0], 503: [0, 2]}
    assert log.requests("toy", datetime.fromtimestamp(minute + 60, UTC)).to_dict("list") == {503: [2]}
    assert log.requests("nobody", PAST).sum().to_dict() == {}
    log.purge(1, 1, datetime.fromtimestamp(minute, UTC) + timedelta(days=2))
    assert len(log.requests("toy", PAST)) == 0
    log.close()


def test_what_is_refused_is_counted_and_the_last_at_the_end(settings, app, client, monkeypatch):
    monkeypatch.setattr(counts, "WRITE_SECONDS", 0.0)
    ask(client, right=2, wrong=1)
    client.get("/health/live")
    client.get("/nothing")
    app.extensions["metrics"].count()
    app.extensions["log"]._maintain()
    app.extensions["log"]._maintain()
    assert counted(settings) == {200: 2, 400: 1}
    monkeypatch.setattr(counts, "WRITE_SECONDS", 1e9)
    ask(client, right=3)
    app.extensions["metrics"].count()
    app.extensions["log"]._maintain()
    app.extensions["log"]._maintain()
    assert counted(settings) == {200: 2, 400: 1}, "now and then"
    app.stop()
    assert counted(settings) == {200: 5, 400: 1}


def test_count_that_found_no_room_is_written_later():
    class Full:
        stopping, room, taken = True, False, ()

        def count(self, entries):
            self.taken = [(entry.status, entry.requests) for entry in entries]
            return self.room

    log, own = Full(), RequestCounter("toy")
    own.add({("/predict", "200"): 2, ("/metrics", "200"): 7})
    own.write(log)
    log.room = True
    own.add({("/predict", "200"): 1})
    own.write(log)
    assert log.taken == [(200, 3)]
    log.taken = ()
    own.write(log)
    assert log.taken == (), "nothing has grown"


def test_log_that_is_off_counts_nothing(settings):
    log = PredictionLogger(
        Settings.read({"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": "toy", "MLOPS_LOG_SHARE": "0"})
    )
    assert log.count([RequestCount("w", "toy", 0.0, 200, 1)])
    assert spooled(settings) == []
    log.stop()


@pytest.mark.slow
def test_counts_of_two_workers_are_exact_and_outlive_one(settings, tmp_path):
    service = Service(settings, tmp_path / "log")
    wait_for(lambda: service.loads(1) == 2)
    for _ in range(60):
        assert service.predict()[0] == 200
        assert service.call("POST", "/predict", {"features": [[1]]})[0] == 400
    wait_for(lambda: counted(settings) == {200: 60, 400: 60}, 60)
    os.kill(psutil.Process(service.process.pid).children()[0].pid, signal.SIGKILL)
    wait_for(lambda: service.loads(1) == 3)
    for _ in range(40):
        service.predict()
    service.stop()
    assert counted(settings) == {200: 100, 400: 60}
