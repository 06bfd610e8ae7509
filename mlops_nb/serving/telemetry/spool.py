"""Lines on disk on their way to the database: every worker appends to files of its own, one worker ships all.

A file is locked by its writer, and the kernel releases the lock when that process ends, however it ends. So a file that
can be locked has no writer any more, and is deleted when all of it has been delivered.

A line that begins with `#` and a number has so many bytes behind it, of any kind.
"""

import contextlib
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from mlops_nb.store.file_lock import lock_file

SEGMENT_BYTES = 16 * 2**20  # after which a new file is begun
SEGMENT_SECONDS = 5.0  # after which a file with lines is closed, so that it can be deleted
MAX_MEMORY_BYTES = 16 * 2**20  # that wait in memory while the disk is full
BATCH_BYTES = 256 * 2**10  # delivered together
_SUFFIX, _NEW_SUFFIX, _LEADER = ".jsonl", ".new", "leader.lock"


class Spool:
    """The files to which one worker appends its lines."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self.full = False  # whether the folder has more than `max_bytes`
        self._lock = threading.Lock()
        self._file: int | None = None
        self._path = folder
        self._size, self._begun = 0, 0.0
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

    def append(self, line: bytes, *content: bytes | memoryview) -> bool:
        """Append a line, and the bytes behind it as they are; False when it cannot be kept."""
        with self._lock:
            if self.full:
                return False
            if self._write(line, *content):
                return True
            if content:
                line = b"".join((line, *content))
            if self._waiting_bytes + len(line) > MAX_MEMORY_BYTES:
                return False
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            return True

    def maintain(self):
        """Write the lines in memory, close an old file, measure the folder; called again and again."""
        with self._lock:
            while self._waiting and self._write(self._waiting[0]):
                self._waiting_bytes -= len(self._waiting.popleft())
            old = self._size and time.monotonic() - self._begun > SEGMENT_SECONDS
            if self._file is not None and (old or not _is_at(self._path, self._file)):
                self._end()
        self.full = sum(size for size, _ in segments(self.folder).values()) >= self.max_bytes

    @property
    def waiting(self) -> int:
        """Number of lines that are only in memory."""
        return len(self._waiting)

    @property
    def is_left(self) -> bool:
        """Whether the latest file is still there, with lines or without."""
        return self._path.is_file()

    def close(self):
        """Write the lines in memory, and leave the files to the shipper."""
        self.maintain()
        with self._lock:
            self._end()

    def _write(self, *parts: bytes | memoryview) -> bool:
        """Write all parts of a line, or nothing of it and return False."""
        written = 0
        try:
            file = self._file
            if file is None or self._size >= SEGMENT_BYTES:
                file = self._begin()
            for part in parts:
                done = 0
                while done < len(part):
                    done += (n := os.write(file, part[done:]))
                    written += n
        except OSError:
            if written and self._file is not None:
                self._take_back(self._file)
            return False
        self._size += written
        return True

    def _take_back(self, file: int):
        """Cut off a part of a line and end the file: the shipper may have read the part already."""
        with contextlib.suppress(OSError):  # then a part of a line stays at the end, and is not read
            os.ftruncate(file, self._size)
        self._end()

    def _begin(self) -> int:
        """Begin a new file; it is locked before it gets the name by which the shipper finds it."""
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
        self._file, self._path = file, path
        self._size, self._begun = 0, time.monotonic()
        return file

    def _end(self):
        if self._file is not None:
            os.close(self._file)
            self._file, self._size = None, 0


class SpoolShipper:
    """Delivers the lines of all workers, those of killed ones too; of several shippers of a folder one leads."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._leader: int | None = None
        self._delivered: dict[Path, int] = {}  # bytes of each file

    def leads(self) -> bool:
        """Whether this shipper leads: the first that asks does, until its process ends."""
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
        """Whether it led when `leads()` was last called."""
        return self._leader is not None

    def ship(self, deliver: Callable[[list[bytes]], None]) -> int:
        """Deliver the lines in all files, the oldest first; lines that `deliver` raised on are delivered again later.

        Lines that are appended meanwhile wait for the next call, else a growing file would keep the others waiting.
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
        """Return the bytes that are not delivered yet, and for how many seconds the oldest file has waited."""
        found = {path: (size - self._delivered.get(path, 0), at) for path, (size, at) in segments(self.folder).items()}
        left = [(size, at) for size, at in found.values() if size > 0]
        return sum(size for size, _ in left), max((time.time() - at for _, at in left), default=0.0)

    def close(self):
        """Let another shipper lead."""
        if self._leader is not None:
            os.close(self._leader)
            self._leader = None

    def _lines(self, path: Path, file: IO[bytes]) -> Iterator[list[bytes]]:
        """Yield batches of whole lines that were not delivered yet, each with the bytes behind it.

        The last line may be incomplete, and complete a moment later: so reading ends there.
        """
        file.seek(self._delivered[path])
        lines, size = list[bytes](), 0
        while line := _read_line(file):
            lines.append(line)
            size += len(line)
            if size >= BATCH_BYTES:
                yield lines
                lines, size = [], 0
        if lines:
            yield lines


def segments(folder: Path) -> dict[Path, tuple[int, float]]:
    """Return the files with lines, the oldest first: their bytes, and when they were begun."""
    found = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX):
                with contextlib.suppress(FileNotFoundError):  # just delivered, by another thread or worker
                    found[entry.name] = entry.stat().st_size
    return {folder / name: (size, int(name.split("-")[0]) / 1e9) for name, size in sorted(found.items())}


def content_size(line: bytes) -> int:
    """Return the number of bytes behind a line; 0 for one that has none, or does not say how many."""
    size = line[1:].partition(b" ")[0] if line.startswith(b"#") else b""
    return int(size) if size.isdigit() and len(size) <= 12 else 0


def _read_line(file: IO[bytes]) -> bytes:
    """Return the next line with the bytes behind it; nothing where they are not all there."""
    line = file.readline()
    if not line.endswith(b"\n"):
        return b""
    if size := content_size(line):
        is_there = os.fstat(file.fileno()).st_size - file.tell() >= size
        return line + file.read(size) if is_there else b""
    return line


def _is_at(path: Path, file: int) -> bool:
    """Whether the open file is still the one at its path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
