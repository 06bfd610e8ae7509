"""A service of a model with several outputs: every protocol has each of them under its name."""

import numpy as np
import orjson
import pyarrow
import pytest
from jsonschema import Draft202012Validator
from pyarrow import ipc

from mlops_nb.model.signature import column_of
from mlops_nb.monitor.health import measure_health
from mlops_nb.monitor.recheck import recheck
from mlops_nb.serving.protocols.arrow import ARROW
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.spec import Gates
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import logged, served, several_outputs

NAMES = ("late", "a of b", 'é "x"')


def serve(spec, home):
    """An application of the model of a spec, its training rows and its predictor."""
    (home / "settings.ini").touch()
    _, X, predictor = served(spec, home)
    settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "several", "MLOPS_POLL_SECONDS": "0.1"})
    registry = Registry.open(settings)
    registry.register(predictor.bundle)
    registry.promote("several", 1)
    registry.close()
    app = create_app(settings)
    live_model(app).refresh()
    return app, X, predictor


@pytest.fixture(scope="module", params=["labels", "numbers"])
def service(request, tmp_path_factory):
    spec = several_outputs(NAMES, (bool, str, int) if request.param == "labels" else (float,) * 3)
    app, X, predictor = serve(spec, tmp_path_factory.mktemp(request.param))
    yield app, spec, X, predictor
    app.stop()


def valid(client, path, body, status=200):
    """The response, after body and response were found to be as the description says."""
    description = client.get("/openapi.json").get_json()
    route = description["paths"][path]["post"]
    response = client.post(path, json=body)
    assert response.status_code == status, response.get_data(as_text=True)
    for holder, content in ((route["requestBody"], body), (route["responses"][str(status)], response.get_json())):
        schema = holder["content"]["application/json"]["schema"] | {"components": description["components"]}
        Draft202012Validator(schema).validate(content)
    return response.get_json()


@pytest.mark.slow
def test_predict_has_an_object_a_row(service):
    app, _, X, predictor = service
    client, rows = app.test_client(), X.head(5).to_dict("records")
    expected = predictor.predict_rows(rows)
    plain = valid(client, "/predict", {"features": rows})
    assert plain["prediction"] == orjson.loads(orjson.dumps(expected.prediction.tolist()))
    assert [*plain["prediction"][0]] == [*NAMES]
    by_row = valid(client, "/predict", {"features": [*rows, {"x": "?", "home": "own"}], "on_error": "row"})
    assert by_row["prediction"] == [*plain["prediction"], None]
    refused = client.post("/predict", json={"features": rows, "explain": True})
    assert (refused.status_code, "leave 'explain' out" in refused.get_json()["error"]) == (400, True)
    if not predictor.signature.probability:
        assert client.post("/predict", json={"features": rows, "probability": True}).status_code == 400
        return
    listed = valid(client, "/predict", {"features": rows, "probability": True})
    assert listed["classes"] == {"late": [False, True], "a of b": ["maybe", "no", "yes"], 'é "x"': [0, 1]}
    named = valid(client, "/predict", {"features": rows, "probability": "named"})
    for one, other, row in zip(listed["probability"], named["probability"], expected.probability, strict=True):
        assert one == row
        assert [[*by_class.values()] for by_class in other.values()] == [*one.values()]
        assert [*other["a of b"]] == ["maybe", "no", "yes"]


@pytest.mark.slow
def test_other_protocols_have_each_output(service):
    app, _, X, predictor = service
    client, rows = app.test_client(), X.head(3).to_dict("records")
    parts = predictor.predict_rows(rows).outputs
    records = [
        dict(zip(parts, row, strict=True)) for row in zip(*(p.prediction.tolist() for p in parts.values()), strict=True)
    ]
    assert valid(client, "/invocations", {"dataframe_records": rows})["predictions"] == records
    assert valid(client, "/v1/models/several:predict", {"instances": rows})["predictions"] == records
    tensors = [
        {"name": "x", "datatype": "FP64", "shape": [3], "data": X["x"].head(3).tolist()},
        {"name": "home", "datatype": "BYTES", "shape": [3], "data": X["home"].head(3).tolist()},
    ]
    outputs = valid(client, "/v2/models/several/infer", {"inputs": tensors})["outputs"]
    found = {output["name"]: output for output in outputs}
    metadata = client.get("/v2/models/several").get_json()["outputs"]
    assert [o["name"] for o in metadata if o["name"] != "id"] == [*found]
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, (table := pyarrow.Table.from_pandas(X.head(3), preserve_index=False)).schema) as stream:
        stream.write_table(table)
    response = client.post("/predict", data=sink.getvalue().to_pybytes(), headers={"Accept": ARROW}, content_type=ARROW)
    answered = ipc.open_stream(response.data).read_all()
    for name, part in parts.items():
        column = column_of(name, "prediction")
        assert found[column]["data"] == answered[column].to_pylist() == part.prediction.tolist()
        if part.probability is not None:
            assert np.allclose(found[column_of(name, "probability")]["data"], part.probability.ravel())
            last = column_of(name, f"probability_{orjson.dumps(part.classes[-1]).decode().strip(chr(34))}")
            assert np.allclose(answered[last].to_pylist(), part.probability[:, -1])
    one = valid(client, "/v2/models/several/infer", {"inputs": tensors, "outputs": [{"name": "prediction_late"}]})
    assert [output["name"] for output in one["outputs"]] == ["prediction_late"]


