"""JupyterLab in a real browser: a pipeline notebook opens with its parameters, runs, and is saved as it was."""

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.factories import free_port, wait_for
from tests.pipeline.conftest import BIN, Project, copy_project

pytestmark = pytest.mark.slow

SCREENSHOTS = Path(os.environ.get('MLOPS_TEST_SCREENSHOTS', '/tmp/w/lab'))
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
    """The address of `make lab`, on a port of its own and without a token."""
    port, home = free_port(), tmp_path_factory.mktemp("home")
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", f"--ServerApp.port={port}"]
    options += ["--IdentityProvider.token="]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [BIN / "jupyter", "lab", *options], cwd=project.path, env=project.environment(HOME=str(home)),
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    wait_for(lambda: _responds(f"http://127.0.0.1:{port}/api/status"), 60)
    yield f"http://127.0.0.1:{port}"
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


def test_cards_and_menu_open_dashboard_and_pipeline_as_tabs(page, lab):
    page.goto(f"{lab}/lab?reset")
    page.locator(".jp-LauncherCard", has_text="Dashboard").click()
    dashboard = page.frame_locator("iframe[src$='/mlops-nb/']")
    expect(dashboard.get_by_role("heading", name="toy").first).to_be_visible(timeout=TIMEOUT_MS)
    expect(dashboard.get_by_text("version 1").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "dashboard.png")

    page.get_by_role("menuitem", name="MLOps").click()
    page.get_by_role("menuitem", name="Pipeline").click()
    pipeline = page.frame_locator("iframe[src$='/mlops-nb/pipeline']")
    expect(pipeline.get_by_text("register").first).to_be_visible()
    expect(pipeline.get_by_role("button", name="Run pipeline").first).to_be_enabled()
    page.screenshot(path=SCREENSHOTS / "pipeline.png")
    assert len(page.locator("iframe.jp-IFrame, .jp-ServerProxy iframe").all()) == 2
