"""Other protocols for the same predictions: MLflow's and KServe's first."""

import json
from io import BytesIO

import pandas as pd
import pytest

from mlops_nb import __version__
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app

ROWS = [[41, 1200.5, "own"], [23, None, "rent"]]
NAMES = ["age", "income", "home"]
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
FRAME = pd.DataFrame(ROWS, columns=NAMES)


@pytest.fixture(scope="module")
def expected(mixed):
    return mixed.post("/predict", json={"features": ROWS}).get_json()["prediction"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": NAMES, "data": ROWS}},
        {"dataframe_split": {"columns": NAMES[::-1], "data": [row[::-1] for row in ROWS], "index": [7, 9]}},
        {"dataframe_split": {"data": ROWS}},
        {"dataframe_split": FRAME.astype(object).where(FRAME.notna(), None).to_dict("split")},
        {"dataframe_records": RECORDS},
        {"instances": ROWS},
        {"instances": RECORDS, "params": {}},
        {"inputs": ROWS},
        {"inputs": {name: [row[i] for row in ROWS] for i, name in enumerate(NAMES)}},
    ],
)
def test_invocations_takes_what_mlflow_clients_send(mixed, expected, body):
    answer = mixed.post("/invocations", json=body)
    assert (answer.status_code, answer.get_json()) == (200, {"predictions": expected})


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/json;"])
@pytest.mark.parametrize("params", [None, {}])
@pytest.mark.parametrize(
    "table",
    [
        {"dataframe_split": FRAME.to_dict(orient="split")},
        {"dataframe_split": FRAME.set_index([[7, 9]]).to_dict(orient="split")},
        {"dataframe_records": FRAME.to_dict(orient="records")},
        {"inputs": FRAME.astype(object).to_numpy().tolist()},
        {"inputs": {name: FRAME[name].to_numpy().tolist() for name in NAMES}},
        {"instances": FRAME.to_dict(orient="records")},
    ],
)
def test_bodies_as_mlflow_s_own_client_writes_them_get_the_answer_that_it_reads(mixed, expected, table, params, kind):
    body = json.dumps(table if params is None else table | {"params": params})  # with NaN, as Python writes it
    answer = mixed.post("/invocations", data=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.mimetype) == (200, "application/json"), answer.get_json()
    assert json.loads(answer.text).keys() == {"predictions"}
    assert pd.DataFrame(answer.get_json()["predictions"])[0].tolist() == expected


def post_csv(client, body, kind="text/csv", **headers):
    return client.post("/invocations", data=body, headers={"Content-Type": kind, **headers})


@pytest.mark.parametrize("kind", ["text/csv", "text/csv; charset=utf-8", "text/csv; charset=UTF-8; header=present"])
@pytest.mark.parametrize(
    "body",
    [
        FRAME.to_csv(index=False),
        "\ufeff" + FRAME[NAMES[::-1]].to_csv(index=False, lineterminator="\r\n"),
        FRAME.to_csv(index=False, quoting=1) + "\n\n",
        "age,income,home\n41,1.2005e3,own\n23.0,NaN,rent",
    ],
)
def test_csv_gets_what_the_same_rows_get_as_json(mixed, expected, body, kind):
    answer = post_csv(mixed, body.encode(), kind)
    assert (answer.status_code, answer.get_json()) == (200, {"predictions": expected})


def test_csv_may_have_no_header_or_blanks_around_its_names(mixed, expected):
    rows = FRAME.to_csv(index=False, header=False)
    assert post_csv(mixed, rows, "text/csv; header=absent").get_json()["predictions"] == expected
    blanks = FRAME.rename(columns=lambda name: f" {name}  ").to_csv(index=False)
    assert post_csv(mixed, blanks).get_json()["predictions"] == expected
    answer = post_csv(mixed, "1\n", "text/csv; header=absent")
    assert (answer.status_code, f"the model has {len(NAMES)} columns" in answer.get_json()["error"]) == (400, True)
    assert post_csv(mixed, "", "text/csv; header=absent").status_code == 400
    answer = post_csv(mixed, rows, "text/csv; header=no")
    assert (answer.status_code, "must be present or absent, got 'no'" in answer.get_json()["error"]) == (415, True)


