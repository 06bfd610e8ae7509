"""Which model a worker answers with: it follows the registry, and believes nothing that it has not proven."""

import os
import sys
import threading
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from mlops_nb.bundle import check_hashes
from mlops_nb.errors import MlopsError
from mlops_nb.predictor import Predictor
from mlops_nb.registry import Registry
from mlops_nb.settings import Settings
from mlops_nb.spec import default_model

# What may go wrong when a registry is asked or a bundle is read
EXPECTED = (MlopsError, SQLAlchemyError, OSError)


class NoModelError(MlopsError):
    """There is no model to answer with."""

    code = "no_model"


class LiveModel:
    """The predictor of a worker, replaced as a whole when production moves.

    `predictor` is what requests read, once each: a request that began with a predictor ends with it, and the
    predictor is let go when the last such request is through. Everything else belongs to the watching thread.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.name = settings.model or default_model(settings.home)
        self.trusted = [t.strip() for t in settings.trusted_types.split(",") if t.strip()]
        self.predictor: Predictor | None = None
        self.production: int | None = None  # Where the alias points, as far as we know
        self.refused: dict[int, str] = {}  # Version to why it is not served
        self.problem: str | None = None  # Why the registry could not be asked
        self._registry: Registry | None = None
        self._decided = None  # What the last decision was made on
        self._path: Path | None = None  # Of the production version's bundle
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="live-model", daemon=True)

    def start(self):
        """Load what is in production, then keep following it."""
        self.refresh()
        self._thread.start()

    def stop(self):
        """Stop following, and let the model go."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self.predictor = None
        if self._registry is not None:
            self._registry.close()
            self._registry = None

    def loaded(self) -> Predictor:
        """The predictor; a `NoModelError` that says what to do when there is none."""
        if self.predictor is not None:
            return self.predictor
        if self.problem:
            raise NoModelError(f"No model is loaded. {self.problem} The service tries again by itself.")
        if self.refused:
            reasons = " ".join(f"Version {version}: {reason}" for version, reason in self.refused.items())
            raise NoModelError(f"No version of {self.name!r} can be served. {reasons} Roll back, or build again.")
        raise NoModelError(
            f"No version of {self.name!r} is in production. Run `ploomber build` (or `make build`); if its gates did "
            f"not pass, see `mlops-nb models list {self.name}` and `mlops-nb models promote`."
        )

    def _watch(self):
        while not self._stop.wait(self.settings.poll_seconds):
            self.refresh()

    def refresh(self):
        """Look where production is, and follow if it moved or if the files of its bundle changed."""
        try:
            if self._registry is None:
                self._registry = Registry.open(self.settings)
            production = self._registry.current(self.name)
            if production != self.production:
                self._path = None if production is None else self._registry.get(self.name, production).path
            self.production, self.problem = production, None
            seen = (production, _stamp(self._path))
            if seen != self._decided:
                self._decide(production)
                self._decided = seen
        except EXPECTED as e:
            self._report(e)
        except Exception as e:  # the thread that follows production must outlive whatever happens to it
            self._report(e)

    def _report(self, error: Exception):
        """Say a new problem once."""
        problem = f"The registry cannot be asked: {type(error).__name__}."
        if isinstance(error, MlopsError):
            problem = str(error)
        if problem != self.problem:
            _log(f"{problem} ({error})")
        self.problem = problem

    def _decide(self, production: int | None):
        """Serve the production version if it can be proven; otherwise stay with what is proven."""
        if production is None:
            return
        if self.predictor is not None and self.predictor.version == production:
            self._check_again(production)
            return
        if self._load(production) or self.predictor is not None:
            return
        for earlier in self._earlier(production):
            if self._load(earlier):
                return

    def _load(self, version: int) -> bool:
        """Load, prove and serve a version; remember why not."""
        try:
            predictor = self._registry.load(self.name, version, self.trusted)
        except EXPECTED as e:
            self._refuse(version, e)
            return False
        self.predictor = predictor
        self.refused.pop(version, None)
        _log(f"{self.name} version {version} loaded, answers with {predictor.engine.name}")
        return True

    def _check_again(self, version: int):
        """The files of the version that is served were touched: are they still what was registered?"""
        try:
            check_hashes(self.predictor.bundle, self._registry.get(self.name, version).digest)
            self.refused.pop(version, None)
        except EXPECTED as e:
            self._refuse(version, e)

    def _refuse(self, version: int, error: Exception):
        reason = str(error) if isinstance(error, MlopsError) else f"Its files cannot be read: {type(error).__name__}."
        self.refused = {**self.refused, version: reason}
        _log(f"{self.name} version {version} refused: {reason}")

    def _earlier(self, production: int) -> list[int]:
        """Versions that were in production before, newest first."""
        moves = self._registry.history(self.name, "production")
        return [v for v in dict.fromkeys(m.to_version for m in reversed(moves)) if v != production]


def _stamp(path: Path | None) -> tuple | None:
    """Changes when a file of a bundle is replaced, written or removed; costs a stat a file."""
    if path is None:
        return None
    try:
        with os.scandir(path) as entries:
            stats = sorted((e.name, e.stat().st_mtime_ns, e.stat().st_size, e.inode()) for e in entries)
    except FileNotFoundError:
        return ()
    return tuple(stats)


def _log(message: str):
    print(f"[worker {os.getpid()}] {message}", file=sys.stderr, flush=True)
