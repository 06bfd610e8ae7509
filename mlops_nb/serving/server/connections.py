"""How many connections each worker has, in memory that all share, so that one with many lets the others go first.

All workers hear of a new connection, and whoever is awake first would take it: a few clients that keep theirs might all
be with one worker while the others idle.
"""

from functools import cache
from mmap import mmap

MOST = 256  # Workers of one service, those that end included
_FREE = -1


@cache
def _shared() -> memoryview:
    """A count for each worker, made where the workers are forked from."""
    counts = memoryview(mmap(-1, 4 * MOST)).cast("i")
    for i in range(MOST):
        counts[i] = _FREE
    return counts


class ConnectionCounter:
    """The number of one worker's connections, and whether another has fewer. Made before the fork."""

    def __init__(self):
        self._counts = _shared()
        self._mine = self._counts.tolist().index(_FREE)
        self.count = 0

    @property
    def count(self) -> int:
        return self._counts[self._mine]

    @count.setter
    def count(self, n: int):
        self._counts[self._mine] = n

    def is_least(self) -> bool:
        """Has no other worker fewer?"""
        mine = self.count
        return not any(_FREE < n < mine for n in self._counts)

    def release(self):
        """Count no more: the worker is gone."""
        self.count = _FREE
