"""JupyterLab in a real browser: a pipeline notebook opens with its parameters, runs, and is saved as it was."""

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.factories import free_port, wait_for
from tests.pipeline.conftest import BIN, Project, copy_project

pytestmark = pytest.mark.slow

TIMEOUT_MS = 180_000  # for a kernel that starts on a busy machine


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A built project whose default model is the toy."""
    project = copy_project(tmp_path_factory.mktemp("lab"))
    project.replace("env.yaml", "spec: mlops_nb.examples.diagnosis", "spec: toy")
    project.build()
    return project


@pytest.fixture(scope="module")
def lab(project, tmp_path_factory) -> str:
    """The address of `make lab` as JupyterHub starts it: below a path, on a port of its own and without a token."""
    port, home = free_port(), tmp_path_factory.mktemp("home")
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", f"--ServerApp.port={port}"]
    options += ["--IdentityProvider.token=", "--ServerApp.base_url=/user/x/"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [BIN / "jupyter", "lab", *options], cwd=project.path, env=project.environment(HOME=str(home)),
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    wait_for(lambda: _responds(f"http://127.0.0.1:{port}/user/x/api/status"), 60)
    yield f"http://127.0.0.1:{port}/user/x"
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(timeout=30)


def _responds(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture
def page(browser, tmp_path) -> Page:
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.set_default_timeout(TIMEOUT_MS)
    yield page
    page.screenshot(path=tmp_path / "last.png")
    page.close()


def open_notebook(page: Page, lab: str, path: str):
    page.goto(f"{lab}/lab/tree/{path}?reset")
    page.wait_for_function(
        """path => {
            const notebook = window.jupyterapp?.shell.currentWidget;
            const kernel = notebook?.sessionContext?.session?.kernel;
            return notebook?.context?.path === path && notebook.sessionContext.isReady
                && kernel?.status === 'idle' && kernel.connectionStatus === 'connected';
        }""",
        arg=path,
        timeout=TIMEOUT_MS,
    )


def run_all(page: Page):
    """As a person does: the menu, then wait until the kernel is idle and every code cell has its number."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_function(
        """() => {
            const notebook = jupyterapp.shell.currentWidget;
            const cells = notebook.content.model.sharedModel.cells.filter(c => c.cell_type === 'code' && c.source);
            return cells.every(c => c.execution_count) && notebook.sessionContext.session.kernel.status === 'idle';
        }""",
        timeout=TIMEOUT_MS,
    )


def save(page: Page, path: Path):
    """Save with the keyboard, and wait until it is on disk."""
    before = path.stat().st_mtime_ns
    page.locator(".jp-NotebookPanel .jp-Cell").first.click()
    page.keyboard.press("Control+s")
    wait_for(lambda: path.stat().st_mtime_ns != before, 30)
    page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")


def outputs(page: Page) -> list[dict]:
    """The outputs that the page shows."""
    cells = page.evaluate("() => jupyterapp.shell.currentWidget.content.model.toJSON().cells")
    return [o for cell in cells if cell["cell_type"] == "code" for o in cell["outputs"]]


def test_pipeline_notebook_opens_with_its_parameters_runs_and_is_saved_as_it_was(page, lab, project):
    path = project.path / "nbs/pipeline/evaluate.ipynb"
    before = path.read_bytes()
    open_notebook(page, lab, "nbs/pipeline/evaluate.ipynb")
    injected = page.locator(".jp-CodeCell", has_text="This cell was injected").first
    expect(injected).to_contain_text('spec = "toy"')
    expect(injected).to_contain_text("products/toy/test.parquet")
    expect(injected).to_contain_text("products/toy/evaluation.json")

    run_all(page)
    plot = page.locator(".jp-OutputArea-output img").first
    plot.scroll_into_view_if_needed()
    expect(plot).to_be_visible()
    assert plot.bounding_box()["width"] > 300
    page.screenshot(path=project.path / "evaluate.png")

    save(page, path)
    assert path.read_bytes() == before
    assert not [o for o in outputs(page) if o["output_type"] == "error"]
    assert [o for o in outputs(page) if "image/png" in o.get("data", {})], "the page keeps them"


def test_jupyterlab_does_not_ask_about_its_news(lab):
    with urllib.request.urlopen(f"{lab}/lab/api/settings/@jupyterlab/apputils-extension:notification") as response:
        news = json.load(response)["schema"]["properties"]["fetchNews"]
    assert news["default"] == "false", "of 'none' a person is asked"


