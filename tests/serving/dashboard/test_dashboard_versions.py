"""The dashboard through moves of production: figures belong to a version, and nothing is green without its check."""

import random
import sys
import time
import uuid
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mlops_nb.display import format_number
from mlops_nb.model.bundle import write_bundle
from mlops_nb.monitor.alerts import list_alerts
from mlops_nb.monitor.health import monitor
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import NUMBERS

SPEC = """
import pandera.pandas as pa
from mlops_nb.spec import Gates, ModelSpec

spec = ModelSpec(
    "toy", load="none.csv", target="side", schema=pa.DataFrameSchema({c: pa.Column() for c in ("a", "b", "side")}),
    make_estimator=lambda params: None, gates=Gates(minimum={"accuracy": 0.7}),
)
"""
MOVE = {"X-Dashboard": "move"}


class Production:
    """Two versions of a model with a spec, a registry, and a log that is written as services write it."""

    def __init__(self, home):
        (home / "settings.ini").touch()
        module = f"toy_spec_{uuid.uuid4().hex}"
        (home / f"{module}.py").write_text(SPEC)
        self.home, self.rng = home, np.random.default_rng(0)
        self.settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy", "MLOPS_POLL_SECONDS": "0.1"})
        self.registry = Registry.open(self.settings)
        X = pd.DataFrame(self.rng.normal(size=(2000, 2)), columns=["a", "b"])
        y = (X["a"] > X["b"]).astype(int)
        gate = {"gate": "minimum", "metric": "accuracy", "value": 0.93, "required": 0.7, "passed": True}
        evaluation = {"metrics": {"accuracy": 0.71}, "baseline": {"accuracy": 0.5}, "gates": [gate], "passed": True}
        evaluation["slices"] = {"all": {"rows": 2000}}
        facts = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": evaluation}
        for seed in (1, 2):
            model = LogisticRegression(C=seed).fit(X, y)
            own = facts | {"seed": seed, "code": {"spec": module}}
            self.registry.register(write_bundle(home / "bundle", "toy", model, NUMBERS, X, X, own))
        self.registry.promote("toy", 1)
        self.log = PredictionLog(self.registry.engine)

    def serve(self, version: int, rows: int, right: float, shift: float = 0.0, ago: float = 60):
        """Log predictions of a version and their labels, of which a share agrees."""
        predictor = self.registry.load("toy", version)
        inputs = self.rng.normal(size=(rows, 2)) + np.array([shift, 0])
        predicted = predictor.predict_rows(inputs)
        predictor.close()
        key, at = uuid.uuid4().hex[:28], time.time() - ago
        outputs = predicted.prediction.tolist(), predicted.probability.tolist()
        entry = PredictionRecord(key, at, "toy", version, "production", 2.0, ["a", "b"], inputs.tolist(), *outputs)
        labels = [v if i < right * rows else 1 - v for i, v in enumerate(outputs[0])]
        self.log.add([entry, *(LabelRecord(f"{key}-{i}", label, time.time()) for i, label in enumerate(labels))])

    def check(self):
        return monitor("toy", self.settings)

    def close(self):
        self.registry.close()
        sys.path[:] = [p for p in sys.path if p != str(self.home)]


@pytest.fixture
def production(tmp_path):
    production = Production(tmp_path)
    yield production
    production.close()


@pytest.fixture
def client(production):
    app = create_app(production.settings)
    live_model(app).refresh()
    yield app.test_client()
    app.stop()


class _Blocks(HTMLParser):
    """Classes of all elements, and the text of each section."""

    def __init__(self):
        super().__init__()
        self.classes, self.texts, self._sections = [], {}, []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.classes += [(c, self._sections[-1] if self._sections else "") for c in (given.get("class") or "").split()]
        if tag == "section":
            self._sections.append(given.get("id") or given.get("aria-labelledby"))

    def handle_endtag(self, tag):
        if tag == "section":
            self._sections.pop()

    def handle_data(self, data):
        section = self._sections[-1] if self._sections else ""
        self.texts[section] = " ".join([self.texts.get(section, ""), *data.split()])


