"""Batch jobs: every source to every target, kills at any moment, rejects, and what is refused."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pandas as pd
import pyarrow
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from pyarrow import parquet
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlops_nb.batch.chunks import files_fingerprint
from mlops_nb.batch.jobs import _check_options, head, predict_batch
from mlops_nb.batch.requests import BatchRequest, Jobs
from mlops_nb.batch.sources import open_source
from mlops_nb.cli.main import main
from mlops_nb.errors import BatchError, DataError, InputError, NotFoundError
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Input, Signature
from mlops_nb.monitor.health import monitor
from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.settings import Settings
from mlops_nb.store.database import connect, reading
from mlops_nb.store.registry import Registry

BIN = Path(sys.executable).parent
FACTS = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}}
FACTS["evaluation"] = {"metrics": {}, "baseline": {}, "gates": [], "passed": True}
INPUTS = (Input("age", "int", minimum=0, maximum=120), Input("income", required=True), Input("home", "string"))
SIGNATURE = Signature(
    (INPUTS[0], INPUTS[1], replace(INPUTS[2], categories=("own", "rent"))), "classification", "repaid", ("no", "yes")
)


def people(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {"id": [f"p{i:07d}" for i in range(rows)], "age": rng.integers(18, 90, rows)}
    columns |= {"income": rng.normal(1000, 300, rows).round(2), "home": rng.choice(["own", "rent"], rows)}
    return pd.DataFrame(columns)


def put_into_production(settings: Settings, folder: Path, seed: int = 0):
    """Another version with every seed."""
    table = people(500, seed)
    y = np.where(table["income"] + 10 * table["age"] > 1500 + 100 * seed, "yes", "no")
    encode = make_column_transformer((OneHotEncoder(), ["home"]), remainder="passthrough")
    X = table[SIGNATURE.names]
    estimator = make_pipeline(encode, LogisticRegression(max_iter=2000)).fit(X, y)
    registry = Registry.open(settings)
    bundle = write_bundle(folder / f"bundle{seed}", "loans", estimator, SIGNATURE, X, X, FACTS)
    registry.promote("loans", registry.register(bundle)[0].version)
    registry.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a model, to copy from."""
    home = tmp_path_factory.mktemp("made")
    put_into_production(Settings.read({"MLOPS_HOME": str(home)}), home)
    return home


@pytest.fixture
def settings(made, tmp_path):
    import shutil

    shutil.copytree(made / "store", tmp_path / "store")
    (tmp_path / "settings.ini").touch()
    return Settings.read({"MLOPS_HOME": str(tmp_path)})


def rows_in(url: str, table: str) -> pd.DataFrame:
    engine = connect(url)
    with reading(engine) as connection:
        found = pd.read_sql_query(sa.text(f"SELECT * FROM {table}"), connection)
    engine.dispose()
    return found


def expected(settings: Settings, table: pd.DataFrame) -> pd.DataFrame:
    registry = Registry.open(settings)
    predictor = registry.load("loans")
    answer = predictor.predict_frame(table)
    predictor.close()
    registry.close()
    return pd.DataFrame(
        {"id": table["id"], "prediction": answer.prediction, "probability_yes": answer.probability[:, 1]}
    )


# Every source to every target


