"""`"interval": true`: beside each prediction an interval, or a set of labels, that holds the truth at a stated rate."""

import shutil
from types import SimpleNamespace

import jsonschema
import numpy as np
import pyarrow
import pyarrow.ipc
import pytest
from flask import Flask

from mlops_nb.model.interval import Interval
from mlops_nb.model.signature import Input, Predictions, Signature
from mlops_nb.serving.inference.infer import InferenceResult
from mlops_nb.serving.protocols.arrow import ARROW, _interval_columns
from mlops_nb.serving.protocols.open_inference import _to_response, outputs_of
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.factories import LIKELY, NUMBERS, SIGNATURE, logged, package

ROW = {"age": 41, "income": 3000.0, "home": "own"}


@pytest.fixture(scope="module")
def likely(homes, tmp_path_factory):
    """An application whose model has prediction sets."""
    home = shutil.copytree(homes["mixed"], tmp_path_factory.mktemp("likely") / "home")
    app = create_app(Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy"}))
    live_model(app).refresh()
    yield app
    app.stop()


def post(app, **more):
    return app.test_client().post("/predict", json={"features": [ROW, ROW | {"age": 20}], **more})


@pytest.mark.slow
def test_set_has_the_labels_that_are_probable_enough(likely):
    body = post(likely, interval=True, probability="named").get_json()
    assert body["level"] == 0.9
    for labels, probability in zip(body["prediction_set"], body["probability"], strict=True):
        expected = [label for label, p in probability.items() if p >= 0.3 - 1e-6]
        assert labels == sorted(expected, key=probability.get, reverse=True)
    assert len(body["prediction_set"][0]) == 2  # 41 is next to the limit
    assert "interval" not in body
    assert "prediction_set" not in post(likely).get_json()
    assert "prediction_set" not in post(likely, interval=False).get_json()


@pytest.mark.slow
def test_interval_goes_with_the_other_options(likely):
    rows = [ROW, {"x": 1}, ROW]
    body = {"features": rows, "interval": True, "on_error": "row", "explain": True, "probability": True}
    response = likely.test_client().post("/predict", json=body)
    body = response.get_json()
    assert response.status_code == 200, response.text
    for name in ("prediction", "ids", "probability", "explanations", "prediction_set"):
        assert [value is None for value in body[name]] == [False, True, False], name
    assert [e["row"] for e in body["errors"]] == [1]


@pytest.mark.parametrize("options", [{}, {"interval": True, "explain": True, "probability": True}])
def test_request_of_bad_rows_alone_has_its_errors_and_the_fields_of_others(likely, options):
    client, body = likely.test_client(), {"on_error": "row", **options}
    refused = client.post("/predict", json=body | {"features": [{"x": 1}]}).get_json()
    mixed = client.post("/predict", json=body | {"features": [ROW, {"x": 1}]}).get_json()
    assert refused.keys() == mixed.keys()
    for name, values in mixed.items():
        expected = [None] if isinstance(values, list) and len(values) == 2 and values[1] is None else values
        assert name == "errors" or refused[name] == expected, name
    assert [e["row"] for e in refused["errors"]] == [0]


def test_prediction_with_an_interval_is_logged_once(likely):
    before = len(logged(likely).predictions)
    assert post(likely, interval=True).status_code == 200
    assert len(logged(likely).predictions) == before + 2


def test_model_without_an_interval_says_what_to_do(client, app):
    for more in ({}, {"on_error": "row"}):
        response = client.post("/predict", json={"features": [[1, 0]], "interval": True, **more})
        assert response.status_code == 400
        assert "Version 1 of the model 'toy' has no interval; leave 'interval' out" in response.get_json()["error"]
        assert "ModelSpec(..., interval=0.9)" in response.get_json()["error"]
    assert not len(logged(app).predictions)


@pytest.mark.parametrize("value", ["yes", 1, None, 0.9, [True]])
def test_interval_is_true_or_false(likely, value):
    response = post(likely, interval=value)
    assert (response.status_code, "'interval' must be true or false" in response.get_json()["error"]) == (400, True)


def arrow_of(rows: list[dict], **metadata: str) -> bytes:
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata(metadata)
    body = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(body, table.schema) as stream:
        stream.write_table(table)
    return body.getvalue().to_pybytes()


def test_arrow_table_has_intervals_where_json_or_its_metadata_asks(likely, client):
    rows, wanted = [ROW, ROW | {"age": 20}], {"Accept": ARROW}
    expected = post(likely, interval=True).get_json()
    asked = likely.test_client().post("/predict", json={"features": rows, "interval": True}, headers=wanted)
    sent = [arrow_of(rows, interval="true"), arrow_of(rows)]
    tables = [likely.test_client().post("/predict", data=s, content_type=ARROW, headers=wanted) for s in sent]
    for response in (asked, tables[0]):
        table = pyarrow.ipc.open_stream(response.data).read_all()
        assert table["prediction_set"].to_pylist() == expected["prediction_set"]
        assert table.schema.metadata[b"level"] == b"0.9"
    assert "prediction_set" not in pyarrow.ipc.open_stream(tables[1].data).schema.names
    as_json = likely.test_client().post("/predict", data=sent[0], content_type=ARROW).get_json()
    assert (as_json["prediction_set"], as_json["level"]) == (expected["prediction_set"], 0.9)
    without = arrow_of([{"a": 1.0, "b": 0.0}], interval="true")
    for body, words in ((without, "has no interval"), (arrow_of(rows, interval="yes"), "true or false")):
        refused = client.post("/predict", data=body, content_type=ARROW)
        assert (refused.status_code, words in refused.get_json()["error"]) == (400, True)


def test_interval_of_a_regression_has_low_and_high_in_a_table():
    found = _interval_columns({"level": 0.9, "interval": [[1, 2], [3, 4]]})
    assert {name: [*values] for name, values in found.items()} == {
        "prediction_low": [1, 3],
        "prediction_high": [2, 4],
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/toy:predict", {"instances": "rows", "interval": True}),
        ("/invocations", {"instances": "rows", "params": {"interval": True}}),
        ("/invocations", {"dataframe_records": "rows", "params": {"interval": True}}),
    ],
)
def test_lists_of_predictions_have_the_sets_on_request(likely, client, path, body):
    rows = [ROW, ROW | {"age": 20}]
    expected = post(likely, interval=True).get_json()
    body = {name: rows if value == "rows" else value for name, value in body.items()}
    found = likely.test_client().post(path, json=body).get_json()
    assert found == {"predictions": expected["prediction"], **{k: expected[k] for k in ("level", "prediction_set")}}
    schema = likely.test_client().get("/openapi.json").get_json()["paths"][path]["post"]["responses"]["200"]
    jsonschema.validate(found, schema["content"]["application/json"]["schema"])
    plain = {name: value for name, value in body.items() if name not in ("interval", "params")}
    assert likely.test_client().post(path, json=plain).get_json() == {"predictions": expected["prediction"]}
    numbers = {name: [[1, 0]] if value is rows else value for name, value in body.items()}
    refused = client.post(path, json=numbers)
    assert (refused.status_code, "has no interval" in refused.get_json()["error"]) == (400, True)


