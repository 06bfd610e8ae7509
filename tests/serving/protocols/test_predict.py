"""POST /predict: what it answers, and what it refuses."""

import json
import math
import re

import numpy as np
import pytest

from mlops_nb.model.conversion import Variant
from mlops_nb.model.signature import Predictions, label_text
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.factories import package


def post(client, body, **options):
    data = body if isinstance(body, bytes | str) else json.dumps(body)
    return client.post("/predict", data=data, **({"content_type": "application/json"} | options))


def test_rows_as_lists_as_objects_and_one_flat_list_get_the_same_answer(client):
    for features in ([[1, 0], [0, 1]], [{"a": 1, "b": 0}, {"b": 1, "a": 0}]):
        body = post(client, {"features": features}).get_json()
        assert (body["prediction"], body["model"], body["version"]) == ([1, 0], "toy", 1)
        assert len(set(body["ids"])) == 2
    assert post(client, {"features": [1, 0]}).get_json()["prediction"] == [1]


def test_answer_has_just_the_promised_keys(client):
    assert post(client, {"features": [[1, 0]]}).get_json().keys() == {"prediction", "ids", "model", "version"}


def test_probabilities_are_given_when_asked_for(client):
    body = post(client, {"features": [[1, 0]], "probability": True}).get_json()
    assert body["classes"] == [0, 1]
    assert math.isclose(sum(body["probability"][0]), 1, abs_tol=1e-6)


def test_mixed_columns_with_a_missing_value(mixed):
    rows = [{"age": 50, "income": None, "home": "own"}, {"age": 20, "home": "rent"}, [50, math.nan, "own"]]
    assert post(mixed, {"features": rows[:2]}).get_json()["prediction"] == ["yes", "no"]
    assert post(mixed, {"features": rows[2:]}).get_json()["prediction"] == ["yes"]


def test_predictions_are_those_of_the_estimator(client, app):
    rows = [[i / 10, 1 - i / 7] for i in range(50)]
    predictor = live_model(app).predictor
    assert post(client, {"features": rows}).get_json()["prediction"] == predictor.predict_rows(rows).prediction.tolist()


def test_ids_are_unique_and_sort_by_time(client):
    first, second = (post(client, {"features": [[1, 0]] * n}).get_json()["ids"] for n in (3, 2))
    assert len({*first, *second}) == 5
    assert first[0].split("-")[0][:12] <= second[0].split("-")[0][:12]


GOOD = [41, 1200.5, "own"]


def test_probabilities_by_name(mixed):
    rows = [GOOD, [23, None, "rent"]]
    expected = post(mixed, {"features": rows, "probability": True}).get_json()
    body = post(mixed, {"features": rows, "probability": "named"}).get_json()
    assert body["probability"] == [dict(zip(["no", "yes"], row, strict=True)) for row in expected["probability"]]
    assert body["classes"] == ["no", "yes"]
    assert [label_text(label) for label in ("a b", 1, 1.5, True)] == ["a b", "1", "1.5", "true"]


