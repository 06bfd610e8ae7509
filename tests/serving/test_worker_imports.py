"""What a worker imports before its first prediction."""

import subprocess
import sys

from tests.factories import ROOT

# of data, training and the pipeline: a worker needs none of them for a prediction of rows as JSON by an ONNX graph
HEAVY = {"alembic", "fsspec", "matplotlib", "onnx", "pandas", "pandera", "pyarrow", "scipy", "sklearn", "skops"}


def test_importing_the_service_imports_no_heavy_library():
    code = f"import sys, serve.app; print(*sorted({HEAVY | {'wandb'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
