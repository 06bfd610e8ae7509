"""MLflow's scoring protocol: POST /invocations, GET /ping, GET /health, GET /version."""

import csv
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from itertools import islice

from flask import Blueprint, Response, current_app, request

from mlops_nb import __version__
from mlops_nb.data.dialect import has_row_numbers, has_trailing_separator, rows_lack_header
from mlops_nb.data.quotes import check_quotes
from mlops_nb.errors import DataError, InputError, TooManyRowsError
from mlops_nb.model.columns import describe_value
from mlops_nb.model.signature import Signature
from mlops_nb.serving.http.errors import MediaTypeError, RequestError, to_json
from mlops_nb.serving.http.body import pop_flag, read_body, read_object, reject_unknown_keys
from mlops_nb.serving.inference.infer import InferenceResult, check_rows, infer, interval_content, records_of
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.inference.models import model_of_query

routes = Blueprint("mlflow", __name__)

CSV = "text/csv"
_EXAMPLE = '{"dataframe_split": {"columns": [...], "data": [[...], ...]}}'


@routes.get("/ping")
@routes.get("/health")
def ping() -> Response:
    """Return whether a model is loaded: 200, or 503 with the reason."""
    models = current_app.extensions["models"]
    models.require_any()
    if not models.is_single:
        return to_json({"status": "ready"})
    return to_json({"status": "ready", "version": models.default().loaded().version})


@routes.get("/version")
def version() -> Response:
    """Return the version of mlops_nb as text."""
    return Response(__version__, content_type="text/plain; charset=utf-8")


@routes.post("/invocations")
def invocations() -> Response:
    """Return the predictions of a table in one of MLflow's four forms, or as CSV.

    With `"params": {"interval": true}` there are their intervals or sets of labels, too.
    """
    live = model_of_query()
    signature = live.loaded().signature
    if request.mimetype == CSV:
        return to_json({"predictions": records_of(infer(live, _read_csv(signature), "The table").predictions)})
    body = read_object(_EXAMPLE)
    reject_unknown_keys(body, {*_FORMS, "params"})
    with_interval = _read_params(body.get("params"))
    result = _infer_json(live, body, with_interval)
    return to_json(
        {"predictions": records_of(result.predictions)} | (interval_content(result) if with_interval else {})
    )


def _read_params(params) -> bool:
    """Return whether MLflow's parameters of a request ask for intervals; they take nothing else."""
    if params is None:
        return False
    if not isinstance(params, dict):
        raise RequestError(f"'params' must be an object such as {{\"interval\": true}}, got {describe_value(params)}.")
    reject_unknown_keys(params, {"interval"}, "'params'")
    return pop_flag(params, "interval")


def _infer_json(live: LiveModel, body: dict, with_interval: bool) -> InferenceResult:
    given = [form for form in _FORMS if form in body]
    if len(given) != 1:
        seen = " and ".join(map(repr, given)) or "none of them"
        raise RequestError(f"The body must have one of {', '.join(_FORMS)}, got {seen}; send {_EXAMPLE}.")
    return infer(live, _FORMS[given[0]](body[given[0]]), repr(given[0]), interval=with_interval)


def _rows_of_split(table) -> list:
    """Return rows of {"columns": [...], "data": [...]}; without columns they are in the signature's order."""
    if not isinstance(table, dict) or not isinstance(table.get("data"), list):
        raise RequestError(f"'dataframe_split' must be an object with 'data', a list of rows; send {_EXAMPLE}.")
    reject_unknown_keys(table, {"columns", "data", "index"}, "'dataframe_split'")
    columns, rows = table.get("columns"), table["data"]
    check_rows(len(rows), "'dataframe_split'")
    if columns is None:
        for number, row in enumerate(rows):
            if not isinstance(row, list):
                raise RequestError(f"Row {number} of 'data' must be a list of values.", row=number)
        return rows
    if not isinstance(columns, list) or not all(isinstance(c, str) for c in columns) or len({*columns}) < len(columns):
        raise RequestError("'columns' must be a list of different names.")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            raise RequestError(f"Row {number} must be a list of {len(columns)} values, one a column.", row=number)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _rows_of_inputs(inputs) -> list:
    """Return rows of a list, or of an object of columns."""
    if not isinstance(inputs, dict) or not all(isinstance(column, list) for column in inputs.values()):
        return inputs
    lengths = {name: len(column) for name, column in inputs.items()}
    if len({*lengths.values()}) != 1:
        raise RequestError(f"The columns of 'inputs' must have one length and be at least one, got {lengths}.")
    check_rows(max(lengths.values()), "'inputs'")
    return [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]


