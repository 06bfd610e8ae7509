"""Requests that share calls, over HTTP: more of them than a worker has threads, and one that hangs among them."""

import re
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import pairwise

import pytest

from mlops_nb.monitor.prediction_log import PredictionLog
from tests.factories import Service, wait_for

HANGING = 777  # as tests.serving.server.sharing_app says
CONNECTIONS, REQUESTS = 24, 15


@pytest.fixture
def sharing(settings, tmp_path, monkeypatch):
    """A service with one worker, whose requests may take 2 s."""
    monkeypatch.setattr(Service, "app", "tests.serving.server.sharing_app:app")
    service = Service(settings, tmp_path / "log", MLOPS_WORKERS="1", MLOPS_THREADS="4", MLOPS_REQUEST_SECONDS="2")
    wait_for(lambda: service.get("/health/ready")[0] == 200)
    yield service
    service.stop()


@pytest.mark.slow
def test_many_connections_share_calls_and_each_gets_its_own(sharing, settings):
    assert sharing.get("/model")[1]["batching"]["on"]

    def send(client: int) -> list[tuple]:
        connection = HTTPConnection("127.0.0.1", sharing.port, timeout=30)
        found = []
        for i in range(REQUESTS):
            rows = [[client, 12], [12, client]] if (client + i) % 5 else [[client, "x"]]
            found.append((rows, *sharing.call("POST", "/predict", {"features": rows}, connection)))
        connection.close()
        return found

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        responses = [one for found in pool.map(send, range(CONNECTIONS)) for one in found]
    ids = {}
    for rows, status, body in responses:
        if rows[0][1] == "x":
            assert (status, body["row"], body["column"]) == (400, 0, "b")
        else:
            assert status == 200
            assert body["prediction"] == [int(a > b) for a, b in rows]
            ids |= dict(zip(body["ids"], rows, strict=True))
    assert len(ids) == 2 * sum(status == 200 for _, status, _ in responses)
    log = PredictionLog.open(settings)
    wait_for(lambda: len(log.read("toy").predictions) == len(ids))
    inputs = log.read("toy").inputs
    assert dict(zip(inputs.index, inputs[["a", "b"]].to_numpy().tolist(), strict=True)) == ids
    log.close()
    wait_for(lambda: largest_call(sharing) > 2 * 4, 10)  # two rows a request: more requests than there are threads


def largest_call(service: Service) -> float:
    """The upper bound of the largest shared call so far."""
    connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    counts = [(float(le), float(n)) for le, n in re.findall(r'mlops_batch_rows_bucket{le="([\d.]+)".*} (\S+)', text)]
    return max((le for (_, before), (le, n) in pairwise(counts) if n > before), default=0)


@pytest.mark.slow
def test_request_that_hangs_gets_its_503_and_no_more_than_the_thread_of_its_call_with_it(sharing):
    def send(value: int) -> tuple[int, dict]:
        return sharing.call("POST", "/predict", {"features": [[value, 12]]})

    with ThreadPoolExecutor(12) as pool:
        values = [1, 20, 3, HANGING, 5, 60, 7, 80, 9, 100, 11, 120]
        responses = dict(zip(values, pool.map(send, values), strict=True))
    assert (responses[HANGING][0], responses[HANGING][1]["code"]) == (503, "timeout")
    others = {value: responses[value] for value in set(values) - {HANGING}}
    assert sum(status != 200 for status, _ in others.values()) <= 1, "that of the thread that called"
    assert all(body["prediction"] == [int(value > 12)] for value, (status, body) in others.items() if status == 200)
    assert send(20)[0] == 200
    assert "another worker takes over" not in sharing.log.read_text()


@pytest.mark.slow
def test_service_with_chosen_providers_starts_and_ends_as_usual(settings, tmp_path):
    """Its master has imported ONNX Runtime to know them; the workers make their sessions themselves."""
    service = Service(settings, tmp_path / "log", MLOPS_ONNX_PROVIDERS="AzureExecutionProvider,CPUExecutionProvider")
    wait_for(lambda: service.get("/health/ready")[0] == 200)
    assert service.versions() == {1}
    assert service.get("/model")[1]["providers"] == ["AzureExecutionProvider", "CPUExecutionProvider"]
    log = service.stop()
    assert (service.process.returncode, "terminate called" in log, "Traceback" in log) == (0, False, False), log
