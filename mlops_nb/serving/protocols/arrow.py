"""Tables as Arrow streams, in requests and responses of `/predict`."""

from collections.abc import Iterator
from struct import unpack_from
from typing import cast

import numpy as np
import pyarrow
import pyarrow.compute as pc
from flask import Response, request
from pyarrow import ipc
from pyarrow import types as arrow_types
from werkzeug.exceptions import RequestEntityTooLarge

from mlops_nb.model.columns import describe_value
from mlops_nb.model.signature import SHARED_COLUMN, Signature, shared_column
from mlops_nb.serving.http.errors import RequestError
from mlops_nb.serving.http.body import read_body
from mlops_nb.serving.http.media_types import ARROW
from mlops_nb.serving.inference.infer import InferenceResult, check_rows, id_suffixes, interval_content

_BROKEN = "The body is not one whole Arrow stream; `pyarrow.ipc.new_stream` writes one."


def check_columns(signature: Signature):
    """Raise a `RequestError` for a model whose predictions do not fit into one table, before anything is predicted."""
    if (name := shared_column(signature)) is not None:
        raise RequestError(f"{SHARED_COLUMN.format(name)}, or accept JSON.")


def read_table() -> pyarrow.Table:
    """Return the table in the body, all batches of it, validated."""
    content = read_body()
    try:
        for message in _messages(content):
            _refuse_compressed(message)
        reader, batches, n = ipc.open_stream(content, options=ipc.IpcReadOptions(use_threads=False)), [], 0
        for batch in reader:
            n += batch.num_rows
            check_rows(n, "The table")  # first: a column of nulls has any length and no bytes
            batches.append(batch)
        table = pyarrow.Table.from_batches(batches, reader.schema)
        table.validate(full=True)
        return _expand_views(table)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError):
        raise RequestError(_BROKEN) from None


def wants_interval(table: pyarrow.Table) -> bool:
    """Whether the metadata of a table's schema asks for intervals."""
    value = (table.schema.metadata or {}).get(b"interval", b"false").lower()
    if value not in (b"true", b"false"):
        seen = describe_value(value.decode(errors="replace"))
        raise RequestError(f"'interval' in the metadata of the table's schema must be true or false, got {seen}.")
    return value == b"true"


def _messages(content: bytes) -> Iterator[ipc.Message]:
    source = pyarrow.BufferReader(content)
    yield from ipc.MessageReader.open_stream(source)
    if source.tell() != len(content):
        raise RequestError(_BROKEN)


def _refuse_compressed(message: ipc.Message):
    """Refuse compressed batches, whose size nothing bounds; a body with Content-Encoding has a limit."""
    kind = message.type
    if kind in ("record batch", "dictionary"):
        batch = _inner(message.metadata, unpack_from("<I", message.metadata)[0], 2)  # Message.header
        if kind == "dictionary":
            batch = _inner(message.metadata, batch, 1)  # DictionaryBatch.data
        if _field(message.metadata, batch, 3) is not None:  # RecordBatch.compression
            raise RequestError("The batches are compressed; send them as they are, or all with Content-Encoding: gzip.")


def _field(buffer: pyarrow.Buffer, table: int, slot: int) -> int | None:
    """Return the offset of a field in a table of FlatBuffers, if it is there (https://flatbuffers.dev/internals)."""
    vtable = table - unpack_from("<i", buffer, table)[0]
    size, place = unpack_from("<H", buffer, vtable)[0], 4 + 2 * slot
    offset = unpack_from("<H", buffer, vtable + place)[0] if place < size else 0
    return table + offset if offset else None


def _inner(buffer: pyarrow.Buffer, table: int, slot: int) -> int:
    place = _field(buffer, table, slot)
    if place is None:
        raise RequestError(_BROKEN)
    return place + unpack_from("<I", buffer, place)[0]


def _expand_views(table: pyarrow.Table) -> pyarrow.Table:
    """Return views of texts, which Polars sends, as texts; rows may share bytes, so the sum of their lengths is bounded."""
    size = 0
    for number, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        are_views = arrow_types.is_string_view(column.type)
        chunks = [_without_missing(chunk) for chunk in column.chunks if len(chunk)] if are_views else ()
        size += _dictionary_bytes(column) + sum(int(views[:, 0].sum(dtype=np.int64)) for _, views in chunks)
        if size > cast(int, request.max_content_length):
            raise RequestEntityTooLarge()
        if are_views:
            texts = pyarrow.chunked_array([chunk for chunk, _ in chunks], pyarrow.string_view()).cast("large_string")
            table = table.set_column(number, name, texts)
    return table


def _dictionary_bytes(column: pyarrow.ChunkedArray) -> int:
    """Return the bytes of a column's texts, if it names them by their numbers in a dictionary."""
    if not arrow_types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return 0
    lengths = [pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
    return sum(pc.sum(each).as_py() or 0 for each in lengths)


def _is_text(kind: pyarrow.DataType) -> bool:
    return arrow_types.is_string(kind) or arrow_types.is_large_string(kind) or arrow_types.is_string_view(kind)


def _without_missing(chunk: pyarrow.Array) -> tuple[pyarrow.Array, np.ndarray]:
    """Return an array of views, and the views `(n, 4)`, zeroed where a text is missing: Arrow validates only the others."""
    validity, buffer, *texts = chunk.buffers()
    views = np.frombuffer(buffer, np.int32, 4 * len(chunk)).reshape(-1, 4).copy()
    views[np.asarray(chunk.is_null())] = 0
    return pyarrow.Array.from_buffers(chunk.type, len(chunk), [validity, pyarrow.py_buffer(views), *texts]), views


def write_table(result: InferenceResult, model: str, with_interval: bool = False) -> Response:
    """Return predictions, ids, probabilities and intervals as a table, with model, version and level in its metadata."""
    ids = _ids(result.key, len(result.predictions.prediction))
    columns = result.predictions.columns()
    first = {name: values for name, values in columns.items() if name.startswith("prediction")}
    columns = first | {"id": ids} | {name: values for name, values in columns.items() if name not in first}
    metadata = {"model": model, "version": str(result.predictor.version)}
    if with_interval:
        content = interval_content(result)
        metadata["level"] = str(content["level"])
        columns |= _interval_columns(content)
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return Response(sink.getvalue().to_pybytes(), content_type=ARROW)


def _ids(key: str | None, n_rows: int) -> pyarrow.Array:
    """Return the ids of rows, as one text that is cut: a Python object for each would take longer than the model."""
    if key is None:
        return pyarrow.nulls(n_rows, "string")
    text = (key + key.join(id_suffixes(n_rows))).encode()
    lengths = np.full(n_rows, len(key) + 2, dtype=np.int32)
    for digits in range(1, len(str(n_rows))):
        lengths[10**digits :] += 1
    offsets = np.concatenate((np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)))
    return pyarrow.StringArray.from_buffers(n_rows, pyarrow.py_buffer(offsets), pyarrow.py_buffer(text))


def _interval_columns(content: dict) -> dict:
    """Return low and high of each row, or its set as a list of labels."""
    if "prediction_set" in content:
        return {"prediction_set": pyarrow.array(content["prediction_set"])}
    low, high = np.reshape(content["interval"], (-1, 2)).T
    return {"prediction_low": low, "prediction_high": high}
