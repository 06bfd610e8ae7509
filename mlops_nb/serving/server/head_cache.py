"""A cache of request heads: a client that keeps its connection sends the same head again and again, but for few values.

To parse a head and make a WSGI environment of it costs more than many a model. Nothing is parsed here: Gunicorn's
parser would make the same of the same bytes, because none of its settings depends on the client. It hands on the values
of some headers as they came, whatever they are: the ids of a request and of its trace, and the addresses that a proxy
adds. So heads that differ in these alone, and in the length of the body, which has arrived and is compared, are one head:
its environment gets the new values.
"""

import re

MAX_HEADS = 1024  # that are kept, and as many that were seen once; the cache is emptied when it is full

# a line of a header that has another value in each request, such that its value cannot be read in two ways
_split = re.compile(
    rb"\r\n(x-request-id|x-correlation-id|traceparent|tracestate|b3|x-b3-[a-z]{1,20}|x-amzn-trace-id|x-cloud-trace-context"
    rb"|x-forwarded-for|x-real-ip|content-length(?=: [1-9][0-9]{0,8}\r\n)): ([!-~](?:[ -~]{0,254}[!-~])?)(?=\r\n)",
    re.IGNORECASE,
).split


class HeadCache:
    """The WSGI environments of heads, without what belongs to one request or one connection."""

    def __init__(self):
        self._environs: dict[tuple[bytes, ...], tuple[dict, list[str]]] = {}  # with the names of the values to set
        self._seen: set[int] = set()  # hashes of heads seen once: many a client sends an id that never comes again

    def get(self, head: bytes, body_bytes: int) -> dict | None:
        """Return a new environment for a request with this head, without its body; None for an unknown head."""
        key, values = _take_values(head)
        known = self._environs.get(key)
        if known is None:
            return None
        environ = known[0] | dict(zip(known[1], values, strict=True))
        return environ if environ["CONTENT_LENGTH"] == str(body_bytes) else None

    def add(self, head: bytes, environ: dict, body_bytes: int):
        """Keep the environment of a head that is seen a second time, if its request can be framed in one way only."""
        key, values = _take_values(head)
        if (number := hash(key)) not in self._seen:
            if len(self._seen) >= MAX_HEADS:
                self._seen.clear()
            self._seen.add(number)
            return
        names = [f"HTTP_{name.decode().upper().replace('-', '_')}" for name in key[1::2]]
        names = ["CONTENT_LENGTH" if name == "HTTP_CONTENT_LENGTH" else name for name in names]
        is_framed = environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and environ.get("CONTENT_LENGTH") == str(body_bytes)
        # not where a header came twice, and the parser has joined its values
        if is_framed and [environ.get(name) for name in names] == values:
            if len(self._environs) >= MAX_HEADS:
                self._environs.clear()
            kept = {name: value for name, value in environ.items() if name.isupper() and not name.startswith("REMOTE_")}
            self._environs[key] = kept, names


def _take_values(head: bytes) -> tuple[tuple[bytes, ...], list[str]]:
    """Return the head without the values that differ from request to request, in parts, and these values."""
    parts = _split(head)  # text, then name, value and text of each
    values = [value.decode() for value in parts[2::3]]
    del parts[2::3]
    return tuple(parts), values
