"""What is deleted and what stays, also when the process that deletes is killed."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from mlops_nb.cli.main import main
from mlops_nb.data.tables import snapshot
from mlops_nb.errors import BundleError, ConflictError
from mlops_nb.model.bundle import write_bundle
from mlops_nb.monitor.prediction_log import PredictionLog, PredictionRecord
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.store import retention
from mlops_nb.store.database import writing
from mlops_nb.store.deletions import DeletedError
from mlops_nb.store.git import GitState
from mlops_nb.store.lock import Lock
from mlops_nb.store.registry import Registry
from mlops_nb.store.retention import clean_up, delete_version, plan_cleanup, read_uses
from mlops_nb.store.runs import RunStore
from mlops_nb.store.schema import batch_jobs, deletions, history, versions
from serve.app import create_app
from tests.factories import NUMBERS

NOW, OLD = datetime.now(UTC), datetime(2020, 1, 1, tzinfo=UTC)
BEFORE = NOW - timedelta(days=90)
NUMBER_OF_VERSIONS = 5  # version 1 in production, the others without an alias


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> list:
    """A bundle of each version, with the snapshot of its data."""
    rng, found = np.random.default_rng(0), []
    X = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    y = (X["a"] > X["b"]).astype(int)
    for number in range(1, NUMBER_OF_VERSIONS + 1):
        folder = tmp_path_factory.mktemp("made")
        kept = snapshot(X * number, folder / "data")
        metadata = {"params": {"C": number}, "seed": 0, "data": {"sha256": kept.sha256}, "python": "", "packages": {}}
        metadata["evaluation"] = {"passed": True, "metrics": {}, "gates": []}
        model = LogisticRegression(C=number).fit(X, y)
        found.append((write_bundle(folder / "bundle", "toy", model, NUMBERS, X, X, metadata), kept.path))
    return found


class Place:
    """A project with old versions of a model, a snapshot and a run of each."""

    def __init__(self, home: Path, made: list, **more: str):
        self.settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy", **more})
        self.registry, self.runs = Registry.open(self.settings), RunStore(Path(self.settings.runs))
        store = self.registry.artifacts
        for number, (bundle, data) in enumerate(made, 1):
            run = self.runs.new()
            run.start("toy", GitState(None, None, False, "", ()))
            run.finish(version=number, data={"sha256": data.stem})
            run.update(started=OLD.isoformat())
            store.snapshots.mkdir(parents=True, exist_ok=True)
            shutil.copy(data, store.snapshots / data.name)
            store.upload_snapshot(store.snapshots / data.name)
            self.registry.register(bundle, run.id)
        self.registry.promote("toy", 1)
        with writing(self.registry.engine) as connection:
            connection.execute(sa.update(versions).values(created_at=OLD))
            connection.execute(sa.update(history).values(at=OLD))

    def plan(self, before: datetime = BEFORE, **more):
        """What is not needed any more; every snapshot counts as old."""
        return plan_cleanup(self.registry, self.runs, before, **more)

    def clean(self):
        return clean_up(self.registry, self.runs, NOW + timedelta(days=1), actor="ann")

    def uses(self, version: int) -> list[str]:
        with self.registry.engine.connect() as connection:
            return [str(use) for use in read_uses(connection, "toy", version)]


@pytest.fixture
def place(database_url, tmp_path, made):
    place = Place(tmp_path, made, MLOPS_DATABASE_URL=database_url)
    yield place
    place.registry.close()


def test_what_has_no_use_is_planned_and_nothing_is_deleted_by_planning(place):
    everything = place.plan(NOW + timedelta(days=1))
    assert everything.versions == [("toy", n) for n in (2, 3, 4, 5)]
    assert (len(everything.snapshots), len(everything.runs)) == (4, 4)
    assert everything.kept == {"versions": 1, "runs": 1, "snapshots": 1}
    assert place.plan().snapshots == [], "each was used just now"
    assert place.plan(OLD - timedelta(days=1)).is_empty, "all is young"
    assert [v.version for v in place.registry.versions("toy")] == [1, 2, 3, 4, 5]


def test_uses_keep_a_version_with_its_run_and_its_snapshot(place):
    registry = place.registry
    with closing(PredictionLog(registry.engine)) as log:
        log.add([PredictionRecord("k", 1e9, "toy", 2, "shadow", 1.0, ["a"], [[1.0]], [1])])
    job = dict.fromkeys(("id", "input", "output", "fingerprint"), "x") | {"options": {}, "chunks": 1, "rows": 0}
    job |= {"name": "toy", "version": 3, "state": "stopped", "rejected": 0, "seconds": 0.0, "started_at": OLD}
    with writing(registry.engine) as connection:
        connection.execute(sa.insert(batch_jobs).values(job))
    registry.promote("toy", 4, "canary")
    assert place.uses(2) == ["predictions of it are in the log"]
    assert place.uses(3) == ["batch job x is stopped"]
    assert place.uses(4) == ["'canary' points to it"]
    assert place.plan().versions == [("toy", 5)]
    registry.clear("toy", "canary")
    assert "'canary' pointed to it until" in place.uses(4)[0]
    assert place.plan().versions == [("toy", 5)]
    (run,) = place.plan().runs
    place.runs.get(run).update(started=NOW.isoformat())
    assert place.plan().is_empty, "a young run keeps the version that it names"
    place.runs.get(run).update(started=OLD.isoformat())
    with Lock(registry.engine, "retrain toy"):
        assert "'retrain toy' is held by" in place.uses(5)[0]
        assert place.plan().is_empty
    place.runs.new().start("toy", GitState(None, None, False, "", ()))
    plan = place.plan(NOW + timedelta(days=1))
    assert (plan.versions, plan.snapshots) == ([("toy", 5)], [])
    assert "while a build is running" in plan.notes[0]


def test_rollback_target_stays_and_can_be_deleted_by_force_alone(place):
    registry = place.registry
    registry.promote("toy", 2)
    with writing(registry.engine) as connection:
        connection.execute(sa.update(history).values(at=OLD))
    assert place.plan().versions == [("toy", n) for n in (3, 4, 5)]
    with pytest.raises(ConflictError, match=r"a rollback of 'production' leads to it\. --force"):
        delete_version(registry, "toy", 1)
    with pytest.raises(ConflictError, match=r"Version 2 of 'toy' is in use: 'production' points to it\.$"):
        delete_version(registry, "toy", 2, force=True)
    delete_version(registry, "toy", 1, "asked for", "ann", force=True)
    gone = r"Version 1 of 'toy' was deleted on [-0-9: ]+ UTC by ann \(asked for\)\."
    for use in (
        lambda: registry.get("toy", 1),
        lambda: registry.load("toy", "1"),
        lambda: registry.promote("toy", 1),
        lambda: delete_version(registry, "toy", 1),
    ):
        with pytest.raises(DeletedError, match=gone):
            use()
    with pytest.raises(BundleError, match=gone):
        registry.rollback("toy")
    assert [change.to_version for change in registry.history("toy")] == [1, 2]


def test_number_of_a_deleted_version_is_never_given_again(place, made):
    delete_version(place.registry, "toy", 5)
    version, is_new = place.registry.register(made[4][0])
    assert (version.version, is_new) == (6, True)
    assert place.registry.load("toy", 6).version == 6


KILLED = """
import os, signal, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from mlops_nb.settings import Settings
from mlops_nb.store import artifacts, retention, runs
from mlops_nb.store.registry import Registry

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

