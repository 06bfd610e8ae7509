"""What `ploomber build` does, run as a person runs it."""

import json
import re
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import nbformat
import pytest

from mlops_nb.monitor.prediction_log import PredictionLog, PredictionRecord
from mlops_nb.settings import Settings
from mlops_nb.store.runs import Run
from mlops_nb.store.wandb import offline_folder
from tests.wandb_files import artifacts, records_of, table_of, updates

pytestmark = pytest.mark.slow

ALL = ["ingest", "train", "evaluate", "package", "register"]
NO_TRIAL = {"canary": None, "shadow": None}


def outputs(path: Path) -> list:
    """What the cells of an executed notebook show, without counters."""
    cells = [
        c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and not c.source.startswith("# Parameters")
    ]
    return [
        [{k: v for k, v in o.items() if k not in ("execution_count", "metadata")} for o in c.outputs] for c in cells
    ]


def edit(path: Path, old: str, new: str):
    """Replace code in a notebook."""
    nb = nbformat.read(path, 4)
    hits = [c for c in nb.cells if old in c.source]
    assert len(hits) == 1
    hits[0].source = hits[0].source.replace(old, new)
    nbformat.write(nb, path)


def test_first_build_registers_and_promotes(built_once):
    assert built_once.json("models", "list") == [
        {"name": "toy", "versions": 1, "staging": 1, "production": 1, **NO_TRIAL}
    ]
    assert built_once.read("registration.json")["reason"] == "in production, all 2 gates passed"


def test_build_with_nothing_changed_runs_and_registers_nothing(built):
    assert built.build() == []
    assert len(built.json("models", "list", "toy")) == 1
    assert len(built.json("runs", "list")) == 1


def test_forced_build_gives_the_same_model_and_no_new_version(built):
    first = built.read("bundle/manifest.json"), built.read("bundle/golden.json")
    assert built.build("--force") == ALL
    second = built.read("bundle/manifest.json"), built.read("bundle/golden.json")
    assert second[1] == first[1], "equal to the last bit"
    assert second[0]["identity"] == first[0]["identity"]
    assert len(built.json("models", "list", "toy")) == 1


def test_changed_module_rebuilds_the_tasks_that_import_it_and_those_after_them(built):
    built.replace("mlops_nb/model/model_card.py", "How good it is", "How good is it")
    assert built.build() == ["package", "register"]
    built.replace("mlops_nb/model/train.py", "folds: int = 5", "folds: int = 4")
    assert built.build() == ["train", "evaluate", "package", "register"]


def test_comment_in_a_module_or_an_unrelated_module_rebuilds_nothing(built):
    built.replace("mlops_nb/data/tables.py", "import hashlib", "# a comment\nimport hashlib")
    (built.path / "mlops_nb" / "unrelated.py").write_text("x = 1\n")
    assert built.build() == []


def test_changed_spec_or_parameter_rebuilds(built):
    assert built.build("--env--params", "{'C': 0.01}")[0] == "train"
    built.replace("toy.py", "i > 45", "i > 50")
    assert built.build("--env--params", "{'C': 0.01}") == ALL
    assert built.json("models", "list", "toy")[-1]["version"] == 3


def test_changed_data_behind_the_same_path_rebuilds(project):
    data = project.path / "toy.csv"
    rows = [f"{x},{int(x > 45)}" for x in range(100)]
    data.write_text("\n".join(["x,y", *rows]))
    assert project.build("--env--source", "toy.csv") == ALL
    assert project.build("--env--source", "toy.csv") == []
    first = project.read("dataset.json")["sha256"]
    data.write_text("\n".join(["x,y", *rows, "100,1"]))
    assert project.build("--env--source", "toy.csv") == ALL
    assert project.read("dataset.json")["sha256"] != first
    snapshots = {p.stem for p in (project.path / "store/artifacts/data").iterdir()}
    assert {first, project.read("dataset.json")["sha256"]} == snapshots


