"""From a version in the registry to a verified predictor, or to the reason why it is refused."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_nb.model.bundle import check_hashes, read_manifest
from mlops_nb.model.engine import HybridEngine, LazyEngine, OnnxEngine
from mlops_nb.errors import ArtifactError, BundleError, MlopsError
from mlops_nb.model.predictor import Predictor
from mlops_nb.onnx_session import DEFAULT_PROVIDER, chosen_providers
from mlops_nb.store.registry import Version
from mlops_nb.serving.http.periodic import log
from mlops_nb.serving.inference.batching import is_shared

if TYPE_CHECKING:
    from mlops_nb.serving.inference.fallback import Cached


INLINE_SECONDS = 0.001  # CPU time of a row up to which a worker's main loop predicts it
INLINE_FALLBACK_SECONDS = 0.02  # the same of a row that scikit-learn predicts, however many such rows there are
FALLBACK_PAUSE_SECONDS = 10.0  # in which threads predict, after a row that took longer
MAX_FALLBACK_SECONDS = 0.1  # CPU time of such a row from which on threads always predict
MODEL_BYTES = 2**20  # memory of a small model, whatever its files
MEMORY_FACTOR = 2.5  # memory of a model by the bytes of its files; a forest of 100 trees takes 2.2 times as much
FETCH_RETRY_SECONDS = 5.0  # after which an artifact store that failed is asked again


@dataclass(frozen=True)
class LoadResult:
    """The result of loading a version, or of verifying it again."""

    version: "Version | Cached"
    stamp: tuple  # of the files, `stamp_of`
    predictor: Predictor | None  # verified now or earlier
    refused: str | None  # why the files are not served
    again_at: float | None = None  # when to ask an artifact store again that failed, `time.monotonic()`

    @property
    def outdated(self) -> bool:
        """Whether the files changed, or the artifact store is to be asked again."""
        if self.again_at is not None:
            return time.monotonic() >= self.again_at
        return stamp_of(self.version.path) != self.stamp

    @property
    def memory_bytes(self) -> int:
        """Memory that the predictor takes, estimated from the sizes of its files."""
        if self.predictor is None:
            return 0
        return MODEL_BYTES + int(
            MEMORY_FACTOR * sum(size for name, _, size, _ in self.stamp if name.startswith("model."))
        )


def load_verified(
    found: "Version | Cached",
    trusted: Iterable[str],
    before: LoadResult | None = None,
    fetch: Callable[[Any], Path] | None = None,  # copies the files of a version to local disk
    on_load: Callable[[Predictor], object] = lambda _: None,  # given a new predictor before it serves
) -> LoadResult:
    """Load and verify a version, or verify again one that is in memory; do nothing where nothing changed."""
    predictor = None
    if before is not None and before.version.digest == found.digest:
        if before.version.path == found.path and not before.outdated:
            return before
        predictor = before.predictor
    stamp = stamp_of(found.path)
    try:
        if fetch is not None:
            fetch(found)
            stamp = stamp_of(found.path)
        if predictor is None:
            predictor = Predictor.load(found.path, found.version, found.digest, trusted, lazy=True)
            log(
                f"{found.name} version {found.version} loaded, predicts with {predictor.engine.name}{describe_providers(predictor)}"
            )
            on_load(predictor)
        else:
            check_hashes(read_manifest(found.path), found.digest)
    except Exception as e:  # whatever loading a bundle raises, the bundle is refused
        reason = str(e) if isinstance(e, MlopsError) else f"Its files cannot be loaded: {type(e).__name__}."
        if before is None or before.refused != reason:
            log(f"{found.name} version {found.version} refused: {reason}")
        again_at = time.monotonic() + FETCH_RETRY_SECONDS if isinstance(e, ArtifactError) else None
        return LoadResult(found, stamp, predictor, reason, again_at)
    return LoadResult(found, stamp, predictor, None)


@dataclass(frozen=True)
class InlineRule:
    """Whether the main loop of a worker predicts a row itself."""

    is_quick: bool = False  # whether a row takes less time in an ONNX graph than waking a thread
    hybrid: HybridEngine | None = None  # whose rows outside the domain take long: after one, threads predict

    def allows(self) -> bool:
        """Whether it does so now."""
        hybrid = self.hybrid
        return self.is_quick and (hybrid is None or time.monotonic() - hybrid.fell_back_at > FALLBACK_PAUSE_SECONDS)


def inline_rule(predictor: Predictor | None) -> InlineRule:
    """Measure a row of a model, in its graph and by scikit-learn."""
    if predictor is None or predictor.engine.name != OnnxEngine.name or is_shared(predictor):
        return InlineRule()
    engine = predictor.engine
    if engine.providers != [DEFAULT_PROVIDER]:  # the time of another processor is no CPU time
        return InlineRule()
    try:
        rows = predictor.bundle.golden()["features"][:1]
    except BundleError:  # deleted since the model was loaded
        return InlineRule()
    table, is_quick = predictor.parse(rows), _cpu_seconds(lambda: predictor.predict_rows(rows)) < INLINE_SECONDS
    if not isinstance(engine, HybridEngine):
        return InlineRule(is_quick)
    if isinstance(engine.fallback, LazyEngine):
        return InlineRule(is_quick, engine)
    beside = _cpu_seconds(lambda: engine.fallback.predict(table), times=3)
    is_quick = is_quick and beside < MAX_FALLBACK_SECONDS
    return InlineRule(is_quick, engine if beside >= INLINE_FALLBACK_SECONDS else None)


def describe_providers(predictor: Predictor) -> str:
    """Return the providers of a graph for the log, and that the preferred one does not work; nothing for the default."""
    works, first = predictor.engine.providers, chosen_providers()[0]
    if works is None or (works == [DEFAULT_PROVIDER] and first == DEFAULT_PROVIDER):
        return ""
    problem = "" if first in works else f"; {first} does not work here, see the requirements of onnxruntime-gpu"
    return f" on {', '.join(works)}{problem}"


def _cpu_seconds(work: Callable[[], Any], times: int = 5) -> float:
    """Return the CPU time that work takes at its quickest."""
    took = []
    for _ in range(times):
        begin = time.thread_time()
        work()
        took.append(time.thread_time() - begin)
    return min(took)


def stamp_of(path: Path) -> tuple:
    """Return a value that changes when a file of a bundle is replaced, written or removed."""
    try:
        with os.scandir(path) as entries:
            return tuple(sorted((e.name, e.stat().st_mtime_ns, e.stat().st_size, e.inode()) for e in entries))
    except OSError:
        return ()
