"""The number of connections of each worker, in shared memory, so that a worker with many lets the others accept first.

Every worker is told of a new connection, and the first one awake would accept it: a few clients that keep their
connections might all be with one worker while the others idle.
"""

from functools import cache
from mmap import mmap

MAX_WORKERS = 256  # of one service, those that are stopping included
_FREE = -1


@cache
def _shared_counts() -> memoryview:
    """Return one count for each worker, made in the process that forks the workers."""
    counts = memoryview(mmap(-1, 4 * MAX_WORKERS)).cast("i")
    for i in range(MAX_WORKERS):
        counts[i] = _FREE
    return counts


class ConnectionCounter:
    """The number of one worker's connections, compared with the others'; made before the fork."""

    def __init__(self):
        self._counts = _shared_counts()
        self._index = self._counts.tolist().index(_FREE)
        self.count = 0

    @property
    def count(self) -> int:
        """Connections of this worker."""
        return self._counts[self._index]

    @count.setter
    def count(self, n: int):
        self._counts[self._index] = n

    def is_least(self) -> bool:
        """Whether no other worker has fewer connections."""
        own = self.count
        return not any(_FREE < n < own for n in self._counts)

    def release(self):
        """Free the place of a worker that ended."""
        self.count = _FREE
