"""GET /: a page that says how the model does, the same as JSON, and the two moves that a person makes there."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from flask import Blueprint, Response, current_app, render_template, request
from flask.blueprints import BlueprintSetupState
from sqlalchemy.exc import SQLAlchemyError

from mlops_nb.display import format_number
from mlops_nb.errors import MlopsError
from mlops_nb.monitor.timeseries import WINDOWS, TimeBuckets
from mlops_nb.store.registry import AliasChange
from mlops_nb.settings import Settings, is_loopback
from mlops_nb.serving.http.auth import ForbiddenError
from mlops_nb.serving.http.moves import CSRF_HEADER, DASHBOARD_DATA, DEFAULT_HOURS, MAX_REASON_LENGTH
from mlops_nb.serving.http.static import SECURITY_HEADERS, send_static
from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.dashboard.queries import ErrorHistory, DashboardQueries
from mlops_nb.serving.dashboard.histogram import draw
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.telemetry.metrics import Metrics
from mlops_nb.serving.http.body import reject_unknown_keys, read_object

routes = Blueprint("dashboard", __name__, template_folder="templates")

ACTOR = "dashboard"  # In the registry's history
_STATIC = Path(__file__).parent / "static"
_HOURS = {str(hours): hours for hours in WINDOWS}  # As they are asked for
_FILES = {
    "style.css": ("dashboard.css", "text/css"),
    "script.js": ("dashboard.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "uplot.css": ("uplot/uPlot.min.css", "text/css"),
    "uplot.js": ("uplot/uPlot.iife.min.js", "text/javascript"),
}
for _path, (_name, _type) in _FILES.items():
    routes.add_url_rule(f"/dashboard/{_path}", _path.replace(".", "_"), partial(send_static, _STATIC / _name, _type))


class NoDatabaseError(MlopsError):
    """The database does not answer."""

    code = "no_database"


class Dashboard:
    """What the page shows of an application."""

    def __init__(self, settings: Settings, live: LiveModel, metrics: Metrics):
        self.live, self.figures, self.failures = live, DashboardQueries(settings, live.name), ErrorHistory(metrics.requests)

    def start(self):
        """Begin to note the counts of errors."""
        self.failures.start()

    def stop(self):
        """Let the database go."""
        self.failures.stop()
        self.figures.close()

    def view(self, hours: float) -> dict:
        """All of it, as plain values."""
        figures, problem = self.figures.look(hours)
        state, span = self.live.state, TimeBuckets(hours)
        answering = state.production
        serving = {
            "version": answering and answering.version,
            "engine": answering and answering.engine.name,
            "output": answering and answering.signature.output,
            "task": answering and answering.signature.task,
            "roles": state.roles,
            "problem": state.problem,
            "from_cache": state.from_cache,
            "refused": [{"version": v, "reason": reason} for v, reason in sorted(state.refused.items())],
            "rolled_back": state.rolled_back,
        }
        asked = {"model": self.live.name, "hours": hours, "bucket_seconds": span.seconds, "now": datetime.now(UTC)}
        return {**asked, "problem": problem, "serving": serving, "errors": self.failures.over(span), "figures": figures}


@routes.record_once
def _attach(state: BlueprintSetupState):
    """Give an application with this blueprint its dashboard."""
    extensions = state.app.extensions
    extensions["dashboard"] = Dashboard(extensions["settings"], extensions["live_model"], extensions["metrics"])


def _dashboard() -> Dashboard:
    return current_app.extensions["dashboard"]


@routes.get("/")
def page() -> Response:
    """The page; without a key that is needed, only the question for it."""
    keys, environ = current_app.extensions["keys"], request.environ
    hours = _HOURS.get(request.args.get("hours"), DEFAULT_HOURS)
    allowed = keys.is_allowed(DASHBOARD_DATA, environ)
    view = _dashboard().view(hours) if allowed else None
    moves = allowed and keys.is_allowed("/admin/promote", environ)
    shown = {"view": view, "hours": hours, "windows": WINDOWS, "moves": moves, "draw": draw, "ago": _ago, "at": _at}
    text = render_template("dashboard.html", **shown, number=format_number)
    return Response(text, headers={**SECURITY_HEADERS, "Cache-Control": "no-store"}, content_type="text/html; charset=utf-8")


@routes.get(DASHBOARD_DATA)
def data() -> Response:
    """What the page shows, in JSON."""
    given = request.args.get("hours", str(DEFAULT_HOURS))
    if given not in _HOURS or request.args.keys() - {"hours"}:
        raise RequestError(f"'hours' must be one of {', '.join(map(str, WINDOWS))}, and there is nothing else to ask.")
    answer = to_json(_dashboard().view(_HOURS[given]))
    answer.headers["Cache-Control"] = "no-store"
    return answer


@routes.post("/admin/promote")
def promote() -> Response:
    """Point production to a version, if it still is where the person saw it."""
    body = _move_of({"version", "expected", "reason"})
    version = body["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RequestError("'version' must be the number of a version.")
    return _make(lambda registry, **facts: registry.promote(_dashboard().live.name, version, **facts), body)


@routes.post("/admin/rollback")
def rollback() -> Response:
    """Point production to where it was before, if it still is where the person saw it."""
    body = _move_of({"expected", "reason"})
    return _make(lambda registry, **facts: registry.rollback(_dashboard().live.name, **facts), body)


def _make(move, body: dict) -> Response:
    """Move, and show it at once."""
    figures = _dashboard().figures
    try:
        made: AliasChange = move(figures.registry, actor=ACTOR, reason=body["reason"].strip(), expected=body["expected"])
    except SQLAlchemyError as e:
        raise NoDatabaseError(f"The database does not answer ({type(e).__name__}); nothing was moved.") from e
    finally:
        figures.forget()
    keys = ("alias", "action", "from_version", "to_version", "actor", "reason", "at")
    return to_json({key: getattr(made, key) for key in keys})


def _move_of(keys: set[str]) -> dict:
    """The body of a move that comes from the page itself, or from a program, and from no other site."""
    _refuse_other_sites()
    body = read_object('{"expected": 1, "reason": "..."}')
    reject_unknown_keys(body, keys)
    if missing := sorted(keys - body.keys()):
        raise RequestError(f"The body has no {missing[0]!r}; it must have {', '.join(map(repr, sorted(keys)))}.")
    expected, reason = body["expected"], body["reason"]
    if expected is not None and (not isinstance(expected, int) or isinstance(expected, bool)):
        raise RequestError("'expected' must be the version that is in production now, or null.")
    if not isinstance(reason, str) or not reason.strip() or len(reason) > MAX_REASON_LENGTH or "\0" in reason:
        raise RequestError(f"'reason' must be the reason, in 1 to {MAX_REASON_LENGTH} characters: it goes into the history.")
    return body


def _refuse_other_sites():
    """A browser that is led here by another site says so, or may not send the header."""
    headers, keys = request.headers, current_app.extensions["keys"]
    if headers.get(CSRF_HEADER) != "move":
        raise ForbiddenError(f"A move needs the header {CSRF_HEADER}: move, which no other site can send.")
    if (site := headers.get("Sec-Fetch-Site")) not in (None, "same-origin"):
        raise ForbiddenError(f"A move is taken from this site alone; the browser says that it is {site[:20]!r}.")
    origin = headers.get("Origin")
    if origin is not None and origin.lower().partition("://")[2] != request.host.lower():
        raise ForbiddenError(
            "A move is taken from this site alone; Origin is another host than Host. A proxy must hand on Host."
        )
    # else a name of another site that was made to point here would do
    if not keys.has_any and not is_loopback(_host_name(request.host)):
        raise ForbiddenError("Without keys a move is taken at localhost alone. Set MLOPS_ADMIN_KEYS.")


def _host_name(host: str) -> str:
    """Host without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


# how the page says things


def _at(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M} UTC"


def _ago(value: datetime) -> str:
    """How long ago, in the largest unit that says something."""
    seconds = max(0.0, (datetime.now(UTC) - value).total_seconds())
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {unit}{'s' * (n > 1)}"
    return "less than a minute"
