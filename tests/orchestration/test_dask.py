"""A scheduler and two workers as processes of their own: what runs on them comes out as on one machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from click.testing import CliRunner
from distributed import get_task_stream
from sklearn.ensemble import RandomForestClassifier

from mlops_nb.batch.jobs import predict_batch
from mlops_nb.batch.requests import BatchRequest
from mlops_nb.cli.main import main
from mlops_nb.errors import BatchError, ScaleError
from mlops_nb.model.train import fit
from mlops_nb.orchestration.dask import cluster, dask_runner, fits_on_cluster
from mlops_nb.spec import ModelSpec
from tests.batch.test_jobs import made, people, rows_in, settings  # noqa: F401
from tests.factories import wait_for
from tests.pipeline.conftest import Project, copy_project

pytestmark = pytest.mark.slow

# Three models of the toy at once; `break` is a fourth that cannot be built, `after` waits for it
GRID = """
meta: {extract_upstream: false, extract_product: false}
executor: {dotted_path: mlops_nb.orchestration.dask.dask_executor}
tasks:
  - name: fit-
    source: fit.ipynb
    product: {nb: "out/fit-[[C]].ipynb", score: "out/score-[[C]].txt"}
    grid: {C: [0.1, 1.0, 10.0]}
  - name: break
    source: broken.ipynb
    product: out/broken.ipynb
  - name: after
    source: after.ipynb
    upstream: [break]
    product: out/after.ipynb
