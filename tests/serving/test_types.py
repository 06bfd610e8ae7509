"""Types in, types out: a service takes and predicts the types of the schema, and feedback takes its labels."""

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC

from mlops_nb.data.tables import validate
from mlops_nb.errors import DataError, SpecError
from mlops_nb.features import DateParts
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.columns import to_frame, to_table
from mlops_nb.model.signature import make_signature, signature_of
from mlops_nb.model.train import fit
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.spec import ModelSpec
from mlops_nb.store.registry import Registry
from serve.app import create_app

RNG = np.random.default_rng(0)
X = RNG.normal(size=200)


def toy(columns: dict, table: pd.DataFrame, estimator, **more) -> tuple[ModelSpec, pd.DataFrame]:
    schema = pa.DataFrameSchema(columns)
    spec = ModelSpec("toy", lambda: table, "y", schema, make_estimator=lambda params: estimator, **more)
    return spec, validate(table, schema)


def served(home, spec: ModelSpec, table: pd.DataFrame):
    """Train, package, register, promote and serve a spec."""
    signature = make_signature(spec.schema, spec.inputs, spec.target, spec.task)
    frame = to_frame(signature, to_table(signature, table))
    estimator = fit(spec, frame, table["y"], folds=0).estimator
    evaluation = {"metrics": {}, "baseline": {}, "gates": [], "passed": True}
    metadata = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": evaluation}
    bundle = write_bundle(home / "bundle", "toy", estimator, signature_of(spec, estimator), table, table, metadata)
    (home / "settings.ini").touch()
    settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy"})
    registry = Registry.open(settings)
    registry.register(bundle)
    registry.promote("toy", 1)
    registry.close()
    app = create_app(settings)
    live_model(app).refresh()
    return app


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [LogisticRegression(), LinearSVC()], ids=["ONNX", "scikit-learn"])
@pytest.mark.parametrize(
    ("dtype", "labels"),
    [
        (bool, (False, True)),
        ("boolean", (False, True)),
        (int, (0, 1)),
        ("Int64", (3, 7)),
        (str, ("no", "yes")),
        ("int8", (-1, 1)),
    ],
)
def test_label_has_the_type_of_the_target_on_every_route_and_feedback_takes_it(tmp_path, dtype, labels, estimator):
    table = pd.DataFrame({"x": X, "y": pd.Series([labels[int(x > 0)] for x in X]).astype(dtype)})
    app = served(tmp_path, *toy({"x": pa.Column(float), "y": pa.Column(dtype)}, table, estimator))
    client = app.test_client()
    rows = [[-2.0], [2.0]]
    body = client.post("/predict", json={"features": rows}).get_json()
    single = client.post("/predict", json={"features": [[2.0]]}).get_json()
    mlflow = client.post("/invocations", json={"dataframe_records": [{"x": -2.0}, {"x": 2.0}]}).get_json()
    found = [body["prediction"], mlflow["predictions"], [None, *single["prediction"]]]
    assert [list(map(type, each)) for each in found] == [[type(labels[0])] * 2] * 2 + [[type(None), type(labels[1])]]
    assert found == [[*labels], [*labels], [None, labels[1]]]
    entries = [{"id": key, "label": label} for key, label in zip(body["ids"], body["prediction"], strict=True)]
    assert client.post("/feedback", json={"labels": entries}).status_code == 202
    app.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "values", "sent", "refused"),
    [
        (pa.Column(pa.Category([1, 2, 3])), pd.Categorical([1, 2, 3, 2] * 50), 2, "two"),
        (pa.Column(object, pa.Check.isin([1, 2, 3])), pd.Series([1, 2, 3, 2] * 50, dtype=object), 3, 4),
        (pa.Column(object, pa.Check.isin([True, False])), pd.Series([True, False] * 100, dtype=object), False, 0),
        (pa.Column(pa.Category(["a", "b"])), pd.Categorical(["a", "b"] * 100), "b", 1),
    ],
    ids=["category of ints", "object of ints", "object of booleans", "category of texts"],
)
def test_category_is_sent_as_the_type_that_it_has(tmp_path, column, values, sent, refused):
    table = pd.DataFrame({"x": X, "c": values, "y": (X > 0).astype(int)})
    encoder = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["c"]), remainder="passthrough")
    columns = {"x": pa.Column(float), "c": column, "y": pa.Column(int)}
    app = served(tmp_path, *toy(columns, table, make_pipeline(encoder, LogisticRegression())))
    client = app.test_client()
    assert client.post("/predict", json={"features": [{"x": 1.0, "c": sent}]}).status_code == 200
    assert client.post("/predict", json={"features": [{"x": 1.0, "c": refused}]}).get_json()["code"] == "bad_input"
    app.stop()


def test_categories_of_several_types_are_refused_with_the_types():
    columns = {"c": pa.Column(object, pa.Check.isin([1, "a"])), "y": pa.Column(int)}
    with pytest.raises(SpecError, match=r"Column 'c' has categories of several types \(int, str\)"):
        make_signature(pa.DataFrameSchema(columns), ["c"], "y")


def test_whole_numbers_that_a_float_cannot_hold_are_refused_at_build():
    schema = pa.DataFrameSchema({"id": pa.Column(int), "y": pa.Column(int)})
    signature = make_signature(schema, ["id"], "y")
    fits = pd.DataFrame({"id": [2**53 - 1, 1 - 2**53], "y": [0, 1]})
    assert to_frame(signature, to_table(signature, fits))["id"].tolist() == fits["id"].tolist()
    for value in (2**53, -(2**53), 2**62):
        with pytest.raises(DataError, match=r"Column 'id' has whole numbers of 2\^53 or more"):
            to_table(signature, pd.DataFrame({"id": [1, value], "y": [0, 1]}))
    columns = {"id": pa.Column(int, pa.Check.isin([2**53])), "y": pa.Column(int)}
    with pytest.raises(SpecError, match=r"2\^53 or more"):
        make_signature(pa.DataFrameSchema(columns), ["id"], "y")


@pytest.mark.slow
@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "UTC", "America/New_York"])
def test_time_with_a_zone_is_the_same_moment_in_training_and_in_a_request(tmp_path, zone):
    at = pd.date_range("2026-03-20", periods=200, freq="1h", tz=zone).as_unit("us")
    moment = at if zone is None else at.tz_convert("UTC").tz_localize(None)
    table = pd.DataFrame({"at": at, "y": moment.hour.to_numpy(dtype=float)})
    columns = {"at": pa.Column(f"datetime64[us, {zone}]" if zone else "datetime64[us]"), "y": pa.Column(float)}
    estimator = make_pipeline(make_column_transformer((DateParts(("hour",)), ["at"])), LinearRegression())
    app = served(tmp_path, *toy(columns, table, estimator, task="regression", scorer="r2"))
    sent = [{"at": each.isoformat()} for each in at[:48]]
    found = app.test_client().post("/predict", json={"features": sent}).get_json()["prediction"]
    assert found == pytest.approx(moment.hour[:48].tolist(), abs=1e-6), "hours are those of UTC"
    app.stop()
