"""Monitoring checks of a model in production: findings, inconclusive results, reports and alerts."""

import json
import sys
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression, LogisticRegression

from mlops_nb.cli.main import main
from mlops_nb.errors import BundleError, InputError, NotFoundError
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.signature import Input, Signature
from mlops_nb.monitor.alerts import Finding, list_alerts, update_alerts
from mlops_nb.monitor.checks import read_traffic
from mlops_nb.monitor.health import monitor, parse_last
from mlops_nb.monitor.health_report import latest_health
from mlops_nb.monitor.label_checks import MAX_LABELLED_ROWS
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord, RequestCount
from mlops_nb.monitor.report import past_checks
from mlops_nb.settings import Settings
from mlops_nb.store.database import writing
from mlops_nb.store.registry import Registry
from mlops_nb.store.schema import health as health_table

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SIDES = Signature((Input("a"), Input("b")), "classification", "side", ("left", "right"))
SUM = Signature((Input("a"), Input("b")), "regression", "sum")


class Watched:
    """A model in production, and what a service would log of it."""

    def __init__(self, home, database_url: str, signature: Signature = SIDES, spec: str | None = None):
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
        if spec is not None:
            facts["code"] = {"spec": spec}
            facts["evaluation"]["metrics"] = {"accuracy": 0.98}
            facts["evaluation"]["slices"] = {"all": {"rows": 2000}}
        bundle = write_bundle(home / "bundle", "toy", estimator, signature, X, X, facts)
        self.registry = Registry.open(self.settings)
        self.registry.register(bundle)
        self.registry.promote("toy", 1)
        self.predictor, self.log = self.registry.load("toy"), PredictionLog(self.registry.engine)

    def serve(self, n: int = 1000, shift: float = 0.0, ago: float = 60, ms: float = 0.4, version: int = 1):
        """Log predictions of rows that were requested so many seconds ago."""
        rows = self.rng.normal(size=(n, 2)) + np.array([shift, 0])
        predictions = self.predictor.predict_rows(rows)
        at, probability = NOW.timestamp() - ago, predictions.probability
        record = PredictionRecord(
            id=f"{at:.3f}",
            at=at,
            name="toy",
            version=version,
            role="production",
            latency_ms=ms,
            columns=["a", "b"],
            rows=rows.tolist(),
            prediction=predictions.prediction.tolist(),
            probability=None if probability is None else probability.tolist(),
        )
        self.log.add([record])

    def label(self, ago: float, came: float, wrong: float = 0.0):
        """What was true of the rows that were asked so many seconds ago; the model is wrong about a share of them."""
        predictions = self.log.read("toy").predictions
        predictions = predictions[predictions["at"] == pd.Timestamp(NOW - timedelta(seconds=ago))]
        other = {"left": "right", "right": "left"}
        mistaken = np.arange(len(predictions)) < wrong * len(predictions)
        truth = [other[p] if m else p for p, m in zip(predictions["prediction"], mistaken, strict=True)]
        at = NOW.timestamp() - came
        self.log.add([LabelRecord(key, label, at) for key, label in zip(predictions.index, truth, strict=True)])

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


@pytest.mark.slow
def test_window_like_the_data_is_healthy_and_stored(watched):
    watched.serve(ago=120)
    watched.serve(ago=60)
    health = watched.look()
    assert (health.status, health.rows, health.findings, health.inconclusive) == ("healthy", 2000, [], [])
    assert (health.version, health.latency["p95"], health.rows_per_minute) == (
        1,
        pytest.approx(0.4),
        pytest.approx(2000),
    )
    assert {("drift", "a"), ("drift", "b"), ("drift", "prediction"), ("latency", "p95")} <= {*health.evaluated}
    assert latest_health(watched.registry.engine, "toy", 1) == health.to_dict()
    json.dumps(health.to_dict(), allow_nan=False)


