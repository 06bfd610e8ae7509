"""From a version in the registry to a proven predictor; what cannot be proven is refused, and it is said why."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_nb.bundle import check_hashes, read_manifest
from mlops_nb.errors import MlopsError
from mlops_nb.predictor import Predictor
from mlops_nb.registry import Version
from serve.background import log

if TYPE_CHECKING:
    from serve.cache import Cached


@dataclass(frozen=True)
class Look:
    """What a look at the files of a version found."""

    version: "Version | Cached"
    stamp: tuple  # Of the files
    predictor: Predictor | None  # Proven by this look or by an earlier one
    refused: str | None  # Why the files must not be believed

    @property
    def outdated(self) -> bool:
        """Were the files changed since?"""
        return stamp_of(self.version.path) != self.stamp


def prove(found: "Version | Cached", trusted: Iterable[str], before: Look | None = None) -> Look:
    """Load a version, or look again at one that is in memory; where nothing changed, nothing is done."""
    stamp, predictor = stamp_of(found.path), None
    if before is not None and before.version.digest == found.digest:
        if (before.version.path, before.stamp) == (found.path, stamp):
            return before
        predictor = before.predictor
    try:
        if predictor is None:
            predictor = Predictor.load(found.path, found.version, found.digest, trusted)
            log(f"{found.name} version {found.version} loaded, answers with {predictor.engine.name}")
        else:
            check_hashes(read_manifest(found.path), found.digest)
    except Exception as e:  # whatever a bundle does to those who load it, it is refused
        reason = str(e) if isinstance(e, MlopsError) else f"Its files cannot be loaded: {type(e).__name__}."
        log(f"{found.name} version {found.version} refused: {reason}")
        return Look(found, stamp, predictor, reason)
    return Look(found, stamp, predictor, None)


def stamp_of(path: Path) -> tuple:
    """Changes when a file of a bundle is replaced, written or removed; costs a stat a file."""
    try:
        with os.scandir(path) as entries:
            return tuple(sorted((e.name, e.stat().st_mtime_ns, e.stat().st_size, e.inode()) for e in entries))
    except OSError:
        return ()