def read(client, hours: float = 24) -> tuple[_Blocks, dict]:
    """The page and its data, newly read."""
    client.application.extensions["dashboard"].figures.invalidate()
    answer = client.get(f"/?hours={hours}")
    assert answer.status_code == 200
    blocks = _Blocks()
    blocks.feed(answer.get_data(as_text=True))
    return blocks, client.get(f"/dashboard/data.json?hours={hours}").get_json()


def greens(blocks: _Blocks) -> list:
    return [place for name, place in blocks.classes if name in ("good", "ok")]


def figures_of(report) -> set[str]:
    """The figures of a check that nothing else on the page can have, as the page writes them."""
    values = [r.value for r in report.performance.results if r.value is not None]
    return {format_number(v) for v in values} | {format_number(report.rows)}


def move(client, version: int):
    expected = client.get("/dashboard/data.json").get_json()["figures"]["current"]
    body = {"version": version, "expected": expected, "reason": "a test"}
    assert client.post("/admin/promote", json=body, headers=MOVE).status_code == 200
    live_model(client.application).refresh()


@pytest.mark.slow
def test_nothing_is_green_before_the_first_check(production, client):
    production.serve(1, 300, right=0.98)
    blocks, data = read(client)
    assert greens(blocks) == []
    assert data["figures"]["health"] is None
    assert blocks.texts["tiles"].count("not monitored yet") == 4, "the metric, drift, alerts, and the version"
    assert "Version 1 not monitored yet" in blocks.texts["tiles"]
    assert "wrong" not in blocks.texts["tiles"]
    assert "Version 1 is not monitored yet" in blocks.texts["drift"]


@pytest.mark.slow
def test_health_of_the_old_version_is_not_shown_after_a_move(production, client):
    production.serve(1, 1234, right=0.9117)
    before = production.check()
    blocks, data = read(client)
    assert before.status == "healthy"
    assert set(greens(blocks)) == {"tiles", "drift"}
    assert all(f in blocks.texts["tiles"] for f in figures_of(before)), (figures_of(before), blocks.texts["tiles"])
    assert "Version 1 healthy in the last check" in blocks.texts["tiles"]

    move(client, 2)
    for hours in (0.25, 1, 24, 168):
        blocks, data = read(client, hours)
        assert greens(blocks) == []
        for section in ("tiles", "alerts", "drift", "head"):
            found = {f for f in figures_of(before) if f in blocks.texts.get(section, "").replace("1,234 rows", "", 1)}
            assert found == set(), (section, blocks.texts[section])
        assert "Version 2 not monitored yet" in blocks.texts["tiles"]
        shown = data["figures"]
        assert shown["health"] is None
        assert (shown["quality"]["version"], shown["quality"]["rows"]) == (2, 0)
        assert [(m["value"], m["rows"]) for m in shown["quality"]["metrics"]] == [(None, 0)]
        assert {s["version"] for m in shown["quality"]["metrics"] for s in m["series"]} == {1}

    production.serve(2, 777, right=0.89)
    after = production.check()
    blocks, data = read(client)
    assert after.version == 2
    assert set(greens(blocks)) == {"tiles", "drift"}
    assert all(f in blocks.texts["tiles"] for f in figures_of(after))
    assert "Version 2 healthy in the last check" in blocks.texts["tiles"]
    assert data["figures"]["health"]["metrics"][0]["rows"] == 777
    assert {s["version"] for s in data["figures"]["quality"]["metrics"][0]["series"]} == {1, 2}


@pytest.mark.slow
def test_check_from_before_a_rollback_is_not_that_of_the_version_now(production, client):
    production.serve(1, 500, right=0.95)
    production.check()
    move(client, 2)
    body = {"expected": 2, "reason": "a test"}
    assert client.post("/admin/rollback", json=body, headers=MOVE).status_code == 200
    live_model(client.application).refresh()
    blocks, _ = read(client)
    assert greens(blocks) == []
    assert "Version 1 not monitored yet" in blocks.texts["tiles"]
    production.check()
    assert greens(read(client)[0])


