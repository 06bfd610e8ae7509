"""Versions and aliases, on both databases: what must hold when several people act at once."""

import hashlib
import itertools
import json
import re
import shutil
import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from mlops_nb.errors import BundleError, GateError, NotFoundError, RegistryError, SettingsError, SpecError
from mlops_nb.model.bundle import read_manifest
from mlops_nb.model.evaluate import Evaluation
from mlops_nb.model.gates import GateResult
from mlops_nb.store.database import open_database, reading, revision, writing
from mlops_nb.store.registry import Registry, promote_if_passed
from tests.factories import NUMBERS, package


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Four bundles of one model."""
    folder = tmp_path_factory.mktemp("bundles")
    return [package(folder / str(i), C) for i, C in enumerate((0.01, 0.1, 1.0, 10.0))]


@pytest.fixture
def registry(database_url, tmp_path):
    registry = Registry(open_database(database_url), tmp_path / "artifacts")
    yield registry
    registry.close()


@pytest.fixture
def filled(registry, bundles):
    for bundle in bundles[:3]:
        registry.register(bundle)
    return registry


def at_once(*actions):
    """Run all at the same moment; answer with what each returned or raised."""
    results, barrier = [None] * len(actions), threading.Barrier(len(actions))

    def run(i):
        barrier.wait()
        try:
            results[i] = actions[i]()
        except Exception as e:
            results[i] = e

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def opened(database_url, tmp_path):
    return Registry(open_database(database_url), tmp_path / "artifacts")


@pytest.mark.slow
def test_promotions_at_the_same_time_leave_one_winner_and_a_true_history(filled, database_url, tmp_path):
    others = [opened(database_url, tmp_path) for _ in range(6)]
    moves = at_once(
        *(lambda r=r, v=v: r.promote("toy", v, actor=f"p{v}") for r, v in zip(others, [1, 2, 3] * 2, strict=True))
    )
    assert not [m for m in moves if isinstance(m, Exception)]
    history = filled.history("toy", "production")
    assert history[0].from_version is None
    assert all(a.to_version == b.from_version for a, b in itertools.pairwise(history)), "an unbroken chain"
    assert filled.version_of("toy") == history[-1].to_version
    for other in others:
        other.close()


@pytest.mark.slow
def test_of_two_promotions_that_expect_the_same_champion_one_wins(filled, database_url, tmp_path):
    filled.promote("toy", 1)
    others = [opened(database_url, tmp_path) for _ in range(2)]
    results = at_once(*(lambda r=r, v=v: r.promote("toy", v, expected=1) for r, v in zip(others, (2, 3), strict=True)))
    assert sorted(type(r).__name__ for r in results) == ["AliasChange", "ConflictError"]
    for other in others:
        other.close()


@pytest.mark.slow
def test_registrations_at_the_same_time_get_different_versions(registry, bundles, database_url, tmp_path):
    others = [opened(database_url, tmp_path) for _ in bundles]
    results = at_once(*(lambda r=r, b=b: r.register(b)[0].version for r, b in zip(others, bundles, strict=True)))
    assert sorted(results) == [1, 2, 3, 4]
    for version in registry.versions("toy"):
        assert read_manifest(version.path).identity == version.identity
    for other in others:
        other.close()


def test_the_same_model_registered_by_two_at_once_is_one_version(registry, bundles, database_url, tmp_path):
    others = [opened(database_url, tmp_path) for _ in range(3)]
    results = at_once(*(lambda r=r: r.register(bundles[0]) for r in others))
    assert sorted(new for _, new in results) == [False, False, True]
    assert [v.version for v in registry.versions("toy")] == [1]
    for other in others:
        other.close()


@pytest.mark.slow
def test_several_processes_may_open_an_empty_database_at_once(database_url, tmp_path):
    results = at_once(*(lambda: opened(database_url, tmp_path) for _ in range(12)))
    assert all(isinstance(r, Registry) for r in results), results
    for registry in results:
        assert registry.names() == []
        registry.close()


def test_failed_registration_leaves_nothing_half_written(registry, bundles, tmp_path, monkeypatch):
    import mlops_nb.store.artifacts as module

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(module, "publish_directory", full)
    with pytest.raises(OSError, match="No space left"):
        registry.register(bundles[0])
    monkeypatch.undo()
    assert registry.versions("toy") == []
    assert [p for p in (tmp_path / "artifacts").rglob("*") if p.is_file()] == []
    assert registry.register(bundles[0])[0].version == 1


def test_orphan_of_a_crash_gives_way_to_the_next_registration(registry, bundles, tmp_path):
    orphan = tmp_path / "artifacts/bundles/toy/1"
    orphan.mkdir(parents=True)
    (orphan / "garbage").touch()
    version, _ = registry.register(bundles[0])
    assert version.version == 1
    assert not (orphan / "garbage").exists()


@pytest.mark.parametrize("how", ["deleted", "changed"])
def test_model_whose_registered_bundle_is_lost_or_changed_gets_a_new_version(registry, bundles, how):
    first, _ = registry.register(bundles[0])
    if how == "deleted":
        shutil.rmtree(first.path)
    else:
        (first.path / "model.skops").write_bytes(b"")
    second, is_new = registry.register(bundles[0])
    assert (second.version, is_new) == (2, True)
    assert registry.register(bundles[0])[0].version == 2


def test_bundle_that_was_changed_is_not_registered(registry, bundles, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundles[0].path, copy)
    (copy / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.onnx of toy was changed"):
        registry.register(read_manifest(copy))
    assert registry.names() == []


@pytest.mark.parametrize("name", ["../../etc", "..", "a/b", "A", "", "a b", "x" * 64, "a.b", "a\x00b"])
def test_names_that_could_leave_the_store_are_refused(registry, bundles, tmp_path, name):
    from dataclasses import replace

    with pytest.raises(SpecError, match="is not a name for a model"):
        registry.register(replace(bundles[0], manifest=bundles[0].manifest | {"name": name}))
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["../../etc", "latest", "-1", "1.0", "", 99, 0, -1, True])
def test_versions_that_are_not_there_are_refused(filled, version):
    with pytest.raises(NotFoundError, match=r"has no version|neither a version number nor an alias"):
        filled.promote("toy", version)
    assert filled.version_of("toy") is None


@pytest.mark.slow
def test_rollback_undoes_promotions_one_after_the_other(filled):
    for version in (1, 2, 3):
        filled.promote("toy", version)
    assert [filled.rollback("toy").to_version for _ in range(2)] == [2, 1]
    with pytest.raises(RegistryError, match="no earlier version to go back to"):
        filled.rollback("toy")
    filled.promote("toy", 3)
    assert filled.rollback("toy").to_version == 1


def test_rollback_before_any_promotion_says_so(filled):
    with pytest.raises(RegistryError, match="is at no version, and there is no earlier version"):
        filled.rollback("toy")
    with pytest.raises(NotFoundError, match=r"No model 'tyo' is registered\. Did you mean 'toy'"):
        filled.rollback("tyo")


def test_promoting_what_is_there_already_writes_no_history(filled):
    first = filled.promote("toy", 1, reason="first")
    assert filled.promote("toy", 1, reason="again").id == first.id
    assert len(filled.history("toy")) == 1


def test_history_says_who_when_from_to_and_why(filled):
    filled.promote("toy", 1, actor="ada", reason="it is better")
    filled.promote("toy", "1", alias="canary", actor="bob")
    move = filled.history("toy", "production")[0]
    assert (move.actor, move.reason, move.from_version, move.to_version) == ("ada", "it is better", None, 1)
    assert move.at.tzinfo is not None
    assert filled.get("toy", "canary").aliases == ("canary", "production")


def evaluation(passed: bool, champion: int | None) -> Evaluation:
    gate = GateResult("minimum", "accuracy", 0.9, 0.8 if passed else 0.95, passed)
    return Evaluation({"accuracy": 0.9}, {}, None, champion, {}, [gate])


def test_promotion_by_gates_that_are_inconclusive_says_so(filled):
    unknown = GateResult("slice", "recall", 0.5, 0.6, True, "old", 0.2, 0.8, True, "of 12 rows")
    found = replace(evaluation(True, champion=None), gates=[GateResult("minimum", "accuracy", 0.9, 0.8, True), unknown])
    decision = promote_if_passed(filled, filled.get("toy", 1), found, compared=False)
    assert decision.reason == "in production, all 2 gates passed, 1 of them inconclusive"


def test_build_does_not_overrule_somebody_who_promoted_meanwhile(filled):
    filled.promote("toy", 1)
    filled.promote("toy", 2, actor="ada")
    decision = promote_if_passed(filled, filled.get("toy", 3), evaluation(True, champion=1))
    assert not decision.promoted
    assert "compared with version 1, production is at version 2 now" in decision.reason
    assert filled.version_of("toy") == 2


def test_of_several_that_clear_an_alias_one_does(filled, database_url, tmp_path):
    filled.promote("toy", 2, alias="canary")
    others = [opened(database_url, tmp_path) for _ in range(3)]
    change = {"reason": "slow", "actor": "service", "expected": 2}
    results = at_once(*(lambda r=r: r.clear("toy", "canary", **change) for r in others))
    assert sorted(type(r).__name__ for r in results) == ["AliasChange", "ConflictError", "ConflictError"]
    last = filled.history("toy", "canary")[-1]
    assert (last.action, last.from_version, last.to_version, last.actor) == ("clear", 2, None, "service")
    for other in others:
        other.close()


def test_cleared_alias_is_brought_back_by_a_rollback_and_what_came_after_it_has_nowhere_to_go(filled):
    filled.promote("toy", 2, alias="canary")
    filled.clear("toy", "canary")
    assert filled.rollback("toy", "canary").to_version == 2
    filled.clear("toy", "canary")
    filled.promote("toy", 3, alias="canary")
    with pytest.raises(RegistryError, match="is at version 3, and there is no earlier version to go back to"):
        filled.rollback("toy", "canary")
    assert filled.aliases("toy") == {"canary": 3}


UNLIKE = {
    "labels": (replace(NUMBERS, classes=("left", "right")), 'the labels are "left", "right", not 0, 1'),
    "types of labels": (replace(NUMBERS, classes=(False, True)), "the labels are false, true, not 0, 1"),
    "target": (replace(NUMBERS, output="way"), "it predicts 'way', not 'side'"),
    "task": (replace(NUMBERS, task="regression", classes=None), "the task is regression, not classification"),
    "columns": (replace(NUMBERS, inputs=NUMBERS.inputs[::-1]), "rows that are lists would be read as 'b', 'a'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("alias", ["canary", "shadow"])
@pytest.mark.parametrize("kind", UNLIKE)
def test_version_unlike_production_is_neither_canary_nor_shadow(filled, bundles, kind, alias):
    signature, reason = UNLIKE[kind]
    # the manifest in the database is what counts, so it may differ from the file here
    changed = {"signature": signature.to_dict(), "params": {"of": kind}}
    version, _ = filled.register(replace(bundles[3], manifest=bundles[3].manifest | changed))
    filled.promote("toy", version.version, alias=alias)  # nothing is in production yet
    filled.clear("toy", alias)
    filled.promote("toy", 1)
    for move in (
        lambda: filled.promote("toy", version.version, alias, force=True),
        lambda: filled.rollback("toy", alias),
    ):
        with pytest.raises(RegistryError, match=f"cannot be the {alias} of version 1: {re.escape(reason)}"):
            move()
    assert filled.aliases("toy") == {"production": 1}


@pytest.mark.slow
def test_history_says_what_clients_see_change(filled, bundles):
    signature = UNLIKE["labels"][0].to_dict()
    other, _ = filled.register(replace(bundles[3], manifest=bundles[3].manifest | {"signature": signature}))
    filled.promote("toy", 1, reason="first")
    changed = filled.promote("toy", other.version, reason="clients know").reason
    assert changed == 'clients know; WARNING, clients see a change: the labels are "left", "right", not 0, 1'
    assert filled.rollback("toy").reason.startswith("WARNING, clients see a change: the labels are 0, 1")
    assert filled.promote("toy", 2, reason="alike").reason == "alike"


def test_version_that_failed_its_gates_needs_force(registry, bundles):
    from dataclasses import replace

    failed = bundles[0].manifest["evaluation"] | {"passed": False}
    # the manifest in the database is what counts, so it may differ from the file here
    bundle = replace(bundles[0], manifest=bundles[0].manifest | {"evaluation": failed})
    version, _ = registry.register(bundle)
    with pytest.raises(GateError, match="did not pass its gates"):
        registry.promote("toy", version.version)
    assert registry.promote("toy", version.version, alias="staging").to_version == 1
    assert registry.promote("toy", version.version, force=True).to_version == 1


def test_database_that_a_newer_release_migrated_is_used_as_it_is(database_url, bundles, tmp_path):
    """A rolling upgrade, or one that was taken back: the migration of the newer release stays."""
    engine = open_database(database_url)
    with writing(engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(sa.text("ALTER TABLE versions ADD COLUMN reviewed_by VARCHAR(63)"))
        connection.execute(sa.text("CREATE TABLE reviews (id INTEGER PRIMARY KEY)"))
    engine.dispose()
    registry = Registry(open_database(database_url), tmp_path / "artifacts")
    registry.register(bundles[0])
    assert registry.promote("toy", 1).to_version == 1
    assert registry.load("toy").version == 1
    with reading(registry.engine) as connection:
        assert revision(connection) == "9999"
    registry.close()


@pytest.mark.parametrize("url", ["mysql://u:hunter22@h/x", "nonsense hunter22", "oracle://u:hunter22@h"])
def test_database_url_that_cannot_be_meant_is_refused_without_showing_it(url):
    with pytest.raises(SettingsError, match="MLOPS_DATABASE_URL") as caught:
        open_database(url)
    assert "hunter22" not in str(caught.value)


def damage(registry, version: int, how: str):
    """Delete or change the stored bundle of a version."""
    folder = registry.fetch(registry.get("toy", version))
    if how == "deleted":
        shutil.rmtree(folder)
        return
    path = folder / {"model": "model.skops", "golden rows": "golden.json", "manifest": "manifest.json"}[how]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["deleted", "model", "golden rows", "manifest"])
@pytest.mark.parametrize("alias", ["production", "canary", "staging"])
def test_no_alias_moves_to_a_version_that_cannot_be_served(filled, how, alias):
    filled.promote("toy", 1, alias)
    filled.promote("toy", 2, alias)
    damage(filled, 1, how)
    damage(filled, 3, how)
    before = filled.history("toy")
    for force in (False, True):
        with pytest.raises(BundleError, match="Version 3 of 'toy' cannot be served: "):
            filled.promote("toy", 3, alias, force=force)
    with pytest.raises(BundleError, match=r"Version 1 of 'toy' cannot be .* No earlier version can be"):
        filled.rollback("toy", alias)
    assert filled.history("toy") == before


@pytest.mark.slow
def test_rollback_names_the_nearest_version_that_can_be_served_and_takes_it_if_told_to(registry, bundles):
    for bundle in bundles:
        registry.register(bundle)
    for version in (1, 2, 3, 4):
        registry.promote("toy", version)
    damage(registry, 3, "deleted")
    with pytest.raises(BundleError, match=r"Version 3 .* earlier version that can be served is 2: --nearest"):
        registry.rollback("toy")
    assert registry.version_of("toy") == 4
    change = registry.rollback("toy", nearest=True)
    assert (change.action, change.from_version, change.to_version) == ("rollback", 4, 2)
    assert registry.rollback("toy").to_version == 1, "what was skipped is undone, too"


@pytest.mark.slow
def test_bundle_that_a_service_would_refuse_is_not_registered(registry, tmp_path):
    bundle = package(tmp_path / "bundle", 0.1)
    golden = json.loads((bundle.path / "golden.json").read_text())
    golden["prediction"] = [1 - label for label in golden["prediction"]]
    (bundle.path / "golden.json").write_text(json.dumps(golden))
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["files"]["golden.json"] = hashlib.sha256((bundle.path / "golden.json").read_bytes()).hexdigest()
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="golden rows"):
        registry.register(read_manifest(bundle.path))
    assert registry.names() == []
