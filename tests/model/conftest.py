"""An application that has what reading a CSV request needs, and a bundle of a linear model that a test may change."""

import shutil
from types import SimpleNamespace

import pytest
from flask import Flask

from mlops_nb.model.bundle import read_manifest
from tests.factories import package


@pytest.fixture(scope="module")
def app():
    made = Flask(__name__)
    made.extensions["settings"] = SimpleNamespace(max_rows=100)
    return made


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return package(tmp_path_factory.mktemp("bundle") / "toy", 1.0)


@pytest.fixture
def bundle(original, tmp_path):
    shutil.copytree(original.path, tmp_path / "toy")
    return read_manifest(tmp_path / "toy")