"""


class Cluster:
    """Processes that a test can kill."""

    def __init__(self, folder: Path, project: Path):
        self.file, self.folder, self.project = folder / "scheduler.json", folder, project
        self.processes: list[subprocess.Popen] = []
        try:
            self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")
            self.workers = [self._start("dask_worker", "--nthreads", "1", "--no-nanny") for _ in range(2)]
            wait_for(lambda: self.file.is_file() and self.file.read_text().endswith("}"), 60)  # not written at once
            self.address = json.loads(self.file.read_text())["address"]
            with cluster(self.address) as client:
                client.wait_for_workers(2, timeout=60)
        except BaseException:
            self.stop()
            raise

    def _start(self, name: str, *options: str) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            f"distributed.cli.{name}",
            "--scheduler-file",
            str(self.file),
            "--no-dashboard",
        ]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
        environment = kept | {"PYTHONPATH": str(self.project), "WANDB_MODE": "disabled", "MPLBACKEND": "agg"}
        environment |= {"DASK_TEMPORARY_DIRECTORY": str(self.folder), "PLOOMBER_STATS_ENABLED": "false"}
        if name == "dask_scheduler":
            command += options
        else:
            command += [*options, "--local-directory", str(self.folder)]
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes.append(subprocess.Popen(command, cwd=self.project, env=environment, stdout=log, stderr=log))
        return self.processes[-1]

    def kill(self, number: int):
        self.workers[number].send_signal(signal.SIGKILL)
        self.workers[number].wait(10)

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait(30)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def shared_dask(project, tmp_path_factory):
    """For tests that kill nothing."""
    running = Cluster(tmp_path_factory.mktemp("dask"), project.path)
    yield running
    running.stop()


@pytest.fixture
def dask(project, tmp_path):
    """One of which a test may kill what it wants."""
    (tmp_path / "dask").mkdir()
    running = Cluster(tmp_path / "dask", project.path)
    yield running
    running.stop()


def _answers(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["predicted_at", "job"], errors="ignore").sort_values("id", ignore_index=True)


@pytest.mark.parametrize("kind", ["table", pytest.param("files", marks=pytest.mark.nightly)])
def test_batch_job_of_two_workers_of_which_one_is_killed_gives_the_rows_of_one_machine(settings, tmp_path, dask, kind):  # noqa: F811
    people(20_000).to_parquet(tmp_path / "in.parquet", row_group_size=5000)
    outputs = []
    for name in ("here", "there"):
        output = f"sqlite:///{tmp_path}/{name}.db" if kind == "table" else f"{tmp_path}/{name}/"
        outputs.append(output)
        table = "scored" if kind == "table" else None
        request = BatchRequest("loans", str(tmp_path / "in.parquet"), output, table=table,
                               probability=True, log=True, chunk_rows=200)  # fmt: skip
        if name == "here":
            predict_batch(request, settings=settings)
            continue
        with cluster(dask.address) as client:
            job = predict_batch(request, settings=settings, run=_killing(dask, client))
        assert (job.state, job.rows, job.rejected) == ("finished", 20_000, 0)
    here, there = (rows_in(o, "scored") if kind == "table" else pd.read_parquet(o) for o in outputs)
    pd.testing.assert_frame_equal(_answers(here), _answers(there))
    logged = rows_in(settings.database_url, "predictions")
    assert len(logged) == 40_000
    assert logged["id"].is_unique


def _killing(dask: Cluster, client):
    """The runner of the cluster, that loses a worker when a fifth is done."""

    def run(score, numbers):
        for count, done in enumerate(dask_runner(client)(score, numbers)):
            if count == len(numbers) // 5:
                assert len(client.nthreads()) == 2
                dask.kill(0)
            yield done
        assert len(client.nthreads()) == 1

    return run


def test_stopped_job_cancels_chunks_that_no_worker_has_begun(settings, tmp_path, shared_dask):  # noqa: F811
    people(2000).assign(age=999).to_parquet(tmp_path / "in.parquet")
    request = BatchRequest("loans", str(tmp_path / "in.parquet"), f"{tmp_path}/out/", chunk_rows=50)
    with cluster(shared_dask.address) as client:
        with pytest.raises(BatchError, match=r"do not fit the model, more than the share of 0.01"):
            predict_batch(request, settings=settings, run=dask_runner(client))
        wait_for(lambda: not client.processing() or not any(client.processing().values()))


def test_command_scores_on_the_cluster_that_is_named(settings, tmp_path, shared_dask, monkeypatch):  # noqa: F811
    people(1000).to_csv(tmp_path / "in.csv", index=False)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    monkeypatch.setenv("MLOPS_DASK_SCHEDULER", shared_dask.address)
    order = ["predict", "loans", "--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")]
    done = CliRunner().invoke(main, order)
    assert done.exit_code == 0, done.output
    assert len(pd.read_csv(tmp_path / "out.csv")) == 1000


@pytest.mark.nightly
def test_search_in_a_build_on_the_cluster_finds_what_one_machine_finds(project, shared_dask):
    search = ("--env--search", "{'C': [0.01, 0.1, 1, 10]}")
    project.build(*search, "--force", MLOPS_DASK_SCHEDULER=shared_dask.address)
    there = project.read("training.json")
    project.build(*search, "--force")
    here = project.read("training.json")
    assert there["search"] == here["search"]
    assert there["params"] == here["params"]
    states = [run["state"] for run in project.json("runs", "list")]
    assert states == ["finished", "finished"]


def test_fits_are_the_tasks_and_what_they_do_inside_stays_on_their_worker(shared_dask):
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(90, 2)), columns=["a", "b"])
    y = (X["a"] > 0).astype(int)
    schema = pa.DataFrameSchema({"a": pa.Column(float), "b": pa.Column(float), "y": pa.Column(int)})
    spec = ModelSpec("trees", lambda: None, "y", schema, lambda params: RandomForestClassifier(40, n_jobs=2, **params))
    given = (spec, X, y, {}, {"max_depth": [1, 2]}, 3)
    here = fit(*given)
    with (
        cluster(shared_dask.address) as client,
        get_task_stream(client) as stream,
        fits_on_cluster(shared_dask.address),
    ):
        there = fit(*given)
    pd.testing.assert_frame_equal(here.search, there.search)
    # threads add up the trees in any order
    np.testing.assert_allclose(here.estimator.predict_proba(X), there.estimator.predict_proba(X), rtol=1e-12)
    assert 1 <= len(stream.data) <= 2 * 3 + 1, "2 candidates, 3 folds, and the fit of the best"
    assert all("_fit_here" in str(task["key"]) for task in stream.data)


def _notebook(path: Path, *cells: str):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    parameters = new_code_cell("upstream = None\nproduct = None\nC = None", metadata={"tags": ["parameters"]})
    spec = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(new_notebook(cells=[parameters, *map(new_code_cell, cells)], metadata=spec), path)


@pytest.mark.soak
def test_tasks_of_a_grid_run_side_by_side_and_a_failure_comes_back_with_its_traceback(project, shared_dask):
    (project.path / "pipeline.grid.yaml").write_text(GRID)
    # each waits until another one runs too: one after the other they would wait in vain
    meeting = (
        "from pathlib import Path\nimport time\nPath('out').mkdir(exist_ok=True)\nPath(f'out/begun-{C}').touch()\n"
    )
    meeting += "end = time.monotonic() + 60\nwhile len(list(Path('out').glob('begun-*'))) < 2:\n"
    meeting += "    assert time.monotonic() < end, 'alone'\n    time.sleep(0.05)"
    _notebook(project.path / "fit.ipynb", meeting, "_ = Path(product['score']).write_text(str(C))")
    _notebook(project.path / "broken.ipynb", "print('so far')", "1 / 0")
    _notebook(project.path / "after.ipynb", "pass")
    # a pipeline with placeholders has its own env; this one has none
    (project.path / "env.grid.yaml").write_text("{}")
    done = project.run(
        "ploomber", "build", "--entry-point", "pipeline.grid.yaml", MLOPS_DASK_SCHEDULER=shared_dask.address
    )
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert "ZeroDivisionError: division by zero" in output, output
    scores = {p.read_text() for p in (project.path / "out").glob("score-*.txt")}
    assert scores == {"0.1", "1.0", "10.0"}
    assert "so far" in (project.path / "out/broken.ipynb").read_text()
    assert not (project.path / "out/after.ipynb").exists()


@pytest.mark.soak
def test_build_survives_a_worker_that_is_killed(project, dask):
    (project.path / "pipeline.kill.yaml").write_text(
        "meta: {extract_upstream: false, extract_product: false}\n"
        "executor: {dotted_path: mlops_nb.orchestration.dask.dask_executor}\n"
        "tasks:\n  - {name: slow, source: slow.ipynb, product: out/slow.ipynb}\n"
    )
    # the first time it says who runs it and waits to be killed
    first = "import os, time\nfrom pathlib import Path\nPath('out').mkdir(exist_ok=True)\nseen = Path('out/pid')\n"
    first += (
        "if not seen.exists():\n    Path('out/new').write_text(str(os.getppid()))\n    Path('out/new').rename(seen)\n"
    )
    first += "    time.sleep(300)"
    _notebook(project.path / "slow.ipynb", first, "print('the second time')")
    (project.path / "env.kill.yaml").write_text("{}")
    command = ["ploomber", "build", "--entry-point", "pipeline.kill.yaml"]
    with (project.path / "build.log").open("w") as log:
        build = subprocess.Popen(command, cwd=project.path, stdout=log, stderr=log,
                                 env=project.environment(MLOPS_DASK_SCHEDULER=dask.address))  # fmt: skip
    try:
        wait_for((project.path / "out/pid").is_file, 120)
        parent = int((project.path / "out/pid").read_text())
        dask.kill([worker.pid for worker in dask.workers].index(parent))
        assert build.wait(180) == 0, (project.path / "build.log").read_text()
    finally:
        if build.poll() is None:
            build.kill()
    assert "the second time" in (project.path / "out/slow.ipynb").read_text()


def test_unreachable_scheduler_is_one_clear_error(project, monkeypatch):
    monkeypatch.setattr("mlops_nb.orchestration.dask.CLUSTER_TIMEOUT_SECONDS", 1)
    with pytest.raises(ScaleError, match=r"There is no Dask scheduler at 'tcp://127.0.0.1:1'. Start one"):
        cluster("tcp://127.0.0.1:1").__enter__()
    output = project.fail(MLOPS_DASK_SCHEDULER="tcp://127.0.0.1:1")
    assert "There is no Dask scheduler" in output


LOSES_ITS_SCHEDULER = """
import os, signal, sys, threading, time
from mlops_nb.cli.output import CommandGroup
from mlops_nb.orchestration.dask import cluster, dask_runner
import click

