"""Workers are replaced without a failed request, however long their successors load the model."""

import os
import signal
import threading
from collections import Counter
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import orjson
import psutil
import pytest

from tests.factories import ForkedService, wait_for

CLIENTS = 4
REQUESTS = 200  # that are to be served in a phase of a test
PAUSE = 0.001  # Seconds between two requests of a client: without it, workers that start get no processor
CONTENT = orjson.dumps({"features": [[1, 0]]})


class GatedService(ForkedService):
    """One whose model is loaded only while the gate is open."""

    app = "tests.serving.server.gated_app:app"

    def __init__(self, settings, folder: Path, is_open: bool = True, **more: str):
        self.gate = folder / "gate"
        self.gate.mkdir()
        (self.gate / "release").write_text("first")
        self.is_open = is_open
        super().__init__(settings, folder / "log", GATE=str(self.gate), **more)

    @property
    def is_open(self) -> bool:
        return not (self.gate / "closed").exists()

    @is_open.setter
    def is_open(self, is_open: bool):
        (self.gate / "closed").unlink(missing_ok=True) if is_open else (self.gate / "closed").touch()

    @property
    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def begun(self, pids) -> bool:
        """Whether workers have entered their main loops."""
        return all((self.gate / str(pid)).exists() for pid in pids)

    def serving(self) -> set[int]:
        """The workers that respond, by new connections."""
        return {self.get("/code")[1]["worker"] for _ in range(20)}


class Load:
    """Requests of several clients, with connections that are kept and new ones."""

    def __init__(self, port: int):
        self.port, self.results = port, Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n % 2 == 0,)) for n in range(CLIENTS)]

    def _run(self, keep: bool):
        connection = None
        while not self._stop.is_set():
            connection = connection or HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                connection.request("POST", "/predict", CONTENT, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                self.results[response.status] += 1
            except Exception as e:
                self.results[type(e).__name__] += 1
                connection.close()
            if not keep:
                connection.close()
                connection = None
            self._stop.wait(PAUSE)
        if connection is not None:
            connection.close()

    def go_on(self, requests: int = REQUESTS):
        """Wait until so many more were served."""
        wanted = self.results[200] + requests
        wait_for(lambda: self.results[200] >= wanted or self.results.keys() - {200}, 60)
        assert self.results.keys() == {200}, self.results

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.results.keys() == {200}, self.results


@contextmanager
def gated(settings, folder: Path, **more):
    service = GatedService(settings, folder, **more)
    try:
        wait_for(lambda: len(service.workers) == int(more.get("MLOPS_WORKERS", 2)))
        yield service
    finally:
        service.is_open = True
        log = service.stop()
        assert service.process.returncode == 0, log
        assert "Traceback" not in log or "this release cannot be imported" in log, log


def wait_for_model(service: GatedService):
    wait_for(lambda: service.loads(1) >= len(service.workers), 60)
    wait_for(lambda: service.serving() == service.workers, 60)


@contextmanager
def serving(settings, folder: Path, **more):
    """A service with a model, and requests without a pause."""
    with gated(settings, folder, **more) as service:
        wait_for_model(service)
        with Load(service.port) as load:
            load.go_on(1)
            yield service, load


@pytest.mark.slow
def test_workers_without_a_model_respond_until_one_has_it(settings, tmp_path):
    with gated(settings, tmp_path, is_open=False) as service:
        wait_for(lambda: service.begun(service.workers))
        assert service.get("/health/live")[0] == 200
        assert service.get("/health/ready")[0] == 503
        assert service.predict()[0] == 503
        service.is_open = True
        wait_for_model(service)
        assert service.predict()[0] == 200


@pytest.mark.slow
def test_worker_without_a_model_leaves_requests_to_one_that_has_it(settings, tmp_path):
    with gated(settings, tmp_path) as service:
        wait_for_model(service)
        service.is_open, before = False, service.workers
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(service.workers - before) == 1, 60)
        (new,) = service.workers - before
        with Load(service.port) as load:
            wait_for(lambda: service.begun([new]), 60)
            load.go_on()
            assert service.serving() == before - {killed}
            service.is_open = True
            load.go_on()
        wait_for(lambda: service.serving() == service.workers, 60)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.nightly), "2"])
