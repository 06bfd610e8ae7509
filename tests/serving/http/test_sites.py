"""Requests that another site causes in a browser of somebody who reaches the service."""

from http.client import HTTPConnection

import orjson
import pytest

from mlops_nb.errors import SettingsError
from mlops_nb.serving.http.probes import SERVER_PROBES
from mlops_nb.settings import Settings
from tests.factories import Service, wait_for

KEY = "predict-" + "k" * 16
BODY = {"features": [[1, 0]]}
TENSOR = {"name": "a", "shape": [1], "datatype": "FP64", "data": [1]}
INFER = {"inputs": [TENSOR, TENSOR | {"name": "b", "data": [0]}]}
REBOUND = {"Host": "evil.example:5000", "Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example:5000"}
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def get_routes(client) -> list[str]:
    rules = [rule for rule in client.application.url_map.iter_rules() if "GET" in rule.methods]
    return [str(rule).replace("<name>", "toy").replace("<version>", "1") for rule in rules]


OTHER_SITES = [
    REBOUND,
    {"Host": "evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "127.0.0.1.evil.example:5000"},
    {"Host": ""},
    {"Host": "[::1"},
    {"Host": "[::1]evil.example"},
    {"Host": "localhost:5000, evil.example"},
    {"Host": "localhost:5000.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:8888"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    LINK | {"Sec-Fetch-Dest": "iframe"},
]


@pytest.mark.slow
@pytest.mark.parametrize("headers", OTHER_SITES)
def test_every_route_but_health_refuses_another_site(client_with, headers):
    client = client_with()
    for path in get_routes(client):
        answer = client.get(path, headers=headers)
        assert (answer.status_code == 403) == (path not in SERVER_PROBES), (path, answer.status_code)
    for path, body in (("/predict", BODY), ("/v2/models/toy/infer", INFER), ("/feedback", {}), ("/admin/rollback", {})):
        assert client.post(path, json=body, headers=headers).status_code == 403, path
        assert client.post(path, data=orjson.dumps(body), content_type="text/plain", headers=headers).status_code == 403


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "LOCALHOST:5000"},
        {"Host": "localhost.:5000"},
        {"Host": "127.0.0.1:5000"},
        {"Host": "10.1.2.3:5000"},
        {"Host": "[::1]:5000"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost"},
        {"Host": "127.0.0.1:5000", "Origin": "http://127.0.0.1:5000"},
    ],
)
def test_program_and_page_of_the_service_are_answered(client_with, headers):
    client = client_with()
    assert client.get("/metrics", headers=headers).status_code == 200
    assert client.get("/", headers=headers).status_code == 200
    assert client.post("/predict", json=BODY, headers=headers).status_code == 200
    assert client.post("/v2/models/toy/infer", json=INFER, headers=headers).status_code == 200


@pytest.mark.slow
def test_link_of_another_site_opens_the_page_and_sends_nothing(client_with):
    client = client_with()
    assert client.get("/", headers=LINK).status_code == client.get("/docs", headers=LINK).status_code == 200
    assert client.post("/predict", json=BODY, headers=LINK).status_code == 403


@pytest.mark.parametrize("more", [{"MLOPS_API_KEYS": KEY}, {"MLOPS_ALLOW_ANONYMOUS": "true"}])
def test_service_with_keys_or_for_anybody_has_any_name(client_with, more):
    client = client_with(MLOPS_HOST="0.0.0.0", **more)
    key = {"X-API-Key": KEY}
    for host in ("model.example.org", "mlops.prod.svc:5000", "10.0.0.7:5000"):
        assert client.get("/metrics", headers=key | {"Host": host}).status_code == 200
        assert client.post("/predict", json=BODY, headers=key | {"Host": host}).status_code == 200
    assert client.get("/health/ready", headers={"Host": "10.0.0.7:5000"}).status_code == 200


@pytest.mark.parametrize("more", [{}, {"MLOPS_API_KEYS": KEY}])
def test_allowed_hosts_are_the_only_names(client_with, more):
    client = client_with(MLOPS_ALLOWED_HOSTS="Model.example.org, app.example.org", **more)
    key, page = {"X-API-Key": KEY}, {"Origin": "https://app.example.org", "Sec-Fetch-Site": "same-site"}
    for headers in ({"Host": "model.example.org:443"}, {"Host": "10.0.0.7"}, {}, {"Host": "model.example.org"} | page):
        assert client.post("/predict", json=BODY, headers=key | headers).status_code == 200, headers
    for headers in ({"Host": "other.example.org"}, page | {"Origin": "https://evil.example"}):
        assert client.post("/predict", json=BODY, headers=key | headers).status_code == 403, headers


def test_answer_says_what_to_do(client_with):
    answer = client_with().post("/predict", json=BODY, headers={"Host": "model.example.org"})
    assert answer.get_json()["code"] == "forbidden"
    assert "this request is for 'model.example.org'. Add the name" in answer.get_json()["error"]
    assert "error" in client_with().get("/v2", headers={"Host": "model.example.org"}).get_json()


@pytest.mark.parametrize("hosts", ["https://model.example.org", "model.example.org:443", "*.example.org", "a b", "a/b"])
def test_what_is_no_name_is_refused(hosts):
    with pytest.raises(SettingsError, match="MLOPS_ALLOWED_HOSTS takes names without scheme, port and path"):
        Settings.read({"MLOPS_ALLOWED_HOSTS": hosts})


@pytest.mark.slow
def test_fast_path_of_the_server_refuses_another_site(service: Service):
    """The head of a request is cached after it came twice, so each is sent more often."""
    wait_for(lambda: service.predict()[0] == 200)
    connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
    content = orjson.dumps(BODY)
    sent = [({"Host": f"localhost:{service.port}"}, 200), *((headers, 403) for headers in OTHER_SITES)]
    for headers, status in [*sent, *sent[::-1]]:
        for _ in range(4):
            connection.request("POST", "/predict", content, {"Content-Type": "application/json"} | headers)
            response = connection.getresponse()
            assert (response.status, bool(response.read())) == (status, True), headers
    connection.close()