@pytest.mark.nightly
def test_model_that_the_registry_has_lost_is_registered_and_promoted_again(built):
    built.build("--env--seed", "3")
    shutil.rmtree(built.path / "store")
    assert built.build("--env--seed", "3") == ["evaluate", "package", "register"]
    assert built.json("models", "list") == [{"name": "toy", "versions": 1, "staging": 1, "production": 1, **NO_TRIAL}]
    assert built.build("--env--seed", "3") == []


def test_another_database_gets_the_model_too(built):
    elsewhere = {"MLOPS_DATABASE_URL": f"sqlite:///{built.path}/other.db"}
    assert built.build(**elsewhere) == ["evaluate", "package", "register"]
    assert built.build(**elsewhere) == []


@pytest.mark.nightly
def test_changed_rows_of_a_database_rebuild(project):
    with sqlite3.connect(project.path / "toy.db") as database:
        database.execute("CREATE TABLE t (x REAL, y INTEGER)")
        database.executemany("INSERT INTO t VALUES (?, ?)", [(x, int(x > 45)) for x in range(100)])
    options = ("--env--source", f"sqlite:///{project.path}/toy.db", "--env--query", "SELECT * FROM t")
    assert project.build(*options) == ALL
    with sqlite3.connect(project.path / "toy.db") as database:
        database.execute("UPDATE t SET y = 0 WHERE x = 46")
    assert project.build(*options) == ALL
    database.close()


def test_row_that_breaks_the_schema_stops_the_build_and_is_shown(project):
    (project.path / "bad.csv").write_text("x,y\n" + "".join(f"{x},{x % 2}\n" for x in range(50)) + "-7,1\n5000,0\n")
    output = project.fail("--env--source", "bad.csv")
    assert "column 'x', rule in_range(0, 1000): broken by 2 of 52 rows" in output
    assert "row 50: {'x': -7" in output
    assert not (project.products / "train.ipynb").exists()
    assert project.json("models", "list") == []


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "env.yaml",
            "seed: 0",
            "seed: 0\nsed: 3",
            "env.yaml declares 'sed', which no pipeline uses. Did you mean 'seed'",
        ),
        ("pipeline.yaml", 'folds: "{{folds}}"', 'fold: "{{folds}}"', "'fold'.*'folds'|'folds'.*'fold'"),
    ],
)
def test_misspelt_parameter_stops_the_build_and_names_what_exists(project, file, old, new, message):
    project.replace(file, old, new)
    assert re.search(message, project.fail())
    assert not project.products.exists()


def test_misspelt_parameter_on_the_command_line_is_refused(project):
    assert "unrecognized arguments: --env--sed" in project.fail("--env--sed", "3")


def test_raising_cell_leaves_the_evidence_and_registers_nothing(built):
    edit(built.path / "nbs/pipeline/train.ipynb", "\nshow_estimator(training.estimator)", "\n1 / 0")
    output = built.fail("--env--seed", "7")
    assert "ZeroDivisionError" in output
    errors = [o for cell in outputs(built.products / "train.ipynb") for o in cell if o["output_type"] == "error"]
    assert [e["ename"] for e in errors] == ["ZeroDivisionError"]
    assert len(built.json("models", "list", "toy")) == 1
    failed = built.json("runs", "list")[0]
    assert failed["state"] == "failed"
    kept = built.path / "store/runs" / failed["id"] / "notebooks/train.ipynb"
    assert "ZeroDivisionError" in kept.read_text()
    assert "ZeroDivisionError" in built.json("runs", "show", failed["id"])["error"]

    edit(built.path / "nbs/pipeline/train.ipynb", "\n1 / 0", "\nshow_estimator(training.estimator)")
    assert built.build("--env--seed", "7") == ["train", "evaluate", "package", "register"]
    runs = built.json("runs", "list")
    assert [(r["state"], r["version"]) for r in runs[:2]] == [("finished", 2), ("failed", None)]
    assert runs[1]["id"] == failed["id"]


