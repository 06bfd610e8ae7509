"""The dashboard in a real browser, on a real Gunicorn: it draws, it updates, it moves, and only for who may."""

import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from mlops_nb.monitor.alerts import Finding, update_alerts
from mlops_nb.monitor.incidents import list_incidents, save_cause
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.monitor.root_cause import ColumnCause, RootCause
from tests.factories import ForkedService, wait_for
from tests.serving.dashboard.test_dashboard import ADMIN, HOSTILE, KEY, monitor_says, require

pytestmark = pytest.mark.slow

PATIENCE = 30_000  # Milliseconds
TILE = "#tiles .tile:has(span:text-is('{}')) strong"


@pytest.fixture
def open_page(browser):
    """Opens pages; afterwards no page may have asked another host, or have had anything to complain about."""
    contexts, asked, problems = [], [], []

    def make(url: str, path: str = "/", prepare=None, **options) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page.on("request", lambda request: asked.append((request.url, url)))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}") or dialog.dismiss())
        contexts.append(context)
        if prepare is not None:
            prepare(page)
        page.goto(f"{url}{path}")
        return page

    def close():
        """Before its service ends: a page that asks one that is gone complains."""
        while contexts:
            contexts.pop().close()

    make.expected = lambda word: problems.__setitem__(slice(None), [p for p in problems if word not in p])
    make.close = close
    yield make
    close()
    assert problems == []
    assert asked
    assert all(request.startswith(f"{url}/") for request, url in asked)


@pytest.fixture
def service(settings, tmp_path):
    service = ForkedService(settings, tmp_path / "log")
    yield service
    log = service.stop()
    assert service.process.returncode == 0, log
    assert "Traceback" not in log, log


@pytest.fixture
def url(service, open_page):
    yield f"http://127.0.0.1:{service.port}"
    open_page.close()


def fill(registry, minutes: int = 50):
    """Traffic of an hour and a day with labels, gates, a health report and alerts."""
    require(registry.engine, roc_auc=0.85, accuracy=0.9)
    rng, now, entries = np.random.default_rng(0), time.time(), []
    for i in range(600):
        at = now - (rng.uniform(0, 60 * minutes) if i % 2 else rng.uniform(0, 86_000))
        result, key = int(rng.random() < 0.4), f"{i:028x}"
        sure = [[0.2, 0.8] if result else [0.7, 0.3]]
        entries.append(
            PredictionRecord(
                key, at, "toy", 1, "production", float(rng.gamma(2, 0.8)), ["a", "b"], [[0, 1]], [result], sure
            )
        )
        entries.append(LabelRecord(f"{key}-0", result if rng.random() < 0.86 else 1 - result, now))
    PredictionLog(registry.engine).add(entries)
    binned = {"edges": [1.5, 2.5], "reference": [10, 10, 10], "window": [3, 12, 25]}
    why = "PSI 0.31 is above 0.25, and more than chance"
    columns = [{"name": "a", "drifted": True, "reason": why, "effect": 0.31, "p_value": 1e-7, "histogram": binned}]
    columns += [{"name": "months_since_last_payment_to_any_bank_or_lender", "drifted": False, "histogram": binned}]
    alert = {"kind": "drift", "subject": "a", "text": "a has drifted: PSI 0.31 is above 0.25."}
    begin = datetime.now(UTC) - timedelta(days=2)
    update_alerts(registry.engine, "toy", [Finding("performance", "accuracy", 0.1, "0.7 is low")], [], begin)
    update_alerts(registry.engine, "toy", [], [("performance", "accuracy")], begin + timedelta(hours=5))
    monitor_says(registry.engine, columns, [alert, alert | {"subject": "b", "text": "x" * 120}])
    column = ColumnCause("a", 1.0, "a >= 2: 10% -> 90%", -0.1)
    cause = RootCause("900 rows", 900, 1000, [column], [], "accuracy", 0.9, 0.7, -0.15, -0.05)
    save_cause(registry.engine, list_incidents(registry.engine, "toy")[0].id, cause)


CONTRAST = """() => {
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const behind = e => {
        const c = rgb(getComputedStyle(e).backgroundColor);
        return c.length < 4 || c[3] > 0.9 ? c : e.parentElement ? behind(e.parentElement) : [255, 255, 255];
    };
    const poor = [];
    for (const e of document.querySelectorAll("body *")) {
        if (!e.checkVisibility() || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
        const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push([e.tagName, e.className, e.textContent.slice(0, 40), ratio]);
    }
    return poor;
}"""  # Texts that the guidelines of the web (WCAG 2, AA) call hard to read
INK = """canvas => { const d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"""


