"""One build at a time writes into the products of a spec."""

import fcntl
import json
import os
import subprocess
import time
from types import SimpleNamespace

import nbformat
import pytest

from mlops_nb.errors import PipelineError
from mlops_nb.orchestration import hooks
from mlops_nb.store import file_lock


@pytest.fixture
def products(tmp_path, monkeypatch):
    """The products of a spec in a project."""
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    monkeypatch.setattr(hooks, "find_project", lambda: tmp_path)
    held = {}
    monkeypatch.setattr(file_lock, "_HELD", held)
    yield tmp_path / "products" / "toy"
    for file in held.values():
        file.close()


@pytest.fixture
def other(products):
    """Another build, of the process 4711."""
    products.mkdir(parents=True)
    with (products / "build.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        yield file


class Dag(dict):
    """As much of a DAG as an executor sees."""

    def __init__(self, products, status="WaitingExecution"):
        status = SimpleNamespace(name=status)
        super().__init__(ingest=SimpleNamespace(exec_status=status, product={"nb": products / "ingest.ipynb"}))


def ran(dag, show_progress):
    return ["ran"]


def test_second_build_is_told_who_builds_and_what_to_do(products, other):
    message = (
        r"\(process 4711\) is writing into products/toy\. Wait until it has ended, or give this one .* --env--products"
    )
    with pytest.raises(PipelineError, match=message):
        hooks._run_alone(ran, Dag(products), show_progress=False)
    assert (products / "build.lock").read_text() == "4711"


def test_build_in_which_nothing_runs_asks_for_no_lock(products, other):
    assert hooks._run_alone(ran, Dag(products, "Skipped"), show_progress=False) == ["ran"]


def test_lock_is_free_when_its_process_is_gone_and_is_its_own_until_then(products, other):
    other.close()
    for _ in range(2):
        assert hooks._run_alone(ran, Dag(products), show_progress=False) == ["ran"]
    assert (products / "build.lock").read_text() == str(os.getpid())
    with (products / "build.lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_reading_a_pipeline_forgets_nothing_of_a_build_that_runs(products, other, monkeypatch):
    monkeypatch.setenv("MLOPS_DATABASE_URL", f"sqlite:///{products}/empty.db")
    (products / "bundle").mkdir()
    (products / "bundle/manifest.json").write_text(json.dumps({"name": "toy", "identity": "new"}))
    for name in ("registration.json", "evaluation.json"):
        (products / name).write_text("{}")
    hooks.registry_fingerprint("products/toy")
    assert (products / "evaluation.json").exists()
    other.close()
    hooks.registry_fingerprint("products/toy")
    assert not (products / "evaluation.json").exists()


@pytest.mark.slow
def test_second_build_is_refused_and_leaves_the_first_alone(project):
    train = project.path / "nbs/pipeline/train.ipynb"
    wait = "open(__import__('os').environ.get('GATE', '/dev/null')).readline()"
    nb = nbformat.read(train, 4)
    next(c for c in nb.cells if c.source.endswith("\nshow_estimator(training.estimator)")).source += f"\n{wait}"
    nbformat.write(nb, train)
    gate = project.path / "gate"
    os.mkfifo(gate)
    opened = os.open(gate, os.O_RDWR)
    command = ["ploomber", "build", "--env--spec", "toy", "--env--engine", "ploomber-engine", "--env--seed", "21"]
    with (project.path / "first.log").open("wb") as log:
        first = subprocess.Popen(
            command, cwd=project.path, env=project.environment(GATE=str(gate)), stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 120
        while not (project.products / ".dataset.json.metadata").exists() and time.monotonic() < deadline:
            assert first.poll() is None, (project.path / "first.log").read_text()
            time.sleep(0.02)
        output = project.fail("--env--seed", "22")
        assert f"process {first.pid})" in output
        assert project.run("ploomber", "status", "--env--spec", "toy").returncode == 0
    finally:
        os.write(opened, b"\n")
        ended = first.wait(timeout=120)
        os.close(opened)
    assert ended == 0, (project.path / "first.log").read_text()
    assert project.read("dataset.json")["split"] == "split by seed 21"
    assert [(r["state"], r["version"]) for r in project.json("runs", "list")] == [("finished", 1)]
