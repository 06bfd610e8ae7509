"""Helpers that make bundles, registries and services for the tests."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pandas as pd
import pandera.pandas as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlops_nb.data.tables import snapshot, split
from mlops_nb.model.anomaly import truth_of
from mlops_nb.model.bundle import Bundle, write_bundle
from mlops_nb.model.columns import input_frame
from mlops_nb.model.interval import LAC, Interval
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Input, Signature, signature_of
from mlops_nb.model.train import fit
from mlops_nb.monitor.prediction_log import PredictionLog
from mlops_nb.settings import Settings
from mlops_nb.spec import ModelSpec
from mlops_nb.store.artifacts import FolderStore
from mlops_nb.store.registry import Registry
from tests.commands import StartedCommand

ROOT = Path(__file__).parents[1]

SIGNATURE = Signature(
    (
        Input("age", "int", minimum=0, maximum=120),
        Input("income", "float", required=False),
        Input("home", "string", categories=("own", "rent")),
    ),
    "classification",
    "repaid",
    ("no", "yes"),
)
LIKELY = replace(SIGNATURE, interval=Interval(level=0.9, quantile=0.7, rows=99, method=LAC))
NUMBERS = Signature((Input("a"), Input("b")), "classification", "side", (0, 1))


def package(folder: Path, C: float, signature: Signature = NUMBERS, name: str = "toy"):
    """A bundle of a logistic regression; another C is another model."""
    rng = np.random.default_rng(0)
    n = 200
    if signature.names == NUMBERS.names:
        X = pd.DataFrame(rng.normal(size=(n, 2)), columns=["a", "b"])
        estimator, y = LogisticRegression(C=C), (X["a"] > X["b"]).astype(int)
    else:
        from sklearn.impute import SimpleImputer

        X = pd.DataFrame({"age": rng.integers(18, 90, n), "income": rng.normal(3000, 500, n)})
        X["home"] = rng.choice(["own", "rent"], n)
        y = np.where(X["age"] > 40, "yes", "no")
        X.loc[::7, "income"] = np.nan
        columns = make_column_transformer(
            (SimpleImputer(), ["age", "income"]), (OneHotEncoder(handle_unknown="ignore"), ["home"])
        )
        estimator = make_pipeline(columns, LogisticRegression(C=C, max_iter=2000))
    estimator.fit(X, y)
    evaluation = {"metrics": {"accuracy": 0.9}, "baseline": {"accuracy": 0.5}, "gates": [], "passed": True}
    facts = {"params": {"C": C}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": evaluation}
    return write_bundle(folder, name, estimator, signature, X, X, facts)


def optional(library: str):
    """Skip a test whose library is of an extra that is not installed; CI installs them all."""
    if importlib.util.find_spec(library) is None:
        (pytest.fail if os.environ.get("REQUIRE_SERVICES") else pytest.skip)(f"{library} is missing: make optional")


def anomalies(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Two inputs around 0 and the number of a site; of 20 rows one is far away, and `odd`."""
    rng = np.random.default_rng(seed)
    odd = (np.arange(n) % 20 == 0).astype(int)
    angle = rng.uniform(0, 2 * np.pi, n)
    table = pd.DataFrame(rng.normal(size=(n, 2)), columns=["x", "y"])
    table += 6 * odd[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return table.assign(site=rng.integers(0, 2, n), odd=odd)


def served(spec, folder: Path, folds: int = 0, metrics: tuple = ()) -> tuple:
    """The estimator of a spec as it was trained, its training rows, and the predictor of its bundle."""
    rows = spec.schema.validate(spec.load())
    X = input_frame(spec, rows)
    estimator = fit(spec, X, truth_of(spec, rows), folds=folds).estimator
    evaluation = {"metrics": dict.fromkeys(metrics, 0.5), "baseline": {}, "gates": [], "passed": True}
    metadata = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": evaluation}
    write_bundle(folder / "bundle", spec.name, estimator, signature_of(spec, estimator), rows, rows, metadata)
    return estimator, X, Predictor.load(folder / "bundle")


def split_and_packaged(spec, home: Path, test_size: float = 0.3) -> tuple[Bundle, FolderStore, pd.DataFrame]:
    """What a build makes of a spec: its bundle, the store with the snapshot of its table, and its test set."""
    rows = spec.schema.validate(spec.load())
    train, test = split(rows, spec.target, test_size, 0, spec.time, spec.task != "regression")
    artifacts = FolderStore(home)
    data = {"sha256": snapshot(rows, artifacts.snapshots).sha256, "rows": len(rows), "test_rows": len(test)}
    estimator = fit(spec, input_frame(spec, train), truth_of(spec, train), folds=0).estimator
    metadata = {"params": {}, "seed": 0, "data": data, "asked": {"test_size": test_size}, "python": "", "packages": {}}
    metadata["evaluation"] = {"metrics": {}, "baseline": {}, "gates": [], "passed": True}
    bundle = write_bundle(home / "bundle", spec.name, estimator, signature_of(spec, estimator), test, train, metadata)
    return bundle, artifacts, test


def several_outputs(
    names: tuple = ("late", "a of b", 'é "x"'), kinds: tuple = (bool, str, int), make=None, n: int = 300, **more
) -> ModelSpec:
    """A spec of several outputs: of labels (bool, int, str), or numbers (float), which follow from two columns."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=n), "home": rng.choice(["own", "rent"], n)})
    for number, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        sign = table["x"] + (table["home"] == "own") * number > 0
        if kind is float:
            table[name] = table["x"] * (number + 1) + (table["home"] == "own")
        elif kind is str:
            table[name] = np.where(sign, "yes", np.where(table["home"] == "own", "no", "maybe"))
        else:
            table[name] = sign.astype(kind)
    is_regression = float in kinds
    trees = RandomForestRegressor if is_regression else RandomForestClassifier
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["home"]), remainder="passthrough")
    columns = {"x": pa.Column(float), "home": pa.Column(str, pa.Check.isin(["own", "rent"]))}
    spec = {
        "name": "several",
        "load": lambda: table,
        "target": list(names),
        "schema": pa.DataFrameSchema(columns | dict(zip(names, map(pa.Column, kinds), strict=True))),
        "make_estimator": lambda params: make_pipeline(encode, (make or (lambda: trees(10)))()),
        "task": "regression" if is_regression else "classification",
        "scorer": "r2" if is_regression else "accuracy",
        "slices": {"owners": lambda X: X["home"] == "own"},
    }
    return ModelSpec(**spec | more)


def make_home(home: Path, signature: Signature = NUMBERS, promoted: int = 1, **more: str) -> Settings:
    """A home with two versions, `promoted` of them in production one after the other."""
    (home / "settings.ini").touch()
    settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy", "MLOPS_POLL_SECONDS": "0.1", **more})
    registry = Registry.open(settings)
    for C in (0.1, 10.0):
        registry.register(package(home / "bundle", C, signature))
    for version in range(1, promoted + 1):
        registry.promote("toy", version)
    registry.close()
    return settings


@contextmanager
def unverified():
    """Let registries take what no service can load, as those of an earlier release did."""
    with pytest.MonkeyPatch.context() as patch:
        loaded = SimpleNamespace(close=lambda: None)
        patch.setattr("mlops_nb.store.version_store.Predictor", SimpleNamespace(load=lambda *_, **__: loaded))
        patch.setattr(Registry, "verify", lambda *_: None)
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds: float = 20):
    """Call a function until its result is true, and return the result."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def send(port: int, method: str, path: str, body: str | bytes | None = None, headers=None, timeout: float = 30):
    """Status and body of a response of a service on this machine; 0 and nothing where it does not answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def logged(app, roles=("production", "canary")):
    """What is in the log, after all that was spooled was shipped."""
    log = app.extensions["log"]
    assert log._step(), log._problem
    database = PredictionLog.open(app.extensions["settings"])
    window = database.read(app.extensions["settings"].model, roles=roles)
    database.close()
    return window


class Service:
    """A real Gunicorn with two workers."""

    app = "serve.wsgi:app"
    is_forked = False

    def __init__(self, settings: Settings, log: Path, **more: str):
        self.port, self.log = free_port(), log
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
        own = {"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": "toy", "MLOPS_PORT": str(self.port)}
        self.environment = kept | own | more
        command = ["gunicorn", "-c", "serve/gunicorn.conf.py", self.app]
        self.out = log.with_name(f"{log.name}.out")
        log.write_text("")
        self.out.write_text("")
        if self.is_forked and sys.platform == "linux":
            self.process = StartedCommand(command, ROOT, self.environment, self.out, log)
        else:
            with log.open("w") as errors, self.out.open("w") as lines:
                began = {"cwd": ROOT, "env": self.environment, "stderr": errors, "stdout": lines}
                self.process = subprocess.Popen([sys.executable, "-m", *command], **began)
        wait_for(self.answers, 60)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/health/live")[0] == 200
        except OSError:
            return False

    def call(self, method: str, path: str, body=None, connection=None):
        own = connection or HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = None if body is None else orjson.dumps(body)
        try:
            own.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            response = own.getresponse()
            return response.status, orjson.loads(response.read())
        finally:
            if connection is None:
                own.close()

    def get(self, path: str):
        return self.call("GET", path)

    def predict(self, connection=None):
        return self.call("POST", "/predict", {"features": [[1, 0]]}, connection)

    def versions(self, times: int = 8) -> set:
        """Which versions answer, whichever worker is asked."""
        return {self.predict()[1].get("version") for _ in range(times)}

    def loads(self, version: int) -> int:
        """Return how often a worker logged that it loaded a version (which worker gets a request is chance)."""
        return self.log.read_text().count(f"toy version {version} loaded")

    def lines(self, route: str) -> list[dict]:
        """What the access log says about a route."""
        *whole, _ = self.out.read_bytes().split(b"\n")  # the last may be half written
        lines = [orjson.loads(line) for line in whole]
        return [line for line in lines if line["route"] == route]

    def stop(self) -> str:
        """End it as an operator would, and answer with its log."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(timeout=40)
        return self.log.read_text()


class ForkedService(Service):
    """One that is ready after a sixth of the time, where the test is not of how its processes begin and end."""

    is_forked = True
