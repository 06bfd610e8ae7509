"""The report that a build of pipeline.monitor.yaml leaves, and the notebook in which a person goes on from an alert."""

import re
import time

import nbformat
import numpy as np
import pytest

from mlops_nb.monitor.alerts import list_alerts
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry

pytestmark = pytest.mark.slow


@pytest.fixture
def watched(project):
    """The toy in production; good rows two hours ago, others a minute ago, of which many were answered wrongly."""
    project.build()
    settings = Settings.read({"MLOPS_HOME": str(project.path)})
    registry, rng = Registry.open(settings), np.random.default_rng(0)
    predictor, log = registry.load("toy"), PredictionLog(registry.engine)
    for low, high, ago, wrong in ((0, 100, 7200, 0.0), (0, 60, 60, 0.4)):
        x, at = rng.uniform(low, high, 1000), time.time() - ago
        predictions = predictor.predict_rows(x[:, None])
        answers = predictions.prediction.tolist(), predictions.probability.tolist()
        log.add([PredictionRecord(f"r{ago}", at, "toy", 1, "production", 0.4, ["x"], x[:, None].tolist(), *answers)])
        truth = np.where(rng.uniform(size=1000) < wrong, 1 - predictions.prediction, predictions.prediction).tolist()
        log.add([LabelRecord(f"r{ago}-{i}", label, at + 30) for i, label in enumerate(truth)])
    predictor.close()
    registry.close()
    return project


def build_report(project, *options: str):
    command = ["ploomber", "build", "--entry-point", "pipeline.monitor.yaml", "--env--model", "toy", *options]
    done = project.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_report_is_one_page_with_its_plots_that_asks_no_other_host_and_is_made_anew(watched):
    output = build_report(watched, "--env--rows", "1000", "--env--engine", "papermill")
    place = watched.path / "products" / "monitor" / "toy" / "report.html"
    assert f"The report is {place}" in output.stderr
    page = place.read_text()
    assert "<title>toy</title>" in page
    assert page.count("data:image/png;base64") >= 5
    assert not re.findall(r'(?:src|href)="https?://[^"]*', page), "it opens without a network"
    for text in ("alert</b>", "drift of x", "performance of accuracy", "below the gate of 0.8", "Inconclusive</"):
        assert text in page, text
    assert "Traceback" not in page
    assert "Warning" not in page
    assert "import json" not in page
    build_report(watched, "--env--rows", "1000", "--env--engine", "ploomber-engine")
    assert place.read_text() != page, "a look is never up to date"


def test_report_of_nothing_says_so(project):
    project.build()
    build_report(project, "--env--engine", "ploomber-engine")
    page = (project.path / "products" / "monitor" / "toy" / "report.html").read_text()
    assert "inconclusive" in page
    assert "not enough rows: the window is empty" in page


def test_person_goes_on_from_an_alert_in_a_notebook(watched):
    done = watched.run("mlops-nb", "monitor", "toy", "--rows", "1000", "--investigate")
    assert done.returncode == 2, done.stderr
    assert "next: mlops-nb investigate toy" in done.stdout, done.stderr
    (made,) = (watched.path / "products" / "monitor" / "toy").glob("investigate-*.ipynb")
    assert f"The executed notebook is {made}" in done.stderr
    shown = shown_in(made)
    assert "toy version 1: 1,000 rows" in shown
    assert "drift of x" in shown
    assert "production: Predictor of toy" in shown
    assert "0 to " in shown or "0.0" in shown

    opened = made.with_name("opened.ipynb")  # where it lies, as JupyterLab does
    done = watched.run("papermill", str(made), str(opened), "--cwd", str(made.parent), PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert "performance of accuracy" in shown_in(opened), done.stderr

    settings = Settings.read({"MLOPS_HOME": str(watched.path)})
    registry = Registry.open(settings)
    alert = next(a for a in list_alerts(registry.engine, "toy") if a.kind == "drift" and a.subject == "x")
    registry.close()
    assert alert.command == f"mlops-nb investigate toy --alert {alert.id}"
    made.unlink()
    done = watched.run(*alert.command.split())
    assert done.returncode == 0, done.stderr
    assert made.is_file()
    assert "columns = ['x']".replace("'", '"') in shown_in(made, "source")

    done = watched.run("mlops-nb", "investigate", "toy", "--alert", "999")
    assert done.returncode == 1
    assert "No alert 999 of 'toy' can be investigated; those that can: [1" in done.stderr


def shown_in(path, what: str = "outputs") -> str:
    """All that an executed notebook shows, or its code; no cell may have failed."""
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]
    if what == "source":
        return "\n".join(c.source for c in cells)
    texts = [o.get("text", "") + str(o.get("data", "")) for c in cells for o in c.outputs]
    return "\n".join(texts)
