"""Several models in one service: each by its name in every protocol, loaded when it is used, and none harms another."""

import threading
from datetime import UTC, datetime

import pytest
from pyarrow import ipc

from mlops_nb.cli.serve import check_models
from mlops_nb.errors import SettingsError
from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.serving.protocols.arrow import ARROW
from mlops_nb.serving.telemetry import request_counts
from mlops_nb.settings import Settings
from tests.factories import wait_for
from tests.serving.models.conftest import ADMIN, KEY, MIXED_ROW, ROW, register

TENSORS = {"inputs": [{"name": "rows", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 0.0]}]}
# path and body of each protocol for alpha, and where in the response its prediction is
CALLS = {
    "predict": ("/models/alpha/predict", {"features": [ROW]}, lambda r: r["prediction"]),
    "mlflow": ("/invocations?model=alpha", {"instances": [ROW]}, lambda r: r["predictions"]),
    "kserve": ("/v1/models/alpha:predict", {"instances": [ROW]}, lambda r: r["predictions"]),
    "v2": ("/v2/models/alpha/infer", TENSORS, lambda r: r["outputs"][0]["data"]),
    "v2 version": ("/v2/models/alpha/versions/1/infer", TENSORS, lambda r: r["outputs"][0]["data"]),
}


def states(client) -> dict[str, str]:
    return {model["name"]: model["state"] for model in client.get("/models").get_json()["models"]}


# routes


@pytest.mark.slow
@pytest.mark.parametrize("protocol", CALLS)
def test_every_protocol_predicts_with_the_model_that_is_named(client, protocol):
    path, body, prediction = CALLS[protocol]
    response = client.post(path, json=body)
    assert (response.status_code, prediction(response.get_json())) == (200, [1]), response.get_json()
    assert states(client) == {"alpha": "loaded", "beta": "not loaded", "gamma": "not loaded"}


@pytest.mark.parametrize("protocol", CALLS)
def test_unknown_name_is_not_found_with_the_near_ones(client, protocol):
    path, body, _ = CALLS[protocol]
    response = client.post(path.replace("alpha", "alpah"), json=body)
    assert response.status_code == 404
    assert "There is no model 'alpah' here. Did you mean 'alpha'?" in response.get_json()["error"]


@pytest.mark.slow
def test_each_model_has_its_own_signature(client):
    right = client.post("/models/beta/predict", json={"features": [MIXED_ROW]})
    assert (right.status_code, right.get_json()["model"]) == (200, "beta")
    assert client.post("/models/alpha/predict", json={"features": [MIXED_ROW]}).status_code == 400
    names = {
        name: [i["name"] for i in client.get(f"/models/{name}").get_json()["signature"]["inputs"]]
        for name in ("alpha", "beta")
    }
    assert names == {"alpha": ["a", "b"], "beta": ["age", "income", "home"]}
    label = {"id": right.get_json()["ids"][0], "label": "yes"}
    assert client.post("/models/beta/feedback", json=label).status_code == 202
    assert client.post("/models/alpha/feedback", json=label).status_code == 400, "no label of alpha"


def ids_of(client, name: str) -> list[str]:
    """The ids of a model's predictions in each protocol that has them."""
    json = client.post(f"/models/{name}/predict", json={"features": [ROW]}).get_json()["ids"]
    headers = {"Accept": ARROW}
    table = client.post(f"/models/{name}/predict", json={"features": [ROW]}, headers=headers).get_data()
    v2 = client.post(f"/v2/models/{name}/infer", json=TENSORS | {"outputs": [{"name": "id"}]}).get_json()
    return [*json, *ipc.open_stream(table).read_all()["id"].to_pylist(), *v2["outputs"][0]["data"]]


