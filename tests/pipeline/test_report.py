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


def read_page(browser, place):
    """A page as a person sees it, in several ways: its text in words, its charts, nothing from another host."""
    asked, problems = [], []
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="dark")
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(place.as_uri())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    assert page.locator("canvas").count() == page.locator(".panel").count() > 0
    assert not page.locator(".drawn img").first.is_visible(), "the chart stands in place of the picture"
    text = page.locator("main").inner_text()
    for code in ("neg_", "roc_auc", "True", "False", "import ", str(place.parents[2])):
        assert code not in text, code
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(media="print")
    assert page.locator(".drawn img").first.is_visible(), "the picture is printed"
    assert not page.locator("canvas").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")
    page.close()
    assert {url.partition(":")[0] for url in asked} == {"file"}
    assert not problems
    return text


def check_evaluation(watched, browser):
    """The evaluation of the build is such a page, too, in the record of its run."""
    run = watched.json("runs", "list")[0]["id"]
    place = watched.path / "store" / "runs" / run / "report.html"
    assert place.read_bytes() == (watched.products / "report.html").read_bytes()
    assert f"Its report: {place}" in watched.run("mlops-nb", "runs", "show", run).stdout
    assert "<title>toy: ready for production</title>" in place.read_text()
    shown = read_page(browser, place)
    sentences = "On 20 rows that training has not seen, accuracy is ", "All 2 conditions for production hold."
    for text in (*sentences, "Log loss (less is better)"):
        assert text in shown, text
    assert "at least 80.0\N{NO-BREAK SPACE}%" in shown
    assert "predicted 1" in shown, "the confusion matrix"


def test_reports_are_pages_in_words_with_their_windows_that_ask_no_other_host(watched, browser):
    output = build_report(watched, "--env--rows", "1000", "--env--engine", "papermill")
    place = watched.path / "products" / "monitor" / "toy" / "report.html"
    assert f"The report is {place}" in output.stderr
    page = place.read_text()
    assert "<title>toy version 1: alert</title>" in page
    assert page.count("data:image/png;base64") >= 5
    assert not re.findall(r'(?:src|href)="https?://[^"]*', page), "it opens without a network"
    assert "Traceback" not in page
    assert "Warning" not in page
    shown = read_page(browser, place)
    for text in (
        "drift of x",
        "performance of Accuracy",
        "below the gate of 0.8",
        "Inconclusive",
        "worse than required",
    ):
        assert text in shown, text
    for window in (
        "Of the 1,000 rows of the window: ",
        "rows whose label came in the window; predicted ",
        "Of 1 check, ",
    ):
        assert window in shown, "which rows a figure is of"
    assert "Of 2,000 rows, the newest of version 1: " in shown
    check_evaluation(watched, browser)
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
