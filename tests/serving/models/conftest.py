"""Homes with several models, and services of them."""

import shutil

import pytest

from mlops_nb.model.bundle import Bundle
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import LIKELY, NUMBERS, package

KEY, ADMIN = "predict-" + "k" * 16, "admin-" + "a" * 16
ROW, MIXED_ROW = [1, 0], [41, 1200.5, "own"]


def register(registry: Registry, folder, name: str, C: float, signature=NUMBERS, promote: bool = True):
    """Register and promote another version of a model."""
    shutil.rmtree(folder, ignore_errors=True)
    bundle: Bundle = package(folder, C, signature, name)
    version = registry.register(bundle)[0].version
    if promote:
        registry.promote(name, version)
    return version


@pytest.fixture(scope="session")
def several_home(tmp_path_factory):
    """A home with alpha (numbers), beta (three kinds of columns) and gamma (numbers, two versions) in production."""
    home = tmp_path_factory.mktemp("several")
    (home / "settings.ini").touch()
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home)}))
    register(registry, home / "bundle", "alpha", 0.1)
    register(registry, home / "bundle", "beta", 0.1, LIKELY)
    register(registry, home / "bundle", "gamma", 0.5)
    register(registry, home / "bundle", "gamma", 5.0, promote=False)
    registry.close()
    return home


@pytest.fixture
def home(several_home, tmp_path):
    return shutil.copytree(several_home, tmp_path / "home")


@pytest.fixture
def registry(home):
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home)}))
    yield registry
    registry.close()


@pytest.fixture
def make(home):
    """Make applications of several models that have read the registry, without threads."""
    apps = []

    def make(models: str = "alpha,beta,gamma", **more: str):
        settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODELS": models, "MLOPS_ACCESS_LOG": "false", **more})
        apps.append(create_app(settings))
        apps[-1].models.refresh()
        return apps[-1]

    yield make
    for app in apps:
        app.models._thread.start()  # which `stop` ends
        app.stop()


@pytest.fixture
def client(make):
    return make().test_client()