@pytest.mark.soak
def test_killed_build_goes_on_from_the_last_finished_task(project):
    command = ["ploomber", "build", "--env--spec", "toy", "--env--engine", "papermill"]
    build = subprocess.Popen(
        command, cwd=project.path, env=project.environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    done = project.products / ".training.json.metadata"
    deadline = time.monotonic() + 120
    while not done.exists() and time.monotonic() < deadline:
        assert build.poll() is None, "the build ended before it could be killed"
        time.sleep(0.02)
    _kill_session(build)
    runs = project.json("runs", "list")
    assert [r["state"] for r in runs] == ["interrupted"]
    assert project.json("runs", "show", runs[0]["id"])["pid"] == build.pid
    assert project.build(engine="papermill")[0] in ("train", "evaluate")
    again = project.json("runs", "list")
    assert [(r["state"], r["version"]) for r in again] == [("finished", 1), ("interrupted", None)]
    assert again[1]["id"] == runs[0]["id"]


def _kill_session(process: subprocess.Popen):
    """Kill a process and all that it started, kernels included, and wait until they are gone."""
    import psutil

    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=30)


@pytest.mark.nightly
def test_both_engines_make_the_same_products_and_two_specs_lie_side_by_side(built):
    shutil.copytree(built.path / "products", built.path / "in-process")
    assert built.build("--force", engine="papermill") == ALL
    for name in ALL[:2]:
        assert outputs(built.products / f"{name}.ipynb") == outputs(built.path / f"in-process/toy/{name}.ipynb"), name
    same = ["bundle/golden.json", "bundle/profile.json", "dataset.json"]
    assert all(built.read(p) == json.loads((built.path / "in-process/toy" / p).read_text()) for p in same)
    built.build(spec="mlops_nb.examples.signals")
    assert {p.name for p in (built.path / "products").iterdir()} == {"toy", "mlops_nb.examples.signals"}


def test_model_that_fails_a_gate_is_registered_but_not_promoted(built):
    built.replace("toy.py", '"accuracy": 0.8', '"accuracy": 1.01')
    built.build("--env--seed", "5")
    assert built.json("models", "list") == [{"name": "toy", "versions": 2, "staging": 2, "production": 1, **NO_TRIAL}]
    assert "not promoted: FAILED: minimum accuracy" in built.read("registration.json")["reason"]
    refused = built.run("mlops-nb", "models", "promote", "toy", "2")
    assert refused.returncode == 1
    assert "did not pass its gates" in refused.stderr
    assert built.run("mlops-nb", "models", "promote", "toy", "2", "--force", "--reason", "a test").returncode == 0


@pytest.mark.nightly
def test_worse_model_does_not_replace_the_champion(built):
    built.replace("toy.py", '{"accuracy": 0.8}', '{"accuracy": 0.1}, over_baseline=-1')
    built.build("--env--params", "{'C': 1e-9, 'fit_intercept': False}")
    assert "FAILED: champion accuracy" in built.read("registration.json")["reason"]
    assert built.json("models", "list")[0]["production"] == 1


@pytest.mark.soak
def test_replay_limit_lets_no_version_through_that_was_not_replayed(built):
    built.replace("toy.py", '{"accuracy": 0.8}', '{"accuracy": 0.8}, replay={"max_changed_predictions": 0.5}')
    built.build("--env--seed", "3")
    why = built.read("registration.json")["reason"]
    assert why.startswith("not promoted: FAILED: replay changed_predictions is not known, the log has no rows for it")
    assert built.json("models", "list")[0]["production"] == 1

    log = PredictionLog.open(Settings.read({"MLOPS_HOME": str(built.path)}))
    log.add([PredictionRecord("k", time.time(), "toy", 1, "production", 1.0, ["x"], [[1.0], [99.0]], [0, 1])])
    log.close()
    built.build("--env--seed", "4")
    assert built.read("registration.json")["reason"] == "in production, all 4 gates passed"


