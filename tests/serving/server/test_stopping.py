"""A service ends soon after it is told to, whatever its workers do."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.factories import ROOT, free_port, wait_for

APP = "tests.serving.server.starting_app:app"
STOP_SECONDS = 10.0  # far below the 35 s after which Gunicorn kills its workers


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whole_group", [True, False])
def test_service_whose_workers_still_start_ends_at_once(settings, tmp_path, stop, whole_group):
    own = {"MLOPS_HOME": str(settings.home), "MLOPS_MODEL": "toy", "MLOPS_PORT": str(free_port())}
    command = [sys.executable, "-m", "gunicorn", "-c", "serve/gunicorn.conf.py", APP]
    environment = os.environ | own | {"STARTED": str(tmp_path), "MLOPS_WORKERS": "2"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.PIPE)

    def started() -> list[int]:
        return [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]

    try:
        wait_for(lambda: len(started()) == 2, 60)
        begin = time.monotonic()
        (os.killpg if whole_group else os.kill)(process.pid, stop)
        assert process.wait(60) == 0, process.communicate()[1]
        assert time.monotonic() - begin < STOP_SECONDS
        assert not any(is_alive(pid) for pid in started())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
