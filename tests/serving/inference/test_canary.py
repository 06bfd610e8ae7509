"""A canary answers its share of the requests, and none of them fails because of it."""

import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from mlops_nb.errors import InputError
from mlops_nb.model.signature import Input, Output, Predictions, Signature, join_outputs
from mlops_nb.serving.inference.canary import CanaryTrial, position_of
from mlops_nb.serving.inference.infer import InferenceResult
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.factories import NUMBERS, SIGNATURE, logged, package, unverified

ROW = {"features": [[1, 0]]}


@pytest.fixture
def few(live):
    """The same, and 30 requests are enough to judge."""
    live.settings = replace(live.settings, canary_min_requests=30)
    live.state = replace(live.state, trial=None)
    live._aliases = None
    live.refresh()
    return live


@pytest.fixture
def live(app, registry):
    """Version 1 in production, version 2 its canary."""
    registry.promote("toy", 2, alias="canary")
    live_model(app).refresh()
    return live_model(app)


def key_of(role: str, share: float = 0.1) -> dict:
    """A header whose key belongs to the canary, or to the requests that it is compared with."""
    wanted = {"canary": lambda x: x < share, "production": lambda x: x >= 1 - share}[role]
    return {"X-Canary-Key": next(k for k in map(str, range(1000)) if wanted(position_of("toy", k)))}


def version_for(client, key: str | None = None) -> int:
    return client.post("/predict", json=ROW, headers={"X-Canary-Key": key} if key else {}).get_json()["version"]


def test_keys_are_spread_evenly_and_stand_where_they_stood():
    places = [position_of("toy", f"customer-{i}") for i in range(20_000)]
    for share in (0.01, 0.1, 0.5):
        got = sum(place < share for place in places)
        assert abs(got - 20_000 * share) < 5 * (20_000 * share * (1 - share)) ** 0.5
    assert position_of("toy", "ada") == pytest.approx(PLACE_OF_ADA)
    assert position_of("toy", "ada") != position_of("other", "ada")


PLACE_OF_ADA = 0.283841311331659


@pytest.mark.slow
def test_key_gets_the_same_version_from_every_worker_and_the_share_is_right(live, client, settings):
    other = create_app(settings)
    live_model(other).refresh()
    keys = [f"customer-{i}" for i in range(1000)]
    first = [version_for(client, key) for key in keys]
    assert [version_for(other.test_client(), key) for key in keys[:200]] == first[:200]
    assert 60 < first.count(2) < 140
    live_model(other).stop()


@pytest.mark.slow
def test_without_a_key_chance_decides(live, client):
    assert 60 < [version_for(client) for _ in range(1000)].count(2) < 140


@pytest.mark.slow
def test_share_is_a_setting_and_at_most_half(settings, registry):
    from mlops_nb.errors import SettingsError

    registry.promote("toy", 2, alias="canary")
    for share, low, high in ((0.0, 0, 0), (0.5, 190, 310)):
        app = create_app(replace(settings, canary_share=share))
        live_model(app).refresh()
        assert low <= [version_for(app.test_client()) for _ in range(500)].count(2) <= high
        live_model(app).stop()
    with pytest.raises(SettingsError, match=r"MLOPS_CANARY_SHARE must be between 0 and 0\.5, got 0\.6"):
        Settings.read({"MLOPS_CANARY_SHARE": "0.6"})


def test_roles_are_said_and_recorded(live, client):
    answers = [client.post("/predict", json=ROW, headers=key_of(role)).get_json() for role in ("canary", "production")]
    facts = logged(client.application).predictions
    assert [tuple(facts.loc[a["ids"][0], ["role", "version"]]) for a in answers] == [("canary", 2), ("production", 1)]
    ready = client.get("/health/ready").get_json()
    assert (ready["version"], ready["roles"]) == (1, {"production": 1, "canary": 2})
    assert client.get("/model").get_json()["roles"] == {"production": 1, "canary": 2}