def test_new_release_replaces_workers_under_load(settings, tmp_path, workers):
    with serving(settings, tmp_path, MLOPS_WORKERS=workers) as (service, load):
        service.is_open, before = False, service.workers
        (service.gate / "release").write_text("second")
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(service.workers) == 2 * int(workers) and service.begun(service.workers), 60)
        load.go_on()
        assert service.get("/code")[1]["release"] == "first"
        assert service.serving() == before
        service.is_open = True
        wait_for(lambda: not service.workers & before, 60)
        load.go_on()
        assert service.get("/code")[1]["release"] == "second"
        assert len(service.workers) == int(workers)


@pytest.mark.slow
@pytest.mark.soak
def test_release_after_release_ends_all_workers_but_the_last(settings, tmp_path):
    with serving(settings, tmp_path) as (service, load):
        service.is_open, before = False, service.workers
        for number in range(2):
            known = service.workers
            (service.gate / "release").write_text(str(number))
            service.process.send_signal(signal.SIGHUP)
            wait_for(lambda known=known: service.begun(service.workers) and len(service.workers - known) == 2, 60)
        load.go_on()
        assert before <= service.workers
        service.is_open = True
        wait_for(lambda: len(service.workers) == 2 and not service.workers & known, 60)
        load.go_on()
        assert service.get("/code")[1]["release"] == "1"


@pytest.mark.slow
@pytest.mark.soak
def test_release_that_cannot_be_imported_replaces_nothing_until_it_is_mended(settings, tmp_path):
    with serving(settings, tmp_path) as (service, load):
        before = service.workers
        (service.gate / "release").write_text("broken")
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "The others go on; it is tried again." in service.log.read_text(), 60)
        load.go_on()
        assert before <= service.workers
        (service.gate / "release").write_text("mended")
        wait_for(lambda: not service.workers & before, 120)
        load.go_on()
        assert service.get("/code")[1]["release"] == "mended"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.nightly), "2"])
@pytest.mark.soak
def test_worker_with_enough_requests_serves_until_another_is_ready(settings, tmp_path, workers):
    more = {"MLOPS_WORKERS": workers, "GUNICORN_CMD_ARGS": "--max-requests 2000"}
    with serving(settings, tmp_path, **more) as (service, load):
        service.is_open, before = False, service.workers
        wait_for(lambda: len(service.workers) == 2 * int(workers) and service.begun(service.workers), 120)
        load.go_on()
        assert before <= service.workers
        service.is_open = True
        wait_for(lambda: not service.workers & before, 60)
        load.go_on()


@pytest.mark.slow
@pytest.mark.soak
def test_new_master_takes_over_under_load(settings, tmp_path):
    with serving(settings, tmp_path) as (service, load):
        service.is_open, before = False, service.workers
        (service.gate / "release").write_text("second")
        service.process.send_signal(signal.SIGUSR2)
        new = psutil.Process(wait_for(lambda: next(iter(service.workers - before), None)))
        try:
            workers = wait_for(lambda: [p.pid for p in new.children()] if len(new.children()) == 2 else None, 60)
            wait_for(lambda: service.begun(workers), 60)
            load.go_on()
            assert service.serving() == before
            service.is_open = True
            wait_for(lambda: service.serving() >= {*workers}, 60)
            service.process.send_signal(signal.SIGTERM)
            service.process.wait(60)
            load.go_on()
            assert service.serving() <= {*workers}
            wait_for(lambda: service.serving() == {*workers}, 60)  # any may have the next twenty connections
            assert service.get("/code")[1]["release"] == "second"
        finally:
            load._stop.set()
            new.terminate()
            new.wait(60)
