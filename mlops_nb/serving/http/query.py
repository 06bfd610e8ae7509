"""The parameters in the query of a request: those that a route takes, each once, and no others."""

from flask import request

from mlops_nb.errors import known_names
from mlops_nb.serving.http.auth import LEVELS
from mlops_nb.serving.http.errors import RequestError
from mlops_nb.serving.http.moves import DASHBOARD_DATA
from mlops_nb.serving.http.probes import MODEL_PROBES

TAKEN = {
    DASHBOARD_DATA: {"model", "hours"},
    "/invocations": {"model"},
    "/openapi.json": {"model"},
    "/admin/promote": {"model"},
    "/admin/rollback": {"model"},
    "/pipeline/commands": {"model"},
}
# routes of the service's first model, and that of a model by its name
_BY_NAME = {
    "/predict": "/models/<name>/predict",
    "/feedback": "/models/<name>/feedback",
    "/model": "/models/<name>",
}


class QueryCheck:
    """The parameters of each route: what a client asks for, and would not get, is refused.

    Probes, pages and their files take any, because a load balancer or a browser adds some, and so do routes of the project.
    """

    def __init__(self):
        rules = (LEVELS["key"] | LEVELS["admin"]) - MODEL_PROBES
        # a project that replaces one of these routes sets its parameters
        self.names: dict[str, set[str]] = {rule: set() for rule in rules} | {r: {*names} for r, names in TAKEN.items()}

    def check(self):
        """Raise a `RequestError` where the current request has a parameter that its route does not take, or one twice."""
        rule = request.url_rule
        if not request.query_string or rule is None or rule.rule not in self.names:
            return
        known = self.names[rule.rule]
        try:
            given = [*request.args.lists()]
        except UnicodeDecodeError:
            raise RequestError("The query of the address is not UTF-8: escape its bytes, such as %C3%A9.") from None
        for name, values in given:
            if name not in known:
                raise RequestError(_explain(rule.rule, name[:100], known))
            if len(values) > 1:
                raise RequestError(f"The query has {name!r} {len(values)} times; send it once.")


def _explain(rule: str, name: str, known: set[str]) -> str:
    """Return that a route does not take a parameter, and what it takes."""
    if name == "model" and rule in _BY_NAME:
        return f"{rule} takes no 'model' in its query: it is of the service's first model. Use {_BY_NAME[rule]}."
    if not known:
        return f"{rule} takes no parameters in its query, got {name!r}: leave it out."
    return f"{rule} takes no {name!r} in its query. {known_names(name, known)}"
