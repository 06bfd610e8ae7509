"""MLflow's scoring protocol: POST /invocations, GET /ping."""

from flask import Blueprint, Response, current_app

from serve.errors import RequestError, to_json
from serve.rows import ask, only_keys, read_object

routes = Blueprint("mlflow", __name__)

_EXAMPLE = '{"dataframe_split": {"columns": [...], "data": [[...], ...]}}'


@routes.get("/ping")
def ping() -> Response:
    """Is there a model to answer with? 200, or 503 and why not."""
    predictor = current_app.extensions["live_model"].loaded()
    return to_json({"status": "ready", "version": predictor.version})


@routes.post("/invocations")
def invocations() -> Response:
    """Predictions of a table in one of MLflow's four forms."""
    current_app.extensions["live_model"].loaded()
    body = read_object(_EXAMPLE)
    only_keys(body, {*_FORMS, "params"})
    if body.get("params") not in (None, {}):
        raise RequestError("The model takes no 'params': leave them out.")
    given = [form for form in _FORMS if form in body]
    if len(given) != 1:
        seen = " and ".join(map(repr, given)) or "none of them"
        raise RequestError(f"The body must have one of {', '.join(_FORMS)}, got {seen}; send {_EXAMPLE}.")
    said = ask(_FORMS[given[0]](body[given[0]]), repr(given[0]))
    return to_json({"predictions": said.answer.prediction.tolist()})


def _of_split(table) -> list:
    """Rows of {"columns": [...], "data": [...]}; without columns they are in the signature's order."""
    if not isinstance(table, dict) or not isinstance(table.get("data"), list):
        raise RequestError(f"'dataframe_split' must be an object with 'data', a list of rows; send {_EXAMPLE}.")
    only_keys(table, {"columns", "data", "index"}, "'dataframe_split'")
    columns, rows = table.get("columns"), table["data"]
    if columns is None:
        return rows
    if not isinstance(columns, list) or not all(isinstance(c, str) for c in columns) or len({*columns}) < len(columns):
        raise RequestError("'columns' must be a list of different names.")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            raise RequestError(f"Row {number} must be a list of {len(columns)} values, one a column.", row=number)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _of_inputs(inputs) -> list:
    """Rows of a list, or of an object of columns."""
    if not isinstance(inputs, dict) or not all(isinstance(column, list) for column in inputs.values()):
        return inputs
    lengths = {name: len(column) for name, column in inputs.items()}
    if len({*lengths.values()}) != 1:
        raise RequestError(f"The columns of 'inputs' must have one length and be at least one, got {lengths}.")
    return [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]


_FORMS = {
    "dataframe_split": _of_split,
    "dataframe_records": lambda rows: rows,
    "instances": lambda rows: rows,
    "inputs": _of_inputs,
}
