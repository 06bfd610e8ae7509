"""The description of the service is true: thousands of requests that it allows, and that it forbids."""

import re
import shutil
from collections import Counter

import orjson
import pytest
import schemathesis
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from jsonschema import Draft202012Validator
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from mlops_nb.serving.protocols.mlflow import CSV
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.factories import Service

pytestmark = pytest.mark.slow

KEY = "predict-" + "k" * 16

# What a description leaves open: that lengths agree, what is in a tensor or a table, what a model can compute with
UNSAYABLE = {
    "/predict": "no finite prediction|Arrow stream|at most 10 are explained",
    "/feedback": "there is no row",
    "/v1/models/toy:predict": "no finite prediction",
    "/invocations": "no finite prediction|must have one length|a list of . values, one a column|Row ., column",
    "/v2/models/toy/infer": "^Tensor |^Row |^Column |There is an unknown column|^There are two tensors|body has . bytes"
    "|is named twice",
}


CHECKS = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "negative_data_rejection", "positive_data_acceptance", "unsupported_method",
    "missing_required_header", "allow_header_conformance", "ignored_auth",
]  # fmt: skip
POSTS = [f"POST {path}" for path in (*UNSAYABLE, "/v2/models/toy/versions/1/infer")]


@pytest.fixture(autouse=True)
def same_cases(monkeypatch):
    """Hypothesis draws constants of the project's modules, and which are loaded depends on the tests before."""
    monkeypatch.setattr(providers, "_get_local_constants", Constants)
    monkeypatch.setattr(providers, "CONSTANTS_CACHE", {})


REJECTED, ACCEPTED = "ST202", "ST201"  # Schemathesis' codes of the two failures


def config(examples: int, **more) -> SchemathesisConfig:
    """Every check, and the same cases each time: so none is made of answers, whose ids differ.

    The stateful phase follows links, and there are none.
    """
    generation = {"deterministic": True, "database": "none", "no-shrink": True, "max-examples": examples}
    phases = {"stateful": {"enabled": False}, "fuzzing": {"extra-data-sources": {"responses": False}}}
    return SchemathesisConfig.from_dict({"seed": 1, "generation": generation, "phases": phases, **more})


def filter_failure(context, failure, case, response) -> bool:
    """Is it a failure, and not something that JSON Schema has no words for?"""
    path = case.operation.path.replace("/versions/1", "").removeprefix("/models/toy")
    if failure.code == REJECTED and response.status_code in (400, 413):
        return case.media_type != CSV and not re.search(UNSAYABLE[path], response.json()["error"])
    if failure.code == ACCEPTED and response.status_code == 413:  # it was refused, for its size
        return False
    if failure.code == ACCEPTED:  # a number just beyond the largest is the largest, once it is read
        components = case.operation.schema.raw_schema["components"]
        takes = case.operation.definition.raw["requestBody"]["content"]["application/json"]["schema"]
        read = orjson.loads(response.request.body)
        return not Draft202012Validator({**takes, "components": components}).is_valid(read)
    return True


def attack(schema) -> tuple[Counter, Counter]:
    """How many cases got which status, by operation, and how often which check looked; fails for what was found."""
    # what moves production changes the description, and what unloads a model is refused where there is one alone
    schema = schema.exclude(path_regex="^/(admin|v2/repository)/")
    schema.hook(filter_failure)
    statuses, looked, found = Counter(), Counter(), []
    for event in from_schema(schema).execute():
        assert not isinstance(event, events.NonFatalError | events.FatalError), event
        if isinstance(event, events.ScenarioFinished):
            for case in event.recorder.interactions.values():
                statuses[event.label, case.response.status_code] += 1
            for check in (check for checks in event.recorder.checks.values() for check in checks):
                looked[check.name] += 1
                if check.failure_info is not None:
                    found.append(f"{check.name}: {check.failure_info.failure}\n{check.failure_info.code_sample}")
    assert found == [], "\n\n".join(found)
    return statuses, looked


def check_coverage(schema, statuses: Counter, looked: Counter, least: int):
    """Was enough asked on every route, and did the checks look? The description itself is where it all begins."""
    assert sum(statuses.values()) >= 2000
    left_out = ("/openapi.json", "/admin/", "/v2/repository/")
    described = {path for path in schema.raw_schema["paths"] if not path.startswith(left_out)}
    assert {operation.split()[1] for operation, _ in statuses} == described
    assert min(looked[check] for check in CHECKS) >= 1000, looked
    for operation in POSTS:
        answered = sum(n for (asked, status), n in statuses.items() if asked == operation and status < 300)
        assert min(answered, statuses[operation, 400]) >= least, (operation, answered)


@pytest.mark.parametrize(("examples", "least"), [(30, 10), pytest.param(150, 20, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("kind", [pytest.param("numbers", marks=pytest.mark.soak), "mixed"])
def test_what_the_description_allows_is_answered_and_what_it_forbids_is_refused(homes, kind, examples, least, tmp_path):
    shutil.copytree(homes[kind], tmp_path / "home")
    home = {"MLOPS_HOME": str(tmp_path / "home"), "MLOPS_MODEL": "toy"}
    app = create_app(Settings.read(home | {"MLOPS_ACCESS_LOG": "false"}))
    live_model(app).refresh()
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app, config=config(examples))
    statuses, looked = attack(schema)
    app.stop()
    check_coverage(schema, statuses, looked, least)


@pytest.mark.soak
def test_the_same_over_http_with_keys(settings, tmp_path):
    service = Service(settings, tmp_path / "log", MLOPS_API_KEYS=KEY)
    try:
        url = f"http://127.0.0.1:{service.port}/openapi.json"
        auth = {"openapi": {"bearer": {"bearer": KEY}}}
        schema = schemathesis.openapi.from_url(url, headers={"X-API-Key": KEY}, config=config(30, auth=auth))
        statuses, looked = attack(schema)
    finally:
        log = service.stop()
    check_coverage(schema, statuses, looked, 20)
    assert "Traceback" not in log
    assert KEY not in log
