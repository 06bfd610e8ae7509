"""The bytes received on a connection, and whether they are a whole request."""

import re
from functools import cache

from mlops_nb.serving.http.early_response import TOO_LARGE, EarlyResponse

MAX_HEAD_BYTES = 64 * 2**10  # of a request before its body
READ_BYTES = 8 * 2**10  # in one read, of a request that may be small
MAX_READ_BYTES = 2**20  # in one read, of a large request
CHUNKED_READ_BYTES = MAX_READ_BYTES // 16  # in one read of a chunked body: each of its chunks is looked at
MAX_CHUNK_LINE_BYTES = 8 * 2**10  # of the line before a chunk

_find_bare_lf = re.compile(rb"[^\r]\n").search
_is_hex = re.compile(rb"[0-9a-fA-F]{1,16}").fullmatch


@cache
def _shared_place() -> bytearray:
    return bytearray(MAX_READ_BYTES)


class RequestBuffer:
    """The bytes of a connection's next request, from their arrival until they are parsed.

    The main loop fills it without blocking. The buffer finds the end of a request and nothing else: the parser decides
    what the request means and whether it is well-formed, so a request that cannot become valid counts as whole.
    """

    def __init__(self, client, max_body_mb: float):
        self._client = client
        self._max_body_mb, self._max_body_bytes = max_body_mb, int(max_body_mb * 2**20)
        self.data: bytes | bytearray = b""
        self.since = 0.0  # when the first byte arrived, `time.monotonic()`
        self._begin()

    def _begin(self):
        # offsets in `data`: searched for the end of the head, begin and end of the body, chunks walked over
        self._searched = self._body = self._end = self._walked = 0
        self._chunk_bytes = 0  # sum of the chunks so far
        self._chunked = self.expects_continue = False

    def fill(self, now: float) -> bool:
        """Read what has arrived; True when the request is whole.

        Raise `OSError` when the client has left, `EarlyResponse` when the request is too large or will never be whole.
        """
        for _ in range(MAX_READ_BYTES // READ_BYTES):
            wanted = self._read_size()
            try:
                received = self._client.recv(wanted) if wanted <= READ_BYTES else self._read_into(wanted)
            except BlockingIOError:
                return False
            if not received and self.data:  # the client may still read
                raise EarlyResponse(400, f"The request ended after {len(self.data)} bytes, before it was whole.")
            if not received:
                raise ConnectionResetError("the client has left")
            self._append(received, now)
            if self.is_whole():
                return True
            if len(received) < wanted or wanted == MAX_READ_BYTES:
                return False
        return False

    def _read_size(self) -> int:
        if self._chunked:
            return CHUNKED_READ_BYTES
        return min(max(self._end - len(self.data), READ_BYTES), MAX_READ_BYTES)

    def _read_into(self, wanted: int) -> memoryview:
        """Read a part of a large request into memory that all share: new memory would take longer than reading."""
        place = memoryview(_shared_place())[:wanted]
        return place[: self._client.recv_into(place)]

    def _append(self, received: bytes | memoryview, now: float):
        if self.data:
            if isinstance(self.data, bytes):
                self.data = bytearray(self.data)
            self.data += received
        else:
            self.data, self.since = bytes(received), now

    def is_whole(self) -> bool:
        """Whether the buffer has all of a request, or what will never be one."""
        data = self.data
        if not self._body:
            end = data.find(b"\r\n\r\n", self._searched)
            if end < 0:
                return self._is_malformed()
            self._body = self._end = self._walked = end + 4
            self._read_framing(bytes(data[: end + 2]).lower())
        if self._chunked:
            self._end = self._walk_chunks()
            return self._end > 0
        return len(data) >= self._end

    def _is_malformed(self) -> bool:
        """Whether the head cannot become valid; raise `EarlyResponse` when it is too long."""
        if len(self.data) > MAX_HEAD_BYTES:
            limit = MAX_HEAD_BYTES // 1024
            raise EarlyResponse(431, f"The header is longer than {limit} KiB, the limit. Send less of it.")
        is_malformed = _find_bare_lf(self.data, self._searched) is not None
        self._searched = max(0, len(self.data) - 3)
        return is_malformed

    def _read_framing(self, head: bytes):
        """Find where the body ends, as far as the head, in lower case, tells."""
        if (at := head.find(b"\r\ntransfer-encoding:")) >= 0:
            self._chunked = b"chunked" in head[at : head.find(b"\r\n", at + 2)]
        elif (at := head.find(b"\r\ncontent-length:")) >= 0:
            length = head[at + 17 : head.find(b"\r\n", at + 17)].strip()
            if length.isdigit():
                if len(length) > 18 or int(length) > self._max_body_bytes:
                    raise self._too_large()
                self._end += int(length)
        self.expects_continue = b"\r\nexpect:" in head and b" http/1.0\r\n" not in head

    def _walk_chunks(self) -> int:
        """Walk from chunk to chunk, on from where the last walk ended, to the end of the body and return it; 0: it has not arrived."""
        data = self.data
        while self._walked < len(data):
            end = data.find(b"\r\n", self._walked, self._walked + MAX_CHUNK_LINE_BYTES)
            if end < 0:
                return len(data) if len(data) - self._walked >= MAX_CHUNK_LINE_BYTES else 0
            digits = bytes(data[self._walked : end]).partition(b";")[0].rstrip(b" \t")
            if not _is_hex(digits):
                return len(data)
            size = int(digits, 16)
            if size == 0:  # trailers follow, or nothing
                last = data.find(b"\r\n\r\n", end)
                if last >= 0:
                    return last + 4
                return len(data) if len(data) - end > MAX_HEAD_BYTES else 0
            self._chunk_bytes += size
            if self._chunk_bytes > self._max_body_bytes:
                raise self._too_large()
            if self._walked - self._body > MAX_HEAD_BYTES + 2 * self._chunk_bytes:  # more framing than content
                raise EarlyResponse(400, "The chunks of the body are too small. Send larger ones, or a Content-Length.")
            self._walked = end + 2 + size + 2
        return 0

    def _too_large(self) -> EarlyResponse:
        return EarlyResponse(413, TOO_LARGE.format(self._max_body_mb))

    @property
    def request(self) -> bytes | bytearray:
        """A whole request; all of the buffer where no end of a head was found."""
        return self.data if len(self.data) == self._end else self.data[: self._end or None]

    def clear(self):
        """Remove the whole request, and keep what follows it."""
        self.data = self.data[self._end :]

    def next_request(self, now: float) -> bool:
        """Begin with the next request after a response; True when some of it is here already."""
        self.since = now
        self._begin()
        return bool(self.data)
