"""The image that serves, as far as it can be made without Docker: its steps are carried out, its command is started.

The packages come from the index, by the hashes of serve/requirements.lock, into an environment that has nothing else.
"""

import json
import re
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.models import FACTS
from mlops_nb.data.tables import load_table, validate
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.columns import rows_of, to_table
from mlops_nb.model.signature import signature_of
from mlops_nb.model.train import fit
from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.project.framework_wheel import vendor_wheel
from mlops_nb.settings import Settings
from mlops_nb.spec import load_spec
from mlops_nb.store.registry import Registry
from tests.deploy.dockerfile import ROOT, Machine, Stages
from tests.factories import free_port, send, wait_for
from tests.pipeline.conftest import copy_project

KEY = "the-key-of-the-test"
NOT_FOR_SERVING = (
    "jupyterlab", "notebook", "ipykernel", "IPython", "nbformat", "nbdev", "fastcore", "papermill", "ploomber",
    "jupytext", "wandb", "matplotlib", "pandera", "skl2onnx", "onnx", "openpyxl", "ruff", "pytest", "pip", "setuptools",
)  # fmt: skip
MODELS = ["loans", "emails", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("signals", "demand"))]
LARGEST = 650e6  # Bytes of the environment; docs/deploying.md says what it has


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """The folders of the image."""
    folder = tmp_path_factory.mktemp("image")
    context = folder / "context"
    copy_project(context)
    vendor_wheel(context)
    machine = Machine(folder, context)
    machine.build("build")
    machine.build("serve")
    return machine


@pytest.fixture(scope="module")
def production(machine):
    """Puts a reference model into production in a home of its own: its name, rows, right answers, and the home."""
    return cache(partial(put_into_production, machine.folder / "team"))


def put_into_production(folder: Path, name: str) -> tuple[str, list, list, Path]:
    home = folder / name
    home.mkdir(parents=True)
    spec = load_spec(f"mlops_nb.examples.{name}")
    table = validate(load_table(spec.load), spec.schema)
    X = table[spec.inputs]
    estimator = fit(spec, X, table[spec.target], folds=0).estimator
    signature = signature_of(spec, estimator)
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home)}))
    registry.register(write_bundle(home / "bundle", spec.name, estimator, signature, X.tail(500), X, FACTS))
    registry.promote(spec.name, 1)
    registry.close()
    return spec.name, rows_of(signature, to_table(signature, X.head(3))), estimator.predict(X.head(3)).tolist(), home


