"""Commands as copies of one process that has imported the libraries that they import, and nothing of the project.

A helper of tests/commands.py, which runs this file and writes a request a line: `argv`, `env`, `cwd`, `out`, `err`.
The answers are a line with the process id, and when the command has ended one with its exit code. Where the request has
`stays`, the only answer is the process id; `{"ended": <process id>}` asks for its exit code, `null` while it runs.
"""

import atexit
import gc
import importlib
import json
import os
import signal
import sys
import threading
import warnings
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

LIBRARIES = [
    "skops.io",
    "pandas",
    "pyarrow.parquet",
    "pandera.pandas",
    "sklearn.linear_model",
    "sklearn.ensemble",
    "sklearn.compose",
    "sklearn.pipeline",
    "sklearn.model_selection",
    "sklearn.dummy",
    "sklearn.inspection",
    "scipy.optimize",
    "matplotlib.pyplot",
    "onnx",
    "onnxruntime",
    "skl2onnx",
    "sqlalchemy",
    "alembic.command",
    "ploomber.cli",
    "ploomber.spec",
    "ploomber_engine.execute",
    "papermill",
    "nbconvert",
    "nbclient",
    "ipykernel.kernelapp",
    "IPython",
    "jinja2",
    "click",
    "boto3",
]
# What a service has imported when its model is loaded, but for onnxruntime, which at its end waits for a thread that is
# not copied, and prometheus_client, which reads the environment when it is imported
SERVICE_LIBRARIES = [
    "flask",
    "gunicorn.app.wsgiapp",
    "gunicorn.workers.gthread",
    "orjson",
    "pandas",
    "pyarrow",
    "skops.io",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "sqlalchemy",
]


def serve(requests, answers, libraries: list[str]):
    """Import the libraries, then fork a command for each line until there is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in libraries:
            with suppress(ImportError):
                importlib.import_module(name)
    commands = {entry.name: entry for entry in entry_points(group="console_scripts")}
    gc.collect()
    gc.freeze()
    for line in requests:
        request = json.loads(line)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), file=answers, flush=True)
            continue
        stays, command = request.pop("stays", False), commands[Path(request["argv"][0]).name]
        pid = os.fork()
        if pid == 0:
            become(command, **request)
            if stays:  # it ends as interpreters do: what libraries do at the end belongs to a test of a service
                sys.exit(command.load()())
            run(command)
        print(pid, file=answers, flush=True)
        if not stays:
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


def become(command: EntryPoint, argv: list[str], env: dict[str, str], cwd: str, out: str, err: str):
    """Be as a command is when its script has started it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    for number, (path, flags) in enumerate([(os.devnull, os.O_RDONLY), (out, os.O_WRONLY), (err, os.O_WRONLY)]):
        os.dup2(os.open(path, flags), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    script = Path(sys.executable).parent / command.name
    sys.argv = [str(script), *argv[1:]]
    given = [folder for folder in env.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:] = [str(script.parent), *given, *(folder for folder in sys.path if folder != str(Path(__file__).parent))]
    sys.path_importer_cache.clear()
    sys.modules["numpy"].random.seed()


def run(command: EntryPoint):
    """Run a command to its end."""
    code: object = 1
    try:
        code = command.load()()
    except SystemExit as e:
        code = e.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    end(code)


def end(code: object):
    """End a command as the interpreter does: threads and what was registered first."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(int(code or 0) & 0xFF)


if __name__ == "__main__":
    requests = os.fdopen(os.dup(0), "r")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    serve(requests, answers, SERVICE_LIBRARIES if sys.argv[1:] == ["services"] else LIBRARIES)
