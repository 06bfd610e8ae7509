"""New connections go to the worker that has the fewest, and to another when that does not come for them."""

import errno
import math
import os
import socket
from contextlib import ExitStack
from http.client import HTTPConnection
from types import SimpleNamespace

import psutil
import pytest

from mlops_nb.serving.server.connections import MAX_WORKERS, ConnectionCounter
from mlops_nb.serving.server.worker import ACCEPT_BACKOFF_SECONDS, MAX_YIELDS, YIELD_SECONDS, BoundedThreadWorker
from tests.factories import wait_for


@pytest.fixture
def make():
    """Counts of workers, forgotten afterwards."""
    made = []

    def make(count: int = 0) -> ConnectionCounter:
        made.append(ConnectionCounter())
        made[-1].count = count
        made[-1].ready()
        return made[-1]

    yield make
    for connections in made:
        connections.release()


def test_worker_knows_whether_another_has_fewer(make):
    mine, other, third = make(2), make(2), make(3)
    assert mine.surplus() <= 0
    assert other.surplus() <= 0
    assert third.surplus() > 0
    other.count -= 1
    assert mine.surplus() > 0
    assert other.surplus() <= 0
    other.release()
    assert mine.surplus() <= 0, "one that is gone takes none"
    assert make(4).surplus() > 0
    assert mine.surplus() <= 0


def test_worker_that_is_not_ready_is_waited_for_by_no_other_that_is(make):
    ready, other = make(2), make(0)
    other.end()
    assert (other.is_ready, other.is_retired) == (False, True)
    assert ready.surplus() <= 0
    assert ready.is_any_ready()
    ready.end()
    assert ready.surplus() > 0, "two that are not ready share what comes"
    assert not ready.is_any_ready()
    other.retire()
    assert (other.is_ready, other.is_retired) == (True, True), "it serves until another does"
    other.release()
    assert not ready.is_any_ready()
    ready.ready()
    assert (ready.is_ready, ready.is_retired) == (True, False)


def test_count_of_a_forked_worker_is_seen_by_the_others(make):
    mine, other = make(2), make(2)
    pid = os.fork()
    if not pid:
        other.count = 1
        os._exit(0)
    os.waitpid(pid, 0)
    assert mine.surplus() > 0


