"""GET /: the dashboard, its data as JSON, and promotion and rollback."""

# more than 300 lines: the pages of one model and of several, their data, and the moves that they make
import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

from flask import Blueprint, Response, current_app, render_template, request
from flask.blueprints import BlueprintSetupState
from sqlalchemy.exc import SQLAlchemyError

from mlops_nb.display import format_number
from mlops_nb.errors import MlopsError
from mlops_nb.monitor.time_buckets import WINDOWS, TimeBuckets
from mlops_nb.store.registry import AliasChange
from mlops_nb.settings import Settings
from mlops_nb.serving.http.auth import ForbiddenError
from mlops_nb.serving.http.moves import CSRF_HEADER, DASHBOARD_DATA, DEFAULT_HOURS, MAX_REASON_LENGTH
from mlops_nb.serving.http.static import SECURITY_HEADERS, send_static
from mlops_nb.serving.http.tickets import Tickets
from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.dashboard.queries import AlertQueries, DashboardQueries, ErrorHistory, ModelState
from mlops_nb.serving.dashboard.histogram import draw
from mlops_nb.serving.dashboard.model_card import render_card
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.inference.models import ServedModels, model_of_query
from mlops_nb.serving.telemetry.metrics import Metrics
from mlops_nb.serving.http.body import reject_unknown_keys, read_object

routes = Blueprint("dashboard", __name__, template_folder="templates")

