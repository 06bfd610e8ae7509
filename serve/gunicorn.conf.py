"""How Gunicorn runs the service; every value is a setting, see docs/settings.md."""

import gc
import math
import os
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp

from mlops_nb.errors import MlopsError
from mlops_nb.settings import Settings, require_keys

try:
    settings = Settings.read()
except MlopsError as e:
    sys.exit(f"Error: {e}")

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.workers
# threads, because only a threaded worker keeps connections alive; and limits
worker_class = "serve.worker.Worker"
threads = settings.threads
keepalive = 75
timeout = 60
# what is being answered is answered or refused within its limit, and then there is something to put away
graceful_timeout = max(30, math.ceil(settings.request_seconds) + 5)
# an answer is sent by the worker in one piece, see serve/worker.py
sendfile = False
# no header is believed that says what somebody else was asked, whoever sends it; so nobody has to be looked up
secure_scheme_headers = {}
forwarder_headers = ""
forwarded_allow_ips = "*"
# an ONNX session must be made in the process that uses it
preload_app = False
# the arbiter's own chatter; what a worker loads or refuses it says itself
loglevel = "warning"


# where workers write their metrics for each other; prometheus_client reads this when it is imported
_METRICS, _OURS = "PROMETHEUS_MULTIPROC_DIR", "mlops-metrics-"


def on_starting(server):
    """Refuse to open the service by mistake; make a folder for metrics, or clear the one that the environment names."""
    try:
        for address in server.address:
            require_keys(settings, address[0] if isinstance(address, tuple) else "localhost")
    except MlopsError as e:
        sys.exit(f"Error: {e}")
    folder = Path(os.environ.get(_METRICS) or _OURS)
    if folder.name.startswith(_OURS):  # none is named, or by a master that this one replaces
        os.environ[_METRICS] = mkdtemp(prefix=_OURS)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()


def post_worker_init(worker):
    """Let requests wait for little: not for the garbage collector, and not long for the threads beside them.

    What was made so far stays, so the collector need not look at it in every large request. And whoever wants the
    interpreter from a thread that computes, such as the one that ships the log, gets it after 0.5 ms, not after 5.
    """
    sys.setswitchinterval(0.0005)
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # what requests leave for half a second, to be counted, is no garbage


def child_exit(server, worker):
    """Forget the gauges and connections of a worker that is gone; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
    worker.connections.release()


def on_exit(server):
    """Remove the folder for metrics that was made."""
    if Path(os.environ[_METRICS]).name.startswith(_OURS):
        shutil.rmtree(os.environ[_METRICS], ignore_errors=True)


def when_ready(server):
    shown = f"Serving {settings.model or 'the default model'} at http://{bind} (stop with Ctrl+C)"
    print(shown, file=sys.stderr, flush=True)


def worker_exit(server, worker):
    """Let the session go before the process ends: ONNX Runtime aborts otherwise."""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        from serve.app import stop

        stop(app)
    if worker.is_busy():  # Python would wait for its threads
        os._exit(0)
