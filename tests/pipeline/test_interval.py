"""A spec with an interval, from the build to the service and the batch job."""

import json

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from mlops_nb.batch.jobs import predict_batch
from mlops_nb.batch.requests import BatchRequest
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.pipeline.conftest import copy_project

pytestmark = pytest.mark.slow

SPEC = """
import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.linear_model import {estimator}

from mlops_nb.spec import Gates, ModelSpec


def load():
    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    noisy = x + rng.exponential(size=600) / 2
    y = {y}
    return pd.DataFrame({{"id": range(600), "x": x, "y": y}})


spec = ModelSpec(
    name="{name}",
    load=load,
    target="y",
    schema=pa.DataFrameSchema({{"x": pa.Column(float), "y": pa.Column({kind})}}, coerce=True),
    make_estimator=lambda params: {estimator}(**params),
    task="{task}",
    scorer="{scorer}",
    ignored=("id",),
    interval=0.9,
    gates=Gates(minimum={{"interval_coverage": 0.8, "neg_interval_width": -2.9}}),
)
"""
MODELS = {
    "line": {"estimator": "LinearRegression", "task": "regression", "scorer": "r2", "y": "noisy", "kind": "float"},
    "sizes": {
        "estimator": "LogisticRegression",
        "task": "classification",
        "scorer": "accuracy",
        "y": 'np.where(noisy > 1, "high", np.where(noisy > 0, "middle", "low"))',
        "kind": "str",
    },
}


@pytest.fixture(scope="module", params=MODELS)
def built(request, tmp_path_factory):
    project = copy_project(tmp_path_factory.mktemp(request.param))
    (project.path / f"{request.param}.py").write_text(SPEC.format(name=request.param, **MODELS[request.param]))
    project.build(spec=request.param)
    return project, request.param


def test_spec_with_an_interval_is_built_served_and_scored(built):
    project, name = built
    fitted = project.read("training.json", name)["interval"]
    assert (fitted["level"], fitted["rows"]) == (0.9, 480)
    evaluation = project.read("evaluation.json", name)
    assert 0.8 <= evaluation["metrics"]["interval_coverage"] <= 0.98
    assert evaluation["metrics"]["neg_interval_width"] == -evaluation["metrics"]["interval_width"]
    assert project.read("registration.json", name)["promoted"]

    settings = Settings.read({"MLOPS_HOME": str(project.path), "MLOPS_MODEL": name})
    app = create_app(settings)
    live_model(app).refresh()
    rows = pd.DataFrame({"id": range(100, 160), "x": [i / 20 - 1.5 for i in range(60)]})
    body = {"features": rows.to_dict("records"), "interval": True}
    served = app.test_client().post("/predict", json=body).get_json()
    assert app.test_client().get("/model").get_json()["signature"]["interval"] == fitted
    app.stop()

    rows.to_csv(project.path / "rows.csv", index=False)
    database = f"sqlite:///{project.path}/scores.db"
    done = project.run("mlops-nb", "predict", name, "--input", "rows.csv", "--output", "scores.csv", "--interval")
    assert done.returncode == 0, done.stderr
    request = BatchRequest(name, str(project.path / "rows.csv"), database, table="scores", interval=True)
    predict_batch(request, settings=settings)
    for scored in (pd.read_csv(project.path / "scores.csv"), _table(database)):
        assert scored["id"].astype(int).tolist() == rows["id"].tolist()
        if name == "line":
            written = scored[["prediction_low", "prediction_high"]].to_numpy()
            assert written == pytest.approx(np.array(served["interval"]))
            assert (written[:, 1] - written[:, 0]).tolist() == pytest.approx([2 * fitted["quantile"]] * 60)
        else:
            written = [json.loads(labels) for labels in scored["prediction_set"]]
            assert written == served["prediction_set"]
            assert {len(labels) for labels in written} == {1, 2}
            assert all(label in labels for label, labels in zip(scored["prediction"], written, strict=True))


def _table(database: str) -> pd.DataFrame:
    engine = sa.create_engine(database)
    with engine.connect() as connection:
        table = pd.read_sql("select * from scores order by id", connection)
    engine.dispose()
    return table


def test_version_without_an_interval_is_refused_by_a_job(built_once):
    pd.DataFrame({"x": [1.0]}).to_csv(built_once.path / "rows.csv", index=False)
    done = built_once.run("mlops-nb", "predict", "toy", "--input", "rows.csv", "--output", "out.csv", "--interval")
    assert done.returncode != 0
    assert "has no interval; leave --interval out" in done.stderr
    assert not (built_once.path / "out.csv").exists()
