"""Requests for a network that takes 5 ms a row, with shared calls and without (`MLOPS_BATCH_MS=0`).

Gunicorn with 2 workers, one row a request, from wrk on 64 keep-alive connections. Both services take turns.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import orjson
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from benchmarks.measure import median
from benchmarks.models import FACTS
from benchmarks.service import SERVERS, load, row, running, sent, write_requests
from mlops_nb.estimators import OnnxRegressor
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.columns import rows_of, to_table
from mlops_nb.model.signature import Input, Signature
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry

ROW_SECONDS = 0.005
WIDTH = 1024  # of a layer
CONNECTIONS = 64
LIMIT = 3  # times as many requests a second as without shared calls


def make_network(X: np.ndarray, y: np.ndarray, layers: int) -> bytes:  # noqa: ARG001 (as a function that trains is called)
    """Return a graph of so many layers with random weights; what it predicts does not matter."""
    rng, nodes, tensors, name, width = np.random.default_rng(0), [], [], "X", X.shape[1]
    for layer in range(layers):
        weights = rng.normal(scale=(2 / width) ** 0.5, size=(width, WIDTH)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weights, f"w{layer}"))
        nodes += [helper.make_node("MatMul", [name, f"w{layer}"], [f"z{layer}"])]
        nodes += [helper.make_node("Relu", [f"z{layer}"], [f"h{layer}"])]
        name, width = f"h{layer}", WIDTH
    tensors.append(numpy_helper.from_array(np.full((width, 1), 1 / width, dtype=np.float32), "w"))
    nodes.append(helper.make_node("MatMul", [name, "w"], ["y"]))
    given = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, X.shape[1]])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph(nodes, "network", [given], [made], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def measure(rounds: int = 5) -> Iterator[dict]:
    if shutil.which("wrk") is None:
        yield row("shared calls", None, "requests/s", "wrk is not installed", None)
        return
    with TemporaryDirectory() as folder:
        home = Path(folder)
        took = put_network_into_production(home)
        yield row("network, a row in process", took * 1000, "ms", "-", None)
        body = write_requests(home / "post.lua", [{"features": [row]} for row in sent(home)])
        kinds = {"shared": {}, "alone": {"MLOPS_BATCH_MS": "0"}}
        with ExitStack() as stack:
            ports = {}
            for kind, more in kinds.items():
                ports[kind], _ = stack.enter_context(running(SERVERS["ours"], home, body, **more))
            for port in ports.values():
                load_many(port, home, 1)
            turns = [{kind: load_many(port, home, 4) for kind, port in ports.items()} for _ in range(rounds)]
        rate = {kind: median([turn[kind][0] for turn in turns]) for kind in kinds}
        ratio = median([turn["shared"][0] / turn["alone"][0] for turn in turns])
        against = f"alone {rate['alone']:,.0f}, at least {LIMIT} x"
        yield row(f"{CONNECTIONS} connections", rate["shared"], "requests/s", against, ratio)
        for i, percentile in ((1, "p50"), (2, "p99")):
            ours, peer = (median([turn[kind][i] for turn in turns]) for kind in kinds)
            yield row(f"  {percentile}", ours, "ms", f"alone {peer:.0f}", ours / peer)


def put_network_into_production(home: Path) -> float:
    """Package and promote a network whose row takes `ROW_SECONDS`; return what it takes, in seconds."""
    rng, names = np.random.default_rng(0), [f"x{i}" for i in range(20)]
    X = pd.DataFrame(rng.normal(size=(200, 20)).round(4), columns=names)
    layers = 4
    for _ in range(3):
        estimator = OnnxRegressor(f"{__name__}.make_network", {"layers": layers}).fit(X, X["x0"])
        took = min(_seconds(estimator, X) for _ in range(10))
        layers = max(2, round(layers * ROW_SECONDS / took))
    signature = Signature(tuple(map(Input, names)), "regression", "y", None)
    (home / "settings.ini").touch()
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home)}))
    bundle = write_bundle(home / "bundle", "bench", estimator, signature, X, X, FACTS)
    registry.promote("bench", registry.register(bundle)[0].version)
    registry.close()
    (home / "rows.json").write_bytes(orjson.dumps(rows_of(signature, to_table(signature, X))))
    return took


def _seconds(estimator: OnnxRegressor, X: pd.DataFrame) -> float:
    start = time.perf_counter()
    estimator.predict(X.head(1))
    return time.perf_counter() - start


def load_many(port: int, home: Path, seconds: int) -> tuple[float, float, float]:
    """Requests a second, and the 50th and 99th percentile of their latency in ms; every one must succeed."""
    return load(port, home, seconds=seconds, connections=CONNECTIONS)