@pytest.mark.soak
def test_champion_that_cannot_be_proven_stops_the_build_which_says_how_to_go_on(built):
    (built.path / "store/artifacts/bundles/toy/1/model.skops").write_bytes(b"")
    output = built.fail("--env--seed", "3")
    assert "model.skops of toy was changed after it was packaged" in output
    assert "--env--champion none" in output
    built.build("--env--seed", "3", "--env--champion", "none")
    assert built.json("models", "list")[0]["production"] == 2


def test_auto_promote_off_leaves_production_alone(built):
    built.build("--env--auto_promote", "false", "--env--seed", "3")
    assert built.json("models", "list") == [{"name": "toy", "versions": 2, "staging": 2, "production": 1, **NO_TRIAL}]


def test_search_space_and_parameters_reach_the_estimator(built):
    built.build("--env--params", "{'max_iter': 500}", "--env--search", "{'C': [0.001, 10.0]}")
    training = built.read("training.json")
    assert training["params"]["max_iter"] == 500
    assert training["params"]["C"] in (0.001, 10.0)
    assert len(training["search"]) == 2
    record = built.json("runs", "show", built.json("runs", "list")[0]["id"])
    assert "out-of-fold predictions" in record["drift_reference"], record["drift_reference"]


def test_run_records_commit_and_diff_of_a_dirty_tree(project):
    def git(*words):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
        return subprocess.run(
            ["git", *identity, *words], cwd=project.path, check=True, capture_output=True, text=True
        ).stdout

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    project.replace("toy.py", "i > 45", "i > 46")
    project.build()
    record = project.json("runs", "list")[0]
    run = project.json("runs", "show", record["id"])
    assert run["code"] == {"commit": git("rev-parse", "HEAD").strip(), "branch": "main", "dirty": True, "untracked": []}
    assert "+    return pd.DataFrame" in (project.path / "store/runs" / record["id"] / "diff.patch").read_text()
    assert run["data"]["rows"] == 100
    assert run["metrics"]["accuracy"] > 0.8
    assert run["packages"]["scikit-learn"]
    assert project.read("bundle/manifest.json")["run_id"] == record["id"]
    assert project.json("runs", "list")[0]["aliases"] == ["production", "staging"], "which run made production"


def test_runs_and_versions_can_be_compared(built):
    built.build("--env--params", "{'C': 0.01}")
    newest, oldest = (r["id"] for r in built.json("runs", "list"))
    assert built.json("runs", "compare", oldest, newest)["estimator_params.C"] == {"first": None, "second": 0.01}
    assert built.json("models", "diff", "toy", "1", "2")["params.C"] == {"first": None, "second": 0.01}


@pytest.mark.slow
def test_build_in_wandb_has_its_charts_tables_and_lineage_offline(built):
    """All in one build: with a search, and a champion to compare with."""
    built.build("--env--search", "{'C': [0.01, 1]}", WANDB_MODE="offline")
    record = Run(built.path / "store/runs" / built.json("runs", "list")[0]["id"])
    shown = built.run("mlops-nb", "runs", "show", record.id).stdout
    folder = offline_folder(record)
    assert f"wandb leet {folder}" in shown
    assert f"wandb sync {folder}" in shown
    records = records_of(record)
    charts = {key.removeprefix("_wandb.visualize.") for key in updates(records, "config") if "visualize" in key}
    assert charts == {"roc", "precision_recall", "calibration", "confusion"}
    assert {row[0] for row in table_of(record, "metrics")["data"]} >= {"accuracy", "roc_auc"}
    assert {"model", "baseline", "champion"} <= {*table_of(record, "metrics")["columns"]}
    assert len(table_of(record, "search")["data"]) == 2
    assert "accuracy" in {
        row[table_of(record, "gates")["columns"].index("metric")] for row in table_of(record, "gates")["data"]
    }
    assert table_of(record, "slices")["data"][0][0] == "all"
    found = artifacts(records)
    snapshot = Path(found["toy-data"]["manifest"]["contents"][0]["local_path"])
    assert snapshot.stem == record.record["data"]["sha256"], "the run uses the snapshot"
    assert {f"version-{record.record['version']}", "staging"} <= {*found["toy"]["aliases"]}
    assert {entry["path"] for entry in found["toy"]["manifest"]["contents"]} >= {"manifest.json", "model.skops"}