def test_probabilities_by_number_of_a_class_are_texts_too(client):
    body = post(client, {"features": [[1, 0]], "probability": "named"}).get_json()
    assert body["probability"][0].keys() == {"0", "1"}
    assert body["classes"] == [0, 1]


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"", 400, "bad_request", "not JSON: the body is empty"),
        (b"{", 400, "bad_request", "not JSON"),
        (b"\xff\xfe", 400, "bad_request", "not JSON"),
        (b"[" * 100_000, 400, "bad_request", "not JSON"),
        (b'{"features": [{"\\ud800": 1}]}', 400, "bad_request", "not JSON"),
        (b'{"\\udfff": 1}', 400, "bad_request", "not JSON"),
        ([GOOD], 400, "bad_request", "must be a JSON object"),
        ({"instances": [GOOD]}, 400, "bad_request", "unknown key 'instances'"),
        ({"feature": [GOOD]}, 400, "bad_request", "unknown key 'feature'. Did you mean 'features'"),
        ({}, 400, "bad_request", "no 'features'"),
        ({"features": []}, 400, "bad_input", "has no rows"),
        ({"features": [[]]}, 400, "bad_input", "Row 0 has 0 values; the model takes 3"),
        ({"features": {}}, 400, "bad_input", "Row 0: column 'age' is missing"),
        ({"features": None}, 400, "bad_input", "must be a list of rows, got null"),
        ({"features": [GOOD, GOOD[:2]]}, 400, "bad_input", "Row 1 has 2 values; the model takes 3"),
        ({"features": [{"age": 41, "income": 1}]}, 400, "bad_input", "Row 0: column 'home' is missing"),
        ({"features": [{"age": 41, "hom": "own"}]}, 400, "bad_input", "unknown column 'hom'. Did you mean 'home'"),
        ({"features": [GOOD, {"age": 41}]}, 400, "bad_input", "Row 1 is an object; the first is a list"),
        (
            {"features": [GOOD, ["old", 1, "own"]]},
            400,
            "bad_input",
            "Row 1, column 'age': expected a whole number, got 'old'",
        ),
        (
            {"features": [[41, "rich", "own"]]},
            400,
            "bad_input",
            "Row 0, column 'income': expected a number, got 'rich'",
        ),
        (
            {"features": [[41, math.inf, "own"]]},
            400,
            "bad_input",
            "column 'income': expected a finite number, got Infinity",
        ),
        ({"features": [[math.nan, 1, "own"]]}, 400, "bad_input", "column 'age': expected a finite number, got NaN"),
        ({"features": [[None, 1, "own"]]}, 400, "bad_input", "column 'age': expected a whole number, got null"),
        ({"features": [[41, 1, "castle"]]}, 400, "bad_input", "expected one of ['own', 'rent'], got 'castle'"),
        ({"features": [[-1, 1, "own"]]}, 400, "bad_input", "expected a number of at least 0 and at most 120, got -1"),
        ({"features": [[True, 1, "own"]]}, 400, "bad_input", "expected a whole number, got true"),
        ({"features": [[10**30, 1, "own"]]}, 400, "bad_input", "column 'age'"),
        ({"features": [[[1], 1, "own"]]}, 400, "bad_input", "expected a whole number, got a list"),
        ({"features": [GOOD] * 101}, 413, "too_many_rows", "has 101 rows; at most 100"),
        ({"features": [GOOD], "probability": 1}, 400, "bad_request", "'probability' must be true, false or"),
    ],
)
def test_bad_input_is_named_in_the_one_error_shape(mixed, body, status, code, message):
    answer = post(mixed, body)
    payload = answer.get_json()
    assert (answer.status_code, payload["code"]) == (status, code), payload
    assert message in payload["error"]
    assert answer.content_type == "application/json"


def test_nan_is_refused_by_a_model_whose_columns_must_not_be_missing(client):
    body = post(client, '{"features": [[1, 2], [NaN, 2]]}').get_json()
    assert body["error"] == "Row 1, column 'a': expected a finite number, got NaN."
    assert (body["row"], body["column"]) == (1, "a")


def test_row_without_a_finite_answer_is_refused_and_not_guessed(client, app, monkeypatch):
    infinite = Predictions(np.array([1, 0]), np.array([[0.1, 0.9], [np.nan, np.nan]]), (0, 1))
    monkeypatch.setattr(live_model(app).predictor.engine, "predict", lambda table: infinite)
    answer = post(client, {"features": [[1, 0], [1e308, 1e308]], "probability": True})
    assert (answer.status_code, answer.get_json()["code"], answer.get_json()["row"]) == (400, "bad_input", 1)
    assert "the model has no finite prediction" in answer.get_json()["error"]


def test_row_outside_the_domain_of_the_graph_is_predicted_by_scikit_learn(client, app, registry, monkeypatch, tmp_path):
    single = [Variant(as_matrix=True, precision="Float")]
    monkeypatch.setattr("mlops_nb.model.conversion.variants", lambda *_: iter(single))
    version = registry.register(package(tmp_path / "single", 3.0))[0].version
    registry.promote("toy", version)
    live_model(app).refresh()
    engine = live_model(app).predictor.engine
    low, high = engine.domain.numbers["a"]
    rows = [[1, 0], [high * 2, high * 2], [0, 1], [low * 2, 0]]
    said = post(client, {"features": rows, "probability": True}).get_json()
    expected = engine.fallback.predict(np.array(rows, dtype=float))
    assert said["prediction"] == expected.prediction.tolist()
    assert np.abs(np.array(said["probability"]) - expected.probability).max() <= 1e-5
    assert client.get("/model").get_json()["parity"]["domain"]["numbers"]["a"] == [low, high]


