"""Random tables of mixed kinds and dirt: drafted, fitted, and every raw row of each is read as training read it."""

import json
import sys
from importlib import import_module

import pytest

from mlops_nb.data.tables import DIALECT, dialect_of, load_table, validate
from mlops_nb.model.columns import input_frame, rows_of, to_table
from mlops_nb.model.signature import signature_of
from mlops_nb.model.train import fit
from mlops_nb.project.scaffold import new_project
from tests.model.ways import in_a_job, one_by_one
from tests.new.random_tables import random_table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),  # of a trial on few rows
]
SEEDS = [
    0,
    1,
    *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 6)),
    *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(6, 30)),
]


@pytest.mark.parametrize("seed", SEEDS)
def test_raw_rows_of_a_table_are_those_that_trained_its_model(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, rows, text = random_table(tmp_path, seed)
    made = new_project(f"drafted_{seed}", given.data, given.target, minutes=0.05)
    monkeypatch.setenv("MLOPS_HOME", str(made.folder))
    monkeypatch.syspath_prepend(str(made.folder))
    monkeypatch.chdir(made.folder)
    spec = import_module(f"drafted_{seed}.model").spec
    try:
        table = validate(load_table(spec.load, None, spec.schema, spec.dialect), spec.schema, dialect=spec.dialect)
        estimator = fit(spec, input_frame(spec, table), table[spec.target], folds=0).estimator
        signature = signature_of(spec, estimator, dialect_of(table).get(DIALECT, {}))
    finally:
        for name in [name for name in sys.modules if name.startswith(f"drafted_{seed}")]:
            del sys.modules[name]
    trained = dict(enumerate(rows_of(signature, to_table(signature, table))))
    assert len(trained) == len(rows)
    assert one_by_one(signature, rows) == (trained, {})
    typed = [dict(zip(signature.names, row, strict=True)) for row in trained.values()]
    assert one_by_one(signature, json.loads(json.dumps(typed))) == (trained, {})
    assert in_a_job(signature, text, tmp_path, chunk_rows=64) == (trained, {})
