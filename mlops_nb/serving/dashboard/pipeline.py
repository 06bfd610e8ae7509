"""GET /pipeline: the way from the source to production and back, as it happens, and buttons that make it happen."""

# more than 300 lines: one page with its commands; what it draws is in pipeline_graph
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

from flask import Blueprint, Response, current_app, render_template, request

from mlops_nb.display import format_number
from mlops_nb.model.metrics import display_name, display_value
from mlops_nb.errors import MlopsError, NotFoundError, PipelineError
from mlops_nb.orchestration.background import BackgroundCommands, last_lines
from mlops_nb.orchestration.build import build_command
from mlops_nb.orchestration.parameters import TASKS, parameter_fields, read_parameters
from mlops_nb.orchestration.run_stages import Stage, compare_metrics, compare_slices, run_stages
from mlops_nb.serving.dashboard.pipeline_graph import draw_curves, draw_metric, draw_tall, draw_wide
from mlops_nb.serving.dashboard.views import (
    address_of,
    as_page,
    format_ago,
    format_at,
    format_count,
    refuse_other_sites,
)
from mlops_nb.serving.http.body import read_object, reject_unknown_keys
from mlops_nb.serving.http.errors import RequestError, to_json
from mlops_nb.serving.http.moves import DASHBOARD_DATA
from mlops_nb.serving.http.static import SECURITY_HEADERS, send_static
from mlops_nb.serving.http.tickets import Tickets
from mlops_nb.serving.inference.live_model import LiveModel
from mlops_nb.serving.inference.models import model_of_query
from mlops_nb.settings import Settings
from mlops_nb.store.runs import RUN_ID_VARIABLE, RunStore

routes = Blueprint("pipeline", __name__, template_folder="templates")
_STATIC = Path(__file__).parent / "static"
for _name, _type in {"pipeline.css": "text/css", "pipeline.js": "text/javascript"}.items():
    routes.add_url_rule(f"/pipeline/{_name}", _name.replace(".", "_"), partial(send_static, _STATIC / _name, _type))

HOURS = 1  # of production, in the figures of the loop
RATE = 100  # rows a second of a scenario
SCENARIO_ROWS = 2000
CHECK_SECONDS = 10  # between two checks of a watch that the page starts
BACKOFF = "30s"  # after a refused version: whoever watches the page sends rows by the thousand, not by the day
MAX_RUNS = 50  # shown at most
SORTED_BY = ("started", "seconds", "metric", "version")


