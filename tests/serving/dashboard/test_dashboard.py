"""The dashboard: true figures, no word of a stranger as markup, moves from this site and with an admin key alone."""

import re
import time
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
import sqlalchemy as sa

from mlops_nb.monitor.alerts import Finding, update_alerts
from mlops_nb.monitor.incidents import save_cause
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.monitor.root_cause import ColumnCause, RootCause
from mlops_nb.monitor.time_buckets import WINDOWS, TimeBuckets
from mlops_nb.serving.dashboard import queries as dashboard_figures
from mlops_nb.serving.dashboard.histogram import draw
from mlops_nb.serving.dashboard.queries import DashboardQueries, ErrorHistory
from mlops_nb.settings import Settings
from mlops_nb.store.database import open_database, writing
from mlops_nb.store.decisions import Decision, save_decision
from mlops_nb.store.schema import health, versions
from serve.app import create_app
from tests.factories import logged

KEY, ADMIN = "predict-" + "k" * 16, "admin-" + "a" * 16
MOVE = {"X-Dashboard": "move"}
HOSTILE = "</textarea><script>alert(1)</script><img src=x onerror=alert(1)>'\"&"
PAGES = (
    "/",
    "/dashboard/style.css",
    "/dashboard/script.js",
    "/dashboard/live.js",
    "/dashboard/models.js",
    "/dashboard/icon.svg",
    "/dashboard/uplot.css",
    "/dashboard/uplot.js",
)


def bearer(key: str) -> dict:
    return {"Authorization": f"Bearer {key}"}


def figures(client, **query) -> dict:
    client.application.extensions["dashboard"].figures.invalidate()
    answer = client.get("/dashboard/data.json", query_string=query)
    assert answer.status_code == 200, answer.get_json()
    return answer.get_json()


def page(client) -> str:
    client.application.extensions["dashboard"].figures.invalidate()
    answer = client.get("/")
    assert answer.status_code == 200
    return answer.get_data(as_text=True)


def monitor_says(engine, columns: list | None = None, alerts: list[dict] = (), version: int = 1):
    """A report and open alerts, as `mlops_nb.monitor.health` leaves them."""
    now = datetime.now(UTC)
    window = {"at": str(now), "since": str(now - timedelta(hours=1)), "until": str(now), "rows": 1000}
    row = {"name": "toy", "version": version, "at": now, "status": "alert"}
    report = {**row, **window, "inconclusive": [], "evaluated": [], "drift": {"columns": columns or []}}
    with writing(engine) as connection:
        connection.execute(health.insert(), row | {"report": report})
    findings = [Finding(alert["kind"], alert["subject"], alert.get("size", 1.0), alert["text"]) for alert in alerts]
    update_alerts(engine, "toy", findings, [], now - timedelta(hours=3))


def require(engine, **metrics: float):
    """Give all versions gates, as far as the registry knows."""
    gates = [{"gate": "minimum", "metric": m, "value": 1.0, "required": v, "passed": True} for m, v in metrics.items()]
    with writing(engine) as connection:
        for row in connection.execute(sa.select(versions)).mappings().all():
            evaluation = {**row["manifest"]["evaluation"], "gates": gates}
            same = (versions.c.name == row["name"]) & (versions.c.version == row["version"])
            connection.execute(
                sa.update(versions).where(same).values(manifest={**row["manifest"], "evaluation": evaluation})
            )


# figures


def test_what_was_asked_and_answered_is_shown(app, client):
    client.post("/predict", json={"features": [[1, 0], [0, 1]]})
    ids = client.post("/predict", json={"features": [[2, 0]]}).get_json()["ids"]
    client.post("/predict", json={"features": [[1]]})
    client.post("/feedback", json={"id": ids[0], "label": 0})
    logged(app)
    result = figures(client, hours=1)
    assert (result["model"], result["serving"]["version"], result["problem"], result["figures"]["current"]) == (
        "toy",
        1,
        None,
        1,
    )
    shown = result["figures"]
    assert (sum(shown["traffic"]["requests"]), sum(shown["traffic"]["rows"])) == (2, 3)
    assert max(v for v in shown["traffic"]["p95"] if v) < 10_000
    assert {label: max(v or 0 for v in values) for label, values in shown["predictions"]["series"].items()} == {
        "0": pytest.approx(1 / 3), "1": pytest.approx(2 / 3),
    }  # fmt: skip
    assert (shown["quality"]["version"], shown["quality"]["rows"]) == (1, 1)
    assert shown["quality"]["metrics"][0]["value"] == 0.0
    routes = {r["route"]: r["statuses"] for r in result["errors"]["routes"]}
    assert routes == {"/predict": {"200": 2, "400": 1}, "/feedback": {"202": 1}}
    assert [v["version"] for v in shown["versions"]] == [2, 1]
    assert shown["history"][0]["to_version"] == 1


