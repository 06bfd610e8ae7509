"""Tensors of the Open Inference Protocol, as JSON or bytes: a request's tensors to rows, predictions to tensors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops_nb.errors import known_names
from mlops_nb.serving.http.errors import RequestError
from mlops_nb.serving.http.body import reject_unknown_keys
from mlops_nb.serving.inference.infer import check_rows

if TYPE_CHECKING:
    from pyarrow import Table as ArrowTable

DTYPES = {f"{kind}{8 * size}": f"<{kind[0].lower()}{size}" for kind in ("INT", "UINT") for size in (1, 2, 4, 8)}
DTYPES |= {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BOOL": "?"}
DATATYPES = (*DTYPES, "BYTES")

_JSON_TYPES: dict[str, set[type]] = {"BOOL": {bool}, "BYTES": {str}}
_EXPECTED = {"BOOL": "true or false", "BYTES": "a string"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input of a request."""

    name: str
    datatype: str
    shape: tuple[int, ...]  # (rows,) or (rows, columns)
    values: np.ndarray | list  # flat, row by row; a list where there are texts or missing values


def read_tensors(inputs, binary: bytes) -> list[Tensor]:
    """Return the inputs of a request; `binary` is what follows its JSON."""
    if not isinstance(inputs, list) or not inputs:
        raise RequestError("'inputs' must be a list of at least one tensor.")
    tensors: list[Tensor] = []
    rest = memoryview(binary)
    for number, given in enumerate(inputs):
        if not isinstance(given, dict):
            raise RequestError(f"Input {number} must be an object with name, shape, datatype and data.")
        reject_unknown_keys(given, {"name", "shape", "datatype", "parameters", "data"}, f"Input {number}")
        name = given.get("name")
        if not isinstance(name, str) or not name:
            raise RequestError(f"Input {number} must have a 'name', a string.")
        if any(name == tensor.name for tensor in tensors):
            raise RequestError(f"There are two tensors {name[:100]!r}.")
        size = _binary_size(given)
        if size > len(rest):
            raise RequestError(
                f"{_title(given)} has {size} bytes of binary data, but {len(rest)} are left in the body."
            )
        tensors.append(_read(given, rest[:size]))
        rest = rest[size:]
    if rest:
        raise RequestError(f"The body has {len(rest)} bytes more than its tensors say.")
    return tensors


def _read(given: dict, binary: memoryview) -> Tensor:
    datatype, shape = given.get("datatype"), given.get("shape")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise RequestError(f"{_title(given)} must have a 'datatype', one of {', '.join(DATATYPES)}.")
    if not isinstance(shape, list) or len(shape) not in (1, 2) or not all(_is_whole(n) and n > 0 for n in shape):
        raise RequestError(f"{_title(given)} must have a 'shape', [rows] or [rows, columns], each at least 1.")
    given = given | {"shape": [*map(int, shape)]}
    check_rows(given["shape"][0], _title(given))
    if "data" not in given:
        values = _strings(given, binary) if datatype == "BYTES" else _numbers(given, binary)
    elif isinstance(given["data"], list):
        values = _of_json(given, _flat(given))
    else:
        raise RequestError(f"{_title(given)}: 'data' must be a list.")
    return Tensor(given["name"], datatype, tuple(given["shape"]), values)


def _is_whole(number) -> bool:
    """Whether a number is an integer in JSON Schema's sense: 2.0 is one."""
    return type(number) in (int, float) and number == number // 1


def _binary_size(given: dict) -> int:
    """Return how many bytes behind the JSON belong to a tensor."""
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError(f"{_title(given)}: 'parameters' must be an object.")
    size = parameters.get("binary_data_size")
    if ("data" in given) == (size is not None):
        raise RequestError(f"{_title(given)} must have either 'data' or the parameter 'binary_data_size'.")
    if size is not None and not (_is_whole(size) and size >= 0):
        raise RequestError(f"{_title(given)}: 'binary_data_size' must be a number of bytes.")
    return int(size or 0)


def _numbers(given: dict, binary: memoryview) -> np.ndarray:
    """Return numbers of the binary extension: little-endian, row by row."""
    dtype = np.dtype(DTYPES[given["datatype"]])
    expected = math.prod(given["shape"]) * dtype.itemsize
    if len(binary) != expected:
        shape = f"shape {given['shape']} and datatype {given['datatype']}"
        raise RequestError(f"{_title(given)} of {shape} has {expected} bytes, but binary_data_size is {len(binary)}.")
    if given["datatype"] == "BOOL" and (np.frombuffer(binary, np.uint8) > 1).any():
        raise RequestError(f"{_title(given)}: a byte of BOOL is 0 or 1.")
    return np.frombuffer(binary, dtype)


