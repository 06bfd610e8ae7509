"""How PostgreSQL answers what is asked of a large prediction log: by an index, whoever asks."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from mlops_nb.model.signature import Input, Signature
from mlops_nb.monitor.alerts import list_alerts
from mlops_nb.monitor.health import MAX_LABELLED_ROWS, MAX_ROWS
from mlops_nb.monitor.health_report import latest_health
from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.monitor.time_buckets import TimeBuckets
from mlops_nb.monitor.timeseries import prediction_series, quality, traffic
from mlops_nb.store.database import open_database

pytestmark = [pytest.mark.slow, pytest.mark.soak]

ROWS_OF_ALL = 1_000_000
NOW = datetime(2026, 6, 1, tzinfo=UTC)
BEGAN = NOW - timedelta(days=30)
PREDICTIONS = """
INSERT INTO predictions (id, name, version, role, at, ms, inputs, prediction, probability)
SELECT to_char(i, 'FM00000000') || '-0', CASE WHEN i % 10 = 0 THEN 'other' ELSE 'toy' END,
       CASE WHEN i > :rows - 2000 THEN 2 ELSE 1 END, CASE WHEN i % 50 = 7 THEN 'shadow' ELSE 'production' END,
       CAST(:began AS timestamptz) + i * (interval '30 days' / :rows), i % 20,
       json_build_object('a', i % 7, 'b', i % 11, 'c', i % 13, 'd', 0.5), to_json(i % 2), '[0.25,0.75]'
FROM generate_series(1, :rows) i
"""
LABELS = """
INSERT INTO labels (id, label, at) SELECT id, to_json(1), at + interval '1 day' FROM predictions
WHERE ascii(substr(id, 8)) < 51 AND at < CAST(:now AS timestamptz) - interval '1 day'
"""


@pytest.fixture(scope="module")
def log(filled_postgres_url):
    """A million predictions of two models over thirty days; labels of a third; version 2 for an hour and a half."""
    log = PredictionLog(open_database(filled_postgres_url))
    with log.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(PREDICTIONS), {"rows": ROWS_OF_ALL, "began": BEGAN})
        connection.execute(sa.text(LABELS), {"now": NOW})
        for table in ("predictions", "labels"):
            connection.exec_driver_sql(f"VACUUM ANALYZE {table}")
    yield log
    log.close()


class Plans:
    """What PostgreSQL does for the statements that are sent while one looks."""

    def __init__(self, engine):
        self.engine, self.sent = engine, []

    def __enter__(self):
        sa.event.listen(self.engine, "before_cursor_execute", self._note)
        return self

    def _note(self, connection, cursor, statement, parameters, context, executemany):
        self.sent.append((statement, parameters))

    def __exit__(self, *_):
        sa.event.remove(self.engine, "before_cursor_execute", self._note)

    def scans(self) -> list[tuple[str, float]]:
        """Tables that were read from end to end, and how long every statement took, in milliseconds."""
        found = []
        for statement, parameters in self.sent:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("SET random_page_cost = 1.1")  # there is no disk that has to seek
                plans = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar()
                connection.rollback()
            plan = plans[0]["Plan"]
            found.append((statement.split()[0], plans[0]["Execution Time"], sorted(_sequential(plan))))
        return found


FEW = 1000  # A scan that ends after so many rows needs no index


def _sequential(plan: dict) -> list[str]:
    read = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    own = [plan["Relation Name"]] if plan["Node Type"] == "Seq Scan" and read > FEW else []
    return own + [name for inner in plan.get("Plans", ()) for name in _sequential(inner)]


MANIFEST = {"signature": Signature((Input("a"),), "classification", "y", (0, 1)).to_dict()}
DAY = NOW - timedelta(days=1)

QUESTIONS = {
    "monitor: the last day": lambda log: log.read("toy", MAX_ROWS, DAY, 1),
    "monitor: the newest rows": lambda log: log.read("toy", MAX_ROWS),
    "monitor: the newest rows of a version that is new": lambda log: log.read("toy", MAX_ROWS, None, 2),
    "monitor: labels that came": lambda log: log.read("toy", MAX_LABELLED_ROWS, version=1, labelled_since=DAY),
    "monitor: labels of a version that is new": lambda log: log.read(
        "toy", MAX_LABELLED_ROWS, None, 2, labelled_since=DAY
    ),
    "monitor: has labels": lambda log: log.has_labels("toy"),
    "monitor: has labels, and none ever came": lambda log: log.has_labels("nobody"),
    "monitor: newest and oldest": lambda log: (log.prediction_time("toy"), log.prediction_time("toy", oldest=True)),
    "magics: labelled rows": lambda log: log.read("toy", 1000, version=1, labelled=True),
    "replay: one by one": lambda log: log.rows("toy", 2000),
    "explain: one prediction": lambda log: log.get("00400001-0"),
    "dashboard: traffic of a week": lambda log: traffic(log.engine, "toy", TimeBuckets(168, NOW)),
    "dashboard: traffic of an hour": lambda log: traffic(log.engine, "toy", TimeBuckets(1, NOW)),
    "dashboard: predictions of a week": lambda log: prediction_series(log.engine, "toy", TimeBuckets(168, NOW)),
    "dashboard: quality of a week": lambda log: quality(log.engine, "toy", TimeBuckets(168, NOW), MANIFEST, 1),
    "dashboard: health and alerts": lambda log: (
        latest_health(log.engine, "toy", 1, NOW - timedelta(hours=1)),
        list_alerts(log.engine, "toy"),
    ),
    "retention: nothing is old": lambda log: log.purge(90, 24, NOW, NOW - timedelta(minutes=10)),
    "retention: ten minutes are old": lambda log: log.purge(30 - 1 / 144, 24, NOW, NOW - timedelta(minutes=10)),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_question_is_answered_by_an_index(log, question):
    with Plans(log.engine) as plans:
        QUESTIONS[question](log)
    seen = plans.scans()
    print(question, [(kind, round(ms, 1), tables) for kind, ms, tables in seen])
    assert not [table for _, _, tables in seen for table in tables]
    assert sum(ms for _, ms, _ in seen) < 10_000