@pytest.mark.parametrize("hours", WINDOWS)
def test_every_window_has_a_value_a_bucket(client, hours):
    result = figures(client, hours=hours)
    n = hours * 3600 // result["bucket_seconds"]
    shown = result["figures"]
    assert {len(shown["traffic"][k]) for k in ("at", "requests", "rows", "p50", "p95")} == {n}
    assert len(shown["predictions"]["at"]) == n
    assert {len(result["errors"][k]) for k in ("at", "client", "server")} == {n}


@pytest.mark.slow
@pytest.mark.parametrize("query", ["hours=2", "hours=", "hours=x", "hours=1e0", "days=1", "hours=1&x=2"])
def test_other_windows_are_refused(client, query):
    answer = client.get(f"/dashboard/data.json?{query}")
    assert (answer.status_code, answer.get_json()["code"]) == (400, "bad_request")
    assert re.search("0.25, 1, 24, 168|takes no '(days|x)' in its query", answer.get_json()["error"])
    assert client.get(f"/?{query}").status_code == 200


@pytest.mark.slow
def test_page_says_what_it_knows_before_any_script_runs(app, client):
    require(app.extensions["dashboard"].figures.registry.engine, accuracy=0.95)
    ids = client.post("/predict", json={"features": [[1, 0]] * 4}).get_json()["ids"]
    client.post("/feedback", json={"labels": [{"id": key, "label": int(i > 0)} for i, key in enumerate(ids)]})
    logged(app)
    text = page(client)
    for words in (
        "Version 1</b> predicts <i>side</i>",
        "Version 1 is not monitored yet: run <code>mlops-nb monitor toy</code>",
        "<span>Accuracy</span><strong>–</strong><span>not monitored yet</span>",
        "promote production 1",
        "Promote</button>",
    ):
        assert words in text, words
    assert figures(client)["figures"]["quality"]["metrics"][0]["value"] == 0.75, "drawn over time, with no verdict"
    assert "Roll back" not in text


@pytest.mark.slow
def test_promotion_by_retraining_gives_its_reasons_once(client, registry):
    registry.promote("toy", 2, actor="retrain", reason="all 5 gates passed; drift of a: it is another")
    registry.promote("toy", 1, actor="somebody", reason="no; I do not like it")
    history = page(client).partition('id="history"')[2]
    assert '<td class="reason">all 5 gates passed\n' in history
    assert "no; I do not like it" in history
    assert "drift of a" not in history, "it is shown under Retraining"


@pytest.mark.slow
def test_decisions_about_retraining_are_shown_with_their_reasons(app, client):
    assert "Nothing was decided yet" in page(client)
    engine, now = app.extensions["dashboard"].figures.registry.engine, datetime.now(UTC)
    for minutes in (3, 2):
        save_decision(engine, Decision("toy", now - timedelta(minutes=minutes), "nothing", ["version 1 is healthy"], 1))
    metrics = {"champion": {"accuracy": 0.5}, "challenger": {"accuracy": 0.9}}
    found = {"metrics": metrics, "rows": {"holdout": {"rows": 9}}}
    reasons = ["all 3 gates passed", "drift of <a>: it is another"]
    save_decision(engine, Decision("toy", now, "promoted", reasons, 1, 2, "run-1", found))
    newest, before = figures(client)["figures"]["decisions"]
    assert (newest["action"], newest["reasons"], newest["challenger"], newest["rows"]) == ("promoted", reasons, 2, 9)
    assert newest["metrics"] == metrics
    assert before["looks"] == 2
    text = page(client)
    assert "1 → 2" in text
    assert "drift of &lt;a&gt;: it is another" in text
    assert "2 looks" in text


