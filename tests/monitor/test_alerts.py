"""Alerts open once, are repeated when they get worse, close by themselves, and reach people."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler

import orjson
import pytest
import sqlalchemy as sa

from mlops_nb.monitor.alerts import Finding, list_alerts, update_alerts
from mlops_nb.monitor.incidents import notify
from mlops_nb.store.database import migrate, open_database, reading
from mlops_nb.store.schema import alerts
from tests.listening import listening

DRIFT = Finding("drift", "income", 0.2, "half of it is gone", {"psi": 0.3})
SLOW = Finding("latency", "p95", 40.0, "40 ms")
BOTH = [("drift", "income"), ("latency", "p95")]
NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def engine(database_url):
    engine = open_database(database_url)
    yield engine
    engine.dispose()


def look(engine, *findings, evaluated=BOTH, at=0, name="loans", urls=()):
    """One look and what was told of it, as change and subject."""
    told = notify(engine, update_alerts(engine, name, findings, evaluated, NOW + timedelta(hours=at)), urls)
    return [(alert.change, alert.subject) for alert in told]


def test_alert_opens_once_is_repeated_when_worse_and_closes(engine, capsys):
    assert look(engine, DRIFT, SLOW) == [("opened", "income"), ("opened", "p95")]
    assert look(engine, DRIFT, SLOW, at=1) == []
    assert look(engine, replace(DRIFT, size=0.24), SLOW, at=2) == [], "a little worse"
    assert look(engine, replace(DRIFT, size=0.26, text="most of it"), SLOW, at=3) == [("worse", "income")]
    assert look(engine, replace(DRIFT, size=0.26), SLOW, at=4) == []
    assert look(engine, SLOW, at=5) == [("closed", "income")]
    assert look(engine, SLOW, at=6) == []
    assert look(engine, DRIFT, at=7) == [("closed", "p95"), ("opened", "income")]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ALERT loans: drift of income alerts: half of it is gone"
    assert lines[2] == "ALERT loans: drift of income got worse: most of it"
    assert lines[3] == "ALERT loans: drift of income is over: most of it"
    assert len(lines) == 6


def test_alert_that_was_not_evaluated_stays_open(engine):
    look(engine, DRIFT)
    assert look(engine, evaluated=[("latency", "p95")], at=1) == []
    assert [a.subject for a in list_alerts(engine, "loans")] == ["income"]


def test_alert_has_the_time_of_its_first_row(engine, capsys):
    since = [{"since": f"2026-04-30T{hour}:00:00+00:00"} for hour in (10, 11)]
    look(engine, replace(DRIFT, figures=since[0]))
    look(engine, replace(DRIFT, size=1.0, figures=since[1]), at=1)
    (alert,) = list_alerts(engine, "loans")
    assert (alert.since, alert.opened_at) == (datetime(2026, 4, 30, 10, tzinfo=UTC), NOW)
    result = "ALERT loans: drift of income {}: half of it is gone (in rows since 2026-04-30 10:00:00 UTC)"
    assert capsys.readouterr().err.splitlines() == [result.format(change) for change in ("alerts", "got worse")]


def test_alert_has_the_figures_of_the_version_that_was_checked_last(engine, capsys):
    windows = [{"version": v, "since": f"2026-04-30T{9 + v}:00:00+00:00", "rows": 100 * v} for v in (1, 2, 3)]
    look(engine, replace(DRIFT, figures=windows[0]))
    assert look(engine, replace(DRIFT, text="less of it", figures=windows[1]), at=1) == [], "not worse"
    (alert,) = list_alerts(engine, "loans")
    assert (alert.version, alert.text, alert.figures, alert.opened_at) == (2, "less of it", windows[1], NOW)
    assert look(engine, replace(DRIFT, size=1.0, figures=windows[2]), at=2) == [("worse", "income")]
    assert look(engine, at=3) == [("closed", "income")]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"ALERT loans version {v}" for v in (1, 3, 3)]


def test_models_do_not_mix(engine):
    look(engine, DRIFT)
    assert look(engine, name="emails") == []
    assert look(engine, DRIFT, name="emails") == [("opened", "income")]
    assert len(list_alerts(engine, "loans")) == 1


def test_alert_keeps_its_times_and_figures(engine):
    look(engine, DRIFT)
    look(engine, replace(DRIFT, size=1.0, figures={"psi": 2.0}), at=1)
    look(engine, at=3)
    assert list_alerts(engine, "loans") == []
    (alert,) = list_alerts(engine, "loans", closed=True)
    assert (alert.opened_at, alert.changed_at, alert.closed_at) == (NOW, *[NOW + timedelta(hours=3)] * 2)
    assert (alert.size, alert.figures) == (1.0, {"psi": 2.0})
    assert alert.notified_at > NOW


def test_two_monitors_at_the_same_time_open_one(engine):
    barrier, told = threading.Barrier(4), []

    def monitor():
        barrier.wait()
        told.extend(update_alerts(engine, "loans", [DRIFT], BOTH, NOW))

    threads = [threading.Thread(target=monitor) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(alerts)).scalar() == 1
    assert {alert.id for alert in told} == {told[0].id}


def test_tables_go_down_and_come_up(engine):
    migrate(engine, "base")
    migrate(engine)
    assert look(engine, DRIFT) == [("opened", "income")]


class Receiver(BaseHTTPRequestHandler):
    """A webhook."""

    def do_POST(self):
        self.server.got.append(orjson.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.meanwhile()
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def webhook():
    with listening(Receiver) as server:
        server.status, server.meanwhile = 200, lambda: None
        server.url = f"json://user:hidden@127.0.0.1:{server.server_port}/hook"
        yield server


@pytest.mark.slow
def test_webhook_gets_an_incident_when_it_opens_and_when_it_is_over(engine, webhook):
    for at, findings in enumerate([[DRIFT, SLOW], [DRIFT, SLOW], [SLOW], []]):
        look(engine, *findings, at=at, urls=[webhook.url])
    what = "drift of income; latency of p95"
    assert [(each["title"], each["type"]) for each in webhook.got] == [
        (f"loans: incident 1 opened: {what}", "warning"),
        (f"loans: incident 1 is over: {what}", "success"),
    ]
    assert webhook.got[0]["message"].splitlines() == [
        "loans: drift of income alerts: half of it is gone",
        "loans: latency of p95 alerts: 40 ms",
        "The whole incident: mlops-nb incidents show 1",
    ]


def test_alerts_that_one_check_is_sending_are_skipped_by_another(engine, webhook):
    others = []

    def look_too():
        if len(webhook.got) == 1:
            others.append(look(engine, DRIFT, urls=[webhook.url]))

    webhook.meanwhile = look_too
    assert look(engine, DRIFT, urls=[webhook.url]) == [("opened", "income")]
    assert others == [[]]
    assert len(webhook.got) == 1


@pytest.mark.parametrize("other", ["json://ann:hidden@127.0.0.1:9/", "nosuch://ann:hidden@127.0.0.1"])
def test_failing_address_is_not_shown_and_the_others_are_notified(engine, webhook, other, capsys):
    assert look(engine, DRIFT, urls=[other, webhook.url]) == [("opened", "income")]
    output = capsys.readouterr().err
    assert "1 of 2 addresses in MLOPS_ALERT_URLS did not accept the alerts." in output
    assert "hidden" not in output
    assert "127.0.0.1" not in output
    assert look(engine, DRIFT, at=1, urls=[other, webhook.url]) == []
    assert len(webhook.got) == 1


def test_alerts_that_no_address_accepted_are_sent_by_the_next_check(engine, webhook, capsys):
    webhook.status = 500
    assert look(engine, DRIFT, urls=[webhook.url] * 2) == []
    result = "2 of 2 addresses in MLOPS_ALERT_URLS did not accept the alerts; the next check tries again."
    assert result in capsys.readouterr().err
    webhook.status = 200
    assert look(engine, DRIFT, urls=[webhook.url]) == [("opened", "income")]
