"""A row that cannot be predicted refuses no other with `"on_error": "row"`."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.factories import SIGNATURE, logged

BAD = st.one_of(
    st.fixed_dictionaries({"age": st.sampled_from(["x", None, 1e400, 2**70, [], {}])}),
    st.just({"no such column": 1}),
    st.just(None),
    st.sampled_from([5, "text", None, True, [1, 2, 3, 4, 5, 6, 7]]),
)


def _good(number: int) -> dict:
    values = {"float": 1.5 + number, "int": number, "bool": True, "string": None, "datetime": "2024-05-31"}
    row = {i.name: values[i.kind] for i in SIGNATURE.inputs}
    return row | {i.name: i.categories[0] for i in SIGNATURE.inputs if i.categories}


def _row(number: int, bad) -> object:
    return _good(number) | bad if isinstance(bad, dict) else bad


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bads=st.lists(st.one_of(st.none(), BAD.map(lambda bad: [bad])), min_size=1, max_size=12))
def test_each_row_has_what_it_has_alone(mixed, bads):
    rows = [_good(0)] + [_good(i) if bad is None else _row(i, bad[0]) for i, bad in enumerate(bads, 1)]
    response = mixed.post("/predict", json={"features": rows, "on_error": "row", "probability": True})
    assert response.status_code == 200, response.text
    body = response.get_json()
    errors = {e["row"]: e for e in body["errors"]}
    for number, row in enumerate(rows):
        alone = mixed.post("/predict", json={"features": [row], "probability": True})
        places = [body[name][number] for name in ("prediction", "ids", "probability")]
        if number in errors:
            assert places == [None, None, None]
            assert errors[number]["code"] == "bad_input"
            assert f"Row {number}" in errors[number]["error"]
            if isinstance(row, dict):
                assert alone.get_json()["error"] == errors[number]["error"].replace(f"Row {number}", "Row 0")
        else:
            assert alone.get_json()["prediction"] == [body["prediction"][number]]
            assert alone.get_json()["probability"] == [pytest.approx(body["probability"][number])]
    assert all(isinstance(row, dict) for number, row in enumerate(rows) if number not in errors)


def test_request_without_one_good_row_has_its_errors(mixed):
    body = mixed.post("/predict", json={"features": [{"x": 1}, {"y": 2}], "on_error": "row"}).get_json()
    assert body["prediction"] == [None, None]
    assert [e["row"] for e in body["errors"]] == [0, 1]
    assert "unknown column 'x'" in body["errors"][0]["error"]


def test_good_rows_alone_have_no_errors(mixed):
    for rows in ([_good(1), _good(2)], list(_good(1).values()), _good(1)):
        body = mixed.post("/predict", json={"features": rows, "on_error": "row"}).get_json()
        assert body["errors"] == []
        assert None not in body["prediction"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"on_error": "rows"}, "'on_error' must be"),
        ({"on_error": 1}, "got 1"),
        ({"on_error": "row", "features": []}, "has no rows"),
        ({"on_error": "row", "features": [_good(0)] * 101}, "at most 100"),
    ],
)
def test_what_is_no_row_refuses_the_request(mixed, body, words):
    response = mixed.post("/predict", json={"features": [_good(0)]} | body)
    assert response.status_code in (400, 413)
    assert words in response.get_json()["error"]


def test_default_refuses_the_request_with_its_first_error(mixed):
    for extra in ({}, {"on_error": "request"}):
        response = mixed.post("/predict", json={"features": [_good(0), {"x": 1}]} | extra)
        assert response.status_code == 400
        assert response.get_json()["row"] == 1


def test_only_rows_with_a_prediction_are_in_the_log(client, app):
    inputs = [i.name for i in app.extensions["models"].default().loaded().signature.inputs]
    rows = [dict.fromkeys(inputs, 1.0), dict.fromkeys(inputs, "x"), dict.fromkeys(inputs, 2.0)]
    body = client.post("/predict", json={"features": rows, "on_error": "row"}).get_json()
    assert body["ids"][1] is None
    assert {body["ids"][0], body["ids"][2]} == set(logged(app).predictions.index)