@pytest.mark.nightly
def test_wandb_that_cannot_be_reached_does_not_cost_a_model(built):
    unreachable = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    assert (
        built.build("--env--seed", "12", WANDB_INIT_TIMEOUT="3", WANDB_HTTP_TIMEOUT="1", **unreachable)[-1]
        == "register"
    )
    assert built.json("models", "list")[0]["versions"] == 2


@pytest.mark.soak
def test_secrets_of_the_environment_reach_no_notebook_run_or_log(built):
    secret = "hunter2-hunter2"
    with sqlite3.connect(built.path / f"{secret}.db") as database:
        database.execute("CREATE TABLE t (x REAL, y INTEGER)")
        database.executemany("INSERT INTO t VALUES (?, ?)", [(x, int(x > 45)) for x in range(100)])
    database.close()
    source = ("--env--source", "sqlite:///${DB_PASSWORD}.db", "--env--query", "SELECT * FROM t")
    env = {"DB_PASSWORD": secret, "API_TOKEN": "token-of-the-team", "WANDB_MODE": "offline"}
    edit(
        built.path / "nbs/pipeline/train.ipynb",
        "\nshow_estimator(training.estimator)",
        "\nprint(__import__('os').environ['API_TOKEN'])",
    )
    built.build(*source, **env)
    edit(
        built.path / "nbs/pipeline/train.ipynb",
        "\nprint(__import__('os').environ['API_TOKEN'])",
        "\nraise ValueError(__import__('os').environ['API_TOKEN'])",
    )
    output = built.fail(*source, "--env--seed", "4", **env)
    assert "ValueError" in output
    (built.path / f"{secret}.db").unlink()
    places = [p for folder in ("products", "store") for p in (built.path / folder).rglob("*") if p.is_file()]
    leaks = [p.name for p in places if any(s.encode() in p.read_bytes() for s in (secret, "token-of-the-team"))]
    assert leaks == []


def test_password_written_out_in_the_source_is_refused(project):
    output = project.fail("--env--source", "postgresql://scott:tiger@127.0.0.1/x", "--env--query", "SELECT 1")
    assert "password in plain text" in output


@pytest.mark.parametrize("name", [*ALL[:2], *(pytest.param(name, marks=pytest.mark.soak) for name in ALL[2:])])
def test_each_notebook_runs_with_papermill_alone(built, name):
    folder = built.products
    parameters = {
        "product": {k: str(folder / v) for k, v in PRODUCTS[name].items()},
        "upstream": {task: {k: str(folder / v) for k, v in PRODUCTS[task].items()} for task in ALL[: ALL.index(name)]},
    }
    if name != "register":
        parameters["spec"] = "toy"
    (built.path / "parameters.json").write_text(json.dumps(parameters))
    done = built.run(
        "papermill", f"nbs/pipeline/{name}.ipynb", "alone.ipynb", "-f", "parameters.json", "--no-progress-bar"
    )
    assert done.returncode == 0, done.stderr
    assert not [o for cell in outputs(built.path / "alone.ipynb") for o in cell if o["output_type"] == "error"]


PRODUCTS = {
    "ingest": {"dataset": "dataset.json", "train": "train.parquet", "test": "test.parquet"},
    "train": {"model": "model.skops", "training": "training.json"},
    "evaluate": {"evaluation": "evaluation.json", "plots": "evaluation.png", "curves": "curves.json"},
    "package": {"bundle": "bundle"},
    "register": {"registration": "registration.json"},
}


@pytest.mark.nightly
def test_second_run_of_the_executed_notebooks_gives_the_same_outputs(project):
    spec = "mlops_nb.examples.diagnosis"
    project.build(spec=spec, engine="papermill")
    project.build("--force", spec=spec, engine="papermill")
    notebooks = [f"products/{spec}/{name}.ipynb" for name in ALL]
    done = project.run("pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "-q", *notebooks)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)
    assert "failed" not in done.stdout
