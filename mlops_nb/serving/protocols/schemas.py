"""JSON schemas of a model's inputs and outputs, made from its signature."""

import sys
from typing import Any

from mlops_nb.data.dialect import Dialect
from mlops_nb.data.time_numbers import TIME_UNITS
from mlops_nb.model.columns import is_time_number
from mlops_nb.model.signature import Input, Signature
from mlops_nb.spec import ALARM

_JSON_TYPES = {"float": "number", "int": "integer", "bool": "boolean", "string": "string", "datetime": "string"}


def object_of(properties: dict, required: list[str] | None = None) -> dict:
    """Return the schema of an object with these properties and no others; all are required by default."""
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def list_of(kind: str) -> dict:
    """Return the schema of a list of one JSON type."""
    return {"type": "array", "items": {"type": kind}}


def non_empty_list(items: dict) -> dict:
    """Return the schema of a list with at least one item."""
    return {"type": "array", "items": items, "minItems": 1}


def output_schema(signature: Signature) -> dict:
    """Return the schema of one prediction; of several outputs an object."""
    if signature.outputs:
        return object_of({name: output_schema(part) for name, part in signature.parts.items()})
    return {"type": "number"} if signature.classes is None else {"enum": list(signature.classes)}


def label_schema(signature: Signature) -> dict:
    """Return the schema of one true label."""
    return {"enum": [0, 1, False, True]} if signature.task == "anomaly" else output_schema(signature)


def record_schema(signature: Signature) -> dict:
    """Return the schema of one prediction in a protocol that has one list of them."""
    score = output_schema(signature)
    return object_of({"prediction": score, ALARM: {"type": "boolean"}}) if signature.task == "anomaly" else score


def interval_schemas(signature: Signature) -> dict:
    """Return the schemas of the fields that a response with intervals has; a row with an error has null."""
    level = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    if signature.classes is None:
        bounds = list_of("number") | {"minItems": 2, "maxItems": 2}
        return {"level": level, "interval": {"type": "array", "items": {"anyOf": [bounds, {"type": "null"}]}}}
    labels = non_empty_list(output_schema(signature)) | {"uniqueItems": True}
    return {"level": level, "prediction_set": {"type": "array", "items": {"anyOf": [labels, {"type": "null"}]}}}


def input_schema(i: Input, dialect: Dialect | None = None) -> dict:
    """Return the schema of one column; a time or a code that the dialect reads from numbers may be one."""
    is_number = is_time_number(i, dialect)
    width = dialect.codes.get(i.name) if dialect is not None and i.kind == "string" and i.unseen == "ignore" else None
    kinds = [
        _JSON_TYPES[i.kind],
        *(["number"] if is_number else []),
        *(["integer"] if width else []),
        *([] if i.required else ["null"]),
    ]
    schema: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    limits = {"minimum": i.minimum, "maximum": i.maximum, "exclusiveMinimum": i.above, "exclusiveMaximum": i.below}
    schema |= {word: value for word, value in limits.items() if value is not None}
    if i.kind == "float":
        schema = {"minimum": -sys.float_info.max, "maximum": sys.float_info.max} | schema
    if i.kind == "int":
        schema = {"exclusiveMinimum": -(2**63), "exclusiveMaximum": 2**63} | schema
    if i.categories is not None and i.unseen == "error":
        schema["enum"] = [*i.categories, *([] if i.required else [None])]
    if i.kind == "datetime":
        schema |= {"format": "date-time"} if i.format is None else {"description": f"ISO 8601, or as in {i.format}"}
    if width:
        schema |= {
            "minimum": 0,
            "exclusiveMaximum": 10**width,
            "description": f"{width} digits; a number gets zeros in front",
        }
    if is_number and dialect is not None:
        schema["description"] = f"ISO 8601, or {TIME_UNITS[dialect.times[i.name]]}"
    return schema


def flat_row_schema(signature: Signature) -> dict:
    """Return the schema of one row as a list, in the signature's order."""
    values = [input_schema(i, signature.dialect) for i in signature.inputs]
    return {"type": "array", "prefixItems": values, "items": False, "minItems": len(values)}


def row_schema(signature: Signature) -> dict:
    """Return the schema of one row as an object; columns that the model ignores may have any value."""
    properties = {i.name: input_schema(i, signature.dialect) for i in signature.inputs} | {
        name: {} for name in signature.ignored
    }
    schema = object_of(properties, [i.name for i in signature.inputs if i.required])
    return schema | ({} if signature.dialect is None else {"description": _TEXTS})


_TEXTS = "A column of numbers, booleans or times takes texts as well; `dialect` in `GET /model` says how they are read."


def rows_schema(signature: Signature) -> dict:
    """Return the schema of rows: lists, objects, or one row as itself."""
    flat = flat_row_schema(signature)
    row = {"$ref": "#/components/schemas/Row"}
    several = [{"type": "array", "items": kind, "minItems": 1} for kind in (row, flat)]
    return {"anyOf": [*several, row, flat]}


def split_schema(signature: Signature) -> dict:
    """Return the schema of `dataframe_split`; that a row has one value a name, and its type, is beyond a schema."""
    unnamed = object_of(
        {"columns": {"type": "null"}, "data": non_empty_list(flat_row_schema(signature)), "index": {}}, ["data"]
    )
    required: list[Any] = [{"contains": {"const": i.name}} for i in signature.inputs if i.required]
    names: dict[str, Any] = {"items": {"enum": [*signature.names, *signature.ignored]}, "uniqueItems": True}
    names |= {"type": "array", "minItems": 1, "allOf": required or [True]}
    named = object_of({"columns": names, "data": non_empty_list({"type": "array"}), "index": {}}, ["columns", "data"])
    return {"anyOf": [unnamed, named]}


def columns_schema(signature: Signature) -> dict:
    """Return the schema of one list a column; that all have one length is beyond a schema."""
    properties = {i.name: non_empty_list(input_schema(i, signature.dialect)) for i in signature.inputs} | {
        name: non_empty_list({}) for name in signature.ignored
    }
    return object_of(properties, [i.name for i in signature.inputs if i.required]) | {"minProperties": 1}
