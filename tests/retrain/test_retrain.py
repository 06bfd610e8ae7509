"""Continuous training: what is decided about a model, what is built, and what becomes of production."""

import os
import shutil
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from mlops_nb.audit.replay import replay_log
from mlops_nb.model.champion import ChampionComparison
from mlops_nb.model.evaluate import Evaluation
from mlops_nb.monitor.alerts import list_alerts
from mlops_nb.orchestration.build import StoppedError
from mlops_nb.retrain.retrain import _not_better
from mlops_nb.retrain.triggers import reason_to_wait
from mlops_nb.settings import Settings
from mlops_nb.store.database import open_database
from mlops_nb.store.decisions import FIRST_RETRY_DELAY, Decision, list_decisions, save_decision
from mlops_nb.store.lock import Lock, LockedError
from mlops_nb.store.registry import Registry
from mlops_nb.store.runs import RunStore
from tests.commands import run_command
from tests.simulated_production import FAST, World, make_world, project_of_sides

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return project_of_sides(tmp_path_factory.mktemp("project"))


@pytest.fixture
def make(project, tmp_path):
    """A world of a database."""
    made = []

    def make(database_url=f"sqlite:///{tmp_path}/mlops.db"):
        made.append(make_world(project, tmp_path, database_url))
        return made[-1]

    yield make
    for world in made:
        world.close()
    (project.path / "broken").unlink(missing_ok=True)
    assert not list((project.path / "products" / "retrain").glob("*"))


@pytest.fixture
def world(make):
    return make()


def alerts(world: World) -> list[str]:
    return [a.text for a in list_alerts(world.registry.engine, world.name) if a.kind == "retraining"]


def production(world: World) -> int:
    return world.registry.version_of(world.name)


@pytest.mark.slow
def test_traffic_as_at_release_makes_no_run(make, database_url):
    world = make(database_url)
    for seed in range(3):
        world.serve(world.draw("good", 1000, seed + 1))
        assert world.retrain().action == "nothing"
    decision, *others = list_decisions(world.registry.engine, "sides")
    assert not others
    assert decision.looks == 3
    assert decision.at < decision.until
    assert decision.reasons == ["version 1 is healthy in 1,000 rows"]
    assert RunStore(world.settings.runs).list() == []
    assert production(world) == 1


@pytest.mark.slow
def test_changed_world_gets_a_version_that_is_better_on_fresh_rows(make, database_url):
    world = make(database_url)
    before = {p: p.read_bytes() for p in (world.project / "products" / "sides").glob("*.json")}
    world.serve(world.draw("drift", 1000, 1))
    lines = []
    decision = world.retrain(report=lines.append)
    assert (decision.action, decision.champion, decision.challenger) == ("promoted", 1, 2), decision.reasons
    assert production(world) == 2
    assert any(reason.startswith("performance of accuracy:") for reason in decision.reasons)
    assert any(reason.startswith("drift of a:") for reason in decision.reasons)
    assert lines[0] == "Trains on 2,000 rows and 700 of production, evaluates on the newest 300"

    fresh = world.draw("drift", 5000, 99)
    gain = world.score(2, fresh) - world.score(1, fresh)
    assert gain > 0.3, f"accuracy rose by {gain:.3f}"
    metrics = decision.figures["metrics"]
    assert metrics["challenger"]["accuracy"] - metrics["champion"]["accuracy"] > 0.3
    assert decision.figures["replay"]["rows"] == 1000
    assert decision.figures["gates"]

    move = world.registry.history("sides", "production")[-1]
    assert (move.actor, move.from_version, move.to_version) == ("retrain", 1, 2)
    assert move.reason.startswith("all 3 gates passed; ")
    run = RunStore(world.settings.runs).get(decision.run_id).record
    assert run["decision"] == {"action": "promoted", "reasons": decision.reasons, "champion": 1}
    assert run["version"] == 2
    assert "production" in run["aliases"]
    assert before == {p: p.read_bytes() for p in (world.project / "products" / "sides").glob("*.json")}
    assert list_decisions(world.registry.engine, "sides")[-1].reasons == decision.reasons


