"""Measurements and log records of one request."""

from typing import NamedTuple

from mlops_nb.serving.inference.infer import InferenceResult


class RequestRecord(NamedTuple):
    """A request with its response, as metrics and the access log take it."""

    request_id: str
    method: str
    path: str
    route: str | None  # rule of Flask; None: there is no such route
    status: str  # "200"
    seconds: float  # from the request's arrival to its response
    size: int | None  # bytes of the response's body, where known
    trace_id: str | None = None  # None: it came without a valid `traceparent`
    result: InferenceResult | None = None  # of the model, if it was asked
    model: str | None = None  # name of the model that the request was for, where known
