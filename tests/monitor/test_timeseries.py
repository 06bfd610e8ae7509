"""Figures of production: the same from SQLite and PostgreSQL, right at the borders, and bounded."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from mlops_nb.model.signature import Input, Signature
from mlops_nb.monitor import bucket_sample as samples
from mlops_nb.monitor.alerts import Finding, update_alerts
from mlops_nb.monitor.prediction_batches import PredictionBatch, encode_inputs, encode_outputs
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.monitor.time_buckets import WINDOWS, TimeBuckets
from mlops_nb.monitor.timeseries import health_summary, prediction_series, quality, traffic
from mlops_nb.store.database import open_database, writing
from mlops_nb.store.schema import health

NOW = datetime(2026, 5, 31, 12, 34, 56, 789_000, tzinfo=UTC)
BINARY = Signature((Input("x"),), "classification", "y", ("no", "yes"))
NUMBER = Signature((Input("x"),), "regression", "y")


@pytest.fixture
def log(database_url):
    log = PredictionLog(open_database(database_url))
    yield log
    log.close()


def asked(id: str, at: datetime, result: list, **more) -> PredictionRecord:
    values = {
        "name": "toy",
        "version": 1,
        "role": "production",
        "latency_ms": 1.0,
        "columns": ["x"],
        "rows": [[0.0]] * len(result),
    }
    return PredictionRecord(id=id, at=at.timestamp(), prediction=result, **values | more)


def manifest(signature: Signature, **required: float) -> dict:
    gates = [{"gate": "minimum", "metric": m, "value": 0.0, "required": r, "passed": True} for m, r in required.items()]
    return {"signature": signature.to_dict(), "evaluation": {"gates": gates}}


@pytest.mark.parametrize("hours", WINDOWS)
def test_every_prediction_of_the_span_is_in_its_bucket_and_no_other(log, hours):
    span = TimeBuckets(hours, NOW)
    inside = [span.since, span.since + timedelta(seconds=span.seconds) - timedelta(microseconds=1), NOW]
    for i, at in enumerate([*inside, span.since - timedelta(microseconds=1)]):
        log.add([asked(f"r{i}", at, ["no"] * (i + 1), latency_ms=i + 0.5)])
    found = traffic(log.engine, "toy", span)
    assert found["at"] == span.starts
    assert len(found["at"]) * span.seconds == hours * 3600
    assert (found["rows"][0], found["requests"][0], found["requests"][-1]) == (3, 2, 1)
    assert (sum(found["rows"]), sum(found["requests"])) == (6, 3)
    assert (found["p50"][0], found["p95"][0], found["p50"][-1], found["p95"][1]) == (0.5, 1.5, 2.5, None)


def test_percentiles_are_those_of_numpy(log):
    ms = np.random.default_rng(0).gamma(2, 3, 237).tolist()
    log.add([asked(f"r{i:03}", NOW, ["no"], latency_ms=value) for i, value in enumerate(ms)])
    found = traffic(log.engine, "toy", TimeBuckets(1, NOW))
    for key, q in (("p50", 0.5), ("p95", 0.95)):
        assert found[key][-1] == pytest.approx(np.quantile(ms, q, method="inverted_cdf"))


def test_predictions_of_a_shadow_and_of_another_model_are_not_counted(log):
    log.add([asked("a", NOW, ["no"], role="shadow"), asked("b", NOW, ["no"], role="batch")])
    log.add([asked("c", NOW, ["no"], name="other"), asked("d", NOW, ["no"], role="canary")])
    assert sum(traffic(log.engine, "toy", TimeBuckets(1, NOW))["requests"]) == 1
    assert sum(prediction_series(log.engine, "toy", TimeBuckets(1, NOW))["rows"]) == 1


def test_rows_of_a_busy_bucket_are_counted_and_the_newest_read(log, monkeypatch):
    monkeypatch.setattr(samples, "SAMPLE_ROWS", 10)
    monkeypatch.setattr(samples, "EXACT_ROWS", 20)
    span, start = TimeBuckets(1, NOW), NOW.replace(second=1) - timedelta(minutes=5)
    quiet = [asked(f"q{i}", start + timedelta(minutes=1, seconds=i), ["no"], latency_ms=9.0) for i in range(9)]
    busy = [asked(f"r{i}", start + timedelta(seconds=i), ["no"] if i < 6 else ["yes"], latency_ms=i) for i in range(16)]
    log.add([*quiet, *busy, asked("c", start, ["no"], role="canary", latency_ms=90.0)])
    found, shown = traffic(log.engine, "toy", span), prediction_series(log.engine, "toy", span)
    assert (found["rows"][-6:-3], found["requests"][-6:-3]) == ([17, 9, 0], [17, 9, 0])
    assert (found["p50"][-6], found["p95"][-6], found["p95"][-5]) == (11.0, 90.0, 9.0), "those of the newest ten"
    assert shown["rows"][-6:-3] == [17, 9, 0]
    assert shown["series"]["no"][-6] == pytest.approx(1 / 17)
    assert found["complete_since"] == span.starts[0]


def test_number_of_requests_of_a_sample_is_in_proportion_to_its_rows(log, monkeypatch):
    monkeypatch.setattr(samples, "SAMPLE_ROWS", 10)
    monkeypatch.setattr(samples, "EXACT_ROWS", 20)
    log.add([asked(f"r{i}", NOW - timedelta(milliseconds=i), ["no"] * 2) for i in range(50)])
    found = traffic(log.engine, "toy", TimeBuckets(1, NOW))
    assert (sum(found["rows"]), sum(found["requests"])) == (100, 50)


def batch(id: str, at: datetime, result: list, **more) -> PredictionBatch:
    outputs = b"".join(encode_outputs(np.array(result), None))
    inputs = b"".join(encode_inputs(["x"], np.zeros((len(result), 1))))
    facts = {"name": "toy", "version": 1, "role": "production", "latency_ms": 1.0, "trace_id": None} | more
    return PredictionBatch(id=id, at=at.timestamp(), n_rows=len(result), inputs=inputs, outputs=outputs, **facts)


def key_of(number: int, rows: int) -> str:
    return f"{number:028x}{'a' * 8}{rows:x}"


def test_batches_are_counted_beside_rows_of_their_own(log, monkeypatch):
    monkeypatch.setattr(samples, "SAMPLE_BATCHES", 1)
    monkeypatch.setattr(samples, "SAMPLE_ROWS", 50)
    span, before = TimeBuckets(1, NOW), NOW - timedelta(minutes=1)
    log.add([asked("a", NOW, ["no"] * 20, latency_ms=3.0)])
    many = [batch(key_of(1, 300), NOW, ["yes"] * 150 + ["no"] * 150, latency_ms=7.0)]
    many += [batch(key_of(i, 40), before - timedelta(milliseconds=i), ["yes"] * 40) for i in (2, 3)]
    many += [
        batch(key_of(4, 40), NOW, ["no"] * 40, role="shadow"),
        batch(key_of(5, 40), NOW, ["no"] * 40, name="other"),
    ]
    log.add([], batches=many)
    found, shown = traffic(log.engine, "toy", span), prediction_series(log.engine, "toy", span)
    assert (found["rows"][-2:], found["requests"][-2:]) == ([80, 320], [2, 2])
    assert (found["p50"][-1], found["p95"][-1]) == (3.0, 7.0)
    assert shown["rows"][-2:] == [80, 320]
    assert shown["series"]["yes"][-2:] == [1.0, pytest.approx(150 / 320)]
    assert prediction_series(log.engine, "other", span, "anomaly")["rows"][-1] == 0, "texts are no scores"


def test_span_with_more_batches_than_are_counted_says_since_when_it_is_complete(log, monkeypatch):
    span = TimeBuckets(1, NOW)
    log.add([], batches=[batch(key_of(i, 40), NOW - timedelta(minutes=i), ["no"] * 40) for i in range(30)])
    assert traffic(log.engine, "toy", span)["complete_since"] == span.starts[0]
    monkeypatch.setattr(samples, "MAX_BATCHES", 10)
    found = traffic(log.engine, "toy", span)
    assert sum(found["requests"]) == 10
    assert found["complete_since"] == span.starts[-10] + 60


def test_quality_reads_labelled_rows_of_batches_and_some_of_a_busy_bucket(log, monkeypatch):
    monkeypatch.setattr(samples, "EXACT_ROWS", 200)
    monkeypatch.setattr(samples, "LABELLED_ROWS", 60)
    monkeypatch.setattr(samples, "SEARCHED_ROWS", 100)
    single = [asked(f"r{i}", NOW - timedelta(milliseconds=i), ["yes"]) for i in range(300)]
    log.add(single, batches=[batch(key_of(1, 200), NOW - timedelta(minutes=9), ["yes"] * 100 + ["no"] * 100)])
    log.add([LabelRecord(f"{one.id}-0", "yes" if i % 2 else "no", 1.0) for i, one in enumerate(single)])
    log.add([LabelRecord(f"{key_of(1, 200)}-{i}", "yes", 1.0) for i in range(25, 125)])
    (metric,) = quality(log.engine, "toy", TimeBuckets(1, NOW), manifest(BINARY, accuracy=0.6), 1)["metrics"]
    (series,) = metric["series"]
    assert (series["rows"], series["values"]) == ([100, 60], [0.75, 0.5])
    monkeypatch.setattr(samples, "SEARCHED_ROWS", 40)
    (metric,) = quality(log.engine, "toy", TimeBuckets(1, NOW), manifest(BINARY, accuracy=0.6), 1)["metrics"]
    assert metric["series"][0]["rows"] == [140], "forty rows are too few for a point of their own"


def test_rare_classes_are_shown_together_and_labels_as_they_are(log):
    log.add([asked("a", NOW, [0] * 20 + [*range(1, 10)]), asked("b", NOW, ["<b>", "<b>"], name="words")])
    found = prediction_series(log.engine, "toy", TimeBuckets(1, NOW))
    assert len(found["series"]) == 7
    assert "others" in found["series"]
    assert sum(share[-1] for share in found["series"].values()) == pytest.approx(1)
    assert prediction_series(log.engine, "words", TimeBuckets(1, NOW))["series"]["<b>"][-1] == 1.0


def test_numbers_of_a_model_that_once_had_classes_are_shown_without_them(log):
    log.add([asked("a", NOW, ["yes", "no"]), asked("b", NOW, [1.5, -2, 1e300, None, True])])
    found = prediction_series(log.engine, "toy", TimeBuckets(1, NOW), "regression")
    assert (found["rows"][-1], found["series"]["p50"][-1], found["series"]["p10"][-1]) == (3, 1.5, -2.0)


def test_quality_is_that_of_the_labels_against_the_gates(log):
    log.add([asked("a", NOW, ["yes", "no"] * 50, probability=[[0.2, 0.8], [0.7, 0.3]] * 50)])
    log.add([LabelRecord(f"a-{i}", "yes" if i % 2 == 0 or i < 20 else "no", 1.0) for i in range(100)])
    gates = manifest(BINARY, accuracy=0.95, roc_auc=0.8)
    accuracy, area = quality(log.engine, "toy", TimeBuckets(1, NOW), gates, 1)["metrics"]
    assert (accuracy["value"], accuracy["gate"], accuracy["rows"]) == (0.9, 0.95, 100)
    assert area["name"] == "ROC AUC"
    (series,) = area["series"]
    assert (series["version"], series["values"], series["rows"]) == (1, [area["value"]], [100])


def test_every_version_has_a_series_of_its_own_and_the_value_is_that_of_production(log):
    for version, right in ((1, 50), (2, 80)):
        log.add([asked(f"v{version}", NOW, ["yes"] * 100, version=version)])
        log.add([LabelRecord(f"v{version}-{i}", "yes" if i < right else "no", 1.0) for i in range(100)])
    for version, value in ((1, 0.5), (2, 0.8), (3, None)):
        (metric,) = quality(log.engine, "toy", TimeBuckets(1, NOW), manifest(BINARY, accuracy=0.6), version)["metrics"]
        assert (metric["value"], metric["rows"]) == (value, 100 if value else 0)
        assert {s["version"]: s["values"] for s in metric["series"]} == {1: [0.5], 2: [0.8]}


def test_points_over_time_have_enough_labels_each(log):
    span = TimeBuckets(1, NOW)
    for minute, n in ((40, 60), (30, 10), (20, 45), (1, 5)):
        log.add([asked(f"m{minute}", NOW - timedelta(minutes=minute), ["no"] * n)])
        log.add([LabelRecord(f"m{minute}-{i}", "no", 1.0) for i in range(n)])
    found = quality(log.engine, "toy", span, manifest(BINARY), 1)["metrics"][0]
    (series,) = found["series"]
    assert (series["rows"], series["values"], found["gate"], found["rows"]) == ([60, 60], [1.0, 1.0], None, 120)


def test_error_of_a_regression_has_its_gate_above(log):
    log.add([asked("a", NOW, [1.0, 2.0])])
    log.add([LabelRecord("a-0", 2, 1.0), LabelRecord("a-1", 4.0, 1.0)])
    gates = manifest(NUMBER, neg_root_mean_squared_error=-1.0, r2=0.5)
    found = quality(log.engine, "toy", TimeBuckets(1, NOW), gates, 1)
    error, r2, usual = found["metrics"]
    assert error["lower_is_better"]
    assert error["gate"] == 1.0
    assert error["value"] == pytest.approx(2.5**0.5)
    assert (r2["gate"], usual["name"], usual["value"]) == (0.5, "mean absolute error", 1.5)


def test_limits_of_slices_and_groups_are_no_gates_of_all_rows(log):
    log.add([asked("a", NOW, ["yes", "no"])])
    log.add([LabelRecord("a-0", "yes", 1.0), LabelRecord("a-1", "no", 1.0)])
    of = manifest(BINARY, accuracy=0.7)
    for kind, metric in (("groups", "selection_rate"), ("groups", "accuracy"), ("slice", "recall")):
        of["evaluation"]["gates"].append({"gate": kind, "metric": metric, "required": 0.9})
    (accuracy,) = quality(log.engine, "toy", TimeBuckets(1, NOW), of, 1)["metrics"]
    assert (accuracy["metric"], accuracy["gate"], accuracy["value"]) == ("accuracy", 0.7, 1.0)


def test_quantile_and_count_are_named_in_words(log):
    log.add([asked("a", NOW, [1.0, 2.0])])
    log.add([LabelRecord("a-0", 2, 1.0), LabelRecord("a-1", 4.0, 1.0)])
    gates = manifest(NUMBER, **{"neg_mean_pinball_loss_0.9": -2.0, "neg_mean_poisson_deviance": -1.0})
    pinball, deviance, _ = quality(log.engine, "toy", TimeBuckets(1, NOW), gates, 1)["metrics"]
    assert (pinball["name"], pinball["gate"]) == ("mean pinball loss of the 0.9 quantile", 2.0)
    assert pinball["value"] == pytest.approx(0.9 * 1.5)
    assert (deviance["name"], deviance["lower_is_better"]) == ("mean Poisson deviance", True)


@pytest.mark.parametrize("signature", [BINARY, NUMBER], ids=["classes", "numbers"])
def test_labels_that_cannot_be_compared_are_left_out(log, signature):
    log.add([asked("a", NOW, ["yes", 3.5, None, [1]])])
    log.add([LabelRecord(f"a-{i}", label, 1.0) for i, label in enumerate(["maybe", "x", None, [1]])])
    found = quality(log.engine, "toy", TimeBuckets(1, NOW), manifest(signature, accuracy=0.5), 1)
    assert found["rows"] == 0
    assert found["metrics"][0]["value"] is None
    assert found["metrics"][0]["series"] == []


def test_without_labels_the_gates_have_no_values(log):
    log.add([asked("a", NOW, ["yes"])])
    found = quality(log.engine, "toy", TimeBuckets(1, NOW), manifest(BINARY, recall=0.9), 1)
    assert [(m["metric"], m["gate"], m["value"], m["series"]) for m in found["metrics"]] == [
        ("recall", 0.9, None, []),
        ("accuracy", None, None, []),
    ]


def test_last_report_and_the_open_alerts_are_those_of_the_monitor(log):
    assert health_summary(log.engine, "toy", 1) == (None, [])
    bars = {"names": ["x", "y"], "reference": [0.5, 0.5], "window": [0.1, 0.9]}
    with writing(log.engine) as connection:
        for i, name in enumerate(["toy", "toy", "other"]):
            report = {"at": str(NOW), "drift": {"columns": [{"name": f"c{i}", "drifted": None, "histogram": bars}]}}
            result = {"name": name, "at": NOW, "version": 1, "status": "unknown", "report": report}
            connection.execute(health.insert(), result)
    age, income = (Finding("drift", subject, 1.0, f"{subject} drifted") for subject in ("age", "income"))
    update_alerts(log.engine, "toy", [age, income], [], NOW)
    update_alerts(log.engine, "toy", [age], [("drift", "income")], NOW)
    update_alerts(log.engine, "other", [age], [], NOW)
    report, opened = health_summary(log.engine, "toy", 1, now=NOW + timedelta(hours=1))
    assert not report["outdated"]
    assert health_summary(log.engine, "toy", 1, now=NOW + timedelta(hours=25))[0]["outdated"]
    assert health_summary(log.engine, "toy", 1, since=NOW + timedelta(seconds=1))[0] is None
    assert health_summary(log.engine, "toy", 2)[0] is None
    assert health_summary(log.engine, "toy", None)[0] is None
    (column,) = report["drift"]["columns"]
    assert (column["name"], column["histogram"]["labels"]) == ("c1", ["x", "y"])
    known = {
        "id": 1,
        "incident": 1,
        "kind": "drift",
        "subject": "age",
        "size": 1.0,
        "text": "age drifted",
        "opened_at": NOW,
    }
    assert opened == [{**known, **dict.fromkeys(("version", "rows", "since", "until", "command"))}]
