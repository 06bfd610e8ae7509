"""The ways of a table to a model, but for training, which each test has for its own schema."""

from types import SimpleNamespace

import numpy as np

from mlops_nb.batch.sources import open_source
from mlops_nb.errors import InputError
from mlops_nb.model.columns import rows_of
from mlops_nb.model.parser import InputParser
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Predictions
from mlops_nb.serving.protocols.mlflow import _read_csv


class NoModel(Predictor):
    """A predictor of zeros."""

    def __init__(self, signature):
        self.signature, self._parser = signature, InputParser(signature)
        self.engine = SimpleNamespace(predict=lambda table: Predictions(np.zeros(len(rows_of(signature, table)))))


def one_by_one(signature, rows: list[dict]) -> tuple[dict, dict]:
    """What a service makes of each row."""
    parser, taken, refused = InputParser(signature), {}, {}
    for number, row in enumerate(rows):
        try:
            taken[number] = rows_of(signature, parser.parse([row]))[0]
        except InputError as e:
            refused[number] = str(e).removeprefix("Row 0, ")
    return taken, refused


def in_a_job(signature, text: str, folder, chunk_rows: int = 4) -> tuple[dict, dict]:
    (folder / "in.csv").write_text(text)
    source = open_source(str(folder / "in.csv"), None, folder, chunk_rows)
    taken, refused = {}, {}
    for chunk in source.chunks:
        data = source.read(chunk, signature, [])
        found = NoModel(signature).predict_valid(data.table.select(signature.names), data.convert)
        refused |= {int(data.row_numbers[row]): reason for row, reason in found.refused.items()}
        if found.table is not None:
            numbers = data.row_numbers[found.rows].tolist()
            taken |= dict(zip(numbers, rows_of(signature, found.table), strict=True))
    return taken, refused


def in_a_request(app, signature, text: str) -> tuple[dict, dict]:
    with app.test_request_context("/invocations", method="POST", data=text.encode(), content_type="text/csv"):
        return one_by_one(signature, _read_csv(signature))
