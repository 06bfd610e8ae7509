"""GET /metrics: right over several workers, and after one died."""

import os
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pandas as pd
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sklearn.linear_model import LinearRegression
from sqlalchemy.exc import OperationalError

from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.signature import Input, Predictions, Signature
from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.serving.http.probes import HEALTH_ROUTES
from mlops_nb.serving.service import live_model
from mlops_nb.serving.telemetry.metrics import MANY_ROWS, Metrics, _count_labels, _count_rows
from mlops_nb.serving.telemetry.request_counts import INFERENCE_ROUTES
from mlops_nb.serving.telemetry.request_record import RequestRecord
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import Service, make_home, wait_for
from tests.relay import Relay


def samples(text: str) -> dict:
    """What Prometheus would take: name and labels to value."""
    families = text_string_to_metric_families(text)
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


def scrape(client) -> dict:
    return samples(client.get("/metrics").get_data(as_text=True))


def test_requests_rows_and_classes_are_counted(client):
    for features in ([[1, 0]], [[1, 0], [0, 1], [1, 0]]):
        assert client.post("/predict", json={"features": features}).status_code == 200
    client.post("/predict", data="{")
    client.get("/no/such/thing")
    measured = scrape(client)
    assert measured["mlops_requests_total", "/predict", "200"] == 2
    assert measured["mlops_requests_total", "/predict", "415"] == 1
    assert measured["mlops_requests_total", "404", "none"] == 1
    assert measured["mlops_predictions_total", "1", "1"] == 3
    assert measured["mlops_predictions_total", "0", "1"] == 1
    assert measured["mlops_request_duration_seconds_count", "/predict"] == 3
    assert 0 < measured["mlops_request_duration_seconds_sum", "/predict"] < 10


@pytest.mark.parametrize("n_rows", [1, MANY_ROWS, MANY_ROWS + 1, 5_000])
@pytest.mark.parametrize("labels", [[0, 1], [-3, 7, 2**40], [True, False], ["no", "yes"]], ids=str)
def test_labels_of_few_and_of_many_rows_are_counted_alike(labels, n_rows):
    prediction = np.random.default_rng(0).choice(np.array(labels), n_rows)
    found = _count_labels(prediction)
    assert found == Counter(prediction.tolist())
    assert {*map(type, found)} == {type(labels[0])}


@pytest.mark.parametrize("n_rows", [1, MANY_ROWS + 1])
def test_rows_are_counted_by_class_output_or_alarm(n_rows):
    ones, numbers = np.ones(n_rows, dtype=int), np.full(n_rows, 0.5)
    damaged, cost = Predictions(ones, classes=[0, 1]), Predictions(numbers)
    both = Predictions(np.empty(n_rows, object), outputs={"damaged": damaged, "cost": cost})
    assert [*_count_rows(damaged)] == [("1", n_rows)]
    assert [*_count_rows(cost)] == [("", n_rows)]
    assert [*_count_rows(both)] == [("damaged: 1", n_rows), ("cost", n_rows)]
    assert [*_count_rows(Predictions(numbers, anomaly=numbers > 0))] == [("anomaly", n_rows)]
    assert [*_count_rows(Predictions(numbers, anomaly=numbers > 1))] == [("normal", n_rows)]


def path_of(rule: str) -> str:
    return rule.replace("<name>", "toy").replace("<version>", "1")


