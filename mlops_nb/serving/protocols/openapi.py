"""GET /openapi.json: what the service takes and answers, made from the signature of the loaded model."""

import sys

from flask import Blueprint, Response, current_app
from werkzeug.exceptions import HTTPException

from mlops_nb.monitor.timeseries import WINDOWS
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Input, Signature, label_text
from mlops_nb.serving.protocols.arrow import ARROW
from mlops_nb.serving.http.moves import CSRF_HEADER, DASHBOARD_DATA, DEFAULT_HOURS, MAX_REASON_LENGTH
from mlops_nb.serving.http.errors import to_json
from mlops_nb.serving.protocols.feedback import PATTERN
from mlops_nb.serving.protocols.mlflow import CSV
from mlops_nb.serving.protocols.tensors import DATATYPES, DTYPES
from mlops_nb.serving.protocols.open_inference import INPUTS, outputs_of

routes = Blueprint("openapi", __name__)

_TYPES = {"float": "number", "int": "integer", "bool": "boolean", "string": "string", "datetime": "string"}
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
    "required": ["error", "code"],
}
_V2_ERROR = _ERROR | {"properties": {"error": {"type": "string"}}, "required": ["error"], "additionalProperties": False}


@routes.get("/openapi.json")
def openapi() -> Response:
    """OpenAPI 3.1; it changes with the model."""
    live = current_app.extensions["live_model"]
    description = describe(live.name, live.loaded())
    description["paths"] = {path: of for path, of in description["paths"].items() if _is_served(path, of)}
    return to_json(_with_keys(description) if current_app.extensions["keys"].has_any else description)


def _is_served(path: str, methods: dict) -> bool:
    """Whether the application has the protocol that a path belongs to."""
    try:
        current_app.url_map.bind("").match(path, next(iter(methods)).upper())
    except HTTPException:
        return False
    return True


def describe(name: str, predictor: Predictor) -> dict:
    """The whole description of a service without keys."""
    signature = predictor.signature
    rows = {"$ref": "#/components/schemas/Rows"}
    answers = {"type": "array", "items": _value(signature)}
    predictions = _object({"predictions": answers})
    ids = {"type": ["array", "null"], "items": {"type": "string"}}
    body = {"features": rows, "probability": {"enum": [False], "default": False}}
    said = {"prediction": answers, "ids": ids, "model": {"const": name}, "version": {"type": "integer"}}
    sure = {}
    if signature.probability:
        body["probability"]["enum"] = [False, True, "named"]
        named = _object({label_text(label): {"type": "number"} for label in signature.classes})
        forms = [{"type": "array", "items": form} for form in (_list("number"), named)]
        sure = {"probability": {"anyOf": forms}, "classes": answers}
    inputs = {"anyOf": [rows, _columns(signature)]}
    forms = {"dataframe_split": _split(signature), "dataframe_records": rows, "instances": rows, "inputs": inputs}
    params = {"params": {"type": ["object", "null"], "maxProperties": 0}}
    invocation = {"oneOf": [_object({form: schema} | params, [form]) for form, schema in forms.items()]}
    label = _object({"id": {"type": "string", "pattern": PATTERN}, "label": _value(signature)})
    labels = {"oneOf": [label, _object({"labels": {"type": "array", "items": label, "minItems": 1}})]}
    instances = _object({"instances": rows, "signature_name": {}}, ["instances"])
    predict = _post("Predict rows", _object(body, ["features"]), _object(said | sure, list(said)))
    for holder in (predict["post"]["requestBody"], predict["post"]["responses"]["200"]):
        holder["content"][ARROW] = {"schema": {"type": "string", "format": "binary"}}
    invocations = _post("Predict as MLflow's clients ask", invocation, predictions)
    invocations["post"]["requestBody"]["content"][CSV] = {"schema": {"type": "string", "minLength": 1}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{name}, version {predictor.version}",
            "version": str(predictor.version),
            "description": f"Answers with `{signature.output}`: {signature.task}.",
        },
        "paths": {
            "/predict": predict,
            "/invocations": invocations,
            "/feedback": _post("Say what was true", labels, _object({"accepted": {"type": "integer"}}), 202),
            f"/v1/models/{name}:predict": _post("Predict as KServe's clients ask", instances, predictions),
            "/v1/models": _get("The name of the model"),
            f"/v1/models/{name}": _get("Can the model answer?"),
            "/ping": _get("Can the service answer?"),
            "/health": _get("Can the service answer?"),
            "/version": _text("The version of this software", "text/plain"),
            **_v2_paths(name, predictor),
            "/model": _get("Signature, version and provenance"),
            "/health/live": _get("Does the process answer?"),
            "/health/ready": _get("Has it a proven model?"),
            "/metrics": _text("What Prometheus asks for", "text/plain", "application/openmetrics-text"),
            "/openapi.json": _get("This description"),
            **_dashboard_paths(),
        },
        "components": {
            "schemas": {"Row": _row(signature), "Rows": _rows(signature), "Error": _ERROR, "V2Error": _V2_ERROR},
            "examples": {"row": {"value": _example(predictor)}},
        },
    }


