"""The Open Inference Protocol: what its own client gets, and what is refused."""

import gzip
import json
import shutil
import struct
import zlib
from dataclasses import replace

import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.signature import Input, Signature
from mlops_nb.serving.inference.live_model import ServingState
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import Service

hypothesis.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=300)
hypothesis.load_profile("same")

KINDS = Signature(
    (
        Input("age", "int", minimum=0, maximum=120),
        Input("income", "float", required=False),
        Input("member", "bool"),
        Input("home", "string", categories=("own", "rent")),
    ),
    "classification",
    "repaid",
    ("no", "yes"),
    ignored=("id",),
)
ROWS = [[50, 1200.5, True, "own"], [20, None, False, "rent"]]


@pytest.fixture(scope="module")
def kinds_home(tmp_path_factory):
    """A model with every kind of column that a tensor can be."""
    home, rng, n = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0), 200
    X = pd.DataFrame({"age": rng.integers(18, 90, n), "income": rng.normal(3000, 500, n)})
    X["member"], X["home"] = rng.random(n) < 0.5, rng.choice(["own", "rent"], n)
    X.loc[::7, "income"] = np.nan
    columns = make_column_transformer(
        (SimpleImputer(), ["age", "income"]), ("passthrough", ["member"]), (OneHotEncoder(), ["home"])
    )
    estimator = make_pipeline(columns, LogisticRegression(max_iter=5000))
    estimator.fit(X, np.where(X["age"] + 20 * X["member"] > 50, "yes", "no"))
    evaluation = {"metrics": {"accuracy": 0.9}, "baseline": {"accuracy": 0.5}, "gates": [], "passed": True}
    facts = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": evaluation}
    (home / "settings.ini").touch()
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy"}))
    registry.register(write_bundle(home / "bundle", "toy", estimator, KINDS, X, X, facts))
    registry.promote("toy", 1)
    registry.close()
    return home


@pytest.fixture(scope="module")
def kinds(kinds_home):
    settings = Settings.read({"MLOPS_HOME": str(kinds_home), "MLOPS_MODEL": "toy", "MLOPS_MAX_ROWS": "100"})
    app = create_app(replace(settings, max_body_mb=0.1))
    live_model(app).refresh()
    yield app.test_client()
    app.stop()


@pytest.fixture(scope="module")
def expected(kinds):
    return kinds.post("/predict", json={"features": ROWS, "probability": True}).get_json()


def tensor(name, datatype, data, shape=None):
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


COLUMNS = [
    tensor("age", "INT8", [50, 20]),
    tensor("income", "FP64", [1200.5, None]),
    tensor("member", "BOOL", [True, False]),
    tensor("home", "BYTES", ["own", "rent"]),
]


def infer(client, inputs, **more):
    return client.post("/v2/models/toy/infer", json={"inputs": inputs, **more})


def in_bytes(client, inputs, binary: bytes, **more):
    head = orjson.dumps({"inputs": inputs, **more})
    length = {"Inference-Header-Content-Length": str(len(head))}
    return client.post("/v2/models/toy/infer", data=head + binary, headers=length)


# Through the protocol's own client


def triton(port: int):
    from tritonclient.http import InferenceServerClient

    return InferenceServerClient(f"127.0.0.1:{port}")


def triton_input(name: str, values: np.ndarray, binary: bool = True):
    from tritonclient.http import InferInput
    from tritonclient.utils import np_to_triton_dtype

    made = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return made.set_data_from_numpy(values, binary_data=binary)


