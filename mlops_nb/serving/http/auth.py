"""API keys, and the level of access that each route needs."""

import hmac
from hashlib import sha256

from flask import request

from mlops_nb.errors import MlopsError
from mlops_nb.settings import Settings, is_loopback, split_keys
from mlops_nb.serving.http.probes import MODEL_PROBES, SERVER_PROBES

# open to anybody, to any key, to an admin key; a route that is not listed needs an admin key
LEVELS = {
    "open": {
        *SERVER_PROBES,
        "/docs",
        "/docs/style.css",
        "/docs/script.js",
        "/",
        "/dashboard/style.css",
        "/dashboard/script.js",
        "/dashboard/live.js",
        "/dashboard/models.js",
        "/dashboard/icon.svg",
        "/dashboard/uplot.css",
        "/dashboard/uplot.js",
        "/dashboard/card",  # opened by a ticket
        "/pipeline",
        "/pipeline/pipeline.css",
        "/pipeline/pipeline.js",
        "/pipeline/notebook",  # opened by a ticket
    },
    "key": {
        *MODEL_PROBES,
        "/predict",
        "/models",
        "/models/<name>",
        "/models/<name>/predict",
        "/models/<name>/feedback",
        "/invocations",
        "/feedback",
        "/v1/models",
        "/v1/models/<name>:predict",
        "/v2",
        "/v2/models/<name>",
        "/v2/models/<name>/infer",
        "/v2/models/<name>/versions/<version>",
        "/v2/models/<name>/versions/<version>/infer",
        "/v2/repository/index",
        "/version",
        "/model",
        "/openapi.json",
        "/metrics",
        "/dashboard/data.json",
    },
    "admin": {
        "/admin/promote",
        "/admin/rollback",
        "/pipeline/commands",
        "/pipeline/commands/stop",
        "/v2/repository/models/<name>/load",
        "/v2/repository/models/<name>/unload",
    },
}


class UnauthorizedError(MlopsError):
    """A request lacks the key that it needs."""

    code = "unauthorized"


class ForbiddenError(MlopsError):
    """A request has a key of a lower level than it needs."""

    code = "forbidden"


class ApiKeys:
    """The keys of a service, and the level of each route."""

    def __init__(self, settings: Settings):
        self.levels = {rule: level for level, rules in LEVELS.items() for rule in rules}  # a project adds its own
        keys = _hash_keys(split_keys(settings.api_keys, "MLOPS_API_KEYS"))
        self._admin = _hash_keys(split_keys(settings.admin_keys, "MLOPS_ADMIN_KEYS"))
        self._any = keys + self._admin
        self._free_levels = {"open"}
        if not keys and (settings.allow_anonymous or not self._admin):
            self._free_levels.add("key")
        if not self._any and not settings.allow_anonymous and is_loopback(settings.host):
            self._free_levels.add("admin")

    @property
    def has_any(self) -> bool:
        """Whether the service has any key."""
        return bool(self._any)

    def is_required(self, rule: str) -> bool:
        """Whether a route needs a key."""
        return self.levels.get(rule, "admin") not in self._free_levels

    def is_allowed(self, rule: str, environ: dict) -> bool:
        """Whether a request has the key that a route needs."""
        try:
            self.require(rule, environ)
        except (UnauthorizedError, ForbiddenError):
            return False
        return True

    def check(self):
        """Raise an error where the current request lacks the key that its route needs."""
        rule = request.url_rule
        if rule is not None:
            self.require(rule.rule, request.environ)

    def require(self, rule: str, environ: dict):
        """Raise `UnauthorizedError` without a key that the route needs, `ForbiddenError` with a wrong one."""
        if not self.is_required(rule):
            return
        key = _key_of(environ)
        if not key:
            raise UnauthorizedError("A key is needed; send Authorization: Bearer KEY, or X-API-Key: KEY.")
        if not _is_known(self._any, key):
            raise ForbiddenError("The key is not one of this service's.")
        if self.levels.get(rule, "admin") == "admin" and not _is_known(self._admin, key):
            raise ForbiddenError("The key is not for administration; send one of MLOPS_ADMIN_KEYS.")


def _key_of(environ: dict) -> bytes:
    """Return the key that a request sends, empty where it sends none."""
    scheme, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer":
        key = environ.get("HTTP_X_API_KEY", "")
    return key.strip().encode("latin-1", "replace")


def _hash_keys(keys: list[str]) -> list[bytes]:
    return [sha256(key.encode()).digest() for key in keys]


def _is_known(digests: list[bytes], key: bytes) -> bool:
    """Whether a key is known; compares in constant time."""
    digest, found = sha256(key).digest(), False
    for other in digests:
        found |= hmac.compare_digest(digest, other)
    return found
