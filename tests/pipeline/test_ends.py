"""How a build ends: by signals, by a full disk, by an error; what its record says, and what the person reads."""

import json
import os
import resource
import signal
import subprocess
from contextlib import contextmanager

import nbformat
import pytest

from tests.cli.test_faults import AWAY, PASSWORD, without_permissions
from tests.factories import wait_for

pytestmark = pytest.mark.slow


def wait_in_training(project):
    """Let the task `train` wait for as long as the file `wait` exists; it says when it waits."""
    train = project.path / "nbs/pipeline/train.ipynb"
    notebook = nbformat.read(train, 4)
    code = "import os, time\nopen('waits', 'w').close()\nwhile os.path.exists('wait'):\n    time.sleep(0.02)"
    next(c for c in notebook.cells if c.source.endswith("\nshow_estimator(training.estimator)")).source += f"\n{code}"
    nbformat.write(notebook, train)
    (project.path / "wait").touch()


@contextmanager
def waiting_build(project, engine: str):
    """A build in a session of its own, in the middle of its second task."""
    command = ["ploomber", "build", "--env--spec", "toy", "--env--engine", engine]
    log = project.path / "build.log"
    with log.open("w") as file:
        build = subprocess.Popen(
            command, cwd=project.path, env=project.environment(), stdout=file, stderr=file, start_new_session=True
        )
    try:
        wait_for(lambda: (project.path / "waits").exists() or build.poll() is not None, 120)
        assert build.poll() is None, log.read_text()
        yield build
    finally:
        if build.poll() is None:
            os.killpg(build.pid, signal.SIGKILL)
            build.wait()


@pytest.mark.parametrize(
    ("number", "engine"),
    [
        pytest.param(signal.SIGINT, "papermill", marks=pytest.mark.soak),
        pytest.param(signal.SIGTERM, "papermill", marks=pytest.mark.nightly),
        pytest.param(signal.SIGINT, "ploomber-engine", marks=pytest.mark.nightly),
        (signal.SIGTERM, "ploomber-engine"),
        pytest.param(signal.SIGHUP, "ploomber-engine", marks=pytest.mark.nightly),
    ],
)
def test_build_that_is_ended_by_a_signal_is_interrupted_and_the_next_one_has_a_new_id(project, number, engine):
    wait_in_training(project)
    with waiting_build(project, engine) as build:
        assert [r["state"] for r in project.json("runs", "list")] == ["running"]
        os.killpg(build.pid, number) if number == signal.SIGINT else build.send_signal(number)
        assert build.wait(60) == 128 + number
    output = (project.path / "build.log").read_text()
    assert "Traceback" not in output, output
    assert f"was interrupted by {number.name}; the next build goes on" in output
    (first,) = project.json("runs", "list")
    assert first["state"] == "interrupted"
    shown = project.json("runs", "show", first["id"])
    assert shown["error"] == f"The build was ended by {number.name}."
    assert shown["tasks"] == {"ingest": "done"} | dict.fromkeys(["train", "evaluate", "package", "register"], "waiting")
    assert shown["data"]["train_rows"], "what a task found is known when it is done"
    (project.path / "wait").unlink()
    assert project.build(engine=engine) == ["train", "evaluate", "package", "register"]
    runs = project.json("runs", "list")
    assert [(r["state"], r["version"]) for r in runs] == [("finished", 1), ("interrupted", None)]
    assert runs[1]["id"] == first["id"]
    assert project.read("bundle/manifest.json")["run_id"] == runs[0]["id"]


def test_killed_build_is_interrupted_for_every_reader_and_in_the_record_from_the_next_build_on(project):
    wait_in_training(project)
    with waiting_build(project, "ploomber-engine") as build:
        build.kill()
        build.wait()
    (run,) = project.json("runs", "list")
    assert run["state"] == "interrupted"
    record = project.path / "store/runs" / run["id"] / "run.json"
    assert json.loads(record.read_text())["state"] == "running", "a reader writes nothing"
    (project.path / "wait").unlink()
    project.build()
    assert json.loads(record.read_text())["state"] == "interrupted"
    assert [r["state"] for r in project.json("runs", "list")] == ["finished", "interrupted"]


