"""Play the demo, and take the pictures of its pages for the docs: make screenshots."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from mlops_nb.settings import Settings
from mlops_nb.simulate.demo import demo
from mlops_nb.simulate.demo_report import DemoReport, format_report
from mlops_nb.simulate.sandbox import read_readiness, stop_service, wait_for

FOLDER = Path(__file__).with_name("pictures")
SECOND = "mlops_nb.examples.diagnosis"  # spec of a second model, for the index of models
VIEWS = {  # of each page: light, dark, and on a phone
    "light": ({"width": 1280, "height": 960}, "light"),
    "dark": ({"width": 1280, "height": 960}, "dark"),
    "phone": ({"width": 390, "height": 844}, "light"),
}
COLORS = 128  # of a picture, so that it is small


def save(page: Page, path: Path):
    """Save what a page shows as a small PNG."""
    shown, content = page.viewport_size, page.evaluate("document.body.getBoundingClientRect().height")
    clip = {"x": 0, "y": 0, "width": shown["width"], "height": min(shown["height"], content)}
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip)))
    picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


def shoot(url: str, pages: dict[str, tuple[str, str, str | None]]):
    """Take pictures of pages: name to address, what is there when it is drawn, and what to scroll to."""
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for view, (size, scheme) in VIEWS.items():
            page = browser.new_page(viewport=size, color_scheme=scheme)
            for name, (path, drawn, place) in pages.items():
                page.goto(f"{url}/{path}")
                page.locator(drawn).first.wait_for(timeout=60_000)
                if place:
                    page.locator(place).evaluate("e => e.scrollIntoView()")
                width = page.evaluate("document.documentElement.scrollWidth")
                if width > size["width"]:
                    raise SystemExit(f"{name} is {width} pixels wide on a screen of {size['width']}.")
                save(page, FOLDER / f"{name}-{view}.png")
        browser.close()


@contextmanager
def all_models(home: Path) -> Iterator[str]:
    """Build a second model in the demo's project, and serve both until the end of the block."""
    program, port = Path(sys.executable).parent, Settings.read().port + 1
    subprocess.run([program / "ploomber", "build", "--env--spec", SECOND], cwd=home, check=True, stdout=sys.stderr)
    own = {k: v for k, v in os.environ.items() if k != "MLOPS_MODEL"} | {"MLOPS_MODELS": "*", "MLOPS_PORT": str(port)}
    serve = [program / "mlops-nb", "serve"]
    process = subprocess.Popen(serve, cwd=home, env=own, stdout=sys.stderr, start_new_session=True)
    try:
        settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_PORT": str(port)})
        wait_for(lambda: read_readiness(settings), "the service of both models did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_service(process)


def shoot_all(_report: DemoReport | None, url: str):
    """Take every picture; the demo's project is this process's, too."""
    settings = Settings.read()
    runs = ",".join(sorted(path.parent.name for path in Path(settings.runs).glob("*/run.json"))[:2])
    pages = {
        "dashboard": ("?hours=0.25", "#quality canvas", None),
        "incident": ("?hours=0.25", "#quality canvas", "#incidents"),
        "pipeline": ("pipeline?stage=evaluate", "#updated:has-text('Updated at')", None),
        "comparison": (f"pipeline?compare={runs}", "#compared .curves svg", "#compared"),
        "api": ("docs", "details[open] .bar + pre", None),
    }
    shoot(url, pages)
    with all_models(settings.home) as several:
        shoot(several, {"models": ("", "#models table", None)})


if __name__ == "__main__":
    report = demo("loans", rate=None, log=lambda text: print(text, file=sys.stderr), on_end=shoot_all)
    print("\n".join(format_report(report)))
    sys.exit(0 if report.succeeded else "The demo did not show what it should.")