@pytest.mark.slow
def test_shift_of_one_column_is_an_alert_that_closes_when_it_is_over(watched, capsys):
    watched.serve(shift=0.7, ago=7200)
    health = watched.look(rows=1000)
    subjects = {f.subject for f in health.findings}
    assert health.status == "alert"
    assert "a" in subjects
    assert "b" not in subjects
    assert {a.subject for a in list_alerts(watched.registry.engine, "toy")} == subjects
    watched.serve(ago=60)
    assert watched.look(rows=1000).status == "healthy"
    assert list_alerts(watched.registry.engine, "toy") == []
    output = capsys.readouterr().err
    assert output.count("drift of a alerts") == 1
    assert output.count("drift of a is over") == 1


@pytest.mark.slow
def test_alert_of_a_column_that_is_muted_closes_and_says_so(make_labelled, tmp_path, monkeypatch, capsys):
    watched = make_labelled()
    watched.serve(shift=0.7)
    assert "a" in {f.subject for f in watched.look(rows=1000).findings}
    module = sys.modules[next(tmp_path.glob("toy_spec_*.py")).stem]
    monkeypatch.setattr(module, "spec", replace(module.spec, drift={"a": None}))
    watched.look(rows=1000)
    assert "drift of a is over: not tested: the spec mutes its drift" in capsys.readouterr().err


@pytest.mark.slow
def test_few_rows_or_none_are_inconclusive_and_close_no_alert(alone):
    alone.serve(shift=0.7, ago=7200)
    alone.look()
    for n in (0, 20):
        if n:
            alone.serve(n, ago=60)
        health = alone.look(last=timedelta(minutes=10))
        assert (health.status, health.rows) == ("unknown", n)
        assert any("not enough rows" in reason for reason in health.inconclusive)
    assert "a" in {a.subject for a in list_alerts(alone.registry.engine, "toy")}


@pytest.mark.slow
def test_window_is_of_the_production_version_and_of_its_time(alone):
    alone.serve(ago=60)
    alone.serve(shift=3, ago=90, version=2)
    alone.serve(shift=3, ago=25 * 3600)
    assert (alone.look().status, alone.look().rows) == ("healthy", 1000)
    assert alone.look(last=timedelta(days=7)).rows == 2000
    assert alone.look(rows=1500).rows == 1500


@pytest.mark.slow
def test_latency_above_the_limit_is_an_alert(alone):
    alone.serve(ms=300.0)
    health = alone.look()
    assert [(f.kind, f.size) for f in health.findings] == [("latency", pytest.approx(300))]
    assert "p95 latency is 300 ms, the limit is 250" in health.findings[0].text


@pytest.mark.slow
def test_regression_is_monitored(tmp_path):
    watched = Watched(tmp_path, f"sqlite:///{tmp_path}/mlops.db", SUM)
    watched.serve(shift=1.0)
    assert {"a", "prediction"} <= {f.subject for f in watched.look().findings}
    watched.close()


@pytest.mark.slow
def test_bundle_that_was_changed_is_no_reference(alone):
    (alone.registry.get("toy", 1).path / "profile.json").write_text("{}")
    alone.serve()
    with pytest.raises(BundleError, match=r"profile\.json of toy was changed"):
        alone.look()
    assert latest_health(alone.registry.engine, "toy", 1) is None


@pytest.mark.slow
def test_report_of_an_earlier_release_is_read(alone):
    report = alone.look().to_dict()
    old = {{"inconclusive": "cannot", "evaluated": "judged"}.get(key, key): value for key, value in report.items()}
    with writing(alone.registry.engine) as connection:
        values = {"name": "toy", "version": 1, "at": NOW + timedelta(hours=1), "status": "unknown", "report": old}
        connection.execute(sa.insert(health_table).values(values))
    assert latest_health(alone.registry.engine, "toy", 1) == report
    assert [set(past) for past in past_checks(alone.registry.engine, "toy")] == [set(report)] * 2


@pytest.mark.slow
def test_requests_of_the_version_before_are_not_those_of_the_version_in_production(watched):
    now = datetime.now(UTC)  # production moved a moment ago
    watched.log.add([RequestCount("w1", "toy", now.timestamp() - 3600, 503, 100)])
    first = monitor("toy", watched.settings, now=now)
    assert (first.traffic.requests, [f.kind for f in first.findings]) == (None, [])
    watched.log.add([RequestCount("w2", "toy", now.timestamp() + 60, 503, 90)])
    second = monitor("toy", watched.settings, now=now + timedelta(minutes=2))
    (finding,) = second.findings
    assert (finding.kind, finding.figures["requests"], finding.figures["version"]) == ("errors", 90, 1)
    assert second.traffic.since == watched.registry.alias_since("toy")


