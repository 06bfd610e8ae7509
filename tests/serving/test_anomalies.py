"""An anomaly detector in production: each protocol, log, labels, monitor, batch job, explanation, replay, dashboard."""

from io import BytesIO

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlops_nb.audit.explain import explain
from mlops_nb.audit.investigate import errors_of
from mlops_nb.audit.replay import replay_log
from mlops_nb.batch.jobs import predict_batch
from mlops_nb.batch.requests import BatchRequest
from mlops_nb.errors import BatchError
from mlops_nb.model.anomaly import truth_of
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.columns import input_frame
from mlops_nb.model.evaluate import evaluate
from mlops_nb.model.signature import signature_of
from mlops_nb.model.train import fit
from mlops_nb.monitor.health import monitor
from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.notebook.production import logged_predictions, predict_labelled, wrong_predictions
from mlops_nb.retrain.dataset import labelled_rows
from mlops_nb.serving.http.moves import DASHBOARD_DATA
from mlops_nb.serving.protocols.arrow import ARROW
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.spec import load_spec
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import anomalies, logged

SPEC = """
import pandera.pandas as pa
from sklearn.ensemble import IsolationForest

from mlops_nb.spec import Gates, ModelSpec
from tests.factories import anomalies

columns = {"x": pa.Column(float), "y": pa.Column(float), "site": pa.Column(int)}
spec = ModelSpec(
    name="toy",
    load=anomalies,
    target=TARGET,
    schema=pa.DataFrameSchema(columns | ({TARGET: pa.Column(int)} if TARGET else {})),
    make_estimator=lambda params: IsolationForest(n_estimators=20, **params),
    task="anomaly",
    gates=Gates(alarm_rate=(0.01, 0.3)),
    SCORER
)
"""
INPUTS = ["x", "y", "site"]
FAR = {"x": 9.0, "y": -9.0, "site": 0}
NEAR = {"x": 0.1, "y": 0.2, "site": 0}


def version(folder, spec, module: str, **params):
    rows = anomalies()
    training = fit(spec, input_frame(spec, rows), truth_of(spec, rows), params, folds=0)
    signature = signature_of(spec, training.estimator)
    found = training.estimator.decision_function(rows[INPUTS])
    predictions = signature.predictions(-found)
    evaluation = evaluate(spec, rows, truth_of(spec, rows), truth_of(spec, rows), predictions).to_dict()
    metadata = {"params": params, "code": {"spec": module}, "data": {}, "evaluation": evaluation, "seed": 0}
    return write_bundle(folder, "toy", training.estimator, signature, rows, rows, metadata)


@pytest.fixture(scope="module", params=["odd", None], ids=["labels", "no labels"])
def served(request, tmp_path_factory):
    """An application, and its settings; version 2 is a challenger."""
    home = tmp_path_factory.mktemp("anomalies")
    module = f"anomalies_{'labelled' if request.param else 'unlabelled'}"
    text = SPEC.replace("TARGET", repr(request.param)).replace("SCORER", 'scorer="roc_auc",' if request.param else "")
    (home / f"{module}.py").write_text(text)
    (home / "settings.ini").touch()
    settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy"})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        spec = load_spec(module)
        registry = Registry.open(settings)
        for n in (0.05, 0.2):
            registry.register(version(home / "bundle", spec, module, contamination=n))
        registry.promote("toy", 1)
        registry.close()
        app = create_app(settings)
        live_model(app).refresh()
        yield app, settings, spec
        app.stop()


@pytest.fixture
def client(served):
    return served[0].test_client()


@pytest.mark.slow
def test_row_has_its_score_and_its_flag_in_every_protocol(served, client):
    body = client.post("/predict", json={"features": [FAR, NEAR]}).get_json()
    scores = body["prediction"]
    assert body["anomaly"] == [True, False] == [score > 0 for score in scores]
    records = [{"prediction": score, "anomaly": score > 0} for score in scores]
    assert client.post("/invocations", json={"instances": [FAR, NEAR]}).get_json() == {"predictions": records}
    assert client.post("/v1/models/toy:predict", json={"instances": [FAR, NEAR]}).get_json() == {"predictions": records}
    tensors = [{"name": n, "shape": [2], "datatype": "FP64", "data": [FAR[n], NEAR[n]]} for n in ("x", "y")]
    tensors.append({"name": "site", "shape": [2], "datatype": "INT64", "data": [0, 0]})
    outputs = client.post("/v2/models/toy/infer", json={"inputs": tensors}).get_json()["outputs"]
    assert [(o["name"], o["datatype"], o["data"]) for o in outputs] == [
        ("prediction", "FP64", scores),
        ("anomaly", "BOOL", [True, False]),
    ]
    assert [o["name"] for o in client.get("/v2/models/toy").get_json()["outputs"]] == ["prediction", "anomaly", "id"]
    sink, table = BytesIO(), pa.Table.from_pylist([FAR, NEAR])
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    answer = client.post("/predict", data=sink.getvalue(), content_type=ARROW, headers={"Accept": ARROW})
    found = pa.ipc.open_stream(answer.data).read_all()
    assert (found["prediction"].to_pylist(), found["anomaly"].to_pylist()) == (scores, [True, False])


