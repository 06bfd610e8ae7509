"""One-row /predict of the textbook's model, as a share of what a no-op Flask route reaches on the same Gunicorn.

Gunicorn with 2 workers, 8 keep-alive connections, from wrk (https://github.com/wg/wrk; Debian: apt-get install wrk).
"""

import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import ROOT, environment, median, seconds

BODY = '{"features": [[' + ", ".join(f"{(i * 37 % 19 - 9) / 7:.4f}" for i in range(20)) + "]]}"
LUA = f"""wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{BODY}]==]
"""


def measure(rounds: int = 20, duration: int = 1) -> list[dict]:
    if shutil.which("wrk") is None:
        return [
            {
                "what": "one-row /predict",
                "value": None,
                "unit": "requests/s",
                "against": "wrk is not installed",
                "ratio": None,
            }
        ]
    with TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "post.lua").write_text(LUA)
        build = ["ploomber", "build", "--env--spec", "mlops_nb.examples.signals", "--env--engine", "ploomber-engine"]
        for name in ("nbs", "mlops_nb", "serve", "settings.ini", "pipeline.yaml", "env.yaml"):
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, home / name)
        seconds(build, home)
        # in turn, a second each: the ratio of neighbours holds when the speed of the machine drifts
        with running("serve.wsgi:app", home) as ours, running("benchmarks.noop:app", home) as peer:
            for port in (ours, peer):
                load(port, home, duration)
            pairs = [(load(ours, home, duration), load(peer, home, duration)) for _ in range(rounds)]
    value, noop = (median(list(rates)) for rates in zip(*pairs, strict=True))
    ratio = median([a / b for a, b in pairs])
    return [
        {
            "what": "one-row /predict",
            "value": value,
            "unit": "requests/s",
            "against": "no-op Flask route",
            "ratio": ratio,
        },
        {"what": "no-op Flask route", "value": noop, "unit": "requests/s", "against": "itself", "ratio": 1.0},
    ]


@contextmanager
def running(app: str, home: Path):
    """An application on Gunicorn, as the service runs, until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = environment(home, MLOPS_PORT=str(port), MLOPS_MODEL="signals", MLOPS_HOME=str(home))
    own["PYTHONPATH"] = f"{home}:{ROOT}"
    command = [sys.executable, "-m", "gunicorn", "-c", "serve/gunicorn.conf.py", app]
    server = subprocess.Popen(command, cwd=home, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(port)
        yield port
    finally:
        server.terminate()
        server.wait()


def wait(port: int):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("POST", "/predict", BODY, {"Content-Type": "application/json"})
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise SystemExit("the service did not answer within 60 s")


def load(port: int, home: Path, duration: int) -> float:
    """Requests a second; every one must succeed."""
    command = ["wrk", "-t1", "-c8", f"-d{duration}s", "-s", str(home / "post.lua"), f"http://127.0.0.1:{port}/predict"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])