at = sys.argv[1]
if at in ("_remove_bundle", "finish_deletion"):
    setattr(retention, at, kill)
elif at == "rmtree":
    artifacts.shutil.rmtree = kill
elif at == "remove_snapshot":
    artifacts.FolderStore.remove_snapshot = kill
else:
    runs.RunStore.remove = kill
settings = Settings.read()
retention.clean_up(Registry.open(settings), runs.RunStore(Path(settings.runs)), datetime.now(UTC) + timedelta(days=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", ["_remove_bundle", "rmtree", "finish_deletion", "remove_snapshot", "remove"])
def test_killed_process_leaves_nothing_half_deleted_and_the_next_completes_it(tmp_path, made, at):
    place = Place(tmp_path, made)
    environment = {"MLOPS_HOME": str(tmp_path), "PATH": ""}
    killed = subprocess.run([sys.executable, "-c", KILLED, at], env=environment, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    there = [v.version for v in place.registry.versions("toy")]
    assert there == ([1] if at in ("remove_snapshot", "remove") else [1, 3, 4, 5])
    for version in there:
        place.registry.load("toy", version).close()
        assert place.registry.artifacts.snapshot(place.registry.get("toy", version).manifest["data"]["sha256"])
    with pytest.raises(DeletedError):
        place.registry.load("toy", 2)
    place.clean()
    assert place.plan(NOW + timedelta(days=1)).is_empty
    with place.registry.engine.connect() as connection:
        assert connection.execute(sa.select(deletions.c.removed_at)).scalars().all().count(None) == 0
    assert [path.name for path in (tmp_path / "store/artifacts/bundles/toy").iterdir()] == ["1"]
    assert len(list((tmp_path / "store/artifacts/data").iterdir())) == len(place.runs.list()) == 1
    place.registry.close()


def test_bundle_in_a_remote_store_is_gone_after_half_of_it_was(tmp_path, made, monkeypatch):
    place = Place(tmp_path, made, MLOPS_ARTIFACTS=f"memory://{tmp_path.name}")
    store, location = place.registry.artifacts, place.registry.get("toy", 2).location
    files, root = store.files._opened
    removed = []

    class KilledError(BaseException):
        pass

    def remove_two(path):
        removed.append(path)
        if len(removed) > 2:
            raise KilledError
        type(files).rm_file(files, path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "rm_file", remove_two, raising=False)
        with pytest.raises(KilledError):
            place.clean()
    assert removed[0].endswith("manifest.json")
    assert not store.exists(location)
    assert files.find(f"{root}/{location}")
    done = place.clean()
    assert [str(deletion).split(" was")[0] for deletion in done.bundles] == ["Version 2 of 'toy'"]
    assert not files.find(f"{root}/{location}")
    assert len(store.written()) == 1
    assert place.plan(NOW + timedelta(days=1)).is_empty
    place.registry.close()


def test_snapshot_that_nothing_here_names_stays_unless_asked_for(place):
    other = snapshot(pd.DataFrame({"x": [1]}), place.registry.artifacts.snapshots)
    soon = NOW + timedelta(days=1)
    assert other.sha256 not in place.plan(soon).snapshots
    assert other.sha256 in place.plan(soon, unnamed=True).snapshots


def test_versions_that_a_service_serves_stay_until_it_has_left_them(place, monkeypatch):
    registry = place.registry
    for version, alias in ((2, "canary"), (3, "shadow")):
        registry.promote("toy", version, alias)
    app = create_app(place.settings)
    live_model(app).refresh()
    for version in (1, 2, 3):
        with pytest.raises(ConflictError, match="points to it"):
            delete_version(registry, "toy", version, force=True)
    registry.promote("toy", 4)
    with pytest.raises(ConflictError, match="a service may have it for 10 minutes"):
        delete_version(registry, "toy", 1, force=True)
    live_model(app).refresh()
    monkeypatch.setattr(retention, "FOLLOW_TIME", timedelta(0))
    delete_version(registry, "toy", 1, force=True)
    answer = app.test_client().post("/predict", json={"features": [[1, 0]]})
    assert (answer.status_code, answer.get_json()["version"] in (2, 4)) == (200, True)
    app.stop()


def test_commands_show_first_and_delete_when_told(tmp_path, made, monkeypatch):
    place = Place(tmp_path, made)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, words)
        return result.exit_code, result.output

    assert run("models", "delete", "toy", "2") == (0, f"toy version 2: would be deleted\n{NOTHING}\n")
    assert run("models", "delete", "toy", "1") == (
        0,
        f"toy version 1: in use\n  'production' points to it\n{NOTHING}\n",
    )
    assert run("models", "delete", "toy", "1", "--yes")[0] == 1
    assert run("models", "delete", "toy", "2", "--yes", "--reason", "a typo") == (0, "toy version 2: deleted\n")
    code, output = run("models", "show", "toy", "2")
    assert code == 1
    assert output.startswith("Error: Version 2 of 'toy' was deleted on ")
    assert "(a typo)" in output
    assert [v["version"] for v in json.loads(run("models", "list", "toy", "--json")[1])] == [1, 3, 4, 5]
    planned = json.loads(run("gc", "--json")[1])
    assert (planned["deleted"], [v["version"] for v in planned["versions"]]) == (False, [3, 4, 5])
    code, output = run("gc")
    assert output.endswith(f"7 would be deleted; 1 versions, 1 runs, 5 snapshots stay.\n{NOTHING}\n")
    assert json.loads(run("gc", "--days", "0", "--yes", "--json")[1])["deleted"] is True
    assert run("gc", "--days", "0") == (
        0,
        "Everything is needed.\n0 would be deleted; 1 versions, 1 runs, 1 snapshots stay.\n",
    )
    code, output = run("models", "delete", "toy", "x")
    assert code == 2
    assert "'x' is no number of a version." in output
    place.registry.close()


NOTHING = "Nothing was deleted: repeat with --yes."
