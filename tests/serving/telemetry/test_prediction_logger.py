"""The prediction log and POST /feedback: what a client was told is in the database, once, whatever happens."""

import errno
import fcntl
import os
import shutil
import threading
import time
from base64 import b64encode
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import pytest
import sqlalchemy as sa

from mlops_nb.audit.explain import explain
from mlops_nb.errors import NotFoundError
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord, lines_of
from mlops_nb.serving.http import periodic as background
from mlops_nb.serving.service import live_model
from mlops_nb.serving.telemetry import spool as spools
from mlops_nb.serving.telemetry.prediction_logger import DEAD_LETTERS, MAX_SPLIT_ROWS, PredictionLogger
from mlops_nb.serving.telemetry.spool import Spool, SpoolShipper, content_size, segments
from mlops_nb.settings import Settings
from mlops_nb.store.database import open_database, reading
from serve.app import create_app
from tests.factories import logged, wait_for


def entry(key: str, n: int = 1, **more) -> PredictionRecord:
    values = {"id": key, "at": 1e9, "name": "toy", "version": 1, "role": "production", "latency_ms": 0.5}
    return PredictionRecord(
        **values | {"columns": ["a", "b"], "rows": [[1.0, float(i)] for i in range(n)], "prediction": [1] * n} | more
    )


@pytest.fixture
def log(database_url):
    log = PredictionLog(open_database(database_url))
    yield log
    log.close()


def test_entry_that_is_delivered_again_is_there_once(log):
    for _ in range(2):
        log.add([entry("x", 3), LabelRecord("x-1", 0, 2e9)])
    window = log.read("toy")
    assert window.predictions.index.tolist() == ["x-0", "x-1", "x-2"]
    assert window.predictions["label"].tolist()[1] == 0
    assert window.predictions["label"].isna().tolist() == [True, False, True]


def test_newest_of_several_labels_counts_in_whatever_order_they_come(log):
    log.add([LabelRecord("x-0", "late", 3.0)])
    log.add([LabelRecord("x-0", "first", 1.0), LabelRecord("x-0", "second", 2.0)])
    log.add([entry("x")])
    assert log.read("toy").predictions["label"].tolist() == ["late"]


def test_values_come_back_as_they_went(log):
    rows = [[None, "Währung; \"'%s"], [float("nan"), "\x00\n"], [-1e308, None]]
    log.add([entry("x", columns=["n", "s"], rows=rows, prediction=["ja", "nein", "ja"], probability=[[0.1, 0.9]] * 3)])
    window = log.read("toy")
    assert window.inputs["s"].tolist()[:2] == ["Währung; \"'%s", "\x00\n"]
    assert window.inputs["n"].isna().tolist() == [True, True, False]
    assert window.inputs["n"].tolist()[2] == -1e308
    assert window.predictions["probability"].tolist()[0] == [0.1, 0.9]
    assert window.predictions["at"].tolist() == [datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)] * 3


AWKWARD = [
    0.1 + 0.2,
    5e-324,
    1.7976931348623157e308,
    2**53 - 1,
    -1,
    0,
    1.0,
    True,
    None,
    "1",
    "null",
    "",
    '["\\',
    "\x00ä\u2028🙂",
]


@pytest.mark.parametrize("ready", [True, False])
def test_every_value_and_every_microsecond_comes_back(log, ready):
    at, probability = 1_780_000_000.123457, [0.1 + 0.2, 1 / 3]
    values = [value for value in AWKWARD if value is not None]
    rows, probabilities = [[v] for v in values], [probability] * len(values)
    one = entry("x", at=at, columns=["v"], rows=rows, prediction=values, probability=probabilities)
    log.add([], lines_of(one)) if ready else log.add([PredictionRecord(**orjson.loads(orjson.dumps(one)))])
    for i, value in enumerate(values):
        back = log.get(f"x-{i}")
        assert repr(back.inputs["v"]) == repr(value), "a JSON value inside an object keeps its type"
        assert back.prediction == value
        assert isinstance(back.prediction, str) == isinstance(value, str)
        assert back.probability == probability
        assert back.at == datetime.fromtimestamp(at, UTC)
        assert back.latency_ms == 0.5