class Running:
    """A command of the image; what it writes goes to a folder of its own."""

    def __init__(self, machine: Machine, home: Path, command: list[str], project: Path, **more: str):
        self.port, self.machine = free_port(), machine
        writes = machine.folder / f"writes-{self.port}"
        (writes / "tmp").mkdir(parents=True)
        places = {"TMPDIR": writes / "tmp", "MLOPS_SPOOL": writes / "spool", "MLOPS_CACHE": writes / "cache"}
        places["MLOPS_BATCH"] = writes / "batch"
        own = {k: machine.mapped(v) for k, v in machine.stages.environment("serve").items()}
        own["PATH"] = own["PATH"].replace("$PATH", "/usr/bin:/bin")
        own |= {"MLOPS_PORT": str(self.port), "MLOPS_HOME": str(project), "MLOPS_WORKERS": "1", "MLOPS_API_KEYS": KEY}
        own |= {"HOME": str(writes / "tmp"), "MLOPS_DATABASE_URL": f"sqlite:///{home}/store/mlops.db"}
        own |= {"MLOPS_ARTIFACTS": str(home / "store/artifacts")}
        self.environment = own | {k: str(v) for k, v in places.items()} | more
        self.log = writes / "log"
        command = [str(machine.inside("/opt/venv/bin") / command[0]), *command[1:]]
        with self.log.open("w") as log:
            where = {"cwd": project, "env": self.environment}
            self.process = subprocess.Popen(command, **where, stdout=log, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        assert self.process.wait(timeout=60) == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text(), self.log.read_text()

    def ask(self, method: str, path: str, body=None) -> tuple[int, bytes]:
        assert self.process.poll() is None, self.log.read_text()
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        return send(self.port, method, path, content, headers)

    def ready(self) -> "Running":
        wait_for(lambda: self.ask("GET", "/health/ready")[0] == 200, 90)
        return self


def right(running: Running, name: str, rows: list, expected: list):
    """It predicts, counts, shows its dashboard and takes the truth."""
    status, body = running.ask("POST", "/predict", {"features": rows})
    assert status == 200, body
    answer = json.loads(body)
    assert (answer["model"], answer["version"]) == (name, 1)
    if isinstance(expected[0], float):
        np.testing.assert_allclose(answer["prediction"], expected, rtol=1e-5)
    else:
        assert answer["prediction"] == expected
    assert running.ask("POST", "/feedback", {"labels": [{"id": answer["ids"][0], "label": expected[0]}]})[0] == 202
    for path in ("/", "/dashboard/data.json?hours=1", "/model", "/openapi.json", "/docs", "/v2/health/ready"):
        assert running.ask("GET", path)[0] == 200, path
    wait_for(lambda: b'mlops_requests_total{route="/predict",status="200"} 1.0' in running.ask("GET", "/metrics")[1])


@pytest.mark.soak
@pytest.mark.slow
def test_environment_has_nothing_that_serving_does_not_need(machine):
    code = f"from importlib.util import find_spec; print([n for n in {NOT_FOR_SERVING!r} if find_spec(n)])"
    python = machine.inside("/opt/venv/bin/python")
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    sizes = {f.stat().st_ino: f.stat().st_size for f in machine.inside("/opt").rglob("*") if f.is_file()}
    assert sum(sizes.values()) < LARGEST, f"{sum(sizes.values()) / 1e6:.0f} MB"


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_command_of_the_image_serves_and_its_health_check_answers(machine, production, model):
    name, rows, expected, home = production(model)
    before = files(machine)
    with Running(machine, home, Stages().command("serve"), machine.inside("/srv/project"), MLOPS_MODEL=name) as running:
        right(running.ready(), name, rows, expected)
        python, *words = machine.stages.health_check("serve")
        check = [machine.inside("/opt/venv/bin") / python, *words]
        assert subprocess.run(check, env=running.environment, check=False).returncode == 0
        away = running.environment | {"MLOPS_PORT": str(free_port())}
        assert subprocess.run(check, env=away, stderr=subprocess.DEVNULL, check=False).returncode != 0
    assert files(machine) == before, "a container's file system is read-only, but for /tmp and what settings name"
    log = PredictionLog.open(Settings.read({"MLOPS_HOME": str(home)}))
    assert len(log.read(name).predictions) == len(rows), "what was spooled is shipped"
    log.close()


def files(machine: Machine) -> set[Path]:
    return {p for top in ("/opt", "/srv") for p in machine.inside(top).rglob("*")}


@pytest.mark.soak
@pytest.mark.slow
def test_wheel_with_the_extra_serve_is_enough_where_there_is_no_project(machine, production):
    """No folder of a project, no module of a spec, none of the packages that only the image has."""
    name, rows, expected, home = production("loans")
    nowhere, broken = machine.folder / "nowhere", machine.folder / "broken"
    for folder in (nowhere, broken):
        folder.mkdir()
    for package in ("psycopg", "apprise", "yaml"):
        (broken / f"{package}.py").write_text(f"raise ImportError({package!r})\n")
    command = ["mlops-nb", "serve", "--model", name]
    with Running(machine, home, command, nowhere, PYTHONPATH=str(broken)) as running:
        right(running.ready(), name, rows, expected)


@pytest.mark.soak
@pytest.mark.slow
def test_commands_of_the_jobs_run_in_the_image(machine, production):
    name, rows, expected, home = production("loans")
    arrived, scores = home / "arrived.parquet", home / "scores"
    pd.DataFrame(rows, columns=load_spec("mlops_nb.examples.loans").inputs).to_parquet(arrived)
    scored = ["predict", name, "--input", str(arrived), "--output", str(scores)]
    for words, codes in ((["models", "list", "--json"], {0}), (scored, {0}), (["monitor", name, "--json"], {0, 1, 2})):
        job = Running(machine, home, ["mlops-nb", *words], machine.inside("/srv/project"), MLOPS_MODEL=name)
        assert job.process.wait(timeout=60) in codes, job.log.read_text()
        assert "Traceback" not in job.log.read_text(), job.log.read_text()
    assert pd.read_parquet(scores)["prediction"].tolist() == expected


def test_lock_of_serving_is_a_part_of_the_lock_and_has_what_the_extras_need():
    from importlib.metadata import metadata

    from packaging.requirements import Requirement

    pin = re.compile(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==([^ \\]+)", re.MULTILINE)
    lines = (ROOT / "serve/requirements.lock").read_text()
    every, own = pin.findall((ROOT / "requirements.lock").read_text()), pin.findall(lines)
    assert own
    assert set(own) <= set(every)
    assert "--hash=sha256:" in lines
    assert "://" not in lines
    assert "mlops-nb" not in dict(own)
    needed = [Requirement(r) for r in metadata("mlops-nb").get_all("Requires-Dist")]
    extras = ("", "serve", "postgres", "s3", "alerts")
    named = {r.name for r in needed if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)}
    assert named <= dict(own).keys()
    assert not {*NOT_FOR_SERVING} & dict(own).keys()


def test_dockerfile_is_not_root_has_a_health_check_and_one_process():
    stages = Stages()
    assert list(stages.of)[-1] == "serve", "the last stage is what is built by default"
    for stage in ("serve", "cuda", "pipeline"):
        assert re.fullmatch(r"\d{4,}:\d{4,}", stages.last(stage, "USER")), "Kubernetes can only check a number"
    assert stages.last("serve", "EXPOSE") == stages.environment("serve")["MLOPS_PORT"]
    assert "/health/live" in stages.last("serve", "HEALTHCHECK")
    unknown = [n for n in stages.environment("serve") if n.startswith("MLOPS_")]
    Settings.read({n: stages.environment("serve")[n] for n in unknown})


def test_image_for_gpus_has_one_onnxruntime_of_the_same_version_and_asks_for_cuda():
    """It is read, not built: its packages have gigabytes, and there is no device here."""
    stages, pin = Stages(), re.compile(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)", re.MULTILINE)
    serving, gpu = (dict(pin.findall((ROOT / f"serve/requirements{kind}.lock").read_text())) for kind in ("", "-cuda"))
    assert gpu["onnxruntime-gpu"] == serving["onnxruntime"]
    assert "onnxruntime" not in gpu
    shared = {name: version for name, version in gpu.items() if name in serving}
    assert shared == {name: serving[name] for name in shared}, "it replaces nothing else"
    removed, installed = (value for kind, value in stages.of["buildcuda"][-2:] if kind == "RUN")
    assert removed.endswith("uninstall --quiet --yes onnxruntime")
    assert "--require-hashes" in installed
    assert ("COPY", "--from=buildcuda /opt/venv /opt/venv") in stages.of["cuda"]
    assert ("COPY", "--from=build /opt/venv /opt/venv") not in stages.of["cuda"], "two copies of the packages"
    own = stages.environment("cuda")
    assert Settings.read({k: v for k, v in own.items() if k.startswith("MLOPS_")}).onnx_providers.startswith("CUDA")
    assert stages.command("cuda") == stages.command("serve")


def test_image_is_built_from_the_wheel_that_is_there():
    """`make image` names the folder of the wheel; it makes it first where the framework itself is."""
    output = subprocess.run(["make", "-n", "image"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--wheel-dir dist" in output
    assert "--build-arg WHEELS=dist" in output
    assert "--target serve" in output
    assert "serve/Dockerfile" in output
    assert sys.version_info >= (3, 11)