@pytest.mark.slow
def test_options_of_a_request_keep_flags_in_place(client):
    rows = [FAR, {"x": 1}, NEAR]
    body = client.post("/predict", json={"features": rows, "on_error": "row", "explain": True}).get_json()
    assert body["anomaly"] == [True, None, False]
    effects = {c["column"]: c["effect"] for c in body["explanations"][0]["contributions"]}
    assert effects["x"] > 0 < effects["y"]
    alone = client.post("/predict", json={"features": [{"x": 1}], "on_error": "row"}).get_json()
    assert (alone["prediction"], alone["anomaly"]) == ([None], [None])
    for option in ("probability", "interval"):
        answer = client.post("/predict", json={"features": [FAR], option: True})
        assert answer.status_code == 400
        assert f"leave '{option}' out" in answer.get_json()["error"]


def test_responses_are_as_described(client):
    described = client.get("/openapi.json").get_json()
    bodies = {"/predict": {"features": [FAR, NEAR]}, "/invocations": {"instances": [FAR]}}
    bodies["/v1/models/toy:predict"] = {"instances": [FAR]}
    for path, body in bodies.items():
        operation = described["paths"][path]["post"]
        parts = {"components": described["components"]}
        jsonschema.validate(body, operation["requestBody"]["content"]["application/json"]["schema"] | parts)
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(client.post(path, json=body).get_json(), schema | parts)


@pytest.mark.parametrize(("label", "status"), [(1, 202), (True, 202), (0, 202), (False, 202), (2, 400), ("1", 400)])
def test_label_is_0_or_1(client, label, status):
    ids = client.post("/predict", json={"features": [FAR]}).get_json()["ids"]
    answer = client.post("/feedback", json={"id": ids[0], "label": label})
    assert answer.status_code == status
    assert status == 202 or "expected 1 or true for an anomaly" in answer.get_json()["error"]


def send(app, rows: pd.DataFrame, labels: bool):
    body = {"features": rows[INPUTS].to_dict("records")}
    ids = app.test_client().post("/predict", json=body).get_json()["ids"]
    if labels:
        pairs = [{"id": i, "label": label} for i, label in zip(ids, rows["odd"].tolist(), strict=True)]
        assert app.test_client().post("/feedback", json={"labels": pairs}).status_code == 202
    logged(app)
    return ids


@pytest.mark.slow
def test_production_is_watched_explained_replayed_and_shown(served):
    app, settings, spec = served
    labels = spec.target is not None
    ids = send(app, anomalies(800, seed=1), labels)
    report = monitor("toy", settings, rows=800)
    assert report.findings == []
    assert ("alarms", "alarm rate") in report.evaluated
    assert report.status == "healthy", report.inconclusive
    assert {r.metric for r in report.performance.results} >= {"roc_auc"} if labels else report.performance is None
    explanation = explain(ids[0], settings)
    assert explanation.reproduced
    assert explanation.contributions
    replayed = replay_log("toy", 2, settings)
    assert replayed.changed_predictions > 0
    assert {*replayed.changes} == {"0 -> 1"}
    assert ("roc_auc" in replayed.metrics) == labels
    with_log = PredictionLog.open(settings)
    window = with_log.read("toy", 800)
    predictor = live_model(app).loaded()
    table = logged_predictions(predictor, window)
    assert (table["anomaly"] == (window.predictions["prediction"].astype(float) > 0)).all()
    assert len(wrong_predictions(table)) == (table["correct"].eq(False).sum() if labels else 0)
    assert "correct" in predict_labelled(predictor, anomalies()) or not labels
    if labels:
        assert errors_of(predictor.signature, window).mean() == table["correct"].eq(False).mean()
    rows = labelled_rows(spec, predictor.signature, with_log.rows("toy", 800))
    with_log.close()
    assert len(rows) == 800
    assert [*rows.table] == [*INPUTS, *(["odd"] if labels else [])]
    data = app.test_client().get(DASHBOARD_DATA).get_json()
    assert data["figures"]["predictions"]["series"].keys() == {"anomaly", "normal"}
    assert data["problem"] is None
    assert "anomaly" in app.test_client().get("/").text
    metrics = app.test_client().get("/metrics").text
    assert 'class="anomaly"' in metrics
    assert 'class="normal"' in metrics

    send(app, anomalies(800, seed=2).assign(x=7.0), labels=False)
    report = monitor("toy", settings, rows=800)
    subjects = {(f.kind, f.subject) for f in report.findings}
    assert {("alarms", "alarm rate"), ("drift", "prediction"), ("drift", "x")} <= subjects
    text = next(f.text for f in report.findings if f.kind == "alarms")
    assert "the limits are 1.00% and 30.00%" in text


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_batch_job_writes_score_and_flag(served, tmp_path, ending):
    _, settings, _ = served
    rows = anomalies(50, seed=3).assign(id=range(50))
    rows.to_csv(tmp_path / "in.csv", index=False)
    output = tmp_path / ("out.csv" if ending == "csv" else "out")
    predict_batch(BatchRequest("toy", str(tmp_path / "in.csv"), str(output), key=("id",)), settings=settings)
    found = pd.read_csv(output) if ending == "csv" else pd.read_parquet(output)
    found = found.sort_values("id")
    assert ((found["prediction"] > 0) == found["anomaly"]).all()
    assert found["anomaly"].any()
    assert not found["anomaly"].all()
    assert np.isfinite(found["prediction"]).all()


def test_batch_job_does_not_write_over_a_column_of_that_name(served, tmp_path):
    anomalies(50).rename(columns={"odd": "anomaly"}).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(BatchError, match="has a column 'anomaly', as the output has"):
        predict_batch(BatchRequest("toy", str(tmp_path / "in.csv"), str(tmp_path / "out.csv")), settings=served[1])
