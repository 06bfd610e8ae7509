"""Rows of a batch are read as rows of their own are, from both databases."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import sqlalchemy as sa

from mlops_nb.errors import NotFoundError
from mlops_nb.monitor.checks import _count_arrivals
from mlops_nb.monitor.maturity import read_label_times
from mlops_nb.monitor.prediction_batches import PredictionBatch, encode_inputs, encode_outputs
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.store.database import open_database, reading, writing
from mlops_nb.store.schema import labels

ROWS, AT = 40, 1_800_000_000.0
TAGS = {"single": "a" * 8, "batched": "b" * 8}


def key_of(name: str, number: int) -> str:
    return f"{number:028x}{TAGS[name]}{ROWS:x}"


def stored(name: str, number: int, **more):
    """The same request as rows of their own and as a batch."""
    rng = np.random.default_rng(number)
    inputs, probability = rng.normal(size=(ROWS, 2)), rng.uniform(size=(ROWS, 2))
    inputs[number % ROWS, 1] = np.nan
    prediction = rng.integers(0, 2, ROWS)
    facts = {"id": key_of(name, number), "at": AT + 60 * (number // 2), "name": name, "version": 1 + number % 2}
    facts |= {"role": "production", "latency_ms": 0.5, "trace_id": "f" * 32 if number == 1 else None} | more
    if name == "single":
        rows = [[None if np.isnan(v) else v for v in row] for row in inputs.tolist()]
        outputs = {"prediction": prediction.tolist(), "probability": probability.tolist()}
        return PredictionRecord(**facts, columns=["a", "b"], rows=rows, **outputs)
    parts = b"".join(encode_inputs(["a", "b"], inputs)), b"".join(encode_outputs(prediction, probability))
    return PredictionBatch(**facts, n_rows=ROWS, inputs=parts[0], outputs=parts[1])


@pytest.fixture
def log(database_url):
    """Four requests of each model, two at each time, and labels of every third row over half a day."""
    log = PredictionLog(open_database(database_url))
    for name in TAGS:
        add(log, *(stored(name, number) for number in range(4)))
        keys = [f"{key_of(name, number)}-{i}" for number in range(4) for i in range(0, ROWS, 3)]
        log.add([LabelRecord(key, i % 2, AT + 3600 * i / 4) for i, key in enumerate(keys)])
    yield log
    log.close()


def add(log: PredictionLog, *entries):
    log.add(
        [e for e in entries if not isinstance(e, PredictionBatch)],
        batches=[e for e in entries if isinstance(e, PredictionBatch)],
    )


def same(window, name: str) -> str:
    """Return a window as text, without what differs between the two models."""
    rows = window.predictions.join(window.inputs).reset_index()
    return rows.to_csv().replace(TAGS[name], "tag")


def moment(hours: float) -> datetime:
    return datetime.fromtimestamp(AT, UTC) + timedelta(hours=hours)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"last": 1},
        {"last": ROWS + 3},
        {"last": 3 * ROWS},
        {"last": 1000, "version": 2},
        {"since": moment(1 / 60)},
        {"until": moment(0)},
        {"labelled": True},
        {"labelled": True, "last": 17},
        {"labelled_since": moment(6)},
        {"labelled_since": moment(6), "last": 5},
        {"labelled_since": moment(6), "mature_after": timedelta(hours=6), "last": 45},
        {"roles": ("shadow",)},
    ],
    ids=str,
)
def test_rows_of_batches_are_read_as_rows_of_their_own(log, chosen):
    single, batched = (log.read(name, **chosen) for name in TAGS)
    assert same(single, "single") == same(batched, "batched")
    assert len(batched) or chosen == {"roles": ("shadow",)}


def test_batch_that_is_delivered_again_is_there_once(log):
    for _ in range(2):
        add(log, *(stored("batched", number) for number in range(5)))
    assert log.count("batched") == 5 * ROWS
    assert log.read("batched").predictions.index.is_unique


def test_row_is_found_by_its_id(log):
    for i in (0, 3, ROWS - 1):
        single, batched = (log.get(f"{key_of(name, 2)}-{i}") for name in TAGS)
        assert (single.inputs, single.prediction, single.label) == (batched.inputs, batched.prediction, batched.label)
        assert (single.at, single.latency_ms, single.version) == (batched.at, batched.latency_ms, batched.version)
        assert (single.probability, batched.id) == (batched.probability, f"{key_of('batched', 2)}-{i}")
    for id in (f"{key_of('batched', 2)}-{ROWS}", f"{key_of('batched', 9)}-0"):
        with pytest.raises(NotFoundError, match="It may be on its way there"):
            log.get(id)
    with pytest.raises(NotFoundError, match="is the id of a request; a prediction is one row of it"):
        log.get(key_of("batched", 2))


def test_batches_are_counted_timed_and_found_by_their_trace(log):
    assert log.count("batched") == log.count("single") == 4 * ROWS
    assert log.has_labels("batched")
    for more in ({}, {"oldest": True}, {"after": moment(0)}, {"until": moment(0)}):
        assert log.prediction_time("batched", **more) == log.prediction_time("single", **more)
    traced = [row.id for row in log.of_trace("f" * 32, last=2 * ROWS)]
    assert {key_of(name, 1) for name in TAGS} == {id.rpartition("-")[0] for id in traced}
    assert len(traced) == 2 * ROWS
    assert len({_count_arrivals(log, name, moment(-1), moment(1)) for name in TAGS}) == 1


def test_times_of_labels_are_those_of_rows_of_their_own(log):
    single, batched = (read_label_times(log, name, moment(100), ("production",)) for name in TAGS)
    order = ["at", "label_at", "label", "prediction"]
    assert single.sort_values(order).to_csv(index=False) == batched.sort_values(order).to_csv(index=False)
    assert single["label"].notna().sum() == 4 * 14


def test_purge_deletes_old_batches_and_their_labels(log):
    add(log, stored("batched", 9, at=AT + 90 * 86_400))
    log.add([LabelRecord(f"{key_of('batched', 9)}-1", 1, AT + 90 * 86_400)])
    assert log.purge(80, 24, moment(24 * 91)) == []
    assert (log.count("batched"), log.count("single")) == (ROWS, 0)
    with reading(log.engine) as connection:
        assert connection.execute(sa.select(labels.c.id)).scalars().all() == [f"{key_of('batched', 9)}-1"]


def test_label_that_an_earlier_release_stored_finds_its_batch_before_it_is_given_up(log):
    lost, typo = f"{key_of('batched', 3)}-1", f"{key_of('batched', 8)}-1"
    with writing(log.engine) as connection:
        for id in (lost, typo):
            connection.execute(sa.insert(labels).values(id=id, label=1, at=moment(0)))
    assert log.get(lost).label is None
    assert log.purge(90, 24, moment(30)) == [typo]
    assert log.get(lost).label == 1
    assert log.purge(90, 24, moment(30)) == []
