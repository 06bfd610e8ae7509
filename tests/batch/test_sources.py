"""Sources of a job: every row of a file is in its report, whatever the file looks like."""

import gzip
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from mlops_nb.batch.jobs import head, predict_batch
from mlops_nb.batch.requests import BatchRequest
from mlops_nb.cli.main import main
from mlops_nb.errors import BatchError, DataError
from mlops_nb.store.database import connect, reading
from tests.batch.test_jobs import _write_source, expected, made, people, rows_in, settings  # noqa: F401

SOURCES = ["csv", "csv.gz", "parquet", "partitioned", "pattern", "sql", "url"]


def request_for(source: str, output: Path | str, **more) -> BatchRequest:
    return BatchRequest("loans", str(source), str(output), **more)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_rows_of_the_report_are_the_rows_of_the_source(source, settings, tmp_path):  # noqa: F811
    table = people(250)
    table.loc[[3, 77, 249], "age"] = 500
    given, query = _write_source(source, table, tmp_path / f"rows-{source}")
    batch = request_for(given, tmp_path / "scores.csv", query=query, chunk_rows=60)
    job = predict_batch(batch, 0.1, settings=settings)
    assert (job.rows, job.rejected) == (247, 3)
    rejects, rows = pd.read_csv(tmp_path / "scores.csv.rejects"), pd.read_csv(tmp_path / "scores.csv")
    assert sorted([*rows["id"], *rejects["id"]]) == sorted(table["id"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "url"])
def test_file_that_ends_inside_quotes_is_refused_and_nothing_is_written(kind, settings, tmp_path, monkeypatch):  # noqa: F811
    lines = people(1000).to_csv(index=False).splitlines()
    lines[101] = '"' + lines[101]
    text = "\n".join(lines) + "\n"
    if kind == "url":
        import fsspec

        with fsspec.open("memory://open/in.csv", "w") as file:
            file.write(text)
        source = "memory://open/in.csv"
    else:
        source = str(tmp_path / f"in.{kind}")
        Path(source).write_bytes(gzip.compress(text.encode()) if kind == "csv.gz" else text.encode())
    with pytest.raises(DataError, match="line 102 opens a quote that is never closed"):
        predict_batch(request_for(source, tmp_path / "scores"), settings=settings)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["predict", "loans", "--input", source, "--output", "scores", "--key", "id"])
    assert done.exit_code == 1
    assert "line 102" in done.stderr
    assert not list(tmp_path.glob("scores*"))