def _write_source(kind: str, table: pd.DataFrame, folder: Path) -> tuple[str, str | None]:
    folder.mkdir()
    if kind == "parquet":
        table.to_parquet(folder / "in.parquet", row_group_size=70)
        return str(folder / "in.parquet"), None
    if kind == "partitioned":
        table.assign(year=np.repeat([2023, 2024], len(table) // 2)).to_parquet(folder / "in", partition_cols=["year"])
        return str(folder / "in"), None
    if kind == "pattern":
        table.head(120).to_parquet(folder / "a.parquet")
        table.tail(len(table) - 120).to_parquet(folder / "b.parquet")
        return str(folder / "*.parquet"), None
    if kind == "sql":
        with sa.create_engine(f"sqlite:///{folder}/in.db", poolclass=sa.NullPool).begin() as connection:
            table.to_sql("people", connection, index=False)
            connection.engine.dispose()
        return f"sqlite:///{folder}/in.db", "SELECT * FROM people"
    if kind == "url":
        with fsspec.open(f"memory://{folder.name}/in.csv", "w") as file:
            table.to_csv(file, index=False)
        return f"memory://{folder.name}/in.csv", None
    text = table.to_csv(index=False, sep=";" if kind == "csv.gz" else ",").encode()
    (folder / f"in.{kind}").write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
    return str(folder / f"in.{kind}"), None


def _written(kind: str, output: str) -> pd.DataFrame:
    if kind == "table":
        return rows_in(output, "scores")
    if kind == "url":
        with fsspec.open(output) as file:
            return pd.read_csv(file)
    return pd.read_csv(output) if kind == "csv" else pd.read_parquet(output)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["parquet", "csv", "table", "url"])
@pytest.mark.parametrize("source", ["csv", "csv.gz", "parquet", "partitioned", "pattern", "sql", "url"])
def test_every_source_goes_to_every_target(source, target, settings, tmp_path):
    table = people(250)
    given, query = _write_source(source, table, tmp_path / f"{source}-{target}")
    output = {"parquet": f"{tmp_path}/scores", "csv": f"{tmp_path}/scores.csv", "table": f"sqlite:///{tmp_path}/out.db"}
    output["url"] = f"memory://{source}/scores.csv"
    batch_request = BatchRequest(
        "loans", given, output[target], query, "scores" if target == "table" else None, probability=True
    )
    job = predict_batch(replace(batch_request, chunk_rows=60), settings=settings)
    assert (job.state, job.rows, job.rejected, job.version) == ("finished", 250, 0, 1)
    written, wanted = _written(target, output[target]).sort_values("id", ignore_index=True), expected(settings, table)
    pd.testing.assert_frame_equal(written[list(wanted)], wanted, check_dtype=False)
    assert set(written["model"]) == {"loans"}
    assert set(written["model_version"]) == {1}
    assert (
        pd.to_datetime(written["predicted_at"], utc=True, format="ISO8601")
        .between(job.started_at, job.finished_at)
        .all()
    )
    assert ("year" in written) == (source == "partitioned")
    assert not list(tmp_path.glob("scores*.parts"))


@pytest.mark.slow
def test_rows_go_into_a_table_of_postgresql_with_their_types(settings, postgres_url, tmp_path):
    table = people(50).assign(id=[f'"{i}", \\ ' for i in range(50)], at=pd.Timestamp("2024-05-31 12:00"), n=1.5)
    table["ok"] = pd.array([True, None] * 25, dtype="boolean")
    table.loc[3, "id"] = None
    table.to_parquet(tmp_path / "in.parquet")
    batch_request = BatchRequest("loans", str(tmp_path / "in.parquet"), postgres_url, table="scores", chunk_rows=20)
    predict_batch(batch_request, settings=settings)
    written = rows_in(postgres_url, "scores").sort_values("id", ignore_index=True)
    assert written["id"].dropna().tolist() == sorted(table["id"].dropna())
    assert len(written) == 50
    assert set(written["at"]) == {pd.Timestamp("2024-05-31 12:00")}
    assert written["ok"].isna().sum() == 25
    assert written["predicted_at"].dt.tz is not None
    assert written["n"].tolist() == [1.5] * 50


@pytest.mark.slow
def test_exact_numbers_of_a_query_stay_exact_as_keys_and_are_floats_for_the_model(settings, postgres_url, tmp_path):
    ids, large = [9007199254740992, 9007199254740993, 7], 18446744073709551615
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        people(4).assign(id=0, row=range(4)).to_sql("people", connection, index=False)
        connection.execute(sa.text("ALTER TABLE people ALTER id TYPE numeric(20), ALTER income TYPE numeric(12, 3)"))
        for row, value in enumerate([*ids, large]):
            connection.execute(sa.text(f"UPDATE people SET id = {value}, income = income + 0.1 WHERE row = {row}"))
    engine.dispose()
    query = "SELECT id, age, income, home, income AS paid FROM people WHERE row < {} ORDER BY row"
    batch_request = BatchRequest("loans", postgres_url, f"{tmp_path}/scores", query.format(3), chunk_rows=2)
    predict_batch(batch_request, settings=settings)
    written = pd.read_parquet(tmp_path / "scores")
    assert written["id"].tolist() == ids
    assert written["id"].dtype == "int64"
    assert written["paid"].tolist() == (people(4)["income"].head(3) + 0.1).round(3).tolist()
    for output in (f"sqlite:///{tmp_path}/out.db", postgres_url):
        predict_batch(replace(batch_request, output=output, table="scores"), settings=settings)
        assert sorted(rows_in(output, "scores")["id"]) == sorted(ids)
    batch_request = replace(batch_request, query=query.format(4), key=("id",))
    predict_batch(batch_request, settings=settings)
    assert [int(i) for i in pd.read_parquet(tmp_path / "scores")["id"]] == [*ids, large]
    predict_batch(replace(batch_request, output=f"{tmp_path}/scores.csv"), settings=settings)
    assert pd.read_csv(tmp_path / "scores.csv", dtype=str)["id"].tolist() == [str(i) for i in [*ids, large]]
    predict_batch(replace(batch_request, output=postgres_url, table="large"), settings=settings)
    as_text = rows_in(postgres_url, "(SELECT CAST(id AS text) AS id FROM large) AS large")
    assert sorted(map(int, as_text["id"])) == sorted([*ids, large])


@pytest.mark.slow
def test_exact_numbers_of_parquet_stay_exact_in_sqlite(settings, tmp_path):
    ids = pyarrow.array([9007199254740992, 9007199254740993]).cast(pyarrow.decimal128(38, 0))
    table = pyarrow.Table.from_pandas(people(2)).set_column(0, "id", ids)
    paid = pyarrow.array([1.3, 70.0]).cast(pyarrow.decimal128(5, 2))
    parquet.write_table(table.append_column("paid", paid), tmp_path / "in.parquet")
    batch_request = BatchRequest("loans", str(tmp_path / "in.parquet"), f"sqlite:///{tmp_path}/out.db", table="scores")
    predict_batch(batch_request, settings=settings)
    written = rows_in(batch_request.output, "scores")
    assert written["id"].tolist() == [9007199254740992, 9007199254740993]
    assert written["paid"].tolist() == [1.3, 70]


def test_times_go_into_a_table_of_sqlite_in_utc_and_in_microseconds(settings, tmp_path):
    hours = pd.date_range("2025-10-26 00:30", periods=2, freq="h", tz="UTC").tz_convert("Europe/Berlin")  # 2:30 twice
    nanoseconds = pd.to_datetime([1735689600123456789, 1], unit="ns")
    people(2).assign(at=hours, exact=nanoseconds).to_parquet(tmp_path / "in.parquet")
    batch_request = BatchRequest("loans", str(tmp_path / "in.parquet"), f"sqlite:///{tmp_path}/out.db", table="scores")
    predict_batch(batch_request, settings=settings)
    written = rows_in(batch_request.output, "scores")
    assert written["at"].tolist() == ["2025-10-26 00:30:00.000000", "2025-10-26 01:30:00.000000"]
    assert written["exact"].tolist() == ["2025-01-01 00:00:00.123456", "1970-01-01 00:00:00.000000"]


def test_a_key_can_be_chosen_and_is_the_row_number_where_nothing_else_is_left(settings, tmp_path):
    people(5).drop(columns="id").to_csv(tmp_path / "in.csv", index=False)
    batch_request = BatchRequest("loans", str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), chunk_rows=2)
    predict_batch(batch_request, settings=settings)
    assert pd.read_csv(tmp_path / "out.csv")["row"].tolist() == [0, 1, 2, 3, 4]
    predict_batch(replace(batch_request, key=("age",)), settings=settings)
    written = pd.read_csv(tmp_path / "out.csv")
    assert written["age"].tolist() == people(5)["age"].tolist()
    assert "row" not in written


