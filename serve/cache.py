"""The last good bundles, on the disk of this machine: what is served when a worker starts and the registry is away."""

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from mlops_nb.bundle import appear, check_hashes, read_manifest
from mlops_nb.errors import MlopsError
from mlops_nb.registry import Version
from mlops_nb.settings import Settings
from serve.background import log

KEPT = 2


@dataclass(frozen=True)
class Cached:
    """A bundle with what the registry said of it, which is the name of its folder."""

    name: str
    version: int
    digest: str
    path: Path


class Cache:
    """A folder with a folder a version, written beside its place and put there by a rename."""

    def __init__(self, settings: Settings, name: str):
        self.name = name
        self.folder = None if settings.cache == "off" else Path(settings.cache) / name
        self._last: str | None = None  # Digest of what was kept last

    def versions(self) -> list[Cached]:
        """What is there, the last first."""
        if self.folder is None or not self.folder.is_dir():
            return []
        found = []
        for path in sorted(self.folder.iterdir(), key=lambda p: p.stat().st_mtime_ns, reverse=True):
            if match := re.fullmatch(r"(\d+)-([0-9a-f]{64})", path.name):
                found.append(Cached(self.name, int(match[1]), match[2], path))
        return found

    def keep(self, found: Version):
        """Copy a version that was proven, and forget all but the last ones; failing at it disturbs nobody."""
        if self.folder is None or found.digest == self._last:
            return
        place = self.folder / f"{found.version}-{found.digest}"
        try:
            if not _is_intact(place, found.digest):
                self._copy(found, place)
            os.utime(place)
            self._tidy()
            self._last = found.digest
        except (OSError, MlopsError) as e:
            if not _is_intact(place, found.digest):  # else another worker was faster
                log(f"{found.name} version {found.version} cannot be kept in MLOPS_CACHE: {type(e).__name__}.")

    def _copy(self, found: Version, place: Path):
        partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
        try:
            shutil.copytree(found.path, partial)
            check_hashes(read_manifest(partial), found.digest)
            appear(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _tidy(self):
        """Remove what is older than the last ones, and what a killed worker left half written."""
        for old in self.versions()[KEPT:]:
            shutil.rmtree(old.path, ignore_errors=True)
        for partial in self.folder.glob(".*"):
            if time.time() - partial.stat().st_mtime > 3600:
                shutil.rmtree(partial, ignore_errors=True)


def _is_intact(path: Path, digest: str) -> bool:
    try:
        check_hashes(read_manifest(path), digest)
    except (MlopsError, OSError):
        return False
    return True
