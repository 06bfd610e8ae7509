"""All alerts that are open together are one incident: told once, with a cause, and reported."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.cli.main import main
from mlops_nb.monitor import incidents as module
from mlops_nb.monitor.alerts import Finding, list_alerts, update_alerts
from mlops_nb.monitor.incidents import list_incidents, notify, save_cause, timeline
from mlops_nb.monitor.root_cause import ColumnCause, RootCause
from mlops_nb.store.database import open_database, writing
from mlops_nb.store.decisions import Decision, save_decision
from mlops_nb.store.schema import alerts, history, models

NOW = datetime(2026, 5, 1, tzinfo=UTC)
FIGURES = {"version": 1, "since": "2026-04-30T10:00:00+00:00"}
COLUMNS = [Finding("drift", c, 0.1, f"{c} drifted", FIGURES) for c in "abcdefghi"]
ACCURACY = Finding("performance", "accuracy", 0.2, "0.7 is below the gate of 0.8")
ALL = [(f.kind, f.subject) for f in [*COLUMNS, ACCURACY]]
CAUSE = RootCause("1,000 rows before", 1000, 900, [ColumnCause("a", 1.0, "a >= 2: 10% -> 90%", -0.1)], [])


@pytest.fixture
def engine(database_url):
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sent(monkeypatch):
    """Titles of what an address got."""
    got = []

    def send(urls, incident, event, own):
        got.append(module.describe_event(incident, event, own)[0])
        return 1

    monkeypatch.setattr(module, "_send", send)
    return got


def check(engine, *findings, hours=0):
    update = update_alerts(engine, "loans", findings, ALL, NOW + timedelta(hours=hours))
    return notify(engine, update, ["json://somebody:hidden@nowhere"])


def test_flood_of_columns_is_one_incident_and_one_notification(engine, sent, capsys):
    check(engine, *COLUMNS)
    check(engine, *COLUMNS, hours=1)
    assert sent == ["loans: incident 1 opened: drift of a, b, c, d and 5 more"]
    assert len(list_alerts(engine, "loans")) == 9
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_columns_that_follow_are_not_told_one_by_one(engine, sent):
    for n in range(1, 10):
        check(engine, *COLUMNS[:n], hours=n)
    for n in range(9, -1, -1):
        check(engine, *COLUMNS[:n], hours=20 - n)
    assert [title.split(": ")[1] for title in sent] == ["incident 1 opened", "incident 1 is over"]


def test_another_kind_and_a_worse_alert_are_told(engine, sent):
    check(engine, COLUMNS[0])
    check(engine, COLUMNS[0], ACCURACY, hours=1)
    check(engine, COLUMNS[0], replace(ACCURACY, size=0.5), hours=2)
    check(engine, hours=3)
    check(engine, ACCURACY, hours=4)
    events = ["1 opened", "1 grew", "1 got worse", "1 is over", "2 opened"]
    assert [title.split(": ")[1].removeprefix("incident ") for title in sent] == events
    (second, first) = list_incidents(engine, "loans")
    assert (first.is_open, second.is_open, len(first.alerts)) == (False, True, 2)
    assert "hidden" not in str(first.to_dict())
    assert first.notifications[0]["to"] == ["json"]


def test_alerts_of_the_previous_release_join_the_incident(engine, sent):
    figures = {"kind": "drift", "size": 0.1, "text": "old", "figures": {}, "opened_at": NOW, "changed_at": NOW}
    with writing(engine) as connection:  # as a release inserts that knows no incidents
        connection.execute(sa.insert(alerts).values(name="loans", subject="a", told_at=NOW, **figures))
    check(engine, *COLUMNS[:2], hours=5)
    (incident,) = list_incidents(engine, "loans")
    assert ([a.subject for a in incident.alerts], incident.opened_at) == (["a", "b"], NOW)


def test_monitors_at_the_same_time_open_one_incident(engine):
    barrier = threading.Barrier(4)

    def monitor(i):
        barrier.wait()
        update_alerts(engine, "loans", COLUMNS[i : i + 3], ALL[:0], NOW)

    threads = [threading.Thread(target=monitor, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (incident,) = list_incidents(engine)
    assert len(incident.alerts) == 6


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9))), max_size=6))
def test_incident_is_open_exactly_while_an_alert_is(checks):
    engine = open_database("sqlite:///:memory:")
    every = [*COLUMNS, ACCURACY]
    for hours, (wrong, evaluated) in enumerate(checks):
        evaluated_ones = [ALL[i] for i in evaluated]
        update_alerts(engine, "loans", [every[i] for i in wrong], evaluated_ones, NOW + timedelta(hours=hours))
        opened, found = list_alerts(engine, "loans"), list_incidents(engine, "loans", closed=False)
        assert len(found) == bool(opened)
        assert {a.incident for a in opened} == {one.id for one in found}
    every_alert = list_alerts(engine, "loans", closed=True)
    assert sum(len(one.alerts) for one in list_incidents(engine, "loans")) == len(every_alert)
    engine.dispose()


def test_timeline_has_sign_alert_notification_decision_promotion_and_recovery(engine, sent):
    check(engine, *COLUMNS)
    (incident,) = list_incidents(engine, "loans")
    save_cause(engine, incident.id, CAUSE)
    save_decision(engine, Decision("loans", NOW + timedelta(hours=1), "promoted", ["2 gates passed"], 1, 2))
    with writing(engine) as connection:
        connection.execute(sa.insert(models).values(name="loans", created_at=NOW))
        move = {"alias": "production", "action": "promote", "from_version": 1, "to_version": 2, "who": "retraining"}
        move |= {"why": "2 gates passed", "at": NOW + timedelta(hours=1)}
        connection.execute(sa.insert(history).values(name="loans", **move))
    check(engine, hours=2)
    (incident,) = list_incidents(engine, "loans")
    events = [e.kind for e in timeline(engine, incident) if e.kind != "notification"]
    assert events == ["first sign", "alert", "decision", "promotion", "over", "recovery"]
    assert [n["event"] for n in incident.notifications] == ["opened", "is over"]
    assert incident.cause == CAUSE


def test_command_lists_shows_and_reports(engine, database_url, sent, tmp_path):
    check(engine, *COLUMNS)
    save_cause(engine, 1, CAUSE)
    environment = {"MLOPS_DATABASE_URL": database_url, "MLOPS_HOME": str(tmp_path), "MLOPS_ARTIFACTS": str(tmp_path)}

    def run(*words):
        result = CliRunner().invoke(main, ["incidents", *words], env=environment)
        return result.exit_code, result.output

    assert "drift of a, b, c, d and 5 more" in run()[1]
    assert run("loans", "--open", "--json")[1].count('"is_open": true') == 1
    assert run("mails") == (0, "There is no incident.\n")
    code, shown = run("show", "1")
    assert (code, "changed inputs: a (a >= 2: 10% -> 90%, effect -0.1)" in shown) == (0, True)
    assert '"timeline"' in run("show", "1", "--json")[1]
    for name, begin in (("report.md", "# Incident 1 of loans"), ("report.html", "<!doctype html>")):
        assert run("show", "1", "--report", str(tmp_path / name))[0] == 0
        assert (tmp_path / name).read_text().startswith(begin)
    assert run("show", "9") == (1, "Error: There is no incident 9. `mlops-nb incidents` lists them.\n")
    assert run("show", "nine")[0] == 2
    assert run("--report", "x.md")[0] == 2
