"""The whole loop: real pipeline, real Gunicorn, real HTTP, real database; and nothing is left of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from mlops_nb.errors import NotFoundError, PipelineError
from mlops_nb.settings import Settings
from mlops_nb.simulate.demo import _WithoutAlerts, find_spec
from mlops_nb.simulate.demo_report import DemoReport, format_report
from mlops_nb.simulate.sandbox import stop_service, temporary_project
from tests.factories import optional, wait_for
from tests.pipeline.conftest import copy_project

ROOT = Path(__file__).parents[2]
# ROC AUC, balanced accuracy, units of mean absolute error, mean ROC AUC of two outputs, R²
GAIN = {"loans": 0.1, "emails": 0.15, "demand": 20.0, "deliveries": 0.08, "journeys": 0.2}
# CI builds and serves these (tests/pipeline/test_models.py), and plays the loop with the other
NIGHTLY = ("emails", "demand", "deliveries", "journeys")


@pytest.fixture
def command(tmp_path):
    """Starts demos; afterwards no process and no file of theirs may be left, and the project must be as it was."""
    place, before = tmp_path / "temporary", _yours()
    place.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "WANDB_"))}
    started = []

    def start(*words: str) -> subprocess.Popen:
        environment = kept | {"TMPDIR": str(place), "MLOPS_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing"}
        line = [str(Path(sys.executable).parent / "mlops-nb"), "demo", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(line, cwd=ROOT, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=120)
    left = [p for p in psutil.process_iter(["cmdline", "cwd"]) if str(place) in f"{p.info['cwd']} {p.info['cmdline']}"]
    files = [str(p) for p in place.iterdir() if p.name.startswith("mlops-demo")]
    for process in left:
        process.kill()
    assert (left, files, _yours()) == ([], [], before)


def _yours() -> list[str]:
    """What a demo may not touch."""
    return sorted(str(p) for folder in ("store", "products") for p in (ROOT / folder).glob("**/*"))


def played(process: subprocess.Popen) -> dict:
    output, problems = process.communicate(timeout=900)
    assert process.returncode == 0, output + problems
    return json.loads(output)


def wait_until_told(process: subprocess.Popen, words: str) -> str:
    """The line with these words."""
    told = []
    while words not in (line := process.stderr.readline()):
        told.append(line)
        assert line, "".join(told)
    return line


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.nightly if n in NIGHTLY else ()) for n in GAIN])
def test_model_that_the_world_has_left_behind_is_noticed_replaced_and_well_again(command, name):
    process = command(name, "--json", "--rate", "0", "--keep")
    line = wait_until_told(process, "The dashboard is at ")
    with urlopen(line.partition(" at ")[2].split()[0], timeout=30) as answer:
        assert b"Version 2</b> predicts" in answer.read()
    process.send_signal(signal.SIGINT)
    report = played(process)
    assert report["succeeded"]
    assert report["problems"] == []
    assert [(step["event"], step["version"]) for step in report["timeline"]] == [
        ("trained", 1),
        ("reference traffic", 1),
        ("drifted traffic", 1),
        ("retrained", 2),
        ("service updated", 2),
        ("fresh drifted traffic", 2),
    ]
    assert [report["timeline"][i]["outcome"] for i in (1, -1)] == ["healthy", "healthy"]
    assert {a["kind"] for a in report["alerts"]} == {"drift", "performance"}
    assert all(a["opened_at"] < a["closed_at"] for a in report["alerts"])
    (decision,) = report["decisions"]
    assert (decision["action"], decision["champion"], decision["challenger"]) == ("promoted", 1, 2)
    assert {g["gate"] for g in decision["figures"]["gates"]} == {"minimum", "baseline", "champion"}
    old, new = (report["comparison"][version][report["metric"]] for version in ("old", "new"))
    assert report["comparison"]["rows"] == 1000
    assert new > old + GAIN[name], (old, new)


@pytest.mark.slow
@pytest.mark.nightly
def test_detector_that_alarms_too_often_is_retrained(command):
    report = played(command("pumps", "--json", "--rate", "0"))
    assert report["succeeded"], report["problems"]
    kinds = {a["kind"] for a in report["alerts"]}
    assert {"drift", "alarms"} <= kinds
    assert all(a["closed_at"] for a in report["alerts"])
    (decision,) = report["decisions"]
    assert decision["action"] == "promoted"
    assert {g["gate"] for g in decision["figures"]["gates"]} == {"minimum", "maximum", "baseline", "champion"}
    assert [report["timeline"][i]["outcome"] for i in (1, -1)] == ["healthy", "healthy"]


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "windows"),
    [("loans", 4), *(pytest.param(*given, marks=pytest.mark.nightly) for given in (("loans", 20), ("demand", 3)))],
)
def test_nothing_happens_when_nothing_should(command, name, windows):
    report = played(command(name, "--scenario", "good", "--windows", str(windows), "--json", "--rate", "0"))
    assert report["succeeded"]
    assert report["alerts"] == []
    assert [d["action"] for d in report["decisions"]] == ["nothing"] * windows
    assert [(step["version"], step["outcome"]) for step in report["timeline"][1:]] == [(1, "healthy")] * windows


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("The pipeline trains", signal.SIGINT),
        ("It is served at", signal.SIGTERM),
        pytest.param("The pipeline trains", signal.SIGTERM, marks=pytest.mark.nightly),
        pytest.param("It is served at", signal.SIGINT, marks=pytest.mark.nightly),
    ],
)
def test_demo_that_is_stopped_leaves_nothing_behind(command, number, words):
    process = command("loans", "--rate", "20")
    wait_until_told(process, words)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == (1 if number == signal.SIGINT else 128 + number)


@pytest.mark.slow
def test_what_has_no_such_model_or_scenario_or_is_no_project_says_so(command, tmp_path):
    for words, problem in [
        (["loan"], "Did you mean 'loans'?"),
        (["loans", "--scenario", "fire"], "no scenario 'fire'"),
    ]:
        process = command(*words)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert problem in errors
        assert "Traceback" not in errors
    with pytest.raises(PipelineError, match="inside a project"), temporary_project(tmp_path, "loans"):
        pass


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A project of a user, with a model of theirs."""
    package = tmp_path / "own" / "shop_of_a_demo"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "ordinary.py").write_text("raise RuntimeError('nobody asked for this module')\n")
    text = "from mlops_nb.examples.loans import spec as loans\nfrom mlops_nb.spec import ModelSpec\n"
    text += 'spec = ModelSpec(**{**vars(loans), "name": "churn"})\n'
    (package / "churn.py").write_text(text)
    (tmp_path / "own" / "settings.ini").write_text("[DEFAULT]\nlib_path = shop_of_a_demo\n")
    (tmp_path / "own" / "pipeline.yaml").write_text("tasks: []\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "own"
    for name in [name for name in sys.modules if name.startswith("shop_of_a_demo")]:
        del sys.modules[name]


def test_model_is_found_in_a_project_of_ones_own_and_among_the_reference_models(own):
    assert find_spec(own, "churn") == "shop_of_a_demo.churn"
    assert find_spec(own, "loans") == "mlops_nb.examples.loans"
    with pytest.raises(NotFoundError, match="Did you mean 'churn'"):
        find_spec(own, "churm")


def fail_inside(project: Path, act):
    """A temporary project whose block acts and then fails."""
    with temporary_project(project, "churn") as settings:
        act(settings)
        raise KeyError("the block failed")


def test_temporary_project_has_the_files_of_the_project_and_neither_its_store_nor_its_settings(own, monkeypatch):
    monkeypatch.setenv("MLOPS_ALERT_URLS", "json://127.0.0.1:9")
    (own / "store").mkdir()
    (own / ".venv").mkdir()
    before, path = dict(os.environ), [*sys.path]
    homes = []

    def look(settings):
        homes.append(settings.home)
        assert {p.name for p in settings.home.iterdir()} == {"shop_of_a_demo", "settings.ini", "pipeline.yaml"}
        assert not (settings.home / "pipeline.yaml").is_symlink(), "Ploomber would follow it"
        assert (settings.alert_urls, settings.model, os.environ["WANDB_MODE"]) == ("", "churn", "disabled")
        assert settings == Settings.read()
        assert str(own) not in settings.database_url

    with pytest.raises(KeyError, match="the block failed"):
        fail_inside(own, look)
    assert not homes[0].exists()
    assert (own / "shop_of_a_demo" / "churn.py").is_file()
    assert (dict(os.environ), sys.path) == (before, path)


def test_process_that_the_block_lost_ends_with_the_temporary_project(own):
    children, command = [], [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(KeyError, match="the block failed"):
        fail_inside(own, lambda _: children.append(subprocess.Popen(command, start_new_session=True)))
    assert not psutil.pid_exists(children[0].pid)
    children[0].wait(10)


def test_service_that_does_not_end_in_peace_is_killed_with_its_workers(tmp_path):
    stubborn = "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); "
    stubborn += "open(f'{sys.argv[1]}/{os.getpid()}', 'w'); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", stubborn, str(tmp_path)], start_new_session=True)
    wait_for(lambda: len([*tmp_path.iterdir()]) == 2)
    pids = [int(p.name) for p in tmp_path.iterdir()]
    began = time.monotonic()
    stop_service(process, grace_seconds=0.3)
    assert time.monotonic() - began < 20
    wait_for(lambda: not any(psutil.pid_exists(i) and psutil.Process(i).status() != "zombie" for i in pids))