# What does not fit


def _hurt(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, str]]:
    table = table.astype({"age": object, "income": object, "home": object})
    wrong = {3: ("age", None, "got null"), 7: ("home", "boat", "expected one of ['own', 'rent'], got 'boat'")}
    wrong |= {9: ("age", 130, "expected a number of at least 0 and at most 120, got 130")}
    wrong |= {
        41: ("income", np.inf, "expected a finite number, got Infinity"),
        42: ("age", 1.5, "whole number, got 1.5"),
    }
    for row, (column, value, _) in wrong.items():
        table.loc[row, column] = value
    return table, {row: reason for row, (_, _, reason) in wrong.items()}


@pytest.mark.parametrize("target", ["scores", "scores.csv"])
@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
def test_rows_that_break_the_signature_are_rejected_each_with_its_reason(source, target, settings, tmp_path):
    table, reasons = _hurt(people(100))
    if source == "in.csv":
        table.loc[50, "age"], reasons[50] = "old", "expected a number, got 'old'"
        table.to_csv(tmp_path / source, index=False)
    else:
        table.astype({"age": float, "income": float}).to_parquet(tmp_path / source)
    job = predict_batch(
        BatchRequest("loans", str(tmp_path / source), str(tmp_path / target), chunk_rows=30), 0.1, settings=settings
    )
    assert (job.rows, job.rejected) == (100 - len(reasons), len(reasons))
    read = pd.read_csv if target.endswith(".csv") else pd.read_parquet
    rejects, rows = read(tmp_path / f"{target}.rejects"), read(tmp_path / target)
    assert rejects["row"].tolist() == sorted(reasons)
    assert rejects["id"].tolist() == table["id"][sorted(reasons)].tolist()
    assert all(reasons[row] in reason for row, reason in zip(rejects["row"], rejects["reason"], strict=True))
    assert sorted([*rows["id"], *rejects["id"]]) == table["id"].tolist()


def test_a_row_of_a_csv_file_with_too_many_values_is_rejected_and_the_others_keep_their_numbers(settings, tmp_path):
    lines = people(6).drop(columns="id").to_csv(index=False).splitlines()
    lines[2] += ",1"
    (tmp_path / "in.csv").write_text("\n".join([*lines[:4], "", *lines[4:]]) + "\n\n")
    batch_request = BatchRequest("loans", str(tmp_path / "in.csv"), str(tmp_path / "out.csv"))
    predict_batch(batch_request, 0.5, settings=settings)
    assert pd.read_csv(tmp_path / "out.csv")["row"].tolist() == [0, 2, 3, 4, 5]
    assert pd.read_csv(tmp_path / "out.csv.rejects")["reason"][0] == "the row has 4 values, the table has 3 columns."


@pytest.mark.slow
def test_rejected_one_by_one_or_together_it_is_the_same(settings):
    """What a chunk rejects is exactly what the service would refuse."""
    registry = Registry.open(settings)
    predictor = registry.load("loans")
    table, _ = _hurt(people(60, seed=5))
    arrow = pyarrow.Table.from_pandas(table.astype({"age": float, "income": float})[SIGNATURE.names])
    refused = {}
    for row in range(60):
        try:
            predictor.predict_rows(arrow.slice(row, 1))
        except InputError as e:
            refused[row] = str(e).removeprefix("Row 0, ")
    sifted = predictor.predict_valid(arrow)
    assert sifted.refused == refused
    assert len(refused) == 5
    assert sorted([*sifted.rows.tolist(), *refused]) == list(range(60))
    predictor.close()
    registry.close()


@pytest.mark.slow
def test_too_many_rejects_stop_the_job_and_show_it_and_it_can_go_on(settings, tmp_path):
    table, _ = _hurt(people(100))
    table.to_csv(tmp_path / "in.csv", index=False)
    batch_request = BatchRequest("loans", str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), chunk_rows=10)
    with pytest.raises(BatchError, match=r"3 of 100 rows do not fit the model, more than the share of 0.02"):
        predict_batch(batch_request, 0.02, settings=settings)
    assert len(pd.read_csv(tmp_path / "out.csv.rejects")) == 3
    assert not (tmp_path / "out.csv").exists()
    registry = Registry.open(settings)
    stopped = Jobs(registry.engine).list()[0]
    assert (stopped.state, stopped.rows) == ("stopped", 7)
    assert "--max-rejects" in stopped.error
    registry.close()
    job = predict_batch(batch_request, 0.1, settings=settings)
    assert job.id == stopped.id
    assert (job.rows, job.rejected) == (95, 5)
    assert len(pd.read_csv(tmp_path / "out.csv.rejects")) == 5


@pytest.mark.parametrize("max_rejects", [0.0, 1.0])
def test_when_no_row_fits_there_is_no_prediction(max_rejects, settings, tmp_path):
    people(20).assign(age=-1).to_parquet(tmp_path / "in.parquet")
    batch_request = BatchRequest("loans", str(tmp_path / "in.parquet"), f"sqlite:///{tmp_path}/out.db", table="scores")
    with suppress(BatchError) if max_rejects == 0 else pytest.MonkeyPatch.context():
        assert predict_batch(batch_request, max_rejects, settings=settings).rejected == 20
    assert len(rows_in(f"sqlite:///{tmp_path}/out.db", "scores")) == 0
    assert len(rows_in(f"sqlite:///{tmp_path}/out.db", "scores_rejects")) == 20


# Once, and with what it began with


class PowerCut(Exception):
    """The runner is gone."""