class PipelinePage:
    """What the page shows of one model, and the commands that it starts."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.runs, self.commands = RunStore(Path(settings.runs)), BackgroundCommands(settings)
        self.tickets = Tickets(settings)

    @property
    def can_build(self) -> bool:
        """Whether the pipeline is installed here, with a project."""
        return (self.settings.home / "pipeline.yaml").is_file() and find_spec("ploomber") is not None

    def view(self, live: LiveModel, query: Mapping) -> dict:
        """Return all that the page shows, as plain values."""
        production = current_app.extensions["dashboard"].of(live).view(HOURS)
        commands = self.commands.records(live.name)
        records = _with_commands(self.runs.list(live.name), commands)
        record = next((r for r in records if r["id"] == query.get("run")), records[0] if records else None)
        running = {c["kind"]: c for c in commands if c["state"] == "running"}
        stages = [*run_stages(record or _NO_RUN), *_loop_stages(production, running)]
        chosen = query.get("stage") if query.get("stage") in {s.name for s in stages} else None
        metrics = (production["figures"] or {}).get("quality", {}).get("metrics", [])
        marks = (production["figures"] or {}).get("marks", [])
        return {
            "model": live.name,
            "now": datetime.now(UTC),
            "problem": production["problem"],
            "figures": production["figures"],
            "run": record,
            "stages": stages,
            "drawings": [draw_wide(stages), draw_tall(stages)],
            "charts": [chart for m in metrics if m["gate"] is not None and (chart := draw_metric(m, marks))][:2],
            "stage": next((s for s in stages if s.name == chosen), None),
            "log": self._log(record, commands),
            "runs": _sorted(records, query)[:MAX_RUNS],
            "compared": self._compare(query.get("compare", "")),
            "running": running,
            "latest": commands[0] if commands else None,
            "scenarios": [*dict.fromkeys(["good", *(record or {}).get("scenarios", [])])],
        }

    def _log(self, record: Mapping | None, commands: list[dict]) -> list[str]:
        """Return the last lines of the build that runs, else of the shown run's."""
        run = record["id"] if record else None
        builds = [c for c in commands if c["kind"] == "build"]
        shown = next((c for c in builds if c["state"] == "running"), None)
        shown = shown or next((c for c in builds if run and c["run"] == run), None)
        if shown is not None:
            return self.commands.last_lines(shown["id"])
        path = self.runs.folder / run / "build.log" if run else None
        return last_lines(path) if path and path.is_file() else []

    def _compare(self, given: str) -> dict | None:
        """Return two runs side by side; None where the query does not name two."""
        ids = given.split(",")
        if len(ids) != 2:
            return None
        with suppress(NotFoundError):
            records = [self.runs.get(i).record for i in ids]
            differences = self.runs.compare(*ids)
            slices, curves = compare_slices(records), draw_curves(records)
            metrics = compare_metrics(records)
            return {"runs": records, "metrics": metrics, "slices": slices, "curves": curves, "differences": differences}
        return None

    def start(self, live: LiveModel, kind: str, parameters: Mapping) -> dict:
        """Start a build, traffic of a scenario or a watch."""
        program = str(Path(sys.executable).parent / "mlops-nb")
        environment = {"MPLBACKEND": "agg", "PLOOMBER_STATS_ENABLED": "false"}
        if kind == "build":
            return self._build(live, parameters, environment)
        if kind == "watch":
            words = [
                program,
                "watch",
                live.name,
                "--every",
                str(CHECK_SECONDS),
                "--rows",
                str(SCENARIO_ROWS),
                "--backoff",
                BACKOFF,
            ]
            return self.commands.start(kind, live.name, words, environment)
        several = not current_app.extensions["models"].is_single
        url = f"http://127.0.0.1:{request.environ['SERVER_PORT']}" + (f"/models/{live.name}" if several else "")
        words = [
            program,
            "traffic",
            live.name,
            "--scenario",
            kind,
            "--rows",
            str(SCENARIO_ROWS),
            "--rate",
            str(RATE),
            "--url",
            url,
        ]
        return self.commands.start("traffic", live.name, words, environment, scenario=kind)

    def _build(self, live: LiveModel, parameters: Mapping, environment: Mapping) -> dict:
        try:
            given = read_parameters(parameters, self.settings.home)
        except PipelineError as e:
            raise RequestError(str(e)) from e
        run = self.runs.new().id
        words = build_command({"spec": self._spec_of(live), **given})
        return self.commands.start("build", live.name, words, {**environment, RUN_ID_VARIABLE: run}, run=run)

    def _spec_of(self, live: LiveModel) -> str:
        """Return the module of a model's spec: of its latest build, else of the version in production."""
        for record in self.runs.list(live.name):
            if record.get("spec"):
                return record["spec"]
        registry = current_app.extensions["dashboard"].of(live).figures.registry
        return registry.get(live.name, "production").manifest["code"]["spec"]


def _with_commands(records: list[dict], commands: Sequence[Mapping]) -> list[dict]:
    """Return the records of runs, newest first, with the builds that ended before their record began."""
    known = {r["id"] for r in records}
    found = [_unrecorded(c) for c in commands if c["kind"] == "build" and c["run"] not in known]
    return sorted([*records, *found], key=lambda r: r["id"], reverse=True)