@pytest.mark.slow
def test_drift_and_alerts_of_the_monitor_are_shown(app, client):
    column = {"name": "a", "kind": "number", "drifted": True, "reason": "PSI 0.4", "effect": 0.4, "p_value": 1e-9,
              "histogram": {"edges": [1, 2], "reference": [5, 5, 10], "window": [0, 0, 3]}}  # fmt: skip
    others = [
        {"name": "b", "drifted": False},
        {"name": "c", "drifted": None, "reason": "too few rows", "histogram": None},
    ]
    alert = {"kind": "drift", "subject": "a", "text": "a is not what it was"}
    monitor_says(app.extensions["dashboard"].figures.registry.engine, [column, *others], [alert])
    text = page(client)
    assert "<details" not in text.partition('id="alerts"')[2].partition("</section>")[0], "one alert is shown in full"
    for words in (
        "<strong>1 of 3</strong>",
        "2 and above: 100.0% in the window",
        "below 1: 25.0% in the reference",
        "PSI 0.4",
        "2 other columns",
        "too few rows",
        "Drift of a</b>",
        "a is not what it was",
        "3 hours",
    ):
        assert words in text, words
    assert figures(client)["figures"]["alerts"][0]["text"] == "a is not what it was"


@pytest.mark.slow
def test_incidents_are_listed_with_cause_and_timeline_the_open_one_unfolded(app, client):
    engine = app.extensions["dashboard"].figures.registry.engine
    begin = datetime.now(UTC) - timedelta(days=2)
    update_alerts(engine, "toy", [Finding("performance", "accuracy", 0.1, "0.7 is low")], [], begin)
    update_alerts(engine, "toy", [], [("performance", "accuracy")], begin + timedelta(hours=5))
    monitor_says(engine, alerts=[{"kind": "drift", "subject": HOSTILE, "text": "a is not what it was"}])
    save_cause(engine, 2, RootCause("900 rows", 900, 900, [ColumnCause("a", 1.0, "a >= 2: 1% -> 9%")], []))
    text = page(client).partition('id="incidents"')[2].partition("</section>")[0]
    assert text.count("<details") == 2
    assert text.index('id="incident-2" open') < text.index('id="incident-1">')
    assert "changed inputs: a (a &gt;= 2: 1% -&gt; 9%)" in text
    assert HOSTILE not in text
    shown = figures(client)["figures"]["incidents"]
    kinds = [[e["kind"] for e in one["events"]] for one in shown]
    assert kinds == [["alert", "promotion"], ["alert", "over", "recovery"]], "production was moved meanwhile"


@pytest.mark.slow
def test_many_alerts_of_a_kind_are_one_line_the_worst_first_and_what_labels_say_comes_before(app, client):
    columns = [{"name": "1", "role": "probability", "drifted": True}]
    named = [(f"column {i}", f"says {i}") for i in range(9)]
    opened = [{"kind": "drift", "subject": subject, "text": text, "size": i} for i, (subject, text) in enumerate(named)]
    opened.append({"kind": "performance", "subject": "roc_auc", "text": "0.7, below the gate of 0.8"})
    monitor_says(app.extensions["dashboard"].figures.registry.engine, columns, opened)
    text = page(client)
    shown = text.partition('id="alerts"')[2].partition("</section>")[0]
    assert "Drift of column 8, column 7, column 6, column 5 and 5 more" in shown
    assert shown.count("<details") == 1
    assert "Mute" not in shown, "none of these is an input, so a spec could not mute it"
    places = [shown.index(words) for words in ("below the gate of 0.8", "Drift of", "says 8", "says 0")]
    assert places == sorted(places)
    assert text.index('id="tiles"') < text.index('id="alerts"') < text.index('id="quality-title"')
    assert "<b>probability of 1</b>" in text
    assert "<span>performance, drift</span>" in text, "kinds, the newest first"


@pytest.mark.parametrize(
    "histogram",
    [None, {}, 5, {"reference": [1]}, {"reference": [1], "window": [1, 2]}, {"reference": [], "window": []},
     {"reference": [None], "window": [1]}],
)  # fmt: skip
def test_histogram_that_cannot_be_drawn_is_left_out(histogram):
    assert draw(histogram) is None


