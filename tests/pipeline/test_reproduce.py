"""`mlops-nb reproduce` and `mlops-nb models diff`, in a clone on which nothing was trained."""

import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from mlops_nb.audit.reproduce import reproduce_version
from mlops_nb.data.tables import read_table, snapshot
from mlops_nb.errors import MlopsError
from mlops_nb.settings import Settings

from .conftest import MODELS, Project, copy_project

pytestmark = pytest.mark.slow


def git(folder: Path, *command: str) -> str:
    author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    done = subprocess.run(["git", *author, *command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(project: Project, subject: str) -> str:
    git(project.path, "add", "-A")
    git(project.path, "commit", "-m", subject)
    return git(project.path, "rev-parse", "HEAD")


def repository(path: Path) -> Project:
    project = copy_project(path)
    git(path, "init", "-b", "main")
    commit(project, "begin")
    return project


def clone(origin: Project, path: Path) -> Project:
    """What a machine has that trained nothing: a clone, and a copy of the store."""
    git(path.parent, "clone", "--quiet", str(origin.path), str(path))
    shutil.copytree(origin.path / "store", path / "store")
    return Project(path)


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Project:
    """A repository in which three versions of the toy were built, the last from a tree with changes."""
    project = repository(tmp_path_factory.mktemp("origin"))
    project.build()
    project.replace("toy.py", "i > 45", "i > 50")
    commit(project, "Move the border")
    project.build("--env--params", "{'C': 0.01}", "--env--test_size", "0.3")
    project.replace("toy.py", "LogisticRegression(**params)", "LogisticRegression(C=0.3, **params)")
    (project.path / "note.txt").write_text("not committed")
    project.build()
    return project


@pytest.fixture
def elsewhere(origin, tmp_path) -> Project:
    return clone(origin, tmp_path / "clone")


def reproduce(project: Project, *words: str, code: int, **more: str) -> tuple[dict, str]:
    """Return the report of the command (None if it was inconclusive) and its messages."""
    done = project.run("mlops-nb", "reproduce", "toy", *words, "--json", **more)
    assert done.returncode == code, done.stdout + done.stderr
    return (json.loads(done.stdout) if code != 1 else {}), done.stderr


def rewrite(project: Project, change, version: int = 2):
    """Change a manifest so that the registry believes it."""
    path = project.path / f"store/artifacts/bundles/toy/{version}/manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    database = sqlite3.connect(project.path / "store/mlops.db")
    with database:
        values = (digest, json.dumps(manifest), version)
        database.execute("UPDATE versions SET digest = ?, manifest = ? WHERE version = ?", values)
    database.close()


def differing(found: dict) -> dict[str, dict]:
    assert found["verdict"] == "differs"
    return {d["subject"]: d for d in found["differences"]}


def test_version_is_identical_where_nobody_trained_it_and_nothing_is_left_behind(elsewhere):
    (elsewhere.path / "README.md").write_text("somebody is working here")
    before = git(elsewhere.path, "status", "--porcelain"), (elsewhere.path / ".git/index").read_bytes()
    found, output = reproduce(elsewhere, "2", code=0)
    assert (found["verdict"], found["differences"], found["environment"]) == ("identical", [], {})
    assert found["compared"] == {"golden rows": 20, "test rows": 30, "metrics": 9}
    tasks = ("ingest", "train", "register")
    assert [word for word in output.split() if word in tasks] == [*tasks]
    assert (git(elsewhere.path, "status", "--porcelain"), (elsewhere.path / ".git/index").read_bytes()) == before
    assert len(git(elsewhere.path, "worktree", "list").splitlines()) == 1
    assert len(elsewhere.json("models", "list", "toy")) == 3
    assert len(elsewhere.json("runs", "list")) == 3
    assert not (elsewhere.path / "products").exists()


@pytest.mark.nightly
def test_bundle_alone_is_enough_when_the_runs_are_gone(elsewhere):
    shutil.rmtree(elsewhere.path / "store/runs")
    assert reproduce(elsewhere, "2", code=0)[0]["verdict"] == "identical"


@pytest.mark.nightly
def test_older_bundle_without_parameters_takes_them_from_its_run(elsewhere):
    rewrite(elsewhere, lambda manifest: [manifest.pop(key) for key in ("asked", "machine")])
    assert reproduce(elsewhere, "2", code=0)[0]["verdict"] == "identical"


@pytest.mark.nightly
def test_kernels_and_another_number_of_threads_make_the_same_model(origin, tmp_path):
    project = clone(origin, tmp_path / "clone")
    project.build("--env--seed", "5", engine="papermill", OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2")
    found, _ = reproduce(project, "4", code=0, OMP_NUM_THREADS="1")
    assert (found["verdict"], found["environment"]) == ("identical", {}), "as many threads as then"


@pytest.mark.soak
def test_version_that_was_retrained_on_a_made_table_is_made_again_from_its_snapshots(origin, tmp_path):
    project = clone(origin, tmp_path / "clone")
    rows = pd.DataFrame({"x": range(100), "y": [int(i > 45) for i in range(100)]}).astype({"x": float})
    table, judged = rows.iloc[::2].reset_index(drop=True), rows.iloc[1::2].reset_index(drop=True)
    production = {"rows": 20, "since": "2026-01-01T00:00:00", "until": "2026-01-02T00:00:00"}
    reference = {"rows": 30, "sha256": "0" * 64}
    table.attrs = {"lineage": {"reference": reference, "production": production, "weight": 3.0}}
    (tmp_path / "made").mkdir()
    table.to_parquet(tmp_path / "made/table.parquet")
    judged.to_parquet(tmp_path / "made/judged.parquet")
    made = (f"--env--source={tmp_path}/made/table.parquet", f"--env--holdout={tmp_path}/made/judged.parquet")
    project.build(*made)
    assert project.read("training.json")["weighted"]
    shutil.rmtree(tmp_path / "made")
    found, _ = reproduce(project, "4", code=0)
    assert (found["verdict"], found["compared"]["test rows"]) == ("identical", 50)
    assert project.json("models", "diff", "toy", "1", "4")["predictions"]["on"] == "50 test rows of version 4"


@pytest.mark.nightly
def test_other_seed_in_the_manifest_differs_and_says_that_the_rows_are_others(elsewhere):
    rewrite(elsewhere, lambda manifest: manifest.update(seed=7))
    found = differing(reproduce(elsewhere, "2", code=2)[0])
    assert "are other rows" in found["golden rows"]["summary"]
    assert "split" in found["data"]["summary"]
    assert "identity" in found


def test_other_parameter_in_the_manifest_differs_and_says_in_which_rows_and_by_how_much(elsewhere):
    rewrite(elsewhere, lambda manifest: manifest["asked"].update(params={"C": 0.02}))
    found = differing(reproduce(elsewhere, "2", code=2)[0])
    assert found["params"]["details"] == {"params.C": {"before": 0.01, "after": 0.02}}
    golden = found["golden rows"]["details"]
    assert golden["differ"] == 20
    assert 0 < golden["largest"] < 0.5
    assert golden["first"][0]["row"] == 0
    assert {"metrics", "test rows (onnxruntime)", "test rows (scikit-learn)", "identity"} <= found.keys()
    assert "metrics.neg_log_loss" in found["metrics"]["details"]


@pytest.mark.soak
def test_tampered_data_that_the_manifest_vouches_for_differs(elsewhere):
    def tamper(manifest):
        folder = elsewhere.path / "store/artifacts/data"
        table = read_table(folder / f"{manifest['data']['sha256']}.parquet")
        table.loc[60:70, "y"] = 0
        manifest["data"]["sha256"] = snapshot(table, folder).sha256

    rewrite(elsewhere, tamper)
    assert {"golden rows", "metrics", "identity"} <= differing(reproduce(elsewhere, "2", code=2)[0]).keys()


@pytest.mark.soak
def test_other_package_version_is_said_beforehand_and_by_the_verdict(elsewhere):
    rewrite(elsewhere, lambda manifest: manifest["packages"].update(skops="0.1.0"))
    done = elsewhere.run("mlops-nb", "reproduce", "toy", "2")
    assert done.returncode == 0, done.stderr
    assert re.match(r".*\nRecorded with other packages: skops 0\.1\.0 \(here [\d.]+\)\. --packages", done.stderr)
    assert re.search(r"identical.*\n  made with another packages\.skops: 0\.1\.0, here", done.stdout)


def lose_the_snapshots(project: Project):
    shutil.rmtree(project.path / "store/artifacts/data")


def change_the_snapshots(project: Project):
    for path in (project.path / "store/artifacts/data").iterdir():
        pd.read_parquet(path).head(90).to_parquet(path)


def change_the_bundle(project: Project):
    (project.path / "store/artifacts/bundles/toy/2/golden.json").write_text("{}")


def forget_git(project: Project):
    shutil.rmtree(project.path / ".git")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose_the_snapshots, "The data is gone: data/.*parquet"),
        (change_the_snapshots, "The data was changed: data/.*parquet"),
        (change_the_bundle, r"golden.json of toy was changed after it was packaged"),
        (forget_git, "is in no git repository: clone the one that has commit"),
        (lambda p: rewrite(p, lambda m: m["code"].update(commit="f" * 40)), "Commit ffffffffffff is not in the repo"),
        (lambda p: rewrite(p, lambda m: m["code"].update(commit=None)), "was made outside git"),
        (lambda p: rewrite(p, lambda m: m["data"].pop("sha256")), "does not say from what data"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_built(elsewhere, change, message):
    change(elsewhere)
    result = []
    with pytest.raises(MlopsError, match=message):
        reproduce_version("toy", 2, Settings.read({"MLOPS_HOME": str(elsewhere.path)}), say=result.append)
    assert result == []


def test_uncommitted_changes_are_said_and_applied_only_when_asked_for(elsewhere):
    output = reproduce(elsewhere, "3", code=1)[1]
    assert "was made from a tree with uncommitted changes: toy.py (kept in " in output
    assert "untracked files were not kept: note.txt. --with-diff applies the changes" in output
    found, output = reproduce(elsewhere, "3", "--with-diff", code=0)
    assert found["notes"][0] == "Uncommitted changes: toy.py."
    assert "note.txt" in found["notes"][1]


def test_uncommitted_changes_whose_run_is_gone_or_do_not_fit_cannot_be_applied(elsewhere):
    patch = next((elsewhere.path / "store/runs").glob("*/diff.patch"))
    patch.write_text(patch.read_text().replace("(**params)", "(**others)"))
    assert "do not fit commit" in reproduce(elsewhere, "3", "--with-diff", code=1)[1]
    shutil.rmtree(elsewhere.path / "store/runs")
    assert "its run, which kept them, is gone" in reproduce(elsewhere, "3", "--with-diff", code=1)[1]


@pytest.mark.soak
def test_build_that_fails_is_an_error_that_shows_its_end(elsewhere):
    rewrite(elsewhere, lambda manifest: manifest["asked"].update(params={"nonsense": 1}))
    output = reproduce(elsewhere, "2", code=1)[1]
    assert "The build of commit" in output
    assert "cannot be made with params {'nonsense': 1}" in output
    assert len(git(elsewhere.path, "worktree", "list").splitlines()) == 1


def test_diff_of_versions_has_data_parameters_commits_metrics_slices_and_answers(elsewhere):
    found = elsewhere.json("models", "diff", "toy", "1", "2")
    assert found["params.C"] == {"first": None, "second": 0.01}
    assert found["asked.test_size"] == {"first": 0.2, "second": 0.3}
    assert {"data.sha256", "code.commit", "metrics.neg_log_loss", "slices.all.rows"} <= found.keys()
    assert [line[0] + line.split(maxsplit=2)[2] for line in found["commits"]] == [">Move the border"]
    assert found["predictions"]["on"] == "30 test rows of version 2"
    assert found["predictions"]["differ"] == 30
    assert 0 < found["predictions"]["labels"] < 30
    assert found["notes"] == []
    assert elsewhere.json("models", "diff", "toy", "2", "2") == {
        "commits": [],
        "predictions": {
            "rows": 30,
            "differ": 0,
            "labels": 0,
            "largest": 0.0,
            "first": [],
            "on": found["predictions"]["on"],
        },
        "notes": [],
    }


def test_diff_of_versions_is_grouped_and_falls_back_to_golden_rows(elsewhere):
    lose_the_snapshots(elsewhere)
    shown = elsewhere.run("mlops-nb", "models", "diff", "toy", "1", "2").stdout
    headings = re.findall(r"^(\w+)(?:\:| \()", shown, re.MULTILINE)
    assert headings == ["Data", "Parameters", "Code", "Metrics", "Slices", "Build", "Commits", "Predictions"]
    assert "Predictions: on 20 golden rows of version 2, 20 of 20 predictions differ" in shown


@pytest.mark.nightly
def test_every_reference_model_is_identical_on_a_machine_that_did_not_train_it(tmp_path):
    trained = repository(tmp_path / "trained")
    for spec in MODELS:
        trained.build(spec=spec)
    shutil.rmtree(trained.path / "products")
    other = clone(trained, tmp_path / "other")
    (tmp_path / "home").mkdir()
    for name in (spec.rpartition(".")[2] for spec in MODELS):
        done = other.run("mlops-nb", "reproduce", name, HOME=str(tmp_path / "home"))
        assert (done.returncode, "identical" in done.stdout) == (0, True), done.stdout + done.stderr