def test_request_that_breaks_the_canary_is_answered_by_production(live, client, monkeypatch, capfd):
    monkeypatch.setattr(live.state.trial.canary, "predict", lambda rows: 1 / 0)
    for _ in range(3):
        answer = client.post("/predict", json=ROW, headers=key_of("canary"))
        assert (answer.status_code, answer.get_json()["version"]) == (200, 1)
    assert live.state.trial.counts()["failures"] == {"ZeroDivisionError": 3}
    assert capfd.readouterr().err.count("toy version 2 failed as the canary: ZeroDivisionError") == 1


def test_row_that_both_refuse_is_the_clients_mistake_and_counts_for_nobody(live, client):
    for role in ("canary", "production"):
        answer = client.post("/predict", json={"features": [["x", 0]]}, headers=key_of(role))
        assert (answer.status_code, answer.get_json()["code"]) == (400, "bad_input")
    assert not live.state.trial.own.requests.any()


@pytest.mark.slow
def test_row_that_only_the_canary_refuses_is_answered_by_production(app, client, registry, settings):
    narrow = replace(NUMBERS, inputs=(Input("a", maximum=50), Input("b")))
    registry.register(package(settings.home / "bundle", 1.0, narrow))
    registry.promote("toy", 3, alias="canary")
    live = live_model(app)
    live.refresh()
    answer = client.post("/predict", json={"features": [[100, 0]]}, headers=key_of("canary"))
    assert (answer.status_code, answer.get_json()["version"]) == (200, 1)
    assert live.state.trial.counts()["failures"] == {"InvalidRowsError": 1}


def test_canary_without_probabilities_is_not_asked_for_them(live, client, monkeypatch):
    canary = live.state.trial.canary
    answer = replace(canary.predict_rows([[1, 0]]), probability=None)
    monkeypatch.setattr(canary, "predict", lambda rows: answer)
    body = client.post("/predict", json=ROW | {"probability": True}, headers=key_of("canary")).get_json()
    assert (body["version"], len(body["probability"])) == (1, 1)
    assert client.post("/predict", json=ROW, headers=key_of("canary")).get_json()["version"] == 2


def test_production_that_breaks_counts_and_is_a_defect(live, client, monkeypatch):
    def broken(rows):
        raise InputError("no") if rows.tolist() == [[2, 2]] else RuntimeError

    monkeypatch.setattr(live.predictor, "predict", broken)
    statuses = [
        client.post("/predict", json={"features": rows}, headers=key_of("production")).status_code
        for rows in ([[1, 0]], [[2, 2]])
    ]
    assert statuses == [500, 400]
    assert live.state.trial.own.failures[0] == {"RuntimeError": 1}


def test_row_for_which_both_raise_counts_alike(live, client, monkeypatch):
    for predictor in (live.predictor, live.state.trial.canary):
        monkeypatch.setattr(predictor, "predict", lambda rows: 1 / 0)
    for role in ("canary", "production"):
        assert client.post("/predict", json=ROW, headers=key_of(role)).status_code == 500
    assert live.state.trial.own.failed.tolist() == [1, 1]


@pytest.mark.parametrize("alias", ["canary", "shadow"])
def test_one_that_cannot_be_proven_is_refused_and_production_goes_on(app, client, registry, alias):
    live = live_model(app)
    shutil.copy(registry.get("toy", 1).path / "model.skops", registry.get("toy", 2).path / "model.skops")
    with unverified():
        registry.promote("toy", 2, alias=alias)
    live.refresh()
    ready = client.get("/health/ready").get_json()
    assert (ready["ready"], ready["roles"]) == (True, {"production": 1})
    assert [r["version"] for r in ready["refused"]] == [2]
    assert {version_for(client) for _ in range(50)} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("alias", ["canary", "shadow"])
def test_one_that_is_unlike_a_new_version_in_production_is_not_used(app, client, registry, settings, alias):
    registry.promote("toy", 2, alias=alias)
    registry.register(package(settings.home / "bundle", 1.0, SIGNATURE))
    registry.promote("toy", 3)
    live_model(app).refresh()
    ready = client.get("/health/ready").get_json()
    assert (ready["ready"], ready["roles"]) == (True, {"production": 3})
    assert [r["version"] for r in ready["refused"]] == [2]
    assert ready["refused"][0]["reason"].startswith(f"as the {alias}, it predicts 'side', not 'repaid'")


