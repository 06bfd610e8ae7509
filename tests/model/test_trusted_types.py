"""Every estimator of scikit-learn that takes a table is packaged and loaded; the rest is refused before fitting."""

import warnings
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from scipy.stats import loguniform, randint
from sklearn.base import is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import (
    ColumnTransformer,
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.decomposition import LatentDirichletAllocation, SparseCoder
from sklearn.ensemble import (
    BaggingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.experimental import enable_halving_search_cv, enable_iterative_imputer  # noqa: F401
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.feature_selection import (
    RFE,
    RFECV,
    SelectFdr,
    SelectFromModel,
    SelectKBest,
    SelectPercentile,
    SequentialFeatureSelector,
    VarianceThreshold,
    chi2,
    f_regression,
    mutual_info_classif,
)
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Matern, RationalQuadratic, WhiteKernel
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.linear_model import BayesianRidge, LogisticRegression, Ridge, SGDClassifier
from sklearn.metrics import balanced_accuracy_score, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    TimeSeriesSplit,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators
from sklearn.utils._test_common.instance_generator import _construct_instances

from mlops_nb.errors import BundleError, TrainingError
from mlops_nb.model.bundle import load_estimator
from mlops_nb.model.train import check_loadable
from mlops_nb.model.trusted_types import check_types, find_harmless_types, harmless_types, write_estimator

RNG = np.random.default_rng(0)
N = 160
X = pd.DataFrame({f"x{i}": np.abs(RNG.normal(1, 1, N)) for i in range(5)})
Y = pd.Series((X["x0"] + X["x1"] > 2).astype(int), name="y")
HOLES = X.mask(RNG.random(X.shape) < 0.1)
MIXED = X.assign(colour=RNG.choice(["red", "green", "blue"], N), size=RNG.choice(["s", "m"], N))
TEXTS = pd.Series(RNG.choice(["good day", "the bad end", "win a prize now", "a day of gold"], N), name="text")
REFUSED = {
    "Birch": "skops cannot write its tree of nodes",
    **dict.fromkeys(("LabelBinarizer", "LabelEncoder", "MultiLabelBinarizer"), "takes labels, no table"),
    **dict.fromkeys(("KernelCenterer", "PatchExtractor"), "takes no table"),
    **dict.fromkeys(("CountVectorizer", "TfidfVectorizer", "HashingVectorizer"), "takes texts: see COMPOSITES"),
    **dict.fromkeys(("DictVectorizer", "FeatureHasher"), "takes dicts"),
    "FrozenEstimator": "is a composite: see COMPOSITES",
    "IsotonicRegression": "takes one column: calibration in COMPOSITES",
    "SparseCoder": "takes a dictionary of its own: see COMPOSITES",
}


def package(estimator, folder: Path):
    """Write a model file and load it as a service does."""
    write_estimator(estimator, folder / "model.skops")
    return load_estimator(folder / "model.skops")


def output(estimator, table):
    for method in ("predict", "transform"):
        if hasattr(estimator, method):
            found = getattr(estimator, method)(table)
            return found.toarray() if hasattr(found, "toarray") else np.asarray(found)
    return np.zeros(0)


def assert_loads_equal(estimator, table, folder):
    loaded = package(estimator, folder)
    np.testing.assert_array_equal(output(loaded, table), output(estimator, table))
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_array_equal(loaded.predict_proba(table), estimator.predict_proba(table))


def kinds() -> list:
    return [pytest.param(cls, id=name) for name, cls in all_estimators() if name not in REFUSED]


@pytest.mark.slow
@pytest.mark.parametrize("cls", kinds())
@pytest.mark.filterwarnings("ignore")
def test_every_estimator_is_packaged_and_loaded(cls, tmp_path):
    estimator, table = next(iter(_construct_instances(cls))), X + 0.1
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=0)
    for target in (Y, Y + 1, np.column_stack([Y, Y])):
        try:
            fitted = estimator.fit(table, target)
            break
        except (ValueError, IndexError):  # it takes positive numbers, or several targets
            continue
    check_types(fitted)
    assert_loads_equal(fitted, table, tmp_path)
    assert is_classifier(fitted) or is_regressor(fitted) or hasattr(fitted, "transform") or hasattr(fitted, "fit")


numbers, words = make_column_selector(dtype_include="number"), make_column_selector(dtype_exclude="number")
logistic, forest = LogisticRegression(max_iter=500), RandomForestClassifier(10, random_state=0)
kernel = ConstantKernel(1.0) * RBF(1.0) + WhiteKernel(0.1)
COMPOSITES = {
    "voting": (VotingClassifier([("a", logistic), ("b", forest)], voting="soft"), X),
    "voting of regressors": (VotingRegressor([("a", Ridge()), ("b", KNeighborsRegressor())]), X),
    "stacking": (StackingClassifier([("a", forest), ("b", GaussianNB())], logistic, cv=3), X),
    "stacking of regressors": (StackingRegressor([("a", Ridge())], Ridge(), cv=3), X),
    "grid search": (GridSearchCV(logistic, {"C": [0.1, 1]}, cv=StratifiedKFold(3)), X),
    "grid search of a pipeline": (
        GridSearchCV(make_pipeline(StandardScaler(), logistic), {"logisticregression__C": [1, 2]}, scoring="roc_auc"),
        X,
    ),
    "grid of estimators": (GridSearchCV(Pipeline([("m", logistic)]), {"m": [logistic, GaussianNB()]}, cv=3), X),
    "randomized search": (RandomizedSearchCV(logistic, {"C": [0.1, 1, 10]}, n_iter=2, random_state=0), X),
    "randomized search of distributions": (
        make_pipeline(
            StandardScaler(),
            RandomizedSearchCV(
                logistic, {"C": loguniform(0.1, 10), "max_iter": randint(90, 99)}, n_iter=1, random_state=0
            ),
        ),
        X,
    ),
    "halving search": (HalvingGridSearchCV(logistic, {"C": [0.1, 1]}, cv=3), X),
    "search with a scorer": (
        GridSearchCV(logistic, {"C": [1]}, scoring=make_scorer(balanced_accuracy_score), cv=RepeatedStratifiedKFold()),
        X,
    ),
    "search by time": (GridSearchCV(Ridge(), {"alpha": [1, 2]}, cv=TimeSeriesSplit(3)), X),
    "select k best": (make_pipeline(SelectKBest(k=3), logistic), X),
    "select by chi2": (make_pipeline(SelectKBest(chi2, k=3), logistic), X),
    "select by information": (make_pipeline(SelectPercentile(mutual_info_classif), logistic), X),
    "select by f of a regression": (make_pipeline(SelectKBest(f_regression, k=2), Ridge()), X),
    "select by false discoveries": (make_pipeline(SelectFdr(alpha=0.9), logistic), X),
    "select from a model": (make_pipeline(SelectFromModel(forest), logistic), X),
    "recursive elimination": (make_pipeline(RFE(logistic, n_features_to_select=2), logistic), X),
    "recursive elimination by folds": (RFECV(logistic, cv=3), X),
    "sequential selection": (make_pipeline(SequentialFeatureSelector(GaussianNB(), cv=3), logistic), X),
    "variance and splines": (make_pipeline(VarianceThreshold(), SplineTransformer(), logistic), X),
    "iterative imputer": (make_pipeline(IterativeImputer(random_state=0), logistic), HOLES),
    "iterative imputer of a ridge": (make_pipeline(IterativeImputer(BayesianRidge()), logistic), HOLES),
    "iterative imputer of a forest": (
        make_pipeline(IterativeImputer(DecisionTreeClassifier(), max_iter=1, skip_complete=True), logistic),
        X,
    ),
    "neighbours' imputer": (make_pipeline(KNNImputer(), forest), HOLES),
    "imputer with indicator": (make_pipeline(SimpleImputer(add_indicator=True), logistic), HOLES),
    "column selectors": (
        make_pipeline(make_column_transformer((StandardScaler(), numbers), (OneHotEncoder(), words)), logistic),
        MIXED,
    ),
    "selector by pattern": (
        make_pipeline(
            ColumnTransformer([("n", StandardScaler(), make_column_selector(pattern="^x"))], remainder="drop"), logistic
        ),
        MIXED,
    ),
    "encoders": (
        make_pipeline(
            ColumnTransformer(
                [("o", OrdinalEncoder(), ["colour"]), ("t", TargetEncoder(random_state=0), ["size"])],
                remainder="passthrough",
            ),
            HistGradientBoostingClassifier(max_iter=5),
        ),
        MIXED,
    ),
    "tuned threshold": (TunedThresholdClassifierCV(logistic, scoring="f1", cv=3), X),
    "fixed threshold": (FixedThresholdClassifier(logistic, threshold=0.3), X),
    "output codes": (OutputCodeClassifier(logistic, random_state=0), X),
    "one against the rest": (OneVsRestClassifier(LinearSVC()), X),
    "one against one": (OneVsOneClassifier(logistic), X),
    "calibrated, isotonic": (
        CalibratedClassifierCV(LinearSVC(), method="isotonic"),
        X,
    ),
    "calibrated, sigmoid": (CalibratedClassifierCV(SVC(), cv=3), X),
    "frozen": (make_pipeline(FrozenEstimator(StandardScaler().fit(X)), logistic), X),
    "gaussian process": (GaussianProcessClassifier(kernel), X),
    "gaussian process of kernels": (
        GaussianProcessRegressor(Matern(nu=2.5) + RationalQuadratic() * DotProduct() ** 2, alpha=0.1),
        X,
    ),
    "union": (make_pipeline(FeatureUnion([("a", StandardScaler()), ("b", RBFSampler(random_state=0))]), logistic), X),
    "kernel map": (make_pipeline(Nystroem(n_components=5, random_state=0), logistic), X),
    "bags of trees": (BaggingClassifier(DecisionTreeClassifier(), 5, random_state=0), X),
    "neighbours with other metrics": (
        make_pipeline(RobustScaler(), KNeighborsClassifier(metric="manhattan", algorithm="ball_tree")),
        X,
    ),
    "neighbours by minkowski": (KNeighborsClassifier(p=3, algorithm="kd_tree"), X),
    "network": (make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=50, solver="sgd", random_state=0)), X),
    "gradient descent": (make_pipeline(StandardScaler(), SGDClassifier(loss="modified_huber", random_state=0)), X),
    "transformed target": (TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1), X),
    "quantiles of the target": (
        TransformedTargetRegressor(Ridge(), transformer=QuantileTransformer(n_quantiles=20)),
        X,
    ),
    "powers and bins": (make_pipeline(PowerTransformer(), KBinsDiscretizer(4, encode="onehot-dense"), logistic), X),
    "polynomials": (make_pipeline(PolynomialFeatures(), StandardScaler(), logistic), X),
    "sparse codes": (make_pipeline(SparseCoder(np.eye(5)), logistic), X),
    "words": (make_pipeline(CountVectorizer(), logistic), TEXTS),
    "weights of words": (make_pipeline(TfidfVectorizer(ngram_range=(1, 2), stop_words="english"), LinearSVC()), TEXTS),
    "hashes of words": (make_pipeline(HashingVectorizer(n_features=64), TfidfTransformer(), logistic), TEXTS),
    "topics": (make_pipeline(CountVectorizer(), LatentDirichletAllocation(3, random_state=0), logistic), TEXTS),
    "numpy's functions": (make_pipeline(FunctionTransformer(np.log1p), FunctionTransformer(np.sqrt), logistic), X),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.filterwarnings("ignore")