def test_transaction_that_fails_leaves_nothing(log):
    with pytest.raises(sa.exc.StatementError):
        log.add([entry("x"), entry("y", version=None)])
    assert log.count("toy") == 0


def test_what_is_old_is_forgotten_and_labels_without_a_prediction_sooner(log):
    now = datetime.fromtimestamp(1e9, UTC)
    log.add([entry("old", at=1e9 - 100 * 86400), entry("new", at=1e9)])
    log.add([LabelRecord("old-0", 1, 1e9), LabelRecord("new-0", 1, 1e9), LabelRecord("lost-0", 1, 1e9 - 25 * 3600)])
    assert log.purge(90, 24, now) == ["lost-0"]
    assert log.read("toy").predictions.index.tolist() == ["new-0"]
    with reading(log.engine) as connection:
        assert connection.execute(sa.text("SELECT id FROM labels")).scalars().all() == ["new-0"]
    assert log.purge(90, 24, now + timedelta(days=91)) == []


def test_labels_without_a_prediction_are_looked_for_where_nobody_has_looked_yet(log):
    now = datetime.fromtimestamp(1e9, UTC)
    log.add([LabelRecord("sent-late-0", 1, 1e9 - 24.5 * 3600), LabelRecord("before-0", 1, 1e9 - 30 * 3600)])
    assert log.purge(90, 24, now + timedelta(minutes=10), last=now) == ["sent-late-0"]
    assert log.purge(90, 24, now) == ["before-0"], "the first look is at all of them"
    log.add([LabelRecord("never-0", 1, 1e9)])
    log.purge(90, 24, now + timedelta(days=91), last=now + timedelta(days=90))
    with reading(log.engine) as connection:
        assert connection.execute(sa.text("SELECT id FROM labels")).scalars().all() == []


def shipped(drain: SpoolShipper) -> list[bytes]:
    lines = []
    assert drain.leads()
    drain.ship(lines.extend)
    return lines


def test_lines_are_delivered_once_and_in_order(tmp_path):
    spool, drain = Spool(tmp_path, 10**9), SpoolShipper(tmp_path)
    assert spool.append(b"1\n")
    assert shipped(drain) == [b"1\n"]
    assert spool.append(b"2\n")
    assert spool.append(b"3\n")
    assert shipped(drain) == [b"2\n", b"3\n"]
    assert shipped(drain) == []
    assert drain.backlog() == (0, 0.0)


def test_file_of_a_writer_that_lives_stays_and_that_of_a_dead_one_goes(tmp_path):
    spool, drain = Spool(tmp_path, 10**9), SpoolShipper(tmp_path)
    spool.append(b"1\n")
    shipped(drain)
    assert len(segments(tmp_path)) == 1
    os.close(spool._file)  # what the kernel does when a process is killed
    assert shipped(drain) == []
    assert segments(tmp_path) == {}


def test_lines_that_could_not_be_delivered_are_delivered_later(tmp_path):
    spool, drain = Spool(tmp_path, 10**9), SpoolShipper(tmp_path)
    spool.append(b"1\n")

    def away(_):
        raise OSError("away")

    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            drain.ship(away)
    assert shipped(drain) == [b"1\n"]


def test_half_a_line_is_not_delivered(tmp_path):
    spool, drain = Spool(tmp_path, 10**9), SpoolShipper(tmp_path)
    spool.append(b"1\n")
    os.write(spool._file, b"2")
    assert shipped(drain) == [b"1\n"]
    os.write(spool._file, b"2\n")
    assert shipped(drain) == [b"22\n"]


