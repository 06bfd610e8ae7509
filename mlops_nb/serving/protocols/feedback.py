"""POST /feedback: the true labels of earlier predictions."""

from flask import Blueprint, Response, current_app

from mlops_nb.data.dialect import Dialect
from mlops_nb.errors import InputError, MlopsError, TooManyRowsError
from mlops_nb.model.columns import describe_value, describe_values
from mlops_nb.model.signature import Signature
from mlops_nb.monitor.log_records import SERVICE_ID, find_id_problem
from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.http.body import reject_unknown_keys, read_object
from mlops_nb.serving.http.request_id import tag_of
from mlops_nb.serving.inference.models import model_of

routes = Blueprint("feedback", __name__)

_EXAMPLE = '{"labels": [{"id": "...", "label": ...}, ...]}'


def pattern_of(model: str) -> str:
    """Return the pattern of the ids of a model's predictions; those of earlier releases have no tag, or no number of rows."""
    return f"^[0-9a-f]{{28}}({tag_of(model)}([0-9a-f]{{1,8}})?)?-[0-9]{{1,8}}$"


class LogError(MlopsError):
    """The prediction log is full."""

    code = "log_full"


@routes.post("/feedback")
@routes.post("/models/<name>/feedback")
def feedback(name: str | None = None) -> Response:
    """Record the true label of one prediction, or of many; the predictions need not be in the database yet."""
    live, log = model_of(name), current_app.extensions["log"]
    signature = live.loaded().signature
    body = read_object(_EXAMPLE)
    labels = _labels(body)
    values = [_read(row, entry, signature, live.name) for row, entry in enumerate(labels)]
    if not log.label([(entry["id"], value) for entry, value in zip(labels, values, strict=True)]):
        raise LogError("The prediction log is full: its database has been away for long. Send the labels again later.")
    return to_json({"accepted": len(labels)}, 202)


def _labels(body: dict) -> list:
    """Return one label or many as a list."""
    if body.keys() & {"id", "label"}:
        reject_unknown_keys(body, {"id", "label"})
        return [body]
    reject_unknown_keys(body, {"labels"}, others={"id", "label"})
    labels, limit = body.get("labels"), current_app.extensions["settings"].max_rows
    if not isinstance(labels, list) or not labels:
        raise RequestError(f'The body must be one label, {{"id": ..., "label": ...}}, or {_EXAMPLE}.')
    if len(labels) > limit:
        raise TooManyRowsError(
            f"'labels' has {len(labels):,} entries; at most {limit:,} are taken. Send them in parts."
        )
    return labels


def _read(row: int, entry, signature: Signature, model: str):
    """Return the label; raise `InputError` for what is no id of the model's, or no value that it could predict."""
    if not isinstance(entry, dict) or entry.keys() != {"id", "label"}:
        raise InputError(f"Label {row} must be an object with 'id' and 'label'.", row=row)
    found = SERVICE_ID.fullmatch(entry["id"]) if isinstance(entry["id"], str) else None
    if found is None or "shadow" in entry["id"]:
        raise InputError(f"Label {row}: 'id' must be one of the 'ids' in a response of /predict.", row=row)
    _check_model(row, found["tag"], model)
    if problem := find_id_problem(entry["id"]):
        raise InputError(f"Label {row}: there is no row {found['row']}: {problem}.", row=row)
    if not signature.outputs:
        return _read_value(f"Label {row}", row, entry["label"], signature)
    parts, label = signature.parts, entry["label"]
    if not isinstance(label, dict) or label.keys() != parts.keys():
        seen = f"an object with {[*label]}" if isinstance(label, dict) else describe_value(label)
        message = f"Label {row} must be an object with a value of each output, {[*parts]}; got {seen[:200]}."
        raise InputError(f"{message} Send it when all are known.", row=row)
    return {name: _read_value(f"Label {row}, {name!r}", row, label[name], part) for name, part in parts.items()}


def _check_model(row: int, tag: str | None, model: str):
    """Raise `InputError` for the id of a prediction of another model, which the label is not for."""
    if tag in (None, tag_of(model)):
        return
    names = current_app.extensions["models"].by_name
    other = next((name for name in names if tag_of(name) == tag), None)
    whose = "another model" if other is None else f"the model {other!r}"
    message = f"Label {row}: 'id' is of a prediction of {whose}, not of {model!r}"
    raise InputError(f"{message}. Send the label to /models/{other or '<name>'}/feedback.", row=row)


def _read_value(where: str, row: int, given, signature: Signature):
    """Return the label of one output; raise `InputError` for a value that the model could not predict."""
    label = _in_dialect(given, signature)
    if signature.task == "anomaly":
        if not isinstance(label, int | float) or label not in (0, 1):
            raise InputError(
                f"{where}: expected 1 or true for an anomaly, 0 or false for a normal row, got {describe_value(label)}.",
                row=row,
            )
        return int(label)
    if signature.classes is None:
        if isinstance(label, bool) or not isinstance(label, int | float) or not abs(label) < float("inf"):
            raise InputError(
                f"{where}: expected a number, as {signature.output!r} is, got {describe_value(label)}.", row=row
            )
    elif not any(type(label) is type(known) and label == known for known in signature.classes):
        known = describe_values(signature.classes)
        raise InputError(f"{where}: expected one of {known}, got {describe_value(label)}.", row=row)
    return label


def _in_dialect(label, signature: Signature):
    """Return a text as the number, the boolean, or in the spelling, that training made of it; any other label as it is."""
    dialect, name = signature.dialect, signature.output
    if not isinstance(label, str):
        return label
    import pyarrow

    if signature.classes and all(isinstance(known, bool) for known in signature.classes):
        read = (dialect or Dialect()).read(pyarrow.array([label], "string"), "bool", name)[0].to_pylist()[0]
        return label if read is None else read
    if dialect is None:
        return label
    if signature.classes is None and dialect.is_clothed(name):
        [number] = dialect.read(pyarrow.array([label], "string"), "float", name)[0].to_pylist()
        return label if number is None else number
    return dialect.respell(name, [label])[0] if name in dialect.spellings else label
