"""A watch: one at a time, through outages, and it stops when it is told to."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from mlops_nb.errors import MlopsError
from mlops_nb.retrain.watch import WatchEvent, watch
from mlops_nb.settings import Settings
from mlops_nb.store.database import open_database, reading, writing
from mlops_nb.store.lock import Lock, LockedError
from mlops_nb.store.runs import RunStore
from mlops_nb.store.schema import locks
from tests.conftest import POSTGRES
from tests.relay import Relay
from tests.simulated_production import FAST, make_world, project_of_sides

PATIENCE = 120  # Seconds, on a machine that is busy


def wait_for(condition, what: str, seconds: float = PATIENCE):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail(f"waited {seconds} s for {what}")


class Watcher:
    """`mlops-nb watch` in a process of its own."""

    def __init__(self, settings: Settings, *options: str, **more: str):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
        places = {
            f"MLOPS_{k.upper()}": str(getattr(settings, k)) for k in ("home", "database_url", "artifacts", "runs")
        }
        command = [sys.executable, "-m", "mlops_nb.cli.main", "watch", "sides", "--every", "0.2", "--json", *options]
        command[1:3] = ["-c", "from mlops_nb.cli.main import main; main()"]
        own = {"WANDB_MODE": "disabled", "PYTHONPATH": str(settings.home)}
        self.process = subprocess.Popen(
            command, env=kept | places | own | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.events, self.errors = [], []
        streams = ((self.process.stdout, self.events), (self.process.stderr, self.errors))
        self._readers = [threading.Thread(target=_read, args=pair) for pair in streams]
        for reader in self._readers:
            reader.start()

    @property
    def actions(self) -> list[str]:
        return [json.loads(line)["action"] for line in self.events]

    def saw(self, action: str, times: int = 1):
        wait_for(lambda: self.actions.count(action) >= times or self.process.poll() is not None, action)
        assert self.process.poll() is None, "".join(self.errors)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def end(self):
        """With all that it has started."""
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()


def _read(stream, lines: list[str]):
    with stream:
        for line in stream:
            lines.append(line)


@pytest.fixture
def start():
    """Start watchers; those that still run at the end are ended."""
    started = []

    def start(settings, *options, **more):
        started.append(Watcher(settings, *options, **more))
        return started[-1]

    yield start
    for watcher in started:
        watcher.end()


def settings_of(folder, database_url: str) -> Settings:
    (folder / "settings.ini").touch()
    return Settings.read({"MLOPS_HOME": str(folder), "MLOPS_DATABASE_URL": database_url})


# The lock


def test_lock_names_its_holder_and_is_free_again(database_url):
    engine = open_database(database_url)
    with Lock(engine, "watch a") as lock:
        assert lock.held
        with pytest.raises(LockedError, match=rf"'watch a' is held by .*:{os.getpid()} since 20") as e:
            Lock(engine, "watch a").__enter__()
        assert e.value.details["holder"] == lock.holder
    assert not lock.held
    with Lock(engine, "watch a"):
        pass
    engine.dispose()


def test_of_many_concurrent_requests_one_gets_the_lock(database_url):
    engine, got, refused = open_database(database_url), [], []
    ready, done = threading.Barrier(8), threading.Event()

    def ask():
        ready.wait()
        try:
            with Lock(engine, "watch a") as lock:
                got.append(lock)
                done.wait(PATIENCE)
        except LockedError as e:
            refused.append(e)

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    wait_for(lambda: len(got) + len(refused) == 8, "eight answers")
    done.set()
    for asker in askers:
        asker.join()
    assert (len(got), len(refused)) == (1, 7)
    engine.dispose()


def test_process_of_another_container_with_the_name_of_this_machine_is_not_taken_for_gone(database_url):
    engine = open_database(database_url)
    for place in (socket.gethostname(), f"{socket.gethostname()}:1"):  # of an earlier release; in another container
        with Lock(engine, "watch a") as lock:
            with writing(engine) as connection:
                connection.execute(sa.update(locks).values(holder=f"{place}:{2**22 + 1}"))
            with pytest.raises(LockedError, match=rf"held by {socket.gethostname()}:{2**22 + 1} since"):
                Lock(engine, "watch a").__enter__()
        with writing(engine) as connection:
            connection.execute(sa.delete(locks))
        assert not lock.held
    engine.dispose()


@pytest.mark.slow
def test_lock_of_another_machine_is_free_after_its_lease(database_url):
    engine = open_database(database_url)
    with Lock(engine, "watch a", lease=2) as lock:
        with writing(engine) as connection:
            connection.execute(sa.update(locks).values(holder="elsewhere:1"))
        assert not lock.held
        with pytest.raises(LockedError, match="held by elsewhere:1"):
            Lock(engine, "watch a", lease=2).__enter__()

        def taken():
            try:
                return Lock(engine, "watch a", lease=2).__enter__()
            except LockedError:
                return None

        wait_for(taken, "the lease to run out").__exit__()
    engine.dispose()


@pytest.mark.slow
def test_lock_that_is_released_while_another_requests_it_is_taken_by_that_one(postgres_url):
    engine = open_database(postgres_url)
    first = Lock(engine, "watch a").__enter__()

    def let_go(connection, cursor, statement, *_):
        if "FOR UPDATE" in statement and first.held:  # the row was there, and is about to be read
            first.__exit__()

    sa.event.listen(engine, "before_cursor_execute", let_go)
    with Lock(engine, "watch a") as second:
        assert second.held
        assert not first.held
    engine.dispose()


def test_holder_renews_its_lock(database_url):
    engine = open_database(database_url)

    def beat():
        with reading(engine) as connection:
            return connection.execute(sa.select(locks.c.beat_at)).scalar()

    with Lock(engine, "watch a", lease=0.4):
        first = beat()
        wait_for(lambda: beat() > first, "a sign of life")
    engine.dispose()


# The watch, in this process


def test_error_in_a_check_is_its_event_and_the_watch_goes_on(tmp_path, monkeypatch):
    import mlops_nb.retrain.watch as module

    stop, events, raised = (
        threading.Event(),
        [],
        iter([MlopsError("no model"), ValueError("a defect"), LockedError("ann")]),
    )

    def retrain(*_, **__):
        raise next(raised)

    def report(event: WatchEvent):
        events.append(str(event)[20:])
        if len(events) == 3:
            stop.set()

    monkeypatch.setattr(module, "retrain", retrain)
    watch("sides", settings_of(tmp_path, f"sqlite:///{tmp_path}/mlops.db"), 0.01, report=report, stop=stop)
    assert events == ["error: no model", "error: ValueError: a defect", "busy: ann"]


def test_watch_whose_lock_was_taken_meanwhile_ends(tmp_path, monkeypatch):
    settings = settings_of(tmp_path, f"sqlite:///{tmp_path}/mlops.db")
    engine = open_database(settings.database_url)

    def usurp(_):
        with writing(engine) as connection:
            connection.execute(sa.update(locks).where(locks.c.name == "watch sides").values(holder="elsewhere:1"))

    with pytest.raises(LockedError, match="held by elsewhere:1"):
        watch("sides", settings, 0.01, report=usurp)
    engine.dispose()


# The watch, as people run it


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return project_of_sides(tmp_path_factory.mktemp("project"))


@pytest.fixture
def world(project, tmp_path):
    world = make_world(project, tmp_path, f"sqlite:///{tmp_path}/mlops.db")
    yield world
    world.close()


@pytest.mark.slow
def test_second_watch_names_the_holder_of_the_lock_and_a_killed_one_loses_it(tmp_path, database_url, start):
    settings = settings_of(tmp_path, database_url)
    first = start(settings).saw("error")
    second = start(settings)
    assert second.process.wait(PATIENCE) == 1
    wait_for(lambda: second.errors, "an error of the second")
    assert f":{first.process.pid} since" in second.errors[0]
    assert "'watch sides' is held by" in second.errors[0]
    first.process.kill()
    first.process.wait()
    third = start(settings).saw("error")
    assert third.stop() == 0
    engine = open_database(database_url)
    with reading(engine) as connection:
        assert connection.execute(sa.select(locks)).all() == [], "who stops gives the lock back"
    engine.dispose()


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_watch_continues_after_an_outage_and_reports_it_once(tmp_path, database_url, start):
    relay = Relay(5432)
    settings = settings_of(tmp_path, database_url.replace(":5432", f":{relay.port}"))
    assert POSTGRES.split("?")[0] in database_url
    watcher = start(settings).saw("error")
    relay.cut()
    watcher.saw("no database")
    time.sleep(2)  # ten checks without an event
    relay.up = True
    watcher.saw("database back")
    n = watcher.actions.count("error")
    watcher.saw("error", n + 1)
    assert watcher.actions.count("no database") == watcher.actions.count("database back") == 1
    relay.cut()
    watcher.saw("no database", 2)
    assert watcher.stop(signal.SIGINT) == 0, "it stops while the database is away"
    relay.close()


@pytest.mark.slow
def test_watch_retrains_what_has_changed_and_then_leaves_it_alone(world, start):
    world.serve(world.draw("good", 1000, 1), ago=600)
    watcher = start(world.settings, "--rows", "1000", "--engine", "ploomber-engine").saw("nothing", 2)
    world.serve(world.draw("drift", 1000, 2), ago=300)
    watcher.saw("promoted")
    world.serve(world.draw("drift", 1000, 3), ago=60)
    n = watcher.actions.count("nothing")
    watcher.saw("nothing", n + 2)
    assert watcher.stop() == 0
    assert watcher.actions.count("promoted") == 1
    assert world.registry.version_of("sides") == 2
    assert world.actions() == ["nothing", "promoted", "nothing"]


def commands(me: psutil.Process) -> list[str]:
    """Return the names and command lines of the descendants that have not ended."""
    found = []
    for process in me.children(recursive=True):
        with suppress(psutil.Error):
            found.append(" ".join([process.name(), *process.cmdline()]))
    return found


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.nightly)])
def test_watch_that_is_stopped_in_the_middle_of_a_build_ends_it(world, start, number):
    world.serve(world.draw("drift", 1000, 2))
    watcher = start(world.settings, "--rows", "1000", "--engine", "papermill")
    me = psutil.Process(watcher.process.pid)

    wait_for(lambda: any("ipykernel" in command for command in commands(me)), "a kernel")
    family = me.children(recursive=True)
    assert watcher.stop(number) == 0
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert not alive
    assert world.registry.version_of("sides") == 1
    assert world.actions() == ["waiting"]
    assert "promoted" in start(world.settings, "--rows", "1000", "--engine", "ploomber-engine").saw("promoted").actions


def test_options_of_the_command_make_the_policy_of_the_library():
    from mlops_nb.cli.retrain import _parse_options

    window, policy = _parse_options(None, None, "production", 0.5, 0.3, 300, "10m", "ploomber-engine")
    assert window == {"last": None, "rows": None}
    assert policy == FAST


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["papermill", "ploomber-engine"])
@pytest.mark.soak
def test_build_ends_with_a_watch_that_is_killed_and_registers_nothing(world, start, engine):
    world.serve(world.draw("drift", 1000, 2))
    watcher = start(world.settings, "--rows", "1000", "--engine", engine)
    me = psutil.Process(watcher.process.pid)

    def started() -> bool:
        return any(("ipykernel" if engine == "papermill" else "ploomber build") in command for command in commands(me))

    wait_for(started, "a build")
    family = me.children(recursive=True)
    watcher.process.kill()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert not alive
    assert {record["state"] for record in RunStore(Path(world.settings.runs)).list()} <= {"interrupted"}
    assert [version.version for version in world.registry.versions("sides")] == [1]
    assert world.actions() == ["building"], "the next watch counts a failure"