def test_line_that_is_written_while_it_is_read_is_delivered_whole(tmp_path):
    spool, drain = Spool(tmp_path, 10**9), SpoolShipper(tmp_path)
    spool.append(b"begins\n")
    lines, got = [b"%d %s\n" % (i, b"x" * 200) for i in range(20_000)], []

    def write():
        for line in lines:  # the kernel may show a part of what it writes: up to the end of a page, say
            os.write(spool._file, line[:100])
            os.write(spool._file, line[100:])

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        got += shipped(drain)
    got += shipped(drain)
    assert got == [b"begins\n", *lines]


CONTENT = b"12 numbers\n[\n#3 \n" + bytes(range(256))
BATCH = b"#%d head\n%b" % (len(CONTENT), CONTENT)


def test_bytes_behind_a_line_are_delivered_with_it_whatever_they_are(tmp_path):
    spool, drain = Spool(tmp_path, 10**9), SpoolShipper(tmp_path)
    head, *parts = BATCH[: -len(CONTENT)], CONTENT[:5], memoryview(CONTENT[5:])
    for line in ([b"1\n"], [head, *parts], [b"2\n"], [head, *parts]):
        assert spool.append(*line)
    assert shipped(drain) == [b"1\n", BATCH, b"2\n", BATCH]
    assert drain.backlog() == (0, 0.0)


