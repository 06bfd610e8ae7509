"""The claim to send a request's response, shared by the thread that computes it and the main loop that limits it."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor


class ClaimExpiredError(BaseException):
    """The main loop sent the response in place of the thread; no error handler may catch this."""


class ResponseClaim:
    """Ensure that exactly one of worker thread and timeout handler sends the response.

    `mlops_nb.serving.server.worker.BoundedThreadWorker` makes one for each request. The thread finds it in the WSGI
    environment as `serving.claim` and claims it before it logs or sends anything. Another server makes none.
    """

    __slots__ = ("_is_claimed", "_lock", "environ", "future", "pool", "queued_at", "started_at")

    future: Future  # of the call in a thread
    pool: ThreadPoolExecutor  # that runs it

    def __init__(self, queued_at: float):
        self.queued_at = queued_at  # when the request had arrived, `time.monotonic()`
        self.started_at: float | None = None  # when a thread began with it
        self.environ: dict = {}  # its WSGI environment, once there is one
        self._lock, self._is_claimed = threading.Lock(), False

    def claim(self):
        """Claim the response for the thread, any number of times; raise `ClaimExpiredError` when it is too late."""
        if not self._is_claimed:
            if not self._lock.acquire(blocking=False):
                raise ClaimExpiredError
            self._is_claimed = True

    def expire(self) -> bool:
        """Claim the response for the main loop; False when the thread has it."""
        return self._lock.acquire(blocking=False)


def claim_response(environ: dict):
    """Claim the response of the request with this WSGI environment, where the server limits requests."""
    if (claim := environ.get("serving.claim")) is not None:
        claim.claim()