def test_label_is_taken_for_the_model_that_predicted_alone(client):
    of = {name: ids_of(client, name) for name in ("alpha", "gamma")}
    for id in of["alpha"]:
        assert client.post("/feedback", json={"id": id, "label": 1}).status_code == 202, "alpha is the first"
        assert client.post("/models/alpha/feedback", json={"id": id, "label": 1}).status_code == 202
    for id, path in [(i, "/models/alpha/feedback") for i in of["gamma"]] + [(of["gamma"][0], "/feedback")]:
        response = client.post(path, json={"id": id, "label": 1})
        assert (response.status_code, response.get_json()["row"]) == (400, 0)
        assert "of the model 'gamma', not of 'alpha'. Send the label to /models/gamma/feedback." in response.text
    labels = [{"id": ids[0], "label": 1} for ids in of.values()]
    mixed = client.post("/models/gamma/feedback", json={"labels": labels[::-1]})
    assert (mixed.status_code, mixed.get_json()["row"]) == (400, 1), "no label of the request is kept"


def test_label_of_a_model_that_is_served_elsewhere_is_refused(make, client):
    [id] = client.post("/models/gamma/predict", json={"features": [ROW]}).get_json()["ids"]
    response = make("alpha").test_client().post("/feedback", json={"id": id, "label": 1})
    assert response.status_code == 400
    assert "of another model, not of 'alpha'" in response.get_json()["error"]


def test_label_of_a_prediction_of_an_earlier_release_is_taken(client):
    assert client.post("/models/gamma/feedback", json={"id": "0" * 28 + "-0", "label": 1}).status_code == 202


def test_request_that_names_no_model_is_for_the_first(make):
    client = make("gamma,alpha").test_client()
    assert client.post("/predict", json={"features": [ROW]}).get_json()["model"] == "gamma"
    assert client.get("/model").get_json()["name"] == "gamma"
    assert client.get("/v1/models").get_json() == {"models": ["gamma", "alpha"]}


@pytest.mark.slow
def test_all_models_are_served_and_a_request_must_name_one(make, registry, home):
    app = make("*")
    client = app.test_client()
    response = client.post("/predict", json={"features": [ROW]})
    assert response.status_code == 400
    assert "'alpha', 'beta', 'gamma'" in response.get_json()["error"]
    assert client.post("/models/delta/predict", json={"features": [ROW]}).status_code == 404
    register(registry, home / "bundle", "delta", 0.1)
    register(registry, home / "bundle", "draft", 0.1, promote=False)
    app.models.refresh()
    assert client.post("/models/delta/predict", json={"features": [ROW]}).status_code == 200
    assert states(client).keys() == {"alpha", "beta", "gamma", "delta"}, "a model without production is none"


def test_fast_path_and_flask_send_the_same(make):
    app = make()
    app.models.get("alpha").serving()
    client = app.test_client()
    fast = client.post("/models/alpha/predict", json={"features": [ROW]})
    app.before_request(lambda: None)
    assert not app.has_fast_path
    slow = client.post("/models/alpha/predict", json={"features": [ROW]})
    parts = [{k: v for k, v in r.get_json().items() if k != "ids"} for r in (fast, slow)]
    assert parts[0] == parts[1]
    assert [*fast.headers.keys()] == [*slow.headers.keys()]


def test_only_a_loaded_model_runs_inline(make):
    app = make()
    raw = b"POST /models/%b/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n" + b"[[1,0]]"
    assert not app.runs_inline(raw % b"alpha")
    app.models.get("alpha").serving()
    assert [app.runs_inline(raw % name) for name in (b"alpha", b"gamma", b"nothing", b"a/b", b"\xff")] == [
        True, False, False, False, False,
    ]  # fmt: skip


def test_keys_guard_each_model_and_loading_needs_an_admin_key(make):
    client = make(MLOPS_API_KEYS=KEY, MLOPS_ADMIN_KEYS=ADMIN).test_client()
    bearer = {"Authorization": f"Bearer {KEY}"}
    for path in ("/models/alpha/predict", "/models/alpha/feedback", "/v2/repository/models/alpha/load"):
        assert client.post(path, json={"features": [ROW]}).status_code == 401
    assert client.post("/models/alpha/predict", json={"features": [ROW]}, headers=bearer).status_code == 200
    for act, header, status in (("unload", bearer, 403), ("unload", {"X-API-Key": ADMIN}, 200)):
        assert client.post(f"/v2/repository/models/alpha/{act}", headers=header).status_code == status
    assert client.get("/models", headers=bearer).status_code == 200