@pytest.mark.parametrize("size", [*range(12), len(BATCH) // 2, len(BATCH) - 1])
def test_writer_that_is_killed_in_the_middle_of_a_batch_leaves_nothing_of_it(tmp_path, size):
    spool, drain = Spool(tmp_path, 10**9), SpoolShipper(tmp_path)
    spool.append(b"1\n")
    os.write(spool._file, BATCH[:size])
    assert shipped(drain) == [b"1\n"]
    assert len(segments(tmp_path)) == 1, "its writer lives, and may go on"
    os.write(spool._file, BATCH[size:])
    os.write(spool._file, BATCH[:size])
    assert shipped(drain) == [BATCH]
    os.close(spool._file)  # what the kernel does when a process is killed
    assert shipped(drain) == []
    assert segments(tmp_path) == {}


def test_disk_that_refuses_the_middle_of_a_batch_tears_nothing(tmp_path, monkeypatch):
    spool, drain, write, calls = Spool(tmp_path, 10**9), SpoolShipper(tmp_path), os.write, []
    spool.append(b"first\n")

    def full(file, part):
        calls.append(part)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "no space left")
        return write(file, part[: len(part) // 2] if len(calls) == 2 else part)

    monkeypatch.setattr(spools.os, "write", full)
    assert spool.append(BATCH[: -len(CONTENT)], CONTENT)
    assert spool.waiting == 1
    monkeypatch.undo()
    spool.append(b"last\n")
    spool.maintain()
    assert sorted(shipped(drain)) == sorted([b"first\n", BATCH, b"last\n"])


def test_file_that_goes_on_growing_does_not_keep_the_others_waiting(tmp_path):
    first, second, drain = Spool(tmp_path, 10**9), Spool(tmp_path, 10**9), SpoolShipper(tmp_path)
    first.append(b"1\n")
    second.append(b"2\n")
    got = []

    def deliver(lines):
        got.extend(lines)
        if len(got) < 100:
            first.append(b"more\n")

    assert drain.ship(deliver) == 2
    assert got == [b"1\n", b"2\n"]
    assert shipped(drain) == [b"more\n"] * 2


def test_another_drain_leads_only_when_the_first_has_gone(tmp_path):
    first, second = SpoolShipper(tmp_path), SpoolShipper(tmp_path)
    assert first.leads()
    assert not second.leads()
    assert first.leads()
    first.close()
    assert second.leads()


def test_grown_and_old_files_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(spools, "SEGMENT_BYTES", 10)
    spool, drain = Spool(tmp_path, 10**9), SpoolShipper(tmp_path)
    for _ in range(5):
        spool.append(b"12345\n")
    assert len(segments(tmp_path)) == 3
    monkeypatch.setattr(spools, "SEGMENT_SECONDS", 0)
    spool.maintain()
    assert len(shipped(drain)) == 5
    assert segments(tmp_path) == {}


def test_disk_that_refuses_tears_no_line_and_what_waited_in_memory_follows(tmp_path, monkeypatch):
    spool, drain = Spool(tmp_path, 10**9), SpoolShipper(tmp_path)
    spool.append(b"first\n")
    write = os.write

    def full(file, line):
        if len(line) < 4:
            raise OSError(errno.ENOSPC, "no space left")
        return write(file, line[: len(line) // 2])

    monkeypatch.setattr(spools.os, "write", full)
    assert spool.append(b"second\n")
    assert spool.waiting == 1
    monkeypatch.setattr(spools, "MAX_MEMORY_BYTES", 10)
    assert not spool.append(b"third\n"), "there is no room for it, and it must not be promised"
    monkeypatch.undo()
    spool.append(b"fourth\n")
    spool.maintain()
    assert sorted(shipped(drain)) == [b"first\n", b"fourth\n", b"second\n"]
    assert spool.waiting == 0


def test_line_that_was_read_before_its_write_was_taken_back_hides_none_that_follows(tmp_path, monkeypatch):
    spool, drain, got = Spool(tmp_path, 10**9), SpoolShipper(tmp_path), []
    spool.append(b"first\n")
    write = os.write

    def full(file, lines):
        if lines != b"second\nthird\n":
            raise OSError(errno.ENOSPC, "no space left")
        done = write(file, b"second\nth")
        got.extend(shipped(drain))
        return done

    monkeypatch.setattr(spools.os, "write", full)
    assert spool.append(b"second\nthird\n")
    assert spool.waiting == 1
    monkeypatch.undo()
    spool.append(b"fourth and so on\n")
    spool.maintain()
    got += shipped(drain)
    assert sorted(got) == [b"first\n", b"fourth and so on\n", b"second\n", b"second\n", b"third\n"]


def test_spool_that_is_full_takes_nothing_until_it_was_shipped(tmp_path):
    spool, drain = Spool(tmp_path, 10), SpoolShipper(tmp_path)
    assert spool.append(b"123456789\n")
    spool.maintain()
    assert not spool.append(b"1\n")
    spool._end()
    shipped(drain)
    spool.maintain()
    assert spool.append(b"1\n")


def test_folder_is_listed_while_lines_are_taken(tmp_path, monkeypatch):
    spool, listed = Spool(tmp_path, 10**9), []
    monkeypatch.setattr(spools, "segments", lambda folder: listed.append(spool.append(b"1\n")) or {})
    tending = threading.Thread(target=spool.maintain, daemon=True)
    tending.start()
    tending.join(10)
    assert listed == [True]


def test_folder_that_was_deleted_is_made_again(tmp_path):
    folder = tmp_path / "spool"
    spool, drain = Spool(folder, 10**9), SpoolShipper(folder)
    spool.append(b"1\n")
    assert drain.leads()
    shutil.rmtree(folder)
    spool.maintain()
    assert spool.append(b"2\n")
    assert shipped(drain) == [b"2\n"]


def test_new_file_is_never_seen_without_its_lock(tmp_path, monkeypatch):
    seen, flock = [], fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *a: (seen.append(segments(tmp_path)), flock(*a)))
    Spool(tmp_path, 10**9).append(b"1\n")
    assert seen == [{}]


# the service


@pytest.fixture
def serving(homes, tmp_path):
    """Make an application with other settings, and let it all go at the end."""
    apps = []

    def make(kind: str = "numbers", **more: str):
        home = tmp_path / f"home{len(apps)}"
        shutil.copytree(homes[kind], home)
        app = create_app(Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy", **more}))
        live_model(app).refresh()
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.stop()


def spooled(app) -> str:
    return "".join(p.read_text("latin-1") for p in Path(app.extensions["settings"].spool).glob("*.jsonl"))


@pytest.mark.slow
def test_every_protocol_is_logged(serving):
    app = serving("mixed")
    client, row = app.test_client(), {"age": 41, "income": None, "home": "own"}
    body = client.post("/predict", json={"features": [row, [30, 5.5, "rent"]][:1], "probability": True}).get_json()
    client.post("/invocations", json={"dataframe_records": [row]})
    client.post("/v1/models/toy:predict", json={"instances": [[30, 5.5, "rent"]]})
    window = logged(app)
    assert len(window) == 3
    assert set(body["ids"]) <= set(window.predictions.index)
    mine = window.predictions.loc[body["ids"][0]]
    assert mine["prediction"] == body["prediction"][0]
    assert mine["version"] == 1
    assert mine["role"] == "production"
    assert np.allclose(mine["probability"], body["probability"][0])
    assert 0 < mine["latency_ms"] < 10_000
    assert window.inputs["age"].tolist() == [41, 41, 30]
    assert window.inputs["home"].tolist() == ["own", "own", "rent"]
    assert abs(datetime.now(UTC) - window.predictions["at"].iloc[0]) < timedelta(minutes=1)


def test_defect_beside_the_shipping_is_logged_and_does_not_end_it(serving, monkeypatch, capfd):
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.01)
    app = serving()
    log, calls = app.extensions["log"], []

    def after_step(_):
        calls.append("what was sent")
        raise OSError(calls[0])

    log.after_step = after_step
    log.start()
    ids = app.test_client().post("/predict", json={"features": [[1, 0]]}).get_json()["ids"]
    wait_for(lambda: len(calls) > 3 and log._shipper.backlog() == (0, 0.0))
    log.after_step = lambda _: None
    output = capfd.readouterr().err
    assert "OSError" in output
    assert "after_step" in output
    assert "OSError: " not in output
    assert logged(app).predictions.index.tolist() == ids


def test_log_that_ends_leaves_its_lines_to_no_other_that_ends(serving):
    app = serving()
    log, shipping = app.extensions["log"], PredictionLogger(app.extensions["settings"])
    assert shipping._step()
    assert shipping._shipper.leading
    ids = app.test_client().post("/predict", json={"features": [[1, 0]]}).get_json()["ids"]  # too late for `shipping`
    ending, leads, asked = threading.Thread(target=log.stop), log._shipper.leads, []
    log._shipper.leads = lambda: asked.append(leads()) or asked[-1]
    ending.start()
    wait_for(lambda: asked)
    shipping.stop()
    ending.join(20)
    assert asked[0] is False
    assert not ending.is_alive()
    with closing(PredictionLog.open(app.extensions["settings"])) as database:
        assert database.get(ids[0]).inputs == {"a": 1, "b": 0}


def test_log_that_ends_does_not_wait_when_another_has_shipped_its_lines(serving):
    app = serving()
    log, shipping = app.extensions["log"], PredictionLogger(app.extensions["settings"])
    assert shipping._step()
    assert shipping._shipper.leading
    app.test_client().post("/predict", json={"features": [[1, 0]]})
    ending = threading.Thread(target=log.stop)
    ending.start()
    wait_for(lambda: shipping._step() and not log._spool.is_left)
    ending.join(5)
    assert not ending.is_alive()
    assert shipping._shipper.leading
    shipping.stop()


def test_log_that_ends_ships_nothing_beside_a_thread_that_still_does(serving, monkeypatch):
    monkeypatch.setattr(background, "STOP_SECONDS", 0.1)
    app = serving()
    log, begun, goes_on, delivered = app.extensions["log"], threading.Event(), threading.Event(), []

    def deliver(database, lines):
        delivered.append(lines)
        begun.set()
        goes_on.wait(20)

    log._deliver = deliver
    app.test_client().post("/predict", json={"features": [[1, 0]]})
    log.start()
    assert begun.wait(20)
    log.stop()
    goes_on.set()
    log._thread._thread.join(20)
    assert len(delivered) == 1
    assert len(delivered[0]) == 1


def test_refused_request_is_not_logged(serving):
    app = serving()
    assert app.test_client().post("/predict", json={"features": [[1]]}).status_code == 400
    assert len(logged(app)) == 0


def test_label_before_and_after_its_prediction_has_arrived(serving):
    app = serving()
    client = app.test_client()
    ids = client.post("/predict", json={"features": [[1, 0], [0, 1], [1, 1]]}).get_json()["ids"]
    answer = client.post("/feedback", json={"id": ids[0], "label": 1})
    assert (answer.status_code, answer.get_json()) == (202, {"accepted": 1})
    logged(app)
    assert client.post("/feedback", json={"labels": [{"id": i, "label": 0} for i in ids[1:]]}).status_code == 202
    assert logged(app).predictions.loc[ids, "label"].tolist() == [1, 0, 0]


ID = "0" * 28 + "-0"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "The body must be one label"),
        ({"labels": []}, "The body must be one label"),
        ({"labels": [3]}, "Label 0 must be an object with 'id' and 'label'."),
        ({"labels": [{"id": ID, "label": 1}, {"id": ID}]}, "Label 1 must be an object with 'id' and 'label'."),
        ({"id": "7", "label": 1}, "Label 0: 'id' must be one of the 'ids' in a response of /predict."),
        ({"id": ID + "\n", "label": 1}, "Label 0: 'id' must be one of the 'ids' in a response of /predict."),
        ({"id": ID, "label": 2}, "Label 0: expected one of [0, 1], got 2."),
        ({"id": ID, "label": True}, "Label 0: expected one of [0, 1], got true."),
        ({"id": ID, "label": None}, "Label 0: expected one of [0, 1], got null."),
        ({"lable": []}, "Did you mean 'label' or 'labels'?"),
        ({"id": ID, "lable": 1}, "The body has an unknown key 'lable'. Did you mean 'label'?"),
    ],
)
def test_label_that_cannot_be_true_is_refused(client, body, message):
    answer = client.post("/feedback", json=body)
    assert answer.status_code == 400
    assert message in answer.get_json()["error"]


ALL = "age,income,home"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "excluded"),
    [("numbers", ""), ("numbers", "a"), ("numbers", "a,b"), ("mixed", ""), ("mixed", "home"), ("mixed", ALL)],
)
def test_many_rows_are_logged_as_few_are(serving, kind, excluded):
    app = serving(kind, MLOPS_LOG_EXCLUDE=excluded)
    client, log = app.test_client(), app.extensions["log"]
    numbers = range(MAX_SPLIT_ROWS + 1)
    rows = [[i / 7, -i] for i in numbers] if kind == "numbers" else [[i, i / 7, "own"] for i in numbers]
    many = client.post("/predict", json={"features": rows}).get_json()
    few = [client.post("/predict", json={"features": [row], "probability": True}).get_json() for row in rows]
    content = spooled(app).encode("latin-1")
    head = content.index(b"\n") + 1
    assert content_size(content[:head]), "many rows are one line and the numbers behind it"
    assert content[head + content_size(content[:head]) :].count(b"\n") == len(rows)
    assert log._step()
    database = PredictionLog.open(app.extensions["settings"])
    for i, (id, one) in enumerate(zip(many["ids"], few, strict=True)):
        first, second = database.get(id), database.get(one["ids"][0])
        assert (first.inputs, first.prediction) == (second.inputs, second.prediction)
        assert first.probability == pytest.approx(one["probability"][0], abs=1e-6)
        assert first.role == second.role
        given = dict(zip("ab" if kind == "numbers" else ALL.split(","), rows[i], strict=True))
        assert first.inputs == {name: value for name, value in given.items() if name not in excluded.split(",")}
    database.close()


