"""Threads that a worker runs beside requests, and its log on stderr."""

import os
import sys
import threading
import traceback
from collections.abc import Callable

RETRY_SECONDS = 1.0  # after an exception in a thread
STOP_SECONDS = 10.0  # that a stopping worker waits for one of its threads, or for another worker


class PeriodicThread:
    """A thread that calls a function again and again until it is stopped; an exception is logged and does not end it."""

    def __init__(
        self,
        name: str,
        act: Callable[[], float],  # returns the seconds until its next call
    ):
        self._act, self._stop = act, threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self):
        """Start the thread."""
        self._thread.start()

    @property
    def is_stopping(self) -> bool:
        """Whether the thread was told to end."""
        return self._stop.is_set()

    def stop(self) -> bool:
        """Wait for the end of the thread, at most `STOP_SECONDS`; return whether it has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        return not self._thread.is_alive()

    def _run(self):
        while not self._stop.wait(self._call()):
            pass

    def _call(self) -> float:
        """Call the function, and return the seconds until the next call."""
        try:
            return self._act()
        except Exception as e:
            log_exception(e)
            return RETRY_SECONDS


def log(message: str):
    """Log a message with the id of the worker."""
    print(f"[worker {os.getpid()}] {message}", file=sys.stderr, flush=True)


def log_exception(error: BaseException):
    """Log where an exception was raised, without its message, which may quote a client."""
    print(*traceback.format_tb(error.__traceback__), type(error).__name__, sep="", file=sys.stderr, flush=True)
