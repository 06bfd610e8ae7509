"""The description of the service is true: what it allows is answered, what it forbids is refused."""

import math
import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mlops_nb.model.signature import Input, Signature
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.serving.dashboard.test_dashboard_browser import CONTRAST, PATIENCE

profile.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=300)
profile.load_profile("same")

GOOD = [41, 1200.5, "own"]


@pytest.fixture(scope="module")
def spec(mixed):
    return mixed.get("/openapi.json").get_json()


def validator(spec: dict, path: str, part: str = "request") -> Draft202012Validator:
    route = spec["paths"][path]["post"]
    holder = route["requestBody"] if part == "request" else route["responses"]["200"]
    return Draft202012Validator({**holder["content"]["application/json"]["schema"], "components": spec["components"]})


def test_every_route_of_the_service_is_in_the_description_and_the_other_way_round(mixed, spec):
    rules = {str(r).replace("<name>", "toy").replace("<version>", "1") for r in mixed.application.url_map.iter_rules()}
    pages = {r for r in rules if r == "/" or r.startswith(("/docs", "/dashboard/", "/pipeline"))} - {
        "/dashboard/data.json"
    }
    assert rules - pages == spec["paths"].keys()
    for path, methods in spec["paths"].items():
        for method, route in methods.items():
            for response in route["responses"].values():
                for content in response["content"].values():
                    Draft202012Validator.check_schema(content.get("schema", {}))
            if method == "get":
                answer, content = mixed.get(path), route["responses"]["200"]["content"]
                assert answer.status_code == 200, path
                assert answer.mimetype in content, path
                if answer.is_json:
                    schema = content["application/json"]["schema"]
                    Draft202012Validator({**schema, "components": spec["components"]}).validate(answer.get_json())


def test_example_is_answered(mixed, spec):
    row = spec["components"]["examples"]["row"]["value"]
    assert row.keys() == {"age", "income", "home"}
    assert mixed.post("/predict", json={"features": [row]}).status_code == 200


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 130), st.sampled_from([2**63, -(2**63), 2**70, 10**400]),
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["own", "rent", "boat", ""]),
    st.lists(st.integers(), max_size=1), st.just({}),
)  # fmt: skip
ROWS = st.one_of(
    st.lists(CELLS, min_size=2, max_size=4),
    st.tuples(st.integers(0, 120), st.floats(0, 1e6), st.sampled_from(["own", "rent"])).map(list),
    st.fixed_dictionaries(
        {"age": st.integers(0, 125), "home": st.sampled_from(["own", "rent"])},
        optional={"income": CELLS, "hom": CELLS, "repaid": CELLS},
    ),
)
PROBABILITY = st.one_of(CELLS, st.sampled_from([True, "named"]))
BODIES = st.one_of(
    st.builds(lambda rows: {"features": rows}, st.one_of(st.lists(ROWS, max_size=2), ROWS)),
    st.builds(lambda rows, p: {"features": rows, "probability": p}, st.lists(ROWS, max_size=2), PROBABILITY),
    st.dictionaries(st.sampled_from(["features", "probability", "x"]), CELLS),
)


@pytest.mark.slow
@given(BODIES)
@example({"features": {"age": 1, "home": "own", "income": 10**400}})
@example({"features": [{"age": True, "home": "own"}]})
@example({"features": GOOD, "probability": "named"})
@example({"features": [{"age": 41.0, "home": "own"}, [41, 1, "own"]]})
def test_predict_answers_what_the_description_allows_and_nothing_else(mixed, spec, body):
    answer = mixed.post("/predict", json=body)
    allowed = validator(spec, "/predict").is_valid(body)
    assert answer.status_code == (200 if allowed else 400), (body, answer.get_json())
    if allowed:
        validator(spec, "/predict", "answer").validate(answer.get_json())
    else:
        Draft202012Validator(spec["components"]["schemas"]["Error"]).validate(answer.get_json())


@pytest.mark.slow
@given(st.sampled_from(["dataframe_records", "instances"]), st.one_of(st.lists(ROWS, max_size=2), CELLS))
def test_invocations_and_kserve_answer_what_the_description_allows_and_nothing_else(mixed, spec, form, rows):
    for path, body in [("/invocations", {form: rows}), ("/v1/models/toy:predict", {"instances": rows})]:
        answer = mixed.post(path, json=body)
        allowed = validator(spec, path).is_valid(body)
        assert answer.status_code == (200 if allowed else 400), (body, answer.get_json())
        if allowed:
            validator(spec, path, "answer").validate(answer.get_json())


def test_description_follows_the_model(app, registry):
    client = app.test_client()
    assert client.get("/openapi.json").get_json()["info"]["title"] == "toy, version 1"
    registry.promote("toy", 2)
    live_model(app).refresh()
    assert client.get("/openapi.json").get_json()["info"]["title"] == "toy, version 2"


def test_kinds_of_columns_become_kinds_of_json():
    from mlops_nb.serving.protocols.schemas import input_schema, row_schema

    made = [
        (
            Input("n", "float", above=0, maximum=math.pi),
            {"type": "number", "minimum": -sys.float_info.max, "exclusiveMinimum": 0, "maximum": math.pi},
        ),
        (Input("b", "bool", required=False), {"type": ["boolean", "null"]}),
        (Input("c", "string", categories=("x",), unseen="ignore"), {"type": "string"}),
        (Input("c", "string", required=False, categories=("x",)), {"type": ["string", "null"], "enum": ["x", None]}),
        (Input("t", "datetime"), {"type": "string", "format": "date-time"}),
    ]
    assert [input_schema(i) for i, _ in made] == [schema for _, schema in made]
    row = row_schema(Signature((Input("a"), Input("b", required=False)), "regression", "y", ignored=("id", "y")))
    assert row["required"] == ["a"]
    assert row["properties"]["id"] == {}
    assert row["additionalProperties"] is False