def _cut_after(n: int):
    def run(score, numbers):
        for number in numbers[:n]:
            yield score(number)
        raise PowerCut

    return run


def _begun(batch_request: BatchRequest, settings: Settings, chunks: int = 2):
    with pytest.raises(PowerCut):
        predict_batch(batch_request, settings=settings, run=_cut_after(chunks))


@pytest.fixture
def batch_request(tmp_path):
    people(100).to_parquet(tmp_path / "in.parquet")
    return BatchRequest("loans", str(tmp_path / "in.parquet"), str(tmp_path / "scores"), chunk_rows=10)


@pytest.mark.slow
def test_a_job_keeps_its_version_when_production_moves_meanwhile(batch_request, settings, tmp_path):
    _begun(batch_request, settings)
    wanted = expected(settings, people(100))["prediction"].tolist()
    put_into_production(settings, tmp_path, seed=5)
    assert expected(settings, people(100))["prediction"].tolist() != wanted
    job = predict_batch(batch_request, settings=settings)
    scores = pd.read_parquet(tmp_path / "scores")
    assert job.version == 1
    assert set(scores["model_version"]) == {1}
    assert scores["prediction"].tolist() == wanted
    assert predict_batch(batch_request, settings=settings).version == 2, "done with version 1, so another job"


@pytest.mark.slow
def test_a_chunk_that_is_done_is_not_scored_again(batch_request, settings):
    _begun(batch_request, settings, chunks=3)
    seen = []

    def run(score, numbers):
        seen.extend(numbers)
        return map(score, numbers)

    assert predict_batch(batch_request, settings=settings, run=run).rows == 100
    assert seen == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.slow
def test_chunks_may_be_scored_in_any_order(batch_request, settings, tmp_path):
    predict_batch(batch_request, settings=settings, run=lambda score, numbers: map(score, reversed(numbers)))
    assert pd.read_parquet(tmp_path / "scores")["id"].tolist() == people(100)["id"].tolist()


@pytest.mark.slow
def test_a_changed_input_is_refused_until_the_job_is_restarted(batch_request, settings, tmp_path):
    _begun(batch_request, settings)
    people(100, seed=3).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(BatchError, match=r"in.parquet was changed since job .* began. --restart"):
        predict_batch(batch_request, settings=settings)
    job = predict_batch(batch_request, settings=settings, restart=True)
    wanted = expected(settings, people(100, seed=3))["prediction"].tolist()
    assert pd.read_parquet(tmp_path / "scores")["prediction"].tolist() == wanted
    assert job.rows == 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_input_that_is_replaced_while_it_is_read_gives_no_output(kind, batch_request, settings, tmp_path):
    file = tmp_path / f"in.{kind}"
    write = pd.DataFrame.to_parquet if kind == "parquet" else pd.DataFrame.to_csv
    write(people(100), file, index=False)
    batch_request = replace(batch_request, input=str(file))

    def run(score, numbers):
        for number in numbers:
            yield score(number)
            if number == 4:
                write(people(100, seed=3), tmp_path / "new", index=False)
                (tmp_path / "new").replace(file)

    with pytest.raises(BatchError, match=rf"in.{kind} was changed since job .* began. --restart"):
        predict_batch(batch_request, settings=settings, run=run)
    assert not Path(batch_request.output).exists()
    assert predict_batch(batch_request, settings=settings, restart=True).rows == 100
    assert len(pd.read_parquet(batch_request.output)) == 100


def test_other_options_are_refused_while_a_job_is_unfinished(batch_request, settings):
    _begun(batch_request, settings)
    with pytest.raises(BatchError, match=r"was begun with probability False, not True\. --restart begins anew"):
        predict_batch(replace(batch_request, probability=True), settings=settings)
    with pytest.raises(BatchError, match="was begun with version 'production', not '1'"):
        predict_batch(replace(batch_request, version="1"), settings=settings)
    with pytest.raises(BatchError, match="was begun with interval False, not True"):
        predict_batch(replace(batch_request, interval=True), settings=settings)


def test_option_that_is_left_out_is_refused_while_a_job_with_it_is_unfinished(batch_request):
    with_both = replace(batch_request, header=False, interval=True)
    job = SimpleNamespace(id="a", options=with_both.options())
    with pytest.raises(BatchError, match="was begun with header False, not True"):
        _check_options(batch_request, job)
    with pytest.raises(BatchError, match="was begun with interval True, not False"):
        _check_options(replace(batch_request, header=False), job)
    _check_options(with_both, job)


@pytest.mark.slow
def test_a_restarted_job_leaves_nothing_of_the_first_in_a_table(batch_request, settings, tmp_path):
    batch_request = replace(batch_request, output=f"sqlite:///{tmp_path}/out.db", table="scores")
    _begun(batch_request, settings)
    job = predict_batch(batch_request, settings=settings, restart=True)
    written = rows_in(batch_request.output, "scores")
    assert set(written["job"]) == {job.id}
    assert written["id"].is_unique
    assert len(written) == 100


@pytest.mark.slow
def test_the_same_job_again_does_nothing_unless_it_is_told_to(batch_request, settings, tmp_path):
    first = predict_batch(batch_request, settings=settings)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "scores").iterdir()}
    assert predict_batch(batch_request, settings=settings) == first
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "scores").iterdir()} == before
    assert predict_batch(batch_request, settings=settings, again=True).id != first.id
    assert len(pd.read_parquet(tmp_path / "scores")) == 100


@pytest.mark.slow
def test_a_smaller_job_leaves_no_part_of_a_larger_one(batch_request, settings, tmp_path):
    predict_batch(batch_request, settings=settings)
    people(25).to_parquet(tmp_path / "in.parquet")
    predict_batch(batch_request, settings=settings)
    assert len(pd.read_parquet(tmp_path / "scores")) == 25


