"""A row for which the estimator raises: an error of this row alone, in every protocol; a defect stays a defect."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow
import pytest
from pyarrow import ipc
from sklearn.neighbors import RadiusNeighborsClassifier

from mlops_nb.batch.jobs import predict_batch
from mlops_nb.batch.requests import BatchRequest
from mlops_nb.model.bundle import write_bundle
from mlops_nb.serving.protocols.arrow import ARROW
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import NUMBERS, logged
from tests.serving.inference.test_batching import LONG, Held, gains  # noqa: F401 (a fixture)

NEAR, FAR = [1.0, 0.0], [50.0, 50.0]  # the second has no neighbour


@pytest.fixture(scope="module")
def radius_home(tmp_path_factory):
    """A home whose model raises a ValueError for rows without a neighbour."""
    home = tmp_path_factory.mktemp("radius")
    (home / "settings.ini").touch()
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 2)), columns=["a", "b"])
    estimator = RadiusNeighborsClassifier(3.0).fit(X, (X["a"] > X["b"]).astype(int))
    evaluation = {"metrics": {}, "baseline": {}, "gates": [], "passed": True}
    facts = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": evaluation}
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home)}))
    registry.register(write_bundle(home / "bundle", "toy", estimator, NUMBERS, X, X, facts))
    registry.promote("toy", 1)
    registry.close()
    return home


@pytest.fixture
def radius(radius_home, tmp_path):
    """Make an application of that model."""
    home, apps = shutil.copytree(radius_home, tmp_path / "home"), []

    def make(**more):
        apps.append(create_app(Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy", **more})))
        live_model(apps[-1]).refresh()
        return apps[-1]

    yield make
    for app in apps:
        app.stop()


def arrow(rows: list) -> bytes:
    table = pyarrow.table(dict(zip("ab", map(list, zip(*rows, strict=True)), strict=True)))
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def tensors(rows: list) -> dict:
    data = [value for row in rows for value in row]
    return {"inputs": [{"name": "rows", "shape": [len(rows), 2], "datatype": "FP64", "data": data}]}


PROTOCOLS = {
    "predict": lambda rows: ("/predict", {"json": {"features": rows}}),
    "named": lambda rows: ("/models/toy/predict", {"json": {"features": rows, "probability": "named"}}),
    "arrow": lambda rows: ("/predict", {"data": arrow(rows), "content_type": ARROW}),
    "mlflow": lambda rows: ("/invocations", {"json": {"instances": rows}}),
    "csv": lambda rows: (
        "/invocations",
        {"data": "a,b\n" + "\n".join(f"{a},{b}" for a, b in rows), "content_type": "text/csv"},
    ),
    "kserve": lambda rows: ("/v1/models/toy:predict", {"json": {"instances": rows}}),
    "v2": lambda rows: ("/v2/models/toy/infer", {"json": tensors(rows)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_row_is_refused_in_every_protocol_and_no_other(radius, protocol):
    app = radius()
    client = app.test_client()
    for rows, number in (([FAR], 0), ([NEAR, FAR, NEAR, FAR], 1)):
        path, request = PROTOCOLS[protocol](rows)
        response = client.post(path, **request)
        assert response.status_code == 400, response.text
        assert f"Row {number}: the estimator cannot predict it (it raised ValueError)." in response.get_json()["error"]
        assert "neighbors" not in response.text, "its message may have a path or a row of the training table"
    path, request = PROTOCOLS[protocol]([NEAR, NEAR])
    assert client.post(path, **request).status_code == 200
    assert len(logged(app).predictions) == 2


@pytest.mark.slow
def test_by_row_each_other_row_is_predicted(radius):
    rows = [NEAR, FAR, [1, "x"], NEAR, FAR]
    response = radius().test_client().post("/predict", json={"features": rows, "on_error": "row", "probability": True})
    assert response.status_code == 200
    body = response.get_json()
    assert [value is None for value in body["prediction"]] == [False, True, True, False, True]
    assert [(e["row"], e["code"]) for e in body["errors"]] == [(1, "bad_input"), (2, "bad_input"), (4, "bad_input")]
    alone = radius().test_client().post("/predict", json={"features": [FAR], "on_error": "row"})
    assert alone.get_json()["prediction"] == [None]


@pytest.mark.slow
def test_job_rejects_the_row(radius, tmp_path):
    settings = radius().extensions["settings"]
    pd.DataFrame([NEAR, FAR, NEAR], columns=["a", "b"]).to_csv(tmp_path / "in.csv", index=False)
    request = BatchRequest("toy", str(tmp_path / "in.csv"), str(tmp_path / "out.csv"))
    job = predict_batch(request, max_rejects=1.0, settings=settings)
    assert (job.rows, job.rejected) == (2, 1)
    [rejects] = tmp_path.glob("out.csv.rejects*")
    assert "the estimator cannot predict it" in rejects.read_text()


@pytest.mark.parametrize("error", [MemoryError, OSError, ZeroDivisionError])
def test_defect_stays_a_defect(radius, monkeypatch, capfd, error):
    app = radius(MLOPS_BATCH_MS="0")
    predictor = live_model(app).predictor

    def fail(table):
        raise error("of everything")

    monkeypatch.setattr(predictor.engine, "predict", fail)
    for body in ({"features": [NEAR, FAR]}, {"features": [NEAR, FAR], "on_error": "row"}):
        response = app.test_client().post("/predict", json=body)
        assert (response.status_code, response.get_json()["code"]) == (500, "internal_error")
    assert error.__name__ in capfd.readouterr().err


@pytest.mark.slow
def test_rows_beside_it_in_a_shared_call_are_predicted(gains, radius):  # noqa: F811
    app = radius(MLOPS_BATCH_MS="1000")
    bodies = [[NEAR], [FAR], [NEAR, NEAR], [NEAR, FAR]]
    held = Held(live_model(app).predictor)
    with ThreadPoolExecutor(len(bodies) + 2) as pool:

        def post(rows, **more):
            return app.test_client().post("/predict", json={"features": rows, **more})

        first = pool.submit(post, [NEAR])
        assert held.began.wait(LONG)
        futures = [pool.submit(post, rows) for rows in bodies] + [pool.submit(post, [FAR, NEAR], on_error="row")]
        held.waiting(len(futures))
        held.may_end.set()
        statuses = [future.result(LONG).status_code for future in futures]
        assert first.result(LONG).status_code == 200
    assert statuses == [200, 400, 200, 400, 200]
    assert futures[-1].result().get_json()["prediction"] == [None, *first.result().get_json()["prediction"]]
    assert max(held.calls) > 2, "some shared a call"


@pytest.mark.slow
def test_row_that_cannot_be_explained_says_so(radius):
    client = radius().test_client()
    assert client.post("/predict", json={"features": [[5.5, 1.0]]}).status_code == 200
    response = client.post("/predict", json={"features": [NEAR, [5.5, 1.0]], "explain": True})
    assert response.status_code == 400
    assert "Row 1: it cannot be explained" in response.get_json()["error"]
