"""What several folders of tests need."""

import os
import shutil
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa

from tests.commands import run_command
from tests.pipeline.conftest import Project

# A project has no part of tests/commands.py, so its own tests start each command anew
Project.run_command = staticmethod(run_command)

# On a busy machine an example may take any time.
slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=slow)
hypothesis.settings.load_profile("tests")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a job of a shell; what tests start must hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Folders of tests that wait for other processes, of which no coverage is measured
PROCESSES = {"pipeline", "new", "retrain", "deploy", "lab", "server", "simulate", "dashboard"}


# The files that take longest come first: one that begins last keeps the other workers waiting for its end
LONGEST = (
    "retrain/test_retrain.py",
    "pipeline/test_build.py",
    "pipeline/test_ends.py",
    "simulate/test_demo.py",
    "serving/telemetry/test_prediction_logger_faults.py",
    "pipeline/test_models.py",
    "deploy/test_image.py",
    "serving/server/test_replacing.py",
    "new/test_new.py",
    "project/test_judgement.py",
    "monitor/test_drift.py",
    "serving/dashboard/test_dashboard_browser.py",
    "retrain/test_watch.py",
    "model/test_parity.py",
    "orchestration/test_dask.py",
    "new/test_random_tables.py",
    "serving/protocols/test_schemathesis.py",
)


def pytest_configure(config):
    """Let workers take files in the order of the collection, not by their numbers of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Begin with what takes longest, and measure no coverage where it would only cost time."""
    turns = {Path(__file__).parent / name: turn for turn, name in enumerate(LONGEST)}
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (turns.get(item.path, len(turns)), -slow[item.path]))
    for item in items:
        is_beside = item.get_closest_marker("slow") and PROCESSES.intersection(item.path.parts)
        if is_beside or item.get_closest_marker("soak"):
            item.add_marker("no_cover")


POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/test"


def _postgres_answers() -> bool:
    engine = sa.create_engine(POSTGRES, connect_args={"connect_timeout": 2})
    try:
        with engine.connect():
            return True
    except sa.exc.OperationalError:
        return False
    finally:
        engine.dispose()


@contextmanager
def empty_schema() -> Iterator[str]:
    """A schema of PostgreSQL, until the block ends."""
    if not _postgres_answers():
        if os.environ.get("REQUIRE_SERVICES"):
            pytest.fail("PostgreSQL does not answer on 127.0.0.1:5432")
        pytest.skip("PostgreSQL does not answer on 127.0.0.1:5432 (database test, user postgres)")
    schema = f"t{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(POSTGRES)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    yield f"{POSTGRES}?options=-csearch_path%3D{schema}"
    with engine.begin() as connection:
        connection.execute(sa.schema.DropSchema(schema, cascade=True))
    engine.dispose()


@pytest.fixture
def postgres_url():
    """An empty schema of PostgreSQL."""
    with empty_schema() as url:
        yield url


@pytest.fixture(scope="module")
def filled_postgres_url():
    """One that the tests of a module share."""
    with empty_schema() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request, tmp_path):
    """An empty database, of either kind."""
    return f"sqlite:///{tmp_path}/mlops.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def scikit_learn_alone(monkeypatch):
    """Trials as where no other library of models is installed."""
    monkeypatch.setattr("mlops_nb.project.estimator_code._is_installed", lambda library: False)


@pytest.fixture(scope="session")
def browser():
    """Debian's chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("REQUIRE_SERVICES"):
            pytest.fail("There is no chromium")
        pytest.skip("There is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
