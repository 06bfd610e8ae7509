"""The page of the pipeline: true states, no markup of strangers, commands with an admin key alone."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output

from mlops_nb.serving.dashboard import pipeline
from mlops_nb.serving.dashboard.pipeline_graph import draw_metric
from mlops_nb.serving.http.auth import ForbiddenError
from mlops_nb.serving.http.tickets import Tickets
from mlops_nb.settings import Settings
from mlops_nb.store.git import GitState
from mlops_nb.store.runs import Run, RunStore
from tests.serving.dashboard.test_dashboard import ADMIN, HOSTILE, KEY, MOVE, bearer

STARTED = "2026-05-01T12:00:00+00:00"
CODE = GitState(commit="c0ffee" * 6 + "c0ff", branch="main", dirty=False, untracked=(), diff="")


@pytest.fixture
def add_run(settings):
    """Adds runs of the model to the service's project."""

    def add(run_id: str, state: str = "finished", **values) -> Run:
        run = Run(RunStore(settings.home / "store" / "runs").folder / run_id)
        run.start("toy", CODE, spec="toy")
        run.update(**values) if state == "running" else run.finish(state, **values)
        return run

    return add


def page(client, query: str = "", **options) -> str:
    response = client.get(f"/pipeline{query}", **options)
    assert response.status_code == 200
    return response.get_data(as_text=True)


def states(text: str) -> dict[str, str]:
    """Name of each stage to its state, as a screen reader has them."""
    return dict(re.findall(r'aria-label="(\w+): (\w+)"', text))


def test_stages_of_a_running_build_are_those_of_its_record_and_of_production(client, add_run):
    waiting = dict.fromkeys(["train", "evaluate", "package", "register"], "waiting")
    add_run("20260501-120000-000000", "running", tasks={"ingest": "done", **waiting})
    shown = states(page(client))
    assert [*shown] == ["source", "ingest", "train", "evaluate", "package", "register", "serve", "monitor", "retrain"]
    assert [shown[s] for s in ("source", "ingest", "train", "evaluate")] == ["done", "done", "running", "waiting"]
    assert (shown["serve"], shown["monitor"], shown["retrain"]) == ("good", "waiting", "waiting")


def test_page_without_a_build_and_of_an_unknown_run_is_shown(client, add_run):
    assert "No build of this model is recorded here" in page(client)
    add_run("20260501-120000-000000")
    assert "20260501-120000-000000" in page(client, "?run=nothing&stage=nowhere&compare=a,b&sort=x&state=y")


def test_failed_build_shows_where_and_why(client, add_run):
    tasks = {"ingest": "done", "train": "waiting"}
    add_run("20260501-120000-000000", "failed", tasks=tasks, error="The target has one class only.")
    text = page(client)
    assert states(text)["train"] == "failed"
    assert "The target has one class only." in text


def test_words_of_strangers_are_no_markup(client, add_run):
    data = {"source": HOSTILE, "sha256": HOSTILE, "train_rows": 1, "test_rows": 2}
    add_run(
        "20260501-120000-000000", "failed", error=HOSTILE, data=data, scenarios=[HOSTILE], params={HOSTILE: HOSTILE}
    )
    for stage in ("source", "ingest", "train"):
        text = page(client, f"?stage={stage}")
        assert "<img" not in text
        assert "<script>alert" not in text


def test_runs_are_filtered_sorted_and_compared(client, add_run):
    add_run("20260501-120000-000000", seconds=9.0, metrics={"neg_log_loss": -0.25}, seed=1, version=1)
    add_run("20260502-120000-000000", seconds=3.0, metrics={"neg_log_loss": -0.5}, seed=2, version=2)
    add_run("20260503-120000-000000", "failed")
    ids = re.compile(r'name="compare" value="([^"]+)"')
    assert [i[:8] for i in ids.findall(page(client))] == ["20260503", "20260502", "20260501"]
    assert [i[:8] for i in ids.findall(page(client, "?state=failed"))] == ["20260503"]
    assert [i[:8] for i in ids.findall(page(client, "?sort=seconds"))] == ["20260501", "20260502", "20260503"]
    assert [i[:8] for i in ids.findall(page(client, "?sort=seconds&order=up"))] == ["20260502", "20260501", "20260503"]
    assert [i[:8] for i in ids.findall(page(client, "?order=up"))] == ["20260501", "20260502", "20260503"]
    compared = page(client, "?compare=20260501-120000-000000,20260502-120000-000000").partition("Two runs compared")[2]
    assert re.search(r"log loss<td[^>]*>0.25<td[^>]*>0.5", compared)