@pytest.mark.slow
def test_a_query_is_asked_once_a_job_and_its_change_is_seen(settings, tmp_path):
    source, query = _write_source("sql", people(100), tmp_path / "db")
    batch_request = BatchRequest("loans", source, str(tmp_path / "scores.csv"), query, chunk_rows=10)
    _begun(batch_request, settings)
    engine = sa.create_engine(source, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE people SET income = 0"))
    assert predict_batch(batch_request, settings=settings).rows == 100
    wanted = expected(settings, people(100))["prediction"].tolist()
    assert pd.read_csv(tmp_path / "scores.csv")["prediction"].tolist() == wanted, "the rows that it began with"
    assert predict_batch(batch_request, settings=settings).rows == 100
    assert set(pd.read_csv(batch_request.output)["prediction"]) == {"no"}, "and then those that there are"
    engine.dispose()
    kept = [p for p in Path(settings.batch).iterdir() if p.suffix != ".lock"]
    assert kept == []


def test_what_was_kept_of_a_query_goes_when_no_job_begins(settings, tmp_path):
    source, query = _write_source("sql", people(100), tmp_path / "db")
    batch_request = BatchRequest("loans", source, str(tmp_path / "scores"), query)

    def kept():
        return [p.name for p in Path(settings.batch).rglob("*") if p.suffix != ".lock"]

    with pytest.raises(DataError, match="Column 'age' is missing"):
        predict_batch(replace(batch_request, query="SELECT id FROM people"), settings=settings)
    assert kept() == [], "the request was wrong"
    job = predict_batch(batch_request, settings=settings)
    assert predict_batch(batch_request, settings=settings) == job
    assert kept() == [], "there was nothing to do"


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_join", "touch", "clear"])
def test_publishing_that_is_killed_is_done_again(step, batch_request, settings, tmp_path, monkeypatch):
    from mlops_nb.batch import file_sink

    def die(*args, **kwargs):
        raise PowerCut

    batch_request = replace(batch_request, output=str(tmp_path / "scores.csv"))
    with monkeypatch.context() as patched:
        local = fsspec.implementations.local.LocalFileSystem
        where = {"_join": file_sink, "touch": local, "clear": file_sink.PartFolder}[step]
        patched.setattr(where, step, die)
        with pytest.raises(PowerCut):
            predict_batch(batch_request, settings=settings)
    job = predict_batch(batch_request, settings=settings)
    assert job.state == "finished"
    assert pd.read_csv(tmp_path / "scores.csv")["id"].tolist() == people(100)["id"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["{tmp_path}/scores.csv", "memory://{tmp_path.name}/scores"])
def test_clearing_that_is_killed_takes_nothing_from_the_output(output, batch_request, settings, tmp_path, monkeypatch):
    batch_request = replace(batch_request, output=output.format(tmp_path=tmp_path))
    filesystem, path = fsspec.core.url_to_fs(batch_request.output)
    first_to_go, rm = (f"{path}.parts/{name}" for name in ("published", "rows/part-000003.parquet")), filesystem.rm

    def die(path, **more):  # a folder goes file by file, in any batch_request
        for name in first_to_go:
            if name.startswith(path) and filesystem.exists(name):
                rm(name)
        raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(filesystem, "rm", die)
        with pytest.raises(PowerCut):
            predict_batch(batch_request, settings=settings)
    job = predict_batch(batch_request, settings=settings)
    parts = [path] if batch_request.output.endswith(".csv") else filesystem.ls(path, detail=False)
    read = pd.read_csv if batch_request.output.endswith(".csv") else pd.read_parquet
    ids = [name for part in sorted(parts) for name in read(filesystem.open(part))["id"]]
    assert job.state == "finished"
    assert ids == people(100)["id"].tolist()
    assert not filesystem.exists(f"{path}.parts")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data [v2]/scores", "data [v2]/scores.csv"])
def test_an_output_may_have_any_name(name, batch_request, settings, tmp_path):
    batch_request = replace(batch_request, output=str(tmp_path / name))
    _begun(batch_request, settings)
    assert predict_batch(batch_request, settings=settings).rows == 100
    read = (
        pd.read_csv if name.endswith(".csv") else lambda path: pd.concat(map(pd.read_parquet, sorted(path.iterdir())))
    )
    assert read(tmp_path / name)["id"].tolist() == people(100)["id"].tolist()
    assert head(batch_request)["id"].tolist() == people(10)["id"].tolist()


def test_a_part_that_was_not_on_the_disk_when_the_power_went_is_scored_again(batch_request, settings, tmp_path):
    _begun(batch_request, settings)
    (tmp_path / "scores.parts" / "rows" / "part-000001.parquet").write_bytes(b"")
    predict_batch(batch_request, settings=settings)
    assert pd.read_parquet(tmp_path / "scores")["id"].tolist() == people(100)["id"].tolist()


def test_a_second_process_is_told_that_the_job_runs(batch_request, settings):
    def run(score, numbers):
        with pytest.raises(BatchError, match="Another process is writing to"):
            predict_batch(batch_request, settings=settings)
        return map(score, numbers)

    predict_batch(batch_request, settings=settings, run=run)


def test_options_and_fingerprint_are_stored_as_earlier_releases_did(batch_request):
    names = ["name", "input", "output", "query", "table", "version", "key", "probability", "log", "chunk_rows"]
    assert list(batch_request.options()) == names
    status = Path(batch_request.input).stat()
    facts = [(batch_request.input, [("size", str(status.st_size)), ("mtime", str(status.st_mtime))])]
    stored = hashlib.sha256(repr(facts).encode()).hexdigest()
    assert files_fingerprint(fsspec.filesystem("file"), [batch_request.input]) == stored


@pytest.mark.slow
def test_another_machine_is_told_that_the_job_runs(batch_request, settings, tmp_path):
    elsewhere = replace(settings, batch=str(tmp_path / "elsewhere"))

    def run(score, numbers):
        with pytest.raises(BatchError, match=rf"Another process is writing to .*scores now: .*:{os.getpid()} since "):
            predict_batch(batch_request, settings=elsewhere)
        return map(score, numbers)

    predict_batch(batch_request, settings=settings, run=run)
    assert predict_batch(batch_request, settings=elsewhere, again=True).rows == 100


@pytest.mark.parametrize("step", ["makedirs", "pipe_file"])
def test_a_job_that_is_killed_as_it_begins_goes_on(step, batch_request, settings, tmp_path, monkeypatch):
    def die(*_, **more):
        raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(fsspec.implementations.local.LocalFileSystem, step, die)
        with pytest.raises(PowerCut):
            predict_batch(batch_request, settings=settings)
    assert predict_batch(batch_request, settings=settings).rows == 100


@pytest.mark.slow
def test_two_workers_that_score_the_same_chunk_leave_it_once(batch_request, settings, tmp_path):
    batch_request = replace(batch_request, output=f"sqlite:///{tmp_path}/out.db", table="scores")
    predict_batch(
        batch_request, settings=settings, run=lambda score, numbers: map(score, [n for n in numbers for _ in "12"][1:])
    )
    assert len(rows_in(batch_request.output, "scores")) == 100


def test_what_no_job_wrote_is_not_written_over(batch_request, settings, tmp_path):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "mine.txt").write_text("mine")
    with pytest.raises(BatchError, match="exists, and no job that is known here wrote it"):
        predict_batch(batch_request, settings=settings)
    assert (tmp_path / "scores" / "mine.txt").read_text() == "mine"
    (tmp_path / "scores").rename(tmp_path / "other.rejects")
    with pytest.raises(BatchError, match=r"other\.rejects exists, and no job that is known here wrote it"):
        predict_batch(replace(batch_request, output=str(tmp_path / "other")), settings=settings)
    assert (tmp_path / "other.rejects" / "mine.txt").read_text() == "mine"
    with sa.create_engine(f"sqlite:///{tmp_path}/out.db", poolclass=sa.NullPool).begin() as connection:
        connection.execute(sa.text("CREATE TABLE scores (other INT)"))
        connection.engine.dispose()
    with pytest.raises(BatchError, match="The table 'scores' has no column 'id'"):
        predict_batch(replace(batch_request, output=f"sqlite:///{tmp_path}/out.db", table="scores"), settings=settings)


