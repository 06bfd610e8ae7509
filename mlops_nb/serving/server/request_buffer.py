"""What has come in on a connection, and whether it is a whole request."""

import re

from gunicorn.http.unreader import Unreader

from mlops_nb.serving.http.early_response import TOO_LARGE, EarlyResponse

MOST_HEAD = 64 * 2**10  # Bytes of a request before its body
PIECE = 8 * 2**10  # Read at a time, of a request that may be small
VISIT = 2**20  # Read at a time, of a large one
LINE = 8 * 2**10  # Most bytes of a line between chunks

_bare_lf = re.compile(rb"[^\r]\n").search
_is_hex = re.compile(rb"[0-9a-fA-F]{1,16}").fullmatch


class RequestBuffer(Unreader):
    """The bytes of a connection's next request, while they come and until Gunicorn's parser has taken them.

    The main loop puts them in without ever waiting; a thread gets the request when all of it is there, and can take no
    more than what is there. What is whole is looked for here only to decide when that is: what the request says, and
    whether it is well-formed, is up to the parser, so a request that cannot become a good one counts as whole too.
    """

    def __init__(self, client, largest_mb: float):
        super().__init__()
        self._client = client  # Not `sock`: Gunicorn would set a time limit on it before and after each request
        self._largest_mb, self._largest = largest_mb, int(largest_mb * 2**20)  # Of a body
        self.data: bytes | bytearray = b""
        self._given = 0  # Bytes of it that the parser has
        self.since = 0.0  # When the first of them came, of `time.monotonic()`
        self._begin()

    def _begin(self):
        self._searched = self._body = self._end = self._walked = self._in_chunks = 0
        self._chunked = self.expects = False

    # The main loop

    def fill(self, now: float) -> bool:
        """Take what has come: is it all? Raises `OSError` when the client has left, `Refusal` when it is too much."""
        for _ in range(VISIT // PIECE):
            wanted = self._wanted()
            try:
                more = self._client.recv(wanted)
            except BlockingIOError:
                return False
            if not more and self.data:  # it may still read
                raise EarlyResponse(400, f"The request ended after {len(self.data)} bytes, before it was whole.")
            if not more:
                raise ConnectionResetError("the client has left")
            self._add(more, now)
            if self.is_whole():
                return True
            if len(more) < wanted or wanted == VISIT:
                return False
        return False

    def _wanted(self) -> int:
        if self._chunked:
            return VISIT // 16  # there may be many chunks in it to walk over
        return min(max(self._end - len(self.data), PIECE), VISIT)

    def _add(self, more: bytes, now: float):
        if self.data:
            if isinstance(self.data, bytes):
                self.data = bytearray(self.data)
            self.data += more
        else:
            self.data, self.since = more, now

    def is_whole(self) -> bool:
        """Is there all of a request, or what will never be one?"""
        data = self.data
        if not self._body:
            end = data.find(b"\r\n\r\n", self._searched)
            if end < 0:
                return self._is_hopeless()
            self._body = self._end = self._walked = end + 4
            self._read_head(bytes(data[: end + 2]).lower())
        return self._walk() if self._chunked else len(data) >= self._end

    def _is_hopeless(self) -> bool:
        """Has the header begun in a way that it cannot end well?"""
        if len(self.data) > MOST_HEAD:
            raise EarlyResponse(431, f"The header is longer than {MOST_HEAD // 1024} KiB, the limit. Send less of it.")
        bare = _bare_lf(self.data, self._searched) is not None
        self._searched = max(0, len(self.data) - 3)
        return bare

    def _read_head(self, head: bytes):
        """How the body ends, as far as it can be told; `head` is in lower case."""
        if (at := head.find(b"\r\ntransfer-encoding:")) >= 0:
            self._chunked = b"chunked" in head[at : head.find(b"\r\n", at + 2)]
        elif (at := head.find(b"\r\ncontent-length:")) >= 0:
            length = head[at + 17 : head.find(b"\r\n", at + 17)].strip()
            if length.isdigit():
                if len(length) > 18 or int(length) > self._largest:
                    raise self._too_large()
                self._end += int(length)
        self.expects = b"\r\nexpect:" in head and b" http/1.0\r\n" not in head

    def _walk(self) -> bool:
        """From chunk to chunk, on from where the last walk ended."""
        data = self.data
        while self._walked < len(data):
            end = data.find(b"\r\n", self._walked, self._walked + LINE)
            if end < 0:
                return len(data) - self._walked >= LINE
            size = bytes(data[self._walked : end]).partition(b";")[0].rstrip(b" \t")
            if not _is_hex(size):
                return True
            if (size := int(size, 16)) == 0:  # trailers follow, or nothing
                return data.find(b"\r\n\r\n", end) >= 0 or len(data) - end > MOST_HEAD
            self._in_chunks += size
            if self._in_chunks > self._largest:
                raise self._too_large()
            if self._walked - self._body > MOST_HEAD + 2 * self._in_chunks:  # more is said about them than is in them
                raise EarlyResponse(400, "The chunks of the body are too small. Send larger ones, or a Content-Length.")
            self._walked = end + 2 + size + 2
        return False

    def _too_large(self) -> EarlyResponse:
        return EarlyResponse(413, TOO_LARGE.format(self._largest_mb))

    def start_over(self, now: float) -> bool:
        """The request was answered; has what follows it come already?"""
        rest = self.take_buffered() + self.data[self._given :]
        self.data, self._given, self.since = rest, 0, now
        self._begin()
        return bool(rest)

    @property
    def head(self) -> bytes:
        """What a whole request says before its body."""
        return bytes(self.data[: self._body])

    @property
    def body(self) -> bytes | None:
        """The body of a whole request, when it is all that follows the head, as it is."""
        return None if self._chunked or len(self.data) != self._end else bytes(self.data[self._body :])

    def take(self):
        """Take the whole request from here, as the parser would."""
        self.data = b""

    # The parser, in a thread

    def chunk(self, size_hint: int | None = None) -> bytes:
        """What the parser has not had yet, or some of it."""
        data, size = self.data, min(max(size_hint or 0, PIECE), VISIT)
        if not self._given and len(data) <= size:
            self.data = b""
            return bytes(data)
        with memoryview(data) as view:
            piece = bytes(view[self._given : self._given + size])
        self._given += len(piece)
        if self._given >= len(data):
            self.data, self._given = b"", 0
        return piece
