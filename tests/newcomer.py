"""Steps of a newcomer in the browser, after `make serve`: python -m tests.newcomer PORT LOOP_PORT LAB_PORT."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

BUILD_MS = 180_000  # for a build on a busy machine
KERNEL_IS_IDLE = "() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


@contextmanager
def step(name: str):
    """Print a step with its seconds."""
    begun = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    """A page whose scripts must not fail."""
    page, errors = browser.new_page(viewport={"width": 1400, "height": 950}), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    yield page
    assert errors == []
    page.close()


def stage(page: Page, name: str):
    return page.locator(f".pipeline.desk a[aria-label^='{name}:']")


def see_first_model(page: Page):
    """The dashboard of the first model, and the page of its pipeline."""
    expect(page.locator("#head")).to_contain_text("Version 1 predicts")
    page.get_by_role("link", name="Pipeline").first.click()
    expect(page.locator(".pipeline.desk .stage")).to_have_count(9)
    stage(page, "evaluate").click()
    expect(page.locator("#detail")).to_contain_text("test rows")


def drift_and_roll_back(page: Page):
    """The world changes: the metric falls, an alert opens, a new version is built and promoted; a person rolls back."""
    page.get_by_role("button", name="Watch and retrain").click()
    page.get_by_role("button", name="Drift").click()
    expect(stage(page, "monitor")).to_have_attribute("aria-label", "monitor: bad", timeout=BUILD_MS)
    expect(stage(page, "serve")).to_contain_text("version 2", timeout=2 * BUILD_MS)
    page.get_by_role("button", name="Stop").first.click()
    page.get_by_role("link", name="Dashboard").click()
    page.get_by_role("button", name="Roll back to version 1").click()
    page.keyboard.type("a newcomer tries it")
    page.locator("dialog").get_by_role("button", name="Roll back").click()
    expect(page.locator("#head")).to_contain_text("Version 1 predicts", timeout=30_000)
    expect(page.locator("#history tbody tr").first).to_contain_text("a newcomer tries it")


def build_in_lab(page: Page):
    """The dashboard as a tab of JupyterLab, then a build and a promotion in a new notebook."""
    page.locator(".jp-LauncherCard", has_text="Dashboard").click()
    expect(page.frame_locator("iframe").locator("main")).to_contain_text("diagnosis", timeout=BUILD_MS)
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.get_by_text("New Launcher", exact=True).click()
    page.locator(".jp-LauncherCard[data-category='Notebook']").first.click()
    page.wait_for_function(KERNEL_IS_IDLE, timeout=BUILD_MS)
    page.locator(".jp-Notebook .cm-content").first.click()
    page.keyboard.insert_text("%load_ext mlops_nb\n%mlops build diagnosis --seed 3")
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output", has_text="version 2").first).to_be_visible(timeout=BUILD_MS)
    page.wait_for_function(KERNEL_IS_IDLE, timeout=BUILD_MS)  # its copy for W&B is made, too


def main(port: str, loop_port: str, lab_port: str):
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with step("dashboard and pipeline page"), opened(browser, f"http://127.0.0.1:{port}") as page:
            see_first_model(page)
        with step("drift, new version, rollback"), opened(browser, f"http://127.0.0.1:{loop_port}/pipeline") as page:
            drift_and_roll_back(page)
        with step("JupyterLab: a card, a build"), opened(browser, f"http://127.0.0.1:{lab_port}/lab?reset") as page:
            build_in_lab(page)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