def test_spool_line_of_an_earlier_release_is_shipped(serving):
    app = serving()
    line = orjson.dumps(entry("old", at=time.time())).replace(b'"latency_ms"', b'"ms"')
    assert b'"ms":0.5' in line
    app.extensions["log"]._spool.append(line + b"\n")
    assert logged(app).predictions.loc["old-0", "latency_ms"] == 0.5


@pytest.mark.parametrize("form", ["array", "columns"])
def test_many_rows_in_one_line_of_an_earlier_release_are_shipped(serving, form):
    app, n = serving(), MAX_SPLIT_ROWS + 8
    old = entry("old", n, at=time.time())
    values, matrix = orjson.loads(orjson.dumps(old)), np.array(old.rows)
    values["rows"] = b64encode(matrix.tobytes()).decode() if form == "array" else {"columns": matrix.T.tolist()}
    app.extensions["log"]._spool.append(orjson.dumps(values) + b"\n")
    window = logged(app)
    assert window.inputs.loc[f"old-{n - 1}"].tolist() == [1.0, n - 1]
    assert len(window) == n


def test_batch_that_no_database_takes_is_put_aside_and_shipped_again_as_the_docs_say(serving, monkeypatch):
    app = serving()
    log, spool = app.extensions["log"], Path(app.extensions["settings"].spool)
    rows = [[1, i] for i in range(MAX_SPLIT_ROWS + 1)]
    ids = app.test_client().post("/predict", json={"features": rows}).get_json()["ids"]
    bad = [b"#5 []\n12345", b"#1 no json\n1", b"#nonsense\n", b'#2 [1,"x"]\n12']
    assert all(map(log._spool.append, bad))
    with monkeypatch.context() as patched:
        error = sa.exc.DataError("INSERT", {}, Exception("refused"))
        patched.setattr(PredictionLog, "add", lambda *_: (_ for _ in ()).throw(error))
        assert log._step()
    assert log.dead_letters == 1 + len(bad)
    assert (spool / DEAD_LETTERS).read_bytes().endswith(b"".join(bad))
    (spool / DEAD_LETTERS).rename(spool / "0-again.jsonl")
    assert sorted(logged(app).predictions.index) == sorted(ids)
    assert log.dead_letters == 1 + 2 * len(bad)