def _unrecorded(command: Mapping) -> dict:
    """Return what is known of a build whose record did not begin: it starts, it was cancelled, or it failed."""
    state = {"running": "starting", "stopped": "interrupted", "failed": "failed"}.get(command["state"], "interrupted")
    error = {"interrupted": "Cancelled before its first task.", "failed": command.get("error") or _SEE_LINES}.get(state)
    known = {"id": command["run"], "model": command["model"], "started": command["started"]}
    return {**known, "state": state, "error": error, "is_recorded": False}


_SEE_LINES = "It failed before its first task; see the last lines that it printed."
_NO_RUN = {"id": None, "state": "new"}


def _loop_stages(production: Mapping, running: Mapping) -> list[Stage]:
    """Return the stages behind a build: serve, monitor, retrain."""
    figures, serving = production["figures"], production["serving"]
    version = serving["version"]
    if figures is None:
        return [
            Stage("serve", "good" if version else "waiting"),
            Stage("monitor", "unknown"),
            Stage("retrain", "unknown"),
        ]
    latency = [v for v in figures["traffic"]["p95"] if v is not None]
    load = (
        ("p95 latency", f"{latency[-1]:.3g} ms")
        if latency
        else ("requests", format_number(sum(figures["traffic"]["requests"])))
    )
    served = "bad" if figures["versions"] else "waiting"  # without a version there is nothing to refuse
    check, alerts = figures["health"], figures["alerts"]
    state = _MONITOR_STATES.get(check["status"], "unknown") if check else "bad" if alerts else "waiting"
    ago = format_ago(check["at"]) if check else ""
    watched = [("checked", "just now" if ago.startswith("less") else f"{ago} ago")] if check else []
    decided = figures["decisions"][-1] if figures["decisions"] else None
    last = [("decision", decided["action"]), ("at", format_at(decided["at"])[5:16])] if decided else []
    return [
        Stage("serve", "good" if version else served, None, (("version", str(version or "none")), load)),
        Stage(
            "monitor",
            "running" if "watch" in running and not check else state,
            None,
            (*watched, ("open alerts", str(len(alerts)))),
        ),
        Stage(
            "retrain", _RETRAIN_STATES.get(decided["action"], "waiting") if decided else "waiting", None, tuple(last)
        ),
    ]


_MONITOR_STATES = {"healthy": "good", "alert": "bad"}
_RETRAIN_STATES = {
    "building": "running",
    "promoted": "good",
    "canary": "good",
    "registered": "good",
    "failed": "bad",
    "refused": "bad",
}


def _sorted(records: list[dict], query: Mapping) -> list[dict]:
    """Return the runs of a state in an order, both as the query names them."""
    state, key, is_up = query.get("state"), query.get("sort", "started"), query.get("order") == "up"
    kept = [r for r in records if state in (None, "", r["state"])]
    if key not in SORTED_BY[1:]:
        return kept[::-1] if is_up else kept
    found = [(_first_metric(r) if key == "metric" else r.get(key), r) for r in kept]
    known = [(value, r) for value, r in found if value is not None]
    return [r for _, r in sorted(known, key=lambda pair: pair[0], reverse=not is_up)] + [
        r for value, r in found if value is None
    ]


def _first_metric(record: Mapping) -> float | None:
    """Return the value of the deciding metric."""
    return next(iter((record.get("metrics") or {}).values()), None)


@routes.record_once
def _attach(state):
    """Give an application with this blueprint its page."""
    state.app.extensions["pipeline"] = PipelinePage(state.app.extensions["settings"])


def _page() -> PipelinePage:
    return current_app.extensions["pipeline"]


