"""What a graph runs on: MLOPS_ONNX_PROVIDERS, in training, in verification and in the service."""

import subprocess
import sys

import pytest

from mlops_nb.errors import SettingsError
from mlops_nb.estimators import OnnxRegressor, _session
from mlops_nb.model.train import fit
from mlops_nb.serving.inference.loading import describe_providers, inline_rule, load_verified
from mlops_nb.serving.server.configuration import gunicorn_settings
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from serve.app import create_app
from tests.factories import ROOT, make_home, served
from tests.model.test_onnx_models import rows_of, spec_of

CPU = "CPUExecutionProvider"
OTHER = "AzureExecutionProvider"  # another one that the package for processors has; it computes no node of ours
CUDA = f"CUDAExecutionProvider,{CPU}"


def train_never(X, y):
    raise AssertionError("trained before the providers were checked")


def test_missing_provider_is_one_sentence_before_training(monkeypatch):
    monkeypatch.setenv("MLOPS_ONNX_PROVIDERS", CUDA)
    spec, rows = spec_of(lambda _: OnnxRegressor(f"{__name__}.train_never"), "size"), rows_of()
    message = "MLOPS_ONNX_PROVIDERS: 'CUDAExecutionProvider' needs the package onnxruntime-gpu in place of onnxruntime"
    with pytest.raises(SettingsError, match=message):
        fit(spec, rows[["a", "b"]], rows["size"], folds=0)
    with pytest.raises(SettingsError, match=message):
        OnnxRegressor(f"{__name__}.train_never").fit(rows[["a", "b"]], rows["size"])


def test_service_with_a_missing_provider_does_not_start(monkeypatch, tmp_path):
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    monkeypatch.setenv("MLOPS_ONNX_PROVIDERS", "CPUExecutionProvidr")
    server = type("Server", (), {"address": [("127.0.0.1", 1)]})()
    with pytest.raises(SystemExit, match=r"has no 'CPUExecutionProvidr'\. Did you mean 'CPUExecutionProvider'"):
        gunicorn_settings()["on_starting"](server)


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "used"), [("", [CPU]), (CPU, [CPU]), (f"{OTHER}, {CPU},{CPU}", [OTHER, CPU])])
def test_service_uses_the_chosen_providers_and_shows_those_that_work(chosen, used, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("MLOPS_ONNX_PROVIDERS", chosen)
    app = create_app(make_home(tmp_path))
    live_model(app).refresh()
    client, predictor = app.test_client(), live_model(app).predictor
    assert client.get("/model").get_json()["providers"] == used
    assert client.post("/predict", json={"features": [[1, 0], [0, 1]]}).get_json()["prediction"] == [1, 0]
    assert inline_rule(predictor).allows() is (used == [CPU]), "the CPU time of a row says nothing of another processor"
    assert ("on AzureExecutionProvider, CPUExecutionProvider" in capfd.readouterr().err) is (used != [CPU])
    app.stop()


@pytest.mark.slow
def test_provider_that_does_not_work_is_named_in_the_log(monkeypatch, tmp_path, capfd):
    """As that of CUDA without a device: ONNX Runtime goes on with the next one."""
    settings = make_home(tmp_path)
    registry = Registry.open(settings)
    monkeypatch.setattr("mlops_nb.serving.inference.loading.chosen_providers", lambda: CUDA.split(","))
    predictor = load_verified(registry.get("toy", 1), ()).predictor
    registry.close()
    assert predictor.engine.providers == [CPU]
    assert "on CPUExecutionProvider; CUDAExecutionProvider does not work here" in capfd.readouterr().err


def test_network_shows_the_providers_of_its_graph(monkeypatch, tmp_path):
    """Its engine is scikit-learn, whose estimator runs the graph."""
    monkeypatch.setenv("MLOPS_ONNX_PROVIDERS", f"{OTHER},{CPU}")
    _session.cache_clear()
    make = lambda _: OnnxRegressor("tests.model.test_onnx_models.train_line")  # noqa: E731
    _, _, predictor = served(spec_of(make, "size"), tmp_path)
    assert (predictor.engine.name, predictor.engine.providers) == ("scikit-learn", [OTHER, CPU])
    assert describe_providers(predictor) == f" on {OTHER}, {CPU}"
    _session.cache_clear()


@pytest.mark.slow
def test_model_that_scikit_learn_serves_has_no_providers(monkeypatch, tmp_path):
    monkeypatch.setattr("mlops_nb.model.conversion.convert", lambda *_: unconverted())
    app = create_app(make_home(tmp_path))
    live_model(app).refresh()
    shown = app.test_client().get("/model").get_json()
    assert (shown["engine"], shown["providers"]) == ("scikit-learn", None)
    app.stop()


def unconverted():
    from mlops_nb.model.conversion import Conversion

    return Conversion(None, "a test", 0.0, 0)


def test_session_of_an_estimator_takes_the_providers_too(monkeypatch):
    monkeypatch.setenv("MLOPS_ONNX_PROVIDERS", f"{OTHER},{CPU}")
    import numpy as np

    from tests.model.test_onnx_models import graph_of

    _session.cache_clear()
    assert _session(graph_of(np.ones((2, 1)), None)).get_providers() == [OTHER, CPU]
    _session.cache_clear()


def test_unset_providers_import_nothing():
    """Reading the settings, as every command does, costs no import of ONNX Runtime."""
    program = "import sys; from mlops_nb.onnx_session import chosen_providers; chosen_providers()"
    program += "; assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert Settings.read({}).onnx_providers == ""