def test_labels_and_explanations_find_rows_of_large_requests_by_their_ids(serving):
    app = serving()
    client = app.test_client()
    rows = [[i, 1] for i in range(MAX_SPLIT_ROWS + 9)]
    ids = client.post("/predict", json={"features": rows}).get_json()["ids"]
    with pytest.raises(NotFoundError, match="it is still in"):
        explain(ids[7], app.extensions["settings"])
    assert client.post("/feedback", json={"labels": [{"id": id, "label": 1} for id in ids[::2]]}).status_code == 202
    window = logged(app)
    assert window.predictions["label"].loc[ids].notna().tolist() == [i % 2 == 0 for i in range(len(rows))]
    assert window.inputs.loc[ids, "a"].tolist() == [row[0] for row in rows]
    explanation = explain(ids[-1], app.extensions["settings"])
    assert explanation.logged.inputs == {"a": len(rows) - 1, "b": 1}


def test_log_that_is_off_writes_nothing_and_gives_no_ids(serving):
    app = serving(MLOPS_LOG_SHARE="0")
    assert app.test_client().post("/predict", json={"features": [[1, 0]]}).get_json()["ids"] is None
    assert len(logged(app)) == 0
    assert not segments(Path(app.extensions["settings"].spool))


@pytest.mark.slow
def test_sample_is_about_its_share_and_only_what_is_logged_has_ids(serving):
    app = serving(MLOPS_LOG_SHARE="0.25")
    client = app.test_client()
    body = [client.post("/predict", json={"features": [[1, 0]]}).get_json()["ids"] for _ in range(400)]
    ids = [i for answer in body if answer for i in answer]
    assert 60 < len(ids) < 140
    assert sorted(logged(app).predictions.index) == sorted(ids)


