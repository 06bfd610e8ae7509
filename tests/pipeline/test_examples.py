"""Each reference model: built, through its gates, and served with a real row of its table."""

import json

import pandas as pd
import pytest

from mlops_nb.settings import Settings
from mlops_nb.spec import load_spec
from serve.app import create_app, live_model
from tests.pipeline.conftest import copy_project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """One project for all of them."""
    return copy_project(tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("diagnosis", "onnxruntime"),
        ("signals", "onnxruntime"),
        ("loans", "onnxruntime"),
        ("emails", "onnxruntime"),
        ("demand", "scikit-learn"),
    ],
)
def test_reference_model_passes_its_gates_and_answers_a_row_of_its_table(project, name, engine):
    module = f"mlops_nb.examples.{name}"
    project.build(spec=module)
    assert project.read("registration.json", module)["promoted"]
    assert project.read("bundle/manifest.json", module)["engine"] == engine
    card = (project.path / "products" / module / "bundle/model_card.md").read_text()
    assert "## Limits" in card and "None were written down" not in card

    spec = load_spec(module)
    rows = pd.read_parquet(project.path / "products" / module / "test.parquet").head(50)
    app = create_app(Settings.read({"MLOPS_HOME": str(project.path), "MLOPS_MODEL": name}))
    live_model(app).refresh()
    features = json.loads(rows[spec.inputs].to_json(orient="records"))
    answer = app.test_client().post("/predict", json={"features": features})
    expected = live_model(app).predictor.predict_frame(rows).prediction.tolist()
    live_model(app).stop()
    assert answer.status_code == 200, answer.get_json()
    if spec.task == "classification":
        assert answer.get_json()["prediction"] == expected
    else:
        assert answer.get_json()["prediction"] == pytest.approx(expected, rel=1e-6)
