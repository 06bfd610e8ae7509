"""The socket of a client, and the queue of calls from threads to the main loop."""

import socket

from gunicorn.workers.gthread import PollableMethodQueue

from mlops_nb.serving.http.claim import ResponseClaim


class BufferedSocket(socket.socket):
    """A connection that never blocks: it keeps a response until it is whole, and the rest until the client reads it."""

    def __init__(self, accepted: socket.socket):
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        super().setblocking(False)
        self.claim: ResponseClaim | None = None  # of the current request, when a thread may write the response
        self.sent_bytes = 0  # of a response that the client did not read at once
        self.waiting_since = 0.0  # when the client began not to read; 0: it reads
        self._kept: list[bytes | memoryview] = []

    def setblocking(self, flag: bool):
        """Stay non-blocking, whatever Gunicorn asks for."""

    def settimeout(self, value: float | None):
        """Stay without a timeout, whatever Gunicorn asks for."""

    def send(self, data: bytes, _flags: int = 0) -> int:  # type: ignore[override]
        """Drop what Gunicorn sends itself: the `100 Continue` that the client got before its body."""
        return len(data)

    def sendall(self, data: bytes, _flags: int = 0):  # type: ignore[override]
        """Keep a part of a response."""
        self._kept.append(data)

    def flush(self) -> bool:
        """Send what is kept as far as the client reads it; True when nothing is left."""
        if not self._kept:
            return True
        data = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
        try:
            sent = super().send(data)
        except BlockingIOError:
            sent = 0
        self.sent_bytes += sent
        self._kept = [memoryview(data)[sent:]] if sent < len(data) else []
        return not self._kept

    @property
    def unsent_bytes(self) -> int:
        """Bytes of a response that the client has not read."""
        return sum(map(len, self._kept))

    def send_continue(self):
        """Ask the client for the body."""
        super().send(b"HTTP/1.1 100 Continue\r\n\r\n")


class CallQueue(PollableMethodQueue):
    """Calls that threads leave to the main loop."""

    closed = False

    def close(self):
        """Accept no more calls: the number of the queue's file may soon be that of another file."""
        self.closed = True
        super().close()
