"""An application that has what reading a CSV request needs."""

from types import SimpleNamespace

import pytest
from flask import Flask


@pytest.fixture(scope="module")
def app():
    made = Flask(__name__)
    made.extensions["settings"] = SimpleNamespace(max_rows=100)
    return made
