"""Two versions of a small model in a registry of their own, and the service on top."""

import shutil

import pytest

from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import LIKELY, NUMBERS, Service, make_home


@pytest.fixture(scope="session")
def homes(tmp_path_factory):
    """Prepared homes, copied by the tests: training is what takes the time."""
    made = {}
    for name, signature in (("numbers", NUMBERS), ("mixed", LIKELY)):
        made[name] = tmp_path_factory.mktemp(name)
        make_home(made[name], signature)
    return made


@pytest.fixture
def settings(homes, tmp_path) -> Settings:
    """Version 1 of two is in production."""
    shutil.copytree(homes["numbers"], tmp_path / "home")
    return Settings.read({"MLOPS_HOME": str(tmp_path / "home"), "MLOPS_MODEL": "toy", "MLOPS_POLL_SECONDS": "0.1"})


@pytest.fixture
def registry(settings):
    registry = Registry.open(settings)
    yield registry
    registry.close()


@pytest.fixture
def app(settings):
    app = create_app(settings)
    live_model(app).refresh()
    yield app
    app.stop()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture(scope="session")
def mixed(homes, tmp_path_factory):
    """A client of the model with three kinds of columns."""
    home = shutil.copytree(homes["mixed"], tmp_path_factory.mktemp("served") / "home")
    app = create_app(Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy", "MLOPS_MAX_ROWS": "100"}))
    live_model(app).refresh()
    yield app.test_client()
    app.stop()


@pytest.fixture
def service(settings, tmp_path):
    service = Service(settings, tmp_path / "log")
    yield service
    log = service.stop()
    assert service.process.returncode == 0, log
    assert "Traceback" not in log, log
    assert "terminate called" not in log, log


@pytest.fixture
def client_with(settings):
    """Clients of services with more settings."""
    apps = []

    def make(**more):
        own = {"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": "toy"}
        apps.append(create_app(Settings.read(own | more)))
        live_model(apps[-1]).refresh()
        return apps[-1].test_client()

    yield make
    for app in apps:
        app.stop()
