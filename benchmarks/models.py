"""The models that the service is measured with, each in production in a home of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from mlops_nb.data.tables import load_table, validate
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.columns import rows_of, to_table
from mlops_nb.model.signature import Input, Signature, signature_of
from mlops_nb.model.train import fit
from mlops_nb.settings import Settings
from mlops_nb.spec import load_spec
from mlops_nb.store.registry import Registry

FACTS = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}}
FACTS["evaluation"] = {"metrics": {}, "baseline": {}, "gates": [], "passed": True}
LIMITS = {"logistic": (1.3, 2), "forest": (1.2, 12), "loans": (1.0, 10)}  # against no-op, against textbook


def put_into_production(kind: str, home: Path, names: Sequence[str] = ("bench",)):
    """Fit `kind`, package and promote it under each name; its rows are left in `rows.json`."""
    signature, estimator, X = _loans() if kind == "loans" else _numbers(kind)
    (home / "settings.ini").touch()
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home)}))
    for name in names:
        bundle = write_bundle(home / "bundle", name, estimator, signature, X.tail(1000), X, FACTS)
        registry.promote(name, registry.register(bundle)[0].version)
    registry.close()
    rows = rows_of(signature, to_table(signature, X))
    (home / "rows.json").write_bytes(orjson.dumps(rows))
    (home / "columns.json").write_bytes(orjson.dumps(signature.names))


def _numbers(kind: str):
    """20 features, 10,000 rows."""
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(20)]
    X = pd.DataFrame(rng.normal(size=(10_000, 20)).round(4), columns=names)
    y = (X @ rng.normal(size=20) + rng.normal(size=len(X)) > 0).astype(int)
    kinds = {"logistic": LogisticRegression(), "forest": RandomForestClassifier(100, random_state=0, n_jobs=1)}
    estimator = kinds[kind].fit(X.head(5000), y.head(5000))
    return Signature(tuple(map(Input, names)), "classification", "y", (0, 1)), estimator, X


def _loans():
    """Numbers and categories, with missing values."""
    spec = load_spec("mlops_nb.examples.loans")
    table = validate(load_table(spec.load), spec.schema)
    estimator = fit(spec, table[spec.inputs], table[spec.target], seed=0).estimator
    return signature_of(spec, estimator), estimator, table[spec.inputs]
