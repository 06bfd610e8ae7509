"""Tickets: a page that was shown to the holder of a key opens a file of the service where no header can be sent."""

import hmac
import time
from hashlib import sha256

from mlops_nb.serving.http.auth import ForbiddenError
from mlops_nb.settings import Settings

LIFETIME_SECONDS = 600


class Tickets:
    """Signatures over what a ticket opens and when it ends; all workers of a service take each other's."""

    def __init__(self, settings: Settings):
        self._secret = sha256(f"ticket\n{settings.admin_keys}\n{settings.api_keys}".encode()).digest()

    def issue(self, subject: str) -> str:
        """Return a ticket that opens a subject for ten minutes; those of one minute are equal, so that a page stays as it is."""
        until = (int(time.time()) // 60 + 1) * 60 + LIFETIME_SECONDS
        return f"{until}.{self._sign(subject, until)}"

    def require(self, subject: str, ticket: str):
        """Raise `ForbiddenError` for a ticket that is for another subject, has ended or is none of this service."""
        until, _, signature = ticket.partition(".")
        number = int(until) if until.isascii() and until.isdigit() and len(until) < 20 else 0
        if not hmac.compare_digest(self._sign(subject, number).encode(), signature.encode()) or number < time.time():
            raise ForbiddenError("The link is no longer good; open it from its page again.")

    def _sign(self, subject: str, until: int) -> str:
        return hmac.new(self._secret, f"{subject}\n{until}".encode(), sha256).hexdigest()