def _dashboard_paths() -> dict:
    """What the dashboard shows, and its moves."""
    words = {"type": "string", "enum": [*map(str, WINDOWS)], "default": str(DEFAULT_HOURS)}
    hours = {"name": "hours", "in": "query", "schema": words}
    data = _get("What the dashboard shows")
    data["get"] |= {"parameters": [hours], "responses": data["get"]["responses"] | _errors(400)}
    mark = {"name": CSRF_HEADER, "in": "header", "required": True, "schema": {"const": "move"}}
    reason = {"type": "string", "minLength": 1, "maxLength": MAX_REASON_LENGTH, "pattern": "[^\\s]"}
    facts = {"expected": {"type": ["integer", "null"]}, "reason": reason}
    texts = {key: {"type": "string"} for key in ("alias", "action", "actor", "reason", "at")}
    numbers = {key: {"type": ["integer", "null"]} for key in ("from_version", "to_version")}
    paths = {
        "/admin/promote": _post(
            "Promote a version", _object({"version": {"type": "integer", "minimum": 1}} | facts), {}
        ),
        "/admin/rollback": _post("Roll production back", _object(facts), {}),
    }
    for route in paths.values():
        route["post"]["parameters"] = [mark]
        route["post"]["responses"] |= _errors(403, 404, 409) | {
            "200": {"description": "The move", **_json(_object(texts | numbers))}
        }
    return {DASHBOARD_DATA: data} | paths


