"""GET /openapi.json: an OpenAPI description of the service, made from the signature of the loaded model."""

# more than 300 lines: one document, route after route

from typing import Any

import orjson
from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import HTTPException

from mlops_nb import __version__
from mlops_nb.errors import BundleError
from mlops_nb.monitor.time_buckets import WINDOWS
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Signature, label_text
from mlops_nb.serving.http.media_types import ARROW
from mlops_nb.serving.http.moves import CSRF_HEADER, DASHBOARD_DATA, DEFAULT_HOURS, MAX_REASON_LENGTH
from mlops_nb.serving.http.errors import to_json
from mlops_nb.serving.http.query import TAKEN
from mlops_nb.serving.inference.models import ServedModels, model_of_query
from mlops_nb.serving.protocols.feedback import pattern_of
from mlops_nb.serving.protocols.mlflow import CSV
from mlops_nb.serving.protocols.schemas import (
    columns_schema,
    input_schema,
    interval_schemas,
    label_schema,
    list_of,
    non_empty_list,
    object_of,
    output_schema,
    record_schema,
    row_schema,
    rows_schema,
    split_schema,
)
from mlops_nb.spec import ALARM
from mlops_nb.serving.protocols.tensors import DATATYPES, DTYPES
from mlops_nb.serving.protocols.open_inference import INPUTS, outputs_of

routes = Blueprint("openapi", __name__)

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
    "required": ["error", "code"],
}
_V2_ERROR = _ERROR | {"properties": {"error": {"type": "string"}}, "required": ["error"], "additionalProperties": False}


@routes.get("/openapi.json")
def openapi() -> Response:
    """Return a description in OpenAPI 3.1, which changes with the model."""
    models: ServedModels = current_app.extensions["models"]
    if models.is_single or "model" in request.args:
        live = model_of_query()
        description = describe(live.name, live.loaded())
        _add_model_parameter(description["paths"], [live.name], False)
    else:
        description = describe_all(models)
        _add_model_parameter(description["paths"], [*models.by_name], models.first is None)
    description["paths"] = {path: of for path, of in description["paths"].items() if _is_served(path, of)}
    description["tags"] = [{"name": name} for name in GROUPS]
    for path, methods in description["paths"].items():
        for operation in methods.values():
            operation["tags"] = [_group_of(path)]
    return to_json(_with_keys(description) if current_app.extensions["keys"].has_any else description)


GROUPS = ("Predict", "Labels", "Models", "Health and metrics", "Administration")  # of routes, as a page shows them


def _group_of(path: str) -> str:
    """Return the group of a route."""
    if path.endswith(("/predict", ":predict", "/infer", "/invocations")):
        return "Predict"
    if path.endswith("/feedback"):
        return "Labels"
    if path.startswith(("/admin/", "/v2/repository/", "/dashboard/")):
        return "Administration"
    if path.endswith(("/health", "/live", "/ready", "/ping", "/metrics", "/version", "/openapi.json")):
        return "Health and metrics"
    return "Models"


def _add_examples(description: dict, name: str, predictor: Predictor):
    """Give bodies of predictions and labels an example that the service accepts."""
    row = description["components"]["examples"]["row"]["value"]
    if not row:
        return
    bodies: dict[str, dict] = {
        "/predict": {"features": [row]},
        f"/models/{name}/predict": {"features": [row]},
        "/invocations": {"dataframe_records": [row]},
        f"/v1/models/{name}:predict": {"instances": [row]},
    }
    label = predictor.example[1]
    if predictor.signature.task != "anomaly":
        bodies |= {key: {"id": f"{'0' * 28}-0", "label": label} for key in ("/feedback", f"/models/{name}/feedback")}
    for path, body in bodies.items():
        description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"] = body


def _add_model_parameter(paths: dict, names: list[str], required: bool):
    """Describe `?model=` of the routes that take it."""
    for path in (path for path, taken in TAKEN.items() if "model" in taken and path in paths):
        is_required = required and path != "/openapi.json"
        model = {"name": "model", "in": "query", "required": is_required, "schema": {"enum": names}}
        for operation in paths[path].values():
            operation["parameters"] = [*operation.get("parameters", ()), model]
            operation["responses"] |= _errors(400, 404)


def _is_served(path: str, methods: dict) -> bool:
    """Whether the application has the protocol that a path belongs to."""
    try:
        current_app.url_map.bind("").match(path, next(iter(methods)).upper())
    except HTTPException:
        return False
    return True


