"""The trial of a canary beside production: which of them gets a request, and how each of them did."""

import random
import threading
import time
from dataclasses import fields
from hashlib import blake2b
from uuid import uuid4

from sqlalchemy import Engine

from mlops_nb.monitor.canary import (
    CanaryCounts,
    CanaryLimits,
    answers_of,
    compare_counts,
    make_splits,
    read_counts,
    save_counts,
)
from mlops_nb.errors import InputError
from mlops_nb.model.predictor import Predictor
from mlops_nb.settings import Settings
from mlops_nb.serving.http.periodic import log
from mlops_nb.serving.inference.infer import InferenceResult


class _UnfitError(InputError):
    """A canary whose predictions have not the form that production's have; the message says what is different."""


class CanaryTrial:
    """A version as the canary of another; as many requests of production are counted as the canary gets.

    Each worker counts its own requests, and compares the two versions by what all of them counted.
    """

    def __init__(self, name: str, production: Predictor, canary: Predictor, settings: Settings, trial: str = ""):
        self.name, self.production, self.canary, self.trial = name, production, canary, trial
        self.share, self.limits = settings.canary_share, limits_of(settings)
        self.splits = make_splits(production.signature, _profile_of(production))
        self.own, self.others = (CanaryCounts.empty(len(self.splits)) for _ in range(2))
        self._worker, self._shared = uuid4().hex, 0  # requests that the database has
        self._lock = threading.Lock()

    def counts(self) -> dict:
        """Return the requests and failures of the canary so far, in all workers."""
        total = self.total()
        counts = {"requests": int(total.requests[1]), "failures": dict(total.failures[1])}
        return {"version": self.canary.version, "share": self.share, **counts}

    def total(self) -> CanaryCounts:
        """Return what all workers counted."""
        with self._lock:
            return self.own + self.others

    @property
    def has_news(self) -> bool:
        """Whether this worker has counted requests that the database has not."""
        return int(self.own.requests.sum()) != self._shared

    def exchange(self, engine: Engine):
        """Write what this worker counted to the database, and read what the others did."""
        with self._lock:
            own = self.own + CanaryCounts.empty(len(self.splits))
        requests = int(own.requests.sum())
        if requests != self._shared:
            save_counts(engine, self.name, self.trial, self._worker, own)
            self._shared = requests
        self.others = read_counts(engine, self.name, self.trial, len(self.splits), but=self._worker)

    def reasons(self) -> list[str]:
        """Return why the canary must be rolled back; an empty list when it may go on."""
        return compare_counts(self.total(), self.splits, self.limits)

    def infer(self, rows, probability: bool, key: str | None, interval: bool = False) -> InferenceResult:
        """Predict with one of the two; with production where the canary fails."""
        position = position_of(self.name, key) if key else random.random()
        if position < self.share:
            return self._from_canary(rows, probability, interval)
        if position < 1 - self.share:
            return InferenceResult.from_rows(self.production, rows)
        return self._from_production(rows)

    def _from_canary(self, rows, probability: bool, interval: bool) -> InferenceResult:
        """Predict with the canary, or with production when it raises; that counts unless the client is to blame."""
        begin = time.perf_counter()
        try:
            result = InferenceResult.from_rows(self.canary, rows, "canary")
            if [o.name for o in self.canary.signature.outputs] != [o.name for o in self.production.signature.outputs]:
                raise _UnfitError("other outputs")
            if probability and result.predictions.probability is None:
                raise _UnfitError("no probabilities")
            if interval and self.canary.signature.interval is None:
                raise _UnfitError("no interval")
            answers = self._answers(result)
        except Exception as e:
            kind = str(e) if isinstance(e, _UnfitError) else type(e).__name__
            try:
                result = InferenceResult.from_rows(self.production, rows)
            except InputError:
                raise
            except Exception:  # as a failure of production counts, so that equal versions count alike
                self._record_failure(kind)
                raise
            self._record_failure(kind)
            return result
        self._record("canary", begin, answers)
        return result

    def _from_production(self, rows) -> InferenceResult:
        """Predict with production, to be compared with the canary; a client error does not count."""
        begin = time.perf_counter()
        try:
            result = InferenceResult.from_rows(self.production, rows)
        except InputError:
            raise
        except Exception as e:
            with self._lock:
                self.own.add_failure("production", type(e).__name__)
            raise
        self._record("production", begin, self._answers(result))
        return result

    def _answers(self, result: InferenceResult) -> list[bool]:
        """Answer the splits for the first prediction; raise an `_UnfitError` for one that is no number."""
        try:
            return answers_of(self.splits, result.predictions)
        except (TypeError, ValueError) as e:
            raise _UnfitError("predictions that are no numbers") from e

    def _record(self, role: str, begin: float, answers: list[bool]):
        seconds = time.perf_counter() - begin
        with self._lock:
            self.own.add_answer(role, seconds, answers)

    def _record_failure(self, kind: str):
        with self._lock:
            self.own.add_failure("canary", kind)
            is_first = self.own.failures[1][kind] == 1
        if is_first:
            log(f"{self.name} version {self.canary.version} failed as the canary: {kind}")


def _profile_of(predictor: Predictor) -> dict:
    """Return the profile of a version; an empty one for labels, which need none."""
    if predictor.signature.classes is not None or any(o.classes for o in predictor.signature.outputs):
        return {}
    return predictor.bundle.profile()


def position_of(name: str, key: str) -> float:
    """Return a number from 0 to 1 for a key: the same in every worker and service, another for another model."""
    return int.from_bytes(blake2b(f"{name}/{key}".encode(), digest_size=7).digest()) / 2**56


def limits_of(settings: Settings) -> CanaryLimits:
    """Return how much worse than production a canary may be."""
    return CanaryLimits(**{f.name: getattr(settings, f"canary_{f.name}") for f in fields(CanaryLimits)})
