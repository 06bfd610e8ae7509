"""What a person tries first on a table whose columns were cleaned by hand: the peers of `benchmarks.tables`."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler


def plain_baselines(X: pd.DataFrame, y: pd.Series, texts: Sequence[str], metric: str) -> Iterator[tuple[str, Pipeline]]:
    """Linear model, boosted trees and forest; of a skewed positive quantity also of its logarithm."""
    numbers = [name for name in X if pd.api.types.is_numeric_dtype(X[name])]
    categories = [name for name in X if name not in numbers and name not in texts]
    words = [(TfidfVectorizer(sublinear_tf=True, min_df=2), name) for name in texts]
    one_hot = (OneHotEncoder(handle_unknown="ignore", min_frequency=3), categories)
    scaled = (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers)
    linear = make_column_transformer(scaled, one_hot, *words)
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, max_categories=250)
    trees = make_column_transformer((codes, categories), ("passthrough", numbers))
    filled = make_column_transformer((codes, categories), (SimpleImputer(strategy="median"), numbers))
    native = [True] * len(categories) + [False] * len(numbers)
    models: list[tuple[str, object, object]]
    if metric == "r2":
        boosting = HistGradientBoostingRegressor(categorical_features=native, random_state=0)
        models = [("ridge", linear, Ridge()), ("boosting", trees, boosting)]
        models.append(("forest", filled, RandomForestRegressor(min_samples_leaf=2, random_state=0)))
        if y.min() > 0 and y.skew() > 1:
            models += [
                (f"{n} of the log", c, TransformedTargetRegressor(m, func=np.log, inverse_func=np.exp))
                for n, c, m in models
            ]
    else:
        weights = "balanced" if metric == "balanced_accuracy" else None
        boosting = HistGradientBoostingClassifier(categorical_features=native, class_weight=weights, random_state=0)
        models = [("logistic", linear, LogisticRegression(max_iter=2000, class_weight=weights))]
        models.append(("boosting", trees, boosting))
        forest = RandomForestClassifier(min_samples_leaf=2, class_weight=weights, random_state=0)
        models.append(("forest", filled, forest))
    for name, columns, model in models:
        if name.startswith(("ridge", "logistic")) or numbers or categories:
            yield name, make_pipeline(columns, model)
