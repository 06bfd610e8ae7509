"""The first request of a newcomer: what `mlops-nb serve` prints works, whatever the model."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_nb.cli.first_request import curl_command
from tests.factories import free_port, wait_for

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
KEYS = {"mixed": {"MLOPS_API_KEYS": "a-key-of-16-letters"}}  # the model whose service needs a key


@pytest.fixture(params=["numbers", "mixed"])
def served(request, homes, tmp_path):
    """What a running `mlops-nb serve` of a model has printed, and its port."""
    home = shutil.copytree(homes[request.param], tmp_path / "home")
    port, log = free_port(), tmp_path / "log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    environment |= {"MLOPS_HOME": str(home), "MLOPS_MODEL": "toy", "MLOPS_PORT": str(port)}
    environment |= KEYS.get(request.param, {})
    with log.open("w") as errors:
        command = [BIN / "mlops-nb", "serve"]
        process = subprocess.Popen(command, cwd=home, env=environment, stderr=errors, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: "Dashboard: " in log.read_text() or process.poll() is not None, 60)
        yield log.read_text(), port
    finally:
        process.terminate()
        process.wait(timeout=40)


def test_printed_curl_gets_a_prediction(served):
    text, port = served
    (line,) = re.findall(r"^  (curl .*)$", text, re.MULTILINE)
    environment = {"PATH": os.environ["PATH"], "MLOPS_API_KEY": "a-key-of-16-letters"}
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=True, timeout=30)
    assert len(json.loads(done.stdout)["prediction"]) == 1
    assert f"Dashboard: http://127.0.0.1:{port}/" in text
    assert "a-key-of-16" not in text


def test_texts_are_quoted_for_the_shell():
    row = {"text": 'it\'s $HOME and `date` "quoted"\n'}
    command = curl_command("http://x", row).replace("curl", "printf '%s\\n'")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert json.dumps({"features": [row]}) in done.stdout