@routes.get("/pipeline")
def show() -> Response:
    """Return the page; without a required key, only its form for the key."""
    keys, page = current_app.extensions["keys"], _page()
    allowed = keys.is_allowed(DASHBOARD_DATA, request.environ)
    view = page.view(model_of_query(), request.args) if allowed else None
    is_admin = allowed and keys.is_allowed("/pipeline/commands", request.environ)
    can_act = is_admin and page.can_build
    fields = parameter_fields(page.settings.home) if can_act else []
    several = not current_app.extensions["models"].is_single
    context = {
        "view": view,
        "several": several,
        "can_act": can_act,
        "can_build": page.can_build,
        "fields": fields,
        "number": format_number,
    }
    context |= {
        "ago": format_ago,
        "at": format_at,
        "link": _link,
        "tasks": TASKS,
        "sorted_by": SORTED_BY,
        "named": display_name,
        "shown": display_value,
        "counted": format_count,
        "clock": _format_clock,
    }
    context |= {"is_admin": is_admin, "notebook": _notebook_url}  # a notebook shows rows of the data
    return as_page(render_template("pipeline.html", **context), frames=True)


def _format_clock(second: float) -> str:
    """Return the time of a second since 1970, UTC."""
    return f"{datetime.fromtimestamp(second, UTC):%H:%M}"


def _link(**changes) -> str:
    """Return the address of the page with some of its query changed; None takes a part out."""
    return address_of("pipeline", **{**request.args, **changes})


def _notebook_url(run: str, task: str) -> str | None:
    """Return the address of an executed notebook for ten minutes; None where the run has none."""
    if not (_page().runs.folder / run / "notebooks" / f"{task}.ipynb").is_file():
        return None
    return address_of("pipeline/notebook", run=run, task=task, ticket=_page().tickets.issue(f"{run}/{task}"))


@routes.get("/pipeline/notebook")
def notebook() -> Response:
    """Return an executed notebook as a page without scripts, which may load nothing."""
    run, task, ticket = (request.args.get(name, "") for name in ("run", "task", "ticket"))
    _page().tickets.require(f"{run}/{task}", ticket)
    found = _page().runs.get(run)
    path = found.folder / "notebooks" / f"{task}.ipynb"
    if task not in TASKS or not path.is_file():
        raise NotFoundError(f"Run {found.id} has no executed notebook {task[:40]!r}.")
    return Response(
        _render(path, path.stat().st_mtime_ns), headers=_NOTEBOOK_HEADERS, content_type="text/html; charset=utf-8"
    )


_NOTEBOOK_HEADERS = {
    **SECURITY_HEADERS,
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'",
    "Cache-Control": "no-store",
}


@lru_cache(maxsize=16)
def _render(path: Path, _changed: int) -> str:
    """Return a notebook as HTML."""
    try:
        from nbconvert import HTMLExporter
    except ImportError as e:
        raise NoRendererError("nbconvert is not installed here; open the notebook in JupyterLab.") from e
    return _SCRIPT.sub("", HTMLExporter(template_name="lab").from_filename(str(path))[0])


_SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE)  # a sandbox runs none


class NoRendererError(MlopsError):
    """The package that renders notebooks is missing."""

    code = "not_found"


@routes.post("/pipeline/commands")
def start() -> Response:
    """Start a build, traffic of a scenario, or a watch."""
    refuse_other_sites()
    body = read_object('{"kind": "build", "parameters": {"seed": 3}}')
    reject_unknown_keys(body, {"kind", "parameters"})
    kind, parameters = body.get("kind"), body.get("parameters", {})
    if not isinstance(kind, str) or not kind or kind.startswith("-") or len(kind) > 100:
        raise RequestError("'kind' must be build, watch, or a scenario of the model's spec, such as good.")
    if not isinstance(parameters, dict):
        raise RequestError("'parameters' must be an object of names and values, such as {\"seed\": 3}.")
    if not _page().can_build:
        raise NotFoundError("The pipeline is not installed here: there is no pipeline.yaml, or no ploomber.")
    return to_json(_page().start(model_of_query(), kind, parameters), 202)


@routes.post("/pipeline/commands/stop")
def stop() -> Response:
    """Ask for the end of a command."""
    refuse_other_sites()
    body = read_object('{"id": "..."}')
    reject_unknown_keys(body, {"id"})
    if not isinstance(body.get("id"), str):
        raise RequestError("'id' must be the id of a command.")
    _page().commands.stop(body["id"])
    return to_json(_page().commands.get(body["id"]), 202)