@pytest.mark.slow
def test_excluded_columns_reach_neither_disk_nor_database(serving):
    app = serving("mixed", MLOPS_LOG_EXCLUDE="income, home")
    app.test_client().post("/predict", json={"features": [{"age": 41, "income": 98765.5, "home": "rent"}]})
    assert "98765" not in spooled(app)
    assert "rent" not in spooled(app)
    assert "41" in spooled(app)
    assert logged(app).inputs.columns.tolist() == ["age"]


def test_prediction_is_answered_without_an_id_when_the_spool_takes_nothing(serving, monkeypatch):
    app = serving()
    monkeypatch.setattr(app.extensions["log"]._spool, "full", True)
    client = app.test_client()
    answer = client.post("/predict", json={"features": [[1, 0]]})
    assert answer.status_code == 200
    assert answer.get_json()["ids"] is None
    assert app.extensions["log"].dropped == 1
    answer = client.post("/feedback", json={"id": ID, "label": 1})
    assert (answer.status_code, answer.get_json()["code"]) == (503, "log_full")


def test_line_that_no_database_takes_is_put_aside_and_the_rest_passes(serving, capfd):
    app = serving()
    log, client = app.extensions["log"], app.test_client()
    first = client.post("/predict", json={"features": [[1, 0]]}).get_json()["ids"]
    bad = [b"no json\n", b'{"id": "x"}\n', orjson.dumps(entry("y", version=None)) + b"\n"]
    bad += [b'["z-0", "toy"\n', b'["z-0"]\n', b'[1], "z-0"\n', b'["\xff"]\n']
    assert all(map(log._spool.append, bad))
    last = client.post("/predict", json={"features": [[1, 0]]}).get_json()["ids"]
    assert sorted(logged(app).predictions.index) == sorted(first + last)
    assert (Path(app.extensions["settings"].spool) / DEAD_LETTERS).read_bytes() == b"".join(bad)
    assert log.dead_letters == len(bad)
    assert "put aside" in capfd.readouterr().err