def test_bars_are_shares_of_their_own_side_and_stay_inside():
    drawn = draw({"labels": ["x", "y"], "reference": [30, 10], "window": [0, 0]})
    heights = [bar["height"] for bar in drawn["bars"]]
    assert heights == [80.0, 0.5, pytest.approx(80 / 3, abs=0.01), 0.5]
    assert all(b["x"] >= 0 and b["x"] + b["width"] <= 300 and b["y"] + b["height"] == 80 for b in drawn["bars"])
    assert [drawn["first"], drawn["last"]] == ["x", "y"]
    ranges = draw({"edges": [0, 1, 25_000], "reference": [1, 1], "window": [1, 1]})
    assert (ranges["first"], ranges["last"], ranges["bars"][0]["title"]) == (
        "0",
        "25,000",
        "0 to 1: 50.0% in the reference",
    )


def test_failures_are_counted_in_the_minute_in_which_they_happened(monkeypatch):
    counts, now = {"200": 5, "400": 2, "500": 0}, [6000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    failures = ErrorHistory(
        lambda: {
            "": [("/predict", s, n) for s, n in counts.items()] + [("/", "500", 9), ("/dashboard/data.json", "401", 9)]
        }
    )
    failures.count()
    counts["500"], now[0] = 3, 6030.0
    failures.count()
    counts["400"], now[0] = 3, 6061.0
    failures.count()  # the minute 6060 begins with what was counted until it was looked at
    counts["400"], now[0] = 7, 6090.0
    over = failures.over(TimeBuckets(1, datetime.fromtimestamp(6090, UTC)))
    assert over["server"][-3:] == [None, 3, 0]
    assert over["client"][-3:] == [None, 1, 4]
    assert over["routes"] == [{"route": "/predict", "requests": 15, "statuses": {"200": 5, "400": 7, "500": 3}}]


# words of strangers


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, {name for name, _ in attributes}))


def tags(text: str) -> list:
    parser = _Tags()
    parser.feed(text)
    return parser.seen


@pytest.mark.slow
def test_words_of_strangers_are_never_markup(app, client, registry):
    before = {tag for tag, _ in tags(page(client))}
    registry.promote("toy", 2, reason=HOSTILE, actor=HOSTILE)
    column = {"name": HOSTILE, "kind": HOSTILE, "drifted": True, "reason": HOSTILE,
              "histogram": {"labels": [HOSTILE], "reference": [1], "window": [1]}}  # fmt: skip
    alert = {"kind": HOSTILE, "subject": HOSTILE, "text": HOSTILE}
    monitor_says(registry.engine, [column], [alert], version=2)
    log = PredictionLog(registry.engine)
    log.add([PredictionRecord("x", time.time(), "toy", 1, "production", 1.0, ["a"], [[1]], [HOSTILE])])
    client.post(f"/{HOSTILE}")
    text = page(client)
    assert text.count("&lt;script&gt;alert(1)") >= 9
    seen = tags(text)
    assert {tag for tag, _ in seen} - before <= {
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "svg",
        "rect",
        "div",
        "details",
        "summary",
    }
    assert "img" not in {tag for tag, _ in seen}
    assert sum(tag == "script" for tag, _ in seen) == 3
    assert not any(a.startswith("on") for _, names in seen for a in names)
    assert HOSTILE in figures(client)["figures"]["predictions"]["series"], "data is data; the page draws it as text"


def test_hostile_name_of_a_model_is_text(settings):
    app = create_app(Settings.read({"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": HOSTILE}))
    text = page(app.test_client())
    app.stop()
    assert "<title>&lt;/textarea&gt;&lt;script&gt;" in text
    assert "<script>alert" not in text


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
def test_page_asks_no_other_host_and_runs_no_inline_code(client, path):
    answer = client.get(path)
    policy, text = answer.headers["Content-Security-Policy"], answer.get_data(as_text=True)
    assert answer.status_code == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'none'" in policy
    if "uplot" not in path:
        assert "https://" not in text
        assert "http://" not in text.replace('"http://www.w3.org/2000/svg"', "")
    for tag, names in tags(text) if path == "/" else ():
        assert "style" not in names
        assert tag != "style"