def test_csv_may_leave_out_an_optional_column(mixed, expected):
    assert post_csv(mixed, FRAME.drop(columns="income").to_csv(index=False)).get_json()["predictions"] == expected


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"", "bad_request", "The body is empty; send a line with the names of the columns"),
        (b"\n\n", "bad_request", "The body is empty"),
        (b"age,income,home\n", "bad_input", "has no rows"),
        (FRAME.to_csv().encode(), "bad_request", "must name each column once. (pandas: to_csv(index=False))"),
        (b"age,age,home\n1,1,own", "bad_request", "must name each column once"),
        (b"age,home\n1,own\n1", "bad_request", "Row 1 has 1 values; the first line names 2"),
        (b"age,hom\n1,own", "bad_input", "Row 0 has an unknown column 'hom'"),
        (b"age\n1", "bad_input", "Row 0: column 'home' is missing"),
        (b"age,home\n1,own\nold,own", "bad_input", "Row 1, column 'age': expected a whole number, got 'old'"),
        (b"age,home\n1_0,own", "bad_input", "Row 0, column 'age': expected a whole number, got '1_0'"),
        (b"age,home\n1.5,own", "bad_input", "Row 0, column 'age': expected a whole number, got 1.5"),
        (b"age,home\n121,own", "bad_input", "Row 0, column 'age': expected a number of at least 0 and at most 120"),
        (b"age,home\n,own", "bad_input", "Row 0, column 'age': expected a whole number, got null"),
        (b"age,home\n" + b"9" * 5000 + b",own", "bad_input", "Row 0, column 'age': expected a finite number"),
        (b"age,home\n1,boat", "bad_input", "Row 0, column 'home': expected one of ['own', 'rent'], got 'boat'"),
        (b"age,home\n1,", "bad_input", "Row 0, column 'home': expected a string, got null"),
        (b"age,income,home\n1,inf,own", "bad_input", "Row 0, column 'income': expected a finite number"),
        (b'age,home\n1,"own', "bad_request", "The body is not CSV: unexpected end of data"),
        (b"age,home\n1,\xff", "bad_request", "The body is not CSV: 'utf-8' codec can't decode"),
        (b"age,home\n" + b"1,own\n" * 101 + b"broken", "too_many_rows", "The table has more than 100 rows"),
    ],
)
def test_csv_that_does_not_fit_is_named_in_the_one_error_shape(mixed, body, code, message):
    answer = post_csv(mixed, body)
    assert answer.status_code in (400, 413)
    assert answer.get_json()["code"] == code
    assert message in answer.get_json()["error"]


def test_csv_that_ends_inside_quotes_names_the_line_where_they_open(mixed):
    body = FRAME.to_csv(index=False) + '"' + FRAME.to_csv(index=False, header=False)
    answer = post_csv(mixed, body)
    assert answer.status_code == 400
    assert f"line {len(FRAME) + 2} opens a quote that is never closed" in answer.get_json()["error"]


@pytest.mark.parametrize("header", ["", ","])
def test_csv_may_have_a_separator_behind_each_row(mixed, expected, header):
    first, *rows = FRAME.to_csv(index=False).splitlines()
    body = "\n".join([first + header, *(f"{row}," for row in rows)])
    assert post_csv(mixed, body).get_json()["predictions"] == expected
    answer = post_csv(mixed, body + "lost")
    assert answer.status_code == 400


def test_csv_without_a_header_is_told_so(mixed):
    answer = post_csv(mixed, "\n".join(FRAME.to_csv(index=False).splitlines()[1:] * 2))
    assert answer.status_code == 400
    assert "The first line looks like the others; it must name the columns, or" in answer.get_json()["error"]


def test_csv_in_another_charset_is_refused(mixed):
    answer = post_csv(mixed, FRAME.to_csv(index=False), "text/csv; charset=latin-1")
    assert (answer.status_code, answer.get_json()["code"]) == (415, "unsupported_media_type")


def test_values_of_csv_are_what_the_columns_say_and_no_guess(homes):
    from mlops_nb.model.signature import Input, Signature
    from mlops_nb.serving.protocols.mlflow import _read_csv

    inputs = Input("code", "string"), Input("ok", "bool"), Input("day", "datetime"), Input("n")
    app = create_app(Settings.read({"MLOPS_HOME": str(homes["mixed"]), "MLOPS_MODEL": "toy"}))
    body = b"code,ok,day,n,other\n007,True,2024-05-31,1,1\n1e3,false,x,0x1,\nNA,maybe,,-.5,x"
    with app.test_request_context(
        "/invocations", method="POST", input_stream=BytesIO(body), content_type="text/csv"
    ) as c:
        c.request.environ["CONTENT_LENGTH"] = str(len(body))
        rows = [list(row.values()) for row in _read_csv(Signature(inputs, "regression", "y", ignored=("other",)))]
    assert rows == [
        ["007", True, "2024-05-31", 1, "1"], ["1e3", False, "x", "0x1", None], ["NA", "maybe", None, -0.5, "x"],
    ]  # fmt: skip


