"""The page of the pipeline in a real browser, with real builds: run, follow, cancel, click, compare, drift."""

import re

import pytest
from playwright.sync_api import expect

from mlops_nb.settings import Settings
from tests.factories import Service, wait_for
from tests.pipeline.conftest import TOY, copy_project
from tests.serving.dashboard.test_dashboard_browser import CONTRAST, open_page  # noqa: F401

pytestmark = pytest.mark.slow

BUILD_MS = 180_000  # that a build may take on a busy machine
DRIFT = """
def drifted(n, seed):
    x = np.random.default_rng(seed).uniform(0, 99, n)
    return pd.DataFrame({"x": x, "y": (x > 85).astype(int)})


spec = dataclasses.replace(spec, scenarios={"drift": drifted})
"""


@pytest.fixture
def served(tmp_path, open_page):  # noqa: F811
    """A project with a toy that was built once, and its service."""
    project = copy_project(tmp_path / "project")
    (project.path / "toy.py").write_text(f"import dataclasses\n\nimport numpy as np\n{TOY}{DRIFT}")
    project.build()
    settings = Settings.read({"MLOPS_HOME": str(project.path)})
    # a build of the page is one process, and its modules are found from the project
    service = Service(settings, tmp_path / "log", PYTHONPATH=str(project.path), WANDB_MODE="disabled")
    yield project, f"http://127.0.0.1:{service.port}"
    open_page.close()
    log = service.stop()
    assert "Traceback" not in log, log


def stage(page, name: str):
    return page.locator(f".pipeline.desk a[aria-label^='{name}:']")


def run_pipeline(page, **fields):
    page.get_by_role("button", name="Run pipeline").click()
    for name, value in fields.items():
        page.get_by_label(name, exact=True).fill(value)
    page.get_by_role("button", name="Run", exact=True).click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "layout"), [(1280, "desk"), (360, "phone")])
def test_stages_are_readable_by_day_by_night_and_on_a_phone(open_page, service, width, layout, scheme):  # noqa: F811
    page = open_page(
        f"http://127.0.0.1:{service.port}", "/pipeline", viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    expect(page.locator(f".pipeline.{layout} .stage")).to_have_count(9)
    expect(page.locator(f".pipeline.{layout}")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing is wider than the screen"
    assert page.evaluate(CONTRAST) == []
    open_page.close()


@pytest.mark.nightly
def test_build_is_started_followed_cancelled_and_compared(open_page, served):  # noqa: F811
    project, url = served
    page = open_page(url, "/pipeline")
    expect(stage(page, "register")).to_have_attribute("aria-label", "register: done")
    run_pipeline(page, seed="3", params="{'C': 0.5}")
    expect(page.locator("#commands")).to_contain_text("ploomber build")
    expect(stage(page, "train")).to_have_class(re.compile("running|done"), timeout=BUILD_MS)
    expect(page.locator("#run")).to_contain_text("made version 2", timeout=BUILD_MS)
    stage(page, "train").click()
    expect(page.locator("#detail dd").first).to_have_text("0.5")
    expect(page.frame_locator("iframe").locator("h1")).to_contain_text("train", timeout=BUILD_MS)
    open_page.expected("Blocked script execution")  # by the test's own look into the sandbox
    for box in page.get_by_role("checkbox", name=re.compile("Compare run")).all():
        box.check()
    expect(page.locator("#compared")).to_contain_text("params.params.C")
    run_pipeline(page, seed="4")
    expect(page.locator("#commands")).to_contain_text("Cancel")
    expect(page.locator("#run")).to_contain_text("running", timeout=BUILD_MS)
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    expect(page.locator("#run")).to_contain_text("interrupted", timeout=BUILD_MS)
    assert sorted(r["state"] for r in project.json("runs", "list")) == ["finished", "finished", "interrupted"]


@pytest.mark.nightly
def test_drift_lowers_the_metric_and_the_loop_brings_it_back(open_page, served):  # noqa: F811
    project, url = served
    page = open_page(url, "/pipeline")
    page.get_by_role("button", name="Watch and retrain").click()
    page.get_by_role("button", name="Drift").click()
    expect(stage(page, "monitor")).to_have_attribute("aria-label", "monitor: bad", timeout=BUILD_MS)
    expect(page.locator("#quality .chart .gate").first).to_be_attached()  # a flat line is "hidden" to Playwright
    expect(stage(page, "retrain")).to_have_attribute("aria-label", "retrain: good", timeout=2 * BUILD_MS)
    expect(stage(page, "serve")).to_contain_text("version 2", timeout=BUILD_MS)
    page.get_by_role("button", name="Stop").click()
    wait_for(lambda: page.get_by_role("button", name="Stop").count() == 0, 60)
    assert [r["action"] for r in project.json("models", "history", "toy")][-1]
