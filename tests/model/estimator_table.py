"""What each kind of estimator can: measured on a small model, one row of docs/estimators.md each.

`python -m tests.model.estimator_table` writes the rows into the page. A new kind is an entry of `KINDS`, a new column
one of `COLUMNS`.
"""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from mlops_nb.errors import InputError
from mlops_nb.estimators import OnnxClassifier, OnnxRegressor
from mlops_nb.features import AsCategories, FillText
from mlops_nb.model.anomaly import truth_of
from mlops_nb.model.bundle import audit_types, write_bundle
from mlops_nb.model.columns import input_frame
from mlops_nb.model.contributions import check_one_output, measure_contributions
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import signature_of
from mlops_nb.model.train import Training, fit
from mlops_nb.model.trusted_types import EXTRA_LIBRARIES
from mlops_nb.monitor.drift import measure_drift
from mlops_nb.spec import ModelSpec

PAGE = Path(__file__).parents[2] / "docs" / "estimators.md"
INPUTS = {
    "amount": pa.Column(float),
    "rooms": pa.Column(float),
    "home": pa.Column(str, pa.Check.isin(["own", "rent", "other"]), metadata={"unseen": "ignore"}, nullable=True),
    "note": pa.Column(str),
}
TABLE = ("amount", "rooms", "home")
NUMBERS = ("amount", "rooms")


@dataclass(frozen=True)
class Kind:
    """A kind of estimator, by an example of it."""

    make: Callable  # of the parameters
    inputs: tuple[str, ...] = TABLE
    target: str | tuple[str, ...] | None = "label"
    library: str = ""  # beyond scikit-learn


def line(**params):
    return LogisticRegression(max_iter=500, **params)


def numbered(model):
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    return make_pipeline(make_column_transformer((encoder, ["home"]), remainder="passthrough"), model)


def scaled(model):
    one_hot = OneHotEncoder(handle_unknown="ignore")
    return make_pipeline(make_column_transformer((StandardScaler(), [*NUMBERS]), (one_hot, ["home"])), model)


def text_model(words):
    return make_pipeline(make_column_transformer((words, "note")), line())


def lightgbm(params):
    from lightgbm import LGBMClassifier

    return make_pipeline(AsCategories(), LGBMClassifier(verbose=-1, n_estimators=20))


def xgboost(params):
    from xgboost import XGBClassifier

    return make_pipeline(AsCategories(), XGBClassifier(n_estimators=20, enable_categorical=True))


def xgboost_of_numbers(params):
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=20)


def catboost(params):
    from catboost import CatBoostClassifier

    own = {"iterations": 20, "verbose": 0, "allow_writing_files": False, "cat_features": ("home",)}
    return make_pipeline(AsCategories(fill="missing"), CatBoostClassifier(**own))


def skrub(params):
    from skrub import TableVectorizer

    return make_pipeline(TableVectorizer(), SimpleImputer(), line())


def imbalanced(params):
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.pipeline import make_pipeline as pipeline_of_samplers

    return pipeline_of_samplers(RandomOverSampler(random_state=0), scaled(line()))


def onnx(kind, train):
    return make_pipeline(StandardScaler(), kind(f"tests.model.test_onnx_models.{train}"))


def searched(params):
    return GridSearchCV(scaled(line()), {"logisticregression__C": [0.1, 1.0]}, cv=3)


KINDS = {
    "linear model": Kind(lambda params: scaled(line())),
    "random forest": Kind(lambda params: numbered(RandomForestClassifier(10))),
    "`HistGradientBoosting`, categories numbered": Kind(lambda params: numbered(HistGradientBoostingClassifier())),
    "`HistGradientBoosting`, `AsCategories`": Kind(
        lambda params: make_pipeline(AsCategories(), HistGradientBoostingClassifier())
    ),
    "text (`TfidfVectorizer`)": Kind(lambda params: text_model(TfidfVectorizer()), ("note",)),
    "text that may be missing (`FillText`)": Kind(
        lambda params: text_model(make_pipeline(FillText(), TfidfVectorizer())), ("note",)
    ),
    "stacking": Kind(
        lambda params: scaled(StackingClassifier([("a", line()), ("b", RandomForestClassifier(5))], line(), cv=3))
    ),
    "voting": Kind(lambda params: scaled(VotingClassifier([("a", line()), ("b", line(C=0.1))], voting="soft"))),
    "search (`GridSearchCV`)": Kind(searched),
    "calibrated (`CalibratedClassifierCV`)": Kind(lambda params: CalibratedClassifierCV(scaled(line()), cv=3)),
    "`TransformedTargetRegressor`": Kind(
        lambda params: TransformedTargetRegressor(scaled(Ridge()), func=np.arcsinh, inverse_func=np.sinh),
        target="price",
    ),
    "`OnnxClassifier`": Kind(lambda params: onnx(OnnxClassifier, "train_softmax"), NUMBERS),
    "`OnnxRegressor`": Kind(lambda params: onnx(OnnxRegressor, "train_line"), NUMBERS, "price"),
    "several outputs": Kind(lambda params: numbered(RandomForestClassifier(10)), target=("label", "far")),
    "detector of anomalies (`IsolationForest`)": Kind(
        lambda params: numbered(IsolationForest(n_estimators=20)), target=None
    ),
    "LightGBM": Kind(lightgbm, library="lightgbm"),
    "XGBoost, `AsCategories`": Kind(xgboost, library="xgboost"),
    "XGBoost, numbers alone": Kind(xgboost_of_numbers, NUMBERS, library="xgboost"),
    "CatBoost": Kind(catboost, library="catboost"),
    "skrub": Kind(skrub, library="skrub"),
    "imbalanced-learn": Kind(imbalanced, library="imblearn"),
}


