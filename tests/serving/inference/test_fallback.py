"""The last good bundle on this disk is served when the registry is away, and only then."""

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from mlops_nb.model.bundle import check_hashes, read_manifest
from mlops_nb.serving.inference.fallback import BundleFallback
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import Service, package, wait_for


@pytest.fixture
def cached(settings, registry):
    """Settings of a service that ran before, with version 1 in production."""
    settings = replace(settings, cache=str(settings.home / "cache"))
    run(settings)
    return settings


@pytest.fixture
def away(monkeypatch):
    """Until `away()`, the database does not answer."""
    monkeypatch.setattr(Registry, "open", _refuse)
    return monkeypatch.undo


def _refuse(*_):
    raise OperationalError("SELECT", {}, Exception("secret-host is down"))


def run(settings, *moves):
    """Start and stop a service, with moves of aliases in between."""
    app = create_app(settings)
    live_model(app).refresh()
    for move in moves:
        move()
        live_model(app).refresh()
    live_model(app).stop()


def started(settings):
    app = create_app(settings)
    live_model(app).start()
    return live_model(app), app.test_client()


def kept(settings) -> list[int]:
    """The versions in the cache."""
    return sorted(cached.version for cached in BundleFallback(settings, "toy").versions())


def place_of(settings, version: int) -> Path:
    """Where the copy of a version lies."""
    return next(cached.path for cached in BundleFallback(settings, "toy").versions() if cached.version == version)


@pytest.mark.slow
def test_last_good_bundle_is_served_while_the_database_is_away_and_left_when_it_answers(cached, registry, away):
    live, client = started(cached)
    body = client.get("/health/ready").get_json()
    assert (body["ready"], body["version"], body["from_cache"], body["production"]) == (True, 1, True, None)
    assert body["problem"] == "The registry cannot be asked: OperationalError."
    assert client.post("/predict", json={"features": [[1, 0]]}).get_json()["version"] == 1
    predictor = live.predictor
    away()
    wait_for(lambda: not live.state.from_cache)
    body = client.get("/health/ready").get_json()
    assert (body["version"], body["production"], body["problem"]) == (1, 1, None)
    assert live.predictor is predictor, "it was the same: nothing had to be loaded again"
    live.stop()


@pytest.mark.slow
def test_quick_model_is_quick_from_the_cache_and_when_the_registry_confirms_it(cached, away):
    live, _ = started(cached)
    assert live.state.from_cache
    assert live.state.runs_inline
    away()
    wait_for(lambda: not live.state.from_cache)
    assert live.state.runs_inline
    live.stop()


@pytest.mark.slow
def test_version_that_went_to_production_meanwhile_replaces_the_cached_one(cached, registry, away):
    registry.promote("toy", 2)
    live, _ = started(cached)
    assert (live.predictor.version, live.state.from_cache) == (1, True)
    away()
    wait_for(lambda: live.predictor.version == 2)
    assert not live.state.from_cache
    wait_for(lambda: kept(cached) == [1, 2])
    live.stop()


def test_bundle_that_is_away_is_served_from_the_cache_and_watched(cached, registry):
    path = registry.get("toy", 1).path
    path.rename(path.with_suffix(".away"))
    live, client = started(cached)
    body = client.get("/health/ready").get_json()
    assert (body["ready"], body["version"], body["from_cache"], body["production"]) == (True, 1, True, 1)
    assert body["refused"] == [{"version": 1, "reason": "There is no bundle at 1: it has no manifest.json."}]
    path.with_suffix(".away").rename(path)
    wait_for(lambda: not live.state.from_cache)
    assert not live.state.refused
    live.stop()


@pytest.mark.slow
def test_registry_that_hangs_is_not_waited_for(cached, monkeypatch):
    goes_on = threading.Event()
    monkeypatch.setattr(Registry, "open", lambda settings: goes_on.wait(60) and _refuse())
    app = create_app(cached)
    live_model(app).start(timeout_seconds=0.5)
    body = app.test_client().get("/health/ready").get_json()
    assert (body["version"], body["from_cache"], body["problem"]) == (1, True, "The first load is not over yet.")
    goes_on.set()
    live_model(app).stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "golden.json"])
