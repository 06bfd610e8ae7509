"""One table, four ways to a model: the same rows, or the same error, in training, jobs, CSV requests and JSON."""

import csv
import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.engines.pandas_engine import DateTime

from mlops_nb.batch.csv_layout import QuotedNewlineError, row_ends, row_ends_in_quotes
from mlops_nb.batch.sources import open_source
from mlops_nb.data.dialect import Dialect
from mlops_nb.data.tables import dialect_of, load_table, read_table, snapshot, validate
from mlops_nb.errors import DataError, InputError
from mlops_nb.model.columns import rows_of, to_table
from mlops_nb.model.parser import InputParser
from mlops_nb.model.signature import Signature, make_signature, signature_of
from mlops_nb.serving.http.errors import RequestError
from tests.model.ways import in_a_job, in_a_request, one_by_one

settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=80)
settings.load_profile("same")

SCHEMA = pa.DataFrameSchema(
    {
        "size": pa.Column(float),
        "share": pa.Column(float, nullable=True),
        "n": pa.Column(int),
        "k": pa.Column("Int64", nullable=True),
        "ok": pa.Column(bool),
        "maybe": pa.Column("boolean", nullable=True),
        "kind": pa.Column(str),
        "note": pa.Column(str, nullable=True),
        "at": pa.Column(DateTime(to_datetime_kwargs={"format": "%d.%m.%Y"}), nullable=True),
    },
    coerce=True,
)
NAMES = list(SCHEMA.columns)
DIALECTS = [
    Dialect(),
    Dialect(thousands=","),
    Dialect(decimal=",", thousands="."),
    Dialect(missing=("", "-", "unknown"), true=("yes", "1"), false=("no", "0")),
]
# no number is beyond 2**53: training keeps those, requests round them
NUMBERS = ["1", "1.5", "-7", "+3", " 8 ", "1e3", ".5", "5.", "007", "1,234", "1.234", "1.234,5", "12,345.5", "1,5"]
NUMBERS += ["0.266", "inf", "-Infinity", "1e400", "0x10", "1_0", "\u0665", "NAN", "5\u00a0", "--1"]
WORDS = ["true", "TRUE", "tRuE", "False", "0", "1", "2", "yes", "NO", " true "]
TEXTS = ["a", "x,y", 'q"r', "m\nn", "\u00fc", " ", "007", "1.0", "31.05.2024", "5;6", "=1"]
DATES = ["31.05.2024", "2024-05-31", "2024-05-31T13:30:00", "20240531", "05/31/2024", "31.02.2024"]
DATES += ["2024-05-31T13:30:00+02:00"]
MISSING = ["", "NA", "None", "nan", "-", "unknown"]

good = {
    **{name: st.sampled_from(["1", "2.5", "-7", "1e3"]) for name in ("size", "share")},
    **{name: st.sampled_from(["1", "12", "-7", "5.0"]) for name in ("n", "k")},
    **{name: st.sampled_from(["1", "0", "true"]) for name in ("ok", "maybe")},
    **{name: st.sampled_from(["a", "b", "x,y"]) for name in ("kind", "note")},
    "at": st.sampled_from(DATES[:3]),
}
ANY = st.sampled_from([*NUMBERS, *WORDS, *TEXTS, *DATES, *MISSING])
ROWS = st.lists(
    st.one_of(
        st.fixed_dictionaries(good),
        st.fixed_dictionaries({name: st.one_of(cell, cell, cell, ANY) for name, cell in good.items()}),
        st.fixed_dictionaries(dict.fromkeys(NAMES, ANY)),
    ),
    min_size=1,
    max_size=6,
)