def test_curves_of_two_runs_are_over_each_other_and_slices_side_by_side(client, add_run):
    columns = ["class", "false positive rate", "true positive rate"]
    roc = {"columns": columns, "data": [["yes", 0.0, 0.0], ["yes", 0.5, 0.9], ["yes", 1.0, 1.0]]}
    chance = {"columns": columns, "data": [["yes", 0.0, 0.0], ["yes", 1.0, 1.0]]}
    young = {"young": {"rows": 1, "neg_log_loss": -0.25}}
    add_run("20260501-120000-000000", curves={"roc": roc}, slices=young, fold_scores=[0.5, 0.7])
    add_run("20260502-120000-000000", curves={"roc": chance, "roc of other": roc})
    add_run("20260503-120000-000000")
    text = page(client, "?compare=20260501-120000-000000,20260502-120000-000000").partition("Two runs compared")[2]
    drawn = dict(re.findall(r"<figcaption>(.*?) <small>.*?</figcaption>(.*?)</figure>", text, re.DOTALL))
    assert {name: chart.count("<polyline") for name, chart in drawn.items()} == {
        "ROC": 3,  # two runs and the diagonal
        "Scores of the folds": 1,
        "ROC, other": 2,
    }
    assert 'points="0.0,240.0 170.0,24.0 340.0,0.0"' in drawn["ROC"]
    assert re.search(r"young<td[^>]*>log loss 0.25 <small>1 row</small><td[^>]*>–", text)
    none = page(client, "?compare=20260503-120000-000000,20260503-120000-000000")
    assert "Neither run has curves" in none


def test_build_that_ended_before_its_record_began_is_shown(client, settings):
    folder = settings.home / "store" / "commands" / "20260501-120000-000000"
    folder.mkdir(parents=True)
    command = {
        "id": folder.name,
        "kind": "build",
        "model": "toy",
        "run": "20260501-120001-000000",
        "command": "ploomber build",
    }
    command |= {"started": STARTED, "ended": STARTED, "stopped": True}
    (folder / "command.json").write_text(json.dumps(command))
    (folder / "output.log").write_text("reading pipeline.yaml\n")
    text = page(client)
    assert "Cancelled before its first task." in text
    assert "reading pipeline.yaml" in text
    assert "20260501-120001-000000" in page(client, "?state=interrupted")
    assert "Cancelled" in page(client, "?run=20260501-120001-000000&stage=train")
    (folder / "command.json").write_text(json.dumps(command | {"stopped": False, "exit_code": 1}))
    assert "It failed before its first task" in page(client)


# keys


@pytest.mark.slow
def test_key_opens_the_page_and_an_admin_key_what_shows_data_and_starts_commands(client_with, settings, add_run):
    run = add_run("20260501-120000-000000")
    write_notebook(run)
    (settings.home / "pipeline.yaml").write_text("tasks: []\n")
    (settings.home / "env.yaml").write_text("# Seed of the split\nseed: 0\nspec: toy\n")
    client = client_with(MLOPS_API_KEYS=KEY, MLOPS_ADMIN_KEYS=ADMIN)
    locked = page(client)
    assert "data-locked" in locked
    assert run.id not in locked
    for key, is_admin in ((KEY, False), (ADMIN, True)):
        text = page(client, "?stage=ingest", headers=bearer(key))
        assert run.id in text
        assert ("<iframe" in text, "Run pipeline" in text, "Seed of the split" in text) == (is_admin,) * 3


def test_commands_need_an_admin_key_and_come_from_this_site(client_with):
    client = client_with(MLOPS_API_KEYS=KEY, MLOPS_ADMIN_KEYS=ADMIN)
    for path, body in (("/pipeline/commands", {"kind": "build"}), ("/pipeline/commands/stop", {"id": "1"})):
        assert client.post(path, json=body, headers=MOVE).status_code == 401
        assert client.post(path, json=body, headers=MOVE | bearer(KEY)).status_code == 403
        assert client.post(path, json=body, headers=bearer(ADMIN)).status_code == 403
        foreign = MOVE | bearer(ADMIN) | {"Sec-Fetch-Site": "cross-site"}
        assert client.post(path, json=body, headers=foreign).status_code == 403
        assert client.post(path, json=body, headers=MOVE | bearer(ADMIN)).status_code == 404


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "'kind' must be"),
        ({"kind": "--help"}, "'kind' must be"),
        ({"kind": "build", "parameters": [3]}, "'parameters' must be an object"),
        ({"kind": "build", "parameters": {"seed": -1}}, "'seed' must be a whole number of at least 0"),
        ({"kind": "build", "parameters": {"sed": 1}}, "There is no parameter 'sed'"),
        ({"kind": "build", "seed": 1}, "seed"),
    ],
)
def test_command_that_cannot_be_meant_is_refused(client, settings, body, problem):
    (settings.home / "pipeline.yaml").write_text("tasks: []\n")
    (settings.home / "env.yaml").write_text("seed: 0\n")
    response = client.post("/pipeline/commands", json=body, headers=MOVE)
    assert response.status_code == 400
    assert problem in response.get_json()["error"]


