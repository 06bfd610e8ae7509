"""Play the demo, and take the picture of its dashboard for the README: python docs/screenshot.py."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from mlops_nb.simulate.demo import demo
from mlops_nb.simulate.demo_report import DemoReport, format_report

PICTURE, SIZE = Path(__file__).with_name("dashboard.png"), {"width": 1400, "height": 930}


def shoot(_report: DemoReport, url: str):
    """The first screen of the dashboard, drawn to its end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(f"{url}/?hours=0.25")
        page.locator("#updated", has_text="Updated at").wait_for()
        page.locator("#quality canvas").first.wait_for()
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    report = demo("loans", log=lambda text: print(text, file=sys.stderr), on_end=shoot)
    print("\n".join(format_report(report)))
    sys.exit(0 if report.succeeded else "The demo did not show what it should.")
