"""A look at a model in production: what it finds, what it cannot tell, what it stores and tells."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression, LogisticRegression

from mlops_nb.alerts import list_alerts
from mlops_nb.bundle import write_bundle
from mlops_nb.cli import main
from mlops_nb.errors import BundleError, InputError, NotFoundError
from mlops_nb.monitor import latest_health, monitor, parse_last
from mlops_nb.prediction_log import Predicted, PredictionLog
from mlops_nb.registry import Registry
from mlops_nb.settings import Settings
from mlops_nb.signature import Input, Signature

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SIDES = Signature((Input("a"), Input("b")), "classification", "side", ("left", "right"))
SUM = Signature((Input("a"), Input("b")), "regression", "sum")


class Watched:
    """A model in production, and what a service would log of it."""

    def __init__(self, home, database_url: str, signature: Signature = SIDES):
        (home / "settings.ini").touch()
        self.environment = {"MLOPS_HOME": str(home), "MLOPS_DATABASE_URL": database_url}
        self.settings, self.rng = Settings.read(self.environment), np.random.default_rng(0)
        X = pd.DataFrame(self.rng.normal(size=(2000, 2)), columns=["a", "b"])
        if signature is SIDES:
            estimator = LogisticRegression().fit(X, np.where(X["a"] > X["b"], "right", "left"))
        else:
            estimator = LinearRegression().fit(X, X["a"] + X["b"])
        facts = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}}
        facts["evaluation"] = {"metrics": {}, "gates": [], "passed": True}
        bundle = write_bundle(home / "bundle", "toy", estimator, signature, X, X, facts)
        self.registry = Registry.open(self.settings)
        self.registry.register(bundle)
        self.registry.promote("toy", 1)
        self.predictor, self.log = self.registry.load("toy"), PredictionLog(self.registry.engine)

    def serve(self, n: int = 1000, shift: float = 0.0, ago: float = 60, ms: float = 0.4, version: int = 1):
        """Rows that were asked so many seconds ago."""
        rows = self.rng.normal(size=(n, 2)) + np.array([shift, 0])
        answer = self.predictor.predict_rows(rows)
        sure = None if answer.probability is None else answer.probability.tolist()
        at = NOW.timestamp() - ago
        said = answer.prediction.tolist(), sure
        self.log.add([Predicted(f"{at:.3f}", at, "toy", version, "production", ms, ["a", "b"], rows.tolist(), *said)])

    def look(self, **window):
        return monitor("toy", self.settings, now=NOW, **window)

    def close(self):
        self.predictor.close()
        self.registry.close()


@pytest.fixture
def watched(tmp_path, database_url):
    watched = Watched(tmp_path, database_url)
    yield watched
    watched.close()


@pytest.fixture
def alone(tmp_path):
    watched = Watched(tmp_path, f"sqlite:///{tmp_path}/mlops.db")
    yield watched
    watched.close()


def test_window_like_the_data_is_healthy_and_stored(watched):
    watched.serve(ago=120)
    watched.serve(ago=60)
    health = watched.look()
    assert (health.status, health.rows, health.findings, health.cannot) == ("healthy", 2000, [], [])
    assert (health.version, health.latency["p95"], health.rows_per_minute) == (
        1,
        pytest.approx(0.4),
        pytest.approx(2000),
    )
    assert {("drift", "a"), ("drift", "b"), ("drift", "prediction"), ("latency", "p95")} <= {*health.judged}
    assert latest_health(watched.registry.engine, "toy") == health.to_dict()
    json.dumps(health.to_dict(), allow_nan=False)


def test_shift_of_one_column_is_an_alert_that_closes_when_it_is_over(watched, capsys):
    watched.serve(shift=0.7, ago=7200)
    health = watched.look(rows=1000)
    subjects = {f.subject for f in health.findings}
    assert health.status == "alert" and "a" in subjects and "b" not in subjects
    assert {a.subject for a in list_alerts(watched.registry.engine, "toy")} == subjects
    watched.serve(ago=60)
    assert watched.look(rows=1000).status == "healthy"
    assert list_alerts(watched.registry.engine, "toy") == []
    said = capsys.readouterr().err
    assert said.count("drift of a alerts") == 1 and said.count("drift of a is over") == 1


def test_few_rows_or_none_are_not_fine_and_close_nothing(alone):
    alone.serve(shift=0.7, ago=7200)
    alone.look()
    for n in (0, 20):
        if n:
            alone.serve(n, ago=60)
        health = alone.look(last=timedelta(minutes=10))
        assert (health.status, health.rows) == ("unknown", n)
        assert any("not enough rows" in reason for reason in health.cannot)
    assert "a" in {a.subject for a in list_alerts(alone.registry.engine, "toy")}


def test_window_is_of_the_production_version_and_of_its_time(alone):
    alone.serve(ago=60)
    alone.serve(shift=3, ago=90, version=2)
    alone.serve(shift=3, ago=25 * 3600)
    assert (alone.look().status, alone.look().rows) == ("healthy", 1000)
    assert alone.look(last=timedelta(days=7)).rows == 2000
    assert alone.look(rows=1500).rows == 1500


def test_slow_answers_are_an_alert_by_the_limit(alone):
    alone.serve(ms=300.0)
    health = alone.look()
    assert [(f.kind, f.size) for f in health.findings] == [("latency", pytest.approx(300))]
    assert "95% of the rows were answered within 300 ms, the limit is 250" in health.findings[0].text


def test_regression_is_watched_too(tmp_path):
    watched = Watched(tmp_path, f"sqlite:///{tmp_path}/mlops.db", SUM)
    watched.serve(shift=1.0)
    assert {"a", "prediction"} <= {f.subject for f in watched.look().findings}
    watched.close()


def test_bundle_that_was_changed_is_no_reference(alone):
    (alone.registry.get("toy", 1).path / "profile.json").write_text("{}")
    alone.serve()
    with pytest.raises(BundleError, match=r"profile\.json of toy was changed"):
        alone.look()
    assert latest_health(alone.registry.engine, "toy") is None


def test_model_that_nobody_knows(alone):
    with pytest.raises(NotFoundError, match=r"No model 'toi' is registered. Did you mean 'toy'\?"):
        monitor("toi", alone.settings)


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("24h", 86400), ("7d", 604800)])
def test_spans(text, seconds):
    assert parse_last(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "h", "0h", "-1h", "1.5h", "24", "1 day", "24H"])
def test_spans_that_are_none(text):
    with pytest.raises(InputError, match="is no time span; give minutes, hours or days"):
        parse_last(text)


def test_command_prints_and_exits_with_what_it_found(alone):
    def run(*words):
        done = CliRunner().invoke(main, ["monitor", "toy", *words], env=alone.environment)
        return done.exit_code, done.stdout

    assert run()[0] == 1
    alone.serve(shift=0.7, ago=7200)
    code, said = run("--rows", "1000")
    assert code == 2 and said.startswith("toy version 1: alert (1000 rows, 2026-05-01 10:00:00 to")
    assert "  ALERT drift of a: " in said and "  latency: p50 0.4 ms, p95 0.4 ms" in said
    alone.serve(ago=60)
    code, said = run("--rows", "1000", "--json")
    assert (code, json.loads(said)["status"]) == (0, "healthy")
    assert run("--rows", "1000", "--last", "1h")[0] == 2, "a usage error"
    assert run("--last", "soon")[0] == 1