@pytest.mark.slow
@pytest.mark.soak
def test_bundle_has_its_lineage_and_the_next_one_continues_from_it(world):
    world.serve(world.draw("drift", 1000, 1), ago=300)
    first = world.retrain()
    data = world.registry.get("sides", 2).manifest["data"]
    lineage, parent = data["lineage"], world.registry.get("sides", 1).manifest["data"]["sha256"]
    assert lineage["reference"] == {"version": 1, "sha256": parent, "rows": 2000}
    assert lineage["production"]["rows"] == 700
    assert lineage["holdout"]["rows"] == 300
    assert (lineage["production"]["first"], lineage["production"]["last"]) == ("r000000-0", "r000034-9")
    assert (lineage["holdout"]["first"], lineage["holdout"]["last"]) == ("r000035-0", "r000049-9")
    assert lineage["share"] == 0.5
    assert lineage["weight"] == pytest.approx(2000 / 700)
    assert data["rows"] == data["train_rows"] == 2700
    assert data["test_rows"] == 300
    for sha256 in (data["sha256"], data["holdout"]["sha256"]):
        assert world.registry.artifacts.snapshot(sha256).is_file()
    assert "700 are labelled rows of production" in (world.registry.get("sides", 2).path / "model_card.md").read_text()
    assert first.figures["rows"] == lineage

    assert world.retrain(if_needed=False).action == "waiting", "no evaluation on rows it was chosen by"
    world.serve(world.draw("drift", 400, 2))
    decision = world.retrain(rows=2000, if_needed=False)
    assert decision.action == "refused", "nothing has changed since version 2"
    assert decision.reasons[0].startswith("not shown to be better than version 2: accuracy differs by ")
    lineage = world.registry.get("sides", 3).manifest["data"]["lineage"]
    assert lineage["reference"] == {"version": 2, "sha256": data["sha256"], "rows": 2700}
    assert lineage["production"]["first"] == "r000035-0", "rows of an evaluation may be trained on now"
    assert lineage["production"]["rows"] + lineage["holdout"]["rows"] == 700


@pytest.mark.slow
@pytest.mark.soak
def test_retrained_model_is_healthy_in_the_world_it_was_retrained_for(world):
    world.serve(world.draw("drift", 2000, 1), ago=300)
    assert world.retrain(rows=2000).action == "promoted"
    world.serve(world.draw("drift", 2000, 2))
    decision = world.retrain(rows=2000)
    assert decision.action == "nothing", decision.reasons
    assert decision.figures["health"]["status"] == "healthy", decision.reasons


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)], indirect=True)
def test_shuffled_labels_are_refused_alerted_and_not_tried_again_and_again(make, database_url):
    world = make(database_url)
    table = world.draw("drift", 1000, 1)
    world.serve(table, labels=np.random.default_rng(0).permutation(table["y"]).tolist())
    decision = world.retrain()
    assert decision.action == "refused"
    assert decision.challenger == 2
    assert decision.reasons[0].startswith("FAILED: minimum accuracy 0.")
    assert production(world) == 1
    assert alerts(world) == [f"refused: {decision.reasons[0]}"]

    assert "version 1 was not replaced 1 time, the last attempt was refused" in (again := world.retrain()).reasons[0]
    assert again.action == "waiting"
    assert "no newer label, no other finding" in world.retrain(later=11).reasons[0]
    assert world.actions() == ["refused", "waiting"]
    assert len(world.registry.versions("sides")) == 2

    world.serve(world.draw("drift", 1000, 2), ago=30)
    assert world.retrain().action == "waiting", "newer labels do not shorten the time"
    assert world.retrain(later=11).action == "promoted"
    assert alerts(world) == []
    assert production(world) == 3


@pytest.mark.slow
@pytest.mark.soak
def test_failed_build_leaves_production_and_doubles_the_wait(world):
    world.serve(world.draw("drift", 1000, 1))
    (world.project / "broken").touch()
    decision = world.retrain()
    assert decision.action == "failed"
    assert production(world) == 1
    assert decision.reasons[0].startswith("The build failed: RuntimeError: the estimator is broken")
    assert alerts(world) == [f"failed: {decision.reasons[0]}"]
    run = RunStore(world.settings.runs).get(decision.run_id)
    assert run.record["state"] == "failed"
    assert (run.folder / "notebooks" / "train.ipynb").is_file()

    assert [world.retrain(later=minutes).action for minutes in (9, 11)] == ["waiting", "failed"]
    assert [world.retrain(later=minutes).action for minutes in (25, 32)] == ["waiting", "failed"], "20 minutes after 11"
    assert list_alerts(world.registry.engine, "sides")[-1].size == 3
    (world.project / "broken").unlink()
    assert world.retrain(if_needed=False).action == "promoted", "a person is not asked to wait"
    assert alerts(world) == []