def test_composite_is_packaged_and_loaded(name, tmp_path):
    estimator, table = COMPOSITES[name]
    check_loadable(estimator, table, Y)
    assert_loads_equal(estimator.fit(table, Y), table, tmp_path)


VALUES = [object, np.number, np.floating, [np.integer, bool, "category"], pd.CategoricalDtype, pd.StringDtype()]
VALUES += [pd.Int64Dtype, str, bytes, datetime, pd.Timestamp("2020-01-01"), pd.NA, timedelta(1), Decimal(1), "datetime"]


@pytest.mark.parametrize("kind", VALUES, ids=repr)
def test_kind_of_columns_or_value_of_a_parameter_is_data(kind):
    check_types(make_pipeline(make_column_transformer((StandardScaler(), make_column_selector(dtype_include=kind)))))


def test_list_of_types_is_the_generated_one():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert find_harmless_types() == sorted(harmless_types()), "run docs/generate.py, and read what changed"


def test_search_keeps_its_distributions_when_it_is_written(tmp_path):
    search = RandomizedSearchCV(logistic, {"C": randint(1, 9)})
    write_estimator(search, tmp_path / "model.skops")
    assert isinstance(search.param_distributions["C"], type(randint(1, 9)))
    with pytest.raises(TypeError, match="generator"):
        write_estimator(VotingRegressor([("a", search)], weights=(i for i in "a")), tmp_path / "none")
    assert search.param_distributions


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "builtins.exec",
        "builtins.getattr",
        "builtins.open",
        "importlib.import_module",
        "numpy.fromfile",
        "numpy.load",
        "operator.methodcaller",
        "os.system",
        "pandas.read_pickle",
        "pickle.loads",
        "scipy.stats._distn_infrastructure.rv_continuous_frozen",
        "sklearn.datasets._base.load_files",
        "sklearn.utils._testing.TempMemmap",
        "sklearn.utils.parallel.delayed",
        "subprocess.Popen",
    ],
)
def test_what_could_run_code_or_read_files_is_no_harmless_type(name):
    assert name not in harmless_types()