_FORMS = {
    "dataframe_split": _rows_of_split,
    "dataframe_records": lambda rows: rows,
    "instances": lambda rows: rows,
    "inputs": _rows_of_inputs,
}


def _read_csv(signature: Signature) -> list[dict]:
    """Return rows of a CSV table with a header as texts, which the parser reads; one that is missing is None."""
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8"):
        raise MediaTypeError(f"The charset of {CSV} must be utf-8, got {charset[:40]!r}.")
    names, rows = _csv_rows(signature)
    if signature.dialect is not None:
        missing = frozenset(signature.dialect.missing)
        return [{n: None if text in missing else text for n, text in zip(names, row, strict=True)} for row in rows]
    kinds = {i.name: i.kind for i in signature.inputs}
    converters = [_CONVERTERS.get(kinds.get(name, ""), str) for name in names]
    return [
        {n: value(text) if text else None for n, value, text in zip(names, converters, row, strict=True)}
        for row in rows
    ]


def _csv_rows(signature: Signature) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns and the rows, each with one value a name."""
    max_rows, text = current_app.extensions["settings"].max_rows, ""
    header = request.mimetype_params.get("header", "present").lower()
    if header not in ("present", "absent"):
        raise MediaTypeError(f"The parameter 'header' of {CSV} must be present or absent, got {header[:40]!r}.")
    try:
        text = read_body().decode("utf-8-sig")
        lines = filter(None, csv.reader(StringIO(text, ""), strict=True))
        first: list[str] = [*signature.names] if header == "absent" else next(lines)
        names, *rows = [first, *islice(lines, max_rows + 1)]
    except (UnicodeDecodeError, csv.Error) as e:
        raise RequestError(f"The body is not CSV: {e}{_quote_fault(text)}") from None
    except StopIteration:
        raise RequestError("The body is empty; send a line with the names of the columns, and one a row.") from None
    if len(rows) > max_rows:
        raise TooManyRowsError(f"The table has more than {max_rows:,} rows, the limit. Send them in parts.")
    if not rows:
        raise InputError(
            "The table has no rows: the first line names the columns. Send a row a line below it, or rows alone as "
            "text/csv; header=absent."
        )
    names, rows = _without_trailing(names, rows)
    known = {*signature.names, *signature.ignored}
    if "Unnamed: 0" in known and has_row_numbers([names, *rows]):
        names = ["", *names]
    names = [name.strip() or (f"Unnamed: {n}" if f"Unnamed: {n}" in known else "") for n, name in enumerate(names)]
    if "" in names or len({*names}) < len(names):
        raise RequestError("The first line must name each column once. (pandas: to_csv(index=False))")
    if header == "present" and not known & {*names} and rows_lack_header([names, *rows]):
        raise RequestError(
            "The first line looks like the others; it must name the columns, or the Content-Type must be text/csv; header=absent."
        )
    for number, row in enumerate(rows):
        if len(row) != len(names):
            wanted = (
                f"the first line names {len(names)}" if header == "present" else f"the model has {len(names)} columns"
            )
            raise RequestError(f"Row {number} has {len(row)} values; {wanted}.", row=number)
    return names, rows


def _quote_fault(text: str) -> str:
    """Return the end of a sentence that names the line of a wrong quote."""
    try:
        check_quotes(StringIO(text, "\n"))
    except DataError as e:
        return f"; {e}"
    return "."


def _without_trailing(names: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Return a table without the separator that stands behind the last value of each row."""
    if not has_trailing_separator([names, *rows]):
        return names, rows
    return names if names[-1] else names[:-1], [row[:-1] for row in rows]


def _to_number(text: str) -> int | float | str:
    """Return a number, or the text itself, which is refused later by row and column."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind("" if "_" in text else text)
    return text


def _to_bool(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text.lower(), text)


# of a kind of column; any other kind is text
_CONVERTERS: dict[str, Callable] = {"float": _to_number, "int": _to_number, "bool": _to_bool}
