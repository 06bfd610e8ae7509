"""Several models on a real Gunicorn with two workers: Triton's client, isolation under load, the index in a browser."""

import os
import threading
from http.client import HTTPConnection

import pytest

from mlops_nb.settings import Settings
from tests.factories import Service, wait_for
from tests.serving.models.conftest import ROW, register
from tests.serving.models.test_models import break_model

pytestmark = pytest.mark.slow


@pytest.fixture
def several(home, tmp_path):
    """Start services of several models; no log may have a traceback."""
    services = []

    def start(models: str = "*", **more: str) -> Service:
        settings = Settings.read({"MLOPS_HOME": str(home)})
        own = {"MLOPS_MODEL": "", "MLOPS_MODELS": models, "MLOPS_POLL_SECONDS": "0.1"}
        services.append(Service(settings, tmp_path / "log", **own, **more))
        wait_for(lambda: services[-1].get("/health/ready")[0] == 200)
        return services[-1]

    yield start
    for service in services:
        log = service.stop()
        assert service.process.returncode == 0, log
        assert "Traceback" not in log, log


def ask(service: Service, name: str, connection=None) -> tuple[int, dict]:
    return service.call("POST", f"/models/{name}/predict", {"features": [ROW]}, connection)


def test_tritonclient_lists_loads_and_unloads(several):
    from tritonclient.http import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    service = several()
    client = InferenceServerClient(f"127.0.0.1:{service.port}")
    try:
        index = {model["name"]: model["state"] for model in client.get_model_repository_index()}
        assert index == {"alpha": "READY", "beta": "READY", "gamma": "READY"}
        assert client.is_server_ready()
        client.unload_model("alpha")
        assert not client.is_model_ready("alpha")
        assert client.is_model_ready("gamma")
        index = {model["name"]: model["state"] for model in client.get_model_repository_index()}
        assert index["alpha"] == "UNAVAILABLE", "whichever worker responds"
        wait_for(lambda: {ask(service, "alpha")[0] for _ in range(8)} == {503})
        client.load_model("alpha")
        assert client.is_model_ready("alpha")
        assert {ask(service, "alpha")[0] for _ in range(8)} == {200}
        with pytest.raises(InferenceServerException, match="There is no model 'alpa'"):
            client.load_model("alpa")
    finally:
        client.close()


def test_broken_model_and_a_promotion_under_load_fail_no_other_request(several, registry):
    break_model(registry, "alpha")
    service = several("gamma,alpha")
    stop, found, refused = threading.Event(), [], []

    def load(name: str, results: list):
        connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
        while not stop.is_set():
            status, body = ask(service, name, connection)
            results.append((status, body.get("version")))
        connection.close()

    threads = [threading.Thread(target=load, args=(name, results)) for name, results in
               [("gamma", found)] * 2 + [("alpha", refused)] * 2]  # fmt: skip
    for thread in threads:
        thread.start()
    wait_for(lambda: len(found) > 200 and len(refused) > 50)
    registry.promote("gamma", 2)
    wait_for(lambda: (200, 2) in found)
    after = len(found)
    wait_for(lambda: len(found) > after + 200)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in found} == {200}
    assert {status for status, _ in refused} == {503}
    assert found[-1] == (200, 2)


def test_models_that_take_turns_in_little_memory_are_all_served(several):
    service = several("alpha,gamma", MLOPS_MODELS_MB="1")
    assert {ask(service, name)[0] for _ in range(10) for name in ("alpha", "gamma")} == {200}
    assert service.stop().count("released: the models take more") >= 5


def test_index_in_a_browser_leads_to_each_model(several, registry, home, browser):
    from playwright.sync_api import expect

    break_model(registry, "beta")
    service = several(MLOPS_WORKERS="1")  # the page shows the states of the worker that responds
    for name in ("beta", "alpha", "gamma"):
        ask(service, name)
    page = browser.new_page(viewport={"width": 1280, "height": 700})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"http://127.0.0.1:{service.port}/")
    row = page.locator("#models tr:has(b:text-is('beta'))")
    expect(row).to_contain_text("failed")
    expect(row).to_contain_text("Version 1")
    register(registry, home / "bundle", "delta", 0.1)
    expect(page.locator("#models")).to_contain_text("delta", timeout=30_000)
    if path := os.environ.get("SCREENSHOT"):
        page.screenshot(path=path)
    page.click("text=gamma")
    expect(page.locator("#title")).to_have_text("gamma")
    expect(page.locator("#head")).to_contain_text("Version 1")
    page.click("text=1 hour")
    expect(page).to_have_url(f"http://127.0.0.1:{service.port}/?hours=1&model=gamma")
    page.wait_for_function("document.getElementById('updated').textContent.startsWith('Updated')")
    page.click("text=All models")
    expect(page.locator("#title")).to_have_text("Models")
    page.close()
    assert problems == []