@pytest.mark.slow
def test_tritonclient_finds_asks_and_is_refused(service):
    from tritonclient.http import InferRequestedOutput
    from tritonclient.utils import InferenceServerException

    expected = service.call("POST", "/predict", {"features": [[1, 0], [0, 1]], "probability": True})[1]
    with triton(service.port) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("toy")
        assert client.is_model_ready("toy", "1")
        assert not client.is_model_ready("other")
        assert not client.is_model_ready("toy", "2")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        for version in ("", "1"):
            result = client.get_model_metadata("toy", version)
            assert (result["name"], result["versions"], result["platform"]) == ("toy", ["1"], "onnxruntime_onnx")
            assert result["inputs"] == [{"name": n, "datatype": "FP64", "shape": [-1]} for n in "ab"]
            assert [(o["name"], o["datatype"], o["shape"]) for o in result["outputs"]] == [
                ("prediction", "INT64", [-1]), ("probability", "FP64", [-1, 2]), ("id", "BYTES", [-1]),
            ]  # fmt: skip
        for dtype in (np.float16, np.float32, np.float64, np.int8, np.uint64):
            for binary in (True, False):
                for inputs in (
                    [triton_input("features", np.array([[1, 0], [0, 1]], dtype), binary)],
                    [
                        triton_input("b", np.array([0, 1], dtype), binary),
                        triton_input("a", np.array([[1], [0]], dtype)),
                    ],
                ):
                    result = client.infer("toy", inputs, "1", request_id="mine")
                    assert result.as_numpy("prediction").tolist() == expected["prediction"]
                    assert result.as_numpy("probability").tolist() == expected["probability"]
                    response = result.get_response()
                    assert (response["id"], response["model_name"], response["model_version"]) == ("mine", "toy", "1")
        inputs = [triton_input("features", np.array([[1.0, 0]]))]
        for binary in (True, False):
            outputs = [InferRequestedOutput("id", binary), InferRequestedOutput("prediction", not binary)]
            result = client.infer("toy", inputs, outputs=outputs)
            assert [o["name"] for o in result.get_response()["outputs"]] == ["id", "prediction"]
            assert result.as_numpy("prediction").tolist() == [1]
            assert result.as_numpy("id").shape == (1,)
        for algorithm in ("gzip", "deflate"):
            compressed = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
            assert client.infer("toy", inputs, **compressed).as_numpy("prediction").tolist() == [1]
        with pytest.raises(InferenceServerException, match=r"\[400\] There is an unknown column 'c'"):
            client.infer("toy", [triton_input("a", np.ones(1)), triton_input("c", np.ones(1))])
        with pytest.raises(InferenceServerException, match=r"\[404\] Version '7' is not loaded here; '1' is"):
            client.infer("toy", inputs, "7")
        with pytest.raises(InferenceServerException, match=r"\[404\] There is no /v2/models/toy/config"):
            client.get_model_config("toy")


@pytest.mark.slow
def test_tritonclient_sends_every_kind_of_column(kinds_home, tmp_path, expected):
    shutil.copytree(kinds_home, tmp_path / "home")
    home = {"MLOPS_HOME": str(tmp_path / "home"), "MLOPS_MODEL": "toy"}
    service = Service(Settings.read(home), tmp_path / "log")
    arrays = {
        "age": np.array([50, 20], np.uint8),
        "income": np.array([1200.5, np.nan]),
        "member": np.array([True, False]),
        "home": np.array(["own", b"rent"], dtype=object),
    }
    with triton(service.port) as client:
        for binary in (True, False):
            response = client.infer("toy", [triton_input(name, array, binary) for name, array in arrays.items()])
            assert [text.decode() for text in response.as_numpy("prediction")] == expected["prediction"]
            assert response.as_numpy("probability").tolist() == expected["probability"]
    assert "Traceback" not in service.stop()


# What is answered


@pytest.mark.slow
def test_columns_as_json_get_what_predict_answers(kinds, expected):
    body = infer(kinds, COLUMNS, id="").get_json()
    assert (body["id"], body["model_name"], body["model_version"]) == ("", "toy", "1")
    prediction, probability = body["outputs"]
    assert prediction == tensor("prediction", "BYTES", expected["prediction"])
    assert probability == tensor("probability", "FP64", [p for row in expected["probability"] for p in row], [2, 2])
    with_ignored = [*COLUMNS, tensor("id", "BYTES", ["x", None])]
    assert infer(kinds, with_ignored).get_json()["outputs"] == body["outputs"]
    without_optional = [column for column in COLUMNS if column["name"] != "income"]
    assert infer(kinds, without_optional).get_json()["outputs"][0]["data"] == expected["prediction"]


@pytest.mark.parametrize("data", [[[1, 0], [0, 1]], [1, 0, 0, 1], [1.0, 0, 0, 1]])
def test_one_tensor_of_all_columns_may_be_flat_or_nested(client, data):
    for datatype in ("INT64", "FP32"):
        body = infer(client, [tensor("any", datatype, data, [2, 2])]).get_json()
        assert body["outputs"][0]["data"] == [1, 0]
        assert "id" not in body