# notebooks


def write_notebook(run: Run):
    drawn = new_output("display_data", {"text/html": "<p>42 rows</p><script>alert(1)</script>"})
    made = new_notebook(cells=[new_code_cell("rows", outputs=[drawn])])
    (run.folder / "notebooks").mkdir()
    nbformat.write(made, run.folder / "notebooks" / "ingest.ipynb")


@pytest.mark.slow
def test_executed_notebook_is_rendered_without_scripts_and_may_load_nothing(client, add_run):
    write_notebook(add_run("20260501-120000-000000"))
    address = re.search(r'<iframe src="([^"]+)"', page(client, "?stage=ingest"))[1].replace("&amp;", "&")
    response = client.get(address)
    text = response.get_data(as_text=True)
    assert response.status_code == 200
    assert "42 rows" in text
    assert "<script" not in text
    assert response.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert client.get(address.replace("ingest", "train")).status_code == 403
    assert client.get(address[:-1] + "x").status_code == 403


def test_ticket_is_for_one_subject_ends_and_is_of_this_service(monkeypatch, settings):
    tickets = Tickets(settings)
    ticket = tickets.issue("a/b")
    tickets.require("a/b", ticket)
    for subject, wrong in (
        ("a/c", ticket),
        ("a/b", ""),
        ("a/b", "9" * 30 + ".x"),
        ("a/b", "é.é"),
        ("a/b", f"9{ticket}"),
    ):
        with pytest.raises(ForbiddenError):
            tickets.require(subject, wrong)
    with pytest.raises(ForbiddenError):
        Tickets(Settings.read({"MLOPS_ADMIN_KEYS": ADMIN})).require("a/b", ticket)
    monkeypatch.setattr("mlops_nb.serving.http.tickets.time.time", lambda: float(ticket.partition(".")[0]) + 1)
    with pytest.raises(ForbiddenError):
        tickets.require("a/b", ticket)


def test_chart_of_a_metric_has_its_gate_and_a_line_a_version():
    series = [{"version": 1, "at": [10, 20], "values": [0.9, 0.8]}, {"version": 2, "at": [30], "values": [None]}]
    chart = draw_metric({"name": "accuracy", "gate": 0.85, "series": series})
    assert [line.label for line in chart.lines] == ["version 1"]
    (_, first, _), (_, second, _) = chart.lines[0].dots
    assert first < chart.gate_y < second, "a lower value is lower on the page"
    assert draw_metric({"name": "accuracy", "gate": 0.85, "series": series[1:]}) is None
    marks = [{"at": at, "kind": "promotion", "text": f"at {at}"} for at in (5, 10, 20, 30)]
    shown = draw_metric({"name": "accuracy", "gate": 0.85, "series": series[:1]}, marks).marks
    assert [text for _, _, text in shown] == ["at 10", "at 20"]


def test_page_lists_the_stages_that_a_pipeline_has():
    assert pipeline.TASKS == ("ingest", "train", "evaluate", "package", "register")
    declared = yaml.safe_load((Path(__file__).parents[3] / "pipeline.yaml").read_text())["tasks"]
    assert tuple(task["name"] for task in declared) == pipeline.TASKS


@pytest.mark.parametrize(("versions", "state"), [([], "waiting"), ([{"version": 1}], "bad")])
def test_model_without_a_version_is_waited_for_and_one_that_is_not_served_is_refused(versions, state):
    figures = {"traffic": {"p95": [], "requests": []}, "health": None, "alerts": [], "decisions": []}
    production = {"serving": {"version": None}, "figures": figures | {"versions": versions}}
    assert pipeline._loop_stages(production, {})[0].state == state
