"""A cache of request heads: a client that keeps its connection sends the same head again and again.

To parse a head and make a WSGI environment of it costs more than many a model. Nothing is parsed here: Gunicorn's
parser would make the same of the same bytes, because none of its settings depends on the client.
"""

MAX_HEADS = 1024  # that are kept, and as many that were seen once; the cache is emptied when it is full


class HeadCache:
    """The WSGI environments of heads, without what belongs to one request or one connection."""

    def __init__(self):
        self._environs: dict[bytes, dict] = {}
        self._seen: set[int] = set()  # hashes of heads seen once: many a client sends an id that never comes again

    def get(self, head: bytes) -> dict | None:
        """Return a new environment for a request with this head, without its body; None for an unknown head."""
        known = self._environs.get(head)
        return known and known.copy()

    def add(self, head: bytes, environ: dict, body_bytes: int):
        """Keep the environment of a head that is seen a second time, if its request can be framed in one way only."""
        if (number := hash(head)) not in self._seen:
            if len(self._seen) >= MAX_HEADS:
                self._seen.clear()
            self._seen.add(number)
        elif environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and environ.get("CONTENT_LENGTH") == str(body_bytes):
            if len(self._environs) >= MAX_HEADS:
                self._environs.clear()
            self._environs[head] = {
                name: value for name, value in environ.items() if name.isupper() and not name.startswith("REMOTE_")
            }