@pytest.mark.parametrize("rows", [1, 2])
def test_shape_beyond_all_numbers_is_refused(client, rows):
    shape = b'{"name": "x", "datatype": "FP64", "shape": [%d, %s]' % (rows, b"9" * 4300)
    answer = client.post("/v2/models/toy/infer", data=b'{"inputs": [%s, "data": [1]}]}' % shape)
    assert answer.status_code == 400
    assert "must have a 'shape'" in answer.get_json()["error"]
    assert (
        in_bytes(client, [orjson.Fragment(shape + b', "parameters": {"binary_data_size": 8}}')], b"\0" * 8).status_code
        == 400
    )


def test_shape_and_size_may_be_written_as_json_writes_whole_numbers(client):
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1.0, 2e0], "data": [1, 0]}]}'
    assert client.post("/v2/models/toy/infer", data=body).get_json()["outputs"][0]["data"] == [1]
    assert in_bytes(client, [sized("x", "FP32", [1, 2], 8.0)], b"\0\0\x80?\0\0\0\0").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "names", "binary"),
    [
        ({}, ["prediction", "probability"], []),
        ({"outputs": [{"name": "id"}]}, ["id"], []),
        ({"parameters": {"binary_data_output": True, "timeout": 5}}, ["prediction", "probability"], [0, 1]),
        ({"outputs": [{"name": "prediction", "parameters": {"binary_data": True}}]}, ["prediction"], [0]),
        (
            {
                "outputs": [{"name": "probability"}, {"name": "prediction", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            ["probability", "prediction"],
            [0],
        ),
    ],
)
def test_outputs_are_those_asked_for_in_the_form_asked_for(kinds, more, names, binary):
    answer = infer(kinds, COLUMNS, **more)
    length = int(answer.headers.get("Inference-Header-Content-Length", len(answer.data)))
    outputs = json.loads(answer.data[:length])["outputs"]
    assert [o["name"] for o in outputs] == names
    assert [number for number, o in enumerate(outputs) if "data" not in o] == binary
    sizes = [outputs[number]["parameters"]["binary_data_size"] for number in binary]
    assert len(answer.data) == length + sum(sizes)
    assert answer.content_type == ("application/octet-stream" if binary else "application/json")


def test_content_type_is_not_looked_at_and_packed_bodies_are_unpacked(client):
    body = orjson.dumps({"inputs": [tensor("x", "FP64", [1, 0], [1, 2])]})
    for kind in (None, "application/octet-stream", "application/x-www-form-urlencoded"):
        assert client.post("/v2/models/toy/infer", data=body, content_type=kind).status_code == 200
    for encoding, packed in [("gzip", gzip.compress(body)), ("Deflate", zlib.compress(body)), ("identity", body)]:
        answer = client.post("/v2/models/toy/infer", data=packed, headers={"Content-Encoding": encoding})
        assert answer.status_code == 200, answer.get_json()


# What is refused


A = tensor("a", "FP64", [1.0, 2.0])
B = tensor("b", "FP64", [1.0, 2.0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "'inputs' must be a list"),
        ([], "'inputs' must be a list"),
        ([1], "Input 0 must be an object"),
        ([A | {"dtype": 1}], "Input 0 has an unknown key 'dtype'. Did you mean 'datatype'"),
        ([A | {"name": 1}], "Input 0 must have a 'name'"),
        ([A, A], "There are two tensors 'a'"),
        ([A, {**B, "name": "c"}], "There is an unknown column 'c'"),
        ([A], "Column 'b' is missing"),
        ([A | {"name": "x"}], "Tensor 'x' of shape [2] is no column, so it must hold all columns: [rows, 2]"),
        ([A | {"datatype": "FP8"}], "Tensor 'a' must have a 'datatype', one of INT8, "),
        ([A | {"datatype": ["FP8"]}], "Tensor 'a' must have a 'datatype'"),
        ([A | {"shape": [-1]}], "must have a 'shape', [rows] or [rows, columns], each at least 1"),
        ([A | {"shape": [0, 2]}], "must have a 'shape'"),
        ([A | {"shape": []}], "must have a 'shape'"),
        ([A | {"shape": [1, 1, 2]}], "must have a 'shape'"),
        ([A | {"shape": 2}], "must have a 'shape'"),
        ([A | {"shape": [True, 2]}], "must have a 'shape'"),
        ([A | {"shape": [1.5]}], "must have a 'shape'"),
        ([A | {"shape": [float("inf")]}], "must have a 'shape'"),
        ([A | {"shape": [3]}], "Tensor 'a' of shape [3]: 'data' must have 3 values, flat or as rows, got a list of 2"),
        ([A | {"shape": [1, 10**15]}], "'data' must have 1000000000000000 values"),
        ([A | {"shape": [2, 2], "data": [[1, 2], [3]]}], "'data' must have 4 values, flat or as rows, got a list of 2"),
        ([A | {"data": 1}], "'data' must be a list"),
        ([A | {"data": [[1.0], 2.0]}], "element 0 must be a number"),
        ([A | {"data": ["1", 2]}], "element 0 must be a number"),
        ([A | {"data": [1, True]}], "element 1 must be a number"),
        ([A | {"data": [10**400, 1]}, B], "Row 0, column 'a': expected a finite number, got Infinity"),
        ([A | {"datatype": "FP16", "data": [1e9, 1]}], "not every number fits into FP16"),
        ([A | {"datatype": "INT8", "data": [1, 128]}], "element 1 is no whole number of INT8"),
        ([A | {"datatype": "UINT8", "data": [1.5, 1]}], "element 0 is no whole number of UINT8"),
        ([A | {"datatype": "INT8", "data": [1, float("nan")]}], "element 1 is no whole number of INT8"),
        ([A | {"datatype": "BOOL", "data": [1, True]}], "element 0 must be true or false"),
        ([A | {"datatype": "BYTES", "data": ["x", 1]}], "element 1 must be a string"),
        ([A | {"datatype": "BYTES", "data": ["x", "y"]}, B], "'a': expected a number, got a value of the type string"),
        ([A | {"datatype": "UINT64", "data": [2**64 - 1, None]}, B], "Row 1, column 'a': expected a number, got null"),
        ([A | {"data": [1, None]}, B], "Row 1, column 'a': expected a finite number, got NaN"),
        ([A, B | {"shape": [1, 2]}], "Tensor 'b' is one column: its shape must be [2] as that of 'a', got [1, 2]"),
        ([A, tensor("b", "FP64", [1.0])], "Tensor 'b' is one column"),
        ([tensor("x", "FP64", [1, 2, 3], [1, 3])], "Row 0 has 3 values; the model takes 2"),
        ([tensor("x", "BOOL", [True, False], [1, 2])], "Row 0, column 'a': expected a number, got true"),
        ([tensor("x", "BYTES", ["x", None], [1, 2])], "Row 0, column 'a': expected a number, got 'x'"),
        ([{k: v for k, v in A.items() if k != "data"}], "either 'data' or the parameter 'binary_data_size'"),
        ([A | {"parameters": {"binary_data_size": 16}}], "either 'data' or the parameter 'binary_data_size'"),
        ([A | {"parameters": 1}], "'parameters' must be an object"),
    ],
)
def test_tensor_that_does_not_fit_is_named(client, inputs, message):
    answer = infer(client, inputs)
    assert (answer.status_code, answer.get_json().keys()) == (400, {"error"}), answer.get_json()
    assert message in answer.get_json()["error"]


@pytest.mark.parametrize("body", [{}, {"inputs": None}, {"id": "mine", "outputs": [{"name": "prediction"}]}])
def test_missing_inputs_have_the_error_shape_of_everything_else(client, body):
    answer = client.post("/v2/models/toy/infer", json=body)
    assert (answer.status_code, answer.get_json()) == (
        400,
        {"error": "'inputs' must be a list of at least one tensor."},
    )


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_result_of_n_rows_has_the_shape_n_whatever_the_shape_of_the_inputs(client, rows):
    columns = [tensor(name, "FP64", [1.0] * rows, [rows, 1]) for name in "ab"]
    for inputs in (columns, [tensor("x", "FP64", [1.0] * 2 * rows, [rows, 2])]):
        shapes = [output["shape"] for output in infer(client, inputs).get_json()["outputs"]]
        assert shapes == [[rows], [rows, 2]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"id": 1}, "'id' must be a string"),
        ({"input": []}, "unknown key 'input'. Did you mean 'inputs'"),
        ({"outputs": 1}, "'outputs' must be a list"),
        ({"outputs": None}, "'outputs' must be a list"),
        ({"outputs": [1]}, "'outputs' must be a list"),
        ({"outputs": [{"name": "predictions"}]}, "no output 'predictions'. Did you mean 'prediction'"),
        ({"outputs": [{}]}, "There is no output 'None'"),
        ({"outputs": [{"name": "id"}] * 2}, "'id' is named twice"),
        ({"outputs": [{"name": "id", "parameters": {"classification": 2}}]}, "unknown key 'classification'"),
        ({"outputs": [{"name": "id", "parameters": {"binary_data": 1}}]}, "'binary_data' in it true or false"),
        ({"outputs": [{"name": "id", "shape": [1]}]}, "unknown key 'shape'"),
        ({"parameters": {"binary_data_output": "yes"}}, "'binary_data_output' in it true or false"),
        ({"parameters": []}, "'parameters' must be an object"),
    ],
)
def test_request_that_does_not_fit_is_refused(client, more, message):
    answer = infer(client, [A, B], **more)
    assert (answer.status_code, answer.get_json().keys()) == (400, {"error"}), answer.get_json()
    assert message in answer.get_json()["error"]


