"""What the rows of a check are compared with."""

from contextlib import closing
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from mlops_nb.model.predictor import Predictor
from mlops_nb.monitor.diagnose import diagnose
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.store.database import migrate, open_database
from tests.factories import several_outputs, split_and_packaged

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SPECS = {
    "label": (several_outputs(("late",), (int,), LogisticRegression, 900, target="late"), "accuracy"),
    "number": (several_outputs(("late",), (float,), LinearRegression, 900, target="late"), "neg_mean_absolute_error"),
    "labels": (several_outputs(make=lambda: DecisionTreeClassifier(max_depth=4), n=900), "accuracy"),
}


def others(truth: pd.DataFrame, where: np.ndarray) -> pd.DataFrame:
    """Labels that are others in some rows."""
    changed = truth.copy()
    for name, column in truth.items():
        kinds = column.unique().tolist()
        new = (
            column + 9 if column.dtype.kind == "f" else column.map(dict(zip(kinds, kinds[1:] + kinds[:1], strict=True)))
        )
        changed[name] = column.where(~where, new)
    return changed


@pytest.fixture(scope="module", params=SPECS)
def packaged(request, tmp_path_factory):
    """A spec with a metric, its bundle and the store with its table."""
    spec, metric = SPECS[request.param]
    return spec, metric, *split_and_packaged(spec, tmp_path_factory.mktemp("packaged"))[:2]


@pytest.mark.parametrize("logged", [["x", "home"], ["x"]])
def test_first_labels_of_a_version_are_compared_with_its_test_set(packaged, logged, tmp_path):
    spec, metric, bundle, artifacts = packaged
    rows = spec.load().sample(600, replace=True, random_state=1).reset_index(drop=True)
    truth = others(rows[list(bundle.signature.parts)], (rows["x"] > 0).to_numpy())
    with closing(Predictor.load(bundle.path)) as predictor:
        predicted = predictor.predict_frame(rows)
    labels = truth.to_dict("records") if isinstance(spec.target, list) else truth["late"].tolist()
    engine = open_database(f"sqlite:///{tmp_path}/mlops.db")
    migrate(engine)
    log = PredictionLog(engine)
    log.add([record_of(spec, rows[logged], predicted)])
    log.add([LabelRecord(f"a-{i}", label, NOW.timestamp()) for i, label in enumerate(labels)])
    window = log.read(spec.name, 600)
    cause = diagnose(bundle, 1, log, window, window, [metric], artifacts=artifacts, spec=spec)
    without = diagnose(bundle, 1, log, window, window, [metric], artifacts=artifacts)
    engine.dispose()
    assert cause.reference == "the 270 rows that it was tested on"
    assert abs(cause.of_labels) > 5 * cause.standard_error
    assert abs(cause.of_inputs) < 0.2 * abs(cause.of_labels)
    assert "x >= " in cause.segments[0].rule
    assert "error -" not in str(cause)
    assert "home" in logged or "home" not in str(cause)
    assert without is None or without.metric is None


def record_of(spec, inputs: pd.DataFrame, predicted) -> PredictionRecord:
    """A request of many rows, as a service logs it."""
    probability = None if predicted.probability is None else predicted.probability.tolist()
    return PredictionRecord(
        id="a",
        at=NOW.timestamp() - 60,
        name=spec.name,
        version=1,
        role="production",
        latency_ms=1.0,
        columns=[*inputs],
        rows=inputs.to_numpy(dtype=object).tolist(),
        prediction=predicted.prediction.tolist(),
        probability=probability,
    )