def work():
    with cluster(sys.argv[1]) as client:
        threading.Timer(1, os.kill, [int(sys.argv[2]), signal.SIGKILL]).start()
        list(dask_runner(client)(time.sleep, [60] * 4))

group = CommandGroup()
group.add_command(click.Command("work", callback=work))
group(["work"])
"""


@pytest.mark.soak
def test_scheduler_that_is_lost_during_the_work_is_one_sentence(dask):
    done = subprocess.run(
        [sys.executable, "-c", LOSES_ITS_SCHEDULER, dask.address, str(dask.scheduler.pid)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    lost = f"Error: The Dask scheduler at {dask.address} was lost during the work. Start it, then repeat."
    assert done.stderr.splitlines()[-1] == lost
    assert "Traceback" not in done.stderr


def test_scheduler_without_workers_is_one_clear_error(dask, monkeypatch):
    dask.kill(0)
    dask.kill(1)
    monkeypatch.setattr("mlops_nb.orchestration.dask.CLUSTER_TIMEOUT_SECONDS", 2)
    with pytest.raises(ScaleError, match=r"has no workers. Start some"):
        cluster(dask.address).__enter__()


def test_results_of_workers_are_those_of_numpy(shared_dask):
    with cluster(shared_dask.address) as client:
        assert client.submit(np.sum, np.arange(10)).result() == 45
