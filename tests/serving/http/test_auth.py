"""Keys: who may ask for what."""

import subprocess
import sys
from http.client import HTTPConnection

import pytest

from mlops_nb.errors import SettingsError
from mlops_nb.serving.http.auth import LEVELS
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.factories import ROOT, ForkedService

KEY, OTHER, ADMIN = "predict-" + "k" * 16, "another-" + "o" * 16, "admin-" + "a" * 16
BOTH = {"MLOPS_API_KEYS": f"{KEY}, {OTHER}", "MLOPS_ADMIN_KEYS": ADMIN}
PREDICT = {"json": {"features": [[1, 0]]}}


@pytest.fixture
def client_with(client_with):
    """Clients of services with more settings; each has a route for admins."""

    def make(**more):
        client = client_with(**more)
        client.application.add_url_rule("/promote", view_func=lambda: "promoted", methods=["POST"])
        return client

    return make


def bearer(key: str) -> dict:
    return {"headers": {"Authorization": f"Bearer {key}"}}


def statuses(client, **options) -> tuple[int, int, int]:
    """Of a probe, a prediction, and an administrator's route."""
    asked = client.get("/health/live", **options), client.post("/predict", **PREDICT, **options)
    return tuple(a.status_code for a in (*asked, client.post("/promote", **options)))


def test_every_route_has_one_level():
    app = create_app(
        Settings.read({"MLOPS_HOME": "/nonexistent", "MLOPS_MODEL": "toy", "MLOPS_DATABASE_URL": "sqlite://"})
    )
    levels = [rule for rules in LEVELS.values() for rule in rules]
    assert len(levels) == len(set(levels))
    assert {str(rule) for rule in app.url_map.iter_rules()} - set(levels) == set(), "declare its level in LEVELS"


def test_without_keys_on_this_machine_everything_is_answered(client_with):
    assert statuses(client_with()) == (200, 200, 200)


def test_no_key_a_wrong_key_a_key_and_an_admin_key(client_with):
    client = client_with(**BOTH)
    assert statuses(client) == (200, 401, 401)
    assert statuses(client, **bearer("x" * 24)) == (200, 403, 403)
    for key in (KEY, OTHER):
        assert statuses(client, **bearer(key)) == (200, 200, 403)
    assert statuses(client, **bearer(ADMIN)) == (200, 200, 200)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": f"bearer  {KEY} "}, 200),
        ({"X-API-Key": KEY}, 200),
        ({"Authorization": "Basic Zm9vOmJhcg==", "X-API-Key": KEY}, 200),
        ({"Authorization": KEY}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"X-API-Key": ""}, 401),
        ({"Authorization": f"Bearer {KEY}x"}, 403),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, 403),
        ({"X-API-Key": f"{KEY}, {OTHER}"}, 403),
        ({"X-API-Key": "é" * 20}, 403),
    ],
)
def test_how_a_key_is_sent(client_with, headers, status):
    assert client_with(**BOTH).get("/model", headers=headers).status_code == status


def test_refusals_have_the_one_shape(client_with):
    client = client_with(**BOTH)
    missing, wrong = client.get("/model"), client.get("/model", **bearer("x" * 24))
    assert missing.headers["WWW-Authenticate"] == "Bearer"
    assert missing.get_json()["code"] == "unauthorized"
    assert wrong.get_json() == {"error": "The key is not one of this service's.", "code": "forbidden"}
    assert client.post("/promote", **bearer(KEY)).get_json()["error"].endswith("send one of MLOPS_ADMIN_KEYS.")


def test_a_key_for_predictions_alone_opens_no_administration(client_with):
    client = client_with(MLOPS_API_KEYS=KEY)
    assert statuses(client, **bearer(KEY)) == (200, 200, 403)


def test_an_admin_key_alone_closes_predictions_too_unless_anybody_may_ask(client_with):
    assert statuses(client_with(MLOPS_ADMIN_KEYS=ADMIN)) == (200, 401, 401)
    assert statuses(client_with(MLOPS_ADMIN_KEYS=ADMIN, MLOPS_ALLOW_ANONYMOUS="true")) == (200, 200, 401)