def describe(name: str, predictor: Predictor) -> dict:
    """Return the description of a service with all protocols and without keys."""
    signature = predictor.signature
    rows = {"$ref": "#/components/schemas/Rows"}
    of_interval = interval_schemas(signature) if signature.interval is not None else {}
    records = {"predictions": {"type": "array", "items": record_schema(signature)}}
    named_predictions = object_of(records | of_interval, ["predictions"])
    null = {"type": "null"}  # at the place of a row that has an error
    places = {"type": "array", "items": {"anyOf": [output_schema(signature), null]}}
    ids = {"type": ["array", "null"], "items": {"type": ["string", "null"]}}
    error = {"row": {"type": "integer"}} | {key: {"type": "string"} for key in ("column", "error", "code")}
    body: dict[str, Any] = {"features": rows, "probability": {"enum": [False], "default": False}}
    explain = {"enum": [False], "default": False} if signature.outputs else {"type": "boolean", "default": False}
    body |= {"on_error": {"const": "request"}, "explain": explain}
    response = {"prediction": places, "ids": ids, "model": {"const": name}, "version": {"type": "integer"}}
    optional: dict = {"errors": {"type": "array", "items": {"type": "object", "properties": error}}}
    effect = {"column": {"type": "string"}, "value": {}, "effect": {"type": "number"}, "error": {"type": "number"}}
    effects = {"mean": {"type": "number"}, "contributions": {"type": "array", "items": object_of(effect)}}
    optional["explanations"] = {"type": "array", "items": {"anyOf": [object_of(effects), null]}}
    if signature.task == "anomaly":
        flag = {"type": "boolean", "description": "Whether the score is above 0; higher is more anomalous."}
        response[ALARM] = {"type": "array", "items": {"anyOf": [flag, null]}}
    if signature.probability:
        body["probability"]["enum"] = [False, True, "named"]
        lists = [{"type": "array", "items": {"anyOf": [form, null]}} for form in _probability_schemas(signature)]
        optional |= {"probability": {"anyOf": lists}, "classes": _classes_schema(signature)}
    body["interval"] = {"enum": [False], "default": False}
    if signature.interval is not None:
        body["interval"]["enum"] = [False, True]
    optional |= of_interval
    inputs = {"anyOf": [rows, columns_schema(signature)]}
    forms = {"dataframe_split": split_schema(signature), "dataframe_records": rows, "instances": rows, "inputs": inputs}
    with_interval = {"interval": {"type": "boolean", "default": False} if signature.interval else {"const": False}}
    params = {"params": {"anyOf": [object_of(with_interval, []), {"type": "null"}]}}
    invocation = {"oneOf": [object_of({form: schema} | params, [form]) for form, schema in forms.items()]}
    label = object_of({"id": {"type": "string", "pattern": pattern_of(name)}, "label": label_schema(signature)})
    labels = {"oneOf": [label, object_of({"labels": {"type": "array", "items": label, "minItems": 1}})]}
    instances = object_of({"instances": rows, "signature_name": {}} | with_interval, ["instances"])
    any_rows = {"type": ["array", "object"], "minItems": 1, "minProperties": 1}
    by_row = object_of(body | {"features": any_rows, "on_error": {"const": "row"}}, ["features", "on_error"])
    forms_of_body = {"anyOf": [object_of(body, ["features"]), by_row]}
    predict = _post("Predict rows", forms_of_body, object_of(response | optional, list(response)))
    for holder in (predict["post"]["requestBody"], predict["post"]["responses"]["200"]):
        holder["content"][ARROW] = {"schema": {"type": "string", "format": "binary"}}
    invocations = _post("Predict by MLflow's protocol", invocation, named_predictions)
    invocations["post"]["requestBody"]["content"][CSV] = {"schema": {"type": "string", "minLength": 1}}
    feedback = _post(
        "Record true labels of predictions, by the ids of their responses",
        labels,
        object_of({"accepted": {"type": "integer"}}),
        202,
    )
    description = {
        "openapi": "3.1.0",
        "info": {
            "title": f"{name}, version {predictor.version}",
            "version": str(predictor.version),
            "description": f"Predicts `{signature.output}`: {signature.task}.",
        },
        "paths": {
            "/predict": predict,
            f"/models/{name}/predict": predict,
            "/invocations": invocations,
            "/feedback": feedback,
            f"/models/{name}/feedback": feedback,
            f"/models/{name}": _get("Signature, version and provenance"),
            f"/models/{name}/health/ready": _get("Whether the model can predict"),
            "/models": _get("The models and their states"),
            f"/v1/models/{name}:predict": _post("Predict by KServe's V1 protocol", instances, named_predictions),
            "/v1/models": _get("The name of the model"),
            f"/v1/models/{name}": _get("Whether the model is loaded"),
            "/ping": _get("Whether a model is loaded"),
            "/health": _get("Whether a model is loaded"),
            "/version": _text("Version of mlops_nb", "text/plain"),
            **_v2_paths(name, predictor),
            "/model": _get("Signature, version and provenance"),
            "/health/live": _get("Whether the process is alive"),
            "/health/ready": _get("Whether a verified model is loaded"),
            "/metrics": _text("Metrics for Prometheus", "text/plain", "application/openmetrics-text"),
            "/openapi.json": _get("This description"),
            **_dashboard_paths(),
        },
        "components": {
            "schemas": {
                "Row": row_schema(signature),
                "Rows": rows_schema(signature),
                "Error": _ERROR,
                "V2Error": _V2_ERROR,
            },
            "examples": {"row": {"value": _example(predictor)}},
        },
    }
    _add_examples(description, name, predictor)
    return description