@pytest.mark.slow
def test_report_names_the_roles_of_its_predictions(alone):
    assert alone.look(roles=("batch",)).roles == ["batch"]
    assert latest_health(alone.registry.engine, "toy", 1)["roles"] == ["batch"]
    assert alone.look().roles == ["production", "canary"]


@pytest.mark.slow
def test_unknown_model_is_named_in_the_error(alone):
    with pytest.raises(NotFoundError, match=r"No model 'toi' is registered. Did you mean 'toy'\?"):
        monitor("toi", alone.settings)


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("24h", 86400), ("7d", 604800)])
def test_span_is_parsed(text, seconds):
    assert parse_last(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "h", "0h", "-1h", "1.5h", "24", "1 day", "24H"])
def test_invalid_span_is_rejected(text):
    with pytest.raises(InputError, match="is no time span; give seconds, minutes, hours or days"):
        parse_last(text)


SPEC = """
import pandera.pandas as pa
from mlops_nb.spec import Gates, ModelSpec

spec = ModelSpec(
    "toy", load="none.csv", target="side", schema=pa.DataFrameSchema({c: pa.Column() for c in ("a", "b", "side")}),
    make_estimator=lambda params: None, gates=Gates(minimum={"accuracy": 0.9}),
    slices={"a is large": lambda X: X["a"] > 1},
)
"""


@pytest.fixture
def make_labelled(tmp_path):
    """A model whose spec is a module of its project."""
    made = []

    def make(database_url=f"sqlite:///{tmp_path}/mlops.db", text=SPEC):
        module = f"toy_spec_{uuid.uuid4().hex}"
        (tmp_path / f"{module}.py").write_text(text)
        made.append(Watched(tmp_path, database_url, spec=module))
        return made[-1]

    yield make
    for watched in made:
        sys.path[:] = [p for p in sys.path if p != str(tmp_path)]
        watched.close()


def subjects(found, kind="performance"):
    return [f.subject for f in found if f.kind == kind]


@pytest.mark.slow
def test_accuracy_below_the_gate_is_an_alert_until_it_is_back(make_labelled, database_url, capsys):
    watched = make_labelled(database_url)
    watched.serve(ago=7200)
    watched.label(7200, 7000, wrong=0.2)
    health = watched.look(rows=1000)
    assert (health.status, subjects(health.findings)) == ("alert", ["accuracy"])
    (finding,) = health.findings
    assert finding.size == pytest.approx(0.17), "as far below what it was at release, less the tolerance"
    assert "0.8 (between 0.774 and 0.824) is below the gate of 0.9 and the 0.98 of its release" in finding.text
    assert finding.figures["worst"][0]["slice"] == "a is large"
    assert finding.figures["rows"] == 1000
    result = {r.slice: r for r in health.performance.results}
    assert (result["all"].value, result["all"].below_gate) == (0.8, True)
    assert result["a is large"].gate is None
    (alert,) = list_alerts(watched.registry.engine, "toy")
    assert alert.since == NOW - timedelta(seconds=7200)
    assert alert.opened_at == NOW
    assert "performance of accuracy alerts" in (output := capsys.readouterr().err)
    assert "since 2026-05-01 10:00" in output
    watched.serve(ago=60)
    watched.label(60, 30)
    assert (watched.look(rows=1000).status, list_alerts(watched.registry.engine, "toy")) == ("healthy", [])


@pytest.mark.slow
def test_alert_about_a_column_or_metric_that_this_version_lacks_closes_at_its_check(make_labelled):
    watched = make_labelled()
    left = [Finding("drift", "income", 0.3, "a column"), Finding("performance", "f1", 0.1, "a metric")]
    update_alerts(watched.registry.engine, "toy", left, [], NOW - timedelta(hours=1))

    def still_open():
        watched.look()
        return [a.subject for a in list_alerts(watched.registry.engine, "toy")]

    assert still_open() == ["income", "f1"], "of a window without rows nothing is known"
    watched.serve()
    assert still_open() == ["f1"]
    watched.label(60, 30)
    assert still_open() == []