def rows_of(n: int = 240, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"amount": rng.normal(size=n), "rooms": rng.integers(1, 6, n).astype(float)})
    rows["home"] = rng.choice(["own", "rent", "other"], n)
    rows["price"] = rows["amount"] + rows["rooms"] + 2 * (rows["home"] == "own")
    rows["label"] = (rows["price"] > 3.6).astype(int)
    rows["far"] = (rows["amount"] > 0.5).astype(int)
    words = np.where(rows["label"], "large bright quiet", "small dark loud")
    rows["note"] = [f"{w} {rng.choice(['flat', 'house', 'loft'])}" for w in words]
    return rows


@dataclass(frozen=True)
class Built:
    """A small model, trained, packaged and loaded."""

    spec: ModelSpec
    training: Training
    predictor: Predictor


def build(kind: Kind, folder: Path) -> Built:
    """Train and package an example of a kind, and load it as a service does."""
    task = {"price": "regression", None: "anomaly"}.get(kind.target, "classification")
    names = [] if kind.target is None else np.atleast_1d(kind.target).tolist()
    columns = dict.fromkeys(names, pa.Column(float if task == "regression" else int))
    schema = pa.DataFrameSchema({n: INPUTS[n] for n in kind.inputs} | columns, coerce=True)
    scorer = {"classification": "roc_auc", "regression": "r2", "anomaly": "alarm_rate"}[task]
    interval = 0.9 if len(names) == 1 else None
    spec = ModelSpec("homes", rows_of, kind.target, schema, kind.make, scorer, task, interval=interval)
    rows = schema.validate(rows_of())
    X, y = input_frame(spec, rows), truth_of(spec, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training = fit(spec, X, y, folds=2, weights=np.linspace(1, 2, len(y)))
        evaluation = {"metrics": {}, "baseline": {}, "gates": [], "passed": True}
        facts = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": evaluation}
        own = training.interval.to_dict() if training.interval else None
        signature = signature_of(spec, training.estimator, interval=own)
        write_bundle(folder / "bundle", "homes", training.estimator, signature, rows, rows, facts)
        return Built(spec, training, Predictor.load(folder / "bundle"))


def engine(built: Built) -> str:
    return {"onnxruntime": "ONNX Runtime"}.get(built.predictor.bundle.engine, built.predictor.bundle.engine)


def explained(built: Built) -> str:
    try:
        check_one_output(built.predictor.signature)
    except InputError:
        return "—"
    row = rows_of(1, seed=3)[built.spec.inputs].iloc[0].to_dict()
    effects, mean = measure_contributions(built.predictor, row, max_rows=500)
    predicted = built.predictor.predict_rows([row])
    value = predicted.prediction[0] if predicted.probability is None else predicted.probability[0].max()
    assert abs(sum(effect.effect for effect in effects) + mean - value) < 1e-5, "the effects add up to the prediction"
    return "sampled" if len(effects) > 1 else "exact"  # one column has one order


def intervals(built: Built) -> str:
    rows = rows_of(20, seed=3)[built.spec.inputs]
    sets = built.predictor.signature.interval
    assert len(built.predictor.predict_frame(rows).prediction) == 20
    return "—" if sets is None else {"label": "sets of labels", "price": "low, high"}[built.spec.target]


def drift(built: Built) -> str:
    rows = rows_of(600, seed=4)[built.spec.inputs]
    rows["note" if "note" in rows else "amount"] = "large bright quiet loft" if "note" in rows else 9.0
    report = measure_drift(built.predictor.bundle.profile(), rows, built.predictor.predict_frame(rows))
    found = {column.role for column in report.drifting}
    return ", ".join(f"{role}s" for role in ("input", "prediction") if role in found) or "—"


def weights(built: Built) -> str:
    return "yes" if built.training.weighted else "—"


def extra(built: Built) -> str:
    types = audit_types(built.predictor.bundle.path / "model.skops")
    found = sorted({EXTRA_LIBRARIES[lib] for t in types if (lib := t.partition(".")[0]) in EXTRA_LIBRARIES})
    return ", ".join(f"`mlops-nb[{name}]`" for name in found) or "none"


COLUMNS = {
    "engine": engine,
    "explain": explained,
    "interval": intervals,
    "drift": drift,
    "weights of rows": weights,
    "extra where it is loaded": extra,
}


def measured_row(name: str, folder: Path) -> str:
    """The row of a kind, as the page has it."""
    built = build(KINDS[name], folder)
    return " | ".join([f"| {name}", *(column(built) for column in COLUMNS.values())]) + " |"


def table_rows(page: str) -> dict[str, str]:
    """The rows of the table of a page, by the kind."""
    lines = page.partition("| kind |")[2].partition("\n\n")[0].splitlines()[2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def write_page():
    """Measure all kinds, and write the table anew."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition("| kind |")
    rows = []
    for name in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured_row(name, Path(folder)))
    head = ["| kind | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    PAGE.write_text(before + "\n".join([*head, *rows]) + "\n\n" + rest.partition("\n\n")[2], encoding="utf-8")


if __name__ == "__main__":
    write_page()