def test_probes_of_a_service_without_a_model_are_no_errors(settings):
    app = create_app(settings)
    client = app.test_client()
    app.extensions["dashboard"].failures.count()  # the service counts from its start on
    statuses = {route: client.get(path_of(route)).status_code for route in sorted(HEALTH_ROUTES)}
    assert 503 in statuses.values(), "no model is loaded yet"
    assert client.post("/predict", json={"features": [[1, 0]]}).status_code == 503
    measured = scrape(client)
    page = client.get("/dashboard/data.json").get_json()["errors"]
    app.stop()
    for route, status in statuses.items():
        assert measured["mlops_health_requests_total", *sorted([route, str(status)])] == 1
        assert not [key for key in measured if route in key and not key[0].startswith("mlops_health_requests")]
    assert measured["mlops_requests_total", "/predict", "503"] == 1, "a request that failed is an error"
    assert sum(n or 0 for n in page["server"]) == 1
    assert {r["route"] for r in page["routes"]} == {"/predict", "/metrics"}
    assert {r["route"]: [*r["statuses"]] for r in page["probes"]} == {r: [str(s)] for r, s in statuses.items()}


def test_routes_of_probes_are_those_that_tell_whether_a_service_is_ready(app):
    known = {rule.rule for rule in app.url_map.iter_rules()}
    assert known >= HEALTH_ROUTES
    named = {rule for rule in known if {"health", "ready", "live", "ping"} & {*rule.split("/")}}
    assert named <= HEALTH_ROUTES
    assert not HEALTH_ROUTES & INFERENCE_ROUTES, "no alert about errors counts them"


def test_health_route_of_a_project_is_counted_apart(settings):
    app = create_app(settings)
    app.metrics.health_routes.add("/healthz")
    app.extensions["keys"].levels["/healthz"] = "open"
    app.add_url_rule("/healthz", "healthz", lambda: ("starting", 503))
    client = app.test_client()
    app.extensions["dashboard"].failures.count()
    assert client.get("/healthz").status_code == 503
    measured = scrape(client)
    errors = client.get("/dashboard/data.json").get_json()["errors"]
    app.stop()
    assert measured["mlops_health_requests_total", "/healthz", "503"] == 1
    assert sum(n or 0 for n in errors["server"]) == 0


def test_request_that_asks_is_in_progress(client):
    assert scrape(client)["mlops_requests_in_progress",] == 1
    assert len(client.application.metrics.in_progress) == 0


def test_requests_that_name_themselves_alike_are_all_in_progress(app):
    metrics, alike = app.metrics, ({"HTTP_X_REQUEST_ID": "same"}, {"HTTP_X_REQUEST_ID": "same"})
    for request in alike:
        app._begin(request)
    assert len(metrics.in_progress) == 2
    for left, request in enumerate(reversed(alike)):
        app._end(request)
        assert len(metrics.in_progress) == 1 - left


def test_version_that_answers_is_said_and_the_one_before_is_not(app, registry):
    client = app.test_client()
    assert scrape(client)["mlops_model_info", "1", "production", "toy"] == 1
    registry.promote("toy", 2)
    live_model(app).refresh()
    measured = scrape(client)
    assert measured["mlops_model_info", "1", "production", "toy"] == 0
    assert measured["mlops_model_info", "2", "production", "toy"] == 1
    assert measured["mlops_model_loaded_timestamp_seconds", "2", "production", "toy"] > 1.7e9


def test_database_that_does_not_answer_is_counted(app, monkeypatch):
    def away(*_):
        raise OSError

    monkeypatch.setattr(live_model(app)._registry, "aliases", away)
    live_model(app).refresh()
    live_model(app).refresh()
    assert scrape(app.test_client())["mlops_database_errors_total",] == 2


def test_what_the_prediction_log_does_is_counted(app, client, monkeypatch):
    log = app.extensions["log"]
    client.post("/predict", json={"features": [[1, 0]]})

    def away(*_):
        raise OperationalError("SELECT", {}, Exception())

    monkeypatch.setattr(PredictionLog, "add", away)
    log._step()
    log.after_step(log)
    measured = scrape(client)
    assert measured["mlops_spool_bytes",] > 100
    assert 0 < measured["mlops_spool_age_seconds",] < 60
    assert measured["mlops_database_errors_total",] == 1
    monkeypatch.undo()
    monkeypatch.setattr(log._spool, "full", True)
    client.post("/predict", json={"features": [[1, 0]]})
    log._step()
    log.after_step(log)
    measured = scrape(client)
    names = ("mlops_spool_bytes", "mlops_log_dropped_total", "mlops_database_errors_total")
    assert tuple(measured[name,] for name in names) == (
        0,
        1,
        1,
    )