@pytest.mark.parametrize("body", [{"inputs": ROWS}, {"instances": ROWS}, {"dataframe_split": {"data": ROWS}}])
def test_rows_without_names_are_taken_where_the_signature_has_names(mixed, expected, body):
    assert mixed.post("/invocations", json=body).get_json() == {"predictions": expected}


@pytest.mark.parametrize("body", [
    {"inputs": [[None, 1.0, "own"]]}, {"dataframe_split": {"columns": NAMES, "data": [[None, 1.0, "own"]]}},
    {"dataframe_records": [{"age": None, "home": "own"}]}, {"inputs": {"age": [None], "home": ["own"]}},
])  # fmt: skip
def test_a_null_is_named_by_row_and_column_and_by_nothing_else(mixed, body):
    payload = mixed.post("/invocations", json=body).get_json()
    message = "Row 0, column 'age': expected a whole number, got null."
    assert payload == {"error": message, "code": "bad_input", "row": 0, "column": "age"}


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({}, "bad_request", "must have one of dataframe_split, .*, got none of them"),
        ({"instances": ROWS, "inputs": ROWS}, "bad_request", "got 'instances' and 'inputs'"),
        ({"dataframe_splitt": 1}, "bad_request", "unknown key 'dataframe_splitt'. Did you mean 'dataframe_split'"),
        ({"instances": ROWS, "params": {"a": 1}}, "bad_request", "'params' has an unknown key 'a'"),
        ({"instances": ROWS, "params": False}, "bad_request", "'params' must be an object"),
        ({"dataframe_split": [1]}, "bad_request", "must be an object with 'data'"),
        ({"dataframe_split": {"columns": ["age"], "data": ROWS}}, "bad_request", "Row 0 must be a list of 1 values"),
        ({"dataframe_split": {"columns": ["a", "a"], "data": ROWS}}, "bad_request", "list of different names"),
        ({"dataframe_split": {"columns": [[1]], "data": ROWS}}, "bad_request", "list of different names"),
        ({"dataframe_split": {"columns": ["ages"], "data": [[1]]}}, "bad_input", "unknown column 'ages'"),
        ({"dataframe_records": [{"age": None}]}, "bad_input", "column 'home' is missing"),
        ({"inputs": {"age": [1], "home": ["own", "own"]}}, "bad_request", "must have one length"),
        ({"inputs": {}}, "bad_request", "must have one length and be at least one"),
        ({"instances": [[None, 1.0, "own"]]}, "bad_input", "Row 0, column 'age': expected a whole number, got null"),
        ({"instances": 3}, "bad_input", "must be a list of rows"),
        ({"instances": [ROWS[0]] * 101}, "too_many_rows", "'instances' has 101 rows; at most 100"),
    ],
)
def test_what_does_not_fit_invocations_is_said_in_the_one_error_shape(mixed, body, code, message):
    import re

    answer = mixed.post("/invocations", json=body)
    payload = answer.get_json()
    assert answer.status_code in (400, 413)
    assert payload["code"] == code
    assert re.search(message, payload["error"]), payload["error"]


def test_kserve_clients_get_names_readiness_and_predictions(mixed, expected):
    assert mixed.get("/v1/models").get_json() == {"models": ["toy"]}
    assert mixed.get("/v1/models/toy").get_json() == {"name": "toy", "ready": True}
    for instances in (ROWS, RECORDS):
        answer = mixed.post("/v1/models/toy:predict", json={"instances": instances, "signature_name": "x"})
        assert (answer.status_code, answer.get_json()) == (200, {"predictions": expected})


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"", 400, "bad_request", "The body is not JSON: the body is empty"),
        (b"[]", 400, "bad_request", 'must be a JSON object; send {"instances": [[...], ...]}'),
        (b"{}", 400, "bad_request", "The body has no 'instances'"),
        (b'{"instance": []}', 400, "bad_request", "unknown key 'instance'. Did you mean 'instances'"),
        (b'{"instances": []}', 400, "bad_input", "has no rows; send at least one"),
        (b'{"instances": [[41, 1]]}', 400, "bad_input", "Row 0 has 2 values; the model takes 3"),
        (b'{"instances": [[41, null, null]]}', 400, "bad_input", "Row 0, column 'home': expected a string, got null"),
        (b'{"instances": [%s]}' % b",".join([b"[1]"] * 101), 413, "too_many_rows", "has 101 rows; at most 100"),
        (b'{"instances": [[%s, 1]]}' % (b"9" * 5000), 400, "bad_input", "Row 0"),
    ],
)
def test_what_does_not_fit_kserve_s_protocol_is_said_in_the_one_error_shape(mixed, body, status, code, message):
    answer = mixed.post("/v1/models/toy:predict", data=body, content_type="application/json")
    assert (answer.status_code, answer.get_json()["code"]) == (status, code)
    assert message in answer.get_json()["error"]