def test_page_loads_nothing_from_another_host_and_says_so_to_the_browser(mixed):
    for path in ("/docs", "/docs/style.css", "/docs/script.js"):
        answer = mixed.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "http://" not in answer.get_data(as_text=True)
        assert "https://" not in answer.get_data(as_text=True)


def test_without_a_model_there_is_no_description_but_the_page(settings):
    app = create_app(settings)
    client = app.test_client()
    assert client.get("/openapi.json").status_code == 503
    assert client.get("/docs").status_code == 200
    app.stop()


@pytest.mark.slow
def test_description_says_how_to_send_a_key_and_where(settings):
    key = "k" * 16
    homed = {"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": "toy"}
    for more, closed in (
        ({}, 0),
        ({"MLOPS_ADMIN_KEYS": key, "MLOPS_ALLOW_ANONYMOUS": "true"}, 4),
        ({"MLOPS_API_KEYS": key}, 28),
    ):
        app = create_app(Settings.read(homed | more))
        live_model(app).refresh()
        body = app.test_client().get("/openapi.json", headers={"X-API-Key": key}).get_json()
        app.stop()
        operations = {(path, method): o for path, methods in body["paths"].items() for method, o in methods.items()}
        needing = {path for (path, _), operation in operations.items() if "security" in operation}
        assert len(needing) == closed
        for (path, method), operation in operations.items():
            assert ({"401", "403"} <= operation["responses"].keys()) == (path in needing), path
            status = app.test_client().open(path, method=method).status_code
            assert (status == 401) == (path in needing), path
        if needing:
            assert body["components"]["securitySchemes"]["header"]["name"] == "X-API-Key"
            of_needing = [operation["security"] for (path, _), operation in operations.items() if path in needing]
            assert of_needing == [[{"bearer": []}, {"header": []}]] * closed


@pytest.mark.parametrize(
    ("table", "allowed"),
    [
        ({"dataframe_split": {"data": [GOOD]}}, True),
        ({"dataframe_split": {"data": [GOOD[:2]]}}, False),
        ({"dataframe_split": {"data": GOOD}}, False),
        ({"dataframe_split": {"data": [{"age": 41, "home": "own"}]}}, False),
        ({"dataframe_split": {"data": []}}, False),
        ({"dataframe_split": {"data": [["x", 1.0, "own"]]}}, False),
        ({"dataframe_split": {"columns": ["home", "age"], "data": [["own", 41]], "index": [7]}}, True),
        ({"dataframe_split": {"columns": ["home"], "data": [["own"]]}}, False),
        ({"dataframe_split": {"columns": ["home", "age", "x"], "data": [["own", 41, 1]]}}, False),
        ({"dataframe_split": {"columns": None, "data": [GOOD]}}, True),
        ({"dataframe_split": {"columns": ["age", "age", "home"], "data": [[1, 1, "own"]]}}, False),
        ({"inputs": {"age": [41, 5], "home": ["own", "rent"]}}, True),
        ({"inputs": {"age": [41], "home": ["boat"]}}, False),
        ({"inputs": {"age": [41]}}, False),
        ({"inputs": {"age": 41, "home": "own"}}, True),
        ({"inputs": []}, False),
        ({"instances": [GOOD], "params": {}}, True),
        ({"instances": [GOOD], "params": None}, True),
        ({"instances": [GOOD], "params": []}, False),
    ],
)
def test_forms_of_mlflow_are_described_as_they_are_taken(mixed, spec, table, allowed):
    assert validator(spec, "/invocations").is_valid(table) == allowed
    assert mixed.post("/invocations", json=table).status_code == (200 if allowed else 400)


@pytest.mark.slow
def test_page_sends_the_example_of_each_prediction_route_and_its_code_runs(service, browser, tmp_path):
    from playwright.sync_api import expect

    url = f"http://127.0.0.1:{service.port}"
    expect.set_options(timeout=PATIENCE)
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    asked, problems = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{url}/docs")
    expect(page.locator("h1")).to_have_text("toy, version 1")
    routes = page.locator("details.operation[id^='post']", has_text=re.compile("Predict (rows|by)"))
    assert routes.count() == 6, "two of our own, MLflow, KServe V1, two of Open Inference"
    for place in range(routes.count()):
        route = routes.nth(place)
        if place:
            route.locator("summary").first.click()
        route.get_by_role("button", name="Send").click()
        expect(route.locator("output")).to_contain_text("200 in")
        expect(route.locator(".responses[open] .schema").first).to_contain_text(re.compile("prediction|outputs"))
    first = routes.first
    for language, command in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
        first.get_by_role("button", name=language, exact=True).click()
        code = first.locator("pre").last.inner_text()
        ended = subprocess.run([*command, code], capture_output=True, text=True, check=False, timeout=60)
        assert "prediction" in ended.stdout, (code, ended.stderr)
    first.get_by_role("button", name="JavaScript").click()
    code = first.locator("pre").last.inner_text().replace("console.log(", "return (")
    assert "prediction" in page.evaluate(f"async () => {{ {code} }}")
    assert page.evaluate("document.documentElement.scrollWidth") == 390, "nothing is wider than the screen"
    assert page.evaluate(CONTRAST) == []
    first.locator("textarea").fill('{"features": [[1]]}')
    first.get_by_role("button", name="Send").click()
    expect(first.locator(".answer.failed")).to_contain_text("Row 0 has 1 values; the model takes 2")
    assert all(address.startswith(f"{url}/") for address in asked)
    assert [p for p in problems if "400" not in p and "favicon" not in p] == []
    page.close()