@pytest.mark.slow
def test_label_counts_in_the_window_in_which_it_comes(make_labelled):
    watched = make_labelled()
    watched.serve(ago=30 * 3600)
    watched.serve(ago=3600)
    assert watched.look(last=timedelta(hours=2)).performance is None
    watched.label(30 * 3600, 600, wrong=0.5)
    health = watched.look(last=timedelta(hours=2))
    assert (health.rows, health.performance.rows, subjects(health.findings)) == (1000, 1000, ["accuracy"])
    assert health.labelled_since == health.labelled_until == NOW - timedelta(hours=30)
    health = watched.look(last=timedelta(minutes=5))
    assert health.performance is None
    assert "performance: no labels came in the window, as they did before" in health.inconclusive
    assert subjects(list_alerts(watched.registry.engine, "toy")) == ["accuracy"], "not enough to tell is not fine"


@pytest.mark.slow
def test_only_the_newest_labelled_rows_count(make_labelled):
    watched = make_labelled()
    for ago, wrong in ((7200, 1.0), (3600, 0.0), (1800, 0.0)):
        watched.serve(ago=ago)
        watched.label(ago, ago - 60, wrong)
    health = watched.look()
    assert (health.rows, health.performance.rows, health.status) == (3000, MAX_LABELLED_ROWS, "healthy")


@pytest.mark.slow
def test_without_labels_there_is_an_estimate_that_is_called_one(make_labelled):
    watched = make_labelled()
    watched.serve()
    health = watched.look()
    (estimate,) = health.estimates
    assert (health.status, health.performance) == ("healthy", None)
    assert estimate.estimated_value > 0.9
    assert "estimated from" in estimate.reason
    assert health.to_dict()["estimates"][0]["metric"] == "accuracy"


@pytest.mark.slow
def test_estimate_below_the_gate_is_inconclusive_and_no_finding(make_labelled):
    watched = make_labelled(text=SPEC.replace('"accuracy": 0.9', '"accuracy": 0.9999'))
    watched.serve()
    health = watched.look()
    assert (health.status, health.findings) == ("unknown", [])
    assert "performance by accuracy: estimated from" in health.inconclusive[0]
    assert "its gate is 1" in health.inconclusive[0]


@pytest.mark.slow
def test_few_labels_are_inconclusive(make_labelled):
    watched = make_labelled()
    watched.serve(ago=60)
    watched.serve(12, ago=90)
    watched.label(90, 30)
    health = watched.look()
    assert health.status == "unknown"
    assert health.performance.rows == 12
    assert health.estimates
    assert health.inconclusive[0].startswith(
        "performance by accuracy: 1 (between 0.758 and 1), inconclusive whether below"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "says"),
    [("import nothing_of_this_name", ": ModuleNotFoundError: "), ("1 / 0", "ZeroDivisionError")],
)
def test_spec_that_cannot_be_imported_makes_performance_inconclusive_alone(make_labelled, text, says):
    watched = make_labelled(text=text)
    watched.serve(shift=0.7)
    watched.label(60, 30)
    health = watched.look()
    assert health.performance is None
    assert "a" in subjects(health.findings, "drift")
    reasons = [reason for reason in health.inconclusive if reason.startswith("performance: its spec toy_spec_")]
    assert any(says in reason for reason in reasons)


@pytest.mark.slow
def test_slice_of_a_column_that_is_never_logged_is_named(make_labelled):
    watched = make_labelled(text=SPEC.replace("slices={", 'slices={"nobody knows": lambda X: X["c"] > 1, '))
    watched.serve()
    watched.label(60, 30)
    health = watched.look()
    assert health.inconclusive == ["performance of nobody knows: its rows cannot be found: KeyError: 'c'"]
    assert {r.slice for r in health.performance.results} == {"all", "a is large"}


@pytest.mark.slow
def test_labels_that_are_no_class_are_named_and_left_out(make_labelled):
    watched = make_labelled()
    watched.serve()
    watched.label(60, 30)
    first = watched.log.read("toy").predictions.index[0]
    watched.log.add([LabelRecord(first, "up", NOW.timestamp())])
    health = watched.look()
    assert health.performance.rows == 999
    assert health.inconclusive == ["performance: 1 of 1000 labels are invalid for the model, such as 'up'"]


