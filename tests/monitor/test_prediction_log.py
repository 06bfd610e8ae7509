"""The prediction log, asked by a caller who lives elsewhere."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord, RequestCount
from mlops_nb.store.database import open_database

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ZONES = [UTC, timezone(timedelta(hours=5)), timezone(-timedelta(hours=8)), None]


@pytest.fixture
def log(database_url):
    """One row an hour from 10 to 14 o'clock UTC, each labelled and counted at once."""
    log = PredictionLog(open_database(database_url))
    for hour in range(-2, 3):
        at = (NOON + timedelta(hours=hour)).timestamp()
        log.add([PredictionRecord(f"{hour}", at, "toy", 1, "production", 0.5, ["x"], [[1.0]], [1])])
        log.add([LabelRecord(f"{hour}-0", 1, at), RequestCount(f"{hour}", "toy", at, 200, 1)])
    yield log
    log.close()


@pytest.mark.parametrize("zone", ZONES)
def test_moment_is_the_same_in_every_zone_and_without_one_it_is_utc(log, zone):
    noon = NOON.astimezone(zone) if zone else NOON.replace(tzinfo=None)
    assert log.read("toy", since=noon).predictions.index.tolist() == ["0-0", "1-0", "2-0"]
    assert log.read("toy", until=noon).predictions.index.tolist() == ["-2-0", "-1-0", "0-0"]
    assert len(log.read("toy", labelled_since=noon)) == len(log.rows("toy", labelled_since=noon)) == 3
    assert len(log.requests("toy", noon)) == 3
    assert log.prediction_time("toy", after=noon, oldest=True) == NOON + timedelta(hours=1)
    assert log.prediction_time("toy", until=noon) == NOON
    log.purge(0, 0, now=noon, last=noon)
    assert log.count("toy") == len(log.requests("toy", NOON - timedelta(days=1))) == 3