def sized(name, datatype, shape, size):
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inputs", "binary", "message"),
    [
        ([sized("x", "FP32", [1, 2], 8)], b"1234567", "has 8 bytes of binary data, but 7 are left in the body"),
        ([sized("x", "FP32", [1, 2], 8)], b"123456789", "The body has 1 bytes more than its tensors say"),
        ([sized("x", "FP32", [1, 2], 7)], b"1234567", "has 8 bytes, but binary_data_size is 7"),
        ([sized("x", "FP64", [10**5 + 1, 10**15], 8)], b"12345678", "413"),
        ([sized("x", "FP32", [1, 2], -8)], b"12345678", "'binary_data_size' must be a number of bytes"),
        ([sized("x", "FP32", [1, 2], True)], b"1", "'binary_data_size' must be a number of bytes"),
        ([sized("x", "BOOL", [1, 2], 2)], b"\1\2", "a byte of BOOL is 0 or 1"),
        ([sized("x", "BYTES", [1, 2], 6)], b"\1\0\0\0x\1", "its bytes are not 2 whole strings"),
        ([sized("x", "BYTES", [1, 2], 9)], b"\1\0\0\0x\1\0\0\0", "its bytes are not 2 whole strings"),
        ([sized("x", "BYTES", [1, 2], 9)], b"\xff\xff\xff\xffxxxxx", "its bytes are not 2 whole strings"),
        ([sized("x", "BYTES", [1, 2], 15)], b"\1\0\0\0x" * 3, "its bytes are not 2 whole strings"),
        ([sized("x", "BYTES", [1, 2], 10)], b"\1\0\0\0x\1\0\0\0\xff", "element 1 is not UTF-8"),
    ],
)
def test_binary_data_that_does_not_fit_is_refused(client, inputs, binary, message):
    answer = in_bytes(client, inputs, binary)
    assert answer.get_json().keys() == {"error"}
    assert message in f"{answer.status_code} {answer.get_json()['error']}"
    assert answer.status_code == 400 or message == "413"


