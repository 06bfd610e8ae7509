"""Messages to clients: values as JSON writes them, every key that there is, and what was seen."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.errors import InputError
from mlops_nb.model.parser import InputParser
from mlops_nb.model.signature import Input, Signature
from mlops_nb.serving.protocols.feedback import _read_value
from mlops_nb.serving.service import live_model

PYTHON = re.compile(r"\b(np\.|True|False|None)|array\(|dtype")  # what is no JSON
LABELS = [
    (False, True),
    (0, 1),
    (1.5, 2.5),
    ("no", "yes"),
    (np.int64(3), np.int64(4)),
    (np.bool_(False), np.bool_(True)),
]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text("aäT\"'", max_size=50), st.just([]), st.just({"a": 1})
)


def message_of(act, *args) -> str:
    """The message of the error that a call raises; empty if it raises none."""
    try:
        act(*args)
    except InputError as e:
        return str(e)
    return ""


@pytest.mark.slow
@given(value=VALUES, classes=st.sampled_from([*LABELS, None]))
def test_label_in_a_message_is_json(value, classes):
    task = "regression" if classes is None else "classification"
    message = message_of(_read_value, "Label 0", 0, value, Signature((), task, "paid", classes))
    assert not PYTHON.search(message)
    assert not message or ", got " in message[-60:]


@pytest.mark.slow
@given(value=VALUES, kind_and_categories=st.sampled_from([("int", (1, 2)), ("string", ("a", "b")), ("bool", None)]))
def test_value_of_a_row_in_a_message_is_json(value, kind_and_categories):
    kind, categories = kind_and_categories
    if kind == "int":
        categories = tuple(np.int64(one) for one in categories)
    parser = InputParser(Signature((Input("x", kind, categories=categories), Input("y")), "regression", "z"))
    assert not PYTHON.search(message_of(parser.parse, [[value, 1.0]]))


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/predict", {"features": [[1, 0]], "zzz": 1}, ["explain", "features", "interval", "on_error", "probability"]),
        ("/feedback", {"zzz": 1}, ["id", "label", "labels"]),
    ],
)
def test_unknown_key_is_answered_with_all_that_there_are(client, path, body, names):
    error = client.post(path, json=body).get_json()["error"]
    assert error.endswith(f"unknown key 'zzz'. There is: {', '.join(map(repr, names))}.")
    near = {key: value for key, value in body.items() if key != "zzz"} | {"on_eror": "row"}
    if path == "/predict":
        assert "Did you mean 'on_error'?" in client.post(path, json=near).get_json()["error"]


def test_model_is_not_failed_before_its_first_load(settings):
    from serve.app import create_app

    app = create_app(settings)  # not started
    client = app.test_client()
    [model] = client.get("/models").get_json()["models"]
    assert (model["state"], model["reason"]) == ("not loaded", "The first load is not over yet.")
    [entry] = client.post("/v2/repository/index").get_json()
    assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", "The first load is not over yet.")
    live_model(app).refresh()
    assert client.get("/models").get_json()["models"][0]["state"] == "loaded"
    app.stop()