# keys


@pytest.mark.slow
def test_page_is_open_and_what_it_shows_needs_the_key(client_with):
    client = client_with(MLOPS_API_KEYS=KEY, MLOPS_ADMIN_KEYS=ADMIN)
    assert [client.get(p).status_code for p in PAGES] == [200] * len(PAGES)
    assert client.get("/dashboard/data.json").status_code == 401
    locked = page(client)
    assert "toy" not in locked
    assert "This service needs a key" in locked
    assert "<tbody>" not in locked
    assert client.get("/", headers=bearer("x" * 20)).get_data(as_text=True) == locked
    for key, buttons in ((KEY, False), (ADMIN, True)):
        assert client.get("/dashboard/data.json", headers=bearer(key)).status_code == 200
        text = client.get("/", headers=bearer(key)).get_data(as_text=True)
        assert ("Promote</button>" in text) == buttons
        assert "Version 1</b>" in text
        assert ("With an admin key versions are promoted" in text) != buttons


def test_moves_need_an_admin_key(client_with, registry):
    client = client_with(MLOPS_API_KEYS=KEY, MLOPS_ADMIN_KEYS=ADMIN)
    body = {"version": 2, "expected": 1, "reason": "better"}
    for path, content in (("/admin/promote", body), ("/admin/rollback", {"expected": 1, "reason": "worse"})):
        assert client.post(path, json=content, headers=MOVE).status_code == 401
        assert client.post(path, json=content, headers=MOVE | bearer(KEY)).status_code == 403
    assert registry.version_of("toy") == 1
    assert client.post("/admin/promote", json=body, headers=MOVE | bearer(ADMIN)).status_code == 200
    assert registry.version_of("toy") == 2


def test_without_an_admin_key_nobody_moves_a_service_that_others_reach(client_with):
    for more in ({"MLOPS_API_KEYS": KEY}, {"MLOPS_ALLOW_ANONYMOUS": "true"}):
        client = client_with(**more)
        answer = client.post("/admin/promote", json={}, headers=MOVE | bearer(KEY))
        assert answer.status_code in (401, 403)


# moves


@pytest.mark.slow
def test_a_person_promotes_and_rolls_back_with_a_reason(client, registry, monkeypatch):
    monkeypatch.setattr(dashboard_figures, "FRESH_SECONDS", 60.0)
    assert client.get("/dashboard/data.json").get_json()["figures"]["previous_version"] is None
    body = {"version": 2, "expected": 1, "reason": " recall is better "}
    response = client.post("/admin/promote", json=body, headers=MOVE)
    assert response.status_code == 200
    assert response.get_json()["to_version"] == 2
    assert client.get("/dashboard/data.json").get_json()["figures"]["previous_version"] == 1, "a move is seen at once"
    assert "Roll back to version 1" in page(client)
    response = client.post("/admin/rollback", json={"expected": 2, "reason": "complaints"}, headers=MOVE).get_json()
    assert (response["from_version"], response["to_version"]) == (2, 1)
    moves = [(m.action, m.to_version, m.actor, m.reason) for m in registry.history("toy")[-2:]]
    assert moves == [("promote", 2, "dashboard", "recall is better"), ("rollback", 1, "dashboard", "complaints")]


def test_move_that_somebody_else_was_faster_with_is_refused(client, registry):
    registry.promote("toy", 2, reason="by somebody else")
    for path, body in (("promote", {"version": 2}), ("rollback", {})):
        answer = client.post(f"/admin/{path}", json=body | {"expected": 1, "reason": "x"}, headers=MOVE)
        assert (answer.status_code, answer.get_json()["code"]) == (409, "conflict")
        assert "is at version 2, not at version 1: it was moved meanwhile" in answer.get_json()["error"]
    assert registry.history("toy")[-1].reason == "by somebody else"