def test_row_that_an_engine_cannot_compute_with_is_refused_and_a_defect_is_not(client, app, monkeypatch, capsys):
    def refuse(table):
        raise ValueError("Input X contains infinity or a value too large for dtype('float32').")

    monkeypatch.setattr(live_model(app).predictor.engine, "predict", refuse)
    assert post(client, {"features": [[1, 0], [0, -1e39]]}).get_json()["row"] == 1
    assert post(client, {"features": [[1, 0], [0, -1e38]]}).status_code == 500


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types_are_refused(client, kind):
    answer = client.post("/predict", data='{"features": [[1, 0]]}', content_type=kind or None)
    assert (answer.status_code, answer.get_json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.toy+json"])
def test_json_by_another_name_is_taken(client, kind):
    assert post(client, {"features": [[1, 0]]}, content_type=kind).status_code == 200


@pytest.mark.slow
def test_more_than_100_000_rows_are_refused(client):
    answer = post(client, {"features": [[1, 0]] * 100_001})
    assert (answer.status_code, answer.get_json()["code"]) == (413, "too_many_rows")
    assert len(post(client, {"features": [[1, 0]] * 100_000}).get_json()["ids"]) == 100_000


def test_body_over_the_limit_is_refused(settings):
    from dataclasses import replace

    app = create_app(replace(settings, max_body_mb=0.001))
    live_model(app).refresh()
    answer = post(app.test_client(), {"features": [[1, 0]] * 1000})
    assert answer.status_code == 413
    assert "larger than 0.001 MiB" in answer.get_json()["error"]
    app.stop()


def test_without_a_model_the_service_is_live_not_ready_and_says_what_to_run(tmp_path):
    app = create_app(Settings.read({"MLOPS_HOME": str(tmp_path), "MLOPS_MODEL": "toy"}))
    live_model(app).refresh()
    client = app.test_client()
    assert client.get("/health/live").get_json() == {"live": True}
    for answer in (client.get("/health/ready"), client.get("/model"), post(client, {"features": [[1]]})):
        assert (answer.status_code, answer.get_json()["code"]) == (503, "no_model")
        assert "Run `ploomber build`" in answer.get_json()["error"]
    app.stop()


def test_every_route_answers_errors_in_the_one_shape(client, app):
    calls = [("GET", "/nowhere")]
    for rule in app.url_map.iter_rules():
        calls += [
            (method, str(rule)) for method in ("DELETE", "PUT", "PATCH", "GET", "POST") if method not in rule.methods
        ]
    for method, path in calls:
        answer = client.open(path, method=method)
        body = answer.get_json()
        assert answer.status_code in (404, 405), (method, path)
        assert isinstance(body["error"], str)
        if not path.startswith("/v2"):  # where the Open Inference Protocol has its own shape
            assert re.fullmatch("[a-z_]+", body["code"]), (method, path)
        if answer.status_code == 405:
            assert answer.headers["Allow"]


def test_defect_of_ours_is_a_500_without_traceback_or_path(client, app, monkeypatch, capsys):
    monkeypatch.setattr(live_model(app).predictor, "predict", lambda table: 1 / 0)
    answer = post(client, {"features": [[1, 0]]})
    assert answer.status_code == 500
    assert answer.get_json().keys() == {"error", "code"}
    assert "/" not in answer.get_json()["error"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_model_says_signature_and_provenance_and_no_path(client, settings):
    body = client.get("/model").get_json()
    assert [i["name"] for i in body["signature"]["inputs"]] == ["a", "b"]
    assert (body["name"], body["version"], body["params"]) == ("toy", 1, {"C": 0.1})
    assert str(settings.home) not in client.get("/model").get_data(as_text=True)
