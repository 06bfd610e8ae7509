"""Under load, every id that a client received is in the database once: whatever is killed, away or full."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import SimpleNamespace

import orjson
import psutil
import pytest
import sqlalchemy as sa

from mlops_nb.serving.telemetry.prediction_logger import DEAD_LETTERS
from mlops_nb.store.database import open_database, reading
from mlops_nb.store.registry import Registry
from mlops_nb.store.schema import prediction_batches
from tests.factories import ForkedService, Service, make_home, wait_for
from tests.relay import Relay

pytestmark = pytest.mark.slow

PAUSE = 0.001  # Seconds between two requests of a client: without it, what the service starts gets no processor

# Where the fault is one of the spool or of a process; SQLite is a file that the killed process itself was writing
ON_SQLITE = ["sqlite", pytest.param("postgresql", marks=pytest.mark.nightly)]
ON_POSTGRES = [pytest.param("sqlite", marks=pytest.mark.nightly), "postgresql"]


class Traffic:
    """Clients that send until they are told to stop, and remember every id that they were given."""

    def __init__(self, *services: Service, clients: int = 2, rows: int = 2):
        self.rows = [[i % 7, i % 2] for i in range(rows)]
        self.ids, self.failed, self._stop = [], 0, threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(s,)) for s in services for _ in range(clients)]

    def _send(self, service: Service):
        connection = None
        while not self._stop.is_set():
            connection = connection or HTTPConnection("127.0.0.1", service.port, timeout=30)
            try:
                status, body = service.call("POST", "/predict", {"features": self.rows}, connection)
                assert status == 200, body
                self.ids += body["ids"] or []
            except (OSError, HTTPException):
                self.failed += 1
                connection.close()
                connection = None
                self._stop.wait(0.02)
                continue
            self._stop.wait(PAUSE)
        if connection:
            connection.close()

    def more(self, n: int = 200):
        """Wait until that many more ids were given."""
        goal = len(self.ids) + n
        wait_for(lambda: len(self.ids) >= goal, 60)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def place(database_url, tmp_path):
    """A database with a model, its URL for a service, and a way to take it away."""
    relay = None
    if database_url.startswith("postgresql"):
        relay = Relay(5432)
        served = database_url.replace(":5432", f":{relay.port}")
    else:
        served = database_url
    settings = make_home(tmp_path, MLOPS_DATABASE_URL=database_url)
    services = []

    def start(name: str = "one") -> Service:
        more = {"MLOPS_DATABASE_URL": served, "MLOPS_SPOOL": str(tmp_path / f"spool-{name}")}
        services.append(ForkedService(settings, tmp_path / f"log-{len(services)}", **more))
        ready = services[-1].get
        wait_for(lambda: all(ready("/health/ready")[0] == 200 for _ in range(8)), 120)  # whichever worker is asked
        return services[-1]

    @contextmanager
    def away():
        if relay:
            relay.cut()
            yield
            relay.up = True
            return
        file = Path(sa.make_url(database_url).database)
        file.rename(file.with_suffix(".away"))
        file.mkdir()
        yield
        file.rmdir()
        file.with_suffix(".away").rename(file)

    engine = open_database(database_url)

    def ask(query: str) -> list:
        with reading(engine) as connection:
            return connection.execute(sa.text(query)).scalars().all()

    def in_batches() -> list[str]:
        with reading(engine) as connection:
            batches = connection.execute(sa.select(prediction_batches.c.id, prediction_batches.c.rows)).all()
        return [f"{batch.id}-{i}" for batch in batches for i in range(batch.rows)]

    commands = []

    def command(*words: str) -> subprocess.Popen:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
        own = {"MLOPS_HOME": str(settings.home), "MLOPS_DATABASE_URL": database_url}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        name = Path(sys.executable).parent / "mlops-nb"
        commands.append(subprocess.Popen([name, *words], cwd=settings.home, env=kept | own, **pipes))
        return commands[-1]

    yield SimpleNamespace(
        settings=settings,
        command=command,
        ask=ask,
        start=start,
        away=away,
        logged=lambda: ask("SELECT id FROM predictions") + in_batches(),
        count=lambda: ask("SELECT count(*) FROM predictions WHERE role <> 'batch'")[0] + len(in_batches()),
        spool=lambda: tmp_path / "spool-one",
    )
    engine.dispose()
    for process in commands:
        process.kill()
        process.communicate()
    for service in services:
        service.stop()
    if relay:
        relay.close()


def kept(place, ids: list[str]) -> bool:
    """Wait until every id is there; more may be, whose answers were cut off. The key makes a second one impossible."""
    assert len(ids) == len(set(ids)) > 300

    def passed() -> bool:
        assert not list(place.settings.home.glob(f"spool-*/{DEAD_LETTERS}")), "a line was put aside"
        return True

    try:
        wait_for(lambda: passed() and place.count() >= len(ids), 180)
        return wait_for(lambda: passed() and set(ids) <= set(place.logged()), 180)
    except AssertionError as e:
        missing = sorted({*ids} - {*place.logged()})
        logs = "\n".join(file.read_text() for file in sorted(place.settings.home.glob("log-*")))
        raise AssertionError(f"{len(missing)} of {len(ids)} ids are missing, first {missing[:3]}\n{logs}") from e


def workers(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children()


@pytest.mark.parametrize("database_url", ON_SQLITE, indirect=True)
@pytest.mark.soak
def test_killed_workers_lose_nothing(place):
    service = place.start()
    with Traffic(service) as traffic:
        for _ in range(2):
            victim = workers(service)[0]
            victim.kill()
            wait_for(lambda: not victim.is_running() and len(workers(service)) == 2)  # noqa: B023
            traffic.more()
    assert kept(place, traffic.ids)


@pytest.mark.parametrize("database_url", ON_SQLITE, indirect=True)
def test_killed_service_loses_nothing_when_it_is_started_again(place):
    service = place.start()
    with Traffic(service) as traffic:
        traffic.more()
        family = [service.process, *workers(service)]
        for process in family:
            os.kill(process.pid, signal.SIGKILL)
    service.process.wait()
    assert list(place.spool().glob("*.jsonl")), "something was left to ship"
    place.start()
    assert kept(place, traffic.ids)
    wait_for(lambda: len(list(place.spool().glob("*.jsonl"))) == 0)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_killed_service_loses_no_request_of_many_rows(place):
    service = place.start()
    with Traffic(service, rows=2000) as traffic:
        traffic.more(100_000)
        victim = workers(service)[0]
        victim.kill()
        wait_for(lambda: not victim.is_running() and len(workers(service)) == 2)
        traffic.more(100_000)
        family = [service.process, *workers(service)]
        for process in family:
            os.kill(process.pid, signal.SIGKILL)
    service.process.wait()
    place.start()
    assert kept(place, traffic.ids)
    assert len(place.logged()) == len({*place.logged()})


@pytest.mark.soak
@pytest.mark.parametrize(
    ("database_url", "seconds"),
    [("sqlite", 5), ("postgresql", 8), pytest.param("postgresql", 30, marks=pytest.mark.nightly)],
    indirect=["database_url"],
)
def test_database_that_is_away_for_long_loses_nothing(place, seconds):
    service = place.start()
    with Traffic(service) as traffic:
        wait_for(lambda: place.count() > 0)
        with place.away():
            deadline, before = time.monotonic() + seconds, len(traffic.ids)
            wait_for(lambda: time.monotonic() > deadline, seconds + 5)
            assert len(traffic.ids) - before > 100 * seconds / 5, "the service went on"
        assert traffic.failed == 0
    assert kept(place, traffic.ids)
    assert "The prediction log waits: OperationalError." in service.stop()


@pytest.mark.parametrize("database_url", ON_SQLITE, indirect=True)
@pytest.mark.soak
def test_full_disk_loses_nothing_and_tears_no_line(place):
    service = place.start()
    for worker in workers(service):
        worker.rlimit(psutil.RLIMIT_FSIZE, (50_000, psutil.RLIM_INFINITY))  # the write that crosses it is cut in two
    with Traffic(service) as traffic:
        traffic.more(2000)
        for worker in workers(service):
            worker.rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))  # and no other begins
        traffic.more(2000)
        for worker in workers(service):
            worker.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        assert traffic.failed == 0
    assert kept(place, traffic.ids)
    assert "put aside" not in service.stop()


@pytest.mark.soak
def test_two_services_share_a_database(place):
    services = [place.start("one"), place.start("two")]
    with Traffic(*services) as traffic:
        traffic.more(1000)
    assert kept(place, traffic.ids)


@pytest.mark.nightly
def test_two_services_a_watcher_monitors_a_batch_job_and_promotions_share_a_database(place, database_url, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("key,a,b\n" + "".join(f"{i},{i % 7},{i % 5}\n" for i in range(20_000)))
    into = ("--output", database_url, "--table", "scored", "--chunk-rows", "1000", "--key", "key", "--log")
    services, looks = [place.start("one"), place.start("two")], 0
    with closing(Registry.open(place.settings)) as registry, Traffic(*services) as traffic:
        batch = place.command("predict", "toy", "--version", "1", "--input", str(rows), *into)
        watcher = place.command("watch", "toy", "--rows", "500", "--every", "0.5", "--json")
        while batch.poll() is None or looks < 4:
            monitors = [place.command("monitor", "toy", "--rows", "500", "--json") for _ in range(2)]
            for version in (2, 1) * 3:
                registry.promote("toy", version)
            for monitor in monitors:
                output = monitor.communicate(timeout=120)
                assert monitor.returncode in (0, 1, 2), output[1]
                assert '"status"' in output[0], output[1]
            looks += len(monitors)
        assert batch.returncode == 0, batch.communicate()
        assert watcher.poll() is None, watcher.communicate()
        watcher.terminate()
        watched = watcher.communicate(timeout=60)[0].splitlines()
        assert watcher.returncode == 0
        assert watched
        assert all("action" in orjson.loads(line) for line in watched)
        registry.promote("toy", 2)
        for service in services:
            wait_for(lambda s=service: s.versions() == {2})
        assert traffic.failed == 0
        moves = registry.history("toy", "production")
    assert kept(place, traffic.ids)
    assert place.ask("SELECT count(*) FROM scored") == place.ask("SELECT count(DISTINCT key) FROM scored") == [20_000]
    assert place.ask("SELECT count(*) FROM predictions WHERE role = 'batch'") == [20_000]
    assert place.ask("SELECT count(*) FROM health") == [looks + len(watched)]
    assert all(a.to_version == b.from_version for a, b in itertools.pairwise(moves))
    assert len(moves) == 3 * looks + 2, "one at the beginning, one at the end"


@pytest.mark.parametrize("database_url", ON_POSTGRES, indirect=True)
def test_stopped_service_leaves_nothing_in_the_spool(place):
    service = place.start()
    with Traffic(service, clients=6) as traffic:
        traffic.more()
        service.stop()
    assert set(traffic.ids) <= set(place.logged())
    assert not list(place.spool().glob("*.jsonl"))