def test_tampered_cache_is_refused(cached, registry, away, name):
    place = place_of(cached, 1)
    (place / name).write_text((place / name).read_text(errors="replace") + " ")
    live, client = started(cached)
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert name in answer.get_json()["refused"][0]["reason"]
    away()
    wait_for(lambda: client.get("/health/ready").status_code == 200)
    assert not live.state.from_cache
    assert not live.state.refused
    live.stop()
    run(cached)
    check_hashes(read_manifest(place), place.name)  # it was written anew


@pytest.mark.slow
def test_of_two_in_the_cache_the_one_that_served_last_comes_first_and_the_other_if_it_is_broken(
    cached, registry, monkeypatch
):
    run(cached, lambda: registry.promote("toy", 2), lambda: registry.rollback("toy"))
    monkeypatch.setattr(Registry, "open", _refuse)
    live, _ = started(cached)
    assert (live.predictor.version, live.state.from_cache) == (1, True)
    live.stop()
    (place_of(cached, 1) / "model.onnx").write_bytes(b"")
    live, _ = started(cached)
    assert (live.predictor.version, list(live.state.refused)) == (2, [1])
    live.stop()


@pytest.mark.slow
def test_last_two_are_kept_and_what_nobody_asked_for_in_a_day_or_a_killed_worker_left_is_removed(
    cached, registry, settings
):
    registry.register(package(settings.home / "bundle", 1.0))
    partial = place_of(cached, 1).with_name(".abc.partial")
    partial.mkdir()
    os.utime(partial, (0, 0))
    run(cached, lambda: registry.promote("toy", 2))
    for version in (1, 2):
        os.utime(place_of(cached, version), (0, 0))
    run(cached, lambda: registry.promote("toy", 3))
    assert kept(cached) == [2, 3]
    assert not partial.exists()


@pytest.mark.slow
def test_store_that_was_made_anew_does_not_know_the_cached_bundle(cached, settings):
    shutil.rmtree(settings.home / "store")
    live, client = started(cached)
    answer = client.get("/health/ready")
    assert (answer.status_code, live.state.from_cache) == (503, False)
    assert "Run `ploomber build`" in answer.get_json()["error"]
    live.stop()


def test_cache_that_cannot_be_written_disturbs_nobody(settings, registry, capfd):
    (settings.home / "cache").write_text("not a folder")
    settings = replace(settings, cache=str(settings.home / "cache"))
    live, client = started(settings)
    assert client.get("/health/ready").get_json()["version"] == 1
    live.stop()
    assert "toy version 1 cannot be kept in MLOPS_CACHE: NotADirectoryError." in capfd.readouterr().err


def test_cache_is_on_with_postgresql_or_a_url_and_off_with_sqlite_unless_it_is_said(tmp_path):
    def cache(**more):
        return Settings.read({"MLOPS_HOME": str(tmp_path), **more}).cache

    postgres = {"MLOPS_DATABASE_URL": "postgresql+psycopg://db/mlops"}
    assert cache() == "off"
    assert cache(**postgres) == str(tmp_path / "store" / "cache")
    assert cache(**postgres, MLOPS_CACHE="off") == "off"
    assert cache(MLOPS_CACHE="elsewhere") == "elsewhere"
    assert cache(MLOPS_ARTIFACTS="s3://bucket") == str(tmp_path / "store" / "cache")


@pytest.mark.slow
def test_service_whose_database_and_bundles_are_away_starts_with_what_it_served_last(settings, registry, tmp_path):
    cache = {"MLOPS_CACHE": str(tmp_path / "cache")}
    registry.promote("toy", 2)
    service = Service(settings, tmp_path / "log", **cache)
    wait_for(lambda: list((tmp_path / "cache/bundles/toy").glob("2-*.served")))
    service.stop()
    gone = {"MLOPS_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none", "MLOPS_ARTIFACTS": "/nowhere"}
    service = Service(settings, tmp_path / "again", **cache, **gone)
    try:
        assert service.versions() == {2}
        body = service.get("/health/ready")[1]
        assert (body["from_cache"], body["problem"]) == (True, "The registry cannot be asked: OperationalError.")
    finally:
        service.stop()