def count(watched, ago: float, **by_status: int):
    """Requests that a service counted in the minute that was so many seconds ago."""
    at = (NOW.timestamp() - ago) // 60 * 60
    watched.log.add([RequestCount(f"w-{at}-{s}", "toy", at, int(s[1:]), n) for s, n in by_status.items()])


@pytest.mark.slow
def test_requests_that_fail_are_an_alert_by_their_share(watched):
    watched.serve()
    count(watched, 60, s200=990, s422=5, s503=40)
    count(watched, 30 * 3600, s503=1000)
    health = watched.look()
    assert [(f.kind, f.subject) for f in health.findings] == [("errors", "failed (5xx)")]
    assert health.findings[0].text == "3.9% of 1,035 requests failed (5xx), the limit is 1.0%"
    assert (health.traffic.requests, health.traffic.refused, health.traffic.failed) == (1035, 5, 40)
    count(watched, 0, s200=4000)
    assert watched.look().status == "healthy"
    assert list_alerts(watched.registry.engine, "toy") == []


@pytest.mark.slow
def test_requests_that_are_refused_are_an_alert_beyond_a_tenth(alone):
    alone.serve()
    count(alone, 60, s200=60, s422=40)
    assert "40.0% of 100 requests refused (4xx), the limit is 10.0%" in alone.look().findings[0].text


@pytest.mark.slow
@pytest.mark.parametrize("counts", [{"s503": 1}, {"s422": 3}, {"s200": 9, "s503": 40}])
def test_few_requests_neither_open_nor_close_an_alert_about_errors(alone, counts):
    alone.serve()
    count(alone, 60, **counts)
    health = alone.look()
    assert health.status == "healthy"
    assert "errors" not in {kind for kind, _ in health.evaluated}


@pytest.mark.slow
def test_uncounted_requests_are_not_evaluated(alone):
    alone.serve()
    health = alone.look()
    assert (health.status, health.traffic.requests) == ("healthy", None)


@pytest.mark.slow
def test_traffic_that_was_steady_and_stops_is_an_alert_until_a_row_comes(watched):
    for minutes in range(20, 20 * 25, 2):
        watched.serve(3, ago=minutes * 60)
    health = watched.look(last=timedelta(hours=2))
    assert [(f.kind, f.subject) for f in health.findings] == [("traffic", "rows")]
    assert (
        "none for 20 minutes; there were rows in each of the 20 spans of that length before" in health.findings[0].text
    )
    watched.serve(ago=60)
    assert watched.look(last=timedelta(hours=2)).status == "healthy"
    assert list_alerts(watched.registry.engine, "toy") == []


@pytest.mark.slow
@pytest.mark.parametrize(("oldest", "gap"), [(200, None), (25 * 20, 60)])
def test_silence_that_is_usual_or_cannot_be_compared_is_no_alert(alone, oldest, gap):
    for minutes in range(20, oldest, 5):
        if gap is None or not gap <= minutes < gap + 30:
            alone.serve(10, ago=minutes * 60)
    traffic = alone.look().traffic
    assert traffic.silent_minutes == pytest.approx(20)
    assert traffic.steady is (None if gap is None else False)
    assert "traffic" not in {f.kind for f in alone.look().findings}


@pytest.mark.slow
@pytest.mark.parametrize(("hours", "steady"), [(0, False), (0.5, False), (3, True)])
def test_silence_of_the_evening_before_is_usual_though_it_began_later(alone, hours, steady):
    """Rows every two minutes since nine hours before; on the day before they went on for some hours longer."""
    today, before = range(20, 9 * 60, 2), range(24 * 60 + 20 - int(hours * 60), 33 * 60, 2)
    result = ["a", "b"], [[0.0, 0.0]], ["left"], [[0.6, 0.4]]
    asked = [NOW.timestamp() - minutes * 60 for minutes in (*today, *before)]
    alone.log.add([PredictionRecord(f"{at:.0f}", at, "toy", 1, "production", 0.4, *result) for at in asked])
    assert read_traffic(alone.log, "toy", NOW - timedelta(hours=1), NOW).steady is steady


