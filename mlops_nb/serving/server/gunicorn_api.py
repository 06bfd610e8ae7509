"""The Gunicorn versions that the worker supports: it relies on names that are not Gunicorn's public API."""

import re

import gunicorn

from mlops_nb.errors import SettingsError

SUPPORTED = 27  # major version


def require_gunicorn(version: str = gunicorn.__version__):
    """Raise `SettingsError` for a Gunicorn that the worker does not run on."""
    if (found := re.match(r"\d+", version)) is None or int(found[0]) != SUPPORTED:
        next_major = SUPPORTED + 1
        raise SettingsError(
            f"Gunicorn {version} is installed; the service runs on {SUPPORTED}. "
            f'Install another one: pip install "gunicorn>={SUPPORTED},<{next_major}"'
        )