# telemetry


def test_metrics_counts_and_log_are_by_model(make, home, monkeypatch):
    monkeypatch.setattr(request_counts, "WRITE_SECONDS", 0.0)
    app = make(MLOPS_SPOOL=str(home / "spool"))
    client = app.test_client()
    for name in ("alpha", "gamma", "gamma"):
        assert client.post(f"/models/{name}/predict", json={"features": [ROW]}).status_code == 200
    client.post("/models/gamma/predict", json={"features": [["x", 0]]})
    client.post("/models/nobody/predict", json={"features": [ROW]})
    text = client.get("/metrics").get_data(as_text=True)
    route = 'route="/models/<name>/predict"'
    for line in (
        f'mlops_requests_total{{model="alpha",{route},status="200"}} 1.0',
        f'mlops_requests_total{{model="gamma",{route},status="200"}} 2.0',
        f'mlops_requests_total{{model="gamma",{route},status="400"}} 1.0',
        f'mlops_requests_total{{model="",{route},status="404"}} 1.0',
        'mlops_predictions_total{class="1",model="gamma",version="1"} 2.0',
        'mlops_model_info{model="gamma",role="production",version="1"} 1.0',
    ):
        assert line in text, line
    assert app.extensions["log"]._step()
    app.extensions["log"]._maintain()
    app.extensions["log"]._maintain()
    log = PredictionLog.open(app.extensions["settings"])
    rows = {name: len(log.read(name).predictions) for name in ("alpha", "beta", "gamma")}
    past = datetime(2001, 1, 1, tzinfo=UTC)
    counts = {name: log.requests(name, past).sum().to_dict() for name in ("alpha", "gamma")}
    log.close()
    assert rows == {"alpha": 1, "beta": 0, "gamma": 2}
    assert counts == {"alpha": {200: 1}, "gamma": {200: 2, 400: 1}}


def test_canary_of_one_model_concerns_no_other(make, registry):
    registry_move(registry, "gamma", "canary", 2)
    app = make(MLOPS_CANARY_SHARE="0.5")
    client = app.test_client()
    versions = {
        client.post("/models/gamma/predict", json={"features": [ROW]}, headers={"X-Canary-Key": str(i)}).get_json()[
            "version"
        ]
        for i in range(20)
    }
    assert versions == {1, 2}
    client.post("/models/alpha/predict", json={"features": [ROW]})
    assert app.models.get("alpha").state.trial is None
    assert client.get("/models/gamma/health/ready").get_json()["canary"]["requests"] > 0


def registry_move(registry, name: str, alias: str, version: int):
    registry.promote(name, version, alias=alias, force=True)


# isolation


def break_model(registry, name: str):
    """Damage the file of the version in production."""
    folder = registry.get(name, "production").path
    path = next(file for file in (folder / "model.onnx", folder / "model.skops") if file.exists())
    path.chmod(0o644)
    path.write_bytes(b"broken")


def test_model_that_cannot_be_loaded_is_its_own_503(make, registry):
    break_model(registry, "alpha")
    app = make()
    client = app.test_client()
    for path, body, _ in CALLS.values():
        assert client.post(path, json=body).status_code == 503
    refused = client.get("/models/alpha/health/ready")
    assert (refused.status_code, refused.get_json()["ready"]) == (503, False)
    assert "Version 1" in refused.get_json()["error"]
    assert client.get("/v2/models/alpha/ready").status_code == 503
    assert client.post("/models/gamma/predict", json={"features": [ROW]}).status_code == 200
    assert states(client)["alpha"] == "failed"
    assert client.get("/models/gamma/health/ready").status_code == 200
    ready = client.get("/health/ready")
    assert (ready.status_code, {n: m["ready"] for n, m in ready.get_json()["models"].items()}) == (
        200,
        {"alpha": False, "beta": False, "gamma": True},
    )