def _with_keys(description: dict) -> dict:
    """How to send a key, and to which routes."""
    header = {"WWW-Authenticate": {"schema": {"const": "Bearer"}, "required": True}}
    description["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    address, keys = current_app.url_map.bind(""), current_app.extensions["keys"]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            rule, _ = address.match(path, method.upper(), return_rule=True)
            if keys.is_required(rule.rule):
                operation["security"] = [{"bearer": []}, {"header": []}]
                refused = _errors(401, 403, shape="V2Error" if path.startswith("/v2") else "Error")
                refused["401"]["headers"] = header
                operation["responses"] = operation["responses"] | refused
    return description


def _example(predictor: Predictor) -> dict:
    """The first golden row: a row of the training data's kind that is known to get an answer."""
    try:
        golden = predictor.bundle.golden()
    except (OSError, ValueError):  # it was there when the model was loaded; what is served is in memory
        return {}
    return dict(zip(predictor.signature.names, golden["features"][0], strict=True))


def _rows(signature: Signature) -> dict:
    """Rows as lists, as objects, or one row as itself."""
    flat = _flat(signature)
    row = {"$ref": "#/components/schemas/Row"}
    several = [{"type": "array", "items": kind, "minItems": 1} for kind in (row, flat)]
    return {"anyOf": [*several, row, flat]}


def _flat(signature: Signature) -> dict:
    """One row as a list, in the signature's order."""
    values = [_input(i) for i in signature.inputs]
    return {"type": "array", "prefixItems": values, "items": False, "minItems": len(values)}


def _row(signature: Signature) -> dict:
    """One row as an object; the columns that the model has no use for may be anything."""
    properties = {i.name: _input(i) for i in signature.inputs} | {name: {} for name in signature.ignored}
    return _object(properties, [i.name for i in signature.inputs if i.required])


def _split(signature: Signature) -> dict:
    """Rows without names, or with: that a row has one value a name, and of which kind, no schema can say."""
    unnamed = _object({"columns": {"type": "null"}, "data": _some(_flat(signature)), "index": {}}, ["data"])
    required = [{"contains": {"const": i.name}} for i in signature.inputs if i.required]
    names = {"items": {"enum": [*signature.names, *signature.ignored]}, "uniqueItems": True}
    names |= {"type": "array", "minItems": 1, "allOf": required or [True]}
    named = _object({"columns": names, "data": _some({"type": "array"}), "index": {}}, ["columns", "data"])
    return {"anyOf": [unnamed, named]}


def _columns(signature: Signature) -> dict:
    """One list a column, all of one length, which no schema can say."""
    properties = {i.name: _some(_input(i)) for i in signature.inputs} | {name: _some({}) for name in signature.ignored}
    return _object(properties, [i.name for i in signature.inputs if i.required]) | {"minProperties": 1}


def _input(i: Input) -> dict:
    """The JSON schema of one column."""
    kind = _TYPES[i.kind]
    schema = {"type": kind if i.required else [kind, "null"]}
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
    return schema


def _v2_paths(name: str, predictor: Predictor) -> dict:
    """The Open Inference Protocol; its errors have a shape of their own."""
    tensors, said = _tensors(), _tensors_said(name, predictor.signature)
    outputs = [*outputs_of(predictor.signature)]
    wanted = _object(
        {"name": {"enum": outputs}, "parameters": _object({"binary_data": {"type": "boolean"}}, [])}, ["name"]
    )
    body = {"id": {"type": "string"}, "inputs": tensors, "outputs": {"type": "array", "items": wanted}}
    body["parameters"] = {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}}
    infer = _post("Predict as the clients of the Open Inference Protocol ask", _object(body, ["inputs"]), said)
    infer["post"]["responses"]["200"]["content"]["application/octet-stream"] = {}
    infer["post"]["requestBody"]["content"]["application/json"]["example"] = _v2_example(predictor)
    facts = {key: {"type": "string"} for key in ("name", "datatype")} | {"shape": _list("integer")}
    listed = {"type": "array", "items": _object(facts)}
    model = _object({"name": {"const": name}, "versions": _list("string"), "platform": {"type": "string"}} | {
        "inputs": listed, "outputs": listed,
    })  # fmt: skip
    server = _object({"name": {"type": "string"}, "version": {"type": "string"}, "extensions": _list("string")})
    paths = {"/v2": _get("What answers", server), "/v2/health/live": _get("Does the process answer?")}
    paths["/v2/health/ready"] = _get("Has it a proven model?")
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{predictor.version}"):
        paths |= {path: _get("What the model takes and answers, as tensors", model), f"{path}/infer": infer}
        paths[f"{path}/ready"] = _get("Can the model answer?")
    for route in paths.values():
        for operation in route.values():
            operation["responses"] |= _errors(*_statuses(operation), shape="V2Error")
    return paths