ACTOR = "dashboard"  # in the registry's history
_STATIC = Path(__file__).parent / "static"
_HOURS = {str(hours): hours for hours in WINDOWS}  # as in the query
_FILES = {
    "style.css": ("dashboard.css", "text/css"),
    "script.js": ("dashboard.js", "text/javascript"),
    "live.js": ("live.js", "text/javascript"),
    "models.js": ("models.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "uplot.css": ("uplot/uPlot.min.css", "text/css"),
    "uplot.js": ("uplot/uPlot.iife.min.js", "text/javascript"),
}
for _path, (_name, _type) in _FILES.items():
    routes.add_url_rule(f"/dashboard/{_path}", _path.replace(".", "_"), partial(send_static, _STATIC / _name, _type))


class NoDatabaseError(MlopsError):
    """The database is unavailable."""

    code = "no_database"


class Dashboard:
    """The data of the dashboard of one model."""

    def __init__(self, settings: Settings, live: LiveModel, failures: ErrorHistory, label: str = ""):
        self.live, self.figures, self.failures = live, DashboardQueries(settings, live.name), failures
        self._label = label  # of the model's requests in the metrics

    def view(self, hours: float) -> dict:
        """Return all that the page shows of the last hours, as plain values."""
        state, span = self.live.state, TimeBuckets(hours)
        cached = self.figures.read(hours, state.aliases.get("production"))
        predictor = state.production
        serving = {
            "version": predictor and predictor.version,
            "engine": predictor and predictor.engine.name,
            "output": predictor and predictor.signature.output,
            "task": predictor and predictor.signature.task,
            "inputs": predictor and predictor.signature.names,
            "roles": state.roles,
            "problem": state.problem,
            "from_cache": state.from_cache,
            "refused": [{"version": v, "reason": reason} for v, reason in sorted(state.refused.items())],
            "rolled_back": state.rolled_back,
        }
        query = {"model": self.live.name, "hours": hours, "bucket_seconds": span.seconds, "now": datetime.now(UTC)}
        errors = self.failures.over(span, self._label)
        return {**query, "problem": cached.problem, "serving": serving, "errors": errors, "figures": cached.figures}


class Dashboards:
    """The dashboards of one application: one a model, and the index of several."""

    def __init__(self, settings: Settings, models: ServedModels, metrics: Metrics):
        self.settings, self.models, self.tickets = settings, models, Tickets(settings)
        self.failures = ErrorHistory(metrics.requests_by_model, metrics.health_routes)
        self._index = AlertQueries(settings)
        self._by_name: dict[str, Dashboard] = {}
        self._lock = threading.Lock()

    def start(self):
        """Start to record the counts of errors."""
        self.failures.start()

    def stop(self):
        """Close the connections to the database."""
        self.failures.stop()
        self._index.close()
        for dashboard in self._by_name.values():
            dashboard.figures.close()

    @property
    def figures(self) -> DashboardQueries:
        """The figures of the service's first model."""
        return self.of(self.models.default()).figures

    def of(self, live: LiveModel) -> Dashboard:
        """Return the dashboard of a model."""
        with self._lock:
            known = self._by_name.get(live.name)
            if known is None or known.live is not live:
                label = "" if self.models.is_single else live.name
                known = self._by_name[live.name] = Dashboard(self.settings, live, self.failures, label)
            return known

    def index(self) -> dict:
        """Return all that the page of several models shows, as plain values."""
        states, problem = self._index.read()
        found = []
        for live in list(self.models.by_name.values()):
            by_route, (client, server), _ = self.failures.count(live.name)
            served = live.state.production
            found.append({
                "name": live.name,
                "version": served.version if served else live.state.aliases.get("production"),
                "roles": live.state.roles,
                "state": self.models.state_of(live),
                "reason": self.models.reason_of(live),
                "requests": sum(route["requests"] for route in by_route),
                "client": client,
                "server": server,
                "alerts": None if states is None else states.get(live.name, _NO_STATE).alerts,
                "check": None if states is None else states.get(live.name, _NO_STATE).check,
            })  # fmt: skip
        return {"models": sorted(found, key=lambda m: m["name"]), "problem": problem, "now": datetime.now(UTC)}


_NO_STATE = ModelState(0, None)


@routes.record_once
def _attach(state: BlueprintSetupState):
    """Give an application with this blueprint its dashboards."""
    extensions = state.app.extensions
    extensions["dashboard"] = Dashboards(extensions["settings"], extensions["models"], extensions["metrics"])


def _dashboard() -> Dashboard:
    """Return the dashboard of the model that `?model=` names, or of the service's first."""
    return current_app.extensions["dashboard"].of(model_of_query())


@routes.get("/")
def page() -> Response:
    """Return the page of a model, or of several their index; without a required key, only its form for the key."""
    keys, environ = current_app.extensions["keys"], request.environ
    models: ServedModels = current_app.extensions["models"]
    several, model = not models.is_single, request.args.get("model")
    if several and model is None:
        allowed = keys.is_allowed(DASHBOARD_DATA, environ)
        view = current_app.extensions["dashboard"].index() if allowed else None
        more = {"counted": format_count, "pipeline": "pipeline" in current_app.blueprints}
        return as_page(render_template("models.html", view=view, number=format_number, at=format_at, **more))
    hours = _HOURS.get(request.args.get("hours", ""), DEFAULT_HOURS)
    allowed = keys.is_allowed(DASHBOARD_DATA, environ)
    view = _dashboard().view(hours) if allowed else None
    moves = allowed and keys.is_allowed("/admin/promote", environ)
    context = {
        "view": view,
        "hours": hours,
        "windows": WINDOWS,
        "moves": moves,
        "draw": draw,
        "ago": format_ago,
        "at": format_at,
    }
    context |= {"period": _period, "several": several, "model": model, "counted": format_count}
    context |= {"pipeline": "pipeline" in current_app.blueprints, "card_url": _card_url, "has_run": _has_run}
    return as_page(render_template("dashboard.html", **context, number=format_number))


def _card_url(version: int) -> str:
    """Return the address of the model card of a version, for ten minutes."""
    board, live = current_app.extensions["dashboard"], model_of_query()
    model, ticket = None if board.models.is_single else live.name, board.tickets.issue(f"card/{live.name}/{version}")
    return address_of("dashboard/card", model=model, version=version, ticket=ticket)


def address_of(path: str, **query) -> str:
    """Return an address beside the page, as a proxy may serve it below a path of its own; None is no part of it."""
    given = {k: v for k, v in query.items() if v is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _has_run(run: str | None) -> bool:
    """Whether the record of a run is here, which the page of the pipeline shows."""
    page = current_app.extensions.get("pipeline")
    return bool(run) and page is not None and (page.runs.folder / run / "run.json").is_file()


@routes.get("/dashboard/card")
def card() -> Response:
    """Return the model card of a version as a page."""
    live, version, board = model_of_query(), request.args.get("version", ""), current_app.extensions["dashboard"]
    board.tickets.require(f"card/{live.name}/{version}", request.args.get("ticket", ""))
    registry = board.of(live).figures.registry
    text = render_card(registry.fetch(registry.get(live.name, int(version))))
    model = None if board.models.is_single else live.name
    return as_page(render_template("card.html", card=text, name=live.name, version=version, model=model))


def as_page(text: str, frames: bool = False) -> Response:
    """Return HTML as a response; `frames` says whether it may have frames of this service in it."""
    headers = {**SECURITY_HEADERS, "Cache-Control": "no-store"}
    if frames:
        headers["Content-Security-Policy"] += "; frame-src 'self'"
    return Response(text, headers=headers, content_type="text/html; charset=utf-8")


@routes.get(DASHBOARD_DATA)
def data() -> Response:
    """Return what the page shows as JSON."""
    given = request.args.get("hours", str(DEFAULT_HOURS))
    if given not in _HOURS:
        raise RequestError(f"'hours' must be one of {', '.join(map(str, WINDOWS))}, got {given[:40]!r}.")
    response = to_json(_dashboard().view(_HOURS[given]))
    response.headers["Cache-Control"] = "no-store"
    return response


@routes.post("/admin/promote")
def promote() -> Response:
    """Promote a version, if production is still the version that the person saw."""
    body = _read_change({"version", "expected", "reason"})
    version = body["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RequestError("'version' must be the number of a version.")
    return _apply(lambda registry, **why: registry.promote(_dashboard().live.name, version, **why), body)


@routes.post("/admin/rollback")
def rollback() -> Response:
    """Roll production back, if it is still the version that the person saw."""
    body = _read_change({"expected", "reason"})
    return _apply(lambda registry, **why: registry.rollback(_dashboard().live.name, **why), body)


def _apply(change, body: dict) -> Response:
    """Change the alias, and show it at once."""
    figures = _dashboard().figures
    try:
        made: AliasChange = change(
            figures.registry, actor=ACTOR, reason=body["reason"].strip(), expected=body["expected"]
        )
    except SQLAlchemyError as e:
        raise NoDatabaseError(f"The database does not answer ({type(e).__name__}); nothing was changed.") from e
    finally:
        figures.invalidate()
    keys = ("alias", "action", "from_version", "to_version", "actor", "reason", "at")
    return to_json({key: getattr(made, key) for key in keys})


def _read_change(keys: set[str]) -> dict:
    """Return the body of a change, which must come from the page itself or a program, and from no other site."""
    refuse_other_sites()
    body = read_object('{"expected": 1, "reason": "..."}')
    reject_unknown_keys(body, keys)
    if missing := sorted(keys - body.keys()):
        raise RequestError(f"The body has no {missing[0]!r}; it must have {', '.join(map(repr, sorted(keys)))}.")
    expected, reason = body["expected"], body["reason"]
    if expected is not None and (not isinstance(expected, int) or isinstance(expected, bool)):
        raise RequestError("'expected' must be the version in production now, or null.")
    if not isinstance(reason, str) or not reason.strip() or len(reason) > MAX_REASON_LENGTH or "\0" in reason:
        raise RequestError(
            f"'reason' must be the reason, in 1 to {MAX_REASON_LENGTH} characters: it goes into the history."
        )
    return body


def refuse_other_sites():
    """Raise `ForbiddenError` for a change that another site may have caused; stricter than the check of every request."""
    headers = request.headers
    if headers.get(CSRF_HEADER) != "move":
        raise ForbiddenError(f"A change needs the header {CSRF_HEADER}: move, which no other site can send.")
    if (site := headers.get("Sec-Fetch-Site")) not in (None, "same-origin"):
        raise ForbiddenError(f"A change is accepted from this site alone; the browser says that it is {site[:20]!r}.")


# formats of the page


def format_at(value: datetime) -> str:
    """Return a time in UTC, to the minute."""
    return f"{value:%Y-%m-%d %H:%M} UTC"


def _period(since: datetime, until: datetime) -> str:
    """Return begin and end of a window; the day once where it is the same."""
    if f"{since:%Y-%m-%d %H:%M}" == f"{until:%Y-%m-%d %H:%M}":
        return f"{since:%Y-%m-%d %H:%M}"
    end = f"{until:%H:%M}" if since.date() == until.date() else f"{until:%Y-%m-%d %H:%M}"
    return f"{since:%Y-%m-%d %H:%M} to {end}"


def format_count(n: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun."""
    return f"{format_number(n)} {noun if n == 1 else plural or f'{noun}s'}"


def format_ago(value: datetime) -> str:
    """Return how long ago, in the largest unit of at least one."""
    seconds = max(0.0, (datetime.now(UTC) - value).total_seconds())
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {unit}{'s' * (n > 1)}"
    return "less than a minute"
