"""Who may ask for what: keys, and the level of every route."""

import hmac
from hashlib import sha256

from flask import request

from mlops_nb.errors import MlopsError
from mlops_nb.settings import Settings, is_loopback, split_keys

# Anybody; who has a key; who has an admin key. A route that is not here is for admins
LEVELS = {
    "open": {
        "/health/live",
        "/health/ready",
        "/ping",
        "/health",
        "/v2/health/live",
        "/v2/health/ready",
        "/docs",
        "/docs/style.css",
        "/docs/script.js",
        "/",
        "/dashboard/style.css",
        "/dashboard/script.js",
        "/dashboard/icon.svg",
        "/dashboard/uplot.css",
        "/dashboard/uplot.js",
    },
    "key": {
        "/predict",
        "/invocations",
        "/feedback",
        "/v1/models",
        "/v1/models/<name>",
        "/v1/models/<name>:predict",
        "/v2",
        "/v2/models/<name>",
        "/v2/models/<name>/ready",
        "/v2/models/<name>/infer",
        "/v2/models/<name>/versions/<version>",
        "/v2/models/<name>/versions/<version>/ready",
        "/v2/models/<name>/versions/<version>/infer",
        "/version",
        "/model",
        "/openapi.json",
        "/metrics",
        "/dashboard/data.json",
    },
    "admin": {"/admin/promote", "/admin/rollback"},
}


class UnauthorizedError(MlopsError):
    """A request without the key that it needs."""

    code = "unauthorized"


class ForbiddenError(MlopsError):
    """A request with a key that is not for it."""

    code = "forbidden"


class ApiKeys:
    """The keys of the service, and what may be asked without one."""

    def __init__(self, settings: Settings):
        self.levels = {rule: level for level, rules in LEVELS.items() for rule in rules}  # a project adds its own
        keys = _digests(split_keys(settings.api_keys, "MLOPS_API_KEYS"))
        self._admin = _digests(split_keys(settings.admin_keys, "MLOPS_ADMIN_KEYS"))
        self._any = keys + self._admin
        self._free = {"open"}
        if not keys and (settings.allow_anonymous or not self._admin):
            self._free.add("key")
        if not self._any and not settings.allow_anonymous and is_loopback(settings.host):
            self._free.add("admin")

    @property
    def has_any(self) -> bool:
        """Is there any key?"""
        return bool(self._any)

    def is_required(self, rule: str) -> bool:
        """Does a route need one?"""
        return self.levels.get(rule, "admin") not in self._free

    def is_allowed(self, rule: str, environ: dict) -> bool:
        """May this request have what is at the route?"""
        try:
            self.require(rule, environ)
        except (UnauthorizedError, ForbiddenError):
            return False
        return True

    def check(self):
        """Refuse the request if it needs a key that it does not have."""
        rule = request.url_rule
        if rule is not None:
            self.require(rule.rule, request.environ)

    def require(self, rule: str, environ: dict):
        """Refuse a request of a route that needs a key that it does not have."""
        if not self.is_required(rule):
            return
        key = _given(environ)
        if not key:
            raise UnauthorizedError("A key is needed; send Authorization: Bearer KEY, or X-API-Key: KEY.")
        if not _has(self._any, key):
            raise ForbiddenError("The key is not one of this service's.")
        if self.levels.get(rule, "admin") == "admin" and not _has(self._admin, key):
            raise ForbiddenError("The key is not for administration; send one of MLOPS_ADMIN_KEYS.")


def _given(environ: dict) -> bytes:
    """The key that the request carries."""
    scheme, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer":
        key = environ.get("HTTP_X_API_KEY", "")
    return key.strip().encode("latin-1", "replace")


def _digests(keys: list[str]) -> list[bytes]:
    return [sha256(key.encode()).digest() for key in keys]


def _has(digests: list[bytes], key: bytes) -> bool:
    """Is it one of them? The time that this takes says nothing about how near it is."""
    digest, found = sha256(key).digest(), False
    for other in digests:
        found |= hmac.compare_digest(digest, other)
    return found
