"""Gunicorn's master, which ends a worker that serves only when another is ready in its place.

Gunicorn itself ends the old workers as soon as it has started the new ones: until these have loaded the model, nobody
would serve.
"""

import signal
import sys
import time

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

BROKEN_SECONDS = 5.0  # between two attempts to start workers whose code cannot be imported


class RollingArbiter(Arbiter):
    """Gunicorn's master; workers that are to be replaced serve until as many new ones have a model."""

    WORKERS: dict
    start_again_at = 0.0  # when workers are started again whose code cannot be imported, `time.monotonic()`
    retired_age = 0  # workers of at most this age are replaced, see `Arbiter.worker_age`

    def reload(self):
        """Start new workers with the configuration and the code of now; the old ones serve until these are ready."""
        old, self.WORKERS = self.WORKERS, {}  # else Gunicorn ends them at once, and waits for it
        self.retired_age = self.worker_age
        try:
            super().reload()
        finally:
            self.WORKERS = old | self.WORKERS

    def reexec(self):
        """Start another master beside this one; a file of Gunicorn, run in place of `-m gunicorn`, finds other modules."""
        self.START_CTX["args"] = [sys.executable, "-m", "gunicorn", *sys.argv[1:]]
        super().reexec()

    def reap_workers(self):
        """Take note of workers that ended; while others serve, one that cannot import its code does not end the service."""
        before = self.WORKERS.copy()
        try:
            super().reap_workers()
        except HaltServer as e:
            if not any(worker.connections.is_ready for worker in self.WORKERS.values()):
                raise
            for pid in before.keys() - self.WORKERS.keys():
                before[pid].tmp.close()
                self.cfg.child_exit(self, before[pid])
            self.start_again_at = time.monotonic() + BROKEN_SECONDS
            self.log.error("%s The others go on; it is tried again.", e.reason)

    def manage_workers(self):
        """Start the workers that are missing, and end those that are not needed any more; called every second."""
        if time.monotonic() < self.start_again_at:
            return
        retired = {pid: worker for pid, worker in self.WORKERS.items() if self._is_retired(worker)}
        if not retired:
            super().manage_workers()
            return
        for _ in range(self.num_workers - len(self.WORKERS) + len(retired)):
            self.spawn_worker()
        are_ready = all(w.connections.is_ready for pid, w in self.WORKERS.items() if pid not in retired)
        for pid, worker in retired.items():
            if are_ready or not worker.connections.is_ready:
                self.kill_worker(pid, signal.SIGTERM)

    def _is_retired(self, worker) -> bool:
        return worker.age <= self.retired_age or worker.connections.is_retired
