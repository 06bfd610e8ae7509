"""State of each worker in shared memory, for the others and the master: its number of connections, and whether it is ready.

Every worker is told of a new connection, and the first one awake would accept it: a few clients that keep their
connections might all be with one worker while the others idle. A worker that has no model yet would accept connections
that another could serve.
"""

from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from mmap import mmap

from gunicorn.workers.gthread import TConn

MAX_WORKERS = 256  # of one service, those that are stopping included
BALANCE_SHARE = 8  # workers are balanced where none has more than this part more connections than another
_FREE = -1
_LOADING, _READY, _RETIRED, _ENDING = range(4)  # states of a worker
_SERVING = (_READY, _RETIRED)


@cache
def _shared_numbers() -> tuple[memoryview, memoryview, memoryview]:
    """Return the count and the state of each worker, and how many places were ever taken, made in the process that forks."""
    counts, states, taken = (memoryview(mmap(-1, 4 * MAX_WORKERS)).cast("i") for _ in range(3))
    for i in range(MAX_WORKERS):
        counts[i] = _FREE
    return counts, states, taken


class ConnectionCounter:
    """The number of one worker's connections, compared with the others', and its state; made before the fork."""

    def __init__(self):
        self._counts, self._states, self._taken = _shared_numbers()
        self._index = self._counts.tolist().index(_FREE)
        self._taken[0] = max(self._taken[0], self._index + 1)
        self.count = 0
        self._states[self._index] = _LOADING

    @property
    def count(self) -> int:
        """Connections of this worker."""
        return self._counts[self._index]

    @count.setter
    def count(self, n: int):
        self._counts[self._index] = n

    def surplus(self) -> int:
        """Return how many connections this worker has beyond its part, of those that are ready if this one is."""
        own, is_ready = self.count, self.is_ready
        workers = zip(*self._taken_places(), strict=True)
        least = min((n for n, state in workers if n > _FREE and (state in _SERVING or not is_ready)), default=own)
        return own - least - least // BALANCE_SHARE

    def others(self) -> int:
        """Return how many connections the other workers have."""
        counts, _ = self._taken_places()
        return sum(n for n in counts if n > _FREE) - self.count

    def _taken_places(self) -> tuple[memoryview, memoryview]:
        """Return the counts and the states of the workers that there are and were; this is asked for each connection."""
        n = self._taken[0]
        return self._counts[:n], self._states[:n]

    @property
    def is_ready(self) -> bool:
        """Whether the worker can serve requests."""
        return self._states[self._index] in _SERVING

    @property
    def is_retired(self) -> bool:
        """Whether the worker ends, or serves only until another is ready in its place."""
        return self._states[self._index] in (_RETIRED, _ENDING)

    def is_any_ready(self) -> bool:
        """Whether a worker, this one or another, can serve requests."""
        return any(state in _SERVING for state in self._states)

    def ready(self):
        """Tell the others that this worker can serve requests."""
        self._states[self._index] = _READY

    def retire(self):
        """Ask the master for another worker in the place of this one, which is ready."""
        self._states[self._index] = _RETIRED

    def end(self):
        """Tell the others that this worker serves no new connections any more."""
        self._states[self._index] = _ENDING

    def release(self):
        """Free the place of a worker that ended."""
        self._states[self._index] = _LOADING
        self.count = _FREE


class IdleConnections:
    """The connections that wait for their next request, the next to time out first.

    Gunicorn has them in a deque, which searches all of them for one. This has the methods of a deque that it uses.
    """

    def __init__(self):
        self._connections: OrderedDict[TConn, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[TConn]:
        return iter(self._connections)

    def __contains__(self, conn: TConn) -> bool:
        return conn in self._connections

    def __getitem__(self, _first: int) -> TConn:
        return next(iter(self._connections))

    def append(self, conn: TConn):
        """Add a connection as the last."""
        self._connections[conn] = None

    def renew(self, conn: TConn):
        """Make a connection the last."""
        self._connections.move_to_end(conn)

    def remove(self, conn: TConn):
        """Remove a connection."""
        del self._connections[conn]

    def popleft(self) -> TConn:
        """Remove and return the first connection."""
        return self._connections.popitem(last=False)[0]