def test_page_is_readable_by_day_by_night_and_on_a_phone(open_page, url, registry, tmp_path):
    fill(registry)
    registry.promote("toy", 2, alias="staging", reason="a reason that goes on for " + "long " * 40)
    for scheme in ("light", "dark"):
        for width, height in ((1280, 900), (360, 740)):
            look(open_page, url, scheme, width, height, tmp_path)


def look(open_page, url: str, scheme: str, width: int, height: int, folder):
    """Open the page and look at what a person has to read."""
    page = open_page(url, viewport={"width": width, "height": height}, color_scheme=scheme)
    expect(page.locator("#quality .uplot")).to_have_count(2)
    expect(page.locator(".charts .plot > .uplot")).to_have_count(5)
    expect(page.locator("#errors .empty")).to_have_text("No errors in this time.")
    expect(page.locator(TILE.format("Drift"))).to_have_text("1 of 2")
    for canvas in page.locator("canvas").all():
        assert canvas.evaluate(INK) > 500
        assert canvas.bounding_box()["width"] > 0.7 * min(width, 560) - 60
    page.locator("details").evaluate_all("all => all.forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing is wider than the screen"
    assert page.evaluate(CONTRAST) == []
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(18, 23, 29)") == (scheme == "dark")
    page.screenshot(path=folder / f"{scheme}-{width}.png", full_page=True)
    page.get_by_role("button", name="Promote").click()
    dialog = page.locator("dialog").bounding_box()
    assert dialog["x"] >= 0
    assert dialog["x"] + dialog["width"] <= width
    assert page.evaluate(CONTRAST) == []


def test_charts_follow_the_size_of_the_window_the_theme_and_the_time_that_is_asked_for(open_page, url, registry):
    fill(registry)
    page = open_page(url)
    canvas = page.locator("#requests canvas")
    before = canvas.bounding_box()["width"]
    for figure in ("requests", "latency", "predictions", "quality-accuracy"):
        expect(page.locator(f"#{figure} small")).to_contain_text("last 24 hours")
        expect(page.locator(f"#{figure} a.mark")).to_have_text(["!", "P"])
        assert "–" not in page.locator(f"#{figure} .u-legend").inner_text(), "a legend at rest has values"
    assert "in production, by" in page.locator("#requests a.mark").last.get_attribute("title")
    to_do = page.locator("#alerts .todo")
    expect(to_do).to_contain_text('drift={"b": None, "a": None}')
    expect(to_do).to_contain_text("mlops-nb incidents show 2")
    to_do.locator("button.copy").first.click()
    expect(to_do.locator("button.copy").first).to_have_text("Copied")
    page.set_viewport_size({"width": 700, "height": 900})
    wait_for(lambda: canvas.bounding_box()["width"] > before + 40)
    page.set_viewport_size({"width": 360, "height": 900})
    wait_for(lambda: page.locator("#requests .uplot").bounding_box()["width"] < 330)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.emulate_media(color_scheme="dark")
    expect(page.locator(".plot > .uplot")).to_have_count(5)
    page.get_by_role("link", name="7 days").click()
    expect(page.locator("#requests small")).to_have_text("last 7 days, in 2 hours")
    expect(page.locator(TILE.format("Requests"))).to_have_text("600")
    assert page.url.endswith("?hours=168")
    page.reload()
    expect(page.locator("#requests small")).to_have_text("last 7 days, in 2 hours")
    expect(page.get_by_role("link", name="7 days")).to_have_attribute("aria-current", "true")


def test_numbers_update_by_themselves(open_page, url, service):
    page = open_page(url, "/?hours=1")
    expect(page.locator(TILE.format("Requests"))).to_have_text("0")
    for figure in ("requests", "latency", "errors", "predictions"):
        expect(page.locator(f"#{figure} .empty")).to_be_visible()
    expect(page.locator("#drift")).to_contain_text("Version 1 is not monitored yet: run mlops-nb monitor toy")
    expect(page.locator("#quality")).to_contain_text("No labels yet")
    ids = [service.predict()[1]["ids"][0] for _ in range(7)]
    service.call("POST", "/predict", {"features": [[1]]})
    expect(page.locator(TILE.format("Requests"))).to_have_text("7")
    expect(page.locator("#requests canvas")).to_be_visible()
    begins = page.evaluate("() => plots.get('requests').plot.scales.x.min")
    assert time.time() - begins < 20 * 60, "the charts of a young model begin where its rows do"
    expect(page.locator("#errors canvas")).to_be_visible()
    expect(page.locator("#routes")).to_contain_text("400: 1")
    expect(page.locator("#tiles")).to_contain_text("1 client error (4xx)")
    service.call("POST", "/feedback", {"labels": [{"id": key, "label": int(i > 0)} for i, key in enumerate(ids)]})
    caption = "version 1: 0.8571 on 7 labelled rows of the last hour"
    expect(page.locator("#quality-accuracy small")).to_contain_text(caption)
    expect(page.locator("#quality canvas")).to_be_visible()
    expect(page.locator(TILE.format("Accuracy"))).to_have_text("–")


def test_person_promotes_after_a_confirmation_with_a_reason_and_rolls_back(open_page, url, registry, service):
    page = open_page(url)
    dialog = page.locator("dialog")
    page.get_by_role("button", name="Promote").click()
    expect(dialog).to_contain_text("Production of toy moves from version 1 to version 2.")
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog).to_be_visible()  # there is no reason yet
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert registry.version_of("toy") == 1
    page.get_by_role("button", name="Promote").click()
    page.keyboard.type("recall is better")
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#history tbody tr").first).to_contain_text("recall is better")
    expect(page.locator("#head")).to_contain_text("Version 2 predicts")
    wait_for(lambda: service.versions() == {2})
    page.get_by_role("button", name="Roll back to version 1").click()
    expect(dialog).to_contain_text("moves from version 2 to version 1")
    page.keyboard.type("complaints")
    dialog.get_by_role("button", name="Roll back").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#head")).to_contain_text("Version 1 predicts")
    assert [(m.action, m.actor, m.reason) for m in registry.history("toy")[-2:]] == [
        ("promote", "dashboard", "recall is better"),
        ("rollback", "dashboard", "complaints"),
    ]


