"""A request's turn with a thread, which the thread and the worker's main loop both know of."""

import threading


class ClaimExpiredError(BaseException):
    """The main loop answered in place of the thread, which has nothing more to do; no handler of errors may see it."""


class ResponseClaim:
    """Who answers a request: the thread that has it or, when that takes too long, the main loop. Never both.

    `mlops_nb.serving.server.worker.BoundedThreadWorker` makes one a request; what runs in a thread finds it in the WSGI environment, as `serving.claim`,
    and takes it before it does what only an answer may do. Under another server there is none.
    """

    __slots__ = ("_answer", "_taken", "began", "environ", "future", "pool", "queued")

    def __init__(self, queued: float):
        self.queued = queued  # When it had arrived, of `time.monotonic()`
        self.began: float | None = None  # When a thread began with it
        self.environ: dict = {}  # The WSGI environment, when there is one
        self._answer, self._taken = threading.Lock(), False

    def claim(self):
        """For the thread, as often as it likes: the answer is its own, or it is too late."""
        if not self._taken:
            if not self._answer.acquire(blocking=False):
                raise ClaimExpiredError
            self._taken = True

    def expire(self) -> bool:
        """For the main loop, once: may it answer?"""
        return self._answer.acquire(blocking=False)


def claim_response(environ: dict):
    """Take the turn of the request with this WSGI environment, where it has one."""
    if (turn := environ.get("serving.claim")) is not None:
        turn.claim()
