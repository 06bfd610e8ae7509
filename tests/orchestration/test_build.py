"""Builds that another process starts, and their ends. Here a `ploomber` that only waits stands for the pipeline."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.factories import wait_for

BUILD = """
import os, signal, sys
from mlops_nb.orchestration.build import build
from mlops_nb.settings import Settings
from mlops_nb.store.runs import RunStore

sys.executable = sys.argv[1]
settings = Settings.read()
if sys.argv[2] == "interrupt":
    os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
build({}, settings, RunStore(settings.home / "runs").new())
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process that builds, and waits until its pipeline runs; returns both."""
    (tmp_path / "pipeline.yaml").write_text("tasks: []\n")
    (tmp_path / "python").symlink_to(sys.executable)
    script = ["#!/bin/sh", f"echo $$ > {tmp_path}/new", f"mv {tmp_path}/new {tmp_path}/pid", "exec sleep 300"]
    (tmp_path / "ploomber").write_text("\n".join(script))
    (tmp_path / "ploomber").chmod(0o755)
    started = []

    def start(way: str = "") -> tuple[subprocess.Popen, psutil.Process]:
        command = [sys.executable, "-c", BUILD, str(tmp_path / "python"), way]
        environment = os.environ | {"MLOPS_HOME": str(tmp_path)}
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
        wait_for(lambda: (tmp_path / "pid").exists())
        started.append(psutil.Process(int((tmp_path / "pid").read_text())))
        return started[0], started[1]

    yield start
    for process in started:
        if process.poll() is None if isinstance(process, subprocess.Popen) else process.is_running():
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the build")
def test_build_ends_when_the_process_that_waits_for_it_is_killed(start):
    waiting, pipeline = start()
    waiting.kill()
    waiting.communicate(timeout=60)
    wait_for(lambda: not pipeline.is_running() or pipeline.status() == psutil.STATUS_ZOMBIE)


def test_interrupt_ends_the_build_also_in_the_moment_of_its_start(start):
    """Python ignores an interrupt inside its hooks after a fork: the start of a build may run none."""
    waiting, pipeline = start("interrupt")
    waiting.send_signal(signal.SIGINT)
    _, errors = waiting.communicate(timeout=60)
    assert (waiting.returncode, b"Exception ignored" in errors) == (-signal.SIGINT, False), errors
    assert not pipeline.is_running() or pipeline.status() == psutil.STATUS_ZOMBIE
