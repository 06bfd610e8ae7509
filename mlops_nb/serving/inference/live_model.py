"""One model that a worker serves: it follows the registry, and serves only what it has verified."""

# more than 300 lines: one model's life, from the first load to the last request, over the same state

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

from sqlalchemy.exc import SQLAlchemyError

from mlops_nb.errors import MlopsError, RegistryError
from mlops_nb.model.compatibility import differences
from mlops_nb.model.predictor import Predictor
from mlops_nb.store.registry import Registry, Version
from mlops_nb.settings import Settings, split_names
from mlops_nb.spec import default_model
from mlops_nb.serving.http.periodic import PeriodicThread, log
from mlops_nb.serving.inference.batching import is_shared, share_calls
from mlops_nb.serving.inference.fallback import BundleFallback
from mlops_nb.serving.inference.canary import CanaryTrial
from mlops_nb.serving.inference.loading import InlineRule, LoadResult, inline_rule, load_verified
from mlops_nb.serving.inference.shadow import Shadow

_ACTOR = "service"  # actor in the registry's history


MAX_COUNTED_BATCHES = 10_000  # between two readings of the registry, after which they are counted
FIRST_MODEL_SECONDS = 20.0  # that a starting worker waits for its model; Gunicorn allows 60


FIRST_LOAD = "The first load is not over yet."  # problem until the registry was read once


class NoModelError(MlopsError):
    """No model is loaded."""

    code = "no_model"


@dataclass(frozen=True)
class ServingState:
    """Versions that are served at one moment; replaced as a whole, never changed."""

    production: Predictor | None = None  # serves the requests
    trial: CanaryTrial | None = None  # of a canary, which serves some of the requests
    shadow: Predictor | None = None  # predicts the same rows beside the requests
    aliases: Mapping[str, int] = field(default_factory=dict)  # alias to version, when the registry was last read
    refused: Mapping[int, str] = field(default_factory=dict)  # version to why its bundle is not served
    inline: InlineRule = InlineRule()  # of production
    from_cache: bool = False  # whether production is the fallback on local disk, until the registry is read
    rolled_back: Mapping | None = None  # The last canary that was worse than production: version, reason
    problem: str | None = FIRST_LOAD  # Why the registry could not be asked
    lost: str | None = None  # What a registry without models lacks that the artifact store has

    @property
    def runs_inline(self) -> bool:
        """Whether a row takes less time than waking a thread; not during a trial, because a canary may be slow."""
        return self.trial is None and self.inline.allows()

    @property
    def shares_calls(self) -> bool:
        """Whether requests share calls, so that many of them wait at a time."""
        return is_shared(self.production) or (self.trial is not None and is_shared(self.trial.canary))

    @property
    def predictors(self) -> dict[str, Predictor]:
        """The predictor of each role."""
        canary = None if self.trial is None else self.trial.canary
        found = {"production": self.production, "canary": canary, "shadow": self.shadow}
        return {role: predictor for role, predictor in found.items() if predictor is not None}

    @property
    def roles(self) -> dict[str, int]:
        """The version of each role."""
        return {role: cast(int, predictor.version) for role, predictor in self.predictors.items()}