def test_move_on_what_is_not_true_any_more_is_refused_in_the_open_dialog(open_page, url, registry):
    page = open_page(url)
    page.get_by_role("button", name="Promote").click()
    page.keyboard.type("better")
    registry.promote("toy", 2, reason="somebody else")
    page.locator("dialog").get_by_role("button", name="Promote").click()
    expect(page.locator("#move-failed")).to_contain_text("is at version 2, not at version 1: it was moved meanwhile")
    assert page.locator("#reason").input_value() == "better"
    assert registry.history("toy")[-1].reason == "somebody else"
    open_page.expected("409")


def test_key_is_asked_for_kept_in_the_tab_and_nowhere_else(open_page, settings, tmp_path):
    service = ForkedService(settings, tmp_path / "log", MLOPS_API_KEYS=KEY, MLOPS_ADMIN_KEYS=ADMIN)
    try:
        page = open_page(url := f"http://127.0.0.1:{service.port}")
        expect(page.get_by_label("This service needs a key")).to_be_visible()
        expect(page.locator("#board")).to_be_hidden()
        page.locator("#key").fill("x" * 20)
        page.keyboard.press("Enter")
        expect(page.locator("#refused")).to_contain_text("The key is not one of this service's")
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("toy")
        expect(page.locator("#versions")).to_contain_text("With an admin key")
        expect(page.get_by_role("button", name="Promote")).to_have_count(0)
        page.reload()
        expect(page.locator("#versions")).to_contain_text("With an admin key")
        expect(page.locator("#locked")).to_be_hidden()
        assert page.evaluate("Object.values(localStorage).length") == 0
        assert page.context.cookies() == []
        assert KEY not in page.url
        assert page.evaluate("sessionStorage.getItem('key')") == KEY
        other = open_page(url)
        expect(other.locator("#locked")).to_be_visible()
        other.locator("#key").fill(ADMIN)
        other.keyboard.press("Enter")
        other.get_by_role("button", name="Promote").click()
        other.keyboard.type("better")
        other.locator("dialog").get_by_role("button", name="Promote").click()
        expect(other.locator("#history tbody tr").first).to_contain_text("better")
        open_page.expected("403")
    finally:
        open_page.close()
        log = service.stop()
    assert KEY not in log + service.out.read_text()
    assert ADMIN not in log + service.out.read_text()