@pytest.mark.slow
def test_service_is_ready_while_any_model_can_predict(make, registry):
    for name in ("alpha", "beta", "gamma"):
        break_model(registry, name)
    app = make()
    app.models._load_first()
    client = app.test_client()
    assert not app.has_model
    for path in ("/health/ready", "/ping", "/v2/health/ready"):
        assert client.get(path).status_code == 503
    version = register(registry, app.extensions["settings"].home / "bundle", "gamma", 7.0)
    app.models.refresh()
    wait_for(lambda: app.models.can_predict())
    assert client.get("/health/ready").status_code == 200
    assert client.post("/models/gamma/predict", json={"features": [ROW]}).get_json()["version"] == version


def test_broken_model_is_loaded_when_it_is_repaired(make, registry):
    path = registry.get("alpha", "production").path / "model.onnx"
    content = path.read_bytes()
    break_model(registry, "alpha")
    app = make()
    client = app.test_client()
    assert client.post("/models/alpha/predict", json={"features": [ROW]}).status_code == 503
    path.write_bytes(content)
    app.models.refresh()
    wait_for(lambda: client.post("/models/alpha/predict", json={"features": [ROW]}).status_code == 200)


def test_model_that_loads_slowly_keeps_no_more_than_half_of_the_threads(make, monkeypatch):
    app = make(MLOPS_THREADS="2", MLOPS_QUEUE_SECONDS="0.02")
    app.models.get("gamma").serving()
    alpha, goes_on, statuses = app.models.get("alpha"), threading.Event(), []
    wake = alpha.wake
    monkeypatch.setattr(alpha, "wake", lambda: (goes_on.wait(20), wake()))

    def ask():
        return app.test_client().post("/models/alpha/predict", json={"features": [ROW]})

    patient = threading.Thread(target=lambda: statuses.append(ask().status_code))
    patient.start()
    wait_for(lambda: app.models._loading)
    wait_for(lambda: app.models._patient._value == 0)
    second = ask()
    assert (second.status_code, "is being loaded" in second.get_json()["error"]) == (503, True)
    assert app.test_client().post("/models/gamma/predict", json={"features": [ROW]}).status_code == 200
    assert states(app.test_client())["alpha"] == "loading"
    goes_on.set()
    patient.join()
    assert statuses == [200]


# memory


@pytest.mark.slow
def test_least_recently_used_model_is_released_and_loaded_again(make, capfd):
    app = make("alpha,gamma,beta", MLOPS_MODELS_MB="2.5")  # a small model counts as 1 MiB and its files
    client = app.test_client()

    def ask(name: str) -> int:
        row = MIXED_ROW if name == "beta" else ROW
        return client.post(f"/models/{name}/predict", json={"features": [row]}).status_code

    assert [ask(name) for name in ("alpha", "gamma", "alpha")] == [200, 200, 200]
    assert states(client) == {"alpha": "loaded", "gamma": "loaded", "beta": "not loaded"}
    assert ask("beta") == 200
    assert states(client) == {"alpha": "loaded", "gamma": "not loaded", "beta": "loaded"}
    assert app.models.get("gamma").can_predict, "it was verified, and the next request loads it"
    assert client.get("/models/gamma/health/ready").status_code == 200
    assert states(client)["gamma"] == "not loaded", "a probe loads no model that was released"
    assert 'mlops_model_info{model="gamma",role="production",version="1"} 0.0' in client.get("/metrics").text
    assert ask("gamma") == 200
    assert capfd.readouterr().err.count("gamma version 1 loaded") == 2


def test_model_that_is_larger_than_the_limit_is_served_alone(make):
    client = make("alpha,gamma", MLOPS_MODELS_MB="1").test_client()
    for name in ("alpha", "gamma", "alpha"):
        assert client.post(f"/models/{name}/predict", json={"features": [ROW]}).status_code == 200
        assert list(states(client).values()).count("loaded") == 1


