"""What W&B gets, read back from its offline files with W&B's own reader."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mlops_nb.errors import PipelineError, SettingsError
from mlops_nb.orchestration import sweep
from mlops_nb.store import wandb as wandb_module
from mlops_nb.store import wandb_account
from mlops_nb.store.git import GitState
from mlops_nb.store.runs import Run
from mlops_nb.store.wandb import (
    LARGEST_COPY,
    RunContent,
    account,
    log_batch_to_wandb,
    log_health_to_wandb,
    log_to_wandb,
)
from tests.wandb_files import artifacts, of_kind, records_of, table_of, updates

CODE = GitState("abc", "main", True, "", ())
CURVE = {"columns": ["class", "false positive rate", "true positive rate"], "data": [["1", 0.0, 0.0], ["1", 1.0, 1.0]]}


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


@pytest.mark.slow
def test_monitoring_check_has_its_type_and_the_table_of_drift(run, monkeypatch):
    """The run that a check continues online, written where it can be read."""
    opened = wandb_module._wandb_run
    monkeypatch.setattr(wandb_module, "wandb_mode", lambda: "online")

    def offline(*given, **options):
        monkeypatch.setattr(wandb_module, "wandb_mode", lambda: "offline")
        return opened(*given, **options)

    monkeypatch.setattr(wandb_module, "_wandb_run", offline)
    drift = {"columns": ["name", "drifted"], "data": [["age", True], ["city", None]]}
    where = "a-project", run.folder.parent
    assert log_health_to_wandb("toy", 1, {"rows": 10}, {}, *where, {"drift": drift}) is None
    check = Run(run.folder.parent / "monitor-toy-1")
    records = records_of(check)
    begun = of_kind(records, "run")[0]
    assert (begun["run_group"], begun["job_type"]) == ("toy", "monitor")
    assert table_of(check, "drift") == drift


class RecordedArtifact:
    """An Artifact as W&B's API gives it, with a record of what was asked of it."""

    def __init__(self, name: str, aliases: list[str]):
        self.name, self.aliases, self.saved, self.links = name, aliases, [], []

    def save(self):
        self.saved.append([*self.aliases])

    def link(self, target: str, aliases: list[str]):
        self.links.append((target, aliases))


class RecordedAccount:
    """W&B's module as far as an account is needed: an API, and an agent that tries two candidates."""

    def __init__(self, *artifacts: RecordedArtifact):
        self.artifacts, self.sweeps = {found.name: found for found in artifacts}, []

    def Api(self):
        return self

    def artifact(self, name: str, type: str) -> RecordedArtifact:
        assert type == "model"
        return self.artifacts[name]

    def sweep(self, config: dict, project: str) -> str:
        self.sweeps.append((config, project))
        return "sweep-1"

    def agent(self, sweep: str, function, project: str, count: int):
        import wandb

        for value in (0.1, 10)[:count]:
            self.run = wandb.init(mode="disabled", config={"C": value})
            function()

    def init(self, **options):
        self.given = options
        return self.run


@pytest.fixture
def recorded(monkeypatch) -> RecordedAccount:
    first = RecordedArtifact("p/toy:version-1", ["version-1", "production"])
    account = RecordedAccount(first, RecordedArtifact("p/toy:version-2", ["version-2", "latest"]))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb_account, "account", lambda what: account)
    return account


def test_promotion_moves_the_alias_of_the_artifact_and_links_it_to_the_registry(recorded):
    assert wandb_account.move_alias("toy", "production", 2, 1, "p") is None
    moved = recorded.artifacts["p/toy:version-2"]
    assert moved.saved == [["version-2", "latest", "production"]]
    assert moved.links == [("wandb-registry-model/toy", ["production"])]
    assert wandb_account.move_alias("toy", "staging", 1, 2, "p") is None
    assert not recorded.artifacts["p/toy:version-1"].links, "production alone is linked"


def test_alias_that_was_cleared_is_taken_from_the_artifact(recorded):
    recorded.artifacts["p/toy:version-1"].aliases.append("canary")
    assert wandb_account.move_alias("toy", "canary", None, 1, "p") is None
    assert recorded.artifacts["p/toy:version-1"].saved == [["version-1", "production"]]


def test_version_that_wandb_does_not_have_is_a_problem_and_no_error(recorded):
    assert wandb_account.move_alias("toy", "production", 3, 2, "p") == "KeyError: 'p/toy:version-3'"


@pytest.mark.slow
def test_sweep_tries_what_wandb_chooses_and_trains_the_best(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    (tmp_path / "sweep.yaml").write_text("method: random\nrun_cap: 2\nparameters:\n  C: {values: [0.1, 10]}\n")
    monkeypatch.setattr(sweep, "find_project", lambda: tmp_path)
    spec = SimpleNamespace(name="toy", scorer="accuracy")
    scored = []
    best, table = sweep.search_by_sweep(
        spec, {"tol": 1}, lambda params: scored.append(params) or [params["C"], params["C"]]
    )
    assert scored == [{"tol": 1, "C": 0.1}, {"tol": 1, "C": 10}], "those of the build are in every candidate"
    assert best == {"tol": 1, "C": 10}
    assert table[["C", "mean", "rank"]].to_dict("list") == {"C": [10, 0.1], "mean": [10, 0.1], "rank": [1, 2]}
    config, _ = recorded.sweeps[0]
    assert config["metric"] == {"name": "accuracy", "goal": "maximize"}
    assert (recorded.given["group"], recorded.given["job_type"]) == ("toy", "search")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "there is no sweep.yaml"),
        ("parameters: {}", "must have method"),
        ("method: bayes\nparameters: {C: {min: 0, max: 1}}", "give run_cap"),
    ],
)
def test_sweep_that_cannot_work_is_refused_before_the_build(tmp_path, text, problem):
    if text:
        (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(PipelineError, match=problem):
        sweep.read_sweep(tmp_path)
