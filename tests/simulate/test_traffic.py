"""Traffic: what is drawn, and what reaches a real service."""

import json
import time
from http.server import BaseHTTPRequestHandler

import numpy as np
import orjson
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.metrics import get_scorer

from mlops_nb.cli.main import main
from mlops_nb.data.tables import load_table, validate
from mlops_nb.errors import NotFoundError
from mlops_nb.model.anomaly import anomaly_scores
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.outputs import predict_outputs, signature_of_outputs
from mlops_nb.model.scoring import score
from mlops_nb.model.signature import signature_of
from mlops_nb.model.train import fit, set_seed
from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.settings import Settings
from mlops_nb.simulate.traffic import TrafficError, sample_scenario, send
from mlops_nb.spec import load_spec
from mlops_nb.store.registry import Registry
from tests.factories import Service, wait_for
from tests.listening import listening

EXAMPLES = ("loans", "emails", "demand", "deliveries", "journeys")


def spec_of(name: str):
    return load_spec(f"mlops_nb.examples.{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EXAMPLES, "pumps"])
@pytest.mark.parametrize("scenario", ["good", "drift"])
def test_scenarios_fit_the_schema_and_follow_the_seed(name, scenario):
    spec = spec_of(name)
    rows = sample_scenario(spec, scenario, 103, seed=5)
    assert len(rows) == 103
    assert validate(rows, spec.schema) is not None
    pd.testing.assert_frame_equal(rows, sample_scenario(spec, scenario, 103, seed=5))
    assert not rows.equals(sample_scenario(spec, scenario, 103, seed=6))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_model_fails_in_the_world_of_drift_and_learns_it_from_its_rows(name):
    spec = spec_of(name)
    old, new, fresh = (validate(rows, spec.schema) for rows in (load_table(spec.load), *_drift(spec)))
    gate, reached = next(iter(spec.gates.minimum.items())), []
    for rows in (old, pd.concat([old, *[new] * 3])):
        estimator = spec.make_estimator({}).fit(rows[spec.inputs], rows[spec.target])
        if len(spec.targets) > 1:
            predictions = predict_outputs(estimator, fresh[spec.inputs], signature_of_outputs(spec, estimator))
            reached.append(score(predictions, fresh[spec.target], [gate[0]])[gate[0]])
        else:
            reached.append(get_scorer(gate[0])(estimator, fresh[spec.inputs], fresh[spec.target]))
    assert reached[0] < gate[1] < reached[1], (gate, reached)


@pytest.mark.slow
def test_pumps_in_a_heat_wave_alarm_too_often_until_their_rows_are_learned():
    spec = spec_of("pumps")
    old, new, fresh = (validate(rows, spec.schema) for rows in (load_table(spec.load), *_drift(spec)))
    least, most = spec.gates.alarm_rate
    rates = []
    for rows in (old, pd.concat([old, *[new] * 3])):
        estimator = set_seed(spec.make_estimator({}), 0).fit(rows[spec.inputs])
        rates.append((anomaly_scores(estimator, fresh[spec.inputs]) > 0).mean())
    assert rates[0] > most > rates[1] > least, rates


def _drift(spec):
    return sample_scenario(spec, "drift", 1500, seed=1), sample_scenario(spec, "drift", 1500, seed=2)


def test_model_without_scenarios_has_good_traffic_of_its_own_data_and_no_other():
    spec = spec_of("diagnosis")
    rows = sample_scenario(spec, "good", 20, seed=1)
    own = load_table(spec.load)
    assert len(rows.merge(own.drop_duplicates(), how="inner")) == 20
    with pytest.raises(NotFoundError, match="The spec of 'diagnosis' has no scenario 'drift'"):
        sample_scenario(spec, "drift", 20, seed=1)


class Fake(BaseHTTPRequestHandler):
    """A service whose answers a test chooses, and that remembers what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((time.monotonic(), self.path, body, self.headers.get("X-API-Key")))
        status, response, *more = self.server.answer(self.path, body)
        content = response if isinstance(response, bytes) else orjson.dumps(response)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in more:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def answer(path, body):
    if path == "/feedback":
        return 202, {"accepted": len(body["labels"])}
    n = len(body["features"])
    return 200, {"prediction": [1] * n, "ids": [f"k{body['features'][0]['x']}-{i}" for i in range(n)]}


@pytest.fixture
def fake():
    with listening(Fake) as server:
        server.answer, server.url = answer, f"http://127.0.0.1:{server.server_port}"
        yield server


def table(n: int) -> pd.DataFrame:
    at = pd.date_range("2026-01-01", periods=n, unit="us")
    return pd.DataFrame({"x": np.arange(n) * 1.0, "at": at, "who": ["a", None] * (n // 2), "y": np.arange(n) % 2})


def test_rows_are_objects_with_null_and_iso_times_and_without_the_truth(fake):
    rows = table(4).assign(x=[0, np.nan, 2, 3], n=pd.array([1, None, 1, 1], "Int64"))
    sent = send(rows, "y", fake.url, key="k" * 16)
    (_, path, body, key), (_, where, labels, _) = fake.got
    first, second = body["features"][:2]
    assert (path, key, where) == ("/predict", "k" * 16, "/feedback")
    assert first == {"x": 0, "at": "2026-01-01T00:00:00", "who": "a", "n": 1}
    assert second == {"x": None, "at": "2026-01-02T00:00:00", "who": None, "n": None}
    assert labels["labels"] == [{"id": f"k0.0-{i}", "label": i % 2} for i in range(4)]
    assert (sent.rows, sent.predicted, sent.labelled, sent.refused) == (4, 4, 4, {})


@pytest.mark.slow
def test_rate_and_delay_are_kept(fake):
    sent = send(table(10), "y", fake.url, rate=20, label_delay=0.3)
    asked = [at for at, path, body, _ in fake.got if path == "/predict" for _ in body["features"]]
    told = [at for at, path, body, _ in fake.got if path == "/feedback" for _ in body["labels"]]
    assert asked[-1] - asked[0] >= 0.35
    assert sent.seconds >= 0.4
    assert len(told) == 10
    assert all(b - a >= 0.29 for a, b in zip(asked, told, strict=True))


def test_labels_can_be_left_out_and_ids_that_are_not_logged_get_none(fake):
    assert send(table(4), "y", fake.url, label_delay=None).labelled == 0
    fake.answer = lambda path, body: (200, {"prediction": [1] * 4, "ids": None})
    assert send(table(4), "y", fake.url).labelled == 0
    assert {path for _, path, *_ in fake.got} == {"/predict"}


def test_refused_rows_are_counted_by_reason_and_the_rest_goes_on(fake):
    fake.answer = lambda path, body: (
        (400, {"error": "no"}) if path == "/predict" and body["features"][0]["x"] == 0 else answer(path, body)
    )
    sent = send(table(40), "y", fake.url)
    assert (sent.predicted, sent.refused) == (20, {"no": 20})


@pytest.mark.slow
def test_overloaded_service_is_asked_again(fake):
    busy = iter([True, True])
    fake.answer = lambda path, body: (
        (503, {"error": "busy"}, ("Retry-After", "0")) if next(busy, False) else answer(path, body)
    )
    assert send(table(4), "y", fake.url).predicted == 4
    fake.answer = lambda path, body: (503, {"error": "busy"}, ("Retry-After", "0"))
    with pytest.raises(TrafficError, match=r"/predict responded 503: busy"):
        send(table(4), "y", fake.url)


@pytest.mark.parametrize(
    ("response", "message"),
    [((200, b"<html>"), "is no service of mlops_nb"), ((401, {"error": "A key is needed"}), "401: A key is needed")],
)
def test_what_is_no_service_or_wants_a_key_is_one_error(fake, response, message):
    fake.answer = lambda path, body: response
    with pytest.raises(TrafficError, match=message):
        send(table(4), "y", fake.url)


def test_address_that_is_none_and_service_that_is_away():
    with pytest.raises(TrafficError, match="is no address of a service"):
        send(table(2), "y", "localhost:5000")
    with pytest.raises(TrafficError, match=r"No service responds at .* Start one: mlops-nb serve"):
        send(table(2), "y", "http://127.0.0.1:9")


@pytest.fixture
def loans(tmp_path) -> Settings:
    """Loans in production."""
    (tmp_path / "settings.ini").touch()
    settings, spec = Settings.read({"MLOPS_HOME": str(tmp_path)}), spec_of("loans")
    rows = validate(load_table(spec.load), spec.schema)
    estimator = fit(spec, rows[spec.inputs], rows[spec.target], seed=0).estimator
    facts = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}}
    facts |= {"code": {"spec": "mlops_nb.examples.loans"}, "evaluation": {"metrics": {}, "gates": [], "passed": True}}
    signature = signature_of(spec, estimator)
    bundle = write_bundle(tmp_path / "bundle", "loans", estimator, signature, rows.tail(500), rows, facts)
    registry = Registry.open(settings)
    registry.promote("loans", registry.register(bundle)[0].version)
    registry.close()
    return settings


@pytest.mark.slow
def test_command_sends_a_world_that_the_model_knows_less_well(loans, tmp_path):
    service = Service(loans, tmp_path / "log", MLOPS_MODEL="loans")
    right, income = {}, {}
    try:
        for scenario in ("good", "drift"):
            words = ["traffic", "loans", "--scenario", scenario, "--rows", "600", "--seed", "3", "--json"]
            environment = {"MLOPS_HOME": str(loans.home), "MLOPS_PORT": str(service.port)}
            done = CliRunner().invoke(main, words, env=environment)
            assert done.exit_code == 0, done.output
            sent = json.loads(done.output)
            assert (sent["predicted"], sent["labelled"], sent["refused"]) == (600, 600, {})
            log = PredictionLog.open(loans)
            n = 600 * (len(right) + 1)
            wait_for(lambda log=log, n=n: len(log.read("loans", labelled=True).predictions) == n)
            window = log.read("loans", last=600)
            right[scenario] = (window.predictions["prediction"] == window.predictions["label"]).mean()
            income[scenario] = window.inputs["income"].median()
            log.close()
    finally:
        service.stop()
    assert right["drift"] < right["good"]
    assert income["drift"] < 0.6 * income["good"]


@pytest.mark.slow
def test_command_says_what_is_wrong(loans):
    for words, message in [
        (["traffic", "loan"], "No model 'loan' is registered. Did you mean 'loans'?"),
        (["traffic", "loans", "--scenario", "drfit"], "has no scenario 'drfit'. Did you mean 'drift'?"),
        (["traffic", "loans", "--url", "http://127.0.0.1:9"], "No service responds"),
    ]:
        done = CliRunner().invoke(main, words, env={"MLOPS_HOME": str(loans.home)})
        assert (done.exit_code, message in done.output) == (1, True), done.output
