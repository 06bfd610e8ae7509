"""What a worker imports before its first prediction, what memory it takes, and how soon it is ready."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import numpy as np
import pandas as pd
import psutil
import pyarrow
import pytest
from sklearn.ensemble import RandomForestClassifier

from mlops_nb.model.bundle import write_bundle
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from tests.factories import NUMBERS, ROOT, Service

# of data, training and the pipeline: a worker needs none of them for a prediction of rows as JSON by an ONNX graph
HEAVY = {"alembic", "fsspec", "matplotlib", "onnx", "pandas", "pandera", "pyarrow", "scipy", "sklearn", "skops"}
OWN_MIB = 90  # memory of a worker that no other process has, with a graph that predicts every row
HYBRID_MIB = 220  # the same, with scikit-learn beside the graph
ARROW = "application/vnd.apache.arrow.stream"


def test_importing_the_service_imports_no_heavy_library():
    code = f"import sys, serve.app; print(*sorted({HEAVY | {'wandb'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


class ListingService(Service):
    app = "tests.serving.modules_app:app"

    @property
    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def heavy(self) -> set[str]:
        """Heavy modules of any worker, asked often enough that each responds."""
        return set().union(*({*self.get("/modules")[1]["modules"]} & HEAVY for _ in range(20)))

    def own_mib(self) -> float:
        """Memory of the largest worker that no other process has."""
        return max(worker.memory_full_info().uss for worker in self.workers) / 2**20


@pytest.fixture
def listing(settings, tmp_path):
    service = ListingService(settings, tmp_path / "log")
    yield service
    assert "Traceback" not in service.stop()


@pytest.mark.slow
def test_worker_that_predicted_has_no_heavy_library_and_little_memory(listing):
    for _ in range(20):
        assert listing.predict()[0] == 200
    assert listing.heavy() == set()
    assert listing.own_mib() < OWN_MIB


@pytest.mark.slow
def test_worker_predicts_while_a_thread_imports_what_a_table_needs(settings, tmp_path):
    service = ListingService(settings, tmp_path / "log", MLOPS_WORKERS="1")
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"a": [1.0], "b": [0.0]})
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    statuses = []
    with ThreadPoolExecutor() as pool:
        first = pool.submit(send_table, service, sink.getvalue().to_pybytes())
        while not first.done():
            statuses.append(service.predict()[0])
    assert first.result() == 200
    assert {*statuses} == {200}
    assert "pyarrow" in service.heavy()
    assert "Traceback" not in service.stop()


def send_table(service: Service, content: bytes) -> int:
    connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("POST", "/predict", content, {"Content-Type": ARROW, "Accept": ARROW})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.slow
def test_worker_whose_rows_may_leave_the_graph_has_scikit_learn_when_it_is_ready(settings, tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, 2)), columns=["a", "b"])
    forest = RandomForestClassifier(10, random_state=0).fit(X, (X["a"] > X["b"]).astype(int))
    facts = {"params": {}, "seed": 1, "data": {}, "python": "", "packages": {}}
    facts["evaluation"] = {"metrics": {}, "baseline": {}, "gates": [], "passed": True}
    home = shutil.copytree(settings.home, tmp_path / "hybrid")
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home)}))
    version = registry.register(write_bundle(tmp_path / "forest", "toy", forest, NUMBERS, X, X, facts))[0]
    registry.promote("toy", version.version)
    registry.close()
    service = ListingService(Settings.read({"MLOPS_HOME": str(home)}), tmp_path / "log")
    assert service.get("/model")[1]["engine"] == "onnxruntime"
    assert {"sklearn", "skops"} <= service.heavy()
    assert service.own_mib() < HYBRID_MIB
    assert "Traceback" not in service.stop()