def to_text(rows: list[dict], sep: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, NAMES, delimiter=sep, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def in_training(signature, rows: list[dict], dialect: Dialect, folder) -> tuple[dict, set]:
    """What `ingest` makes of the rows together or, if it refuses them, of each row."""
    taken, refused = {}, set()

    def read(some: list[dict]) -> list[list]:
        (folder / "train.csv").write_text(to_text(some, ","))
        table = load_table(str(folder / "train.csv"), None, SCHEMA, dialect)
        return rows_of(signature, to_table(signature, validate(table, SCHEMA, dialect=dialect)))

    try:
        return dict(enumerate(read(rows))), refused
    except DataError:
        for number, row in enumerate(rows):
            try:
                taken[number] = read([row])[0]
            except DataError:
                refused.add(number)
    assert refused, "each row is taken, and all together are not"
    return taken, refused


def in_json(signature, rows: list[dict]) -> tuple[dict, dict]:
    """Texts in columns of texts are what they are in JSON, so a missing one is null there."""
    texts = {i.name for i in signature.inputs if i.kind == "string"}
    missing = signature.dialect.missing
    return one_by_one(signature, [{n: None if n in texts and v in missing else v for n, v in r.items()} for r in rows])


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS, ids=["usual", "thousands", "german", "words"])
@given(rows=ROWS)
def test_table_is_the_same_rows_whichever_way_it_comes(dialect, rows, app, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    signature = make_signature(SCHEMA, NAMES, "y", "regression", dialect=dialect)
    text = to_text(rows, ",")
    taken, refused = in_json(signature, rows)
    assert in_a_job(signature, text, folder) == (taken, refused)
    assert in_a_request(app, signature, text) == (taken, refused)
    trained = in_training(signature, rows, dialect, folder)
    assert trained[1] >= {*refused}
    assert {n: row for n, row in trained[0].items() if n in taken} == taken


@pytest.mark.parametrize("kind", [float, int, "Float64", "float32"])
@pytest.mark.parametrize("written", [False, True], ids=["numbers", "texts"])
def test_infinite_number_is_refused_in_training_as_in_a_request(kind, written):
    schema = pa.DataFrameSchema({"size": pa.Column(kind, nullable=True)}, coerce=True)
    values = ["1", "inf", "3", "-inf"] if written else [1, np.inf, 3, -np.inf]
    with pytest.raises(DataError, match=r"column 'size', rule a finite number, or missing: broken by 2 of 4 rows"):
        validate(pd.DataFrame({"size": values}), schema)


def test_names_of_columns_have_no_blanks_around_them_every_way(app, tmp_path):
    text = " size,kind ,\tn\n1,a,2\n"
    schema = pa.DataFrameSchema({name: SCHEMA.columns[name] for name in ("size", "kind", "n")}, coerce=True)
    signature = make_signature(schema, ["size", "kind", "n"], "y", "regression", dialect=Dialect())
    (tmp_path / "train.csv").write_text(text)
    assert list(load_table(str(tmp_path / "train.csv"), None, schema)) == ["size", "kind", "n"]
    assert in_a_job(signature, text, tmp_path) == in_a_request(app, signature, text) == ({0: [1.0, "a", 2]}, {})


@pytest.mark.parametrize("sep", [",", ";"])
@pytest.mark.parametrize("tail", ["", '"', "1"])
def test_table_that_is_no_table_is_refused_every_way(sep, tail, app, tmp_path):
    signature = make_signature(SCHEMA, NAMES, "y", "regression", dialect=Dialect())
    row = dict(zip(NAMES, ["1", "2", "3", "4", "1", "0", "a", "b", "31.05.2024"], strict=True))
    text = to_text([row] * 3, sep)
    if tail:
        text += sep.join([*row.values()][:-1]) + sep + tail + ("\n" if tail == '"' else sep + "1\n")
    (tmp_path / "train.csv").write_text(text)
    if not tail:
        taken, refused = in_a_job(signature, text, tmp_path)
        assert (len(taken), refused) == (3, {})
        assert len(load_table(str(tmp_path / "train.csv"), None, SCHEMA)) == 3
        return
    message = "line 5 opens a quote" if tail == '"' else "has 10 values"
    with pytest.raises(DataError, match=message):
        load_table(str(tmp_path / "train.csv"), None, SCHEMA)
    if tail == '"':
        with pytest.raises(DataError, match=message):
            in_a_job(signature, text, tmp_path)
    else:
        (tmp_path / "in.csv").write_text(text)
        source = open_source(str(tmp_path / "in.csv"), None, tmp_path, 10)
        malformed = source.read(source.chunks[0], signature, []).malformed
        assert malformed == {3: "the row has 10 values, the table has 9 columns."}
    if sep == ",":
        with pytest.raises(RequestError, match=message):
            in_a_request(app, signature, text)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('"K1" M\u00fcller,1\na,2\n', 2),
        ('a,1\n"K1,2\nK2,3\n"K3,4\nb,5\n', 5),
        ('a,1\n"K1\nK2"x,3\n', 4),
        ('a,1\n"K1"" ","2" \n', 3),
    ],
    ids=["in a line", "rows between two quotes", "in the second line", "a blank"],
)
def test_text_behind_a_closing_quote_is_refused_every_way(rows, line, app, tmp_path):
    text = "kind,n\n" + rows
    schema = pa.DataFrameSchema({"kind": pa.Column(str), "n": pa.Column(int)}, coerce=True)
    signature = make_signature(schema, ["kind", "n"], "y", "regression", dialect=Dialect())
    (tmp_path / "train.csv").write_text(text)
    message = f"line {line}: text stands behind a closing quote"
    with pytest.raises(DataError, match=message):
        load_table(str(tmp_path / "train.csv"), None, schema)
    with pytest.raises(DataError, match=message):
        in_a_job(signature, text, tmp_path)
    with pytest.raises(RequestError, match=message):
        in_a_request(app, signature, text)


