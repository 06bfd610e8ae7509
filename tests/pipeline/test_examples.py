"""The reference models: which engine serves each, and what their cards say."""

import pytest

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


def test_reference_model_is_served_by_the_engine_that_was_proven(models, model):
    assert models.read("bundle/manifest.json", model)["engine"] == ENGINES[model]


def test_card_of_a_reference_model_says_what_it_is_not(models, model):
    card = (models.path / "products" / model / "bundle/model_card.md").read_text()
    assert "## Limits" in card
    assert "None were written down" not in card
