"""Requests that another web site caused in the browser of somebody who reaches the service.

A browser sends a simple request to any address, whatever page it shows, and lets the page read the response where the
name of the page is the name in the request. A site can give a name of its own the address of the service (DNS
rebinding), so without keys only names that are known, and addresses, are accepted.
"""

import re
from functools import lru_cache
from ipaddress import ip_address

from flask import request

from mlops_nb.serving.http.auth import ApiKeys, ForbiddenError
from mlops_nb.serving.http.probes import SERVER_PROBES
from mlops_nb.settings import Settings, split_hosts

BROWSER_HEADERS = ("HTTP_ORIGIN", "HTTP_SEC_FETCH_SITE")  # in a WSGI environment
MAX_HOSTS = 1024  # values of Host whose result is kept


class SiteCheck:
    """The names of a service, and whether a request may come from where it comes from."""

    def __init__(self, settings: Settings, keys: ApiKeys):
        self._names = {*split_hosts(settings.allowed_hosts), "localhost"}
        # a page of another site has no key, and anonymous access was asked for
        self._any_host = not settings.allowed_hosts and (keys.has_any or settings.allow_anonymous)
        self.is_allowed_host = lru_cache(MAX_HOSTS)(self._is_allowed_host)

    def check(self):
        """Raise `ForbiddenError` where another site may have caused the current request."""
        rule = request.url_rule
        if rule is not None and rule.rule not in SERVER_PROBES:
            self.require(request.environ)

    def require(self, environ: dict):
        """Raise `ForbiddenError` for a host that is not a name of the service, or for a page of another site."""
        host, origin, site = map(environ.get, ("HTTP_HOST", *BROWSER_HEADERS))
        if not self.is_allowed_host(host):
            raise ForbiddenError(
                f"The service answers at localhost alone, at an address or at a name in MLOPS_ALLOWED_HOSTS; "
                f"this request is for {str(host)[:100]!r}. Add the name, or set keys (MLOPS_API_KEYS)."
            )
        if site in ("same-origin", "none") or (site is None and origin is None) or _is_link(environ):
            return
        _, _, other = (origin or "").lower().partition("://")
        if (site is None and other == (host or "").lower()) or _name_of(other) in self._names - {"localhost"}:
            return
        seen = "Origin is another host than Host" if site is None else f"the browser says that it is {site[:20]!r}"
        raise ForbiddenError(
            f"A request is accepted from this site alone; {seen}. Add the other site to MLOPS_ALLOWED_HOSTS if its pages may "
            "send requests. A proxy must hand on Host."
        )

    def _is_allowed_host(self, host: str | None) -> bool:
        """Whether a value of Host is a name of the service or an address; every browser sends the header."""
        if host is None or self._any_host:
            return True
        name = _name_of(host.lower())
        return name in self._names or _is_address(name)


def _is_link(environ: dict) -> bool:
    """Whether a person followed a link to a page of the service; the site with the link cannot read the page."""
    return (
        environ["REQUEST_METHOD"] in ("GET", "HEAD")
        and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST") == "document"
    )


def _name_of(host: str) -> str:
    """Return a host without its port; empty if it is no host."""
    found = _HOST.fullmatch(host)
    return (found["address"] or found["name"].removesuffix(".")) if found else ""


_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(:[0-9]+)?")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