# load and unload


def test_unloaded_model_is_away_until_it_is_loaded(make):
    client = make().test_client()
    index = {m["name"]: m for m in client.post("/v2/repository/index").get_json()}
    assert index["alpha"] == {"name": "alpha", "version": "1", "state": "READY", "reason": ""}
    assert client.post("/v2/repository/models/alpha/unload", json={"parameters": {}}).status_code == 200
    refused = client.post("/models/alpha/predict", json={"features": [ROW]})
    assert (refused.status_code, "unloaded" in refused.get_json()["error"]) == (503, True)
    ready = client.post("/v2/repository/index", json={"ready": True}).get_json()
    assert {m["name"] for m in ready} == {"beta", "gamma"}
    assert client.post("/v2/repository/models/alpha/load", json={}).status_code == 200
    assert client.post("/models/alpha/predict", json={"features": [ROW]}).status_code == 200
    assert client.post("/v2/repository/models/alpha/load", json={"parameters": {"config": "{}"}}).status_code == 400
    assert client.post("/v2/repository/models/nobody/load").status_code == 404


# description, pages


@pytest.mark.slow
def test_description_lists_every_model(make):
    app = make()
    client = app.test_client()
    app.models.get("beta").serving()
    description = client.get("/openapi.json").get_json()
    for name in ("alpha", "beta", "gamma"):
        for path in (f"/models/{name}/predict", f"/v1/models/{name}:predict", f"/v2/models/{name}/infer"):
            assert path in description["paths"], path
    row = description["components"]["schemas"]["beta.Row"]
    assert row["properties"].keys() == {"age", "income", "home"}
    assert "#/components/schemas/Row" not in client.get("/openapi.json").text
    one = client.get("/openapi.json?model=alpha").get_json()
    assert one["components"]["schemas"]["Row"]["properties"].keys() == {"a", "b"}


@pytest.mark.slow
def test_pages_are_an_index_and_one_a_model(make, registry):
    break_model(registry, "beta")
    client = make().test_client()
    client.post("/models/beta/predict", json={"features": [MIXED_ROW]})
    client.post("/models/gamma/predict", json={"features": [ROW]})
    text = client.get("/").get_data(as_text=True)
    for words in ('<a href="./?model=alpha">', "not loaded", "failed", "No version of &#39;beta&#39; can be served"):
        assert words in text, words
    assert "<title>gamma</title>" in client.get("/?model=gamma").get_data(as_text=True)
    data = client.get("/dashboard/data.json?hours=1&model=gamma").get_json()
    assert (data["model"], data["errors"]["routes"][0]["requests"]) == ("gamma", 1)
    assert client.get("/?model=nobody").status_code == 404
    move = {"expected": 1, "reason": "better", "version": 2}
    moved = client.post("/admin/promote?model=gamma", json=move, headers={"X-Dashboard": "move"})
    assert (moved.status_code, registry.version_of("gamma")) == (200, 2)


# settings


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"MLOPS_MODELS": ","}, "names no model"),
        ({"MLOPS_MODELS": "*,alpha"}, "not both"),
        ({"MLOPS_MODELS": "alpha,alpha"}, "twice"),
        ({"MLOPS_MODELS": "../alpha"}, "small letters"),
        ({"MLOPS_MODELS": "alpha", "MLOPS_MODEL": "beta"}, "both set"),
        ({"MLOPS_MODELS": "alpha", "MLOPS_MODELS_MB": "0"}, "at least 1"),
    ],
)
def test_settings_that_do_not_say_which_models_are_refused(home, given, problem):
    with pytest.raises(SettingsError, match=problem):
        Settings.read({"MLOPS_HOME": str(home), **given})


def test_name_that_is_not_registered_is_refused_before_the_service_starts(home):
    settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODELS": "alpha,gama"})
    with pytest.raises(SettingsError, match=r"no model 'gama' is registered. Did you mean 'gamma'"):
        check_models(settings, ["alpha", "gama"])
    check_models(settings, ["alpha", "gamma"])