PIECES = st.lists(st.sampled_from(["a", '"', ",", "\n", "\r\n", '"b"', ""]), max_size=5).map("".join)


@pytest.mark.slow
@given(
    cells=st.lists(PIECES, min_size=1),
    block=st.integers(1, 9),
)
def test_ends_of_rows_are_found_fast_only_where_they_are_those_of_the_exact_way(cells, block):
    content = "\n".join(cells).encode()
    try:
        exact = np.concatenate([*row_ends_in_quotes(io.BytesIO(content), ",")]).tolist()
    except DataError:
        exact = None
    try:
        fast = np.concatenate([np.zeros(0, int), *row_ends(io.BytesIO(content), ",", block)]).tolist()
    except QuotedNewlineError:
        return
    assert fast == exact


def test_word_for_a_missing_value_is_missing_every_way(app, tmp_path):
    from mlops_nb.examples.loans import simulate, spec

    columns = {name: spec.schema.columns[name] for name in spec.inputs}
    signature = make_signature(spec.schema, spec.inputs, spec.target, dialect=Dialect())
    rows = simulate(3).drop(columns="approved").astype(str).to_dict("records")
    rows[1]["purpose"], rows[2]["purpose"], rows[0]["income"] = "NA", "None", "NA"
    text = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)])
    wanted = dict.fromkeys((1, 2), "column 'purpose': expected a string, got null.")
    for taken, refused in (in_a_job(signature, text, tmp_path), in_a_request(app, signature, text)):
        assert list(taken) == [0]
        assert taken[0][spec.inputs.index("income")] is None
        assert refused == wanted
    (tmp_path / "train.csv").write_text(text)
    schema = pa.DataFrameSchema(columns, coerce=True)
    with pytest.raises(DataError, match="column 'purpose', rule not_nullable: broken by 2 of 3 rows"):
        validate(load_table(str(tmp_path / "train.csv"), None, schema), schema)


@pytest.mark.parametrize(
    ("cells", "numbers", "dialect"),
    [
        (["10,000", "1,234.5", "7"], [10_000, 1234.5, 7], Dialect(thousands=",")),
        (["1.234,5", "0,5", "10.000"], [1234.5, 0.5, 10_000], Dialect(decimal=",", thousands=".")),
        (["0,5", "1234,5", "7"], [0.5, 1234.5, 7], Dialect(decimal=",")),
    ],
)
def test_numbers_that_a_table_trains_with_are_numbers_of_the_service(cells, numbers, dialect, app, tmp_path):
    (tmp_path / "train.csv").write_text("size,y\n" + "".join(f'"{cell}",1\n' for cell in cells))
    table = load_table(str(tmp_path / "train.csv"))
    assert table["size"].tolist() == numbers
    schema = pa.DataFrameSchema({"size": pa.Column(float), "y": pa.Column(int)}, coerce=True)
    kept = snapshot(validate(table, schema), tmp_path)
    spec = SimpleNamespace(
        schema=schema, inputs=["size"], target="y", targets=("y",), task="regression", time=None, dialect=None
    )
    spec.ignored, spec.positive = (), None
    for read in (table, read_table(kept.path)):
        signature = signature_of(spec, object(), dialect_of(read)["dialect"])
        assert signature.dialect == dialect
        assert Signature.from_dict(signature.to_dict()) == signature
    body = (tmp_path / "train.csv").read_text()
    expected = {row: [number] for row, number in enumerate(numbers)}, {}
    assert in_a_job(signature, body, tmp_path) == expected
    assert in_a_request(app, signature, body) == expected
    assert one_by_one(signature, [{"size": cell} for cell in cells]) == expected
    assert one_by_one(signature, [{"size": number} for number in numbers]) == expected


