"""Twenty models in one service under load, while versions are promoted and one model is broken."""

import threading
from collections import defaultdict
from http.client import HTTPConnection

import pytest

from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from tests.factories import wait_for
from tests.serving.models.conftest import register
from tests.serving.models.test_models import break_model
from tests.serving.models.test_models_service import ask, several  # noqa: F401

pytestmark = pytest.mark.slow

NAMES = tuple(f"model-{number:02d}" for number in range(20))
BROKEN = NAMES[7]
PROMOTED = NAMES[::4]  # one of every four


@pytest.fixture
def home(tmp_path):
    """A home of twenty models with a version in production and, some of them, one that is not."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "settings.ini").touch()
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home)}))
    for number, name in enumerate(NAMES):
        register(registry, home / "bundle", name, 0.1 + number)
        if name in PROMOTED:
            register(registry, home / "bundle", name, 50.0 + number, promote=False)
    registry.close()
    return home


def test_promotions_and_a_broken_model_fail_no_request_of_another(several, registry):  # noqa: F811
    break_model(registry, BROKEN)
    service = several(MLOPS_WORKERS="2")
    stop, results = threading.Event(), defaultdict(list)  # by name: status and version, in the order of the responses

    def load(first: int):
        connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
        number = first
        while not stop.is_set():
            name = NAMES[number % len(NAMES)]
            status, body = ask(service, name, connection)
            results[name].append((status, body.get("version")))
            number += 1
        connection.close()

    threads = [threading.Thread(target=load, args=(first,)) for first in (0, 5, 10, 15)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: all(len(results[name]) >= 10 for name in NAMES))
        for name in PROMOTED:
            registry.promote(name, 2)
        wait_for(lambda: all(results[name][-10:] == [(200, 2)] * 10 for name in PROMOTED))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    statuses = {name: {status for status, _ in found} for name, found in results.items()}
    assert statuses == {name: {503} if name == BROKEN else {200} for name in NAMES}
    versions = {name: {version for _, version in found} for name, found in results.items() if name != BROKEN}
    assert versions == {name: {1, 2} if name in PROMOTED else {1} for name in versions}
