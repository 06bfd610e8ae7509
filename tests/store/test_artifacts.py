"""An artifact store that is elsewhere: whole or not at all, never believed unproven, and often away."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import pandas as pd
import pytest

from mlops_nb.data.tables import snapshot
from mlops_nb.errors import ArtifactError, BundleError, DataError, SettingsError
from mlops_nb.model.bundle import read_manifest
from mlops_nb.model.predictor import Predictor
from mlops_nb.project import doctor
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.store.artifacts import RemoteStore
from mlops_nb.store.bundle_cache import BundleCache, is_intact
from mlops_nb.store.registry import Registry
from mlops_nb.store.remote_files import Files
from serve.app import create_app
from tests.factories import ROOT, Service, package, unverified, wait_for
from tests.relay import Relay
from tests.s3 import KEY, S3, SECRET
from tests.store.test_registry import at_once

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = S3(tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [package(folder / str(i), C) for i, C in enumerate((0.1, 10.0))]


@pytest.fixture
def relay(server):
    """The way to S3."""
    relay = Relay(server.port)
    yield relay
    relay.close()


@pytest.fixture
def settings(server, relay, tmp_path, monkeypatch) -> Settings:
    """A project whose artifacts are in a bucket of their own."""
    for name, value in server.environment(relay.port).items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    home.mkdir()
    (home / "settings.ini").touch()
    own = {"MLOPS_MODEL": "toy", "MLOPS_POLL_SECONDS": "0.1", "MLOPS_ARTIFACTS": f"s3://{server.bucket()}/team"}
    return Settings.read({"MLOPS_HOME": str(home), **own})


@pytest.fixture
def registry(settings):
    registry = Registry.open(settings)
    yield registry
    registry.close()


def elsewhere(settings, tmp_path, name="elsewhere") -> Registry:
    """The same registry, seen from a machine that has no copies."""
    return Registry.open(replace(settings, cache=str(tmp_path / name)))


# whole or not at all


def test_bundle_is_registered_here_and_loaded_on_another_machine(registry, settings, server, bundles, tmp_path):
    version, is_new = registry.register(bundles[0])
    assert is_new
    assert version.location == f"bundles/toy/{bundles[0].digest}"
    assert set(server.names(settings.artifacts)) == {f"{version.location}/{p.name}" for p in bundles[0].path.iterdir()}
    other = elsewhere(settings, tmp_path)
    predictor = other.load("toy", 1)
    assert predictor.predict_rows([1, 0]).prediction.tolist() == [1]
    assert predictor.bundle.path == tmp_path / "elsewhere/bundles/toy" / version.digest
    assert registry.register(bundles[0]) == (version, False)
    other.close()


UPLOAD = """
import sys
from mlops_nb.model.bundle import read_manifest
from mlops_nb.store.registry import Registry
print(Registry.open().register(read_manifest(sys.argv[1]))[0].version)
"""
SHARE = """
import sys
from pathlib import Path
from mlops_nb.store.artifacts import open_artifacts
open_artifacts().upload_snapshot(Path(sys.argv[1]))
"""


class Stalling(Relay):
    """A way to S3 on which the upload with this number, counted from 0, stops in the middle."""

    def __init__(self, target: int, number: int):
        self._left, self.stalled = number, threading.Event()
        super().__init__(target)

    def _copy(self, source, target):
        if source.getsockname()[1] == self.port:
            source = _Counted(source, self)
        super()._copy(source, target)


class _Counted:
    def __init__(self, source, relay):
        self._source, self._relay = source, relay

    def recv(self, size):
        content = self._source.recv(size)
        if content.startswith(b"PUT "):
            self._relay._left -= 1
        if self._relay._left < 0:
            self._relay.stalled.set()
            return b"" if not content else content[: len(content) // 2] if self._source.recv(1) else b""
        return content

    def __getattr__(self, name):
        return getattr(self._source, name)


def kill_in_the_middle(settings, server, script: str, argument: Path, done: int):
    """Have a process upload, and kill it in the middle of the file after `done` others."""
    way = Stalling(server.port, done)
    process = start(settings, way.port, server, script, argument)
    try:
        assert way.stalled.wait(60), process.communicate(timeout=10)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        way.close()


def start(settings, port: int, server, script: str, argument: Path) -> subprocess.Popen:
    own = {"MLOPS_HOME": str(settings.home), "MLOPS_ARTIFACTS": settings.artifacts}
    command = [sys.executable, "-c", script, str(argument)]
    return subprocess.Popen(
        command, cwd=ROOT, env=server.environment(port) | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("done", [0, 3, 5], ids=lambda n: f"{n} of 6 files")
def test_upload_that_was_killed_leaves_nothing_that_is_believed_and_the_next_completes_it(
    registry, settings, server, bundles, done
):
    kill_in_the_middle(settings, server, UPLOAD, bundles[0].path, done=done)
    location = registry.artifacts.location(bundles[0], 1)
    there = server.names(settings.artifacts)
    assert len(there) == done
    assert f"{location}/manifest.json" not in there
    assert registry.names() == []
    assert not registry.artifacts.exists(location)
    with pytest.raises(BundleError, match=r"no bundle at bundles/toy/\w+ in the artifact store: it has no manifest"):
        registry.artifacts.fetch(location, bundles[0].digest)
    assert registry.register(bundles[0])[0].version == 1
    registry.load("toy", 1).close()


def test_snapshot_whose_upload_was_killed_is_not_there(registry, settings, server, tmp_path):
    kept = snapshot(pd.DataFrame({"x": range(100_000)}), tmp_path)
    kill_in_the_middle(settings, server, SHARE, kept.path, done=0)
    assert server.names(settings.artifacts) == []
    with pytest.raises(DataError, match="The data is gone"):
        registry.artifacts.snapshot(kept.sha256)
    registry.artifacts.upload_snapshot(kept.path)
    assert registry.artifacts.snapshot(kept.sha256).read_bytes() == kept.path.read_bytes()


def test_processes_that_upload_the_same_at_once_agree(registry, settings, server, bundles, tmp_path):
    processes = [start(settings, server.port, server, UPLOAD, bundles[0].path) for _ in range(3)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in outputs] == ["1"] * 3, outputs
    assert len(server.names(settings.artifacts)) == 6
    other = elsewhere(settings, tmp_path)
    other.load("toy", 1).close()
    other.close()


def test_registration_without_a_store_leaves_no_version(registry, relay, bundles):
    relay.cut()
    with pytest.raises(ArtifactError, match="cannot be reached"):
        registry.register(bundles[0])
    assert registry.names() == []


# never believed unproven


@pytest.mark.parametrize("name", ["model.skops", "manifest.json", "golden.json"])
@pytest.mark.parametrize("how", ["changed", "cut", "deleted", "joined by another"])
def test_copy_that_was_damaged_is_fetched_again(registry, bundles, name, how):
    version, _ = registry.register(bundles[0])
    registry.fetch(version)
    file = version.path / name
    if how == "deleted":
        file.unlink()
    elif how == "joined by another":
        (version.path / f"{name}.more").touch()
    else:
        file.write_bytes(file.read_bytes()[:-1] if how == "cut" else b"x" + file.read_bytes()[1:])
    registry.load("toy", 1).close()
    assert is_intact(version.path, version.digest)


def test_damaged_copy_is_not_believed_when_the_store_is_away(registry, relay, bundles):
    version, _ = registry.register(bundles[0])
    (registry.fetch(version) / "model.onnx").write_bytes(b"")
    relay.cut()
    with pytest.raises(ArtifactError, match="cannot be reached"):
        registry.load("toy", 1)


def put(settings, name: str, content: bytes):
    """Overwrite a file in the store."""
    with NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        Files(settings.artifacts).put(Path(file.name), name)


@pytest.mark.parametrize("name", ["model.skops", "golden.json", "manifest.json"])
def test_what_was_changed_in_the_store_is_refused(registry, settings, bundles, tmp_path, name):
    version, _ = registry.register(bundles[0])
    content = (bundles[0].path / name).read_bytes()
    put(settings, f"{version.location}/{name}", content.replace(b"1", b"2"))
    with pytest.raises(BundleError, match=rf"{name} of toy (was changed|is not the one)"):
        elsewhere(settings, tmp_path).load("toy", 1)
    assert [p for p in (tmp_path / "elsewhere").rglob("*") if p.is_file()] == []
    assert registry.register(bundles[0]) == (version, False)
    elsewhere(settings, tmp_path).load("toy", 1).close()  # registering it again mended it


def test_manifest_that_was_replaced_names_no_file_that_is_fetched(registry, settings, bundles, tmp_path):
    version, _ = registry.register(bundles[0])
    manifest = (bundles[0].path / "manifest.json").read_text()
    put(settings, f"{version.location}/x", b"evil")
    hostile = manifest.replace('"golden.json"', '"../../../x"').encode()
    put(settings, f"{version.location}/manifest.json", hostile)
    with pytest.raises(BundleError, match="not the one that was registered"):
        elsewhere(settings, tmp_path).fetch(version)
    assert not list(tmp_path.rglob("x"))


def test_snapshot_is_verified_by_its_name(registry, settings, tmp_path):
    store = registry.artifacts
    kept = snapshot(pd.DataFrame({"x": [1, 2]}), store.snapshots)
    store.upload_snapshot(kept.path)
    kept.path.write_bytes(b"damaged")
    assert pd.read_parquet(store.snapshot(kept.sha256)).shape == (2, 1)
    kept.path.write_bytes(b"damaged")
    again = snapshot(pd.DataFrame({"x": [1, 2]}), store.snapshots)
    assert pd.read_parquet(again.path).shape == (2, 1), "what is shared is what was read"
    put(settings, f"data/{kept.path.name}", b"damaged")
    with pytest.raises(DataError, match="The data was changed"):
        RemoteStore(settings.artifacts, tmp_path / "elsewhere").snapshot(kept.sha256)


def test_many_that_fetch_the_same_at_once_have_one_whole_copy(registry, settings, bundles, tmp_path):
    version, _ = registry.register(bundles[0])
    stores = [RemoteStore(settings.artifacts, tmp_path / "elsewhere") for _ in range(6)]
    places = at_once(*(lambda s=s: s.fetch(version.location, version.digest) for s in stores))
    assert len(set(places)) == 1, places
    assert is_intact(places[0], version.digest), places
    for _ in range(10):
        (places[0] / "golden.json").write_text("{}")
        assert at_once(*(lambda s=s: s.fetch(version.location, version.digest) for s in stores)) == places
        assert is_intact(places[0], version.digest)
    left = [p.name for p in places[0].parent.iterdir() if p.name.endswith((".old", ".partial"))]
    assert left == []


def test_copies_that_nobody_asked_for_are_removed_but_never_those_that_are_served(bundles, tmp_path):
    cache, other = BundleCache(tmp_path), package(tmp_path / "other", 1.0)
    for bundle in bundles:
        cache.fill("toy", bundle.digest, lambda to, b=bundle: shutil.copytree(b.path, to, dirs_exist_ok=True))
        os.utime(cache.local_path("toy", bundle.digest), (0, 0))
    cache.mark("toy", 2, bundles[1].digest)
    cache.fill("toy", other.digest, lambda to: shutil.copytree(other.path, to, dirs_exist_ok=True))
    assert [cache.local_path("toy", b.digest).exists() for b in (*bundles, other)] == [False, True, True]
    assert cache.served("toy") == [(2, bundles[1].digest)]


# messages


@pytest.fixture
def closed(server):
    """S3 asks who it is."""
    server.ask("POST", "/moto-api/reset-auth", b"0")
    yield
    server.ask("POST", "/moto-api/reset-auth", b"inf")


def message_of(store) -> str:
    with pytest.raises(ArtifactError) as caught:
        store.try_out()
    assert KEY not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_bucket_that_does_not_exist(settings, tmp_path):
    store = RemoteStore("s3://nobody-made-it/x", tmp_path)
    assert message_of(store).startswith("The bucket or container that MLOPS_ARTIFACTS names does not exist.")
    with pytest.raises(ArtifactError, match="does not exist"):
        store.fetch("bundles/toy/1", "0" * 64)


def test_access_that_is_denied(registry, settings, closed):
    message = message_of(registry.artifacts)
    assert message.startswith("The artifact store does not let us in (PermissionError: InvalidAccessKeyId).")
    assert "AWS_ACCESS_KEY_ID" in message


def test_credentials_that_are_nowhere(registry, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert message_of(registry.artifacts).startswith("The artifact store does not let us in (NoCredentialsError).")


def test_network_that_is_away(registry, relay):
    relay.cut()
    assert message_of(registry.artifacts).startswith("The artifact store cannot be reached (")


def test_package_that_is_missing(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for protocol in ("s3", "s3a"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    assert "pip install 'mlops-nb[s3]'" in message_of(registry.artifacts)


@pytest.mark.parametrize(
    "url", ["s3://AKIA:hunter22@bucket/x", "s3://AKIA:hun/ter22@bucket", "s3://b/x?token=hunter22", "a::s3://hunter22"]
)
def test_url_with_a_secret_is_refused_without_showing_it(tmp_path, url):
    with pytest.raises(SettingsError, match="must be a plain URL") as caught:
        Registry.open(Settings.read({"MLOPS_HOME": str(tmp_path), "MLOPS_ARTIFACTS": url}))
    assert "hunter22" not in str(caught.value)
    assert "ter22" not in str(caught.value)


def test_doctor_tries_the_store(settings, relay, server):
    finding = doctor.check_artifacts(settings)
    assert (finding.ok, finding.message) == (True, f"{settings.artifacts} can be written and read")
    assert server.names(settings.artifacts) == []
    relay.cut()
    assert doctor.check_artifacts(settings).ok is False


# the service


def served(settings):
    app = create_app(settings)
    live_model(app).start()
    return live_model(app), app.test_client()


def test_version_that_is_promoted_while_the_store_is_away_is_refused_until_it_is_back(
    registry, settings, relay, bundles, monkeypatch
):
    monkeypatch.setattr("mlops_nb.serving.inference.loading.FETCH_RETRY_SECONDS", 0.2)
    registry.register(bundles[0])
    registry.promote("toy", 1)
    live, client = served(settings)
    assert live.predictor.version == 1
    registry.register(bundles[1])
    relay.cut()
    with pytest.raises(ArtifactError, match="cannot be reached"):
        registry.promote("toy", 2)
    with unverified():
        registry.promote("toy", 2)
    wait_for(lambda: live.state.refused)
    response = client.get("/health/ready").get_json()
    assert (response["ready"], response["version"], response["production"]) == (True, 1, 2)
    assert response["refused"][0]["reason"].startswith("The artifact store cannot be reached")
    assert client.post("/predict", json={"features": [[1, 0]]}).get_json()["version"] == 1
    relay.up = True
    wait_for(lambda: live.predictor.version == 2, 60)
    assert not live.state.refused
    live.stop()


def test_copy_that_a_running_service_loses_is_fetched_again(registry, settings, bundles):
    version, _ = registry.register(bundles[0])
    registry.promote("toy", 1)
    live, _ = served(settings)
    predictor = live.predictor
    (version.path / "model.onnx").write_bytes(b"")
    wait_for(lambda: is_intact(version.path, version.digest))
    assert live.predictor is predictor
    assert not live.state.refused
    live.stop()


def test_canary_that_was_fetched_last_is_not_what_is_served_when_all_is_away(
    registry, settings, relay, bundles, monkeypatch
):
    for bundle in bundles:
        registry.register(bundle)
    registry.promote("toy", 1)
    registry.promote("toy", 2, alias="canary")
    live, _ = served(settings)
    assert live.state.roles == {"production": 1, "canary": 2}
    live.stop()
    relay.cut()
    monkeypatch.setattr(Registry, "open", lambda *_: (_ for _ in ()).throw(OSError("away")))
    live, client = served(settings)
    response = client.get("/health/ready").get_json()
    assert (response["version"], response["from_cache"]) == (1, True)
    live.stop()


def test_service_starts_from_its_cache_while_s3_is_away(settings, registry, server, bundles, relay, tmp_path):
    registry.register(bundles[0])
    registry.promote("toy", 1)
    more = {"MLOPS_ARTIFACTS": settings.artifacts, "MLOPS_CACHE": str(tmp_path / "cache")}
    service = Service(settings, tmp_path / "log", **more)
    assert service.versions() == {1}
    service.stop()
    relay.cut()
    service = Service(settings, tmp_path / "again", **more)
    try:
        assert service.versions() == {1}
        ready = service.get("/health/ready")[1]
        assert (ready["production"], ready["from_cache"], ready["refused"]) == (1, False, []), "the registry knows it"
    finally:
        log = service.stop()
    assert KEY not in log
    assert SECRET not in log


def test_predictor_of_a_copy_is_the_one_that_was_packaged(registry, bundles):
    version, _ = registry.register(bundles[0])
    ours, theirs = Predictor.load(bundles[0].path), registry.load("toy", 1)
    golden = [[0.3, -1.0], [2.0, 1.5]]
    assert ours.predict_rows(golden).probability.tolist() == theirs.predict_rows(golden).probability.tolist()
    assert read_manifest(version.path).identity == version.identity
