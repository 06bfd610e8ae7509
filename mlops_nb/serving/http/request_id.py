"""The ids of requests, of their predictions and of their traces: an id of a request and of a model is the key in the prediction log."""

import random
import time
from functools import lru_cache
from hashlib import blake2b

from mlops_nb.monitor.log_records import read_trace_id

TAG_LENGTH = 8  # hexadecimal digits; one pair of models in four billion shares a tag


def make_id() -> str:
    """Return a unique id that sorts by time."""
    return f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(64):016x}"  # each process seeds its own generator


def make_key(model: str, n_rows: int) -> str:
    """Return a unique key for the predictions of a request, which sorts by time and ends with the model's tag and the number of rows."""
    return f"{make_id()}{tag_of(model)}{n_rows:x}"


def trace_id_of(environ: dict) -> str | None:
    """Return the id of the trace of a request; None: it came without a valid `traceparent`."""
    traceparent = environ.get("HTTP_TRACEPARENT")
    if traceparent is None:
        return None
    if "serving.trace_id" not in environ:  # the prediction log and the access log need it
        environ["serving.trace_id"] = read_trace_id(traceparent)
    return environ["serving.trace_id"]


@lru_cache(1024)
def tag_of(model: str) -> str:
    """Return the digits by which the ids of a model's predictions are told from those of another."""
    return blake2b(model.encode(), digest_size=TAG_LENGTH // 2).hexdigest()