# The prediction log


@pytest.mark.slow
def test_logged_predictions_have_the_same_ids_when_a_chunk_is_scored_again(batch_request, settings):
    batch_request = replace(batch_request, log=True)
    log = PredictionLog.open(settings)

    def run(score, numbers):
        score(numbers[0])
        (Path(f"{batch_request.output}.parts") / "rows" / "part-000000.parquet").unlink()
        raise PowerCut

    with pytest.raises(PowerCut):
        predict_batch(batch_request, settings=settings, run=run)
    assert log.count("loans") == 10
    job = predict_batch(batch_request, settings=settings)
    window = log.read("loans", roles=["batch"])
    assert len(window) == 100
    assert set(window.predictions["role"]) == {"batch"}
    assert sorted(window.predictions.index) == sorted(f"{job.id}-{n}-0-{i}" for n in range(10) for i in range(10))
    assert sorted(window.inputs["income"]) == sorted(people(100)["income"])
    log.close()


@pytest.mark.slow
def test_logged_predictions_are_watched_apart_from_those_of_the_service(batch_request, settings, tmp_path):
    people(500).to_parquet(tmp_path / "in.parquet")
    predict_batch(replace(batch_request, log=True), settings=settings)
    assert monitor("loans", settings, rows=1000).rows == 0
    looked = monitor("loans", settings, rows=1000, roles=["batch"])
    assert looked.rows == 500
    assert looked.traffic is None
    assert not looked.drift.drifting


# What is refused before anything is done


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"input": "nowhere.csv"}, DataError, "Cannot read nowhere.csv: there is nothing of this name"),
        ({"input": "empty.csv"}, DataError, "empty.csv has no rows"),
        ({"input": "broken.parquet"}, DataError, "Cannot read broken.parquet as Parquet"),
        ({"input": "in.docx"}, DataError, "Cannot tell how to read in.docx"),
        ({"input": "few.csv"}, DataError, "Column 'income' is missing in few.csv"),
        ({"input": "open.csv"}, DataError, r"Cannot read open.csv: .* is a quote missing\? Write it as Parquet"),
        ({"input": "taken.csv"}, BatchError, "has a column 'prediction', .* Rename it there, or name with --key"),
        ({"input": "taken.csv", "key": ("prediction",)}, BatchError, "--key the columns to keep instead: 'id', 'age'"),
        ({"input": "sqlite:///x.db"}, DataError, "is a database: say what to read with a query"),
        ({"input": "sqlite:///x.db", "query": "SELECT 1 FROM no"}, DataError, "no such table: no"),
        ({"input": "postgresql://u:secret@h/db", "query": "SELECT 1"}, DataError, "a password in plain text"),
        ({"key": ("nr",)}, DataError, "has no column 'nr' for the key"),
        ({"name": "loan"}, NotFoundError, "No model 'loan' is registered. Did you mean 'loans'"),
        ({"version": "7"}, NotFoundError, "has no version 7"),
        ({"output": "out.xlsx"}, BatchError, "Cannot tell how to write out.xlsx"),
    ],
)
def test_impossible_request_is_refused_at_once(changed, error, message, batch_request, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "empty.csv": "",
        "in.docx": "x",
        "few.csv": "age\n1\n",
        "open.csv": 'age,income,home\n1,2,"own\n' + "1,2,rent\n" * 20_000,
    }.items():
        Path(name).write_text(text)
    people(3).assign(prediction=1).to_csv("taken.csv", index=False)
    Path("broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(error, match=message):
        predict_batch(replace(batch_request, **changed), settings=settings)
    registry = Registry.open(settings)
    assert Jobs(registry.engine).list() == []
    registry.close()
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "value", "places"),
    [
        (pyarrow.list_(pyarrow.float64()), [0.5], ["csv", "sqlite", "postgresql"]),
        (pyarrow.struct({"a": pyarrow.int64()}), {"a": 1}, ["csv", "sqlite", "postgresql"]),
        (pyarrow.binary(), b"\xff", ["csv", "postgresql"]),
    ],
)
def test_a_key_that_the_output_has_no_values_for_is_refused(
    kind, value, places, batch_request, settings, postgres_url, tmp_path
):
    table = parquet.read_table(batch_request.input).append_column("more", pyarrow.array([value] * 100, kind))
    parquet.write_table(table, batch_request.input)
    outputs = {"parquet": batch_request, "csv": replace(batch_request, output=str(tmp_path / "scores.csv"))}
    for name, url in {"sqlite": f"sqlite:///{tmp_path}/out.db", "postgresql": postgres_url}.items():
        outputs[name] = replace(batch_request, output=url, table="scores")
    for name in places:
        with pytest.raises(BatchError, match=r"no values for the column 'more', which is .* --key, or write Parquet"):
            predict_batch(outputs[name], settings=settings)
    assert predict_batch(replace(outputs["csv"], key=("id",)), settings=settings).rows == 100
    for name in outputs.keys() - places:
        assert predict_batch(outputs[name], settings=settings).rows == 100
    assert pd.read_parquet(tmp_path / "scores")["more"].tolist() == [value] * 100


