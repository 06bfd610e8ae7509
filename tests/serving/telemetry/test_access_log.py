"""Request ids and the access log."""

import os
import re
import select

import orjson
import pytest

from mlops_nb.serving.inference.infer import InferenceResult
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.factories import ForkedService

PREDICT = {"json": {"features": [[1, 0], [0, 1]]}}


write, pieces = os.write, []


def lines(capfd) -> list[dict]:
    return [orjson.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_request_is_one_line_that_says_what_an_operator_needs(client, capfd):
    answer = client.post("/predict", **PREDICT)
    (line,) = lines(capfd)
    assert line.pop("at").endswith("+00:00")
    assert 0 < line.pop("ms") < 10_000
    assert line == {
        "id": answer.headers["X-Request-ID"],
        "method": "POST",
        "route": "/predict",
        "status": 200,
        "bytes": len(answer.data),
        "rows": 2,
        "model": "toy",
        "role": "production",
        "version": 1,
    }


@pytest.mark.parametrize("given", ["a", "A-1.b_c:9", "x" * 128])
def test_sane_request_id_is_taken_over(client, given):
    assert client.get("/health/live", headers={"X-Request-ID": given}).headers.getlist("X-Request-ID") == [given]


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\x7f", "é", 'a"b', "a,b"])
def test_other_request_id_is_replaced(client, given, capfd):
    made = client.get("/health/live", headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert re.fullmatch(r"[0-9a-f]{28}", made)
    assert [line["id"] for line in lines(capfd)] == [made]


def test_errors_carry_an_id_and_are_logged(app, capfd, monkeypatch):
    client = app.test_client()
    answers = [
        client.get("/nowhere"),
        client.get("/predict"),
        client.post("/predict", data="{"),
        client.options("/model"),
    ]
    monkeypatch.setattr(live_model(app), "loaded", lambda: 1 / 0)
    answers.append(client.post("/predict", **PREDICT))
    output = lines(capfd)
    assert [line["status"] for line in output] == [a.status_code for a in answers] == [404, 405, 415, 200, 500]
    assert [line["id"] for line in output] == [a.headers["X-Request-ID"] for a in answers]


def test_line_names_the_rule_and_only_for_what_is_not_there_the_path(client, capfd):
    client.get("/v1/models/toy?secret=1")
    client.get("/no/" + "x" * 500 + "?secret=1")
    found, missing = lines(capfd)
    assert found["route"] == "/v1/models/<name>"
    assert "path" not in found
    assert missing["route"] is None
    assert missing["path"] == ("/no/" + "x" * 500)[:100]


def test_nothing_that_a_client_sent_is_in_the_log(client, capfd):
    body = {"features": [["hunter2", 0]], "hunter2": "hunter2"}
    for path in ("/predict", "/invocations", "/v1/models/toy:predict"):
        client.post(f"{path}?key=hunter2", json=body, headers={"Authorization": "Bearer hunter2", "Cookie": "hunter2"})
    out, err = capfd.readouterr()
    assert out.count("\n") == 3
    assert "hunter2" not in out + err


def test_line_break_in_a_path_does_not_break_the_line(client, capfd):
    client.get("/a%0Ab%00%ff")
    (line,) = lines(capfd)
    assert line["path"] == "/a\nb\0\ufffd"


def test_access_log_can_be_turned_off(settings, capfd):
    more = {"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": "toy", "MLOPS_ACCESS_LOG": "false"}
    answer = create_app(Settings.read(more)).test_client().get("/health/live")
    assert answer.headers["X-Request-ID"]
    assert capfd.readouterr().out == ""


def test_log_that_cannot_be_written_fails_no_request(client, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    assert client.get("/health/live").status_code == 200


def test_lines_are_written_some_at_a_time_and_the_rest_at_the_end(app, client, capfd, monkeypatch):
    monkeypatch.setattr("mlops_nb.serving.telemetry.access_log.WRITE_SECONDS", 3600)
    monkeypatch.setattr(os, "write", lambda file, piece: pieces.append(piece) or write(file, piece))
    app.access_log.start()
    pieces.clear()
    ids = [client.get("/health/live").headers["X-Request-ID"] for _ in range(100)]
    assert pieces == [], "a request writes nothing"
    app.access_log.stop()
    assert [line["id"] for line in lines(capfd)] == ids
    assert 3 < len(pieces) < 20
    assert max(map(len, pieces)) <= select.PIPE_BUF


def test_what_one_part_cannot_end_ends_all_others(settings, monkeypatch, capfd):
    app = create_app(settings)
    monkeypatch.setattr(app.extensions["log"], "stop", lambda: 1 / 0)
    app.access_log._started = True
    app.test_client().get("/health/live")
    assert lines(capfd) == []
    app.stop()
    output = capfd.readouterr()
    assert "/health/live" in output.out
    assert "ZeroDivisionError" in output.err


def test_line_that_waits_keeps_no_row(app, client, monkeypatch):
    monkeypatch.setattr("mlops_nb.serving.telemetry.access_log.WRITE_SECONDS", 3600)
    app.access_log.start()
    client.post("/predict", **PREDICT)
    kept = [value for _, fields, model in app.access_log._pending for value in (*fields, *model)]
    assert "/predict" in kept
    assert not [value for value in kept if isinstance(value, InferenceResult)]


@pytest.mark.slow
def test_lines_of_two_workers_do_not_mix(settings, tmp_path):
    service = ForkedService(settings, tmp_path / "log")
    service.versions(100)
    service.stop()
    assert len(service.lines("/predict")) == 100