def test_words_of_strangers_are_shown_and_not_obeyed(open_page, url, registry):
    registry.promote("toy", 2, reason=HOSTILE, actor=HOSTILE)
    binned = {"labels": [HOSTILE], "reference": [1], "window": [1]}
    column = {"name": HOSTILE, "drifted": True, "reason": HOSTILE, "histogram": binned}
    monitor_says(registry.engine, [column], [dict.fromkeys(("kind", "subject", "text"), HOSTILE)], version=2)
    PredictionLog(registry.engine).add(
        [PredictionRecord("x", time.time(), "toy", 1, "production", 1.0, ["a"], [[1]], [HOSTILE])]
    )
    page = open_page(url)
    expect(page.locator("#history")).to_contain_text(HOSTILE)
    expect(page.locator("#predictions .u-label").nth(1)).to_have_text(HOSTILE)
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3


def test_pages_work_below_the_path_of_a_proxy(open_page, url):
    prefix = "/user/ada/proxy/5000"  # which the proxy takes away
    page = open_page(f"{url}{prefix}", prepare=lambda page: page.context.route(
        f"{url}{prefix}/**", lambda route: route.continue_(url=route.request.url.replace(prefix, "", 1))
    ))  # fmt: skip
    expect(page.locator("#updated")).to_contain_text("Updated at")
    page.get_by_role("link", name="7 days").click()
    expect(page.locator("#requests small")).to_have_text("last 7 days, in 2 hours")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="model card").first.click()
    expect(opened.value.locator("main")).to_contain_text("Model card of version 2")
    opened.value.get_by_role("link", name="Dashboard").click()
    expect(opened.value.locator("#title")).to_have_text("toy")
    opened.value.close()
    page.get_by_role("button", name="Promote").click()
    page.keyboard.type("better")
    page.locator("dialog").get_by_role("button", name="Promote").click()
    expect(page.locator("#history tbody tr").first).to_contain_text("better")
    page.get_by_role("link", name="Pipeline").click()
    expect(page.locator("#updated")).to_contain_text("Updated at")
    page.locator(".pipeline.desk a[aria-label^='serve']").click()
    expect(page.locator("#detail h2")).to_have_text("serve")
    page.get_by_role("link", name="Dashboard").click()
    page.get_by_role("link", name="Try the service").click()
    page.get_by_role("button", name="Send").click()
    expect(page.locator("output").first).to_contain_text("200 in")
    assert page.url == f"{url}{prefix}/docs"


@pytest.mark.soak
def test_page_says_that_the_service_is_gone_and_recovers(open_page, settings, tmp_path, monkeypatch):
    service = ForkedService(settings, tmp_path / "log")
    page = open_page(f"http://127.0.0.1:{service.port}")
    expect(page.locator("#updated")).to_contain_text("Updated at")
    service.stop()
    expect(page.locator("#trouble")).to_have_text("The service does not answer. It is asked again every 5 seconds.")
    monkeypatch.setattr("tests.factories.free_port", lambda: service.port)
    again = ForkedService(settings, tmp_path / "again")
    try:
        expect(page.locator("#trouble")).to_be_hidden()
    finally:
        open_page.close()
        again.stop()
    open_page.expected("ERR_")


ATTACK = """<form id="f" method="post" enctype="text/plain" target="hole" action="{url}/admin/promote">
<input name='{{"version": 2, "expected": 1, "reason": "' value='x"}}'></form><iframe name="hole"></iframe>
<script>
const options = {{method: "POST", body: '{{"version": 2, "expected": 1, "reason": "x"}}', credentials: "include"}};
const json = {{"Content-Type": "application/json"}}, marked = {{"X-Dashboard": "move", ...json}};
const tries = [options, {{...options, mode: "no-cors"}}, {{...options, headers: marked}},
               {{...options, mode: "no-cors", headers: marked}}];
(async () => {{
    for (const t of tries) await fetch("{url}/admin/promote", t).catch(() => null);
    document.getElementById("f").submit();
    setTimeout(() => {{ document.title = "done"; }}, 1000);
}})();
</script>"""


def test_page_of_another_site_moves_nothing(browser, service, registry):
    url = f"http://127.0.0.1:{service.port}"

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(ATTACK.format(url=url).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.goto(f"http://localhost:{server.server_port}/")
    page.wait_for_function("document.title === 'done'", timeout=PATIENCE)
    page.close()
    server.shutdown()
    server.server_close()
    tried = []

    def told() -> bool:
        tried[:] = [line for line in service.lines("/admin/promote") if line["method"] == "POST"]
        return len(tried) >= 4

    wait_for(told)
    assert {line["status"] for line in tried} == {403}
    assert registry.version_of("toy") == 1