@pytest.mark.parametrize("length", ["-1", "1e3", "+5", "5_0", "٣", "", "9" * 30, "1000"])
def test_header_length_must_be_one(client, length):
    headers = {"Inference-Header-Content-Length": length.encode().decode("latin-1")}
    answer = client.post("/v2/models/toy/infer", data=b"{}", headers=headers)
    assert answer.status_code == 400
    assert "must be the length of the JSON, at most 2, got" in answer.get_json()["error"]


@pytest.mark.parametrize(
    ("encoding", "body", "status", "message"),
    [
        ("br", b"x", 415, "must be gzip or deflate, got 'br'"),
        ("gzip", b"{}", 400, "The body is not gzip"),
        ("deflate", gzip.compress(b"{}"), 400, "The body is not deflate"),
        ("gzip", gzip.compress(b"{}" * 50)[:-1], 400, "not one whole gzip stream"),
        ("gzip", gzip.compress(b"{}") + b"x", 400, "not one whole gzip stream"),
        ("gzip", gzip.compress(b" " * 10**8), 413, "larger than 0.1 MiB"),
    ],
    ids=["unknown", "not packed", "other", "cut off", "more behind", "too large"],
)
def test_packed_body_is_bounded_and_whole(kinds, encoding, body, status, message):
    answer = kinds.post("/v2/models/toy/infer", data=body, headers={"Content-Encoding": encoding})
    assert (answer.status_code, answer.get_json().keys()) == (status, {"error"})
    assert message in answer.get_json()["error"]