class LiveModel:
    """The versions of a model in a worker, replaced when the aliases move or the files of their bundles change.

    A request reads `state` once, so it ends with the predictor with which it began; a predictor is released after the
    last such request. Everything else belongs to the thread that follows the registry: its own, or, where `load` is
    given, those of `mlops_nb.serving.inference.models.ServedModels`, which loads the model when it is used.
    """

    def __init__(
        self,
        settings: Settings,
        record: Callable,
        name: str | None = None,  # the service's only model by default
        open_registry: Callable[[], Registry] | None = None,  # a registry of its own by default
        load: Callable[["LiveModel"], ServingState] | None = None,  # loads it; None: it is loaded from the start
    ):
        self.settings = settings
        self.name = name or settings.model or default_model(settings.home)
        self.is_awake = load is None  # whether it is in memory, or was tried to be loaded
        self.used_at = 0.0  # when it predicted last, `time.perf_counter()`
        self._load_lazily, self._open_registry = load, open_registry
        self._verified: int | None = None  # version that could predict when it was released
        self.trusted = split_names(settings.trusted_types)
        self.state = ServingState()
        self.shadow = Shadow(record)
        self.after_refresh: Callable = lambda _: None  # given this, after the registry was read
        self.batches: deque[tuple[int | None, int]] = deque(
            maxlen=MAX_COUNTED_BATCHES
        )  # not counted yet: version, rows
        self._registry: Registry | None = None
        self._aliases: dict[str, int] | None = None  # at the last decision
        self._loads: dict[int, LoadResult] = {}  # by version
        self._fallback = BundleFallback(settings, self.name)
        self._cached: Predictor | None = None  # from the fallback, and not yet confirmed by the registry
        self._exchange_problem: str | None = None  # why the counts of the canary were not exchanged
        self._failed_canary: int | None = None  # version of a canary whose alias has to be cleared
        self._is_read = threading.Event()  # set when the registry was read once
        self._thread = PeriodicThread("live-model", self._watch)

    def start(self, timeout_seconds: float = FIRST_MODEL_SECONDS):
        """Begin to follow the registry; wait for the first model, but not until Gunicorn kills the worker."""
        self._thread.start()
        self._is_read.wait(timeout_seconds)

    def stop(self):
        """Stop following the registry, and release the models."""
        self._thread.stop()
        self.shadow.stop()
        self.state, self._loads, self._cached = ServingState(), {}, None
        if self._registry is not None and self._open_registry is None:
            self._registry.close()
        self._registry = None

    def wake(self):
        """Load the model; without a registry, the copy on this disk."""
        try:
            self.refresh()
            if self.state.production is None and self.state.problem and not self._aliases:
                self._load_fallback()
                self.after_refresh(self)
        finally:
            self.is_awake = True

    def release(self):
        """Release the model until its next request."""
        self._verified = self.state.aliases.get("production") if self.state.production is not None else None
        self.state = ServingState(aliases=self.state.aliases, problem=None)
        self.is_awake, self._loads, self._cached, self._aliases = False, {}, None, None

    def is_outdated(self, aliases: Mapping[str, int]) -> bool:
        """Whether the registry is to be read for this model: an alias moved, files changed, a canary is worse."""
        if not self.is_awake:
            return False
        trial = self.state.trial
        return (
            aliases != self._aliases
            or self.state.problem is not None
            or self._failed_canary is not None
            or any(load.outdated for load in self._loads.values())
            or (trial is not None and trial.has_news)
        )

    def note_aliases(self, aliases: Mapping[str, int]):
        """Record the aliases of a model that is not in memory."""
        if aliases != self.state.aliases or self.state.problem:
            self.state = ServingState(aliases=aliases, problem=None)

    def note_problem(self, problem: str):
        """Record why the registry could not be asked."""
        if problem != self.state.problem:
            self.state = replace(self.state, problem=problem)
            self.after_refresh(self)

    @property
    def can_predict(self) -> bool:
        """Whether it predicts now, or did when it was released and its version is still in production."""
        if self.state.production is not None:
            return True
        return (
            not self.is_awake and self._verified is not None and self._verified == self.state.aliases.get("production")
        )

    def require_ready(self):
        """Raise `NoModelError` unless it can predict; load it if it was not loaded yet."""
        if not self.can_predict:
            self.serving()

    @property
    def memory_bytes(self) -> int:
        """Memory that its versions take, about."""
        return sum(load.memory_bytes for load in list(self._loads.values()))

    def serving(self) -> ServingState:
        """Return a state with a version in production, loaded now if need be; raise `NoModelError` without one."""
        state = self.state
        if state.production is None and self._load_lazily is not None and not self.is_awake:
            state = self._load_lazily(self)
        self.loaded(state)
        return state

    @property
    def predictor(self) -> Predictor | None:
        """The predictor of production."""
        return self.state.production

    def loaded(self, state: ServingState | None = None) -> Predictor:
        """Return the predictor of a state, by default the current one; raise `NoModelError` without one."""
        state = state or (self.state if self.is_awake else self.serving())
        if state.production is not None:
            return state.production
        if state.problem:
            raise NoModelError(f"No model is loaded. {state.problem} The service tries again by itself.")
        if state.refused:
            reasons = " ".join(f"Version {version}: {reason}" for version, reason in state.refused.items())
            raise NoModelError(f"No version of {self.name!r} can be served. {reasons} Roll back, or build again.")
        if state.lost:
            raise NoModelError(f"No model is registered. {state.lost}")
        raise NoModelError(
            f"No version of {self.name!r} is in production. Run `ploomber build` (or `make build`); if its gates did "
            f"not pass, see `mlops-nb models list {self.name}` and `mlops-nb models promote`."
        )

    def _watch(self) -> float:
        if not self._is_read.is_set():
            self._load_fallback()
        self.refresh()
        self._is_read.set()
        return self.settings.poll_seconds

    def _load_fallback(self):
        """Serve the latest copy on local disk that can be verified, until the registry is read."""
        try:
            for kept in self._fallback.versions():
                self._loads[kept.version] = load_verified(kept, self.trusted, on_load=self._share_calls)
                self._cached = self._loads[kept.version].predictor
                if self._cached is not None:
                    break
        except OSError as e:
            log(f"MLOPS_CACHE cannot be read: {type(e).__name__}.")
        cached, refused = self._cached, _refused(self._loads)
        self.state = replace(
            self.state, production=cached, refused=refused, inline=inline_rule(cached), from_cache=cached is not None
        )

    def refresh(self):
        """Read the aliases, and load what they name if one moved or the files of a bundle changed."""
        try:
            if self._registry is None:
                self._registry = (self._open_registry or self._open_own)()
            registry = self._registry
            self._evaluate_canary(registry)
            aliases = registry.aliases(self.name)
            if aliases != self._aliases or any(load.outdated for load in self._loads.values()):
                self._load(registry, aliases)
                self._aliases = aliases
            elif self.state.problem:
                self.state = replace(self.state, problem=None)
        except Exception as e:  # the thread that follows the registry must survive any exception
            self._report(e)
        self.after_refresh(self)

    def _open_own(self) -> Registry:
        return Registry.open(self.settings)

    def _report(self, error: Exception):
        """Log a new problem once."""
        expected = isinstance(error, MlopsError | SQLAlchemyError | OSError)
        problem = f"The registry cannot be asked: {type(error).__name__}."
        if isinstance(error, MlopsError):
            problem = str(error)
        if problem != self.state.problem:
            log(f"{problem} ({error})" if expected else problem)
        self.state = replace(self.state, problem=problem)

    def _load(self, registry: Registry, aliases: Mapping[str, int]):
        """Serve the version in production if it can be verified, else an earlier one, the newest first.

        Canary and shadow are loaded after it, so that they never delay it.
        """
        candidates = self._candidates(registry, aliases)
        roles = [aliases[role] for role in ("canary", "shadow") if role in aliases]
        found = {v.version: v for v in registry.versions(self.name, [*candidates, *roles])}
        loads: dict[int, LoadResult] = {}

        def load(version: int) -> Predictor | None:
            if version not in loads:
                earlier = self._loads.get(version)
                loads[version] = load_verified(found[version], self.trusted, earlier, registry.fetch, self._share_calls)
            return loads[version].predictor

        kept = None if self.state.from_cache else self.state.production
        production = next(filter(None, map(load, filter(found.__contains__, candidates))), kept)  # others were deleted
        before = self.state
        if production is not before.production:
            self.state = ServingState(production, aliases=aliases, refused=_refused(loads), problem=None)
        inline = before.inline if production is before.production else inline_rule(production)
        beside = {role: load(aliases[role]) for role in ("canary", "shadow") if role in aliases}
        unlike = {role: reason for role, found in beside.items() if (reason := _difference(production, found))}
        canary, shadow = (None if role in unlike else beside.get(role) for role in ("canary", "shadow"))
        shadow = None if shadow is production else shadow
        lost = None if found else registry.describe_loss()
        if lost and lost != before.lost:
            log(f"No model is registered. {lost}")
        verified = next(
            (one.version for one in loads.values() if one.predictor is production and not one.refused), None
        )
        if verified is not None or production is not self._cached:
            self._cached = None
        self.state = ServingState(
            production=production,
            trial=self._trial(production, canary, registry),
            shadow=shadow,
            aliases=aliases,
            refused=_refused(loads) | {aliases[role]: f"as the {role}, {reason}" for role, reason in unlike.items()},
            inline=inline,
            from_cache=self._cached is not None,
            rolled_back=self._rolled_back(registry, aliases),
            problem=None,
            lost=lost,
        )
        self._loads = loads
        if isinstance(verified, Version):
            self._fallback.keep(verified)

    def _share_calls(self, predictor: Predictor):
        """Let requests share the calls of a new predictor if that gains, and count the rows of each call."""
        share_calls(predictor, self.settings, partial(self._count_batch, predictor.version))

    def _count_batch(self, version: int | None, n_rows: int):
        self.batches.append((version, n_rows))

    def _trial(self, production: Predictor | None, canary: Predictor | None, registry: Registry) -> CanaryTrial | None:
        """Return the trial of a canary: the current one if it goes on, or a new one."""
        if production is None or canary in (None, production) or canary.version == self._failed_canary:
            return None
        now = self.state.trial
        if now is not None and (now.production, now.canary) == (production, canary):
            return now
        last = {change.alias: change.id for change in registry.history(self.name)}
        trial = f"{last.get('production', 0)}-{last.get('canary', 0)}"  # the same in all workers
        return CanaryTrial(self.name, production, canary, self.settings, trial)

    def _evaluate_canary(self, registry: Registry):
        """Roll back a canary that is worse: here at once, for all workers through the registry, by the first of them."""
        trial = self.state.trial
        if trial is not None:
            try:
                trial.exchange(registry.engine)
            except SQLAlchemyError as e:  # its own requests and the last known ones of others are compared
                self._note_exchange(f"The counts of the canary cannot be exchanged: {type(e).__name__}.")
            else:
                self._note_exchange(None)
        reasons = [] if trial is None else trial.reasons()
        if trial is not None and reasons:
            version, reason = trial.canary.version, "; ".join(reasons)
            self._failed_canary = version
            self.state = replace(self.state, trial=None, rolled_back={"version": version, "reason": reason})
            log(f"{self.name} version {version} rolled back as the canary: {reason}")
        if self._failed_canary is None:
            return
        try:
            reason = (self.state.rolled_back or {})["reason"]
            registry.clear(self.name, "canary", reason, _ACTOR, expected=self._failed_canary)
        except RegistryError:
            pass  # another worker was faster, or a person
        except SQLAlchemyError as e:
            if reasons:
                log(f"The alias of the canary cannot be cleared: {type(e).__name__}; it is tried again.")
            return
        self._failed_canary, self._aliases = None, None

    def _note_exchange(self, problem: str | None):
        """Log once that the workers cannot exchange their counts."""
        if problem and problem != self._exchange_problem:
            log(f"{problem} It is tried again.")
        self._exchange_problem = problem

    def _rolled_back(self, registry: Registry, aliases: Mapping[str, int]) -> Mapping | None:
        """Return the last canary if a service cleared it and nobody has tried another since."""
        if "canary" in aliases:
            return self.state.rolled_back if self._failed_canary is not None else None
        last = registry.history(self.name, "canary")[-1:]
        if not last or (last[0].action, last[0].actor) != ("clear", _ACTOR):
            return None
        return {"version": last[0].from_version, "reason": last[0].reason}

    def _candidates(self, registry: Registry, aliases: Mapping[str, int]) -> list[int]:
        """Return the version in production, then earlier ones, the newest first."""
        if "production" not in aliases:
            return []
        changes = registry.history(self.name, "production")
        return list(dict.fromkeys([aliases["production"], *(c.to_version for c in reversed(changes) if c.to_version)]))


def _refused(loads: Mapping[int, LoadResult]) -> dict[int, str]:
    return {version: load.refused for version, load in loads.items() if load.refused}


def _difference(production: Predictor | None, beside: Predictor | None) -> str | None:
    """Return why a version cannot get the requests of production, as where production moved after its alias."""
    if production is None or beside is None:
        return None
    return "; ".join(differences(production.signature, beside.signature)) or None
