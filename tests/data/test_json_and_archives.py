"""JSON lines, arrays of objects and ZIP archives: read like a CSV file of the same rows, or refused in one sentence."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.batch.sources import open_source
from mlops_nb.data.tables import read_table
from mlops_nb.errors import DataError
from mlops_nb.project.table_source import open_table

ROWS = [{"n": str(i / 2), "kind": kind, "zip": f"0{1000 + i}"} for i, kind in enumerate(["a", "b", "NA", "", "a", "é"])]
CELL = st.sampled_from(["", "NA", "1", "2.5", "-3", "007", "true", "x", "unknown", " y ", "2024-01-31", "5 kg", "é"])


def to_csv(rows: list[dict]) -> str:
    out = io.StringIO()
    pd.DataFrame(rows).to_csv(out, index=False)
    return out.getvalue()


def packed(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
        archive.writestr("__MACOSX/._x", b"")
    return out.getvalue()


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, "": bytes}


@pytest.mark.slow
@settings(derandomize=True, deadline=None, database=None, max_examples=30)
@given(rows=st.lists(st.fixed_dictionaries({"a": CELL, "b": CELL}), min_size=1, max_size=6))
def test_texts_in_json_are_read_as_those_of_a_csv_file(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "t.csv").write_text(to_csv(rows), encoding="utf-8")
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "t.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
    expected = read_table(folder / "t.csv")
    for name in ("t.jsonl", "t.json"):
        table = read_table(folder / name)
        pd.testing.assert_frame_equal(table, expected)
        assert table.attrs.get("dialect", {}).get("texts") == expected.attrs.get("dialect", {}).get("texts")


@pytest.mark.parametrize("ending", [*PACKERS])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_packed_tables_are_read_as_the_plain_one_in_training_and_in_jobs(ending, encoding, tmp_path):
    expected = pd.DataFrame(ROWS)["zip"].tolist()
    for name, text in (("t.csv", to_csv(ROWS)), ("t.ndjson", "\n".join(map(json.dumps, ROWS)))):
        content = text.encode(encoding)
        (tmp_path / f"{name}{ending}").write_bytes(PACKERS[ending](content))
        (tmp_path / f"{name}.zip").write_bytes(packed(f"folder/{name}", content))
        for file in (f"{name}{ending}", f"{name}.zip"):
            table = open_table(str(tmp_path / file))
            assert table.frame["zip"].tolist() == expected
            assert table.frame["n"].tolist() == [i / 2 for i in range(6)]
            assert table.source.code == f"read_table(find_project() / 'data' / {file!r})"
            source = open_source(str(tmp_path / file), None, tmp_path / "work")
            assert (source.names, sum(chunk.rows for chunk in source.chunks)) == (["n", "kind", "zip"], 6)


def two_files() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("a.csv", "b.csv"):
            archive.writestr(name, "n\n1\n")
    return out.getvalue()


REFUSED = {
    "two.zip": (
        lambda: two_files(),
        "two.zip: it is a ZIP archive of 2 files (a.csv, b.csv), not of one table",
    ),
    "none.zip": (lambda: b"n,kind\n1,a\n", "none.zip: it is no whole ZIP archive"),
    "doc.zip": (lambda: packed("x.pdf", b"%PDF"), "doc.zip: "),
    "line.jsonl": (lambda: b'{"a": 1}\n\n{"a": 2,}\n', "line.jsonl: line 3: no JSON, '{\"a\": 2,}'"),
    "csv.jsonl": (lambda: b"a,b\n1,2\n", "csv.jsonl: line 1: no JSON, 'a,b'"),
    "nested.jsonl": (
        lambda: b'{"a": 1}\n{"a": {"b": 2}}\n',
        "nested.jsonl: line 2: 'a' is an object (a.b), and",
    ),
    "list.json": (lambda: b'[{"a": [1]}]', "list.json: row 0: 'a' is a list (a[0])"),
    "rows.json": (
        lambda: b'{"n": 1,\n "rows": [{"a": 1}]}',
        "rows.json: it is one JSON object with the names 'n'",
    ),
    "text.json": (lambda: b'"a"', "text.json: line 1 is 'a', not an object"),
    "cut.json": (lambda: b'[{"a": 1},\n{"a": ', "cut.json: line 2: no JSON"),
    "empty.json": (lambda: b"[]", "empty.json: it has no rows"),
    "nothing.jsonl": (lambda: b"", "nothing.jsonl: it has no rows"),
    "deep.json": (lambda: b"[" * 100_000, "deep.json: "),
}


@pytest.mark.parametrize("name", [*REFUSED])
def test_what_is_no_table_is_refused_with_what_was_found(name, tmp_path):
    make, message = REFUSED[name]
    (tmp_path / name).write_bytes(make())
    for read in (lambda source: read_table(source), lambda source: open_source(source, None, tmp_path / "work")):
        with pytest.raises(DataError, match="Cannot") as refused:
            read(str(tmp_path / name))
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("ending", [".xls", ".ods", ".sav", ".dta", ".rds"])
def test_other_formats_are_named(ending, tmp_path):
    (tmp_path / f"t{ending}").write_bytes(b"\xd0\xcf\x11\xe0")
    with pytest.raises(DataError, match=r"save it as \.csv, \.xlsx or \.parquet"):
        open_table(str(tmp_path / f"t{ending}"))


def test_numbers_and_words_in_one_column_are_texts(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 5, "b": 1}\n{"a": "unknown"}\n{"a": 2.50, "b": null}\n')
    table = read_table(tmp_path / "t.jsonl")
    assert table["a"].tolist() == ["5", "unknown", "2.5"]
    assert table["b"].isna().tolist() == [False, True, True]
