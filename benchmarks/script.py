"""The peer of a build: one script that checks, splits, cross-validates, fits, judges and saves, without notebooks."""

import sys
from pathlib import Path

import skops.io

from mlops_nb.data.tables import load_table, split, validate
from mlops_nb.model.columns import to_table
from mlops_nb.model.engine import SklearnEngine
from mlops_nb.model.evaluate import evaluate
from mlops_nb.model.signature import signature_of
from mlops_nb.model.train import fit
from mlops_nb.spec import load_spec


def main(module: str, target: Path):
    spec = load_spec(module)
    table = validate(load_table(spec.load), spec.schema)
    train, test = split(table, spec.target, seed=0, stratify=True)
    training = fit(spec, train[spec.inputs], train[spec.target], seed=0)
    signature = signature_of(spec, training.estimator)
    answer = SklearnEngine(training.estimator, signature).predict(to_table(signature, test))
    evaluation = evaluate(spec, test, test[spec.target], train[spec.target], answer)
    skops.io.dump(training.estimator, target)
    print(*evaluation.gates, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