@pytest.mark.slow
def test_moves_that_cannot_be_are_refused_and_say_why(client, registry):
    with writing(registry.engine) as connection:
        connection.execute(sa.update(versions).where(versions.c.version == 2).values(gates_passed=False))
    for path, body, status, words in (
        ("promote", {"version": 2, "expected": 1}, 409, "did not pass its gates"),
        ("promote", {"version": 9, "expected": 1}, 404, "'toy' has no version 9"),
        ("rollback", {"expected": 1}, 409, "there is no earlier version to go back to"),
    ):
        answer = client.post(f"/admin/{path}", json=body | {"reason": "x"}, headers=MOVE)
        assert answer.status_code == status
        assert words in answer.get_json()["error"]
    assert registry.version_of("toy") == 1
    assert "failed</span>" in page(client)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [{"reason": ""}, {"reason": "  "}, {"reason": None}, {"reason": "x" * 1001}, {"reason": "\0"}, {"reason": ["x"]},
     {"version": "2"}, {"version": True}, {"version": 0}, {"version": 2.5}, {"expected": "1"}, {"expected": True},
     {"force": True}],
    ids=str,
)  # fmt: skip
def test_body_of_a_move_is_checked(client, registry, wrong):
    body = {"version": 2, "expected": 1, "reason": "x"}
    answer = client.post("/admin/promote", json=body | wrong, headers=MOVE)
    assert (answer.status_code, answer.get_json()["code"]) == (400, "bad_request")
    assert registry.version_of("toy") == 1
    missing = {k: v for k, v in body.items() if k not in wrong}
    if missing != body:
        assert client.post("/admin/promote", json=missing, headers=MOVE).status_code == 400


# other sites

BODY = {"version": 2, "expected": 1, "reason": "x"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"X-Dashboard": ""}, "needs the header X-Dashboard: move"),
        ({"X-Dashboard": "1"}, "needs the header X-Dashboard: move"),
        ({"Origin": "https://evil.example"}, "Origin is another host than Host"),
        ({"Origin": "null"}, "Origin is another host than Host"),
        ({"Origin": "http://localhost:81"}, "Origin is another host than Host"),
        ({"Origin": "http://localhost.evil.example"}, "Origin is another host than Host"),
        ({"Origin": ""}, "Origin is another host than Host"),
        ({"Sec-Fetch-Site": "cross-site"}, "'cross-site'"),
        ({"Sec-Fetch-Site": "same-site"}, "'same-site'"),
        ({"Sec-Fetch-Site": "none"}, "'none'"),
        ({"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, "localhost alone"),
    ],
)
def test_move_from_another_site_is_refused(client, registry, headers, words):
    for path in ("/admin/promote", "/admin/rollback"):
        answer = client.post(path, json=BODY, headers=MOVE | headers)
        assert (answer.status_code, answer.get_json()["code"]) == (403, "forbidden"), answer.get_json()
        assert words in answer.get_json()["error"]
    assert registry.version_of("toy") == 1


def test_form_of_another_site_cannot_move(client, registry):
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain"):
        content = '{"version": 2, "expected": 1, "reason": "x"}'
        assert client.post("/admin/promote", data=content, content_type=kind).status_code == 403
        assert client.post("/admin/promote", data=content, content_type=kind, headers=MOVE).status_code == 415
    assert registry.version_of("toy") == 1


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://localhost"}, {"Origin": "https://LOCALHOST", "Sec-Fetch-Site": "same-origin"},
     {"Host": "127.0.0.1:5000", "Origin": "http://127.0.0.1:5000"}, {"Host": "[::1]:5000", "Origin": "http://[::1]:5000"}],
)  # fmt: skip
def test_move_from_this_site_or_a_program_is_taken(client, registry, headers):
    assert client.post("/admin/promote", json=BODY, headers=MOVE | headers).status_code == 200
    assert registry.version_of("toy") == 2


def test_no_answer_lets_another_site_read_or_ask(client):
    for path in ("/", "/dashboard/data.json", "/admin/promote"):
        answer = client.open(path, method="OPTIONS", headers={"Origin": "https://evil.example"})
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


# a database that is away, and many who look