def test_failed_run_keeps_its_id_and_evidence_and_the_next_build_has_another(project):
    (project.path / "bad.csv").write_text("x,y\n-7,1\n5000,0\n")
    output = project.fail("--env--source", "bad.csv")
    assert "Traceback" not in output
    assert "\nError: The data breaks 3 rule(s) of the schema:\n  column 'x', rule in_range" in output
    folder = project.path / "store/runs" / project.json("runs", "list")[0]["id"]
    evidence = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {p.name for p in evidence} == {"run.json", "traceback.txt", "ingest.ipynb"}
    assert "SchemaError: The data breaks" in (folder / "traceback.txt").read_text()
    assert "PLOOMBER_DEBUG" not in output
    project.build()
    runs = project.json("runs", "list")
    assert [r["state"] for r in runs] == ["finished", "failed"]
    assert runs[1]["id"] == folder.name
    assert evidence == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert "Traceback (most recent call last)" in project.fail("--env--source", "bad.csv", PLOOMBER_DEBUG="1")


@pytest.mark.parametrize("engine", ["ploomber-engine", pytest.param("papermill", marks=pytest.mark.soak)])
def test_full_disk_in_a_task_is_one_sentence(project, engine):
    limit = 60_000  # bytes of a file: enough for a notebook, too few for a database
    command = ["ploomber", "build", "--env--spec", "toy", "--env--engine", engine]
    # Python leaves the bytecode of a long module cut at the limit, and the next import fails on it
    environment = project.environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=project.path, env=environment, capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "Traceback" not in output, output
    assert "Free some space on its disk" in output
    assert project.build(engine=engine)[-1] == "register"


def build(project, *before: str, **more: str) -> str:
    """Run a build that must fail before its first task; return what it printed."""
    done = project.run(*before, "ploomber", "build", "--env--spec", "toy", "--env--engine", "ploomber-engine", **more)
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "Traceback" not in output
    assert PASSWORD not in output
    assert "Building task" not in output
    assert not (project.products / "ingest.ipynb").exists()
    return output


def test_places_are_checked_before_the_first_task(project):
    (project.path / "file").touch()
    folder = f"{project.path}/file"
    assert f"{folder} cannot be used (Not a directory)" in build(project, MLOPS_RUNS=f"{folder}/runs")
    assert f"{folder} cannot be used (Not a directory)" in build(project, MLOPS_ARTIFACTS=f"{folder}/artifacts")
    assert f"{folder} cannot be used" in build(project, MLOPS_DATABASE_URL=f"sqlite:///{folder}/mlops.db")
    (project.path / "bad.db").write_bytes(os.urandom(8192))
    assert "bad.db is damaged" in build(project, MLOPS_DATABASE_URL=f"sqlite:///{project.path}/bad.db")
    assert "ada:***@127.0.0.1:1/mlops does not respond" in build(project, MLOPS_DATABASE_URL=AWAY)
    (project.path / "store").mkdir(exist_ok=True)
    (project.path / "closed").mkdir(mode=0o555)
    closed = f"No permission for {project.path}/closed (Permission denied)"
    assert closed in build(project, *without_permissions(), MLOPS_ARTIFACTS=f"{project.path}/closed/artifacts")
    assert project.json("runs", "list") == []


@pytest.mark.parametrize(
    ("spec", "problem"),
    [("tyo", "There is no module 'tyo'"), ("mlops_nb.errors", "mlops_nb.errors has no ModelSpec called 'spec'")],
)
def test_misspelt_spec_is_one_sentence(project, spec, problem):
    done = project.run("ploomber", "build", "--env--spec", spec)
    assert done.returncode == 1
    assert problem in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
