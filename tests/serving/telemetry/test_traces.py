"""The `traceparent` of a request, from its header to the access log, the prediction log and `mlops-nb explain`."""

from contextlib import closing
from http.client import HTTPConnection

import orjson
import pytest
from click.testing import CliRunner

from mlops_nb.audit.explain import explain, find_prediction
from mlops_nb.cli.main import main
from mlops_nb.errors import InputError, NotFoundError
from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.serving.http.early_response import parse_request_head
from mlops_nb.serving.service import live_model
from mlops_nb.store.database import open_database
from tests.factories import ForkedService, logged, wait_for
from tests.serving.telemetry.test_prediction_logger import entry

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
INVALID = ["", "1", TRACE_ID, TRACEPARENT.upper(), f"{TRACEPARENT},{TRACEPARENT}", TRACEPARENT.replace("4bf9", "é")]
N_ROWS = [1, 33]  # rows as lines of their own, and all in one line


def predict(client, n: int = 1, **headers: str) -> list[str]:
    answer = client.post("/predict", json={"features": [[1, 0]] * n}, headers=headers)
    assert answer.status_code == 200
    return answer.get_json()["ids"]


def traces(app) -> dict[str, str | None]:
    """The trace of every logged prediction, by id."""
    logged(app)
    with closing(PredictionLog.open(app.extensions["settings"])) as log:
        return {row.id: row.trace_id for row in log.rows("toy", roles=("production", "shadow"))}


@pytest.mark.parametrize("n", N_ROWS)
@pytest.mark.parametrize("fast", [True, False])
def test_trace_of_a_request_is_in_both_logs_and_that_of_the_next_is_not(app, client, capfd, n, fast):
    if not fast:
        app.after_request(lambda response: response)
    ids = predict(client, n, traceparent=TRACEPARENT)
    others = predict(client, n)
    first, second = (orjson.loads(line) for line in capfd.readouterr().out.splitlines())
    assert first["trace_id"] == TRACE_ID
    assert second == {name: value for name, value in second.items() if name != "trace_id"}
    assert traces(app) == dict.fromkeys(ids, TRACE_ID) | dict.fromkeys(others)


@pytest.mark.parametrize("given", INVALID)
def test_invalid_header_is_ignored(app, client, capfd, given):
    (id,) = predict(client, traceparent=given)
    assert "trace_id" not in orjson.loads(capfd.readouterr().out)
    assert traces(app) == {id: None}


def test_shadow_has_the_trace_of_the_request_and_explain_takes_what_the_client_received(app, client, registry):
    registry.promote("toy", 2, alias="shadow")
    live_model(app).refresh()
    (id,) = predict(client, traceparent=TRACEPARENT)
    wait_for(lambda: live_model(app).shadow.counts["answered"] == 1)
    assert set(traces(app).values()) == {TRACE_ID}
    assert len(traces(app)) == 2
    for given in (TRACE_ID, TRACEPARENT):
        assert find_prediction(given, app.extensions["settings"]).id == id


def test_trace_that_is_not_shipped_has_several_predictions_or_none_says_so(app, client):
    settings = app.extensions["settings"]
    first, second = predict(client, 2, traceparent=TRACEPARENT)
    with pytest.raises(NotFoundError, match="is not in the log: it is still in"):
        explain(TRACE_ID, settings)
    logged(app)
    with pytest.raises(InputError, match=rf"2 logged predictions: {first} \(toy 1\), {second} \(toy 1\)\. Explain one"):
        explain(TRACEPARENT, settings)
    with pytest.raises(NotFoundError, match=r"No logged prediction belongs to the trace f{32}.*valid traceparent"):
        explain("f" * 32, settings)


def test_refused_request_has_its_trace(app, capfd):
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nTraceparent:  {TRACEPARENT} \r\n".encode()
    assert parse_request_head(head).trace_id == TRACE_ID
    assert parse_request_head(head + f"traceparent: {TRACEPARENT}\r\n".encode()).trace_id is None, "two are invalid"
    app.record_refused(parse_request_head(head), status="503", seconds=0.1, size=3)
    assert orjson.loads(capfd.readouterr().out)["trace_id"] == TRACE_ID


def test_lines_of_an_earlier_release_are_read_and_this_one_writes_them_without_a_trace(app, client, database_url):
    for n in N_ROWS:
        predict(client, n)
    spooled = b"".join(path.read_bytes() for path in app.extensions["log"]._spool.folder.glob("*.jsonl"))
    assert b"trace_id" not in spooled
    with closing(PredictionLog(open_database(database_url))) as log:
        log.add([entry("old"), entry("new", trace_id=TRACE_ID)])
        assert [row.id for row in log.of_trace(TRACE_ID)] == ["new-0"]
        assert log.get("old-0").trace_id is None


@pytest.mark.slow
def test_known_head_of_a_connection_gets_the_trace_of_each_request(settings, tmp_path, monkeypatch):
    service = ForkedService(settings, tmp_path / "log")
    sent = [f"{i:032x}" for i in range(1, 21)]
    try:
        with closing(HTTPConnection("127.0.0.1", service.port, timeout=30)) as connection:
            for trace_id in sent:
                headers = {"Content-Type": "application/json", "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
                connection.request("POST", "/predict", b'{"features": [[1, 0]]}', headers)
                assert connection.getresponse().read()
    finally:
        service.stop()
    assert [line["trace_id"] for line in service.lines("/predict")] == sent
    monkeypatch.setenv("MLOPS_HOME", str(settings.home))
    result = CliRunner().invoke(main, ["explain", f"00-{sent[-1]}-00f067aa0ba902b7-01"])
    assert result.exit_code == 0, result.output
    assert f"trace_id: {sent[-1]}" in result.stdout
