"""A team's set-up, from end to end: S3 and PostgreSQL, a machine that builds and another that serves."""

import shutil

import pandas as pd
import pytest
import sqlalchemy as sa

from mlops_nb.settings import Settings
from mlops_nb.store.artifacts import RemoteStore
from mlops_nb.store.database import open_database, reading
from mlops_nb.store.remote_files import Files
from tests.factories import Service
from tests.pipeline.test_build import ALL
from tests.s3 import KEY, S3, SECRET

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = S3(tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.stop()


def all_rows(url: str) -> str:
    """Everything that is in a database."""
    engine = open_database(url)
    with reading(engine) as connection:
        tables = sa.inspect(connection).get_table_names()
        rows = [repr(connection.execute(sa.text(f"SELECT * FROM {t}")).all()) for t in tables]
    engine.dispose()
    return "\n".join(rows)


@pytest.mark.soak
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_model_is_built_here_and_served_there_and_the_credentials_are_nowhere(
    project, server, database_url, tmp_path, monkeypatch
):
    address = f"s3://{server.bucket()}/team"
    team = {"MLOPS_DATABASE_URL": database_url, "MLOPS_ARTIFACTS": address, "WANDB_MODE": "offline"}
    aws = {k: v for k, v in server.environment().items() if k.startswith("AWS_")}
    assert project.build(**team, **aws) == ALL
    assert project.build(**team, **aws) == []
    sha256 = project.read("dataset.json")["sha256"]
    names = server.names(address)
    assert f"data/{sha256}.parquet" in names
    assert [n for n in names if n.startswith("bundles/toy/")]

    for name, value in aws.items():
        monkeypatch.setenv(name, value)
    there = tmp_path / "there"
    there.mkdir()
    (there / "settings.ini").touch()
    service = Service(Settings.read({"MLOPS_HOME": str(there)}), tmp_path / "log", **team)
    try:
        status, body = service.call("POST", "/predict", {"features": [[80.0], [3.0]]})
        assert (status, body["prediction"], body["version"]) == (200, [1, 0], 1)
    finally:
        log = service.stop()
    data = pd.read_parquet(RemoteStore(address, there / "store/cache").snapshot(sha256))
    assert data.shape == (100, 2)

    manifest = next(n for n in names if n.endswith("manifest.json"))
    Files(address).remove(manifest)
    shutil.rmtree(project.path / "store/cache")  # the verified copy of the machine that promoted it
    assert "it has no manifest.json" in project.fail(**team, **aws), "there is no champion to compare with"
    project.build("--env--champion", "none", **team, **aws)
    assert [n for n in server.names(address) if n.endswith("manifest.json")], "it was registered again"

    places = [p for folder in (project.path, there) for p in folder.rglob("*") if p.is_file()]
    everything = [log, service.out.read_text(), all_rows(database_url)]
    everything += [p.read_bytes().decode(errors="replace") for p in places]
    assert not [text[:200] for text in everything if KEY in text or SECRET in text]