def test_worker_sees_those_that_were_forked_later(make):
    mine, (told, tells) = make(4), os.pipe()
    pid = os.fork()
    if not pid:
        os.read(told, 1)
        os._exit(mine.surplus())
    make(1)
    os.write(tells, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_places_of_workers_that_are_gone_are_used_again(make):
    for _ in range(2 * MAX_WORKERS):
        make().release()
    assert make().surplus() <= 0


@pytest.fixture
def worker(make, monkeypatch):
    """A worker's door, with a clock of our own and so many clients that have connected."""
    clock, door = SimpleNamespace(now=100.0), SimpleNamespace(clients=1, accepted=0)
    monkeypatch.setattr("mlops_nb.serving.server.worker.time.monotonic", lambda: clock.now)
    monkeypatch.setattr("mlops_nb.serving.server.worker._is_waiting", lambda listeners: door.clients > 0)

    def accept(self, listener):
        door.clients, door.accepted = door.clients - 1, door.accepted + 1
        self.connections.count += 1

    monkeypatch.setattr("gunicorn.workers.gthread.ThreadWorker.accept", accept)
    worker = BoundedThreadWorker.__new__(BoundedThreadWorker)
    worker.connections, worker.alive, worker.sockets, worker._accept_again_at = make(1), True, [], 0.0
    worker._accepting, worker.nr, worker._retire_after, worker._yield = True, 0, 10, (0, -math.inf)
    worker.worker_connections = 1000
    return SimpleNamespace(door=worker, clock=clock, told=door)


def test_worker_with_more_leaves_connections_to_others_for_a_moment_and_then_takes_some(worker, make):
    door, other = worker.door, make(0)
    worker.told.clients = 3
    door.accept(None)
    worker.clock.now += YIELD_SECONDS / 2
    door.accept(None)
    assert worker.told.accepted == 0, "not at once"
    worker.clock.now += YIELD_SECONDS / 2
    door.accept(None)
    assert worker.told.accepted == 1, "nobody came for it"
    door.accept(None)
    assert worker.told.accepted == 1, "others have their chance again"
    other.count = 4
    door.accept(None)
    assert worker.told.accepted == 3, "no other has fewer"


def test_worker_that_leaves_connections_to_others_goes_on_asking_whether_they_come(worker, make):
    """A pause would make every worker wait for the other: two connections in each."""
    other = make(0)
    worker.told.clients = 1000
    for n in range(1, 100):
        worker.door.accept(None)
        assert worker.door._accepting
        other.count = n  # it comes
    assert worker.told.accepted >= 100
    assert worker.clock.now == 100, "without any time"


def test_yield_of_earlier_connections_is_forgotten(worker, make):
    make(0)
    worker.door.accept(None)
    worker.clock.now += 10
    worker.door.accept(None)
    assert worker.told.accepted == 0, "this one is left to others as the first was"


def test_worker_takes_all_that_have_connected_while_it_has_not_many_more(worker, make):
    worker.door.connections.count, worker.told.clients = 80, 300
    other = make(80)
    worker.door.accept(None)
    assert worker.told.accepted == 11, "an eighth more than the other, and one to notice it"
    worker.clock.now += MAX_YIELDS * YIELD_SECONDS
    worker.door.set_accept_enabled(True)
    other.count = 500
    worker.door.accept(None)
    assert worker.told.clients == 0


def test_worker_beside_one_that_does_not_come_takes_ever_more(worker, make):
    make(0)
    worker.told.clients = 1000
    while worker.told.clients > 500:
        worker.door.accept(None)
        worker.clock.now += MAX_YIELDS * YIELD_SECONDS
        worker.door.set_accept_enabled(True)
    assert worker.clock.now < 101, "500 within a second"


def test_worker_takes_no_more_connections_than_it_may_have(worker):
    worker.door.worker_connections, worker.told.clients = 4, 10
    worker.door.accept(None)
    assert worker.told.accepted == 3


def test_worker_that_ends_takes_what_has_connected(worker, make):
    make(0)
    worker.door.alive = False
    worker.door.accept(None)
    assert worker.told.accepted == 1


def test_worker_that_is_told_to_end_while_it_looks_who_has_fewer_ends_once(worker, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker.door.sockets, worker.door.waits = [listener], {}
        worker.door.poller = SimpleNamespace(unregister=lambda listener: None)

        def surplus():
            worker.door.alive = False  # what the handler of SIGTERM does
            return 1

        monkeypatch.setattr(worker.door.connections, "surplus", surplus)
        worker.door.accept(listener)
        worker.door.set_accept_enabled(False)
        assert listener.fileno() < 0
        assert not worker.door._accepting


def test_worker_without_files_leaves_connections_to_others_for_a_while(worker, monkeypatch):
    def accept(self, listener):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("gunicorn.workers.gthread.ThreadWorker.accept", accept)
    logged = []
    worker.door.log = SimpleNamespace(error=lambda *result: logged.append(result[-1]))
    worker.door.accept(None)
    assert logged == ["Too many open files"]
    assert not worker.door._accepting
    worker.clock.now += ACCEPT_BACKOFF_SECONDS
    worker.door.set_accept_enabled(True)
    assert worker.door._accepting


def test_worker_without_files_ends(worker, monkeypatch):
    monkeypatch.setattr(
        "gunicorn.workers.gthread.ThreadWorker.accept", lambda *_: (_ for _ in ()).throw(OSError(errno.ENFILE, "full"))
    )
    worker.door.log, worker.door.alive = SimpleNamespace(error=lambda *result: None), False
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        worker.door.sockets, worker.door.waits = [listener], {}
        worker.door.poller = SimpleNamespace(unregister=lambda listener: None)
        worker.door.set_accept_enabled(False)
        assert listener.fileno() < 0


@pytest.mark.slow
def test_connections_that_are_kept_are_spread_over_the_workers(service):
    pids = [p.pid for p in psutil.Process(service.process.pid).children()]

    def held() -> list[int]:
        of = [psutil.Process(pid).net_connections("tcp") for pid in pids]
        return [sum(c.status == psutil.CONN_ESTABLISHED for c in connections) for connections in of]

    with ExitStack() as stack:

        def connect() -> HTTPConnection:
            connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
            stack.callback(connection.close)
            connection.connect()
            return connection

        wait_for(lambda: service.predict(connect()) and min(held()))  # both are at the door
        for _ in range(10):
            for connection in [connect() for _ in range(8)]:
                assert service.predict(connection)[0] == 200
        assert abs(held()[0] - held()[1]) <= 12, held()