@pytest.mark.slow
def test_predicted_numbers_are_a_histogram_with_the_buckets_of_the_reference_data(tmp_path):
    (tmp_path / "settings.ini").touch()
    settings = Settings.read({"MLOPS_HOME": str(tmp_path), "MLOPS_MODEL": "line"})
    X = pd.DataFrame({"a": np.arange(101.0)})
    facts = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}}
    facts["evaluation"] = {"metrics": {"r2": 1.0}, "baseline": {"r2": 0.0}, "gates": [], "passed": True}
    estimator, signature = LinearRegression().fit(X, X["a"]), Signature((Input("a"),), "regression", "y")
    registry = Registry.open(settings)
    registry.register(write_bundle(tmp_path / "bundle", "line", estimator, signature, X, X, facts))
    registry.promote("line", 1)
    registry.close()
    app = create_app(settings)
    live_model(app).refresh()
    client = app.test_client()
    client.post("/predict", json={"features": [[1], [55], [1000]]})
    client.post("/predict", json={"features": [[55]]})
    measured = scrape(client)
    app.stop()
    buckets = {max(name[1:], key=float): n for name, n in measured.items() if name[0] == "mlops_predicted_value_bucket"}
    assert len(buckets) == 10
    assert (buckets["10.0"], buckets["60.0"], buckets["90.0"], buckets["+Inf"]) == (1, 3, 3, 4)
    assert measured["mlops_predicted_value_sum", "1"] == pytest.approx(1111, abs=0.01)
    assert measured["mlops_predictions_total", "", "1"] == 4


def test_values_of_each_version_have_buckets_of_their_own():
    def says(version: int, edges: list[int]) -> SimpleNamespace:
        bundle = SimpleNamespace(profile=lambda: {"output": {"edges": edges}})
        signature = SimpleNamespace(classes=None)
        predictor = SimpleNamespace(version=version, bundle=bundle, signature=signature)
        return SimpleNamespace(predictor=predictor, predictions=Predictions(np.array([12.0])))

    metrics = Metrics()
    for result in (says(1, [10, 20]), says(2, [15, 25])):  # a worker that begins with 2 has no other buckets for it
        metrics.record(RequestRecord("id", "POST", "/predict", "/predict", "200", 0.01, 10, result=result))
        metrics.count()
    samples = [s.labels for f in metrics.registry.collect() for s in f.samples if s.name.endswith("value_bucket")]
    edges = {v: [s["le"] for s in samples if s["version"] == v] for v in "12"}
    assert edges == {"1": ["10.0", "20.0", "+Inf"], "2": ["15.0", "25.0", "+Inf"]}


def test_collector_of_another_module_is_asked_at_each_scrape(app):
    from prometheus_client.core import GaugeMetricFamily

    class Queue:
        length = 3

        def collect(self):
            yield GaugeMetricFamily("mlops_queue", "Waiting", self.length)

    queue = Queue()
    app.metrics.collectors.append(queue)
    assert scrape(app.test_client())["mlops_queue",] == 3
    queue.length = 4
    assert scrape(app.test_client())["mlops_queue",] == 4


def test_content_is_what_the_client_asks_for(client):
    assert client.get("/metrics").content_type.startswith("text/plain; version=")
    open_metrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.data.endswith(b"# EOF\n")
    assert client.get("/metrics", headers={"Accept-Encoding": "gzip"}).headers["Content-Encoding"] == "gzip"


@pytest.fixture
def metrics_of():
    def ask(service) -> str:
        from http.client import HTTPConnection

        connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    return ask