def describe_all(models: ServedModels) -> dict:
    """Return the description of a service with several models: those in memory by their signatures, others by name.

    `/openapi.json?model=<name>` describes one model in full, and loads it.
    """
    served = [*models.by_name.values()]
    models.require_any()
    base = next((live for live in served if live.state.production is not None), None)
    base = base or next(live for live in served if live.can_predict)
    description = describe(base.name, base.loaded())
    whole = {"title": "Prediction service", "version": __version__}
    description["info"] = whole | {"description": f"Predicts with {len(served)} models."}
    shared = {path: of for path, of in description["paths"].items() if not _is_of(path, base.name)}
    any_body = _post("Predict rows with the model that ?model= names", {"type": "object"}, {"type": "object"})
    if models.first is not base:
        shared = {path: of for path, of in shared.items() if path not in _UNNAMED}
    shared["/invocations"] = any_body
    components = description["components"]
    schemas = {key: schema for key, schema in components["schemas"].items() if key in ("Error", "V2Error")}
    if models.first is base:
        schemas = components["schemas"]
    for live in served:
        predictor = live.state.production
        if predictor is None:
            shared |= _unloaded_paths(live.name)
            continue
        part = orjson.dumps(describe(live.name, predictor)).replace(
            b"#/components/schemas/Row", _ROW % live.name.encode()
        )
        own = orjson.loads(part)
        shared |= {path: of for path, of in own["paths"].items() if _is_of(path, live.name)}
        schemas |= {f"{live.name}.{key}": own["components"]["schemas"][key] for key in ("Row", "Rows")}
    components["schemas"] = schemas
    return description | {"paths": shared}


_ROW = b"#/components/schemas/%b.Row"
_UNNAMED = ("/predict", "/feedback", "/model")  # routes of the service's first model


def _is_of(path: str, name: str) -> bool:
    """Whether a path is of one model."""
    return f"/models/{name}" in (path, path.removeprefix("/v1"), path.removeprefix("/v2")) or any(
        f"/models/{name}{end}" in path for end in ("/", ":")
    )


def _unloaded_paths(name: str) -> dict:
    """Return the paths of a model that is not in memory; its columns are not known without loading it."""
    columns = f"GET /models/{name} has its columns"
    predict = _post(f"Predict rows; {columns}", {"type": "object"}, {"type": "object"})
    infer = _post(f"Predict tensors; {columns}", {"type": "object"}, {"type": "object"})
    return {
        f"/models/{name}/predict": predict,
        f"/models/{name}/feedback": _post("Record true labels", {"type": "object"}, {"type": "object"}, 202),
        f"/models/{name}": _get("Signature, version and provenance"),
        f"/models/{name}/health/ready": _get("Whether the model can predict"),
        f"/v1/models/{name}": _get("Whether the model is loaded"),
        f"/v1/models/{name}:predict": predict,
        f"/v2/models/{name}": _get("Inputs and outputs of the model, as tensors"),
        f"/v2/models/{name}/ready": _get("Whether the model is loaded"),
        f"/v2/models/{name}/infer": infer,
        **_load_paths(name),
    }


