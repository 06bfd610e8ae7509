"""Labels whose delay depends on what they say: nothing is concluded from the early ones alone."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from sklearn.linear_model import LogisticRegression

from mlops_nb.errors import SpecError
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.signature import Input, Signature
from mlops_nb.monitor.health import monitor
from mlops_nb.monitor.maturity import (
    MATURE_SHARE,
    Maturity,
    delay_quantile,
    maturity_of,
    measure_maturity,
    read_label_times,
)
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.settings import Settings
from mlops_nb.spec import Gates, ModelSpec
from mlops_nb.store.database import open_database
from mlops_nb.store.registry import Registry

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SIGNATURE = Signature((Input("a"), Input("b")), "classification", "lost", ("no", "yes"))


def draw(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 2)), columns=["a", "b"])
    return X.assign(lost=np.where(X["a"] + 0.5 * rng.normal(size=n) > 0, "yes", "no"))


spec = ModelSpec(
    name="late",
    load=lambda: draw(2000, 0),
    target="lost",
    schema=pa.DataFrameSchema({"a": pa.Column(float), "b": pa.Column(float), "lost": pa.Column(str)}),
    make_estimator=lambda params: LogisticRegression(**params),
    gates=Gates(minimum={"accuracy": 0.65}),
    scorer="accuracy",
)


@pytest.mark.parametrize("shape", ["exponential", "gamma", "fixed", "uniform"])
@pytest.mark.parametrize("days", [15, 40, 150])
def test_quantile_of_truncated_delays_is_right_or_not_known(shape, days):
    rng = np.random.default_rng(days)
    n = 20_000
    draws = {"exponential": rng.exponential(10, n), "gamma": rng.gamma(10, 1, n), "fixed": np.full(n, 10.0)}
    delays, ages = (draws | {"uniform": rng.uniform(0, 20, n)})[shape], rng.uniform(0, days, n)
    come = delays <= ages
    found = delay_quantile(delays[come], ages[come])
    assert found > 0.8 * days or (delays <= found).mean() >= MATURE_SHARE - 0.07


def log_of(days: float, delay_of: dict, n: int = 200, labelled: float = 1.0, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    at = pd.Series(BEGIN + pd.to_timedelta(np.sort(rng.uniform(0, days, round(n * days))), unit="D"))
    label = pd.Series(rng.choice([*delay_of], len(at)), dtype=object)
    label_at = at + pd.to_timedelta(label.map(delay_of).astype(float), unit="D")
    come = (label_at <= BEGIN + timedelta(days=days)) & (rng.uniform(size=len(at)) < labelled)
    predicted = rng.choice([*delay_of], len(at))
    return pd.DataFrame(
        {"at": at, "label_at": label_at.where(come), "label": label.where(come), "prediction": predicted}
    )


@pytest.mark.parametrize(
    ("delays", "labelled", "waits"),
    [
        ({"no": 1, "yes": 1}, 1.0, False),
        ({"no": 1, "yes": 1}, 0.1, False),
        ({"no": 1, "yes": 10}, 1.0, True),
        ({"no": 1, "yes": 10}, 0.2, True),
        ({0: 1, 1: 10}, 1.0, True),
        ({False: 5, True: 1}, 1.0, True),
        ({"a": 1, "b": 1, "c": 7}, 1.0, True),
    ],
)
def test_rows_wait_where_delays_depend_on_the_label(delays, labelled, waits):
    found = measure_maturity(log_of(30, delays, labelled=labelled), BEGIN + timedelta(days=30))
    assert found.known
    assert found.age == (timedelta(days=max(delays.values())) if waits else timedelta(0))


def test_numbers_of_which_the_large_ones_are_late_wait():
    rng = np.random.default_rng(0)
    rows = log_of(30, {"low": 1, "high": 8})
    rows["label"] = rows["label"].map({"low": 0.0, "high": 100.0}) + rng.normal(size=len(rows))
    rows["prediction"] = rng.normal(size=len(rows))
    found = measure_maturity(rows, BEGIN + timedelta(days=30))
    assert found.known
    assert found.age == timedelta(days=8)


def test_class_that_became_frequent_is_not_taken_for_one_whose_labels_come_early():
    """Its labels are of young rows, of which only short delays are seen."""
    rng = np.random.default_rng(0)
    rows = log_of(30, {"no": 1, "yes": 1})
    ages = (BEGIN + timedelta(days=30) - rows["at"]).dt.total_seconds() / 86_400
    rows["label"] = np.where(rng.uniform(size=len(rows)) < np.where(ages < 5, 0.8, 0.2), "yes", "no")
    rows["label_at"] = rows["at"] + pd.to_timedelta(rng.exponential(4, len(rows)), unit="D")
    come = rows["label_at"] <= BEGIN + timedelta(days=30)
    rows[["label", "label_at"]] = rows[["label", "label_at"]].where(come)
    assert measure_maturity(rows, BEGIN + timedelta(days=30)) == Maturity()


def test_labels_of_a_month_that_come_at_once_do_not_wait():
    rows = log_of(30, {"no": 0, "yes": 0})
    rows["label_at"] = pd.Timestamp(BEGIN + timedelta(days=30))
    assert measure_maturity(rows, BEGIN + timedelta(days=30)) == Maturity()


def test_objects_without_labels_and_few_rows_do_not_wait():
    rows = log_of(30, {"no": 1, "yes": 10})
    now = BEGIN + timedelta(days=30)
    assert measure_maturity(rows.head(3), now) == Maturity()
    assert measure_maturity(rows.assign(label_at=pd.NaT, label=None), now) == Maturity()
    lists = rows["label"].map(lambda v: [v], na_action="ignore")
    assert measure_maturity(rows.assign(label=lists, prediction=[["no"]] * len(rows)), now) == Maturity()


@pytest.mark.parametrize(
    ("day", "reason"),
    [
        (5, "no label 'yes' of lost has come yet"),
        (
            11,
            "95% of the labels 'yes' of lost come within 10 days, and others earlier, or later: the log is 11 days old",
        ),
        (30, "95% of the labels 'yes' of lost come within 10 days, and others earlier"),
    ],
)
def test_rows_of_several_outputs_wait_for_the_output_whose_labels_are_late(day, reason):
    rng = np.random.default_rng(0)
    rows = log_of(day, {"no": 1, "yes": 10})

    def both(value):
        return {"days": float(rng.normal()), "lost": value} if isinstance(value, str) else value

    rows = rows.assign(label=rows["label"].map(both), prediction=rows["prediction"].map(both))
    found = measure_maturity(rows, BEGIN + timedelta(days=day))
    assert found.reason.startswith(reason)
    assert found.known == (day == 30)


def test_rows_of_several_outputs_whose_labels_come_alike_do_not_wait():
    rows = log_of(30, {"no": 1, "yes": 1})
    rows = rows.assign(label=rows["label"].map(lambda v: {"lost": v, "again": v}, na_action="ignore"))
    rows["prediction"] = rows["prediction"].map(lambda v: {"lost": v, "again": v})
    assert measure_maturity(rows, BEGIN + timedelta(days=30)) == Maturity()


def test_maturity_of_a_log_of_several_outputs_is_read_from_either_database(database_url):
    engine, rng = open_database(database_url), np.random.default_rng(0)
    log, now = PredictionLog(engine), BEGIN + timedelta(days=30)
    for day in range(30):
        late = rng.random(60) < 0.5
        told = [{"lost": "yes" if slow else "no", "days": float(slow)} for slow in late]
        at = (BEGIN + timedelta(days=day, hours=12)).timestamp()
        log.add([PredictionRecord(f"d{day}", at, "late", 1, "production", 0.4, ["a"], [[0.0]] * 60, told)])
        come = ((i, at + 86_400 * (10 if told[i]["lost"] == "yes" else 1)) for i in range(60))
        log.add([LabelRecord(f"d{day}-{i}", told[i], when) for i, when in come if when <= now.timestamp()])
    rows = read_label_times(log, "late", now, ["production"])
    assert len(rows) == 1800
    assert 1200 < rows["label_at"].notna().sum() < 1600  # of the last ten days only the early ones
    found = maturity_of(log, "late", now, ["production"])
    assert (found.known, found.age) == (True, timedelta(days=10))
    assert maturity_of(log, "late", BEGIN - timedelta(days=1), ["production"]) == Maturity()
    engine.dispose()


@pytest.mark.parametrize("days", [-1, "10d", True])
def test_days_of_labels_must_be_a_number(days):
    with pytest.raises(SpecError, match="label_days must be a number of days, 0 or more"):
        ModelSpec("late", spec.load, "lost", spec.schema, spec.make_estimator, scorer="accuracy", label_days=days)


class World:
    """A model whose positives are labelled after ten days and whose negatives after one; it is worse from day 20 on."""

    def __init__(self, home):
        (home / "settings.ini").touch()
        self.settings, rows = Settings.read({"MLOPS_HOME": str(home)}), draw(4000, 0)
        X = rows[["a", "b"]]
        estimator = LogisticRegression(class_weight={"yes": 6}).fit(X, rows["lost"])  # many false alarms
        metrics = {"accuracy": float(estimator.score(X, rows["lost"]))}
        evaluation = {"metrics": metrics, "gates": [], "passed": True, "slices": {"all": {"rows": 4000}}}
        facts = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": evaluation}
        facts["code"] = {"spec": "tests.monitor.test_maturity"}
        bundle = write_bundle(home / "bundle", "late", estimator, SIGNATURE, rows, rows, facts)
        self.registry = Registry.open(self.settings)
        self.registry.register(bundle)
        self.registry.promote("late", 1)
        self.day, self.on_their_way = 0, list[LabelRecord]()
        self.predictor, self.log = self.registry.load("late"), PredictionLog(self.registry.engine)

    def serve(self, day: int, wrong: float = 0.0, n: int = 300):
        """Log the rows of a day, and the labels that they will have."""
        rows = draw(n, 100 + day)
        flipped = np.random.default_rng(day).random(n) < wrong
        truth = np.where(flipped, np.where(rows["lost"] == "yes", "no", "yes"), rows["lost"])
        X = rows[["a", "b"]].to_numpy()
        found = self.predictor.predict_rows(X)
        at = (BEGIN + timedelta(days=day, hours=12)).timestamp()
        outputs = found.prediction.tolist(), found.probability.tolist()
        record = PredictionRecord(f"d{day}", at, "late", 1, "production", 0.4, ["a", "b"], X.tolist(), *outputs)
        self.log.add([record])
        for i, label in enumerate(truth.tolist()):
            self.on_their_way.append(LabelRecord(f"d{day}-{i}", label, at + 86_400 * (10 if label == "yes" else 1)))

    def check(self, day: int):
        """Serve the days until this one, receive the labels that have come, and monitor."""
        now = BEGIN + timedelta(days=day, hours=23)
        while self.day <= day:
            self.serve(self.day, wrong=0.3 if self.day >= 20 else 0.0)
            self.day += 1
        self.log.add([label for label in self.on_their_way if label.at <= now.timestamp()])
        return monitor("late", self.settings, now=now)

    def close(self):
        self.predictor.close()
        self.registry.close()


@pytest.mark.slow
def test_late_positives_raise_no_alert_and_a_worse_model_is_found_once_its_rows_are_mature(tmp_path):
    world = World(tmp_path)
    early, young, old, before, after = (world.check(day) for day in (5, 11, 20, 29, 32))
    for report in (early, young, old, before):
        assert [f.text for f in report.findings if f.kind == "performance"] == [], report.at
    assert any("no label 'yes' has come yet" in text for text in early.inconclusive)
    assert any("the log is 11" in text for text in young.inconclusive)
    assert early.performance is None
    assert old.performance is not None
    assert any("labels of newer rows are still arriving: rows until 2026-01-11" in note for note in old.notes)
    assert {f.subject for f in after.findings if f.kind == "performance"} >= {"accuracy"}
    world.close()