def test_a_secret_is_neither_stored_nor_printed(settings, postgres_url, tmp_path, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "hunter2secret")
    people(30).to_csv(tmp_path / "in.csv", index=False)
    url = postgres_url.replace("postgres@", "postgres:${DB_PASSWORD}@")
    batch_request = BatchRequest("loans", str(tmp_path / "in.csv"), url, table="scores")
    predict_batch(batch_request, settings=settings)
    assert len(rows_in(postgres_url, "scores")) == 30
    content = b"".join(p.read_bytes() for p in (tmp_path / "store").glob("mlops.db*"))
    assert b"${DB_PASSWORD}" in content
    assert b"hunter2secret" not in content
    unreachable = "postgresql+psycopg://postgres:${DB_PASSWORD}@127.0.0.1:1/no"
    with pytest.raises(DataError) as caught:
        predict_batch(
            replace(batch_request, input=unreachable, query="SELECT 1", output=f"{tmp_path}/o.csv", table=None),
                      settings=settings)  # fmt: skip
    assert "hunter2secret" not in str(caught.value)


# The command


def test_the_command_scores_lists_and_fails_with_its_exit_code(batch_request, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = ["predict", "loans", "--input", "in.parquet", "--output", "scores.csv"]
    done = CliRunner().invoke(main, [*call, "--probability", "--json"])
    assert done.exit_code == 0, done.output
    job = json.loads(done.stdout)
    assert (job["state"], job["rows"], job["version"]) == ("finished", 100, 1)
    again = CliRunner().invoke(main, [*call, "--probability"])
    assert again.exit_code == 0
    assert "Nothing to do: job" in again.stderr
    assert "100 rows scored, 0 rejected" in again.stdout
    listed = json.loads(CliRunner().invoke(main, ["predict", "--list", "--json"]).stdout)
    assert [j["id"] for j in listed] == [job["id"]]
    assert job["id"] in CliRunner().invoke(main, ["predict", "loans", "--list"]).stdout
    assert CliRunner().invoke(main, ["predict", "loans"]).exit_code == 2
    wrong = CliRunner().invoke(main, [*call[:-1], "other.csv", "--key", "nr"])
    assert wrong.exit_code == 1
    assert "has no column 'nr'" in wrong.stderr


@pytest.mark.slow
def test_the_line_for_cron_works_without_an_environment(settings, tmp_path):
    people(50).to_csv(tmp_path / "in.csv", index=False)
    docs = (Path(__file__).parents[2] / "docs/batch.md").read_text()
    line = next(line for line in docs.splitlines() if line.startswith("15 2 * * *"))
    command = line.split(maxsplit=5)[5].replace("/srv/churn/.venv/bin", str(BIN)).replace("/srv/churn", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "in.csv").rename(tmp_path / "data" / "customers.csv")
    for _ in range(2):
        bare = [
            "env",
            "-i",
            f"HOME={tmp_path}",
            "PATH=/usr/bin:/bin",
            "/bin/sh",
            "-c",
            command.replace("churn ", "loans "),
        ]
        done = subprocess.run(bare, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "batch.log").read_text()
    assert len(pd.read_parquet(tmp_path / "scores")) == 50
    assert "Nothing to do" in (tmp_path / "batch.log").read_text()


# Killed


def _start(batch_request: BatchRequest, home: Path) -> subprocess.Popen:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")} | {"MLOPS_HOME": str(home)}
    wanted = batch_request
    command = [BIN / "mlops-nb", "predict", wanted.name, "--input", wanted.input, "--output", wanted.output]
    command += ["--chunk-rows", str(wanted.chunk_rows), *(["--table", wanted.table] if wanted.table else [])]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _kill_at_random(batch_request: BatchRequest, settings: Settings, times: int, rng: random.Random):
    """Start the command, and kill it when it has done a few more chunks, somewhere within the next."""
    registry = Registry.open(settings)
    jobs, kills = Jobs(registry.engine), 0
    chunks = parquet.read_metadata(batch_request.input).num_rows // batch_request.chunk_rows
    for number in range(times):
        process = _start(batch_request, settings.home)
        wanted = rng.uniform(number, number + 1) / times * chunks * batch_request.chunk_rows
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            found = jobs.list(batch_request.name, 1)
            if found and found[0].output == batch_request.destination and found[0].rows >= wanted:
                time.sleep(rng.uniform(0, 0.05))  # anywhere within a chunk: this is the random moment itself
                break
            time.sleep(0.002)
        kills += process.poll() is None
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.communicate()
    registry.close()
    assert kills == times, "it was finished before it could be killed as often"
    process = _start(batch_request, settings.home)
    assert process.communicate(timeout=300)[1] is not None
    assert process.returncode == 0


def _check_same_files(killed: str, alone: str, rows: int):
    one, other = (pd.read_parquet(path).drop(columns="predicted_at", errors="ignore") for path in (killed, alone))
    pd.testing.assert_frame_equal(one, other)
    assert len(one) == rows
    assert one["id"].is_unique


def _check_same_tables(url: str, killed: str, alone: str, columns: str, rows: int):
    engine = connect(url)
    with reading(engine) as connection:
        for one, other in ((killed, alone), (alone, killed)):
            extra = f"SELECT {columns} FROM {one} EXCEPT SELECT {columns} FROM {other}"
            assert connection.execute(sa.text(extra)).all() == []
            counts = connection.execute(sa.text(f"SELECT COUNT(*), COUNT(DISTINCT id) FROM {one}")).one()
            assert tuple(counts) == (rows, rows)
    engine.dispose()


def _killed_and_left_alone(
    kind: str, rows: int, chunk_rows: int, times: int, settings: Settings, folder: Path, postgres_url: str | None
):
    table = people(rows)
    table.loc[::997, "age"] = 500  # some are rejected, and these once as well
    rejected = len(range(0, rows, 997))
    table.to_parquet(folder / "in.parquet", row_group_size=rows // 3)
    url = {"sqlite": settings.database_url, "postgresql": postgres_url}.get(kind)
    output = [url or f"{folder}/{name}" for name in ("killed", "alone")]
    killed = BatchRequest("loans", f"{folder}/in.parquet", output[0], None, url and "killed", chunk_rows=chunk_rows)
    _kill_at_random(killed, settings, times, random.Random(rows))
    predict_batch(replace(killed, output=output[1], table=url and "alone"), settings=settings)
    if url:
        _check_same_tables(url, "killed", "alone", "id, prediction, model, model_version", rows - rejected)
        _check_same_tables(url, "killed_rejects", "alone_rejects", '"row", id, reason', rejected)
    else:
        _check_same_files(*output, rows - rejected)
        _check_same_files(f"{output[0]}.rejects", f"{output[1]}.rejects", rejected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "sqlite"])
def test_a_job_that_was_killed_gives_the_same_table(kind, settings, tmp_path):
    _killed_and_left_alone(kind, 60_000, 1000, 2, settings, tmp_path, None)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["parquet", "sqlite", "postgresql"])
