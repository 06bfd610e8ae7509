"""Which workers the master starts and ends, without processes; `test_replacing` has real ones."""

from types import SimpleNamespace

import pytest

from mlops_nb.serving.server.arbiter import RollingArbiter
from mlops_nb.serving.server.connections import ConnectionCounter


class Master(RollingArbiter):
    """A master whose workers are numbers."""

    def __init__(self, workers: int):
        self.WORKERS, self._num_workers, self.worker_age, self.ended = {}, workers, 0, []
        self.cfg, self.log = SimpleNamespace(enable_backlog_metric=False), SimpleNamespace(debug=lambda *_, **__: None)
        self._last_logged_active_worker_count = None
        self.manage_workers()

    def spawn_worker(self):
        self.worker_age += 1
        self.WORKERS[self.worker_age] = SimpleNamespace(age=self.worker_age, connections=ConnectionCounter())

    def kill_worker(self, pid, _signal):
        self.ended.append(pid)
        self.WORKERS[pid].connections.end()

    def make_ready(self, *pids):
        for pid in pids:
            self.WORKERS[pid].connections.ready()

    def reap(self, pid):
        self.WORKERS.pop(pid).connections.release()


@pytest.fixture
def make():
    made = []
    yield lambda workers: made.append(Master(workers)) or made[-1]
    for master in made:
        for pid in [*master.WORKERS]:
            master.reap(pid)


def test_old_workers_end_when_all_new_ones_are_ready(make):
    master = make(2)
    master.make_ready(1, 2)
    master.retired_age = 2
    master.manage_workers()
    assert (sorted(master.WORKERS), master.ended) == ([1, 2, 3, 4], [])
    master.make_ready(3)
    master.manage_workers()
    assert master.ended == []
    master.make_ready(4)
    master.manage_workers()
    assert master.ended == [1, 2]
    master.reap(1)
    master.reap(2)
    master.manage_workers()
    assert (sorted(master.WORKERS), master.ended) == ([3, 4], [1, 2])


def test_new_worker_that_crashed_is_started_again(make):
    master = make(2)
    master.make_ready(1, 2)
    master.retired_age = 2
    master.manage_workers()
    master.reap(3)
    master.manage_workers()
    assert (sorted(master.WORKERS), master.ended) == ([1, 2, 4, 5], [])


def test_old_workers_that_have_no_model_end_at_once(make):
    master = make(2)
    master.make_ready(1)
    master.retired_age = 2
    master.manage_workers()
    assert master.ended == [2]


def test_worker_with_enough_requests_has_a_successor_first_and_ends_no_other(make):
    master = make(2)
    master.make_ready(1, 2)
    master.WORKERS[2].connections.retire()
    master.manage_workers()
    assert (sorted(master.WORKERS), master.ended) == ([1, 2, 3], [])
    master.make_ready(3)
    master.manage_workers()
    assert master.ended == [2]
    master.manage_workers()
    assert {*master.ended} == {2}, "the oldest goes on while that one ends"
    assert sorted(master.WORKERS) == [1, 2, 3]


def test_worker_that_ends_by_itself_has_a_successor_at_once(make):
    master = make(2)
    master.make_ready(1, 2)
    master.WORKERS[1].connections.end()
    master.manage_workers()
    assert sorted(master.WORKERS) == [1, 2, 3]
    assert {*master.ended} <= {1}
