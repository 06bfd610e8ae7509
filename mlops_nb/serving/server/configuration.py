"""The configuration of Gunicorn: every value comes from a setting, see docs/settings.md."""

import gc
import math
import os
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp

from mlops_nb.errors import MlopsError
from mlops_nb.onnx_session import chosen_providers
from mlops_nb.serving.server.gunicorn_api import require_gunicorn
from mlops_nb.settings import Settings, require_keys

# folder where workers write their metrics for each other; prometheus_client reads this when it is imported
_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_METRICS_PREFIX = "mlops-metrics-"  # of a folder that this module makes, and removes
MIN_GRACEFUL_SECONDS = 30  # that a worker has to stop
STOP_RESERVE_SECONDS = 5  # of these, beyond the limit of a request, to stop the parts of the service
SWITCH_SECONDS = 0.0005  # after which a thread that computes gives way; Python's default is ten times as long
# objects between two collections: requests leave many until metrics are counted, and they are no garbage
GC_THRESHOLD = 10_000


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
        """Refuse an open service without keys, and providers that there are not; make a folder for metrics, or clear the named one; replace the master."""
        try:
            for bound in server.address:
                require_keys(settings, bound[0] if isinstance(bound, tuple) else "localhost")
            chosen_providers(settings)
        except MlopsError as e:
            sys.exit(f"Error: {e}")
        _prepare_metrics_folder()
        from mlops_nb.serving.server.arbiter import RollingArbiter  # of a supported Gunicorn

        server.__class__ = RollingArbiter  # no setting of Gunicorn names the class of its master

    def when_ready(_server):
        model = settings.models.replace("*", "all models") or settings.model or "the default model"
        print(f"Serving {model} at http://{address} (stop with Ctrl+C)", file=sys.stderr, flush=True)

    return {
        "bind": address,
        "workers": settings.workers,
        # only a threaded worker keeps connections alive; this one has limits as well
        "worker_class": "mlops_nb.serving.server.worker.BoundedThreadWorker",
        "threads": settings.threads,
        "keepalive": 75,
        "timeout": 60,
        # within its limit each request gets a response
        "graceful_timeout": max(MIN_GRACEFUL_SECONDS, math.ceil(settings.request_seconds) + STOP_RESERVE_SECONDS),
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
    folder = Path(os.environ.get(_METRICS_VARIABLE) or _METRICS_PREFIX)
    if folder.name.startswith(_METRICS_PREFIX):  # the user named none; a master that this one replaces may have
        os.environ[_METRICS_VARIABLE] = mkdtemp(prefix=_METRICS_PREFIX)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file in [*folder.glob("*.db"), *folder.glob("unloaded-*")]:  # models that were unloaded, of an earlier service
        file.unlink()


def post_worker_init(_worker):
    """Reduce the pauses of requests: those of the garbage collector, and those by threads that compute.

    Objects made so far are never collected, so the collector need not visit them in every large request.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def child_exit(_server, worker):
    """Remove the gauges and connections of a worker that ended; its counters stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
    worker.connections.release()


def worker_exit(_server, worker):
    """Release the ONNX session, and end the process at once.

    Python would wait for threads that are stuck, and ONNX Runtime for those of the master that imported it: it aborts.
    """
    stop = getattr(getattr(worker, "wsgi", None), "stop", None)  # another application may have none
    if stop is not None:
        stop()
    ending = sys.exc_info()[1]  # Gunicorn calls this while `sys.exit` is on its way; the master has to see another code
    if worker.is_busy() or (isinstance(ending, SystemExit) and not ending.code):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def on_exit(_server):
    """Remove the folder for metrics that this module made."""
    if Path(os.environ[_METRICS_VARIABLE]).name.startswith(_METRICS_PREFIX):
        shutil.rmtree(os.environ[_METRICS_VARIABLE], ignore_errors=True)