@pytest.mark.parametrize(("method", "path"), [("get", "/v1/models/other"), ("post", "/v1/models/other:predict")])
def test_other_model_is_not_found(mixed, method, path):
    answer = getattr(mixed, method)(path, json={"instances": ROWS})
    assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")
    assert "There is no model 'other' here. There is: 'toy'." in answer.get_json()["error"]


def test_probe_says_whether_there_is_a_model(mixed, settings, tmp_path):
    assert [mixed.get(path).status_code for path in ("/ping", "/health")] == [200, 200]
    app = create_app(settings)
    answers = [app.test_client().get(path) for path in ("/ping", "/health", "/v1/models/toy")]
    answers += [
        app.test_client().post("/invocations", json={}),
        app.test_client().post("/v1/models/toy:predict", json={}),
    ]
    app.stop()
    assert [(a.status_code, a.get_json()["code"]) for a in answers] == [(503, "no_model")] * 5


def test_version_is_that_of_the_software_as_text(mixed):
    answer = mixed.get("/version")
    assert (answer.status_code, answer.mimetype, answer.text) == (200, "text/plain", __version__)


def test_address_to_predict_is_only_for_that(mixed):
    assert mixed.options("/v1/models/toy:predict").allow == {"POST", "OPTIONS"}
    answer = mixed.get("/v1/models/toy:predict")
    assert (answer.status_code, answer.allow) == (405, {"POST", "OPTIONS"})


@pytest.mark.parametrize("path", ["//predict", "/predict//", "/health//live"])
def test_address_with_two_slashes_is_not_found(mixed, path):
    answer = mixed.post(path, json={"features": ROWS})
    assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")


def test_defect_leaves_its_place_in_the_log_and_nothing_of_the_client(mixed, monkeypatch, capfd):
    predictor = live_model(mixed.application).predictor

    def broken(table):
        raise RuntimeError(f"cannot cope with {table}")

    monkeypatch.setattr(predictor, "predict", broken)
    answer = mixed.post("/predict", json={"features": [[41, 77777.5, "own"]]})
    log = capfd.readouterr().err
    assert answer.status_code == 500
    assert "77777" not in answer.get_data(as_text=True)
    assert "in broken" in log
    assert "RuntimeError" in log
    assert "77777" not in log


@pytest.mark.slow
def test_body_in_pieces_is_taken_and_a_body_that_ends_early_is_refused(service):
    import socket

    body = b'{"features": [[1, 0]]}'
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    chunks = [b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:5], body[5:])] + [b"0\r\n\r\n"]
    for framing, pieces in ((b"Content-Length: 22", [body[:5], body[5:]]), (b"Transfer-Encoding: chunked", chunks)):
        for sent, status in ((pieces, b"200"), (pieces[:1], b"400")):
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                for piece in (head + framing + b"\r\n\r\n", *sent):
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda open=connection: open.recv(65536), b""))
            assert answer.split(b" ", 2)[1] == status, answer
            assert status == b"200" or b'"error":' in answer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", '{"features": [{"age": 1, "age": 2, "income": 3, "home": "own"}]}'),
        ("/predict", '{"features": [[1, 2, "own"]], "age": 1, "age": 2}'),
        ("/predict", '{"features": [{"age": 1, "\\u0061ge": 2, "income": 3, "home": "own"}]}'),
        ("/invocations", '{"dataframe_records": [{"age": 1, "age": 2, "income": 3, "home": "own"}]}'),
        ("/invocations", '{"inputs": {"age": [1], "age": [2], "income": [3], "home": ["own"]}}'),
        ("/v1/models/{}:predict", '{"instances": [{"age": 1, "age": 2, "income": 3, "home": "own"}]}'),
        ("/v2/models/{}/infer", '{"inputs": [{"name": "age", "shape": [1], "datatype": "FP64", "age": 1, "age": 2}]}'),
        ("/feedback", '{"labels": {"age": 1, "age": 2}}'),
    ],
)
def test_a_key_that_is_twice_in_an_object_is_refused(mixed, path, body):
    name = live_model(mixed.application).name
    response = mixed.post(path.format(name), data=body, content_type="application/json")
    assert response.status_code == 400
    assert response.get_json()["error"] == "The body has the key 'age' twice in one object; send each key once."