def test_signature_of_an_earlier_release_reads_as_it_did(app, tmp_path):
    signature = make_signature(SCHEMA, ["size", "note"], "y", "regression")
    assert "dialect" not in signature.to_dict()
    spec = SimpleNamespace(schema=SCHEMA, inputs=NAMES, targets=("y",), task="regression", time=None, ignored=())
    spec.dialect = spec.positive = None
    assert signature_of(spec, object()).dialect is None, "a pipeline of an earlier template says nothing"
    assert signature_of(spec, object(), {}).dialect == Dialect()
    assert Signature.from_dict(signature.to_dict()) == signature
    rows = [{"size": "1,000", "note": "NA"}, {"size": "2", "note": ""}]
    text = 'size,note\n"1,000",NA\n2,\n'
    assert in_a_job(signature, text, tmp_path) == ({0: [1000.0, None], 1: [2.0, None]}, {})
    assert in_a_request(app, signature, text)[1] == {0: "column 'size': expected a number, got '1,000'."}
    assert in_a_request(app, signature, "size,note\n2,NA\n") == ({0: [2.0, "NA"]}, {})
    assert set(one_by_one(signature, rows)[1]) == {0, 1}


FORMATS = [None, "ISO8601", "%Y-%m", "%d.%m.%Y", "%m/%d/%Y %H:%M"]
PARTS = ["2024", "2024-02", "202402", "2024-W05", "2024-W05-3", "2024-032", "20240201", "2024-2-1", "2024/02/01"]
PARTS += ["2024.02", "2024-02-30", "2024 02 01", "13:30", "T13:30", "24:00:00", "2024-02-01T10", "2024-02-01 10:30"]
PARTS += ["20240201T1030", "2024-02-01Z", "2024-02-01T10:30Z", "2024T10", "+2024-02-01", "-7", "02.2024", "01.02.2024"]
PARTS += ["02/01/2024 10:30"]
WRITTEN = st.one_of(
    st.sampled_from(PARTS),
    st.from_regex(r"\A(16[89]\d|1[789]\d\d|20\d\d|22[0-5]\d)([-/. ]?\d{1,2}){0,3}(T\d\d(:?\d\d){0,2})?Z?\Z"),
    st.text("0123456789-/:.TWZ ", max_size=10),
)


def read_dates(form: str | None, texts: list[str], folder) -> tuple[list, list]:
    """What training and the parser of requests make of each text alone; None: it is refused."""
    kind = DateTime(to_datetime_kwargs={"format": form}) if form else DateTime()
    schema = pa.DataFrameSchema({"at": pa.Column(kind), "n": pa.Column(float)}, coerce=True)
    table = pd.DataFrame({"at": pd.to_datetime(["2024-01-31"]), "n": [1.0]})
    signature = make_signature(schema, table, "regression", "y")
    training, requests = [], []
    for text in texts:
        (folder / "train.csv").write_text(f"at,n\n{text},1\n")
        try:
            frame = validate(load_table(str(folder / "train.csv"), None, schema), schema)
            training.append(rows_of(signature, to_table(signature, frame))[0][0])
        except DataError:
            training.append(None)
        try:
            requests.append(rows_of(signature, InputParser(signature).parse([[text, 1]]))[0][0])
        except InputError:
            requests.append(None)
    return training, requests


@pytest.mark.slow
@given(st.sampled_from(FORMATS), st.lists(WRITTEN, min_size=1, max_size=4))
def test_a_part_of_a_date_is_the_same_in_training_and_in_a_request_or_refused_by_both(tmp_path_factory, form, texts):
    training, requests = read_dates(form, texts, tmp_path_factory.mktemp("dates"))
    assert training == requests


@pytest.mark.parametrize(
    ("form", "taken"),
    [
        (None, {"2024", "2024-02", "20240201", "2024-02-01T10"}),
        ("%Y-%m", {"2024-02", "20240201", "2024-02-01T10"}),
        ("%d.%m.%Y", {"20240201", "2024-02-01T10", "01.02.2024"}),
    ],
)
def test_which_parts_of_a_date_are_one(tmp_path, form, taken):
    texts = ["2024", "2024-02", "202402", "20240201", "2024-W05", "2024-032", "13:30", "2024-02-01T10", "01.02.2024"]
    for found in read_dates(form, texts, tmp_path):
        assert {text for text, value in zip(texts, found, strict=True) if value is not None} == taken


@pytest.mark.parametrize("values", [[2024, 2025], [20240201, 20240202], [1.7e18, np.nan], ["2024-02-01", 20240202]])
def test_numbers_in_a_column_of_times_are_refused_before_training(values):
    schema = pa.DataFrameSchema({"at": pa.Column(DateTime(), nullable=True)}, coerce=True)
    with pytest.raises(DataError, match="column 'at'"):
        validate(pd.DataFrame({"at": values}), schema)
    declared = DateTime(to_datetime_kwargs={"unit": "s"})
    seconds = pa.DataFrameSchema({"at": pa.Column(declared)}, coerce=True)
    assert validate(pd.DataFrame({"at": [1706745600]}), seconds)["at"].iloc[0] == pd.Timestamp("2024-02-01")
