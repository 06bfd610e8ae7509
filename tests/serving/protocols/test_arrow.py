"""Arrow streams: the same answers and the same refusals as lists in JSON."""

import gzip
from dataclasses import replace
from struct import pack

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from pyarrow import ipc

from mlops_nb.model.signature import Predictions
from mlops_nb.serving.protocols.arrow import ARROW
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app

hypothesis.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=200)
hypothesis.load_profile("same")

ROWS = [[41, 1200.5, "own"], [23, None, "rent"], [80, 3.0, "own"]]
COLUMNS = dict(zip(["age", "income", "home"], map(list, zip(*ROWS, strict=True)), strict=True))
TABLE = pyarrow.table(COLUMNS)


def stream(table: pyarrow.Table, rows_a_batch: int | None = None, **options) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, rows_a_batch)
    return sink.getvalue().to_pybytes()


def post(client, table: pyarrow.Table | bytes, **headers):
    content = table if isinstance(table, bytes) else stream(table)
    return client.post("/predict", data=content, content_type=ARROW, headers=headers)


def read(answer) -> pyarrow.Table:
    assert (answer.status_code, answer.content_type) == (200, ARROW), answer.get_data()
    return ipc.open_stream(answer.data).read_all()


@pytest.fixture(scope="module")
def expected(mixed):
    return mixed.post("/predict", json={"features": ROWS, "probability": True}).get_json()


@pytest.mark.slow
def test_table_gets_what_its_rows_get(mixed, expected):
    encoded = TABLE.set_column(2, "home", TABLE["home"].dictionary_encode())
    viewed = TABLE.set_column(2, "home", TABLE["home"].cast(pyarrow.string_view()))
    ignored = TABLE.select(["home", "income", "age"])
    for content in (TABLE, encoded, viewed, ignored, stream(TABLE, 1), stream(encoded, 2)):
        answer = post(mixed, content)
        assert answer.content_type == "application/json"
        body = answer.get_json()
        assert (body["prediction"], body["model"], body["version"]) == (expected["prediction"], "toy", 1)
        assert len({*body["ids"]}) == 3
        assert "probability" not in body
    packed = post(mixed, gzip.compress(stream(TABLE)), **{"Content-Encoding": "gzip"})
    assert packed.get_json()["prediction"] == expected["prediction"]


def test_table_is_the_answer_where_it_is_wanted(mixed, expected):
    as_json = mixed.post("/predict", json={"features": ROWS}, headers={"Accept": ARROW})
    for answer in (as_json, post(mixed, TABLE, Accept=f"{ARROW}, */*;q=0.5")):
        table = read(answer)
        assert table.column_names == ["prediction", "id", "probability_no", "probability_yes"]
        assert table["prediction"].to_pylist() == expected["prediction"]
        assert np.column_stack(table.columns[2:]).tolist() == expected["probability"]
        assert len({*table["id"].to_pylist()}) == 3
        assert table.schema.metadata == {b"model": b"toy", b"version": b"1"}


def test_numbers_are_answered_as_numbers(client):
    table = read(post(client, pyarrow.table({"a": [1, 0], "b": [0, 1]}), Accept=ARROW))
    assert table.schema.field("prediction").type == pyarrow.int64()
    assert table["prediction"].to_pylist() == [1, 0]
    assert table.column_names[2:] == ["probability_0", "probability_1"]