@pytest.mark.slow
def test_alert_of_the_old_version_has_its_number_and_is_not_red_after_a_move(production, client):
    production.serve(1, 1000, right=0.95, shift=1.0)
    assert production.check().status == "alert"
    blocks, _ = read(client)
    assert "version 1" in blocks.texts["alerts"]
    move(client, 2)
    blocks, data = read(client)
    assert {a["version"] for a in data["figures"]["alerts"]} == {1}
    assert not [name for name, place in blocks.classes if place in ("alerts", "tiles") and name in ("bad", "warn")]
    assert "Open alerts of version 1, which is not in production" in blocks.texts["alerts"]
    assert "Open alerts – not monitored yet; " in blocks.texts["tiles"]

    production.serve(2, 1000, right=0.95, shift=1.0)
    production.check()
    blocks, data = read(client)
    (drift,) = [a for a in data["figures"]["alerts"] if a["subject"] == "a"]
    assert (drift["version"], drift["rows"]) == (2, 1000)
    assert len([a for a in list_alerts(production.registry.engine, "toy", closed=True) if a.subject == "a"]) == 1
    assert "bad" in [name for name, place in blocks.classes if place == "tiles"]


@pytest.mark.slow
def test_old_check_is_outdated_not_green(production, client, monkeypatch):
    production.serve(1, 500, right=0.95)
    production.check()
    assert greens(read(client)[0])
    monkeypatch.setattr("mlops_nb.monitor.timeseries.MAX_AGE", pd.Timedelta(0).to_pytimedelta())
    blocks, _ = read(client)
    assert greens(blocks) == []
    assert "outdated" in blocks.texts["tiles"]


@pytest.mark.slow
def test_every_metric_of_the_page_names_its_rows(production, client):
    production.serve(1, 200, right=0.91, ago=7200)
    production.serve(1, 100, right=0.8)
    production.check()
    blocks, data = read(client, hours=1)
    assert "0.8733 on 300 labelled rows, at least 0.7" in blocks.texts["tiles"], "the check is the headline"
    shown = data["figures"]["quality"]
    (metric,) = shown["metrics"]
    assert (metric["value"], metric["rows"]) == (0.8, 100), "those of the last hour"
    assert (metric["release"], metric["release_rows"]) == (0.71, 2000)
    assert "Metrics at release, on the test rows of each version" in blocks.texts["versions"]
    assert "2,000 0.71" in blocks.texts["versions"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_green_exactly_where_the_last_event_since_the_last_move_is_a_healthy_check(production, client, seed):
    draw = random.Random(seed)
    for version in (1, 2):
        production.serve(version, 400, right=0.95)
    current, checked = 1, False
    for _ in range(14):
        if draw.random() < 0.5:
            report = production.check()
            assert (report.version, report.status) == (current, "healthy")
            checked = True
        elif (version := draw.choice([1, 2])) != current:
            move(client, version)
            current, checked = version, False
        blocks, data = read(client, draw.choice([0.25, 1, 24, 168]))
        assert bool(greens(blocks)) == checked
        assert f"Version {current} {'healthy' if checked else 'not monitored yet'}" in blocks.texts["tiles"]
        assert (data["figures"]["health"] or {"version": current})["version"] == current


@pytest.mark.slow
def test_figures_from_before_a_move_are_not_those_of_the_version_that_predicts(production, client):
    production.serve(1, 500, right=0.95)
    production.check()
    read(client)
    board = client.application.extensions["dashboard"].figures
    now = time.monotonic()
    board._cached = {h: c._replace(read_at=now, until=1e12) for h, c in board._cached.items()}  # a slow database
    production.registry.promote("toy", 2)
    live_model(client.application).refresh()
    blocks = _Blocks()
    blocks.feed(client.get("/").get_data(as_text=True))
    assert "Version 2 predicts" in blocks.texts["head"]
    assert greens(blocks) == [], "they are of version 1 still"
    assert "The service predicts with version 2" in blocks.texts["tiles"]
    board._cached = {h: c._replace(read_at=0.0) for h, c in board._cached.items()}
    assert client.get("/dashboard/data.json").get_json()["figures"]["current"] == 2, "read again, however slow"


@pytest.mark.slow
def test_version_that_is_refused_is_not_green(production, client):
    production.serve(2, 500, right=0.95)
    move(client, 2)
    production.check()
    assert greens(read(client)[0])
    state = live_model(client.application).state
    live_model(client.application).state = replace(state, production=production.registry.load("toy", 1))
    blocks, _ = read(client)
    assert greens(blocks) == []
    assert "The service predicts with version 1" in blocks.texts["tiles"]
    live_model(client.application).state.production.close()
    live_model(client.application).state = state
