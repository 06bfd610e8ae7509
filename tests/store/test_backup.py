"""What docs/backup.md says, done: a service that is being asked is saved, everything is lost, and the copy answers."""

import os
import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest
import sqlalchemy as sa

from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from tests.conftest import POSTGRES, empty_schema
from tests.factories import ROOT, Service, make_home, wait_for
from tests.s3 import S3
from tests.serving.telemetry.test_prediction_logger_faults import Traffic

pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs/backup.md").read_text()


@dataclass
class Place:
    """Where a team's state lies."""

    home: Path
    more: dict[str, str] = field(default_factory=dict)  # Settings and credentials
    lose: list = field(default_factory=list)  # What makes it disappear

    @property
    def settings(self) -> Settings:
        own = {k: v for k, v in self.more.items() if k.startswith("MLOPS_")}
        return Settings.read({"MLOPS_HOME": str(self.home), "MLOPS_MODEL": "toy", **own})

    def run(self, block: str, backup: Path) -> str:
        """Run commands of the page as a person would."""
        path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "BACKUP": str(backup)}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "AWS_"))}
        environment = kept | {"MLOPS_MODEL": "toy"} | self.more | path
        command = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(command, cwd=self.home, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or "mlops-nb doctor" in block, done.stderr
        return done.stdout + done.stderr


def blocks(section: str) -> tuple[str, str]:
    """The commands of a section: how to back up, how to restore."""
    part = TEXT.split(f"## {section}\n")[1].split("\n## ")[0]
    back_up, restore = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
    return back_up, restore


@pytest.fixture
def database():
    """Makes databases, of which one can be dropped."""
    if shutil.which("pg_dump") is None:
        (pytest.fail if os.environ.get("REQUIRE_SERVICES") else pytest.skip)("There is no pg_dump (postgresql-client)")
    with empty_schema():  # asks whether there is a server
        admin, made = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT"), []

        def make() -> tuple[str, str]:
            made.append(f"t{uuid.uuid4().hex[:12]}")
            with admin.connect() as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {made[-1]}")
            return made[-1], POSTGRES.rpartition("/")[0] + f"/{made[-1]}"

        def drop(name: str):
            with admin.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

        yield make, drop
        for name in made:
            drop(name)
        admin.dispose()


@pytest.fixture
def server(tmp_path):
    server = S3(tmp_path / "s3.log")
    yield server
    server.stop()


def on_one_machine(tmp_path, request) -> tuple[Place, Place]:
    before, after = tmp_path / "before", tmp_path / "after"
    return Place(before, lose=[lambda: shutil.rmtree(before)]), Place(after)


def as_a_team(tmp_path, request) -> tuple[Place, Place]:
    (make, drop), server = request.getfixturevalue("database"), request.getfixturevalue("server")
    aws = {k: v for k, v in server.environment().items() if k.startswith("AWS_")}
    monkeypatch = request.getfixturevalue("monkeypatch")
    for name, value in aws.items():
        monkeypatch.setenv(name, value)
    places, names = [], []
    for home in ("before", "after"):
        name, url = make()
        names.append(name)
        team = {"MLOPS_DATABASE_URL": url, "MLOPS_ARTIFACTS": f"s3://{server.bucket()}/team"}
        places.append(Place(tmp_path / home, team | aws))
    store = places[0].more["MLOPS_ARTIFACTS"]
    places[0].lose = [
        lambda: drop(names[0]),
        lambda: shutil.rmtree(places[0].home),
        lambda: fsspec.filesystem("s3", skip_instance_cache=True).rm(store, recursive=True),
    ]
    return places[0], places[1]


@pytest.mark.parametrize(
    ("section", "made"), [("SQLite and a folder", on_one_machine), ("PostgreSQL and S3", as_a_team)]
)
def test_service_answers_from_what_was_saved_while_it_was_asked(section, made, tmp_path, request):
    place, empty = made(tmp_path, request)
    for home in (place.home, empty.home):
        home.mkdir()
        (home / "settings.ini").touch()
    own = {k: v for k, v in place.more.items() if k.startswith("MLOPS_")}
    make_home(place.home, promoted=2, **own)
    (place.home / "store/runs").mkdir(parents=True, exist_ok=True)
    back_up, restore = blocks(section)

    service = Service(place.settings, tmp_path / "log", **own)
    log = PredictionLog.open(place.settings)
    with Traffic(service) as traffic:
        wait_for(lambda: log.count("toy") > 200, 60)
        before = log.count("toy")
        place.run(back_up, tmp_path / "backup")
        traffic.more()
        assert traffic.failed == 0, "nobody noticed"
    service.stop()
    log.close()
    for lose in place.lose:
        lose()

    output = empty.run(restore, tmp_path / "backup")
    assert re.search(r"toy version 2 is in production, loaded and verified", output), output
    own = {k: v for k, v in empty.more.items() if k.startswith("MLOPS_")}
    service = Service(empty.settings, tmp_path / "again", **own)
    try:
        status, response = service.predict()
        assert (status, response["version"]) == (200, 2)
        registry, log = Registry.open(empty.settings), PredictionLog.open(empty.settings)
        assert log.count("toy") >= before
        assert log.get(traffic.ids[0]).version == 2
        assert [m.to_version for m in registry.history("toy", "production")] == [1, 2]
        assert registry.rollback("toy").to_version == 1
        wait_for(lambda: service.versions() == {1}, 60)
        registry.close()
        log.close()
    finally:
        service.stop()
