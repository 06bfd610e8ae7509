"""Which model a worker answers with: it follows the registry, and believes nothing that it has not proven."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy.exc import SQLAlchemyError

from mlops_nb.errors import MlopsError, RegistryError
from mlops_nb.model.predictor import Predictor
from mlops_nb.store.registry import Registry
from mlops_nb.settings import Settings, split_names
from mlops_nb.spec import default_model
from mlops_nb.serving.http.periodic import PeriodicThread, log
from mlops_nb.serving.inference.fallback import BundleFallback
from mlops_nb.serving.inference.canary import CanaryTrial
from mlops_nb.serving.inference.loading import LoadResult, runs_inline, load_verified
from mlops_nb.serving.inference.shadow import Shadow

_ACTOR = "service"  # In the registry's history


class NoModelError(MlopsError):
    """There is no model to answer with."""

    code = "no_model"


@dataclass(frozen=True)
class ServingState:
    """All that a request may want to know, at one moment: never changed, only replaced as a whole."""

    production: Predictor | None = None  # Who answers
    trial: CanaryTrial | None = None  # Of a canary, which answers some of the requests
    shadow: Predictor | None = None  # Who is asked beside the requests
    aliases: Mapping[str, int] = field(default_factory=dict)  # Where they point, as far as we know
    refused: Mapping[int, str] = field(default_factory=dict)  # Version to why its files are not believed
    answers_quickly: bool = False  # Production does, see `mlops_nb.serving.inference.loading.runs_inline`
    from_cache: bool = False  # Production is the last good bundle on this disk, until the registry answers
    rolled_back: Mapping | None = None  # The last canary that was worse than production: version, reason
    problem: str | None = "The first load is not over yet."  # Why the registry could not be asked

    @property
    def runs_inline(self) -> bool:
        """Is an answer sooner there than a thread to give it? A canary is asked by chance, and may be slow."""
        return self.answers_quickly and self.trial is None

    @property
    def predictors(self) -> dict[str, Predictor]:
        """Who has which role."""
        found = {"production": self.production, "canary": self.trial and self.trial.canary, "shadow": self.shadow}
        return {role: predictor for role, predictor in found.items() if predictor is not None}

    @property
    def roles(self) -> dict[str, int]:
        """Which version has which role."""
        return {role: predictor.version for role, predictor in self.predictors.items()}


class LiveModel:
    """The models of a worker, replaced when the aliases move or the files of their bundles change.

    `state` is what requests read, once each: a request that began with a predictor ends with it, and the
    predictor is let go when the last such request is through. Everything else belongs to the watching thread.
    """

    def __init__(self, settings: Settings, record: Callable):
        self.settings = settings
        self.name = settings.model or default_model(settings.home)
        self.trusted = split_names(settings.trusted_types)
        self.state = ServingState()
        self.shadow = Shadow(record)
        self.after_refresh: Callable = lambda live: None  # Called when the registry was asked, with this
        self._registry: Registry | None = None
        self._aliases: dict[str, int] | None = None  # What the last decision was made on
        self._looks: dict[int, LoadResult] = {}  # What it looked at, by version
        self._cache = BundleFallback(settings, self.name)
        self._cached: Predictor | None = None  # From the cache, and not yet confirmed by the registry
        self._worse: int | None = None  # A canary that has to be cleared
        self._first = threading.Event()  # The registry was asked once
        self._routine = PeriodicThread("live-model", self._watch)

    def start(self, patience: float = 20):
        """Begin to follow the registry; wait for the first model, but not until Gunicorn ends the worker."""
        self._routine.start()
        self._first.wait(patience)

    def stop(self):
        """Stop following, and let the models go."""
        self._routine.stop()
        self.shadow.stop()
        self.state, self._looks, self._cached = ServingState(), {}, None
        if self._registry is not None:
            self._registry.close()
            self._registry = None

    @property
    def predictor(self) -> Predictor | None:
        """What answers as production."""
        return self.state.production

    def loaded(self, state: ServingState | None = None) -> Predictor:
        """The predictor of a state, by default the one now; a `NoModelError` that says what to do without one."""
        state = state or self.state
        if state.production is not None:
            return state.production
        if state.problem:
            raise NoModelError(f"No model is loaded. {state.problem} The service tries again by itself.")
        if state.refused:
            reasons = " ".join(f"Version {version}: {reason}" for version, reason in state.refused.items())
            raise NoModelError(f"No version of {self.name!r} can be served. {reasons} Roll back, or build again.")
        raise NoModelError(
            f"No version of {self.name!r} is in production. Run `ploomber build` (or `make build`); if its gates did "
            f"not pass, see `mlops-nb models list {self.name}` and `mlops-nb models promote`."
        )

    def _watch(self) -> float:
        if not self._first.is_set():
            self._begin_with_cache()
        self.refresh()
        self._first.set()
        return self.settings.poll_seconds

    def _begin_with_cache(self):
        """Prove what this disk has, to have something to serve if the registry should be away."""
        try:
            for kept in self._cache.versions():
                self._looks[kept.version] = load_verified(kept, self.trusted)
                self._cached = self._looks[kept.version].predictor
                if self._cached is not None:
                    break
        except OSError as e:
            log(f"MLOPS_CACHE cannot be read: {type(e).__name__}.")
        cached, refused = self._cached, _refused(self._looks)
        facts = {"refused": refused, "answers_quickly": runs_inline(cached), "from_cache": cached is not None}
        self.state = replace(self.state, production=cached, **facts)

    def refresh(self):
        """Look where the aliases are, and follow if one moved or if files that were looked at changed."""
        try:
            if self._registry is None:
                self._registry = Registry.open(self.settings)
            self._judge()
            aliases = self._registry.aliases(self.name)
            if aliases != self._aliases or any(look.outdated for look in self._looks.values()):
                self._decide(aliases)
                self._aliases = aliases
            elif self.state.problem:
                self.state = replace(self.state, problem=None)
        except Exception as e:  # the thread that follows the registry must outlive whatever happens to it
            self._report(e)
        self.after_refresh(self)

    def _report(self, error: Exception):
        """Say a new problem once."""
        expected = isinstance(error, MlopsError | SQLAlchemyError | OSError)
        problem = f"The registry cannot be asked: {type(error).__name__}."
        if isinstance(error, MlopsError):
            problem = str(error)
        if problem != self.state.problem:
            log(f"{problem} ({error})" if expected else problem)
        self.state = replace(self.state, problem=problem)

    def _decide(self, aliases: Mapping[str, int]):
        """Serve what is in production if it can be proven; otherwise what was there before, the newest first.

        Canary and shadow come after it, so that they never keep it from answering.
        """
        found = {v.version: v for v in self._registry.versions(self.name)}
        looks = {}

        def look(version: int) -> Predictor | None:
            if version not in looks:
                looks[version] = load_verified(found[version], self.trusted, self._looks.get(version), self._registry.fetch)
            return looks[version].predictor

        kept = None if self.state.from_cache else self.state.production
        production = next(filter(None, map(look, self._candidates(aliases))), kept)
        before = self.state
        if production is not before.production:
            self.state = ServingState(production, aliases=aliases, refused=_refused(looks), problem=None)
        quick = before.answers_quickly if production is before.production else runs_inline(production)
        canary, shadow = (look(aliases[role]) if role in aliases else None for role in ("canary", "shadow"))
        shadow = None if shadow is production else shadow
        proven = next((lk.version for lk in looks.values() if lk.predictor is production and not lk.refused), None)
        if proven is not None or production is not self._cached:
            self._cached = None
        self.state = ServingState(
            production,
            self._trial(production, canary),
            shadow,
            aliases,
            _refused(looks),
            quick,
            from_cache=self._cached is not None,
            rolled_back=self._rolled_back(aliases),
            problem=None,
        )
        self._looks = looks
        if proven is not None:
            self._cache.keep(proven)

    def _trial(self, production: Predictor | None, canary: Predictor | None) -> CanaryTrial | None:
        """The trial of a canary: the one that goes on, or a new one."""
        if production is None or canary in (None, production) or canary.version == self._worse:
            return None
        now = self.state.trial
        if now is not None and (now.production, now.canary) == (production, canary):
            return now
        return CanaryTrial(self.name, production, canary, self.settings)

    def _judge(self):
        """Roll back a canary that is worse: here at once, for everybody through the registry, which lets one do it."""
        trial = self.state.trial
        reasons = [] if trial is None else trial.reasons()
        if reasons:
            version, reason = trial.canary.version, "; ".join(reasons)
            self._worse = version
            self.state = replace(self.state, trial=None, rolled_back={"version": version, "reason": reason})
            log(f"{self.name} version {version} rolled back as the canary: {reason}")
        if self._worse is None:
            return
        try:
            self._registry.clear(self.name, "canary", self.state.rolled_back["reason"], _ACTOR, expected=self._worse)
        except RegistryError:
            pass  # another worker was faster, or a person
        except SQLAlchemyError as e:
            if reasons:
                log(f"The alias of the canary cannot be cleared: {type(e).__name__}; it is tried again.")
            return
        self._worse, self._aliases = None, None

    def _rolled_back(self, aliases: Mapping[str, int]) -> dict | None:
        """What the registry says of the last canary, if a service cleared it and nobody tried one since."""
        if "canary" in aliases:
            return self.state.rolled_back if self._worse is not None else None
        last = self._registry.history(self.name, "canary")[-1:]
        if not last or (last[0].action, last[0].actor) != ("clear", _ACTOR):
            return None
        return {"version": last[0].from_version, "reason": last[0].reason}

    def _candidates(self, aliases: Mapping[str, int]) -> list[int]:
        """The version in production, then those that were there before, newest first."""
        if "production" not in aliases:
            return []
        moves = self._registry.history(self.name, "production")
        return list(dict.fromkeys([aliases["production"], *(m.to_version for m in reversed(moves))]))


def _refused(looks: Mapping[int, LoadResult]) -> dict[int, str]:
    return {version: look.refused for version, look in looks.items() if look.refused}
