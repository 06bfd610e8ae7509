"""How Gunicorn runs the service; every value is a setting, see docs/settings.md."""

from mlops_nb.settings import Settings

settings = Settings.read()

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.workers
# threads, because only a threaded worker keeps connections alive
worker_class = "gthread"
threads = settings.threads
keepalive = 75
timeout = 60
graceful_timeout = 30
# an ONNX session must be made in the process that uses it
preload_app = False
# the arbiter's own chatter; what a worker loads or refuses it says itself
loglevel = "warning"


def when_ready(server):
    print(f"Serving {settings.model or 'the default model'} at http://{bind} (stop with Ctrl+C)", flush=True)


def worker_exit(server, worker):
    """Let the session go before the process ends: ONNX Runtime aborts otherwise."""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        app.extensions["live_model"].stop()
