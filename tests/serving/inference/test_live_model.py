"""Which model answers: promotion, rollback, and what must not be believed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import FrozenInstanceError
from http.client import HTTPConnection

import numpy as np
import psutil
import pytest

from mlops_nb.model.bundle import read_manifest
from mlops_nb.model.predictor import Predictor
from mlops_nb.serving.service import live_model
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import ROOT, Service, package, unverified, wait_for
from tests.model.test_bundle import rehash, rewrite


def replace_model(registry: Registry, version: int):
    """Put another model file into the place of a registered one."""
    other = registry.get("toy", 2 if version == 1 else 1).path / "model.skops"
    shutil.copy(other, registry.get("toy", version).path / "model.skops")


def test_promotion_and_rollback_are_followed(app, registry):
    live = live_model(app)
    registry.promote("toy", 2)
    live.refresh()
    assert live.predictor.version == 2
    registry.rollback("toy")
    live.refresh()
    assert live.predictor.version == 1


def test_nothing_is_loaded_again_when_nothing_moved(app):
    live = live_model(app)
    before = live.predictor
    live.refresh()
    assert live.predictor is before


def test_tampered_version_is_refused_and_the_last_good_one_keeps_serving(app, registry):
    live, client = live_model(app), app.test_client()
    replace_model(registry, 2)
    with unverified():
        registry.promote("toy", 2)
    live.refresh()
    assert live.predictor.version == 1
    body = client.get("/health/ready").get_json()
    assert (body["ready"], body["version"], body["production"]) == (True, 1, 2)
    assert body["refused"] == [
        {"version": 2, "reason": "model.skops of toy was changed after it was packaged: its SHA-256 differs."}
    ]


def test_file_replaced_under_the_served_version_is_reported_and_forgiven_when_put_back(app, registry):
    live, client = live_model(app), app.test_client()
    model = registry.get("toy", 1).path / "model.skops"
    original = model.read_bytes()
    replace_model(registry, 1)
    live.refresh()
    body = client.get("/health/ready").get_json()
    assert body["ready"]
    assert body["refused"][0]["version"] == 1
    assert client.post("/predict", json={"features": [[1, 0]]}).get_json()["version"] == 1
    model.write_bytes(original)
    live.refresh()
    assert client.get("/health/ready").get_json()["refused"] == []


def test_after_a_restart_the_newest_earlier_version_that_loads_is_served(settings, registry):
    registry.promote("toy", 2)
    replace_model(registry, 2)
    app = create_app(settings)
    live_model(app).refresh()
    assert live_model(app).predictor.version == 1
    assert [r["version"] for r in app.test_client().get("/health/ready").get_json()["refused"]] == [2]
    live_model(app).stop()


def test_when_no_version_can_be_proven_nothing_is_served_and_it_says_why(settings, registry):
    shutil.rmtree(registry.get("toy", 1).path)
    app = create_app(settings)
    live_model(app).refresh()
    answer = app.test_client().get("/health/ready")
    assert answer.status_code == 503
    assert "Version 1: There is no bundle at 1" in answer.get_json()["error"]
    live_model(app).stop()


def test_any_version_that_could_be_served_is_noticed_when_its_files_are_put_back(settings, registry):
    registry.promote("toy", 2)
    paths = [registry.get("toy", version).path for version in (1, 2)]
    for path in paths:
        path.rename(path.with_suffix(".away"))
    app = create_app(settings)
    live = live_model(app)
    live.refresh()
    assert live.predictor is None
    assert list(live.state.refused) == [2, 1]
    paths[0].with_suffix(".away").rename(paths[0])
    live.refresh()
    assert live.predictor.version == 1
    assert list(live.state.refused) == [2]
    paths[1].with_suffix(".away").rename(paths[1])
    live.refresh()
    assert live.predictor.version == 2
    assert not live.state.refused
    live.stop()


def test_bundle_that_breaks_whoever_loads_it_is_refused(app, registry, monkeypatch):
    live = live_model(app)
    monkeypatch.setattr(Predictor, "load", lambda *_, **__: 1 / 0)
    with unverified():
        registry.promote("toy", 2)
    live.refresh()
    assert live.predictor.version == 1
    assert live.state.refused == {2: "Its files cannot be loaded: ZeroDivisionError."}


@pytest.mark.slow
def test_registered_bundle_with_a_type_of_an_attacker_is_refused_with_the_reason(app, registry, settings):
    live, client, attack = live_model(app), app.test_client(), package(settings.home / "attack", 3.0)
    strange = {"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode"}
    rewrite(attack.path / "model.skops", lambda schema, _: schema.update(strange))
    rehash(attack.path, "model.skops")
    with unverified():
        version = registry.register(read_manifest(attack.path))[0].version
        registry.promote("toy", version)
    live.refresh()
    body = client.get("/health/ready").get_json()
    assert (body["version"], body["production"]) == (1, version)
    assert body["refused"][0]["reason"].startswith("model.skops holds types that are not on the allow-list: subprocess")


def test_state_of_a_request_does_not_change(app, registry):
    live = live_model(app)
    state = live.state
    replace_model(registry, 2)
    with unverified():
        registry.promote("toy", 2)
    live.refresh()
    assert (state.production.version, state.aliases, state.refused) == (1, {"production": 1}, {})
    with pytest.raises(FrozenInstanceError):
        state.production = None


def test_registry_that_hangs_at_the_start_does_not_hang_the_worker(settings, registry, monkeypatch):
    answers, opened = threading.Event(), Registry.open
    monkeypatch.setattr(Registry, "open", lambda settings: answers.wait(60) and opened(settings))
    app = create_app(settings)
    live, client = live_model(app), app.test_client()
    live.start(timeout_seconds=0.05)
    response = client.post("/predict", json={"features": [[1, 0]]})
    assert (response.status_code, response.get_json()["code"]) == (503, "no_model")
    assert "The first load is not over yet. The service tries again by itself." in response.get_json()["error"]
    answers.set()
    wait_for(lambda: client.post("/predict", json={"features": [[1, 0]]}).status_code == 200)
    live.stop()


def test_database_that_does_not_answer_is_said_and_survived(app, registry, monkeypatch):
    from sqlalchemy.exc import OperationalError

    live, client = live_model(app), app.test_client()

    def away(*_):
        raise OperationalError("SELECT", {}, Exception("secret-host is down"))

    monkeypatch.setattr(live._registry, "aliases", away)
    live.refresh()
    body = client.get("/health/ready").get_json()
    assert body["ready"]
    assert body["problem"] == "The registry cannot be asked: OperationalError."
    monkeypatch.undo()
    live.refresh()
    assert client.get("/health/ready").get_json()["problem"] is None


@pytest.mark.slow
def test_store_that_was_deleted_and_made_again_is_followed(app, settings):
    live = live_model(app)
    old = live.predictor
    shutil.rmtree(settings.home / "store")
    live.refresh()
    assert live.predictor is old
    assert live.state.problem
    registry = Registry.open(settings)
    registry.register(package(settings.home / "bundle", 3.0))
    registry.promote("toy", 1)
    registry.close()
    live.refresh()
    assert (live.predictor.version, live.state.problem, live.state.refused) == (1, None, {})
    assert live.predictor.bundle.manifest["params"] == {"C": 3.0}


def test_request_that_began_with_a_version_ends_with_it(app, registry):
    live = live_model(app)
    predictor = live.predictor
    registry.promote("toy", 2)
    live.refresh()
    assert predictor.predict_rows([[1, 0]]).prediction.tolist() == [1]


# With a real Gunicorn


BORDER = [[x / 4, 0.0] for x in range(-4, 5)]  # The two versions disagree on how sure they are of these


def traffic(service, stop: threading.Event, answers: list):
    """Send requests over one kept-alive connection, and record the responses, failures included."""
    connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
    body = {"features": BORDER, "probability": True}
    while not stop.is_set():
        try:
            answers.append(service.call("POST", "/predict", body, connection))
        except Exception as e:  # also a connection that the service closed
            answers.append((0, repr(e)))
            connection.close()
    connection.close()


@pytest.mark.slow
def test_twenty_promotions_and_rollbacks_reach_every_worker_within_two_seconds_without_a_failed_request(
    service, registry
):
    predictors = {version: Predictor.load(registry.get("toy", version).path) for version in (1, 2)}
    expected = {version: predictor.predict_rows(BORDER) for version, predictor in predictors.items()}
    assert (np.abs(expected[1].probability - expected[2].probability) > 1e-3).all()
    wait_for(lambda: service.loads(1) == 2)  # both workers are up
    stop, answers = threading.Event(), [[] for _ in range(5)]
    threads = [threading.Thread(target=traffic, args=(service, stop, each)) for each in answers]
    for thread in threads:
        thread.start()
    took = []
    try:
        for move, version in [(lambda: registry.promote("toy", 2), 2), (lambda: registry.rollback("toy"), 1)] * 10:
            loaded, start = service.loads(version), time.monotonic()
            move()
            wait_for(lambda v=version, n=loaded + 2: service.loads(v) == n, 10)
            # the kept connections and new ones: it is in use a moment after its log says that it is loaded
            wait_for(lambda v=version: {each[-1][1].get("version") for each in answers if each} == {v}, 10)
            wait_for(lambda v=version: service.versions() == {v}, 10)
            took.append(time.monotonic() - start)
            before = [len(each) for each in answers]
            wait_for(lambda b=before: all(len(each) > n + 1 for each, n in zip(answers, b, strict=True)))
            assert {each[-1][1].get("version") for each in answers} == {version}, "a connection is not left behind"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [payload for each in answers for status, payload in each if status != 200] == []
    payload = [body for each in answers for _, body in each]
    assert {body["version"] for body in payload} == {1, 2}
    for body in payload:
        right = expected[body["version"]]
        assert body["prediction"] == right.prediction.tolist()
        assert np.allclose(body["probability"], right.probability, atol=1e-7), "of another version than it says"
    assert len(took) == 20, took
    assert max(took) < 2, took
    assert all(len({body["version"] for _, body in each}) == 2 for each in answers)


@pytest.mark.slow
def test_running_service_refuses_a_replaced_model_and_a_restarted_one_too(service, registry, settings, tmp_path):
    registry.promote("toy", 2)
    wait_for(lambda: service.loads(2) == 2)
    replace_model(registry, 2)
    wait_for(lambda: service.get("/health/ready")[1]["refused"])
    assert service.versions() == {2}, "what is in memory was proven"
    again = Service(settings, tmp_path / "again")
    try:
        assert again.versions() == {1}
        assert again.get("/health/ready")[1]["refused"][0]["reason"].startswith("model.skops of toy was changed")
    finally:
        again.stop()


@pytest.mark.slow
def test_service_without_a_model_picks_up_the_first_one(homes, tmp_path):
    from mlops_nb.settings import Settings

    settings = Settings.read({"MLOPS_HOME": str(tmp_path), "MLOPS_MODEL": "toy"})
    service = Service(settings, tmp_path / "log")
    try:
        assert service.predict()[0] == 503
        registry = Registry.open(settings)
        source = Registry.open(Settings.read({"MLOPS_HOME": str(homes["numbers"])}))
        from mlops_nb.model.bundle import read_manifest

        registry.register(read_manifest(source.get("toy", 1).path))
        registry.promote("toy", 1)
        wait_for(lambda: service.predict()[0] == 200)
        registry.close()
        source.close()
    finally:
        log = service.stop()
    assert "toy version 1 loaded, predicts with onnxruntime" in log


@pytest.mark.slow
def test_killed_worker_is_replaced(service):
    workers = psutil.Process(service.process.pid).children()
    assert len(workers) == 2
    os.kill(workers[0].pid, signal.SIGKILL)
    wait_for(
        lambda: len({p.pid for p in psutil.Process(service.process.pid).children()} - {w.pid for w in workers}) == 1
    )
    wait_for(lambda: service.predict()[0] == 200)


@pytest.mark.slow
def test_port_in_use_is_one_clear_line(service, settings):
    command = [sys.executable, "-m", "mlops_nb.cli.main", "serve", "--model", "toy", "--port", str(service.port)]
    code = "from mlops_nb.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", "--model", "toy", "--port", str(service.port)]
    done = subprocess.run(
        command, cwd=ROOT, env=service.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == f"Error: Port {service.port} on 127.0.0.1 is in use. Choose another: PORT={service.port + 1} or --port.\n"
    )


@pytest.mark.slow
def test_chunked_body_over_the_limit_is_refused_and_the_service_goes_on(settings, tmp_path):
    service = Service(settings, tmp_path / "log", MLOPS_MAX_BODY_MB="0.01")
    try:
        connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
        parts = (b'{"features": [' + b"[1, 0]," * 3000 + b"[1, 0]]}" for _ in range(1))
        connection.request("POST", "/predict", parts, {"Content-Type": "application/json"}, encode_chunked=True)
        response = connection.getresponse()
        assert (response.status, b"larger than 0.01 MiB" in response.read()) == (413, True)
        connection.close()
        assert service.predict()[0] == 200
    finally:
        service.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("empty", "problem"),
    [
        (True, "The database mlops.db is an empty file (0 bytes): what it held is lost. Restore a backup"),
        (False, "the artifact store has bundles of 'toy': the database is new, or was emptied. Restore a backup"),
    ],
)
def test_a_service_whose_database_was_emptied_names_the_loss(settings, empty, problem):
    for file in (settings.home / "store").glob("mlops.db*"):
        file.write_bytes(b"") if empty and file.suffix == ".db" else file.unlink()
    app = create_app(settings)
    live_model(app).refresh()
    response = app.test_client().post("/predict", json={"features": [[1, 0]]})
    assert response.status_code == 503
    assert problem in response.get_json()["error"]
    assert str(settings.home) not in response.get_json()["error"]
    app.stop()