@pytest.mark.slow
def test_attempt_whose_process_is_killed_during_the_build_is_recorded_as_failed_by_the_next_check(world, monkeypatch):
    import mlops_nb.retrain.retrain as module

    class Killed(BaseException):
        pass

    def build(*_):
        assert world.actions() == ["building"]
        raise Killed

    monkeypatch.setattr(module, "build", build)
    world.serve(world.draw("drift", 1000, 1))
    with pytest.raises(Killed):
        world.retrain()
    assert "not replaced 1 time, the last attempt was failed" in world.retrain().reasons[0]
    failed, waiting = list_decisions(world.registry.engine, "sides")
    assert (failed.action, waiting.action) == ("failed", "waiting")
    assert failed.run_id
    assert alerts(world) == ["failed: nobody waited for the end of the build"]


@pytest.mark.slow
def test_alert_that_a_kill_prevented_follows_at_the_next_check(world):
    world.serve(world.draw("good", 1000, 1))
    for action, open_then in (("failed", ["failed: the reason"]), ("promoted", [])):
        decision = Decision("sides", datetime.now(UTC), action, ["the reason"], champion=1)
        save_decision(world.registry.engine, decision)
        for _ in range(2):
            assert world.retrain().action == "nothing"
            assert alerts(world) == open_then


@pytest.mark.slow
def test_rows_without_a_label_are_waited_for(world):
    world.serve(world.draw("drift", 1000, 1), labels=False)
    decision = world.retrain()
    assert decision.action == "waiting"
    assert decision.reasons[0] == ("waiting for labels: 0 labelled rows that version 1 has not seen, 300 are needed")
    world.serve(world.draw("drift", 250, 2), ago=30)
    assert "250 labelled rows" in world.retrain(rows=1250).reasons[0]
    assert world.actions() == ["waiting"]
    assert alerts(world) == []
    assert RunStore(world.settings.runs).list() == []


@pytest.mark.slow
def test_labels_that_come_slowly_are_enough_in_the_end(world):
    hours = timedelta(hours=1) / timedelta(seconds=1)
    for day in (2, 1):
        world.serve(world.draw("drift", 100, day), ago=(24 * day + 1) * hours)
    world.serve(world.draw("drift", 99, 3), ago=hours)
    assert "waiting for labels: 299 labelled rows" in world.retrain(rows=None).reasons[0]
    world.serve(world.draw("drift", 1, 4), ago=60)
    world.registry.promote("sides", 1, alias="canary")
    assert world.retrain(rows=None).reasons[0].startswith("version 1 is on trial as the canary"), "there are enough"


@pytest.mark.slow
def test_column_that_is_not_logged_is_named(world):
    world.serve(world.draw("drift", 1000, 1), columns=["a"])
    decision = world.retrain()
    assert decision.action == "failed"
    assert len(alerts(world)) == 1
    assert "'b' was not logged (MLOPS_LOG_EXCLUDE)" in decision.reasons[0]


@pytest.mark.slow
def test_version_without_its_spec_is_a_failed_decision(world, monkeypatch):
    world.serve(world.draw("drift", 1000, 1))
    monkeypatch.delitem(sys.modules, "sides")
    shutil.move(world.project / "sides.py", world.project / "moved.txt")
    try:
        decision = world.retrain()
    finally:
        shutil.move(world.project / "moved.txt", world.project / "sides.py")
    assert decision.action == "failed"
    assert "Version 1 of 'sides' cannot be retrained: its spec sides cannot be imported" in decision.reasons[0]


@pytest.mark.slow
@pytest.mark.soak
def test_version_can_become_the_canary_or_nothing(world):
    world.serve(world.draw("drift", 1000, 1))
    decision = world.retrain(policy=replace(FAST, alias=None))
    assert decision.action == "registered"
    assert world.registry.aliases("sides") == {"production": 1, "staging": 2}
    assert world.retrain(later=11).reasons[0].startswith("nothing has changed since the last attempt at")

    world.serve(world.draw("drift", 100, 2), ago=30)
    assert world.retrain(policy=replace(FAST, alias="canary"), later=11).action == "canary"
    assert world.registry.aliases("sides") == {"production": 1, "staging": 3, "canary": 3}
    assert "version 3 is on trial as the canary" in world.retrain(later=60).reasons[0]