def test_lines_of_alerts_are_left_out_and_all_others_go_on(capsys):
    stream = _WithoutAlerts(sys.stderr)
    print("ALERT loans: drift", "of age", file=stream)
    print("The alerts could not be sent", file=stream, flush=True)
    assert capsys.readouterr().err == "The alerts could not be sent\n"


def test_problem_of_a_demo_is_in_its_report():
    report = DemoReport("loans", "drift", "roc_auc", problems=["no version was promoted"])
    assert not report.succeeded
    assert [*format_report(report)][-1] == "UNEXPECTED: no version was promoted"
    assert DemoReport("loans", "good", "roc_auc").succeeded


@pytest.mark.nightly
@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
def test_loop_of_a_booster_from_training_to_a_better_version(library, tmp_path):
    """Build, service, labels, drift, retraining and promotion of a model of another library."""
    optional(library)
    project = copy_project(tmp_path / "project")
    own = 'params.get("library", "{}")'
    project.replace("mlops_nb/examples/rents.py", own.format("sklearn"), own.format(library))
    done = subprocess.run(
        ["mlops-nb", "demo", "rents", "--rate", "0", "--json"],
        cwd=project.path,
        env=project.environment(PYTHONPATH=str(project.path)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["succeeded"], report["problems"]
    old, new = (report["comparison"][version]["r2"] for version in ("old", "new"))
    assert new > old + 0.1
