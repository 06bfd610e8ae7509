"""From a version in the registry to a proven predictor; what cannot be proven is refused, and it is said why."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_nb.model.bundle import check_hashes, read_manifest
from mlops_nb.model.engine import OnnxEngine
from mlops_nb.errors import ArtifactError, MlopsError
from mlops_nb.model.predictor import Predictor
from mlops_nb.store.registry import Version
from mlops_nb.serving.http.periodic import log

if TYPE_CHECKING:
    from mlops_nb.serving.inference.fallback import Cached


INLINE_SECONDS = 0.001  # Seconds of CPU that a row may take, for the main loop of a worker to wait for it
FETCH_RETRY_SECONDS = 5.0  # Seconds until an artifact store that did not answer is asked again


@dataclass(frozen=True)
class LoadResult:
    """What a look at the files of a version found."""

    version: "Version | Cached"
    stamp: tuple  # Of the files
    predictor: Predictor | None  # Proven by this look or by an earlier one
    refused: str | None  # Why the files must not be believed
    again_at: float | None = None  # When to ask the artifact store again, which did not answer (monotonic)

    @property
    def outdated(self) -> bool:
        """Is there anything new to see?"""
        if self.again_at is not None:
            return time.monotonic() >= self.again_at
        return stamp_of(self.version.path) != self.stamp


def load_verified(
    found: "Version | Cached",
    trusted: Iterable[str],
    before: LoadResult | None = None,
    fetch: Callable[["Version"], Path] | None = None,  # Brings the files of a version to this disk
) -> LoadResult:
    """Load a version, or look again at one that is in memory; where nothing changed, nothing is done."""
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
            predictor = Predictor.load(found.path, found.version, found.digest, trusted)
            log(f"{found.name} version {found.version} loaded, answers with {predictor.engine.name}")
        else:
            check_hashes(read_manifest(found.path), found.digest)
    except Exception as e:  # whatever a bundle does to those who load it, it is refused
        reason = str(e) if isinstance(e, MlopsError) else f"Its files cannot be loaded: {type(e).__name__}."
        if before is None or before.refused != reason:
            log(f"{found.name} version {found.version} refused: {reason}")
        again_at = time.monotonic() + FETCH_RETRY_SECONDS if isinstance(e, ArtifactError) else None
        return LoadResult(found, stamp, predictor, reason, again_at)
    return LoadResult(found, stamp, predictor, None)


def runs_inline(predictor: Predictor | None) -> bool:
    """Does a row take less than `QUICK`? Only where nobody's code can make it take longer: in an ONNX graph."""
    if predictor is None or predictor.engine.name != OnnxEngine.name:
        return False
    try:
        rows = predictor.bundle.golden()["features"][:1]
    except (OSError, ValueError):  # it was there when the model was loaded; what is served is in memory
        return False
    took = []
    for _ in range(5):
        began = time.thread_time()
        predictor.predict_rows(rows)
        took.append(time.thread_time() - began)
    return min(took) < INLINE_SECONDS


def stamp_of(path: Path) -> tuple:
    """Changes when a file of a bundle is replaced, written or removed; costs a stat a file."""
    try:
        with os.scandir(path) as entries:
            return tuple(sorted((e.name, e.stat().st_mtime_ns, e.stat().st_size, e.inode()) for e in entries))
    except OSError:
        return ()
