"""What W&B gets, read back from its offline files with W&B's own reader."""

import json
import subprocess
from pathlib import Path

import pytest

from mlops_nb.errors import SettingsError
from mlops_nb.store.git import GitState
from mlops_nb.store.runs import Run
from mlops_nb.store.wandb import (
    LARGEST_COPY,
    RunContent,
    account,
    log_batch_to_wandb,
    log_to_wandb,
    offline_folder,
)

CODE = GitState("abc", "main", True, "", ())
CURVE = {"columns": ["class", "false positive rate", "true positive rate"], "data": [["1", 0.0, 0.0], ["1", 1.0, 1.0]]}


def records_of(run: Run) -> list[dict]:
    """The records of an offline run, one a line."""
    from wandb.util import get_core_path

    file = next(offline_folder(run).glob("*.wandb"))
    command = [
        get_core_path(),
        "leet",
        "inspect",
        "--no-observability",
        "--json",
        "--run-file",
        str(file),
        str(file.parent),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_kind(records: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in records if record["type"] == kind]


def updates(records: list[dict], kind: str) -> dict:
    """All updates of the config or of the summary, the last first."""
    values: dict = {}
    for record in of_kind(records, kind):
        values |= record.get("update", {})
    return values


def artifacts(records: list[dict]) -> dict[str, dict]:
    return {found["name"]: found for found in of_kind(records, "artifact")}


def table_of(run: Run, name: str) -> dict:
    """A table that an offline run has, by its key."""
    file = next((offline_folder(run) / "files/media/table").glob(f"{name}_*.table.json"))
    return json.loads(file.read_text())


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    monkeypatch.delenv("WANDB_CACHE_DIR", raising=False)
    run = Run(tmp_path / "runs" / "20260101-000000-000000")
    run.start("toy", CODE, spec="toy", params={"search": {"C": [1, 2]}})
    return run


@pytest.fixture
def bundle(tmp_path) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/manifest.json").write_text("{}")
    return tmp_path / "bundle"


@pytest.mark.slow
def test_build_is_a_run_with_group_goals_charts_tables_and_lineage(run, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "hunter2-hunter2")
    metrics = {"accuracy": 0.9, "interval_width": 2.0, "interval_coverage": 0.8}
    run.finish(metrics=metrics, baseline={"accuracy": 0.5}, passed=True, version=3, data={"rows": 3, "source": "x.csv"})
    (data := tmp_path / "0a1b.parquet").write_bytes(b"rows")
    tables = {"gates": {"columns": ["gate", "note"], "data": [["minimum", "hunter2-hunter2"], ["champion", None]]}}
    datasets = {"toy-data": str(data), "toy-holdout": "s3://bucket/data/0c2d.parquet"}
    content = RunContent({}, {"roc": CURVE}, tables, datasets, bundle, ["production"])
    assert log_to_wandb(run, "a-project", content) is None
    records = records_of(run)
    begun = of_kind(records, "run")[0]
    assert (begun["run_group"], begun["job_type"], begun["run_id"]) == ("toy", "build", run.id)
    assert set(begun["tags"]) == {"gates passed", "uncommitted code", "search"}
    assert "host" not in begun
    goals = {metric["name"]: metric["summary"] for metric in of_kind(records, "metric")}
    assert goals["accuracy"] == {"max": True, "last": True}
    assert goals["interval_width"] == {"min": True, "last": True}
    assert goals["interval_coverage"] == {"last": True}
    summary = updates(records, "summary")
    assert (summary["accuracy"], summary["baseline/accuracy"], summary["version"]) == (0.9, 0.5, 3), "plain values"
    panel = updates(records, "config")["_wandb.visualize.roc"]["panel_config"]
    assert panel["panelDefId"] == "wandb/area-under-curve/v0"
    assert set(panel["fieldSettings"].values()) == set(table_of(run, "roc_table")["columns"])
    assert table_of(run, "gates")["data"] == [["minimum", "[secret]"], ["champion", None]]
    found = artifacts(records)
    assert found["toy-data"]["type"] == "dataset"
    assert found["toy-data"]["use_after_commit"], "the run uses it"
    assert found["toy-data"]["manifest"]["contents"][0]["local_path"] == str(data), "it is not copied twice"
    reference = found["toy-holdout"]["manifest"]["contents"][0]
    assert (reference["ref"], reference["digest"]) == ("s3://bucket/data/0c2d.parquet", "0c2d")
    assert found["toy"]["type"] == "model"
    assert not found["toy"].get("use_after_commit"), "the run makes it"
    assert {"version-3", "production"} <= set(found["toy"]["aliases"])


@pytest.mark.slow
def test_large_snapshot_is_a_reference_and_a_retraining_has_its_type(run, tmp_path):
    run.finish(metrics={}, passed=False, decision={"action": "refused", "reasons": ["worse"], "champion": 1})
    with (large := tmp_path / "0e3f.parquet").open("wb") as file:
        file.truncate(LARGEST_COPY + 1)
    assert log_to_wandb(run, "a-project", RunContent(datasets={"toy-data": str(large)})) is None
    records = records_of(run)
    begun = of_kind(records, "run")[0]
    assert (begun["job_type"], begun["notes"]) == ("retrain", "worse")
    assert {"refused", "gates failed"} <= set(begun["tags"])
    assert artifacts(records)["toy-data"]["manifest"]["contents"][0]["ref"] == large.as_uri()


@pytest.mark.slow
def test_batch_job_is_one_run_however_often_it_is_copied(run):
    job = {"id": "j1", "name": "toy", "version": 2, "input": "a.csv", "output": "b.csv", "state": "finished"}
    job |= {"rows": 10, "rejected": 1, "chunks": 1, "seconds": 0.5}
    for _ in range(2):
        assert log_batch_to_wandb(job, "a-project", run.folder.parent) is None
    folders = list(run.folder.parent.glob("wandb/offline-run-*-batch-j1"))
    assert len(folders) == 1
    records = records_of(Run(run.folder.parent / "batch-j1"))
    begun = of_kind(records, "run")[0]
    assert (begun["run_group"], begun["job_type"], begun["config"]["update"]["version"]) == ("toy", "batch", 2)
    assert updates(records, "summary")["rejected"] == 1


def test_what_needs_an_account_says_so_without_one(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(SettingsError, match="A sweep needs W&B online, and it is offline"):
        account("A sweep")