@pytest.mark.slow
def test_page_says_that_the_database_is_away_and_comes_back(app, client, monkeypatch):
    board = app.extensions["dashboard"].figures
    assert figures(client)["problem"] is None
    real = board._query

    def fail(span):
        raise sa.exc.OperationalError("SELECT secret", {}, Exception("/path/to/db"))

    monkeypatch.setattr(board, "_query", fail)
    result, text = figures(client), page(client)
    assert result["problem"] == "The database does not answer (OperationalError)."
    assert result["serving"]["version"] == 1
    assert result["figures"]["current"] == 1, "the last that was known"
    assert "The database does not answer (OperationalError)." in text
    assert "What is shown was true" in text
    assert "secret" not in text + str(result)
    assert "/path" not in text + str(result)
    monkeypatch.setattr(board, "_query", real)
    assert figures(client)["problem"] is None
    assert 'id="problem"' not in page(client)


def test_page_of_a_service_whose_database_never_answered(settings, tmp_path):
    home = {"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": "toy"}
    app = create_app(Settings.read(home | {"MLOPS_DATABASE_URL": "postgresql+psycopg://u:hunter22@127.0.0.1:1/none"}))
    client, began = app.test_client(), time.monotonic()
    text, result = page(client), figures(client)
    move = client.post("/admin/promote", json=BODY, headers=MOVE)
    assert time.monotonic() - began < 15
    assert "There are no figures until it does." in text
    assert "Not known while the database is away." in text
    assert result["figures"] is None
    assert "hunter22" not in text + str(result) + move.get_data(as_text=True)
    assert (move.status_code, move.get_json()["code"]) == (503, "no_database")
    app.stop()


def test_many_who_look_ask_the_database_once(settings, monkeypatch):
    board, asked = DashboardQueries(settings, "toy"), []
    monkeypatch.setattr(board, "_query", lambda span: asked.append(span.hours) or {"n": len(asked)})
    assert [board.read(1)[2:] for _ in range(20)] == [({"n": 1}, None)] * 20
    board.read(24)
    assert asked == [1, 24]
    monkeypatch.setattr(dashboard_figures, "FRESH_SECONDS", 0.0)
    board.invalidate()
    assert board.read(1).figures == {"n": 3}


def test_who_looks_while_somebody_asks_gets_the_last_answer_at_once(settings, monkeypatch):
    board = DashboardQueries(settings, "toy")
    monkeypatch.setattr(board, "_query", lambda span: {"n": 1})
    board.read(1)
    board.invalidate()
    began = time.monotonic()
    with board._lock:  # somebody asks
        assert board.read(1)[2:] == ({"n": 1}, None)
    assert time.monotonic() - began < 2


def test_database_that_is_slow_is_asked_less_often(settings, monkeypatch):
    board, clock = DashboardQueries(settings, "toy"), [0.0]
    monkeypatch.setattr("mlops_nb.serving.dashboard.queries.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(board, "_query", lambda span: clock.__setitem__(0, clock[0] + 2) or {"at": clock[0]})
    first = board.read(1)
    clock[0] += 19
    assert board.read(1) == first
    clock[0] += 2
    assert board.read(1) != first


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_question_to_postgresql_ends_in_time(database_url, monkeypatch):
    open_database(database_url).dispose()
    monkeypatch.setattr(dashboard_figures, "STATEMENT_TIMEOUT_SECONDS", 1)
    engine = dashboard_figures._connect(database_url)
    began = time.monotonic()
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError, match="statement timeout"):
        connection.execute(sa.text("SELECT pg_sleep(20)"))
    engine.dispose()
    assert time.monotonic() - began < 10


def test_labels_are_measured_against_the_gates_of_the_version_in_production(app, client, registry):
    require(registry.engine, roc_auc=0.9, accuracy=0.8)
    log, now = PredictionLog(registry.engine), time.time()
    sure = [[0.9, 0.1], [0.2, 0.8]] * 30
    log.add([PredictionRecord("f" * 28, now - 300, "toy", 1, "production", 2.0, ["a"], [[1]] * 60, [0, 1] * 30, sure)])
    log.add([LabelRecord(f"{'f' * 28}-{i}", i % 2, now) for i in range(60)])
    metrics = figures(client, hours=1)["figures"]["quality"]["metrics"]
    assert [(m["metric"], m["value"], m["gate"], m["rows"]) for m in metrics] == [
        ("roc_auc", 1.0, 0.9, 60),
        ("accuracy", 1.0, 0.8, 60),
    ]