def _strings(given: dict, binary: memoryview) -> list[str]:
    """Return texts of the binary extension: four bytes of length and UTF-8, one after the other."""
    texts: list[str] = []
    at, count = 0, math.prod(given["shape"])
    while at + 4 <= len(binary) and len(texts) < count:
        start, at = at + 4, at + 4 + int.from_bytes(binary[at : at + 4], "little")
        try:
            texts.append(str(binary[start:at], "utf-8"))
        except UnicodeDecodeError:
            raise RequestError(f"{_title(given)}: element {len(texts)} is not UTF-8.") from None
    if at != len(binary) or len(texts) != count:
        raise RequestError(f"{_title(given)} of shape {given['shape']}: its bytes are not {count} whole strings.")
    return texts


def _flat(given: dict) -> list:
    """Return the data of a tensor, flat or nested, as a flat list."""
    data, shape = given["data"], given["shape"]
    if len(shape) == 2 and len(data) == shape[0] and all(isinstance(r, list) and len(r) == shape[1] for r in data):
        return [value for row in data for value in row]
    if len(data) != math.prod(shape):
        message = f"{_title(given)} of shape {shape}: 'data' must have {math.prod(shape)} values, flat or as rows"
        raise RequestError(f"{message}, got a list of {len(data)}.")
    return data


def _of_json(given: dict, values: list) -> np.ndarray | list:
    """Return JSON values as the datatype has them; null is missing."""
    datatype, kinds = given["datatype"], set(map(type, values))
    allowed: set[type] = _JSON_TYPES.get(datatype, {int, float})
    if not kinds <= allowed | {type(None)}:
        wrong = next(number for number, v in enumerate(values) if v is not None and type(v) not in allowed)
        raise RequestError(f"{_title(given)}: element {wrong} must be {_EXPECTED.get(datatype, 'a number')}.")
    if datatype in ("BYTES", "BOOL"):
        return values
    return _floats(given, values) if datatype.startswith("FP") else _integers(given, values)


def _floats(given: dict, values: list) -> np.ndarray:
    """Return floats rounded to the datatype; missing is NaN."""
    exact = np.array([math.nan if v is None else v for v in values], dtype=np.float64)
    with np.errstate(over="ignore"):
        rounded = exact.astype(DTYPES[given["datatype"]])
    if (np.isinf(rounded) & np.isfinite(exact)).any():
        raise RequestError(f"{_title(given)}: not every number fits into {given['datatype']}.")
    return rounded


def _integers(given: dict, values: list) -> list:
    """Return integers within the datatype; missing is None."""
    limits = np.iinfo(DTYPES[given["datatype"]])
    for number, value in enumerate(values):
        if value is not None and not (limits.min <= value <= limits.max and value == int(value)):
            raise RequestError(f"{_title(given)}: element {number} is no whole number of {given['datatype']}.")
    return [None if value is None else int(value) for value in values]


def _title(given: dict) -> str:
    return f"Tensor {given['name'][:100]!r}"


def to_rows(tensors: Sequence[Tensor], names: list[str]) -> "np.ndarray | list | ArrowTable":
    """Return one tensor of all columns as rows, or one tensor a column as a table."""
    first = tensors[0]
    if len(tensors) == 1 and len(first.shape) == 2 and (first.shape[1] > 1 or len(names) == 1):
        width = first.shape[1]
        if isinstance(first.values, np.ndarray):
            return first.values.reshape(first.shape)
        return [first.values[at : at + width] for at in range(0, len(first.values), width)]
    if len(tensors) == 1 and first.name not in names:
        columns = f"it must hold all columns: [rows, {len(names)}]. {known_names(first.name, names)}"
        raise RequestError(f"Tensor {first.name[:100]!r} of shape {[*first.shape]} is no column, so {columns}")
    for tensor in tensors:
        if tensor.shape not in ((len(first.values),), (len(first.values), 1)):
            message = f"must be [{first.shape[0]}] as that of {first.name[:100]!r}, got {[*tensor.shape]}"
            raise RequestError(f"Tensor {tensor.name[:100]!r} is one column: its shape {message}.")
    return _to_arrow(tensors)


def _to_arrow(tensors: Sequence[Tensor]) -> "ArrowTable":
    import pyarrow

    types = {name: pyarrow.from_numpy_dtype(np.dtype(dtype)) for name, dtype in DTYPES.items()}
    types["BYTES"] = pyarrow.string()
    return pyarrow.table({tensor.name: pyarrow.array(tensor.values, types[tensor.datatype]) for tensor in tensors})


def write_tensor(name: str, datatype: str, values: np.ndarray, binary: bool) -> tuple[dict, bytes]:
    """Return an output: its entry in the JSON, and its bytes behind it."""
    entry = {"name": name, "datatype": datatype, "shape": list(values.shape)}
    if datatype == "BYTES":
        texts = list(map(str, values.tolist()))
        data, content = texts, b"".join(map(_encode_text, texts)) if binary else b""
    else:
        flat = values.astype(DTYPES[datatype]).ravel()
        data, content = ([], flat.tobytes()) if binary else (flat.tolist(), b"")
    if not binary:
        return entry | {"data": data}, b""
    return entry | {"parameters": {"binary_data_size": len(content)}}, content


def _encode_text(text: str) -> bytes:
    """Return the length of a text in four bytes, and its UTF-8."""
    content = text.encode()
    return len(content).to_bytes(4, "little") + content