@pytest.mark.slow
def test_labels_of_all_outputs_are_measured_output_by_output(service):
    app, spec, X, predictor = service
    client, rows = app.test_client(), X.head(200)
    truth = spec.load()[spec.target].head(200).astype(object).to_dict("records")
    ids = valid(client, "/predict", {"features": rows.to_dict("records")})["ids"]
    labels = [{"id": id, "label": label} for id, label in zip(ids, truth, strict=True)]
    assert valid(client, "/feedback", {"labels": labels}, 202) == {"accepted": 200}
    for wrong in (True, {"late": truth[0]["late"]}, truth[0] | {"more": 1}, truth[0] | {"late": None}):
        refused = client.post("/feedback", json={"id": ids[0], "label": wrong})
        assert refused.status_code == 400
        assert "Label 0" in refused.get_json()["error"]
    window = logged(app)
    assert window.predictions.loc[ids[0], "label"] == truth[0]
    labelled = window.predictions["label"].notna()
    scorer = spec.scorer
    gated = several_outputs(NAMES, (bool, str, int) if scorer == "accuracy" else (float,) * 3)
    gated = type(gated)(**{**vars(gated), "gates": Gates(minimum={scorer: 0.2, f"{scorer} of late": 0.99})})
    report = measure_health(predictor.bundle, 1, window, 100, spec=gated)
    found = {r.metric: r for r in report.performance.results if r.slice == "all"}
    assert [*found] == [scorer, *(f"{scorer} of {name}" for name in NAMES)]
    assert report.performance.rows == labelled.sum() == 200
    assert found[scorer].value == pytest.approx(np.mean([found[f"{scorer} of {name}"].value for name in NAMES]))
    assert all(r.low <= r.value <= r.high for r in found.values())
    subjects = {c.name for c in report.drift.columns if c.role == "prediction"}
    assert subjects == {f"prediction of {name}" for name in NAMES}
    assert not [f for f in report.findings if f.kind == "drift"]
    again = recheck(predictor.bundle, window)
    assert not again.findings
    shifted = window.predictions.assign(prediction=[truth[0]] * len(window))
    drifted = measure_health(predictor.bundle, 1, type(window)(shifted, window.inputs), 100, spec=spec)
    assert {f.subject for f in drifted.findings if f.kind == "drift"} >= {"prediction of late", "prediction of a of b"}
    assert client.get("/dashboard/data.json").status_code == 200
    counted = client.get("/metrics").get_data(as_text=True)
    assert ('class="late: true"' if spec.task == "classification" else 'class="late"') in counted


@pytest.mark.slow
def test_outputs_whose_columns_collide_are_refused_as_a_table_alone(tmp_path):
    table = several_outputs(("l", "l_b"), (str, str)).load()
    table = table.assign(l=table["l"].replace("maybe", "b_no"))
    app, X, _ = serve(several_outputs(("l", "l_b"), (str, str), load=lambda: table), tmp_path)
    client, rows = app.test_client(), X.head(2).to_dict("records")
    body = {"features": rows, "probability": True}
    refused = client.post("/predict", json=body, headers={"Accept": ARROW})
    assert (refused.status_code, "'probability_l_b_no'" in refused.get_json()["error"]) == (400, True)
    assert "rename a target, or accept JSON" in refused.get_json()["error"]
    assert not len(logged(app)), "before anything is predicted"
    probability = valid(client, "/predict", body)["probability"]
    assert [[*of] for of in probability] == [["l", "l_b"]] * 2
    tensors = [{"name": n, "datatype": d, "shape": [2], "data": X[n].head(2).tolist()} for n, d in INPUTS]
    outputs = valid(client, "/v2/models/several/infer", {"inputs": tensors})["outputs"]
    assert [o["name"] for o in outputs] == ["prediction_l", "probability_l", "prediction_l_b", "probability_l_b"]
    app.stop()


INPUTS = (("x", "FP64"), ("home", "BYTES"))