def _load_paths(name: str) -> dict:
    """Return the paths that load and unload a model."""
    body = object_of({"parameters": {"type": "object"}}, [])
    return {
        f"/v2/repository/models/{name}/{act}": _post(f"{act.capitalize()} the model", body, {"type": "object"})
        for act in ("load", "unload")
    }


def _probability_schemas(signature: Signature) -> list[dict]:
    """Return the schemas of the probabilities of a row: as a list, and named; of several outputs objects of them."""
    parts = signature.parts
    named = {
        name: object_of({label_text(label): {"type": "number"} for label in part.classes or ()})
        for name, part in parts.items()
    }
    if signature.outputs:
        return [object_of(dict.fromkeys(parts, list_of("number"))), object_of(named)]
    return [list_of("number"), *named.values()]


def _classes_schema(signature: Signature) -> dict:
    """Return the schema of the labels; of several outputs an object of them."""
    lists: dict[str, Any] = {
        name: {"type": "array", "items": output_schema(part)} for name, part in signature.parts.items()
    }
    return object_of(lists) if signature.outputs else lists[signature.output]


def _dashboard_paths() -> dict:
    """Return the paths of the dashboard's data and of promotion and rollback."""
    values = {"type": "string", "enum": [*map(str, WINDOWS)], "default": str(DEFAULT_HOURS)}
    hours = {"name": "hours", "in": "query", "schema": values}
    data = _get("Data of the dashboard")
    data["get"] |= {"parameters": [hours], "responses": data["get"]["responses"] | _errors(400)}
    csrf_header = {"name": CSRF_HEADER, "in": "header", "required": True, "schema": {"const": "move"}}
    reason = {"type": "string", "minLength": 1, "maxLength": MAX_REASON_LENGTH, "pattern": "[^\\s]"}
    properties = {"expected": {"type": ["integer", "null"]}, "reason": reason}
    texts = {key: {"type": "string"} for key in ("alias", "action", "actor", "reason", "at")}
    numbers = {key: {"type": ["integer", "null"]} for key in ("from_version", "to_version")}
    paths = {
        "/admin/promote": _post(
            "Promote a version", object_of({"version": {"type": "integer", "minimum": 1}} | properties), {}
        ),
        "/admin/rollback": _post("Roll production back", object_of(properties), {}),
    }
    for route in paths.values():
        route["post"]["parameters"] = [csrf_header]
        route["post"]["responses"] |= _errors(403, 404, 409) | {
            "200": {"description": "The change", **_json(object_of(texts | numbers))}
        }
    return {DASHBOARD_DATA: data} | paths


def _with_keys(description: dict) -> dict:
    """Return the description with keys: how to send one, and which routes need one."""
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
    """Return the first golden row, which is valid and has a prediction."""
    try:
        return predictor.example[0]
    except BundleError:  # deleted since the model was loaded
        return {}


def _v2_paths(name: str, predictor: Predictor) -> dict:
    """Return the paths of the Open Inference Protocol; its errors have a shape of their own."""
    tensors, response = _input_tensors(), _output_tensors(name, predictor.signature)
    outputs = [*outputs_of(predictor.signature)]
    wanted = object_of(
        {"name": {"enum": outputs}, "parameters": object_of({"binary_data": {"type": "boolean"}}, [])}, ["name"]
    )
    body = {"id": {"type": "string"}, "inputs": tensors, "outputs": {"type": "array", "items": wanted}}
    body["parameters"] = {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}}
    infer = _post("Predict by the Open Inference Protocol", object_of(body, ["inputs"]), response)
    infer["post"]["responses"]["200"]["content"]["application/octet-stream"] = {}
    infer["post"]["requestBody"]["content"]["application/json"]["example"] = _v2_example(predictor)
    tensor = {key: {"type": "string"} for key in ("name", "datatype")} | {"shape": list_of("integer")}
    listed = {"type": "array", "items": object_of(tensor)}
    model = object_of({"name": {"const": name}, "versions": list_of("string"), "platform": {"type": "string"}} | {
        "inputs": listed, "outputs": listed,
    })  # fmt: skip
    server = object_of({"name": {"type": "string"}, "version": {"type": "string"}, "extensions": list_of("string")})
    paths = {
        "/v2": _get("The server and its extensions", server),
        "/v2/health/live": _get("Whether the process is alive"),
    }
    paths["/v2/health/ready"] = _get("Whether a verified model is loaded")
    paths["/v2/repository/index"] = _post(
        "The models and their states", object_of({"ready": {"type": "boolean"}}, []), {"type": "array"}
    )
    paths |= _load_paths(name)
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{predictor.version}"):
        paths |= {path: _get("Inputs and outputs of the model, as tensors", model), f"{path}/infer": infer}
        paths[f"{path}/ready"] = _get("Whether the model is loaded")
    for route in paths.values():
        for operation in route.values():
            operation["responses"] |= _errors(*_statuses(operation), shape="V2Error")
    return paths