def test_a_million_rows_killed_ten_times_give_the_same_table(kind, settings, tmp_path, postgres_url):
    _killed_and_left_alone(kind, 1_000_000, 10_000, 10, settings, tmp_path, postgres_url)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(settings, tmp_path):
    code = (
        "import re, sys; from pathlib import Path; from mlops_nb.batch.jobs import BatchRequest, predict_batch\n"
        "predict_batch(BatchRequest('loans', sys.argv[1], sys.argv[1] + '.scores/', chunk_rows=20_000))\n"
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    peaks = []
    for rows in (200_000, 1_000_000):
        people(rows).to_parquet(tmp_path / f"{rows}.parquet")
        env = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")} | {"MLOPS_HOME": str(tmp_path)}
        command = [sys.executable, "-c", code, str(tmp_path / f"{rows}.parquet")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 60, peaks  # a million rows are 60 MiB in the file, and more in memory


# How a table is cut


def test_row_groups_of_any_size_are_cut_into_chunks_and_read_in_any_order(tmp_path):
    people(100).to_parquet(tmp_path / "in.parquet", row_group_size=37)
    source = open_source(str(tmp_path / "in.parquet"), None, tmp_path, 10)
    assert [c.rows for c in source.chunks] == [10, 10, 10, 7, 10, 10, 10, 7, 10, 10, 6]
    shuffled = random.Random(0).sample(source.chunks, len(source.chunks))
    pieces = {c.number: source.read(c, SIGNATURE, ["id"]).table["id"].to_pylist() for c in shuffled}
    assert [i for number in sorted(pieces) for i in pieces[number]] == people(100)["id"].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_a_csv_file_is_cut_where_its_rows_end(seed, tmp_path):
    import csv
    import io

    rng = random.Random(seed)
    values = ["a", "", "x,y", 'q"r', '"', "m\nn" if seed % 3 == 0 else "z", "ü"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=rng.choice(["\n", "\r\n"]))
    rows = [[str(i), rng.choice(values)] for i in range(rng.randint(1, 40))]
    writer.writerow(["age", "id"])
    for row in rows:
        writer.writerow(row)
        out.write("\n" * rng.choice([0, 0, 0, 1, 2]))
    text = out.getvalue() if seed % 2 else out.getvalue().rstrip()
    (tmp_path / "in.csv").write_bytes(text.encode())
    source = open_source(str(tmp_path / "in.csv"), None, tmp_path, rng.randint(1, 9))
    signature = Signature((Input("age"),), "regression", "y")
    pieces = [source.read(c, signature, ["id"]) for c in source.chunks]
    assert [v for p in pieces for v in p.table["id"].to_pylist()] == [row[1] for row in rows]
    assert [n for p in pieces for n in p.row_numbers] == list(range(len(rows)))


def test_a_predictor_that_has_all_rows_refused_has_no_answer(made):
    predictor = Predictor.load(made / "bundle0")
    sifted = predictor.predict_valid(pyarrow.table({"age": [None], "income": [1.0], "home": ["own"]}))
    assert sifted.predictions is None
    assert list(sifted.refused) == [0]
    predictor.close()
