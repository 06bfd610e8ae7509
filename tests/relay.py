"""A server that is away for a while."""

import socket
import threading
from contextlib import suppress


class Relay:
    """The way to a server on this machine, which can be cut and mended, or hang."""

    def __init__(self, target: int):
        self._target = target
        self._open, self._server = [], socket.create_server(("127.0.0.1", 0))
        self.port, self.up = self._server.getsockname()[1], True
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                ours = self._server.accept()[0]
            except OSError:
                return
            if not self.up:
                ours.close()
                continue
            theirs = socket.create_connection(("127.0.0.1", self._target))
            self._open += [ours, theirs]
            for a, b in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._copy, args=(a, b), daemon=True).start()

    def _copy(self, source, target):
        try:
            while content := source.recv(2**16):
                self._flows.wait()
                target.sendall(content)
        except OSError:
            pass
        finally:
            _end(source, target)

    def hang(self):
        """Keep what is sent, until `go_on`: the other side waits, and sees no error."""
        self._flows.clear()

    def go_on(self):
        self._flows.set()

    def cut(self):
        self.go_on()
        self.up = False
        _end(*self._open)
        self._open.clear()

    def close(self):
        self._server.close()
        self.cut()


def _end(*sockets: socket.socket):
    """Closing alone would not wake the thread that reads from the other side, and a database would keep its locks."""
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