def _tensors() -> dict:
    """The inputs: one tensor of all columns or one a column; that `shape` is the size of `data` no schema can say."""
    shape = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 2}
    tensor = {"name": {"type": "string", "minLength": 1}, "shape": shape}
    size = {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}}
    kinds = dict.fromkeys(DTYPES, "integer") | {"FP16": "number", "FP32": "number", "FP64": "number"}
    kinds |= {"BOOL": "boolean", "BYTES": "string"}
    in_json = {"type": "object", "properties": {"binary_data_size": {"type": "null"}}}
    forms = [
        _object(tensor | {"datatype": {"enum": DATATYPES}, "parameters": size | {"required": ["binary_data_size"]}})
    ]
    for kind in sorted({*kinds.values()}):
        value = {"type": [kind, "null"]}
        data = {"type": "array", "items": {"anyOf": [value, {"type": "array", "items": value}]}}
        datatype = {"enum": [name for name in DATATYPES if kinds[name] == kind]}
        properties = tensor | {"datatype": datatype, "data": data, "parameters": in_json}
        forms.append(_object(properties, ["name", "shape", "datatype", "data"]))
    return {"type": "array", "minItems": 1, "items": {"anyOf": forms}}


def _tensors_said(name: str, signature: Signature) -> dict:
    """The outputs: those in JSON have `data`, those in bytes say how many."""
    outputs = []
    for output, (datatype, _) in outputs_of(signature).items():
        facts = {"name": {"const": output}, "datatype": {"const": datatype}, "shape": _list("integer")}
        sized = _object({"binary_data_size": {"type": "integer"}})
        outputs += [_object(facts | {"data": {"type": "array"}}), _object(facts | {"parameters": sized})]
    said = {"model_name": {"const": name}, "model_version": {"type": "string"}, "id": {"type": "string"}}
    said["outputs"] = {"type": "array", "items": {"anyOf": outputs}}
    return _object(said, ["model_name", "model_version", "outputs"])


def _v2_example(predictor: Predictor) -> dict:
    """The first golden row, one tensor a column."""
    kinds, row = {i.name: INPUTS[i.kind] for i in predictor.signature.inputs}, _example(predictor)
    tensors = [{"name": n, "datatype": kinds[n], "shape": [1], "data": [value]} for n, value in row.items()]
    return {"inputs": tensors}


def _value(signature: Signature) -> dict:
    return {"type": "number"} if signature.classes is None else {"enum": list(signature.classes)}


def _some(items: dict) -> dict:
    return {"type": "array", "items": items, "minItems": 1}


def _list(kind: str) -> dict:
    return {"type": "array", "items": {"type": kind}}


def _object(properties: dict, required: list[str] | None = None) -> dict:
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _json(schema: dict) -> dict:
    return {"content": {"application/json": {"schema": schema}}}


def _statuses(operation: dict) -> list[int]:
    return [int(status) for status in operation["responses"] if status >= "400"]


def _errors(*statuses: int, shape: str = "Error") -> dict:
    words = {400: "What was sent does not fit", 401: "No key", 403: "Not a key for this"}
    words |= {404: "No such version", 409: "It cannot be moved there, or was moved meanwhile"}
    words |= {413: "Too many rows or bytes", 415: "Not of a type that is taken", 503: "No model yet"}
    return {str(s): {"description": words[s], **_json({"$ref": f"#/components/schemas/{shape}"})} for s in statuses}


def _post(summary: str, takes: dict, answers: dict, status: int = 200) -> dict:
    responses = {str(status): {"description": "The answer", **_json(answers)}, **_errors(400, 413, 415, 503)}
    return {"post": {"summary": summary, "requestBody": {"required": True, **_json(takes)}, "responses": responses}}


def _text(summary: str, *kinds: str) -> dict:
    answer = {"description": "The answer", "content": {kind: {"schema": {"type": "string"}} for kind in kinds}}
    return {"get": {"summary": summary, "responses": {"200": answer}}}


def _get(summary: str, answers: dict | None = None) -> dict:
    answer = {"description": "The answer", **_json(answers or {"type": "object"})}
    return {"get": {"summary": summary, "responses": {"200": answer, **_errors(503)}}}
