"""Every reference model: built, through its gates, served with rows of its table, by the engine that was proven."""

import json

import pandas as pd
import pytest

from mlops_nb.data.tables import load_table, validate
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.spec import load_spec
from serve.app import create_app

pytestmark = pytest.mark.slow

ENGINES = {
    "mlops_nb.examples.diagnosis": "onnxruntime",
    "mlops_nb.examples.signals": "onnxruntime",
    "mlops_nb.examples.loans": "onnxruntime",
    "mlops_nb.examples.emails": "onnxruntime",
    "mlops_nb.examples.demand": "onnxruntime",
    "mlops_nb.examples.deliveries": "scikit-learn",  # it has two outputs
    "mlops_nb.examples.journeys": "onnxruntime",
    "mlops_nb.examples.rents": "scikit-learn",
    "mlops_nb.examples.pumps": "scikit-learn",
}


def test_model_passes_its_gates_and_answers_rows_of_its_table_as_they_are(models, model):
    assert models.read("registration.json", model)["promoted"]

    spec = load_spec(model)
    rows = load_table(spec.load).tail(50).reset_index(drop=True)
    app = create_app(Settings.read({"MLOPS_HOME": str(models.path), "MLOPS_MODEL": spec.name}))
    live_model(app).refresh()
    features = json.loads(rows.to_json(orient="records", date_format="iso"))
    answer = app.test_client().post("/predict", json={"features": features})
    expected = live_model(app).predictor.predict_frame(validate(rows, spec.schema)).prediction.tolist()
    app.stop()
    assert answer.status_code == 200, answer.get_json()
    if spec.task == "classification":
        assert answer.get_json()["prediction"] == expected
    else:
        assert answer.get_json()["prediction"] == pytest.approx(expected, rel=1e-6)


def test_executed_notebooks_hold_no_error_and_show_plots(models, model):
    for name in ("ingest", "train", "evaluate", "package", "register"):
        cells = models.read(f"{name}.ipynb", model)["cells"]
        outputs = [o for cell in cells if cell["cell_type"] == "code" for o in cell["outputs"]]
        assert not [o for o in outputs if o["output_type"] == "error"], name
        if name in ("train", "evaluate", "package"):
            assert [o for o in outputs if "image/png" in o.get("data", {})], name


def test_rows_of_the_last_build_are_those_of_the_spec(models, model):
    spec, products = load_spec(model), models.path / "products" / model
    rows = pd.concat([pd.read_parquet(products / f"{part}.parquet") for part in ("train", "test")])
    assert len(rows) == len(load_table(spec.load))
    assert list(rows.columns) == list(spec.schema.columns)


def test_reference_model_is_served_by_the_engine_that_was_proven(models, model):
    assert models.read("bundle/manifest.json", model)["engine"] == ENGINES[model]


def test_card_of_a_reference_model_says_what_it_is_not(models, model):
    card = (models.path / "products" / model / "bundle/model_card.md").read_text()
    assert "## Limits" in card
    assert "None were written down" not in card