@pytest.mark.slow
def test_production_stays_after_a_manual_rollback(world):
    world.serve(world.draw("drift", 1000, 1))
    assert world.retrain().action == "promoted"
    world.registry.rollback("sides", reason="false alarms", actor="ann")
    decision = world.retrain(later=11)
    assert decision.action == "waiting"
    assert decision.reasons[0] == "ann rolled production back to version 1 (false alarms): a person decides"


@pytest.mark.slow
def test_production_that_was_moved_during_the_build_is_left_where_it_is(world, monkeypatch):
    import mlops_nb.retrain.retrain as module

    world.serve(world.draw("drift", 1000, 1))
    build = module.build

    def build_slowly(*args):
        build(*args)
        world.registry.promote("sides", 2, reason="by hand", actor="ann")

    monkeypatch.setattr(module, "build", build_slowly)
    decision = world.retrain()
    assert decision.action == "refused"
    assert decision.reasons[0] == "production was moved meanwhile, from version 1 to 2"
    assert world.registry.history("sides", "production")[-1].actor == "ann"


@pytest.mark.slow
@pytest.mark.soak
def test_stopped_build_ends_with_all_its_processes_and_is_no_failure(world):
    world.serve(world.draw("drift", 1000, 1))
    stop, before, seen = threading.Event(), {*psutil.Process().children()}, set()

    def stop_when_a_notebook_runs():
        """Remember what this test starts; a browser that another test left open may start processes as well."""
        until = time.monotonic() + 120
        while time.monotonic() < until and len(seen) < 2:
            for child in {*psutil.Process().children()} - before:
                with suppress(psutil.NoSuchProcess):
                    seen.update([child, *child.children(recursive=True)])
            time.sleep(0.05)
        stop.set()

    watcher = threading.Thread(target=stop_when_a_notebook_runs)
    watcher.start()
    with pytest.raises(StoppedError, match="was stopped"):
        world.retrain(stop=stop, policy=replace(FAST, engine="papermill"))
    watcher.join()
    assert len(seen) >= 2
    assert not [p for p in seen if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert world.actions() == ["waiting"]
    assert alerts(world) == []
    assert production(world) == 1
    assert {r["state"] for r in RunStore(world.settings.runs).list()} <= {"interrupted"}
    assert world.retrain().action == "promoted"


@pytest.mark.slow
def test_one_retraining_at_a_time(world):
    held = pytest.raises(LockedError, match=r"'retrain sides' is held by .*:\d+ since")
    with Lock(world.registry.engine, "retrain sides"), held:
        world.retrain()
    assert world.actions() == []


@pytest.mark.slow
@pytest.mark.soak
def test_command_prints_the_decision_and_exits_with_its_code(world):
    environment = {**os.environ, "PYTHONPATH": str(world.project), "WANDB_MODE": "disabled"}
    places = {
        f"MLOPS_{k.upper()}": str(getattr(world.settings, k)) for k in ("home", "database_url", "artifacts", "runs")
    }

    def run(*options):
        command = [
            "mlops-nb",
            "retrain",
            "sides",
            "--if-needed",
            "--rows",
            "1000",
            "--engine",
            "ploomber-engine",
            *options,
        ]
        return run_command(command, Path.cwd(), environment | places)

    world.serve(world.draw("good", 1000, 1), ago=300)
    done = run()
    assert (done.returncode, done.stdout) == (0, "sides: nothing (champion 1)\n  version 1 is healthy in 1,000 rows\n")
    world.serve(world.draw("drift", 1000, 1))
    assert run("--min-labelled-rows", "5000").returncode == 3
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sides: promoted (champion 1, challenger 2)\n"), done.stderr
    assert "On the newest 300 labelled rows, which neither was trained on:" in done.stdout
    table = world.draw("drift", 1000, 3)
    world.serve(table.assign(a=-table["a"]), ago=5, labels=np.random.default_rng(0).permutation(table["y"]).tolist())
    done = run("--json")
    assert done.returncode == 2
    assert '"action": "refused"' in done.stdout


def test_each_further_try_against_one_version_needs_more_evidence(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path}/mlops.db")
    champion, figures = SimpleNamespace(name="a", version=1), {}
    attempt = SimpleNamespace(registry=SimpleNamespace(engine=engine), champion=champion, figures=figures)
    better = ChampionComparison("roc_auc", 300, difference=0.03, error=0.0145)
    evaluation = Evaluation({}, {}, None, 1, {}, [], comparison=better)
    assert _not_better(attempt, evaluation) is None
    save_decision(engine, Decision("a", NOW, "failed", ["no version was made"], champion=1))
    assert _not_better(attempt, evaluation) is None, "only what was evaluated is a try"
    save_decision(engine, Decision("a", NOW, "refused", ["a gate"], champion=1, challenger=2))
    reason = _not_better(attempt, evaluation)
    assert reason.startswith("not shown to be better than version 1: roc_auc differs by +0.03 on 300 held-out rows")
    assert reason.endswith("(try 2 against this version)")
    assert figures["comparison"]["try"] == 2
    few = replace(
        evaluation, comparison=replace(better, error=None, note="9 rows of the rarest class 1, 15 are needed")
    )
    assert "too few for an interval: 9 rows of the rarest class" in _not_better(attempt, few)
    unknown = Evaluation({}, {}, None, 1, {}, [], comparison=replace(few.comparison, difference=float("nan")))
    assert "roc_auc differs by +nan" in _not_better(attempt, Evaluation.from_dict(unknown.to_dict())), "as it is stored"
    assert _not_better(attempt, replace(evaluation, comparison=None)) is None, "a detector has nothing to compare"
    engine.dispose()


@pytest.mark.parametrize("action", ["refused", "registered", "canary"])
def test_version_that_did_not_stay_is_not_made_again_of_the_same(tmp_path, action):
    with closing(Registry.open(Settings.read({"MLOPS_DATABASE_URL": f"sqlite:///{tmp_path}/mlops.db"}))) as registry:
        figures, champion = {"findings": [["drift", "a"]], "newest": "r000001-3"}, SimpleNamespace(name="a", version=1)
        save_decision(registry.engine, Decision("a", NOW, action, ["all gates passed"], 1, 2, figures=figures))
        later = NOW + timedelta(minutes=11)
        reason = reason_to_wait(registry, champion, figures, FIRST_RETRY_DELAY, later)
        assert "no newer label, no other finding" in reason
        assert reason_to_wait(registry, champion, figures | {"newest": "r000002-0"}, FIRST_RETRY_DELAY, later) is None


def test_decision_that_repeats_the_last_is_counted_with_it(database_url):
    registry = Registry.open(Settings.read({"MLOPS_DATABASE_URL": database_url}))
    engine = registry.engine
    for i, action in enumerate(["nothing", "nothing", "waiting", "waiting", "failed", "failed", "nothing"]):
        save_decision(engine, Decision("a", NOW + timedelta(minutes=i), action, [f"{i}"], 1, figures={"i": i}))
    save_decision(engine, Decision("b", NOW, "nothing", [], 1))
    kept = list_decisions(engine, "a")
    assert [(d.action, d.looks, d.reasons) for d in kept] == [
        ("nothing", 2, ["1"]), ("waiting", 2, ["3"]), ("failed", 1, ["4"]), ("failed", 1, ["5"]), ("nothing", 1, ["6"])
    ]  # fmt: skip
    assert (kept[0].at, kept[0].until, kept[0].figures) == (NOW, NOW + timedelta(minutes=1), {"i": 1})
    assert [d.action for d in list_decisions(engine, "a", 2)] == ["failed", "nothing"]
    registry.close()


@pytest.mark.slow
def test_replay_scores_no_row_that_the_challenger_was_trained_on(world):
    world.serve(world.draw("drift", 1000, 1))
    assert world.retrain(policy=replace(FAST, alias=None)).action == "registered"
    report = replay_log("sides", 2, world.settings)
    lineage = world.registry.get("sides", 2).manifest["data"]["lineage"]
    assert report.rows == 1000
    assert report.labelled == lineage["holdout"]["rows"] == 300
    assert report.notes == ["700 labelled rows are not scored: one of the versions was trained on them."]
    holdout = world.registry.get("sides", 2).manifest["evaluation"]["metrics"]["accuracy"]
    assert report.metrics["accuracy"]["challenger"] == pytest.approx(holdout)