@pytest.mark.parametrize("params", [{"interval": 1}, {"intervals": True}, [], "interval"])
def test_parameters_of_mlflow_are_intervals_alone(likely, params):
    response = likely.test_client().post("/invocations", json={"instances": [ROW], "params": params})
    assert (response.status_code, "interval" in response.get_json()["error"]) == (400, True)


def test_tensors_have_the_set_on_request(likely, client):
    tensors = [
        {"name": name, "datatype": datatype, "shape": [2], "data": data}
        for name, datatype, data in (
            ("age", "INT64", [41, 20]),
            ("income", "FP64", [3000.0, 3000.0]),
            ("home", "BYTES", ["own", "own"]),
        )
    ]
    asked = {"inputs": tensors, "outputs": [{"name": "prediction"}, {"name": "prediction_set"}]}
    response = likely.test_client().post("/v2/models/toy/infer", json=asked).get_json()
    found = {output["name"]: output for output in response["outputs"]}
    classes = post(likely, probability=True).get_json()["classes"]
    sets = post(likely, interval=True).get_json()["prediction_set"]
    assert (found["prediction_set"]["datatype"], found["prediction_set"]["shape"]) == ("BOOL", [2, len(classes)])
    assert found["prediction_set"]["data"] == [label in labels for labels in sets for label in classes]
    plain = likely.test_client().post("/v2/models/toy/infer", json={"inputs": tensors}).get_json()
    assert [output["name"] for output in plain["outputs"]] == ["prediction", "probability"]
    numbers = {"inputs": [{"name": "rows", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 0.0]}]}
    refused = client.post("/v2/models/toy/infer", json=numbers | {"outputs": [{"name": "prediction_set"}]})
    assert (refused.status_code, "no output 'prediction_set'" in refused.get_json()["error"]) == (400, True)


