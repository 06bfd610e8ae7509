"""Versions and runs on the command line."""

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlops_nb.cli.main import main
from mlops_nb.settings import Settings
from mlops_nb.store.git import GitState
from mlops_nb.store.registry import Registry
from mlops_nb.store.runs import RunStore
from tests.factories import SIGNATURE, make_home, package


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Two versions of a model, the first in production, and a run of each of two seeds."""
    settings = make_home(tmp_path)
    store = RunStore(Path(settings.runs))
    for seed in (0, 1):
        run = store.new()
        run.start("toy", GitState(None, None, False, "", ()), params={"seed": seed})
        run.finish(metrics={"accuracy": 0.9})
    return settings


@pytest.fixture
def run(settings, monkeypatch):
    monkeypatch.setenv("MLOPS_HOME", str(settings.home))

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, words)
        return done.exit_code, done.output

    return run


def read(run, *words: str):
    code, output = run(*words, "--json")
    assert code == 0, output
    return json.loads(output)


@pytest.mark.slow
def test_models_and_versions_are_listed(run):
    (model,) = read(run, "models", "list")
    assert (model["name"], model["versions"], model["production"], model["canary"]) == ("toy", 2, 1, None)
    assert [(v["version"], v["aliases"]) for v in read(run, "models", "list", "toy")] == [(1, ["production"]), (2, [])]
    assert run("models", "list", "toyy") == (1, "Error: No model 'toyy' is registered. Did you mean 'toy'?\n")


@pytest.mark.slow
def test_alias_is_moved_and_moved_back_with_its_reason(run):
    promoted = run("models", "promote", "toy", "2", "--reason", "better")
    assert promoted == (0, "production of toy: version 1 -> version 2\n")
    assert run("models", "rollback", "toy") == (0, "production of toy: version 2 -> version 1\n")
    changes = read(run, "models", "history", "toy")
    assert [(c["action"], c["to_version"]) for c in changes] == [("promote", 1), ("promote", 2), ("rollback", 1)]
    assert changes[1]["reason"] == "better"


@pytest.mark.slow
def test_promotion_to_where_the_alias_is_says_so_and_verifies_all_the_same(run, settings):
    assert run("models", "promote", "toy", "1") == (0, "production of toy: already at version 1\n")
    shutil.rmtree(Path(settings.artifacts) / "bundles")
    code, output = run("models", "promote", "toy", "1")
    assert (code, "There is no bundle at 1" in output) == (1, True), output
    assert len(read(run, "models", "history", "toy")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("given", "shown"), [({}, []), ({"threshold": 0.27}, ["threshold"])])
def test_threshold_of_a_version_is_shown(run, settings, monkeypatch, given, shown):
    with closing(Registry.open(settings)) as registry:
        found = registry.get("toy", 1)
    signature = found.manifest["signature"] | given
    changed = replace(found, manifest=found.manifest | {"signature": signature})
    monkeypatch.setattr(Registry, "get", lambda *_: changed)
    code, output = run("models", "show", "toy")
    assert code == 0, output
    assert [line.split()[0].rstrip(":") for line in output.splitlines() if line.startswith("threshold")] == shown


@pytest.mark.slow
def test_canary_is_set_and_cleared(run):
    assert run("models", "promote", "toy", "2", "--alias", "canary") == (0, "canary of toy: nowhere -> version 2\n")
    assert run("models", "list")[1].split()[-6:] == ["toy", "2", "-", "1", "2", "-"]
    assert run("models", "clear", "toy", "canary", "--reason", "enough") == (0, "canary of toy: version 2 -> nowhere\n")
    assert run("models", "clear", "toy", "canary")[0] == 1
    assert "enough" in run("models", "show", "toy", "2")[1]
    assert run("models", "history", "toyy")[0] == 1


@pytest.mark.slow
def test_promotion_warns_of_what_clients_see(run, settings, tmp_path):
    with closing(Registry.open(settings)) as registry:
        registry.register(package(tmp_path / "bundle", 1.0, SIGNATURE))
    code, output = run("models", "promote", "toy", "3", "--alias", "shadow")
    assert (code, "cannot be the shadow of version 1: it predicts 'repaid', not 'side'" in output) == (1, True), output
    code, output = run("models", "promote", "toy", "3", "--reason", "told them")
    assert (code, output.splitlines()) == (
        0,
        [
            "production of toy: version 1 -> version 3",
            "WARNING, clients see a change: it predicts 'repaid', not 'side'",
        ],
    )


@pytest.mark.slow
def test_runs_are_listed_shown_and_compared(run):
    second, first = (r["id"] for r in read(run, "runs", "list", "toy"))
    assert read(run, "runs", "show", first)["params"] == {"seed": 0}
    assert read(run, "runs", "compare", first, second)["params.seed"] == {"first": 0, "second": 1}
    assert run("runs", "compare", first, first)[1].endswith("Nothing differs.\n")
