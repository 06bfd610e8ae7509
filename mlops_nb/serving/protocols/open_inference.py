"""The Open Inference Protocol, KServe's V2 and Triton's: /v2."""

from typing import Any

import numpy as np
import orjson
from flask import Blueprint, Response, current_app, request

from mlops_nb import __version__
from mlops_nb.errors import NotFoundError, known_names
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Signature, column_of
from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.http.body import reject_unknown_keys, parse_object, read_body
from mlops_nb.serving.inference.infer import InferenceResult, infer
from mlops_nb.spec import ALARM
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.inference.models import model_of
from mlops_nb.serving.protocols.tensors import read_tensors, to_rows, write_tensor

routes = Blueprint("v2", __name__, url_prefix="/v2")

HEADER = "Inference-Header-Content-Length"
INTERVAL, SET = "interval", "prediction_set"  # low and high of a row; whether each label is in its set
ON_REQUEST = {"id", INTERVAL, SET}  # outputs that a response has where they are named
INPUTS = {"float": "FP64", "int": "INT64", "bool": "BOOL", "string": "BYTES", "datetime": "BYTES"}

_EXAMPLE = '{"inputs": [{"name": ..., "shape": [...], "datatype": ..., "data": [...]}]}'
_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "scikit-learn": "scikit-learn_skops"}


@routes.get("")
def server() -> Response:
    """Return the server and its extensions of the protocol."""
    return to_json({"name": "mlops-nb", "version": __version__, "extensions": ["binary_tensor_data"]})


@routes.get("/health/live")
def live() -> Response:
    """Return that the process is alive."""
    return to_json({"live": True})


@routes.get("/health/ready")
def ready() -> Response:
    """Return whether any model can predict."""
    current_app.extensions["models"].require_any()
    return to_json({"ready": True})


@routes.get("/models/<name>")
@routes.get("/models/<name>/versions/<version>")
def model(name: str, version: str | None = None) -> Response:
    """Return the inputs and outputs of the model as tensors, one a column."""
    predictor = _find(model_of(name), version)
    signature = predictor.signature
    inputs = [{"name": i.name, "datatype": INPUTS[i.kind], "shape": [-1]} for i in signature.inputs]
    outputs = [{"name": n, "datatype": datatype, "shape": s} for n, (datatype, s) in outputs_of(signature).items()]
    metadata = {"name": name, "versions": [str(predictor.version)], "platform": _PLATFORMS[predictor.engine.name]}
    return to_json({**metadata, "inputs": inputs, "outputs": outputs})


@routes.get("/models/<name>/ready")
@routes.get("/models/<name>/versions/<version>/ready")
def model_ready(name: str, version: str | None = None) -> Response:
    """Return whether the model is loaded."""
    live = model_of(name)
    current_app.extensions["models"].require_ready(live)
    if version is not None:
        _find(live, version)
    return to_json({"name": name, "ready": True})


@routes.post("/models/<name>/infer")
@routes.post("/models/<name>/versions/<version>/infer")
def infer_tensors(name: str, version: str | None = None) -> Response:
    """Return the predictions of tensors as tensors."""
    live = model_of(name)
    signature = _find(live, version).signature
    body, binary = _read()
    wanted = _requested_outputs(body, signature)
    rows = to_rows(read_tensors(body.get("inputs"), binary), signature.names)
    probability = any(n.startswith("probability") for n in wanted)
    interval = not wanted.keys().isdisjoint((INTERVAL, SET))
    result = infer(live, rows, "'inputs'", probability, canary=version is None, interval=interval)
    _check_version(version, result.predictor)  # production may have changed meanwhile
    return _to_response(name, body.get("id"), wanted, result)


def outputs_of(signature: Signature) -> dict[str, tuple[str, list[int]]]:
    """Return the outputs that a request may name: datatype and shape by name."""
    outputs: dict[str, tuple[str, list[int]]] = {}
    for name, part in signature.parts.items():
        label = "FP64" if part.classes is None else _datatype(part.classes[0])
        outputs[_name_of("prediction", name, signature)] = (label, [-1])
        if part.task == "anomaly":
            outputs[ALARM] = ("BOOL", [-1])
        if part.probability:
            outputs[_name_of("probability", name, signature)] = ("FP64", [-1, len(part.classes or ())])
    if signature.interval is not None:
        is_set = signature.classes is not None
        outputs |= {SET: ("BOOL", [-1, len(signature.classes or ())])} if is_set else {INTERVAL: ("FP64", [-1, 2])}
    return outputs | {"id": ("BYTES", [-1])}


