"""A canary beside production: who answers which request, and what each of them did."""

import random
import time
from collections import Counter, deque
from dataclasses import fields
from hashlib import blake2b

import numpy as np

from mlops_nb.monitor.canary import CanaryLimits, CanaryWindow, compare_windows
from mlops_nb.errors import InputError
from mlops_nb.model.predictor import Predictor
from mlops_nb.settings import Settings
from mlops_nb.serving.http.periodic import log
from mlops_nb.serving.inference.infer import InferenceResult

MAX_REMEMBERED_REQUESTS = 1000  # How many requests of each are remembered, unless more are needed to judge


class CanaryTrial:
    """One version as the canary of another: as many requests as it answers are watched in production too."""

    def __init__(self, name: str, production: Predictor, canary: Predictor, settings: Settings):
        self.name, self.production, self.canary = name, production, canary
        self.share, self.limits = settings.canary_share, limits_of(settings)
        last = max(MAX_REMEMBERED_REQUESTS, self.limits.min_requests)
        self.calls = {role: deque(maxlen=last) for role in ("production", "canary")}  # None: it failed
        self.failures: Counter[str] = Counter()  # Kinds of what the canary raised

    def counts(self) -> dict:
        """What the canary did so far, for people."""
        figures = {"requests": len(self.calls["canary"]), "failures": dict(self.failures)}
        return {"version": self.canary.version, "share": self.share, **figures}

    def window(self, role: str) -> CanaryWindow:
        """What one of the two did with its last requests."""
        calls = list(self.calls[role])
        answered = [call for call in calls if call is not None]
        seconds, predictions = zip(*answered, strict=True) if answered else ((), ())
        return CanaryWindow(len(calls) - len(answered), np.array(seconds), np.array(predictions))

    def reasons(self) -> list[str]:
        """Why the canary must not go on; none when it may."""
        if min(map(len, self.calls.values())) < self.limits.min_requests:
            return []
        try:
            found = compare_windows(self.window("production"), self.window("canary"), self.limits)
        except (TypeError, ValueError):
            return ["its predictions are no labels or numbers that could be compared with production's"]
        return [*found, f"it raised {', '.join(sorted(self.failures))}"] if found and self.failures else found

    def ask(self, rows, probability: bool, key: str | None) -> InferenceResult:
        """What one of the two says; what the canary cannot answer, production does."""
        place = place_of(self.name, key) if key else random.random()
        if place < self.share:
            return self._from_canary(rows, probability)
        if place < 1 - self.share:
            return InferenceResult.from_rows(self.production, rows)
        return self._watched(rows)

    def _from_canary(self, rows, probability: bool) -> InferenceResult:
        """Whatever the canary raises, the client gets an answer; it counts if production had one."""
        begin = time.perf_counter()
        try:
            said = InferenceResult.from_rows(self.canary, rows, "canary")
            if probability and said.predictions.probability is None:
                raise InputError("It has no probabilities.")
        except Exception as e:
            said = InferenceResult.from_rows(self.production, rows)
            self._failed(type(e).__name__)
            return said
        self._note(said, begin)
        return said

    def _watched(self, rows) -> InferenceResult:
        """An answer of production that the canary's are compared with; what the client did wrong does not count."""
        begin = time.perf_counter()
        try:
            said = InferenceResult.from_rows(self.production, rows)
        except InputError:
            raise
        except Exception:
            self.calls["production"].append(None)
            raise
        self._note(said, begin)
        return said

    def _note(self, said: InferenceResult, begin: float):
        self.calls[said.role].append((time.perf_counter() - begin, said.predictions.prediction[0]))

    def _failed(self, kind: str):
        if kind not in self.failures:
            log(f"{self.name} version {self.canary.version} failed as the canary: {kind}")
        self.failures[kind] += 1
        self.calls["canary"].append(None)


def place_of(name: str, key: str) -> float:
    """Where a key stands between 0 and 1: the same in every worker and service, another for another model."""
    return int.from_bytes(blake2b(f"{name}/{key}".encode(), digest_size=7).digest()) / 2**56


def limits_of(settings: Settings) -> CanaryLimits:
    """How much worse than production a canary may be."""
    return CanaryLimits(**{f.name: getattr(settings, f"canary_{f.name}") for f in fields(CanaryLimits)})
