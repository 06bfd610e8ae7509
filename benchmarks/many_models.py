"""Twenty logistic models in one service against one model alone: the memory of a worker, and what a request costs.

The CPU time of a request holds better than its rate when the machine does other work. One worker each, 8 keep-alive
connections, one row a request. The twenty are asked in turn by their names, so that each request finds another model
than the one before. Services take turns of two seconds.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import psutil

from benchmarks.measure import median
from benchmarks.models import put_into_production
from benchmarks.service import SERVERS, load, row, running, sent

NAMES = ("bench", *(f"bench-{number}" for number in range(1, 20)))
MAX_MEMORY, MAX_CPU = 1.5, 1.05  # against one model alone
SECONDS = 2  # of a turn


def measure(rounds: int = 12) -> Iterator[dict]:
    if shutil.which("wrk") is None:
        yield row("20 models", None, "requests/s", "wrk is not installed", None)
        return
    with TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        put_into_production("logistic", home, NAMES)
        bodies = [orjson.dumps({"features": [one]}).decode() for one in sent(home)]
        write_script(home / "alone.lua", ["/predict"], bodies)
        write_script(home / "several.lua", [f"/models/{name}/predict" for name in NAMES], bodies)
        several = {"MLOPS_MODEL": "", "MLOPS_MODELS": ",".join(NAMES)}
        servers = {
            name: stack.enter_context(running(SERVERS["ours"], home, bodies[0], MLOPS_WORKERS="1", **more))
            for name, more in (("alone", {}), ("several", several))
        }
        turns = [
            {name: turn(*server, home, f"{name}.lua") for name, server in servers.items()} for _ in range(rounds + 1)
        ][1:]  # the first turn loads the models
        memory = {
            name: psutil.Process(server.pid).children()[0].memory_full_info().uss / 2**20
            for name, (_, server) in servers.items()
        }
    rate, cpu = ({name: median([turn[name][i] for turn in turns]) for name in servers} for i in range(2))
    ratio = median([turn["several"][0] / turn["alone"][0] for turn in turns])
    yield row("20 models, one row", rate["several"], "requests/s", f"one alone {rate['alone']:,.0f}", ratio)
    ratio = median([turn["several"][1] / turn["alone"][1] for turn in turns])
    against = f"one alone {cpu['alone']:.0f}, at most {MAX_CPU} x"
    yield row("20 models, CPU a request", cpu["several"], "us", against, ratio)
    against = f"one alone {memory['alone']:.0f}, at most {MAX_MEMORY} x"
    yield row("20 models, memory a worker", memory["several"], "MiB", against, memory["several"] / memory["alone"])


def turn(port: int, server: subprocess.Popen, home: Path, script: str) -> tuple[float, float]:
    """Requests a second, and the CPU time of the worker for each in microseconds."""
    worker = psutil.Process(server.pid).children()[0]
    before = sum(worker.cpu_times()[:2])
    rate = load(port, home, script=script, seconds=SECONDS)[0]
    return rate, (sum(worker.cpu_times()[:2]) - before) / (rate * SECONDS) * 1e6


def write_script(file: Path, paths: Sequence[str], bodies: Sequence[str]):
    """What wrk sends: every body to one path after the other, and from the beginning again."""
    requests = [f"{{[==[{paths[n % len(paths)]}]==], [==[{body}]==]}}" for n, body in enumerate(bodies)]
    file.write_text(_SCRIPT.replace("REQUESTS", ",\n".join(requests)))


_SCRIPT = """
local given, requests, n = {
REQUESTS
}, {}, 0
wrk.headers["Content-Type"] = "application/json"

function init()
  for i, each in ipairs(given) do requests[i] = wrk.format("POST", each[1], nil, each[2]) end
end

function request()
  n = n % #requests + 1
  return requests[n]
end
"""
