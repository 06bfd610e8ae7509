"""A helper: `ploomber`, `mlops-nb` and `gunicorn` as a person runs them, but libraries are imported once for all.

They are forked from one process a test session that has imported the libraries (tests/fork_server.py); the project
itself is imported by each command, from where its `PYTHONPATH` says. Anything else starts as it always does, and so do
commands that are to be killed.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

FORKED = ("ploomber", "mlops-nb")


def run_command(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float = 300
) -> subprocess.CompletedProcess:
    """Run a command to its end; its output is text."""
    own = any(name in env for name in ("PYTHONWARNINGS", "PYTHONHASHSEED", "PYTHONDEVMODE"))
    if sys.platform != "linux" or Path(command[0]).name not in FORKED or own:
        given = {"cwd": cwd, "env": env, "capture_output": True, "text": True, "check": False}
        return subprocess.run(command, timeout=timeout, **given)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        request = {"argv": [*map(str, command)], "env": dict(env), "cwd": str(cwd), "out": str(out), "err": str(err)}
        code = _server().run(request, timeout)
        done = subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())
        if code is None:
            raise subprocess.TimeoutExpired(command, timeout, done.stdout, done.stderr)
        return done


def run_logged(words: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path, _is_stopped) -> int:
    """Run a command in place of `orchestration.build.run_command`: nobody stops it."""
    done = run_command(words, folder, environment)
    output.write_text(done.stdout + done.stderr)
    return done.returncode


class Server:
    """The process that forks; it has imported what commands need, or what services need."""

    def __init__(self, *kind: str):
        program = [sys.executable, Path(__file__).with_name("fork_server.py"), *kind]
        self._lock = threading.Lock()
        environment = {**os.environ, "MPLBACKEND": "agg", "PLOOMBER_STATS_ENABLED": "false", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        atexit.register(self.close)

    def run(self, request: dict, timeout: float) -> int | None:
        """Return the exit code of a command; None if it was ended because it took too long."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pid, late = int(self._process.stdout.readline()), threading.Event()

        def end():
            late.set()
            os.killpg(pid, signal.SIGKILL)

        timer = threading.Timer(timeout, end)
        timer.start()
        code = int(self._process.stdout.readline())
        timer.cancel()
        return None if late.is_set() else code

    def ask(self, request: dict) -> int | None:
        """Return the one line of an answer."""
        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@cache
def _server() -> Server:
    return Server()


@cache
def _services() -> Server:
    return Server("services")


class StartedCommand:
    """A command that goes on beside the test, used as `subprocess.Popen` is."""

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str], out: Path, err: Path):
        request = {"argv": command, "env": dict(env), "cwd": str(cwd), "out": str(out), "err": str(err)}
        self.pid = _services().ask(request | {"stays": True})
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _services().ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)
