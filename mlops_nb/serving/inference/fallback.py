"""Copies of the last good bundles on local disk, served when a worker starts while the registry is unavailable."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mlops_nb.store.bundle_cache import BundleCache
from mlops_nb.errors import MlopsError
from mlops_nb.store.registry import Version
from mlops_nb.settings import Settings
from mlops_nb.serving.http.periodic import log


@dataclass(frozen=True)
class Cached:
    """A copy of a bundle, with its fields in the registry."""

    name: str
    version: int
    digest: str
    path: Path


class BundleFallback:
    """The bundles that one model was served with, the latest first."""

    def __init__(self, settings: Settings, name: str):
        self.name = name
        self._copies = None if settings.cache == "off" else BundleCache(settings.cache)
        self._last: str | None = None  # digest of the latest copy

    def versions(self) -> list[Cached]:
        """Return the copies, the latest first."""
        if self._copies is None:
            return []
        served = self._copies.served(self.name)
        return [
            Cached(self.name, number, digest, self._copies.local_path(self.name, digest)) for number, digest in served
        ]

    def keep(self, found: Version):
        """Keep a copy of a verified version that is served; a failure is logged."""
        if self._copies is None or found.digest == self._last:
            return
        try:
            self._copies.fill(
                found.name, found.digest, lambda folder: shutil.copytree(found.path, folder, dirs_exist_ok=True)
            )
            self._copies.mark(found.name, found.version, found.digest)
            self._last = found.digest
        except (OSError, MlopsError) as e:
            log(f"{found.name} version {found.version} cannot be kept in MLOPS_CACHE: {type(e).__name__}.")