@pytest.mark.slow
def test_row_that_comes_during_a_check_is_no_silence(alone):
    alone.serve(60, ago=-5)
    assert alone.look().traffic.silent_minutes == 0


class StandIn:
    """What `wandb.init` gives, as far as a look uses it."""

    def __init__(self):
        self.given, self.logged, self.alerts = [], [], []

    def init(self, **given):
        self.given.append(given)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def log(self, figures):
        self.logged.append(figures)

    def alert(self, title, text, level):
        self.alerts.append((title, text, level))


@pytest.mark.slow
def test_check_and_its_alerts_are_logged_to_wandb_once_when_online(alone, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", (stand_in := StandIn()).init)
    alone.serve(shift=0.7, ago=7200)
    count(alone, 7200, s200=75, s503=25)
    for _ in range(2):
        alone.look(last=timedelta(hours=3))
    assert [(g["id"], g["mode"], g["resume"]) for g in stand_in.given] == [("monitor-toy-1", "online", "allow")] * 2
    first = stand_in.logged[0]
    assert (first["rows"], first["requests/failed"]) == (1000, 0.25)
    assert first["drift/input a"] > 0.2
    assert "estimate/accuracy" in first
    assert None not in first.values()
    result = {title: (text, level) for title, text, level in stand_in.alerts}
    kinds = [title.split(": ")[1].split(" of ")[0] for title in result]
    assert len({*kinds}) == len(stand_in.alerts), "one for each kind of alert, sent once"
    text, level = result["toy version 1: drift of a, probability of right, prediction"]
    assert " of the values are " in text
    assert level == "WARN"
    alone.serve(ago=60)
    alone.look(rows=1000)
    over = [title for title, _, level in stand_in.alerts if level == "INFO"]
    assert any(title.startswith("toy version 1: drift of a") for title in over)


@pytest.mark.slow
def test_check_continues_without_wandb(alone, monkeypatch, capsys):
    import wandb

    def away(**given):
        raise OSError("no route to api.wandb.ai")

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", away)
    alone.serve(shift=0.7)
    assert alone.look().status == "alert"
    assert "W&B could not be reached: OSError: no route to api.wandb.ai" in capsys.readouterr().err


@pytest.mark.slow
def test_offline_nothing_is_written_for_wandb(alone, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    alone.serve(shift=0.7)
    alone.look()
    assert not list(alone.settings.home.rglob("*.wandb"))


@pytest.mark.slow
def test_command_shows_performance_and_exits_by_it(make_labelled):
    watched = make_labelled()

    def run(*words):
        done = CliRunner().invoke(main, ["monitor", "toy", *words], env=watched.environment)
        return done.exit_code, done.stdout

    watched.serve(ago=7200)
    code, output = run("--rows", "1000")
    assert code == 0
    assert "  accuracy: estimated from " in output
    watched.label(7200, 3600, wrong=0.2)
    code, output = run("--rows", "1000")
    assert code == 2
    assert "  accuracy: 0.8 (between 0.774 and 0.824), below the gate of 0.9" in output
    assert "  ALERT performance of accuracy: " in output
    watched.label(7200, 1800)
    code, output = run("--rows", "1000", "--json")
    assert code == 0
    assert json.loads(output)["performance"]["results"][0]["value"] == 1


@pytest.mark.slow
def test_command_prints_and_exits_with_what_it_found(alone):
    def run(*words):
        done = CliRunner().invoke(main, ["monitor", "toy", *words], env=alone.environment)
        return done.exit_code, done.stdout

    assert run()[0] == 1
    alone.serve(shift=0.7, ago=7200)
    code, output = run("--rows", "1000")
    assert code == 2
    assert output.startswith("toy version 1: alert (1000 rows, 2026-05-01 10:00:00 to")
    assert "  ALERT drift of a: " in output
    assert "  latency: p50 0.4 ms, p95 0.4 ms" in output
    alone.serve(ago=60)
    code, output = run("--rows", "1000", "--json")
    assert (code, json.loads(output)["status"]) == (0, "healthy")
    assert run("--rows", "1000", "--last", "1h")[0] == 2, "a usage error"
    assert run("--last", "soon")[0] == 1
