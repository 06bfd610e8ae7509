"""`"explain": true`: how much each column moved a prediction."""

import numpy as np
import pytest

from tests.factories import logged

ROW = {"age": 41, "income": 3000.0, "home": "own"}


def test_effects_lead_from_the_mean_to_the_prediction(mixed):
    rows = [ROW, ROW | {"age": 90}, ROW | {"income": None, "home": "rent"}]
    body = mixed.post("/predict", json={"features": rows, "explain": True, "probability": "named"}).get_json()
    assert len(body["explanations"]) == 3
    for row, label, probability, explained in zip(
        rows, body["prediction"], body["probability"], body["explanations"], strict=True
    ):
        effects = {c["column"]: c["effect"] for c in explained["contributions"]}
        assert explained["mean"] + sum(effects.values()) == pytest.approx(probability[label], abs=1e-6)
        assert {c["column"]: c["value"] for c in explained["contributions"]} == row
        sizes = [abs(c["effect"]) for c in explained["contributions"]]
        assert sizes == sorted(sizes, reverse=True)
        assert all(c["error"] >= 0 for c in explained["contributions"])
    assert max(body["explanations"][1]["contributions"], key=lambda c: abs(c["effect"]))["column"] == "age"


def test_explanations_of_rows_in_the_order_of_the_signature_are_the_same(mixed):
    named = mixed.post("/predict", json={"features": [ROW], "explain": True}).get_json()
    listed = mixed.post("/predict", json={"features": list(ROW.values()), "explain": True}).get_json()
    assert named["explanations"] == listed["explanations"]


def test_row_with_an_error_has_none(mixed):
    body = {"features": [ROW, {"x": 1}, ROW], "explain": True, "on_error": "row"}
    explanations = mixed.post("/predict", json=body).get_json()["explanations"]
    assert [e is None for e in explanations] == [False, True, False]


def test_rows_that_are_predicted_to_explain_are_not_logged(client, app):
    rows = np.random.default_rng(0).normal(size=(2, 2)).tolist()
    assert client.post("/predict", json={"features": rows, "explain": True}).status_code == 200
    assert len(logged(app).predictions) == 2


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        ({"features": [ROW] * 11, "explain": True}, {}, 413, "has 11 rows; at most 10 are explained"),
        ({"features": [ROW], "explain": "yes"}, {}, 400, "'explain' must be true or false, got 'yes'"),
        (
            {"features": [ROW], "explain": True},
            {"Accept": "application/vnd.apache.arrow.stream"},
            400,
            "An Arrow table has no place",
        ),
    ],
)
def test_what_cannot_be_explained_is_refused(mixed, body, headers, status, words):
    response = mixed.post("/predict", json=body, headers=headers)
    assert (response.status_code, words in response.get_json()["error"]) == (status, True), response.text