def _name_of(kind: str, output: str, signature: Signature) -> str:
    """Return the name of an output tensor; of several outputs of the model with the name of the one."""
    return column_of(output, kind) if signature.outputs else kind


def _datatype(label) -> str:
    return {bool: "BOOL", int: "INT64", float: "FP64"}.get(type(label), "BYTES")


def _find(live: LiveModel, version: str | None) -> Predictor:
    """Return the predictor of a model in this version; raise `NotFoundError` for any other."""
    predictor = live.loaded()
    _check_version(version, predictor)
    return predictor


def _check_version(version: str | None, predictor: Predictor):
    if version is not None and version != str(predictor.version):
        raise NotFoundError(f"Version {version[:100]!r} is not loaded here; '{predictor.version}' is.")


def _read() -> tuple[dict, bytes]:
    """Return the JSON of the body, and the bytes of the tensors behind it."""
    content, length = read_body(), request.headers.get(HEADER)
    if length is None:
        size = len(content)
    elif length.isascii() and length.isdigit() and len(length) < 19 and int(length) <= len(content):
        size = int(length)
    else:
        raise RequestError(f"{HEADER} must be the length of the JSON, at most {len(content)}, got {length[:40]!r}.")
    body = parse_object(content[:size], _EXAMPLE)
    reject_unknown_keys(body, {"id", "parameters", "inputs", "outputs"})
    if not isinstance(body.get("id", ""), str):
        raise RequestError("'id' must be a string.")
    return body, content[size:]


def _requested_outputs(body: dict, signature: Signature) -> dict[str, bool]:
    """Return the requested outputs, and whether each as bytes; by default all but those `ON_REQUEST`."""
    known, binary = outputs_of(signature), _flag(body, "binary_data_output", False)
    asked: Any = body.get("outputs", [])
    default: list[dict] = [{"name": name} for name in known if name not in ON_REQUEST]
    if not isinstance(asked, list) or not all(isinstance(output, dict) for output in asked):
        raise RequestError("'outputs' must be a list of {\"name\": ...}.")
    wanted: dict[str, bool] = {}
    for output in asked or default:
        reject_unknown_keys(output, {"name", "parameters"}, "An output")
        name = output.get("name")
        if not isinstance(name, str) or name not in known:
            raise RequestError(f"There is no output {str(name)[:100]!r}. {known_names(str(name)[:100], known)}")
        if name in wanted:
            raise RequestError(f"The output {name!r} is named twice.")
        wanted[name] = _flag(output, "binary_data", binary)
        reject_unknown_keys(output.get("parameters", {}), {"binary_data"}, f"Output {name!r}")
    return wanted


def _flag(holder: dict, name: str, default: bool) -> bool:
    """Return a parameter that is true or false."""
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict) or not isinstance(parameters.get(name, default), bool):
        raise RequestError(f"'parameters' must be an object, and {name!r} in it true or false.")
    return parameters.get(name, default)


def _to_response(name: str, id: str | None, wanted: dict[str, bool], result: InferenceResult) -> Response:
    """Return the outputs: JSON, and behind it the bytes of those that were requested so."""
    predictions, signature = result.predictions, result.predictor.signature
    datatypes = outputs_of(signature)
    values: dict[str, Any] = {"id": result.ids or [""] * len(predictions.prediction), ALARM: predictions.anomaly}
    for output, part in zip(signature.parts, predictions.parts.values(), strict=True):
        values[_name_of("prediction", output, signature)] = part.prediction
        values[_name_of("probability", output, signature)] = part.probability
    if wanted.keys() & {INTERVAL, SET} and (interval := signature.interval) is not None:
        if predictions.probability is None or predictions.classes is None:
            values[INTERVAL] = interval.bounds(predictions.prediction)
        else:
            values[SET] = interval.members(predictions.prediction, predictions.probability, predictions.classes)
    outputs = [write_tensor(n, datatypes[n][0], np.asarray(values[n]), binary) for n, binary in wanted.items()]
    entries = [entry for entry, _ in outputs]
    echo = {} if id is None else {"id": id}
    content = {"model_name": name, "model_version": str(result.predictor.version), **echo, "outputs": entries}
    if not any(wanted.values()):
        return to_json(content)
    head = orjson.dumps(content)
    whole = b"".join([head, *(content for _, content in outputs)])
    return Response(whole, content_type="application/octet-stream", headers={HEADER: str(len(head))})