def _input_tensors() -> dict:
    """Return the schema of inputs: one tensor of all columns or one a column."""
    shape = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 2}
    tensor = {"name": {"type": "string", "minLength": 1}, "shape": shape}
    size = {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}}
    kinds = dict.fromkeys(DTYPES, "integer") | {"FP16": "number", "FP32": "number", "FP64": "number"}
    kinds |= {"BOOL": "boolean", "BYTES": "string"}
    in_json = {"type": "object", "properties": {"binary_data_size": {"type": "null"}}}
    forms = [
        object_of(tensor | {"datatype": {"enum": DATATYPES}, "parameters": size | {"required": ["binary_data_size"]}})
    ]
    for kind in sorted({*kinds.values()}):
        value = {"type": [kind, "null"]}
        data = {"type": "array", "items": {"anyOf": [value, {"type": "array", "items": value}]}}
        datatype = {"enum": [name for name in DATATYPES if kinds[name] == kind]}
        properties = tensor | {"datatype": datatype, "data": data, "parameters": in_json}
        forms.append(object_of(properties, ["name", "shape", "datatype", "data"]))
    return {"type": "array", "minItems": 1, "items": {"anyOf": forms}}


def _output_tensors(name: str, signature: Signature) -> dict:
    """Return the schema of outputs: those in JSON have `data`, those in bytes their size."""
    outputs = []
    for output, (datatype, _) in outputs_of(signature).items():
        tensor = {"name": {"const": output}, "datatype": {"const": datatype}, "shape": list_of("integer")}
        sized = object_of({"binary_data_size": {"type": "integer"}})
        outputs += [object_of(tensor | {"data": {"type": "array"}}), object_of(tensor | {"parameters": sized})]
    response: dict[str, Any] = {
        "model_name": {"const": name},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
    }
    response["outputs"] = {"type": "array", "items": {"anyOf": outputs}}
    return object_of(response, ["model_name", "model_version", "outputs"])


def _v2_example(predictor: Predictor) -> dict:
    """Return a request of the first golden row, one tensor a column."""
    kinds, row = {i.name: INPUTS[i.kind] for i in predictor.signature.inputs}, _example(predictor)
    tensors = [{"name": n, "datatype": kinds[n], "shape": [1], "data": [value]} for n, value in row.items()]
    return {"inputs": tensors}


def _json(schema: dict) -> dict:
    return {"content": {"application/json": {"schema": schema}}}


def _statuses(operation: dict) -> list[int]:
    return [int(status) for status in operation["responses"] if status >= "400"]


def _errors(*statuses: int, shape: str = "Error") -> dict:
    words = {400: "The request is invalid", 401: "A key is missing", 403: "The key is not for this route"}
    words |= {404: "No such model or version", 409: "The alias cannot be changed so, or was changed meanwhile"}
    words |= {413: "Too many rows or bytes", 415: "The media type is not supported", 503: "No model is loaded"}
    return {str(s): {"description": words[s], **_json({"$ref": f"#/components/schemas/{shape}"})} for s in statuses}


def _post(summary: str, request: dict, response: dict, status: int = 200) -> dict:
    responses = {str(status): {"description": "Success", **_json(response)}, **_errors(400, 413, 415, 503)}
    return {"post": {"summary": summary, "requestBody": {"required": True, **_json(request)}, "responses": responses}}


def _text(summary: str, *media_types: str) -> dict:
    success = {"description": "Success", "content": {kind: {"schema": {"type": "string"}} for kind in media_types}}
    return {"get": {"summary": summary, "responses": {"200": success}}}


def _get(summary: str, response: dict | None = None) -> dict:
    success = {"description": "Success", **_json(response or {"type": "object"})}
    return {"get": {"summary": summary, "responses": {"200": success, **_errors(503)}}}