def test_lines_that_were_put_aside_are_shipped_again_under_a_name_of_the_spool(serving):
    app = serving()
    log, spool = app.extensions["log"], Path(app.extensions["settings"].spool)
    whole = lines_of(entry("torn"))[0]
    assert log._step()
    (spool / DEAD_LETTERS).write_bytes(whole)
    (spool / DEAD_LETTERS).rename(spool / "0-again.jsonl")  # as docs/service.md says
    assert logged(app).predictions.index.tolist() == ["torn-0"]
    assert not list(spool.glob("0-*"))


def test_database_that_is_away_is_said_once_and_nothing_is_lost(serving, capfd, monkeypatch):
    app = serving()
    log = app.extensions["log"]
    ids = app.test_client().post("/predict", json={"features": [[1, 0]]}).get_json()["ids"]

    def away(*_):
        raise sa.exc.OperationalError("SELECT", {}, Exception("secret-host is down"))

    monkeypatch.setattr(PredictionLog, "add", away)
    assert not log._step()
    assert not log._step()
    assert log.errors == 2
    output = capfd.readouterr().err
    assert output.count("The prediction log waits: OperationalError.") == 1
    assert "secret-host" not in output
    monkeypatch.undo()
    assert logged(app).predictions.index.tolist() == ids


def test_labels_that_were_given_up_are_said(serving, capfd):
    app = serving(MLOPS_LABEL_HOURS="0.01")
    log = app.extensions["log"]
    log._spool.append(orjson.dumps(LabelRecord("0" * 28 + "-7", 1, 1e9), option=orjson.OPT_APPEND_NEWLINE))
    logged(app)
    assert log.unmatched == 1
    assert "1 labels had ids that no prediction has, and were given up: 000" in capfd.readouterr().err


def test_dead_letters_of_an_earlier_version_are_noticed(serving, capfd):
    app = serving()
    log, spool = app.extensions["log"], Path(app.extensions["settings"].spool)
    spool.mkdir(parents=True, exist_ok=True)
    (spool / "refused.txt").write_bytes(b"a line\n")
    assert log._step()
    assert (spool / DEAD_LETTERS).read_bytes() == b"a line\n"
    assert not (spool / "refused.txt").exists()
    assert "put aside" in capfd.readouterr().err