def test_each_of_several_numbers_is_compared(live):
    outputs = (Output("days"), Output("euros"))
    signature = Signature((Input("a"),), "regression", "days, euros", outputs=outputs)
    profile = {"outputs": {name: {"output": {"edges": [1.0, 30.0]}} for name in ("days", "euros")}}
    bundle = SimpleNamespace(profile=lambda: profile)
    predictors = [SimpleNamespace(signature=signature, version=version, bundle=bundle) for version in (1, 2)]
    trial = CanaryTrial("toy", *predictors, replace(live.settings, canary_min_requests=30))
    for number in range(60):
        for role, shift in (("production", 0), ("canary", 100)):
            euros = Predictions(np.array([float(number + shift)]))
            both = join_outputs({"euros": euros, "days": Predictions(np.array([1.0]))})
            result = InferenceResult(predictors[0], None, both, role)
            trial._record(role, 0.0, trial._answers(result))
    reasons = [reason.partition(" drifted")[0] for reason in trial.reasons()]
    assert reasons == ["the predictions of 'euros'"]


def test_canary_that_is_cleared_or_that_became_production_is_no_canary(live, client, registry):
    trial = live.state.trial
    registry.promote("toy", 2, alias="staging")
    live.refresh()
    assert live.state.trial is trial, "what was counted is kept when nothing of it moved"
    registry.promote("toy", 2)
    live.refresh()
    assert (live.state.trial, live.state.roles) == (None, {"production": 2})
    registry.rollback("toy")
    registry.clear("toy", "canary")
    live.refresh()
    assert (live.state.trial, live.state.roles) == (None, {"production": 1})
    assert {version_for(client) for _ in range(50)} == {1}


def test_request_of_many_rows_counts_once(live, client):
    client.post("/predict", json={"features": [[1, 0]] * 5000}, headers=key_of("canary"))
    own = live.state.trial.own
    assert (own.requests.tolist(), own.answers.tolist()) == ([0, 1], [[0, 1]])


# Judged against production


def traffic(client, n: int, rows=lambda i: [[(-1) ** i, 0]]):
    """So many requests for the canary, and so many that it is compared with."""
    for i in range(n):
        for role in ("canary", "production"):
            assert client.post("/predict", json={"features": rows(i)}, headers=key_of(role)).status_code == 200


def slow(predictor):
    answer = predictor.predict
    return lambda rows: time.sleep(0.01) or answer(rows)


def broken(predictor):
    return lambda rows: 1 / 0


def of_one_class(predictor):
    return lambda rows: Predictions(np.ones(len(rows)), np.ones((len(rows), 2)), (0, 1))


def incomparable(predictor):
    return lambda rows: Predictions(np.array([None], dtype=object))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (slow, "p95 latency is "),
        (broken, "30 of 30 ("),
        (of_one_class, "the predictions drifted: 100.0% are 1, in production 53.3%"),
        (incomparable, "the predictions drifted: 0.0% are 1, in production 53.3%"),
    ],
)
def test_canary_that_is_worse_is_rolled_back(few, client, registry, monkeypatch, capfd, kind, why):
    canary = few.state.trial.canary
    monkeypatch.setattr(canary, "predict", kind(canary))
    traffic(client, 29)
    few.refresh()
    assert few.state.trial is not None, "it is too early to say"
    traffic(client, 1)
    few.refresh()
    assert few.state.roles == {"production": 1}
    move = registry.history("toy", "canary")[-1]
    assert (move.action, move.from_version, move.to_version, move.actor) == ("clear", 2, None, "service")
    assert move.reason.startswith(why)
    assert client.get("/health/ready").get_json()["rolled_back"] == {"version": 2, "reason": move.reason}
    assert f"toy version 2 rolled back as the canary: {move.reason}" in capfd.readouterr().err
    assert {version_for(client) for _ in range(50)} == {1}


