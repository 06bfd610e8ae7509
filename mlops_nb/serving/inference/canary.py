"""The trial of a canary beside production: which of them gets a request, and how each of them did."""

import random
import time
from collections import Counter, deque
from dataclasses import fields
from hashlib import blake2b

import numpy as np

from mlops_nb.monitor.canary import CanaryLimits, CanaryWindow, compare_windows
from mlops_nb.errors import InputError
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Predictions, label_text
from mlops_nb.settings import Settings
from mlops_nb.serving.http.periodic import log
from mlops_nb.serving.inference.infer import InferenceResult

MAX_REMEMBERED_REQUESTS = 1000  # of each version, unless the comparison needs more


class _UnfitError(InputError):
    """A canary whose predictions have not the form that production's have; the message says what is different."""


class CanaryTrial:
    """A version as the canary of another; as many requests of production are recorded as the canary gets."""

    def __init__(self, name: str, production: Predictor, canary: Predictor, settings: Settings):
        self.name, self.production, self.canary = name, production, canary
        self.share, self.limits = settings.canary_share, limits_of(settings)
        last = max(MAX_REMEMBERED_REQUESTS, self.limits.min_requests)
        # seconds and first prediction of a request; None: it failed
        self.calls: dict[str, deque] = {role: deque(maxlen=last) for role in ("production", "canary")}
        # names of several outputs that are numbers, in order
        self._numbers = tuple(output.name for output in production.signature.outputs if output.classes is None)
        self.failures: Counter[str] = Counter()  # of the canary, by the class of the exception or by what it lacks

    def counts(self) -> dict:
        """Return the requests and failures of the canary so far."""
        counts = {"requests": len(self.calls["canary"]), "failures": dict(self.failures)}
        return {"version": self.canary.version, "share": self.share, **counts}

    def window(self, role: str) -> CanaryWindow:
        """Return the last requests of one version."""
        calls = list(self.calls[role])
        succeeded = [call for call in calls if call is not None]
        seconds, predictions = zip(*succeeded, strict=True) if succeeded else ((), ())
        return CanaryWindow(len(calls) - len(succeeded), np.array(seconds), np.array(predictions), self._numbers)

    def reasons(self) -> list[str]:
        """Return why the canary must be rolled back; an empty list when it may go on."""
        if min(map(len, self.calls.values())) < self.limits.min_requests:
            return []
        try:
            found = compare_windows(self.window("production"), self.window("canary"), self.limits)
        except (TypeError, ValueError):
            return ["its predictions are no labels or numbers that could be compared with production's"]
        return [*found, f"it failed by {', '.join(sorted(self.failures))}"] if found and self.failures else found

    def infer(self, rows, probability: bool, key: str | None, interval: bool = False) -> InferenceResult:
        """Predict with one of the two; with production where the canary fails."""
        position = position_of(self.name, key) if key else random.random()
        if position < self.share:
            return self._from_canary(rows, probability, interval)
        if position < 1 - self.share:
            return InferenceResult.from_rows(self.production, rows)
        return self._from_production(rows)

    def _from_canary(self, rows, probability: bool, interval: bool) -> InferenceResult:
        """Predict with the canary, or with production when it raises; that counts where production does not raise."""
        begin = time.perf_counter()
        try:
            result = InferenceResult.from_rows(self.canary, rows, "canary")
            if [o.name for o in self.canary.signature.outputs] != [o.name for o in self.production.signature.outputs]:
                raise _UnfitError("other outputs")
            if probability and result.predictions.probability is None:
                raise _UnfitError("no probabilities")
            if interval and self.canary.signature.interval is None:
                raise _UnfitError("no interval")
        except Exception as e:
            result = InferenceResult.from_rows(self.production, rows)
            self._record_failure(str(e) if isinstance(e, _UnfitError) else type(e).__name__)
            return result
        self._record(result, begin)
        return result

    def _from_production(self, rows) -> InferenceResult:
        """Predict with production, to be compared with the canary; a client error does not count."""
        begin = time.perf_counter()
        try:
            result = InferenceResult.from_rows(self.production, rows)
        except InputError:
            raise
        except Exception:
            self.calls["production"].append(None)
            raise
        self._record(result, begin)
        return result

    def _record(self, result: InferenceResult, begin: float):
        first = _first_of(result.predictions, self._numbers)
        self.calls[result.role].append((time.perf_counter() - begin, first))

    def _record_failure(self, kind: str):
        if kind not in self.failures:
            log(f"{self.name} version {self.canary.version} failed as the canary: {kind}")
        self.failures[kind] += 1
        self.calls["canary"].append(None)


def _first_of(predictions: Predictions, numbers: tuple[str, ...]):
    """Return the first prediction as a value to compare: of several numbers each, of labels all as one text."""
    if predictions.outputs is None:
        return predictions.prediction[0]
    if numbers:
        return [predictions.outputs[name].prediction[0] for name in numbers]
    first = {name: part.prediction[:1].tolist()[0] for name, part in predictions.outputs.items()}
    return ", ".join(f"{name}: {label_text(label)}" for name, label in sorted(first.items()))


def position_of(name: str, key: str) -> float:
    """Return a number from 0 to 1 for a key: the same in every worker and service, another for another model."""
    return int.from_bytes(blake2b(f"{name}/{key}".encode(), digest_size=7).digest()) / 2**56


def limits_of(settings: Settings) -> CanaryLimits:
    """Return how much worse than production a canary may be."""
    return CanaryLimits(**{f.name: getattr(settings, f"canary_{f.name}") for f in fields(CanaryLimits)})