def check_with_promtool(text: str):
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("REQUIRE_SERVICES"):
            pytest.fail("There is no promtool")
        pytest.skip("There is no promtool: apt-get install prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.slow
def test_counts_are_exact_over_two_workers_and_stay_when_one_is_killed(settings, tmp_path, metrics_of):
    def predictions() -> float:
        return samples(metrics_of(service)).get(("mlops_predictions_total", "1", "1"), 0)

    def ask(n: int):
        threads = [threading.Thread(target=service.versions, args=(n // 4,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    service = Service(settings, tmp_path / "log", TMPDIR=str(tmp_path))
    try:
        wait_for(lambda: service.loads(1) == 2)
        ask(200)
        wait_for(lambda: predictions() == 200, 5)
        workers = psutil.Process(service.process.pid).children()
        (folder,) = tmp_path.glob("mlops-metrics-*")
        counted = {int(re.search(r"_(\d+)\.db", f.name)[1]) for f in folder.glob("counter_*.db")}
        assert counted == {w.pid for w in workers}
        os.kill(workers[0].pid, signal.SIGKILL)
        wait_for(lambda: not list(folder.glob(f"gauge_live*_{workers[0].pid}.db")))
        wait_for(lambda: service.loads(1) == 3)
        assert predictions() == 200
        ask(100)
        wait_for(lambda: predictions() == 300, 5)
        measured = samples(metrics_of(service))
        assert measured["mlops_requests_total", "/predict", "200"] == 300
        assert measured["mlops_request_duration_seconds_count", "/predict"] == 300
        assert measured["mlops_model_info", "1", "production", "toy"] == 1
        check_with_promtool(metrics_of(service))
    finally:  # a check that is skipped for want of promtool, too, leaves no process
        service.stop()
    assert not folder.exists()


@pytest.mark.slow
def test_named_folder_is_cleared_at_the_start_and_stays(settings, tmp_path, metrics_of):
    folder, answered = tmp_path / "metrics", ("mlops_requests_total", "/predict", "200")
    for requests in (10, 7):  # fewer than before, so that what was left there cannot make up for them
        service = Service(settings, tmp_path / "log", PROMETHEUS_MULTIPROC_DIR=str(folder))
        try:
            service.versions(requests)
            wait_for(lambda s=service, n=requests: samples(metrics_of(s)).get(answered) == n)
        finally:
            service.stop()
        assert list(folder.glob("counter_*.db"))


@pytest.mark.slow
def test_waiting_bytes_are_true_while_the_database_hangs(postgres_url, tmp_path):
    relay = Relay(5432)
    home = tmp_path / "served"
    home.mkdir()
    served = make_home(home, MLOPS_DATABASE_URL=postgres_url)
    service = Service(served, tmp_path / "log", MLOPS_DATABASE_URL=postgres_url.replace(":5432", f":{relay.port}"))
    try:
        wait_for(lambda: {service.predict()[0] for _ in range(8)} == {200}, 60)
        wait_for(lambda: of_service(service)["mlops_spool_bytes",] == 0, 60)
        relay.hang()
        for _ in range(40):
            assert service.call("POST", "/predict", {"features": [[1, 0]] * 1000})[0] == 200
        wait_for(lambda: of_service(service)["mlops_spool_bytes",] > 2**20)
        assert all(of_service(service)["mlops_spool_bytes",] > 2**20 for _ in range(8)), "whichever worker is asked"
        age = of_service(service)["mlops_spool_age_seconds",]
        wait_for(lambda: of_service(service)["mlops_spool_age_seconds",] > age + 1)
        relay.go_on()
        wait_for(lambda: of_service(service)["mlops_spool_bytes",] == 0, 60)
    finally:
        relay.go_on()
        log = service.stop()
        relay.close()
    assert "Traceback" not in log


def of_service(service: Service) -> dict:
    """The metrics of a real service."""
    with urlopen(f"http://127.0.0.1:{service.port}/metrics") as response:
        return samples(response.read().decode())