def test_canary_that_is_as_good_goes_on(few, client, registry):
    traffic(client, 60)
    few.refresh()
    assert few.state.roles == {"production": 1, "canary": 2}
    ready = client.get("/health/ready").get_json()
    assert ready["canary"] == {"version": 2, "share": 0.1, "requests": 60, "failures": {}}
    assert ready["rolled_back"] is None


def fail_in_two_workers(few, client, monkeypatch, requests: int):
    """Send requests to a worker and to another one, whose canaries raise; the application of the other."""
    other = create_app(few.settings)
    live_model(other).refresh()
    for live, its_client in ((few, client), (live_model(other), other.test_client())):
        monkeypatch.setattr(live.state.trial.canary, "predict", lambda rows: 1 / 0)
        traffic(its_client, requests)
    return other


def test_evidence_of_all_workers_counts_together(few, client, registry, monkeypatch):
    other = fail_in_two_workers(few, client, monkeypatch, 15)
    few.refresh()
    assert few.state.trial is not None, "15 of its own are not enough, and nothing of the other is known"
    live_model(other).refresh()
    move = registry.history("toy", "canary")[-1]
    assert (move.action, move.reason.partition(" (")[0]) == ("clear", "30 of 30")
    few.refresh()
    assert few.state.roles == {"production": 1}
    live_model(other).stop()


def test_new_trial_begins_with_no_counts_of_the_last(few, client, registry):
    traffic(client, 20)
    few.refresh()
    registry.clear("toy", "canary")
    few.refresh()
    registry.promote("toy", 2, alias="canary")
    few.refresh()
    assert client.get("/health/ready").get_json()["canary"]["requests"] == 0


def test_without_the_database_a_worker_judges_by_its_own_counts(few, client, monkeypatch, capfd):
    def away(*_, **__):
        raise OperationalError("INSERT", {}, Exception("locked"))

    monkeypatch.setattr("mlops_nb.serving.inference.canary.save_counts", away)
    monkeypatch.setattr(few.state.trial.canary, "predict", lambda rows: 1 / 0)
    traffic(client, 20)
    for _ in range(3):
        few.refresh()
    assert few.state.trial is not None
    traffic(client, 10)
    few.refresh()
    assert few.state.roles == {"production": 1}
    assert capfd.readouterr().err.count("The counts of the canary cannot be exchanged: OperationalError.") == 1


@pytest.mark.slow
def test_of_two_workers_one_rolls_back_and_both_say_why(few, client, registry, monkeypatch):
    other = fail_in_two_workers(few, client, monkeypatch, 30)
    few.refresh()
    live_model(other).refresh()
    assert [m.action for m in registry.history("toy", "canary")] == ["promote", "clear"]
    assert few.state.rolled_back == live_model(other).state.rolled_back
    assert live_model(other).state.roles == {"production": 1}
    live_model(other).stop()


@pytest.mark.slow
def test_worse_canary_is_not_asked_even_when_the_registry_cannot_be_told(few, client, registry, monkeypatch, capfd):
    def read_only(*_, **__):
        raise OperationalError("DELETE", {}, Exception("read-only"))

    monkeypatch.setattr(few.state.trial.canary, "predict", lambda rows: 1 / 0)
    traffic(client, 30)
    with monkeypatch.context() as patch:
        patch.setattr(few._registry, "clear", read_only)
        for _ in range(3):
            few.refresh()
        registry.promote("toy", 2, alias="staging")
        few.refresh()
        assert few.state.roles == {"production": 1}
        assert few.state.rolled_back["version"] == 2
    assert capfd.readouterr().err.count("The alias of the canary cannot be cleared: OperationalError") == 1
    assert registry.aliases("toy")["canary"] == 2
    few.refresh()
    assert "canary" not in registry.aliases("toy")
    assert few.state.rolled_back["version"] == 2
    registry.promote("toy", 2, alias="canary")
    few.refresh()
    assert few.state.roles == {"production": 1, "canary": 2}, "it may be tried again"
    assert few.state.rolled_back is None


def test_canary_that_a_person_cleared_was_not_rolled_back(few, registry):
    registry.clear("toy", "canary")
    few.refresh()
    assert few.state.rolled_back is None