def test_tensors_of_a_regression_have_low_and_high():
    numbers = Signature((Input("x"),), "regression", "y", interval=Interval(0.9, 2.0, 99))
    assert outputs_of(numbers)["interval"] == ("FP64", [-1, 2])
    predictor = SimpleNamespace(signature=numbers, version=1)
    result = InferenceResult(predictor, None, Predictions(np.array([1.0, 5.0])))
    with Flask("x").test_request_context("/v2/models/y/infer"):
        body = _to_response("y", None, {"interval": False}, result).get_json()
    assert body["outputs"][0]["data"] == [-1.0, 3.0, 3.0, 7.0]


def test_model_and_openapi_describe_it(likely, client):
    found = likely.test_client().get("/model").get_json()
    assert found["signature"]["interval"] == LIKELY.interval.to_dict()
    for description, has_one in ((likely.test_client(), True), (client, False)):
        operation = description.get("/openapi.json").get_json()["paths"]["/predict"]["post"]
        forms = operation["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
        allowed = [form["properties"]["interval"]["enum"] for form in forms]
        assert allowed == [[False, True] if has_one else [False]] * 2
        fields = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
        assert ("prediction_set" in fields, "level" in fields) == (has_one, has_one)


@pytest.mark.parametrize("more", [{}, {"on_error": "row", "features": [ROW, {"x": 1}]}])
def test_response_has_its_schema(likely, more):
    paths = likely.test_client().get("/openapi.json").get_json()["paths"]
    schema = paths["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(post(likely, interval=True, **more).get_json(), schema)


@pytest.mark.slow
def test_canary_without_an_interval_leaves_the_request_to_production(tmp_path):
    from mlops_nb.store.registry import Registry

    (tmp_path / "settings.ini").touch()
    settings = Settings.read({"MLOPS_HOME": str(tmp_path), "MLOPS_MODEL": "toy", "MLOPS_CANARY_SHARE": "0.5"})
    registry = Registry.open(settings)
    registry.register(package(tmp_path / "bundle", 0.1, LIKELY))
    registry.register(package(tmp_path / "bundle", 10.0, SIGNATURE))
    registry.promote("toy", 1)
    registry.promote("toy", 2, alias="canary")
    registry.close()
    app = create_app(settings)
    live_model(app).refresh()
    client, versions = app.test_client(), set()
    for key in map(str, range(20)):
        response = client.post("/predict", json={"features": [ROW], "interval": True}, headers={"X-Canary-Key": key})
        assert response.status_code == 200, response.text
        assert "prediction_set" in response.get_json()
        versions.add(response.get_json()["version"])
    assert versions == {1}
    trial = app.extensions["models"].default().state.trial
    assert trial.own.failures[1] == {"no interval": trial.own.requests[1]}
    assert trial.own.requests[1]
    app.stop()


def test_signature_without_one_is_as_it_was():
    assert "interval" not in NUMBERS.to_dict()
