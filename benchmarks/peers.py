"""The service against MLflow, BentoML and MLServer: the same model, the same load, each in an environment of its own.

Each request has an X-Request-ID and a traceparent of its own, as behind a proxy or with tracing.

The environments are made under benchmarks/.peers/ the first time, which takes minutes and needs a package index.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import BIN, median
from benchmarks.models import put_into_production
from benchmarks.service import SERVERS, free_port, load, row, running, sent, wait, write_requests

ENVIRONMENTS = Path(__file__).parent / ".peers"
PACKAGES = {
    "mlflow": ["mlflow", "scikit-learn"],
    "bentoml": ["bentoml", "scikit-learn"],
    "mlserver": ["mlserver", "mlserver-sklearn", "uvloop<0.22"],  # with 0.22 it does not start
}
LIMITS = {"mlflow": 20, "bentoml": 8, "mlserver": 5}  # At least this many times the requests/s
FIT = """
import json, sys
from pathlib import Path
import numpy as np
from sklearn.linear_model import LogisticRegression
X = np.array(json.loads(Path("rows.json").read_text()))
model = LogisticRegression().fit(X, X.sum(axis=1) > 0)
"""
PREPARE = {
    "mlflow": FIT + "import mlflow.sklearn; mlflow.sklearn.save_model(model, 'mlflow-model')",
    "bentoml": FIT + "import joblib; joblib.dump(model, 'model.joblib')",
    "mlserver": FIT + "import joblib; joblib.dump(model, 'model.joblib')",
}
BENTO = """
import bentoml, joblib, numpy as np

@bentoml.service(workers=2)
class Bench:
    def __init__(self):
        self.model = joblib.load("model.joblib")

    @bentoml.api
    def predict(self, features: np.ndarray) -> np.ndarray:
        return self.model.predict(features)
"""


def measure(rounds: int = 10) -> Iterator[dict]:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        put_into_production("logistic", home)
        rows = sent(home)
        body = write_requests(home / "ours.lua", [{"features": [row]} for row in rows], is_traced=True)
        ours, _ = stack.enter_context(running(SERVERS["ours"], home, body))
        for name, limit in LIMITS.items():
            (path, *_), bodies = zip(*(_asked(name, row) for row in rows), strict=True)
            with _peer(name, home, path, write_requests(home / f"{name}.lua", bodies, is_traced=True)) as port:
                load(port, home, path=path, script=f"{name}.lua")
                turns = [
                    (load(ours, home, script="ours.lua")[0], load(port, home, path=path, script=f"{name}.lua")[0])
                    for _ in range(rounds)
                ]
            value, peer = (median(list(rates)) for rates in zip(*turns, strict=True))
            ratio = median([a / b for a, b in turns])
            yield row("logistic, one row", value, "requests/s", f"{name} {peer:,.0f}, aim {limit} x", ratio)


def _asked(name: str, row: list) -> tuple[str, dict]:
    """The path and the body of a request for one row."""
    tensor = {"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": row}
    return {
        "mlflow": ("/invocations", {"inputs": [row]}),
        "bentoml": ("/predict", {"features": [row]}),
        "mlserver": ("/v2/models/bench/infer", {"inputs": [tensor]}),
    }[name]


@contextmanager
def _peer(name: str, home: Path, path: str, body: str) -> Iterator[int]:
    """A peer with two workers that answers, and its port."""
    bin_ = _environment(name)
    port = free_port()
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "PYTHON", "VIRTUAL_ENV"))}
    own |= {"PATH": f"{bin_}:{os.environ['PATH']}", "BENTOML_DO_NOT_TRACK": "true", "MLFLOW_TRACKING_URI": str(home)}
    subprocess.run([bin_ / "python", "-c", PREPARE[name]], cwd=home, env=own, check=True, capture_output=True)
    (home / "bento.py").write_text(BENTO)
    settings = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "parallel_workers": 2}
    (home / "settings.json").write_text(json.dumps(settings))
    model = {"name": "bench", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "model.joblib"}}
    (home / "model-settings.json").write_text(json.dumps(model))
    command = {
        "mlflow": f"mlflow models serve -m mlflow-model -p {port} --env-manager local --workers 2",
        "bentoml": f"bentoml serve bento:Bench -p {port}",
        "mlserver": "mlserver start .",
    }[name]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command.split(), cwd=home, env=own, start_new_session=True, **quiet)
    try:
        wait(port, body, path)
        yield port
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:  # MLServer does not always end when it is asked to
            os.killpg(server.pid, 9)
            server.wait()


def _environment(name: str) -> Path:
    """The programs of a peer's environment, which is made if it is not there."""
    folder = ENVIRONMENTS / name
    if not (folder / "installed").exists():
        print(f"installing {name} into {folder.relative_to(Path.cwd())}", file=sys.stderr)
        uv = BIN / "uv"  # pip takes many minutes to find versions that fit together
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", folder / "bin" / "python"]
        subprocess.run([*install, *PACKAGES[name]], check=True)
        (folder / "installed").touch()
    return folder / "bin"
