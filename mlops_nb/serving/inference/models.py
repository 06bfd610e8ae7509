"""The models of a service by name: one that is followed from the start, or several that are loaded when they are used."""

# more than 300 lines: which models are loaded, and which make room, is decided over one table

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flask import current_app, request
from sqlalchemy.exc import SQLAlchemyError

from mlops_nb.errors import MlopsError, NotFoundError, known_names
from mlops_nb.store.bundle_cache import BundleCache
from mlops_nb.store.registry import Registry
from mlops_nb.settings import ALL_MODELS, Settings, split_models
from mlops_nb.serving.http.errors import RequestError
from mlops_nb.serving.http.periodic import PeriodicThread, log, log_exception
from mlops_nb.serving.inference.live_model import FIRST_LOAD, FIRST_MODEL_SECONDS, LiveModel, NoModelError, ServingState

SHOWN_NAMES = 20  # of models in an error
UNLOADED = "The model {0!r} was unloaded. Load it: POST /v2/repository/models/{0}/load."
UNLOADED_PREFIX = "unloaded-"  # of a file in the folder that the workers share


class ServedModels:
    """The models of a worker.

    One model (`MLOPS_MODEL`) follows the registry by itself from the start. Of several (`MLOPS_MODELS`) each is loaded by
    its first request, in a thread of its own, so that one that is slow or broken delays no other. One thread follows
    the registry for all of them, by one query. Where they take more than `MLOPS_MODELS_MB`, those that were not used for
    longest are released; their next request loads them again.
    """

    def __init__(self, settings: Settings, record: Callable):
        self.settings, self._record = settings, record
        self.is_single = not settings.models
        self.after_refresh: Callable = lambda _: None  # given a model, after the registry was read for it
        named = split_models(settings.models)
        self.serves_all = named == [ALL_MODELS]
        self.by_name: dict[str, LiveModel] = {}
        self.first: LiveModel | None = None  # the one of a request that names none; None: it must name one
        self.problem: str | None = None  # why the registry could not be asked
        self._registry: Registry | None = None
        self._loading: dict[str, _Load] = {}
        self._lock = threading.RLock()  # of what is loaded and released
        self._registry_lock = threading.Lock()  # held while the database is opened, which may take long
        self._patient = threading.BoundedSemaphore(max(1, settings.threads // 2))
        self._unloaded = UnloadedNames()
        self._is_read = threading.Event()
        self._is_stopping = False
        self._thread = PeriodicThread("models", self._follow)
        if self.is_single:
            self._add(LiveModel(settings, record))
        elif not self.serves_all:
            for name in named:
                self._add(self._lazy(name))
        self.first = next(iter(self.by_name.values()), None)

    def _lazy(self, name: str) -> LiveModel:
        return LiveModel(self.settings, self._record, name, self._open_registry, self._wake)

    def _add(self, live: LiveModel):
        live.after_refresh = lambda live: self.after_refresh(live)
        self.by_name = {**self.by_name, live.name: live}  # requests read it at any time

    # the life of a worker

    def start(self):
        """Begin to follow the registry; wait until a model can predict, but not until Gunicorn kills the worker."""
        if self.is_single and self.first is not None:
            self.first.start()
            return
        self._thread.start()
        self._is_read.wait(FIRST_MODEL_SECONDS)

    def stop(self):
        """Stop following the registry, and release the models."""
        self._is_stopping = True
        if not self.is_single:
            self._thread.stop()
        for load in list(self._loading.values()):
            with suppress(FutureTimeoutError):
                load.future.result(timeout=10)
        for live in self.by_name.values():
            live.stop()
        if self._registry is not None:
            self._registry.close()
            self._registry = None

    # what a request asks for

    def get(self, name: str) -> LiveModel:
        """Return a model by its name; raise `NotFoundError` with the names that are near."""
        live = self.by_name.get(name)
        if live is None:
            raise NotFoundError(f"There is no model {name[:100]!r} here. {known_names(name[:100], self.by_name)}")
        return live

    def default(self) -> LiveModel:
        """Return the model of a request that names none: the first of `MLOPS_MODELS`, or the only one."""
        if self.first is not None:
            return self.first
        if not self.by_name:
            if self.problem:
                raise NoModelError(f"No model is loaded. {self.problem} The service tries again by itself.")
            raise NoModelError("No model has a version in production. Run `ploomber build`, or promote a version.")
        names = sorted(self.by_name)
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        raise RequestError(
            f"Which model? There is: {', '.join(map(repr, names[:SHOWN_NAMES]))}{more}. Name it in the path, such as "
            f"/models/{names[0]}/predict, or as in /invocations?model={names[0]}."
        )

    def can_predict(self) -> bool:
        """Whether any model can predict."""
        return any(live.can_predict and live.name not in self._unloaded for live in list(self.by_name.values()))

    def require_ready(self, live: LiveModel):
        """Raise `NoModelError` unless a model can predict; load it if it was not loaded yet."""
        if live.name in self._unloaded:
            raise NoModelError(UNLOADED.format(live.name))
        live.require_ready()

    def require_any(self):
        """Raise `NoModelError` unless a model can predict."""
        if self.is_single or len(self.by_name) == 1:
            self.default().loaded()
        elif not self.can_predict():
            raise NoModelError(self.problem or "No model can predict. GET /health/ready has the reason for each.")

    # load and unload

    def load(self, live: LiveModel):
        """Load a model that was unloaded or is not in memory; raise `NoModelError` where it cannot be loaded."""
        self._unloaded.discard(live.name)
        live.serving()

    def unload(self, live: LiveModel):
        """Release a model in all workers until it is loaded by name; the others follow when they ask the registry."""
        if self.is_single:
            raise RequestError(
                "A service of one model keeps it loaded. Name the models in MLOPS_MODELS to load and unload them."
            )
        self._unloaded.add(live.name)
        self._release(live)

    def is_unloaded(self, live: LiveModel) -> bool:
        """Whether an operator unloaded a model."""
        return live.name in self._unloaded

    def state_of(self, live: LiveModel) -> str:
        """Return the state of a model in this worker, in one word."""
        if self.is_unloaded(live):
            return "unloaded"
        if live.state.production is not None:
            return "loaded"
        if live.name in self._loading:
            return "loading"
        if live.state.problem == FIRST_LOAD:
            return "not loaded"
        return "failed" if live.is_awake or "production" not in live.state.aliases else "not loaded"

    def reason_of(self, live: LiveModel) -> str | None:
        """Return why a model cannot predict; None where it can, or was not tried yet."""
        if self.state_of(live) != "failed":
            return live.state.problem
        try:
            live.loaded(live.state)
        except NoModelError as e:
            return str(e)
        return None

    def _release(self, live: LiveModel) -> bool:
        """Release a model, unless it is being loaded."""
        with self._lock:
            if live.name in self._loading:
                return False
            live.release()
        live.after_refresh(live)
        return True

    def _wake(self, live: LiveModel) -> ServingState:
        """Return the state of a model when it is loaded; wait no longer than other models' requests may wait.

        A load of any length may keep half of the threads; beyond these a request waits for half the time that the next
        request may wait for a thread.
        """
        if live.name in self._unloaded:
            raise NoModelError(UNLOADED.format(live.name))
        load = self._begin_load(live)
        is_patient = self._patient.acquire(blocking=False)
        seconds = self.settings.request_seconds
        if not is_patient:
            seconds = load.begun + self.settings.queue_seconds / 2 - time.monotonic()
        try:
            return load.future.result(timeout=max(0.0, seconds))
        except FutureTimeoutError:
            raise NoModelError(f"The model {live.name!r} is being loaded. Send the request again.") from None
        finally:
            if is_patient:
                self._patient.release()

    def _begin_load(self, live: LiveModel) -> "_Load":
        """Load a model, or read the registry again for one, in a thread of its own; return the load that is under way."""
        with self._lock:
            load = self._loading.get(live.name)
            if load is None:
                load = self._loading[live.name] = _Load()
                threading.Thread(
                    target=self._run_load, args=(live, load), name=f"load-{live.name}", daemon=True
                ).start()
            return load

    def _run_load(self, live: LiveModel, load: "_Load"):
        try:
            live.wake()
        except Exception as e:  # whatever loading raises concerns this model alone
            log_exception(e)
        state = live.state
        with self._lock:
            del self._loading[live.name]
            released = self._make_room(live)
        load.future.set_result(state)
        for other in released:
            other.after_refresh(other)

    def _make_room(self, kept: LiveModel) -> list[LiveModel]:
        """Release the models that were not used for longest, until the others take no more than `MLOPS_MODELS_MB`."""
        limit, released = self.settings.models_mb * 2**20, []
        loaded = sorted((one for one in self.by_name.values() if one.memory_bytes), key=lambda one: one.used_at)
        total = sum(one.memory_bytes for one in loaded)
        for one in loaded:
            if total <= limit or one is kept or one.name in self._loading:
                continue
            total -= one.memory_bytes
            one.release()
            log(f"{one.name} released: the models take more than MLOPS_MODELS_MB={self.settings.models_mb:g}")
            released.append(one)
        return released

    # following the registry, for several models

    def _follow(self) -> float:
        self.refresh()
        if not self._is_read.is_set():
            self._load_first()
            self._is_read.set()
        return self.settings.poll_seconds

    def refresh(self):
        """Read the aliases of all models by one query; load again what they or changed files concern."""
        if self.is_single and self.first is not None:
            self.first.refresh()
            return
        aliases: Mapping[str, dict[str, int]] = {}
        try:
            aliases = self._open_registry().all_aliases()
            problem = None
        except Exception as e:  # the thread that follows the registry must survive any exception
            expected = isinstance(e, MlopsError | SQLAlchemyError | OSError)
            problem = str(e) if isinstance(e, MlopsError) else f"The registry cannot be asked: {type(e).__name__}."
            if problem != self.problem:
                log(f"{problem} ({e})" if expected else problem)
        self.problem = problem
        if self.serves_all:
            self._find_models(aliases)
        for live in list(self.by_name.values()):
            if live.is_awake and live.name in self._unloaded:
                self._release(live)
            elif problem is not None:
                live.note_problem(problem)
            elif live.is_outdated(aliases.get(live.name, {})):
                self._begin_load(live)
            elif not live.is_awake:
                live.note_aliases(aliases.get(live.name, {}))

    def _find_models(self, aliases: Mapping[str, dict[str, int]]):
        """Serve the models that have a version in production; without a registry, those that have a copy here."""
        if self.problem is None:
            found = {name for name, of in aliases.items() if "production" in of}
        else:
            found = {*self.by_name, *_kept_models(self.settings)}
        for name in sorted(found - self.by_name.keys()):
            self._add(self._lazy(name))
        for name in self.by_name.keys() - found:
            gone = self.by_name[name]
            self.by_name = {key: live for key, live in self.by_name.items() if key != name}
            gone.stop()
            gone.after_refresh(gone)
        self.first = next(iter(self.by_name.values())) if len(self.by_name) == 1 else None

    def _load_first(self):
        """Load models until one can predict: a worker that has none leaves requests to the others."""
        for live in list(self.by_name.values()):
            if live.name in self._unloaded:
                continue
            with suppress(FutureTimeoutError):
                if self._begin_load(live).future.result(FIRST_MODEL_SECONDS / 2).production is not None:
                    return
            if self._is_stopping:
                return

    def _open_registry(self) -> Registry:
        with self._registry_lock:
            if self._registry is None:
                self._registry = Registry.open(self.settings)
            return self._registry


@dataclass
class _Load:
    """A model that is being loaded."""

    future: Future = field(default_factory=Future)
    begun: float = field(default_factory=time.monotonic)


class UnloadedNames:
    """The names of the models that an operator unloaded, shared by the workers of a service."""

    def __init__(self):
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")  # which the master makes for the workers
        self._folder = Path(folder) if folder else None
        self._names: set[str] = set()  # of an application without workers

    def __contains__(self, name: str) -> bool:
        if self._folder is None:
            return name in self._names
        return (self._folder / f"{UNLOADED_PREFIX}{name}").exists()

    def add(self, name: str):
        """Record that a model was unloaded."""
        if self._folder is None:
            self._names.add(name)
        else:
            (self._folder / f"{UNLOADED_PREFIX}{name}").touch()

    def discard(self, name: str):
        """Forget that a model was unloaded."""
        if self._folder is None:
            self._names.discard(name)
        else:
            (self._folder / f"{UNLOADED_PREFIX}{name}").unlink(missing_ok=True)


def _kept_models(settings: Settings) -> set[str]:
    """Return the names of the models that were served and have a copy on this disk."""
    if settings.cache == "off":
        return set()
    cache = BundleCache(settings.cache)
    try:
        return {folder.name for folder in (cache.folder / "bundles").iterdir() if cache.served(folder.name)}
    except OSError:
        return set()


def model_of(name: str | None = None) -> LiveModel:
    """Return the model that the current request is for: the one that its path names, or the service's first."""
    models: ServedModels = current_app.extensions["models"]
    live = models.default() if name is None else models.get(name)
    request.environ["serving.model"] = live.name
    return live


def model_of_query() -> LiveModel:
    """Return the model that `?model=` names, or the service's first."""
    return model_of(request.args.get("model"))