def test_quote_within_a_value_opens_nothing(settings, tmp_path):  # noqa: F811
    table = people(4)
    table["id"] = ['5" pipe', 'a "b', "c", 'd"']
    text = "id,age,income,home\n" + "".join(f"{a},{b},{c},{d}\n" for a, b, c, d in table.itertuples(index=False))
    (tmp_path / "in.csv").write_text(text)
    job = predict_batch(request_for(tmp_path / "in.csv", tmp_path / "out", chunk_rows=2), settings=settings)
    assert (job.rows, job.rejected) == (4, 0)
    assert pd.read_parquet(tmp_path / "out")["id"].tolist() == table["id"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("header", ["", ","])
def test_trailing_separator_shifts_no_column(header, settings, tmp_path):  # noqa: F811
    lines = people(50).to_csv(index=False).splitlines()
    lines = [lines[0] + header, *(f"{line}," for line in lines[1:])]
    lines[7] += "lost"
    (tmp_path / "in.csv").write_text("\n".join([lines[0], *lines[1:7] * 200, *lines[7:]]) + "\n")
    job = predict_batch(request_for(tmp_path / "in.csv", tmp_path / "scores", chunk_rows=20), settings=settings)
    assert (job.rows, job.rejected) == (1243, 1)
    rejects = pd.read_parquet(tmp_path / "scores.rejects")
    assert rejects["row"].tolist() == [1200]
    assert "the row has 5 values, the table has 4 columns" in rejects["reason"][0]
    assert pd.read_parquet(tmp_path / "scores")["id"].tolist()[-1] == people(50)["id"].tolist()[-1]


def test_lines_that_end_in_a_carriage_return_alone_are_no_empty_table(settings, tmp_path):  # noqa: F811
    (tmp_path / "in.csv").write_bytes(people(5).to_csv(index=False, lineterminator="\r").encode())
    with pytest.raises(DataError, match="its lines end in a carriage return alone"):
        predict_batch(request_for(tmp_path / "in.csv", tmp_path / "scores"), settings=settings)


def test_missing_header_is_reported(settings, tmp_path):  # noqa: F811
    (tmp_path / "in.csv").write_text(people(50).to_csv(index=False, header=False))
    with pytest.raises(DataError, match=r"Column 'age' is missing in .*looks like the others.*--no-header"):
        predict_batch(request_for(tmp_path / "in.csv", tmp_path / "scores"), settings=settings)


@pytest.mark.parametrize("output", ["scores", "scores.csv", "sqlite"])
@pytest.mark.parametrize("source", ["csv", "parquet"])
def test_empty_key_stays_an_empty_text(source, output, settings, tmp_path):  # noqa: F811
    table = people(4).assign(id=["a", "", "NA", "b"])
    given, _ = _write_source(source, table, tmp_path / "in")
    as_table = output == "sqlite"
    place = f"sqlite:///{tmp_path}/out.db" if as_table else str(tmp_path / output)
    predict_batch(request_for(given, place, table="scores" if as_table else None), settings=settings)
    if output == "scores.csv":
        assert '"",' in (tmp_path / "scores.csv").read_text()
        written = pd.read_csv(tmp_path / "scores.csv", keep_default_na=False)
    else:
        written = rows_in(place, "scores") if as_table else pd.read_parquet(place)
    assert written["id"].tolist() == ["a", "", "NA", "b"]


def test_empty_key_stays_an_empty_text_in_postgresql(settings, postgres_url, tmp_path):  # noqa: F811
    people(3).assign(id=["a", "", "NA"]).to_csv(tmp_path / "in.csv", index=False)
    predict_batch(request_for(tmp_path / "in.csv", postgres_url, table="scores"), settings=settings)
    assert rows_in(postgres_url, "scores")["id"].tolist() == ["a", "", "NA"]


def test_key_that_is_also_an_input_is_written_as_it_is(settings, tmp_path):  # noqa: F811
    (tmp_path / "in.csv").write_text("age,income,home\n041,1.50,own\n29,2,rent\nNA,3,own\n")
    job = predict_batch(request_for(tmp_path / "in.csv", tmp_path / "out", key=("age",)), 1.0, settings=settings)
    assert (job.rows, job.rejected) == (2, 1)
    assert pd.read_parquet(tmp_path / "out")["age"].tolist() == ["041", "29"]
    assert pd.read_parquet(tmp_path / "out.rejects")["age"].tolist() == ["NA"]
    assert "got null" in pd.read_parquet(tmp_path / "out.rejects")["reason"][0]


# Nothing to do, several files, a schema of the database


@pytest.mark.slow
@pytest.mark.parametrize("output", ["scores", "scores.csv", "sqlite"])
@pytest.mark.parametrize("source", SOURCES)
def test_empty_input_ends_well_with_no_rows(source, output, settings, tmp_path):  # noqa: F811
    place = f"sqlite:///{tmp_path}/out.db" if output == "sqlite" else str(tmp_path / output)
    table = people(250)
    given, query = _write_source(source, table, tmp_path / f"full-{output}-{source}")
    batch = request_for(given, place, query=query, table="scores" if output == "sqlite" else None)
    predict_batch(batch, settings=settings)
    if source == "sql":
        empty = replace(batch, query="SELECT * FROM people WHERE age < 0")
    else:
        folder = tmp_path / f"none-{output}-{source}"
        folder.mkdir()
        _write_empty(source, folder, table)
        if source == "url":
            import fsspec

            with fsspec.open(f"memory://none-{output}/in.csv", "w") as file:
                file.write(table.head(0).to_csv(index=False))
        places = {"partitioned": "in", "pattern": "*.parquet"}
        empty = replace(batch, input=str(folder / places.get(source, f"in.{source}")))
        empty = replace(empty, input=f"memory://none-{output}/in.csv") if source == "url" else empty
    job = predict_batch(empty, settings=settings)
    assert (job.state, job.rows, job.rejected) == ("finished", 0, 0)
    if output == "scores":
        assert len(pd.read_parquet(place)) == 0
        assert "prediction" in pd.read_parquet(place)
    elif output == "scores.csv":
        assert {"id", "prediction"} < {*pd.read_csv(place)}
        assert len(pd.read_csv(place)) == 0
    else:
        assert len(rows_in(place, "scores")) == 250, "those of the first job"
    assert predict_batch(empty, settings=settings).rows == 0


def _write_empty(kind: str, folder: Path, table: pd.DataFrame):
    nothing = table.head(0)
    if kind in ("parquet", "pattern"):
        nothing.to_parquet(folder / ("in.parquet" if kind == "parquet" else "a.parquet"))
    elif kind == "partitioned":
        (folder / "in" / "year=2024").mkdir(parents=True)
        nothing.to_parquet(folder / "in" / "year=2024" / "a.parquet")
    else:
        text = nothing.to_csv(index=False).encode()
        (folder / f"in.{kind}").write_bytes(gzip.compress(text) if kind == "csv.gz" else text)


def test_first_job_may_have_an_empty_query_and_the_next_one_its_types(settings, tmp_path):  # noqa: F811
    given, query = _write_source("sql", people(20).assign(id=range(20)), tmp_path / "db")
    batch = request_for(given, f"sqlite:///{tmp_path}/out.db", query=f"{query} WHERE age < 0", table="scores")
    assert predict_batch(batch, settings=settings).rows == 0
    assert head(batch).empty
    predict_batch(replace(batch, query=query), settings=settings)
    assert rows_in(batch.output, "scores")["id"].tolist() == [*range(20)]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_several_csv_files_are_read_by_a_pattern(ending, settings, tmp_path):  # noqa: F811
    table = people(100)
    parts = [table.iloc[:40], table.iloc[40:40], table.iloc[40:][["home", "id", "income", "age"]]]
    for number, part in enumerate(parts):
        part.to_csv(tmp_path / f"day{number}.{ending}", index=False)
    batch = request_for(tmp_path / f"day*.{ending}", tmp_path / "scores", chunk_rows=30, key=("id",))
    job = predict_batch(batch, settings=settings)
    assert (job.rows, job.rejected) == (100, 0)
    written = pd.read_parquet(tmp_path / "scores")
    assert written["id"].tolist() == table["id"].tolist()
    assert written["prediction"].tolist() == expected(settings, table)["prediction"].tolist()
    assert predict_batch(batch, settings=settings).id == job.id
    table.assign(other=1).to_csv(tmp_path / f"day9.{ending}", index=False)
    with pytest.raises(DataError, match="has a column 'other'; files of a pattern have the same columns"):
        predict_batch(batch, settings=settings)


@pytest.mark.slow
def test_rows_go_into_a_schema_of_postgresql(settings, postgres_url, tmp_path):  # noqa: F811
    people(30).to_csv(tmp_path / "in.csv", index=False)
    engine = connect(postgres_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS nightly_scores"))
    try:
        batch = request_for(tmp_path / "in.csv", postgres_url, table="nightly_scores.people", chunk_rows=10)
        job = predict_batch(batch, settings=settings)
        assert (job.state, job.rows) == ("finished", 30)
        assert len(rows_in(postgres_url, "nightly_scores.people")) == 30
        assert len(head(batch)) == 10
        with reading(engine) as connection:
            assert not sa.inspect(connection).has_table("nightly_scores.people")
            assert sa.inspect(connection).has_table("people_rejects", schema="nightly_scores")
        assert predict_batch(batch, settings=settings).id == job.id
        predict_batch(batch, settings=settings, again=True, restart=True)
        with pytest.raises(BatchError, match=r"has no schema 'nightly_score'\. Did you mean 'nightly_scores'"):
            predict_batch(replace(batch, table="nightly_score.people"), settings=settings)
    finally:
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA nightly_scores CASCADE"))
        engine.dispose()


def test_sqlite_has_no_schemas(settings, tmp_path):  # noqa: F811
    people(3).to_csv(tmp_path / "in.csv", index=False)
    batch = request_for(tmp_path / "in.csv", f"sqlite:///{tmp_path}/out.db", table="nightly.scores")
    with pytest.raises(BatchError, match="SQLite has no schemas"):
        predict_batch(batch, settings=settings)


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_file_without_a_header_has_numbered_columns(chunk_rows, settings, tmp_path):  # noqa: F811
    from mlops_nb.batch.sources import open_source
    from mlops_nb.model.signature import Input, Signature

    (tmp_path / "in.csv").write_text("a,1\nb,2\n\nc,3\nd,4\n")
    source = open_source(str(tmp_path / "in.csv"), None, tmp_path, chunk_rows, header=False)
    assert source.names == ["column_1", "column_2"]
    signature = Signature((Input("column_2"),), "regression", "y")
    read = [source.read(c, signature, ["column_1"]) for c in source.chunks]
    assert [v for data in read for v in data.table["column_2"].to_pylist()] == [1, 2, 3, 4]
    assert [v for data in read for v in data.table["column_1"].to_pylist()] == [*"abcd"]
    assert [n for data in read for n in data.row_numbers] == [0, 1, 2, 3]
    batch = request_for(tmp_path / "in.csv", tmp_path / "out")
    assert "header" not in batch.options()
    assert replace(batch, header=False).options()["header"] is False


# Values that no model takes


def test_columns_of_any_type_of_postgresql_are_kept_beside_the_model(settings, postgres_url, tmp_path):  # noqa: F811
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        people(4).to_sql("people", connection, index=False)
    engine.dispose()
    odd = "'10.0.0.1'::inet AS address, jsonb_build_object('a', age) AS extra, ARRAY[age, 1] AS list"
    odd += ", int4range(1, 5) AS range"
    batch = request_for(postgres_url, tmp_path / "scores", query=f"SELECT people.*, {odd} FROM people")
    job = predict_batch(batch, settings=settings)
    assert (job.rows, job.rejected) == (4, 0)
    written = pd.read_parquet(tmp_path / "scores")
    assert written["address"].tolist() == ["10.0.0.1"] * 4
    assert written["range"].tolist() == ["[1, 5)"] * 4
    predict_batch(replace(batch, output=str(tmp_path / "scores.csv"), key=("id", "address")), settings=settings)
