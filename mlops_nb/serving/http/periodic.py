"""What a worker does beside answering: threads of its own, and what it says."""

import os
import sys
import threading
import traceback
from collections.abc import Callable

RETRY_SECONDS = 1.0  # Seconds after which a thread tries again what it could not do
STOP_SECONDS = 10.0  # Seconds that the end of a worker waits for one of its threads, or for another worker


class PeriodicThread:
    """A thread that does something again and again until it is stopped; a defect is logged, and does not end it."""

    def __init__(
        self,
        name: str,
        act: Callable[[], float],  # Answers after how many seconds it shall be called again
    ):
        self._act, self._stop = act, threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self):
        """Begin, without waiting for anything."""
        self._thread.start()

    def stop(self) -> bool:
        """Wait until it is through, though not for ever: is it?"""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        return not self._thread.is_alive()

    def _run(self):
        while not self._stop.wait(self._seconds()):
            pass

    def _seconds(self) -> float:
        """Act, and say when to act again."""
        try:
            return self._act()
        except Exception as e:
            log_exception(e)
            return RETRY_SECONDS


def log(message: str):
    """A line that says which worker it is from."""
    print(f"[worker {os.getpid()}] {message}", file=sys.stderr, flush=True)


def log_exception(error: BaseException):
    """Where a defect of ours happened; what it says may be what a client sent, and is left out."""
    print(*traceback.format_tb(error.__traceback__), type(error).__name__, sep="", file=sys.stderr, flush=True)
