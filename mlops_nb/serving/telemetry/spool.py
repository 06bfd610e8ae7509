"""Lines on disk on their way to the database: every worker appends to files of its own, one of them ships all.

A file is locked by who writes it, and the kernel lets go of the lock when that process is gone, however it went. So a
file that can be locked has no writer any more: when all of it has been delivered, it is deleted.
"""

import contextlib
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from mlops_nb.store.file_lock import lock_file

SEGMENT_BYTES = 16 * 2**20  # Bytes after which a new file is begun
SEGMENT_SECONDS = 5.0  # Seconds after which a file that has something in it is closed, so that it can be deleted
MAX_MEMORY_BYTES = 16 * 2**20  # Most bytes that wait in memory while the disk refuses them
BATCH_BYTES = 256 * 2**10  # Bytes that are delivered together
_SUFFIX, _NEW_SUFFIX, _LEADER = ".jsonl", ".new", "leader.lock"


class Spool:
    """Where a worker leaves its lines."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self.full = False  # More waits than may
        self._lock = threading.Lock()
        self._file: int | None = None
        self._path = folder
        self._size, self._begun = 0, 0.0
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

    def append(self, line: bytes) -> bool:
        """Keep a line; False when it cannot be kept, and nobody must be told that it was."""
        with self._lock:
            if self.full:
                return False
            if self._write(line):
                return True
            if self._waiting_bytes + len(line) > MAX_MEMORY_BYTES:
                return False
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            return True

    def maintain(self):
        """Now and then: write what had to wait, close what has grown old, see how much there is."""
        with self._lock:
            while self._waiting and self._write(self._waiting[0]):
                self._waiting_bytes -= len(self._waiting.popleft())
            old = self._size and time.monotonic() - self._begun > SEGMENT_SECONDS
            if self._file is not None and (old or not _is_at(self._path, self._file)):
                self._end()
        self.full = sum(size for size, _ in segments(self.folder).values()) >= self.max_bytes

    @property
    def waiting(self) -> int:
        """Lines that only memory has."""
        return len(self._waiting)

    @property
    def is_left(self) -> bool:
        """Is the file that was begun last still there, with lines or without?"""
        return self._path.is_file()

    def close(self):
        """Write what had to wait, and leave the rest to whoever ships."""
        self.maintain()
        with self._lock:
            self._end()

    def _write(self, line: bytes) -> bool:
        """The whole line, or nothing of it."""
        done = 0
        try:
            if self._file is None or self._size >= SEGMENT_BYTES:
                self._begin()
            while done < len(line):
                done += os.write(self._file, line[done:])
        except OSError:
            if done:
                self._take_back()
            return False
        self._size += len(line)
        return True

    def _take_back(self):
        """Cut off what was written of it, and write no more here: some of it may have been read already."""
        with contextlib.suppress(OSError):  # then half a line stays at the end, which nobody reads
            os.ftruncate(self._file, self._size)
        self._end()

    def _begin(self):
        """A new file; it is locked before it gets the name under which it is found."""
        self._end()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex}{_SUFFIX}"
        new = path.with_suffix(_NEW_SUFFIX)
        file = os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            lock_file(file)  # nobody else knows the new name
            new.rename(path)
        except OSError:
            os.close(file)
            raise
        self._file, self._path, self._size, self._begun = file, path, 0, time.monotonic()

    def _end(self):
        if self._file is not None:
            os.close(self._file)
            self._file, self._size = None, 0


class SpoolShipper:
    """Takes the lines of all workers, those of dead ones too; of several drains of a folder one leads."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._leader: int | None = None
        self._delivered: dict[Path, int] = {}  # Bytes of a file

    def leads(self) -> bool:
        """Is this the one that ships? Whoever asks first is, until it is gone."""
        path = self.folder / _LEADER
        if self._leader is not None and _is_at(path, self._leader):
            return True
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not lock_file(file):
            os.close(file)
            return False
        self._leader = file
        return True

    @property
    def leading(self) -> bool:
        """Did it lead when that was last asked?"""
        return self._leader is not None

    def ship(self, deliver: Callable[[list[bytes]], None]) -> int:
        """Deliver what there is, oldest first; what was delivered when `deliver` fails is delivered again later.

        What is written meanwhile is for the next time, or a file that goes on growing would keep the others waiting.
        """
        count, found = 0, segments(self.folder)
        self._delivered = {path: self._delivered.get(path, 0) for path in found}
        for path, (size, _) in found.items():
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                for lines in self._lines(path, file):
                    deliver(lines)
                    self._delivered[path] += sum(map(len, lines))
                    count += len(lines)
                    if self._delivered[path] >= size:
                        break
                if lock_file(file) and next(self._lines(path, file), None) is None:
                    path.unlink()
                    del self._delivered[path]
        return count

    def backlog(self) -> tuple[int, float]:
        """Bytes that are not delivered yet, and for how many seconds the oldest file has waited."""
        found = {path: (size - self._delivered.get(path, 0), at) for path, (size, at) in segments(self.folder).items()}
        left = [(size, at) for size, at in found.values() if size > 0]
        return sum(size for size, _ in left), max((time.time() - at for _, at in left), default=0.0)

    def close(self):
        """Let another lead."""
        if self._leader is not None:
            os.close(self._leader)
            self._leader = None

    def _lines(self, path: Path, file) -> Iterator[list[bytes]]:
        """Whole lines that were not delivered yet, some at a time.

        The last one may be half written, and the other half there a moment later: so all that was read is one piece,
        cut into lines where they end.
        """
        file.seek(self._delivered[path])
        while piece := file.read(BATCH_BYTES) + file.readline():
            whole = piece[: piece.rfind(b"\n") + 1]
            if whole:
                yield BytesIO(whole).readlines()
            if len(whole) < len(piece):
                return


def segments(folder: Path) -> dict[Path, tuple[int, float]]:
    """Files with lines, oldest first: their bytes, and when they were begun."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((e.name, e.stat().st_size) for e in entries if e.name.endswith(_SUFFIX))
    except FileNotFoundError:
        return {}
    return {folder / name: (size, int(name.split("-")[0]) / 1e9) for name, size in found}


def _is_at(path: Path, file: int) -> bool:
    """Is the open file still the one at its path?"""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