def test_model_without_probabilities_answers_none(app, client, monkeypatch):
    answer = Predictions(np.array([1.5]))
    monkeypatch.setattr(live_model(app).predictor, "predict", lambda table: answer)
    table = read(post(client, pyarrow.table({"a": [1], "b": [0]}), Accept=ARROW))
    assert table.column_names == ["prediction", "id"]
    assert table["prediction"].to_pylist() == [1.5]


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", f"application/json, {ARROW};q=0.5", f"{ARROW};q=0, */*", "text/html"]
)
def test_json_is_the_answer_otherwise(mixed, accept):
    assert post(mixed, TABLE, Accept=accept).content_type == "application/json"


# What is refused

WHOLE = stream(TABLE)
TEXTS = WHOLE.index(b"ownrentown")


def changed(at: int, by: bytes) -> bytes:
    return WHOLE[:at] + by + WHOLE[at + len(by) :]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"x", b'{"features": [[1, 2]]}', WHOLE[:-9], WHOLE[:200], WHOLE[8:], WHOLE + b"\0", WHOLE + WHOLE,
        changed(TEXTS, b"\xff"),
        changed(WHOLE.index(pack("<4i", 0, 3, 7, 10)), pack("<4i", 0, 3, 2**31 - 1, 10)),
        changed(WHOLE.index(pack("<3q", 41, 23, 80)) + 24, b"\xff" * 40),
    ],
)  # fmt: skip
def test_broken_stream_is_refused(mixed, body):
    answer = post(mixed, body)
    assert answer.status_code == 400, answer.get_json()
    assert answer.get_json() == {
        "error": "The body is not one whole Arrow stream; `pyarrow.ipc.new_stream` writes one.",
        "code": "bad_request",
    }


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_batches_are_refused_before_they_are_unpacked(mixed, compression):
    bomb = pyarrow.table({"home": pyarrow.array([" " * 10**7]), "age": pyarrow.array([1])})
    encoded = bomb.set_column(0, "home", bomb["home"].dictionary_encode())
    for table in (bomb, encoded, encoded.select(["home"])):
        answer = post(mixed, stream(table, compression=compression))
        assert (answer.status_code, answer.get_json()["code"]) == (400, "bad_request")
        assert "The batches are compressed; send them as they are" in answer.get_json()["error"]


def test_views_of_the_same_text_are_not_unfolded_without_end(settings):
    app = create_app(replace(settings, max_body_mb=0.1))
    live_model(app).refresh()
    views = np.tile(np.array([50_000, 0x20202020, 0, 0], np.int32), 100)
    text, buffers = pyarrow.py_buffer(b" " * 50_000), pyarrow.py_buffer(views)
    column = pyarrow.Array.from_buffers(pyarrow.string_view(), 100, [None, buffers, text])
    answer = post(app.test_client(), pyarrow.table({"a": column, "b": column}))
    assert (answer.status_code, answer.get_json()["code"]) == (413, "request_entity_too_large")
    app.stop()


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string()])
def test_one_text_that_many_rows_have_is_as_long_as_all_of_them(settings, kind):
    app = create_app(replace(settings, max_body_mb=0.1))
    live_model(app).refresh()
    column = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 99 + [None], "int8"), pyarrow.array([" " * 2_000], kind)
    )
    answer = post(app.test_client(), pyarrow.table({"a": column, "b": column}))
    assert (answer.status_code, answer.get_json()["code"]) == (413, "request_entity_too_large")
    app.stop()


@pytest.mark.parametrize(
    ("columns", "status", "message"),
    [
        ({"age": [41, 141, 1]}, 400, "Row 1, column 'age': expected a number of at least 0 and at most 120, got 141"),
        ({"age": [41, 1, None]}, 400, "Row 2, column 'age': expected a whole number, got null"),
        ({"home": ["own", "boat", "own"]}, 400, "Row 1, column 'home': expected one of ['own', 'rent'], got 'boat'"),
        ({"home": [1, 2, 3]}, 400, "Row 0, column 'home': expected a string, got a value of the type int64"),
        ({"hom": [1, 2, 3]}, 400, "There is an unknown column 'hom'. Did you mean 'home'?"),
        ({name: column * 34 for name, column in COLUMNS.items()}, 413, "The table has 102 rows; at most 100"),
    ],
)
def test_table_that_does_not_fit_is_named_as_its_rows_are(mixed, columns, status, message):
    answer = post(mixed, pyarrow.table(COLUMNS | columns), Accept=ARROW)
    assert (answer.status_code, answer.content_type) == (status, "application/json")
    assert message in answer.get_json()["error"]


def test_number_of_rows_costs_nothing_before_it_is_refused(mixed):
    nulls = stream(pyarrow.table({"age": pyarrow.nulls(77_777)}), 7_777)
    for n in (10**12, 2**62):
        assert post(mixed, nulls.replace(pack("<q", 7_777), pack("<q", n))).status_code == 413
    without = pyarrow.table({"age": [1]}), pyarrow.table(COLUMNS).slice(0, 0)
    for table, message in zip(without, ("Column 'home' is missing", "The table has no rows"), strict=True):
        assert message in post(mixed, table).get_json()["error"]


def test_without_a_model_a_table_gets_503(tmp_path):
    app = create_app(Settings.read({"MLOPS_HOME": str(tmp_path), "MLOPS_MODEL": "toy"}))
    live_model(app).refresh()
    assert post(app.test_client(), TABLE, Accept=ARROW).status_code == 503
    app.stop()


# Attacked

CELLS = {
    "age": st.integers(-1, 121) | st.floats(0, 120),
    "income": st.none() | st.floats(width=32),
    "home": st.sampled_from(["own", "rent", "own", "rent", "own", "rent", None, "boat"]),
    "repaid": st.none() | st.booleans(),
}


@pytest.mark.slow
@given(
    rows=st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=4),
    left=st.sets(st.sampled_from([*CELLS]), max_size=1),
)
def test_table_and_rows_get_the_same_answer_or_the_same_error(mixed, rows, left):
    columns = {name: [row[name] for row in rows] for name in CELLS if name not in left}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    table = pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()})
    one, two = post(mixed, table), mixed.post("/predict", json={"features": rows})
    assert one.status_code == two.status_code
    kept = ("prediction", "version", "code", "column")
    one, two = ({key: result.get_json().get(key) for key in kept} for result in (one, two))
    assert one == two


@pytest.mark.slow
@given(at=st.integers(0, len(WHOLE) - 9), by=st.binary(min_size=1, max_size=8), cut=st.integers(0, 8))
def test_whatever_stream_is_sent_is_answered_or_refused(mixed, at, by, cut):
    answer = post(mixed, WHOLE[:at] + by + WHOLE[at + cut :])
    assert answer.status_code in (200, 400, 413)
