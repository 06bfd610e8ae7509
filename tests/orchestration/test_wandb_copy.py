"""The process that copies a build to W&B: what a build does when it is gone, and what it copies."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mlops_nb.orchestration import wandb_copy
from mlops_nb.store.git import GitState
from mlops_nb.store.runs import Run
from tests.factories import wait_for
from tests.wandb_files import of_kind, records_of


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    for name, value in {"WANDB_MODE": "offline", "MLOPS_RUNS": str(tmp_path / "runs")}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "runs" / "20260101-000000-000000")
    run.start("toy", GitState("abc", "main", True, "", ()), spec="toy")
    run.finish(metrics={"accuracy": 0.5})
    return run


@pytest.mark.slow
def test_process_of_its_own_copies_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_copy, "copy_to_wandb", lambda *_: pytest.fail("the build itself copied it"))
    with wandb_copy.copier_beside():
        pass
    with wandb_copy.copying(run, tmp_path, []):
        process = wandb_copy._copier
    assert process is None
    assert of_kind(records_of(run), "run")[0]["run_id"] == run.id


@pytest.mark.parametrize("code", ["import sys; sys.exit(1)", "import sys; sys.stdin.read(); sys.exit(1)"])
def test_run_is_copied_by_the_build_when_the_process_is_gone(run, tmp_path, monkeypatch, code):
    copied = []
    monkeypatch.setattr(wandb_copy, "copy_to_wandb", lambda *given: copied.append(given))
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True)
    if "read" not in code:
        process.wait()
    monkeypatch.setattr(wandb_copy, "_copier", process)
    with wandb_copy.copying(run, tmp_path, ["production"]):
        assert not copied
    assert copied == [(run, tmp_path, ["production"])]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends when it has copied the run")
def test_process_ends_with_a_build_that_is_killed(run):
    code = (
        "import time; from mlops_nb.orchestration import wandb_copy\n"
        "with wandb_copy.copier_beside():\n    print(wandb_copy._copier.pid, flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as build:
        copier = psutil.Process(int(build.stdout.readline()))
        with Path(f"/proc/{copier.pid}/fd/0").open("wb"):  # so that its input does not end with the build
            wait_for(lambda: wandb_copy._MODULE in copier.cmdline()[:3])
            build.kill()
            wait_for(lambda: not copier.is_running() or copier.status() == psutil.STATUS_ZOMBIE)


def test_no_process_is_started_where_wandb_is_disabled(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with wandb_copy.copier_beside():
        assert wandb_copy._copier is None