def double(rows):
    return rows * 2


class Own(FunctionTransformer):
    """A class of the project."""


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            make_pipeline(FunctionTransformer(lambda rows: rows), logistic),
            r"The step 'functiontransformer__func' .* a lambda has no name that a service could import",
        ),
        (
            make_pipeline(FunctionTransformer(double), logistic),
            r"'functiontransformer__func' .*double is your own: .* add it to `trusted_types` in settings.ini",
        ),
        (make_pipeline(Own(), logistic), r"The step 'own' .*test_trusted_types.Own is your own: "),
        (
            make_pipeline(FunctionTransformer(pd.DataFrame.abs), logistic),
            r"pandas.* is of the library pandas, whose types mlops_nb does not allow by itself",
        ),
        (make_pipeline(FunctionTransformer(print), logistic), r"print is of Python's own library"),
        (
            BaggingClassifier(make_pipeline(FunctionTransformer(double), logistic)),
            r"'estimator__functiontransformer__func'",
        ),
    ],
    ids=["lambda", "function", "class", "library", "python", "nested"],
)
def test_what_a_service_cannot_load_is_refused_before_fitting(estimator, message, monkeypatch):
    monkeypatch.setattr(LogisticRegression, "fit", lambda *_: pytest.fail("it was fitted"))
    with pytest.raises(TrainingError, match=message):
        check_loadable(estimator, X, Y)


def test_type_that_only_fitting_brings_is_refused_on_a_few_rows(monkeypatch):
    class Hidden(LogisticRegression):
        def fit(self, X, y):
            assert len(X) == 50
            self.helper_ = double
            return super().fit(X, y)

    Hidden.__module__, Hidden.__qualname__ = __name__, "Hidden"
    monkeypatch.setitem(globals(), "Hidden", Hidden)
    with pytest.raises(TrainingError, match=r"The estimator \(Hidden\) cannot be loaded .*double is your own"):
        check_loadable(Hidden(), X, Y, [f"{__name__}.Hidden"])


def test_own_type_is_trusted_by_its_name_alone(tmp_path):
    estimator = make_pipeline(Own(), logistic)
    name = f"{__name__}.Own"
    check_types(estimator, [name])
    skops.io.dump(estimator.fit(X, Y), tmp_path / "model.skops")
    with pytest.raises(BundleError, match=r"not on the allow-list: .*Own is your own"):
        load_estimator(tmp_path / "model.skops")
    load_estimator(tmp_path / "model.skops", [name])