def test_anonymous_means_predictions_and_never_administration(client_with):
    assert statuses(client_with(MLOPS_HOST="0.0.0.0", MLOPS_ALLOW_ANONYMOUS="true")) == (200, 200, 401)


def test_every_key_is_compared_whichever_fits(client_with, monkeypatch):
    import hmac

    compared, compare = [], hmac.compare_digest
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    client = client_with(**BOTH)
    for key in (KEY, OTHER, ADMIN, "x" * 24):
        compared.clear()
        client.get("/model", **bearer(key))
        assert len(compared) == 3
        assert all(len(a) == len(b) == 32 for a, b in compared)


def test_page_is_open_and_asks_for_the_key(client_with):
    client = client_with(**BOTH)
    assert [client.get(p).status_code for p in ("/docs", "/docs/script.js", "/openapi.json")] == [200, 200, 401]


def test_no_key_and_no_password_is_shown():
    settings = Settings.read(BOTH | {"MLOPS_DATABASE_URL": "postgresql://me:hunter2@db/x"})
    assert not any(secret in repr(settings) for secret in (KEY, OTHER, ADMIN, "hunter2"))


@pytest.mark.slow
def test_no_key_is_in_the_log(client_with, capfd):
    client = client_with(**BOTH)
    for key in (KEY, ADMIN, "wrong-key-of-somebody"):
        for path in ("/model", "/promote", f"/{key}"[:1]):
            client.get(path, headers={"Authorization": f"Bearer {key}", "X-API-Key": key})
    out, err = capfd.readouterr()
    assert out
    assert not any(key in out + err for key in (KEY, ADMIN, "wrong-key"))


@pytest.mark.parametrize("keys", ["short", f"{KEY},short", "has a space in it, yes", "k" * 15, "ключ" * 5])
def test_a_key_that_can_be_guessed_or_not_be_sent_is_refused_and_not_said(keys):
    with pytest.raises(SettingsError, match=r"MLOPS_API_KEYS: key . of . must have at least 16") as caught:
        Settings.read({"MLOPS_API_KEYS": keys})
    assert not any(key.strip() in str(caught.value) for key in keys.split(","))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"MLOPS_HOST": "0.0.0.0"}, "At 0.0.0.0 the service would accept requests from anybody who reaches it. Set"),
        ({"MLOPS_API_KEYS": "short"}, "MLOPS_API_KEYS: key 1 of 1 must have at least 16"),
    ],
)
def test_service_that_would_be_open_by_mistake_does_not_start(settings, more, message):
    own = {"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": "toy", "MLOPS_PORT": "5997", "PATH": "/usr/bin:/bin"} | more
    gunicorn = ["-m", "gunicorn", "-c", "serve/gunicorn.conf.py", "serve.wsgi:app"]
    check = ["-c", "from mlops_nb.cli.main import main; main()", "serve", "--check"]
    for command in (gunicorn, check):
        run = [sys.executable, *command]
        done = subprocess.run(run, cwd=ROOT, env=own, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: {message}")
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_key_typed_into_the_page_opens_it(settings, tmp_path, browser):
    from playwright.sync_api import expect

    service = ForkedService(settings, tmp_path / "log", **BOTH)
    try:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{service.port}/docs")
        expect(page.locator("#locked")).to_be_visible()
        page.locator("#key").fill(KEY)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("h1")).to_have_text("toy, version 1")
        expect(page.locator("#locked")).to_be_hidden()
        page.get_by_role("button", name="Send").click()
        expect(page.locator("output").first).to_contain_text("200 in")
        page.close()
    finally:
        log = service.stop()
    assert KEY not in log + service.out.read_text()


@pytest.mark.slow
def test_no_header_changes_what_was_asked(service):
    """A proxy on the same machine may hand on what a client has sent."""
    for name, value in {"PATH_INFO": "/health/live", "SCRIPT_NAME": "/x", "X-Forwarded-Proto": "https"}.items():
        connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
        connection.request("GET", "/x/health/live", headers={name: value})
        assert connection.getresponse().status == 404, name
        connection.close()
