"""What requests say before their bodies, remembered: a client that stays says the same again and again.

To parse it and to make a WSGI environment of it costs more than many a model. Nothing is parsed here: what Gunicorn's
parser made of a head, it would make of the same bytes again, because nothing that it is told depends on the client.
"""

MOST = 1024  # Heads that are remembered, and as many that were met once; one more, and it begins from the beginning


class HeadCache:
    """The WSGI environments of heads, without what belongs to one request or one connection."""

    def __init__(self):
        self._known: dict[bytes, dict] = {}
        self._met: set[int] = set()  # Hashes of those met once: many a client sends an id that never comes again

    def get(self, head: bytes) -> dict | None:
        """A new environment for a request with this head, still without its body."""
        known = self._known.get(head)
        return known and known.copy()

    def meet(self, head: bytes, environ: dict, body_bytes: int):
        """Keep, the second time, the environment that a head became, if its request was framed as plainly as can be."""
        if (number := hash(head)) not in self._met:
            if len(self._met) >= MOST:
                self._met.clear()
            self._met.add(number)
        elif environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and environ.get("CONTENT_LENGTH") == str(body_bytes):
            if len(self._known) >= MOST:
                self._known.clear()
            said = {name: value for name, value in environ.items() if name.isupper() and not name.startswith("REMOTE_")}
            self._known[head] = said
