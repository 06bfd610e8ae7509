"""The socket of a client, and the queue of calls from threads to the main loop."""

import socket

from gunicorn.workers.gthread import PollableMethodQueue

from mlops_nb.serving.http.claim import ResponseClaim


class BufferedSocket(socket.socket):
    """A connection that never waits: an answer is kept until it is whole, and what the client does not take, longer."""

    def __init__(self, accepted: socket.socket):
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        super().setblocking(False)
        self.turn: ResponseClaim | None = None  # Of its request, when a thread may write the answer
        self.sent, self.since = 0, 0.0  # Bytes of an answer that it does not take at once, and since when
        self._kept: list = []

    def setblocking(self, flag: bool):
        """Stay as it is, whatever Gunicorn says."""

    def settimeout(self, value: float | None):
        """Stay as it is, whatever Gunicorn says."""

    def send(self, data: bytes, flags: int = 0) -> int:
        """Drop what Gunicorn sends of itself: the `100 Continue` that the client got before its body."""
        return len(data)

    def sendall(self, data: bytes, flags: int = 0):
        """Keep a part of an answer."""
        self._kept.append(data)

    def flush(self) -> bool:
        """Send what is kept, as far as the client takes it: all?"""
        if not self._kept:
            return True
        data = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
        try:
            sent = super().send(data)
        except BlockingIOError:
            sent = 0
        self.sent += sent
        self._kept = [memoryview(data)[sent:]] if sent < len(data) else []
        return not self._kept

    @property
    def unsent(self) -> int:
        """Bytes of it that the client has not taken."""
        return sum(map(len, self._kept))

    def say_continue(self):
        """Ask for the body."""
        super().send(b"HTTP/1.1 100 Continue\r\n\r\n")


class CallQueue(PollableMethodQueue):
    """What threads want the main loop to do."""

    closed = False

    def close(self):
        """Take no more: the number of its file may soon be that of another."""
        self.closed = True
        super().close()