def test_notebook_of_a_model_runs_from_top_to_bottom_and_shows_plots(page, lab, project):
    open_notebook(page, lab, "nbs/examples/signals.ipynb")
    run_all(page)
    path = project.path / "nbs/examples/signals.ipynb"
    before = path.read_bytes()
    save(page, path)
    assert path.read_bytes() == before
    assert not [o for o in outputs(page) if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert [o for o in outputs(page) if "text/html" in o.get("data", {})], "tables are shown as tables"


def test_cards_and_menu_open_dashboard_and_pipeline_as_tabs(page, lab, project):
    page.goto(f"{lab}/lab?reset")
    page.locator(".jp-LauncherCard", has_text="Dashboard").click()
    dashboard = page.frame_locator("iframe[src$='/mlops-nb/']")
    expect(dashboard.get_by_role("heading", name="toy").first).to_be_visible(timeout=TIMEOUT_MS)
    expect(dashboard.get_by_text("version 1").first).to_be_visible()
    page.screenshot(path=project.path / "dashboard.png")

    page.get_by_role("menuitem", name="MLOps").click()
    page.get_by_role("menuitem", name="Pipeline").click()
    pipeline = page.frame_locator("iframe[src$='/mlops-nb/pipeline']")
    expect(pipeline.get_by_text("register").first).to_be_visible()
    expect(pipeline.get_by_role("button", name="Run pipeline").first).to_be_enabled()
    page.screenshot(path=project.path / "pipeline.png")
    page.set_viewport_size({"width": 1400, "height": 700})
    pipeline.get_by_role("button", name="Run pipeline").click()
    expect(pipeline.get_by_role("dialog")).not_to_contain_text("--env--")
    pipeline.get_by_label("seed", exact=True).fill("-3")
    pipeline.get_by_label("seed", exact=True).press("Enter")
    expect(pipeline.get_by_role("alert").filter(has_text="at least 0; got -3")).to_be_in_viewport(ratio=1)
    expect(pipeline.get_by_role("button", name="Run", exact=True)).to_be_in_viewport(ratio=1)
    pipeline.get_by_role("button", name="Cancel", exact=True).click()
    assert len(page.locator("iframe.jp-IFrame, .jp-ServerProxy iframe").all()) == 2


SHOWN = """
%load_ext mlops_nb
%mlops models
%mlops runs toy
%mlops production toy --last 5
production
production.bundle
load_spec("toy")
Evaluation.from_dict(json.loads(Path("../products/toy/evaluation.json").read_text()))
RunStore(Path("../store/runs")).get(run)
measure_drift(production.bundle.profile(), pd.DataFrame({"x": [90.0 + i % 10 for i in range(500)]}))
%mlops promote toy 99
"""
IMPORTS = """import json
from pathlib import Path

import pandas as pd

from mlops_nb.model.evaluate import Evaluation
from mlops_nb.monitor.drift import measure_drift
from mlops_nb.spec import load_spec
from mlops_nb.store.runs import RunStore

run = RunStore(Path("../store/runs")).list()[0]["id"]"""
# the least contrast of a text with what is behind it, as WCAG 2 measures it; of marks with a colour it is 3
CONTRAST = """() => {
    const parse = color => color.match(/[\\d.]+/g).map(Number);
    const linear = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const behind = light(parse(getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor));
    const least = selector => Math.min(...[...document.querySelectorAll(selector)].map(e => {
        const text = light(parse(getComputedStyle(e).color));
        return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
    }));
    return [least('.mlops-nb td'), least('.mlops-nb .good, .mlops-nb .bad')];
}"""


def test_objects_are_small_and_readable_in_light_and_dark(page, lab, project):
    cells = [nbformat.v4.new_code_cell(source) for source in [IMPORTS, *SHOWN.strip().splitlines()]]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), project.path / "nbs/shown.ipynb"
    )
    open_notebook(page, lab, "nbs/shown.ipynb")
    for number in range(len(cells)):  # the last one fails, so not all of them at once
        page.evaluate(
            "async n => { const w = jupyterapp.shell.currentWidget; w.content.activeCellIndex = n;"
            " await jupyterapp.commands.execute('notebook:run-cell'); }",
            number,
        )
    shown = outputs(page)
    html = ["".join(o["data"]["text/html"]) for o in shown if "text/html" in o.get("data", {})]
    assert len(html) == 9
    assert max(map(len, html)) < 16_000
    (error,) = (o for o in shown if o["output_type"] == "error")
    assert len(error["traceback"]) == 1
    assert "has no version" in error["traceback"][0]
    for theme in ("Light", "Dark"):
        page.evaluate(f"() => jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
        page.wait_for_function(f"() => document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
        page.screenshot(path=project.path / f"shown-{theme}.png")
        texts, marks = page.evaluate(CONTRAST)
        assert texts > 4.5, theme
        assert marks > 3, theme
