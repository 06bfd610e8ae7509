"""The configuration of Gunicorn: every value comes from a setting, see docs/settings.md."""

import gc
import math
import os
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp

from mlops_nb.errors import MlopsError
from mlops_nb.serving.server.gunicorn_api import require_gunicorn
from mlops_nb.settings import Settings, require_keys

# where workers write their metrics for each other; prometheus_client reads this when it is imported
_METRICS, _OURS = "PROMETHEUS_MULTIPROC_DIR", "mlops-metrics-"


def gunicorn_settings() -> dict:
    """Return Gunicorn's settings and hooks; exit with the reason where a setting is wrong.

    A project's `serve/gunicorn.conf.py` takes all of them and overrides what it likes.
    """
    try:
        require_gunicorn()
        settings = Settings.read()
    except MlopsError as e:
        sys.exit(f"Error: {e}")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"

    def on_starting(server):
        """Refuse to open the service by mistake; make a folder for metrics, or clear the one that is named."""
        try:
            for bound in server.address:
                require_keys(settings, bound[0] if isinstance(bound, tuple) else "localhost")
        except MlopsError as e:
            sys.exit(f"Error: {e}")
        _prepare_metrics_folder()

    def when_ready(server):
        model = settings.model or "the default model"
        print(f"Serving {model} at http://{address} (stop with Ctrl+C)", file=sys.stderr, flush=True)

    return {
        "bind": address,
        "workers": settings.workers,
        # only a threaded worker keeps connections alive; this one has limits as well
        "worker_class": "mlops_nb.serving.server.worker.BoundedThreadWorker",
        "threads": settings.threads,
        "keepalive": 75,
        "timeout": 60,
        # within its limit each request is answered or refused; the rest is time to stop the parts
        "graceful_timeout": max(30, math.ceil(settings.request_seconds) + 5),
        # the worker sends a response in one piece
        "sendfile": False,
        # no header is trusted that claims another scheme, path or address, whoever sends it
        "secure_scheme_headers": {},
        "forwarder_headers": "",
        "forwarded_allow_ips": "*",
        # an ONNX session must be made in the process that uses it
        "preload_app": False,
        # the arbiter's own messages; workers log what they load or refuse themselves
        "loglevel": "warning",
        "on_starting": on_starting,
        "when_ready": when_ready,
        "post_worker_init": post_worker_init,
        "child_exit": child_exit,
        "worker_exit": worker_exit,
        "on_exit": on_exit,
    }


def _prepare_metrics_folder():
    folder = Path(os.environ.get(_METRICS) or _OURS)
    if folder.name.startswith(_OURS):  # none is named, or by a master that this one replaces
        os.environ[_METRICS] = mkdtemp(prefix=_OURS)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()


def post_worker_init(worker):
    """Reduce the pauses of requests: of the garbage collector, and of the threads beside them.

    What was made so far is never collected, so the collector need not visit it in every large request. A thread that
    computes, such as the one that ships the log, gives way after 0.5 ms, not after 5.
    """
    sys.setswitchinterval(0.0005)
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # requests leave objects for half a second, to be counted; they are no garbage


def child_exit(server, worker):
    """Remove the gauges and connections of a worker that ended; its counters stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
    worker.connections.release()


def worker_exit(server, worker):
    """Release the ONNX session before the process ends: ONNX Runtime aborts otherwise."""
    stop = getattr(getattr(worker, "wsgi", None), "stop", None)  # another application may have none
    if stop is not None:
        stop()
    if worker.is_busy():  # Python would wait for its threads
        os._exit(0)


def on_exit(server):
    """Remove the folder for metrics that was made."""
    if Path(os.environ[_METRICS]).name.startswith(_OURS):
        shutil.rmtree(os.environ[_METRICS], ignore_errors=True)
