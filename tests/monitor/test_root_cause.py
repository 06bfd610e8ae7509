"""The cause of a drop is what a generator changed: columns, labels of like inputs, segments."""

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from mlops_nb.examples import emails, loans, pumps
from mlops_nb.model.signature import Predictions
from mlops_nb.monitor.root_cause import LabelledPart, explain_inputs, explain_metric


def parts_of(spec, estimator: Pipeline, **scenarios) -> dict[str, LabelledPart]:
    """Rows of scenarios with the predictions of one model."""
    found = {}
    for seed, (name, n) in enumerate(scenarios.items(), 1):
        table = spec.scenarios[name](n, seed)
        inputs = table.drop(columns=[spec.target])
        predictions = Predictions(
            estimator.predict(inputs), estimator.predict_proba(inputs), tuple(estimator.classes_.tolist())
        )
        found[name] = LabelledPart(inputs, predictions, table[spec.target].tolist())
    return found


def fitted(module):
    table = module.spec.load()
    return module.spec.make_estimator({}).fit(table.drop(columns=[module.spec.target]), table[module.spec.target])


@pytest.mark.slow
def test_loans_from_abroad_have_other_homes_and_other_rules():
    found = parts_of(loans.spec, fitted(loans), good=1000, drift=1500)
    cause = explain_metric("roc_auc", found["good"], found["drift"], "rows before")
    assert cause.now < cause.before - 0.05
    assert cause.of_labels < -2 * cause.standard_error, "officers abroad decide by other weights"
    assert {"home", "amount"} <= {c.column for c in cause.columns}
    assert not {"purpose", "term_months"} & {c.column for c in cause.columns}, "these did not change"
    assert cause.segments


@pytest.mark.slow
def test_mails_about_a_new_product_have_its_words():
    found = parts_of(emails.spec, fitted(emails), good=1000, drift=1500)
    cause = explain_metric("balanced_accuracy", found["good"], found["drift"], "rows before")
    assert cause.now < cause.before
    assert [c.column for c in cause.columns][:1]
    assert " has " in cause.columns[0].change


def test_heat_wave_is_hot():
    before, now = (pumps.simulate(1000, seed, heat).drop(columns="fault") for seed, heat in ((1, False), (2, True)))
    columns = explain_inputs(before, now, "rows before").columns
    assert columns[0].column == "temperature"
    assert {c.column for c in columns} & {"load", "flow", "pressure", "power", "temperature"}
    assert "kind" not in {c.column for c in columns}


@pytest.mark.parametrize("seed", range(4))
def test_unchanged_world_has_no_cause(seed):
    before, now = (loans.simulate(1000, 2 * seed + i).drop(columns="approved") for i in (1, 2))
    assert explain_inputs(before, now, "rows before").columns == []


@pytest.mark.slow
def test_parts_add_up_whatever_the_metric():
    found = parts_of(loans.spec, fitted(loans), good=400, drift=400)
    for metric in ("accuracy", "roc_auc", "balanced_accuracy", "neg_log_loss"):
        cause = explain_metric(metric, found["good"], found["drift"], "rows before")
        assert cause.of_inputs + cause.of_labels == pytest.approx(cause.now - cause.before)
        assert np.isfinite(cause.standard_error)


@pytest.mark.parametrize("rows", [(100, 2000), (1500, 300)])
def test_where_nothing_differs_it_is_said_what_was_compared_and_what_would_show_more(rows):
    rng = np.random.default_rng(0)
    before, now = (pd.DataFrame({"x": rng.normal(size=n), "home": "own"}) for n in rows)
    (sentence,) = explain_inputs(before, now, f"{rows[0]:,} rows before").sentences()
    assert sentence.startswith(f"nothing differs between the inputs of {rows[1]:,} rows and {rows[0]:,} rows before; ")
    assert "labels of 100 rows on both sides (POST /feedback)" in sentence