def test_every_error_under_v2_has_the_protocols_shape(kinds, monkeypatch):
    rows = [tensor("age", "INT8", [1] * 101)]
    calls = [
        (404, kinds.get("/v2/nowhere")), (404, kinds.get("/v2/")), (404, kinds.get("/v2/models/other")),
        (404, kinds.post("/v2/models/other/infer")), (404, kinds.get("/v2/models/toy/versions/2/ready")),
        (405, kinds.get("/v2/models/toy/infer")), (405, kinds.post("/v2")),
        (413, kinds.post("/v2/models/toy/infer", data=b" " * 200_000)), (413, infer(kinds, rows)),
        (400, kinds.post("/v2/models/toy/infer")), (400, kinds.post("/v2/models/toy/infer", data=b'{"\\ud800": 1}')),
    ]  # fmt: skip
    monkeypatch.setattr(live_model(kinds.application).predictor, "predict", lambda table: 1 / 0)
    calls.append((500, infer(kinds, COLUMNS)))
    monkeypatch.setattr(live_model(kinds.application), "state", ServingState(problem=None))
    calls += [(503, kinds.get(p)) for p in ("/v2/health/ready", "/v2/models/toy", "/v2/models/toy/ready")]
    calls.append((503, infer(kinds, COLUMNS)))
    for status, answer in calls:
        assert (answer.status_code, answer.get_json().keys()) == (status, {"error"}), answer.get_json()
    assert kinds.get("/nowhere").get_json().keys() == {"error", "code"}
    assert kinds.get("/v2/health/live").status_code == 200
    assert kinds.get("/v2").status_code == 200


# Attacked

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.sampled_from(["own", "INT8", "FP64", "BYTES"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "a"]), inner, max_size=2),
    max_leaves=6,
)
PARTS = {
    "name": st.sampled_from(["age", "income", "member", "home", "id", "x"]),
    "datatype": st.sampled_from(["BOOL", "INT8", "UINT64", "FP16", "FP64", "BYTES"]),
    "shape": st.lists(st.integers(-1, 4), max_size=3) | st.just([2]) | st.just([1, 4]),
    "data": st.lists(JSON, max_size=4),
    "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 20) | JSON}),
}
INPUT = st.fixed_dictionaries({}, optional={key: value | JSON for key, value in PARTS.items()}) | st.sampled_from(
    COLUMNS
)
BODY = st.fixed_dictionaries(
    {"inputs": st.lists(INPUT | st.fixed_dictionaries(PARTS), max_size=5) | JSON},
    optional={"outputs": JSON, "parameters": JSON, "id": JSON},
)


@pytest.mark.slow
@given(body=BODY, binary=st.binary(max_size=24), off=st.sampled_from([0, 0, 0, 1, -1]))
def test_whatever_is_sent_is_answered_or_refused(kinds, body, binary, off):
    head = json.dumps(body).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) + off)}
    answer = kinds.post("/v2/models/toy/infer", data=head + binary, headers=headers)
    assert answer.status_code in (200, 400, 413)
    assert answer.status_code == 200 or answer.get_json().keys() == {"error"}


@pytest.mark.slow
@given(rows=st.lists(
    st.tuples(st.integers(0, 127), st.floats(width=32), st.booleans(), st.text(max_size=3)), min_size=1, max_size=4
))  # fmt: skip
def test_bytes_and_json_and_predict_say_the_same(kinds, rows):
    n, columns = len(rows), [list(column) for column in zip(*rows, strict=True)]
    kinds_of = {"age": "INT8", "income": "FP32", "member": "BOOL", "home": "BYTES"}
    as_json = [tensor(name, kind, c) for (name, kind), c in zip(kinds_of.items(), columns, strict=True)]
    texts = [text.encode() for text in columns[3]]
    parts = [
        np.array(columns[0], "i1").tobytes(), np.array(columns[1], "<f4").tobytes(), np.array(columns[2]).tobytes(),
        b"".join(struct.pack("<I", len(text)) + text for text in texts),
    ]  # fmt: skip
    in_binary = [sized(name, kind, [n], len(part)) for (name, kind), part in zip(kinds_of.items(), parts, strict=True)]
    one, two = infer(kinds, as_json), in_bytes(kinds, in_binary, b"".join(parts))
    body = json.dumps({"features": rows, "probability": True})
    three = kinds.post("/predict", data=body, content_type="application/json")
    assert one.status_code == two.status_code == three.status_code
    assert one.get_json() == two.get_json()
    if one.status_code == 200:
        assert one.get_json()["outputs"][0]["data"] == three.get_json()["prediction"]
    else:
        assert one.get_json()["error"] == three.get_json()["error"]
