"""The whole service, everything on, against a no-op Flask route and the textbook's app, both on Gunicorn's own gthread.

2 workers, keep-alive connections, one row a request, from wrk (https://github.com/wg/wrk; Debian: apt-get install wrk).
Each request has an X-Request-ID and a traceparent of its own, as behind a proxy or with tracing; the figure of a direct
client, which sends the same head again and again, stands beside it. Servers take turns, two seconds each, so that the
ratio holds when the speed of the machine drifts, and nobody's turn begins before the last server rests: what it still
does would cost the next one.
"""

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pandas as pd
import psutil
import pyarrow as pa

from benchmarks.measure import ROOT, environment, median
from benchmarks.models import LIMITS, put_into_production
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry

SERVERS = {"ours": "serve.wsgi:app", "no-op": "benchmarks.noop:app", "textbook": "benchmarks.textbook:app"}
CONNECTIONS = (64, 256, 1000)  # beside 8
LATENCY_LIMIT = 1.5  # of the 99th percentile, against that of no-op
MEMORY_LIMITS = {"logistic": 90, "forest": 270, "loans": 220}  # MiB of a worker's own; the last two with scikit-learn
READY_LIMIT = 1.0  # seconds of CPU of a worker whose graph predicts every row
STARVED_LIMIT = 0.9  # of the requests/s, against those of no-op
BUSY_PROCESSES = 6  # beside a starved service
ARROW = "application/vnd.apache.arrow.stream"
ARROW_LIMIT = 0.5  # of the rows/s in process, for tables


def measure(rounds: int = 12) -> Iterator[dict]:
    if shutil.which("wrk") is None:
        yield row("one-row /predict", None, "requests/s", "wrk is not installed", None)
        return
    for kind in LIMITS:
        with TemporaryDirectory() as folder:
            home = Path(folder)
            put_into_production(kind, home)
            yield from onerow(kind, home, rounds)
            yield from many_rows(kind, home)


def onerow(kind: str, home: Path, rounds: int) -> Iterator[dict]:
    """Requests a second, latency, processor time and memory."""
    bodies = [{"features": [row]} for row in sent(home)]
    body = write_requests(home / "post.lua", bodies)
    write_requests(home / "traced.lua", bodies, is_traced=True)
    write_requests(home / "closing.lua", bodies, is_traced=True, closes=True)
    with ExitStack() as stack:
        servers = {name: stack.enter_context(running(app, home, body)) for name, app in SERVERS.items()}
        workers = psutil.Process(servers["ours"][1].pid).children()
        ready = median([sum(worker.cpu_times()[:2]) for worker in workers])
        limit = f"at most {READY_LIMIT:g} s" if kind == "logistic" else "-"
        yield row(f"{kind}, CPU until ready", ready, "s", limit, ready / READY_LIMIT if kind == "logistic" else None)
        for server in servers.values():
            turn(*server, home)
        before = cpu_seconds(servers["ours"][1])
        turns = _turns(servers, home, rounds, script="traced.lua")
        cpu = (cpu_seconds(servers["ours"][1]) - before) / sum(turn["ours"][0] * TURN_SECONDS for turn in turns)
        yield from _compared(f"{kind}, one row", turns, dict(zip(("no-op", "textbook"), LIMITS[kind], strict=True)))
        for i, percentile in ((1, "p50"), (2, "p99")):
            yield _latency(f"{kind}, {percentile}", turns, i)
        yield row(f"{kind}, CPU a request", cpu * 1e6, "us", "-", None)
        memory = median([worker.memory_full_info().uss / 2**20 for worker in workers])
        limit = MEMORY_LIMITS[kind]
        yield row(f"{kind}, memory a worker", memory, "MiB", f"at most {limit} MiB", memory / limit)
        yield from _compared(f"{kind}, the same head", _turns(servers, home, rounds), {"no-op": "-", "textbook": "-"})
        if kind != "logistic":
            return
        for n in CONNECTIONS:
            turns = _turns(servers, home, rounds // 2, script="traced.lua", connections=n)
            yield from _compared(f"{kind}, {n:,} connections", turns, {"no-op": "-"})
            yield _latency(f"{kind}, {n:,} connections, p99", turns, 2)
        turns = _turns(servers, home, rounds // 2, script="closing.lua", connections=64)
        yield from _compared(f"{kind}, a connection each", turns, {"no-op": 1})
        with starved():
            turns = _turns(servers, home, rounds, script="traced.lua")
        yield from _compared(
            f"{kind}, {BUSY_PROCESSES} busy processes", turns, {"no-op": STARVED_LIMIT, "textbook": "-"}
        )


def _turns(servers: dict, home: Path, rounds: int, **how) -> list[dict]:
    return [{name: turn(*server, home, **how) for name, server in servers.items()} for _ in range(rounds)]


def _compared(what: str, turns: list[dict], limits: dict) -> Iterator[dict]:
    """Requests a second against each peer."""
    rate = {name: median([turn[name][0] for turn in turns]) for name in SERVERS}
    for name, limit in limits.items():
        against = f"{name} {rate[name]:,.0f}" + ("" if limit == "-" else f", at least {limit} x")
        yield row(
            what, rate["ours"], "requests/s", against, median([turn["ours"][0] / turn[name][0] for turn in turns])
        )


def _latency(what: str, turns: list[dict], i: int) -> dict:
    ours, peer = (median([turn[name][i] for turn in turns]) for name in ("ours", "no-op"))
    limit = f", at most {LATENCY_LIMIT} x" if i == 2 else ""
    return row(what, ours, "ms", f"no-op {peer:.2f}{limit}", ours / peer)


@contextmanager
def starved() -> Iterator[None]:
    """Processes that compute all the time beside the service."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY_PROCESSES)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def many_rows(kind: str, home: Path, rounds: int = 15) -> Iterator[dict]:
    """Rows a second in bodies of many rows, against the same predictor called in process with a DataFrame."""
    rows, columns = (orjson.loads((home / f"{name}.json").read_bytes()) for name in ("rows", "columns"))
    registry = Registry.open(Settings.read({"MLOPS_HOME": str(home)}))
    predictor = registry.load("bench")
    registry.close()
    first = orjson.dumps({"features": rows[:1]}).decode()
    with running(SERVERS["ours"], home, first) as (port, server):
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        for n in (1_000, 10_000):
            some = (rows * -(-n // len(rows)))[:n]
            frame = pd.DataFrame(some, columns=columns)
            bodies = {"JSON": orjson.dumps({"features": some}), "Arrow": _arrow(frame)}
            kinds = {"JSON": "application/json", "Arrow": ARROW}
            turns = []
            for _ in range(rounds):
                took = {"in process": _seconds(lambda: predictor.predict_frame(frame))}  # noqa: B023
                for name, body in bodies.items():
                    took[name] = _seconds(lambda: _post(connection, body, kinds[name]))  # noqa: B023
                turns.append(took)
            for name in bodies:
                ratio = median([turn["in process"] / turn[name] for turn in turns])
                against = f"in process {n / median([turn['in process'] for turn in turns]):,.0f}"
                against += f", at least {ARROW_LIMIT} x" if name == "Arrow" else ""
                rate = n / median([turn[name] for turn in turns])
                yield row(f"{kind}, {n:,} rows as {name}", rate, "rows/s", against, ratio)
                _rest(server)
                before = cpu_seconds(server)
                for _ in range(rounds):
                    _post(connection, bodies[name], kinds[name])
                _rest(server)
                cpu = (cpu_seconds(server) - before) / rounds
                yield row(f"{kind}, {n:,} rows as {name}, CPU until they are in the log", cpu * 1e3, "ms", "-", None)
        connection.close()
    predictor.close()


def row(what: str, value, unit: str, against: str, ratio) -> dict:
    return {"what": what, "value": value, "unit": unit, "against": against, "ratio": ratio}


def _arrow(frame: pd.DataFrame) -> bytes:
    table, sink = pa.Table.from_pandas(frame, preserve_index=False), BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _seconds(act) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _post(connection: HTTPConnection, body: bytes, kind: str):
    connection.request("POST", "/predict", body, {"Content-Type": kind, "Accept": kind})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise SystemExit(content.decode())


@contextmanager
def running(app: str, home: Path, body: str, **more: str):
    """An application on Gunicorn, as the service runs, until it answers: its port and its process."""
    port = free_port()
    own = environment(home, **{"MLOPS_PORT": str(port), "MLOPS_MODEL": "bench", "MLOPS_HOME": str(home)} | more)
    own["PYTHONPATH"] = f"{home}:{ROOT}"
    options = ["-c", "serve/gunicorn.conf.py"]
    if app != SERVERS["ours"]:
        options = ["--bind", f"127.0.0.1:{port}", "--workers", "2", "--worker-class", "gthread", "--threads", "8"]
    command = [sys.executable, "-m", "gunicorn", *options, app]
    server = subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(port, body)
        yield port, server
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(port: int, body: str, path: str = "/predict", times: int = 20):
    """Until a server answers, so many times on end: each of its workers is ready then."""
    deadline, answered = time.monotonic() + 120, 0
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answered = answered + 1 if connection.getresponse().status == 200 else 0
        except OSError:
            answered = 0
        finally:
            connection.close()
        if answered == times:
            return
        if not answered:
            time.sleep(0.05)
    raise SystemExit("the server did not answer within 120 s")


TURN_SECONDS = 2  # of a server


def turn(port: int, server: subprocess.Popen, home: Path, **how) -> tuple[float, float, float]:
    """What `load` measures; then wait until the server has nothing left to do."""
    measured = load(port, home, seconds=TURN_SECONDS, **how)
    _rest(server)
    return measured


def _rest(server: subprocess.Popen):
    """Wait until a server has nothing left to do."""
    while True:
        before = cpu_seconds(server)
        time.sleep(0.2)
        if cpu_seconds(server) - before < 0.05:  # looking for work is no work
            return


def cpu_seconds(server: subprocess.Popen) -> float:
    """Of a server with its workers, until now."""
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
    return sum(sum(p.cpu_times()[:2]) for p in processes)


def sent(home: Path) -> list[list]:
    """Rows that take turns: clients ask about one after the other, not about the same."""
    return orjson.loads((home / "rows.json").read_bytes())[:100]


def write_requests(file: Path, bodies: Sequence[dict], *, is_traced: bool = False, closes: bool = False) -> str:
    """Write what wrk sends, one after the other and from the beginning again; return the first of it.

    With `is_traced` each request has an X-Request-ID and a traceparent that never come again; with `closes` each has a
    connection of its own.
    """
    written = [orjson.dumps(body).decode() for body in bodies]
    script = _SCRIPT + (_CLOSES if closes else "") + (_TRACED if is_traced else _SAME)
    file.write_text(script.replace("BODIES", ",\n".join(f"[==[{body}]==]" for body in written)))
    return written[0]


_SCRIPT = """
local bodies, requests, n = {
BODIES
}, {}, 0
wrk.headers["Content-Type"] = "application/json"
"""

_CLOSES = """
wrk.headers["Connection"] = "close"
"""

_SAME = """
function init()
  for i, body in ipairs(bodies) do requests[i] = wrk.format("POST", nil, nil, body) end
end

function request()
  n = n % #requests + 1
  return requests[n]
end
"""

_TRACED = """
local first = {}

function init()
  math.randomseed(os.time())
  for i = 1, 4 do first[i] = math.random(0, 2 ^ 31) end
  wrk.headers["X-Request-ID"] = "@"
  wrk.headers["traceparent"] = "@"
  for i, body in ipairs(bodies) do
    local whole, parts = wrk.format("POST", nil, nil, body), {}
    for part in (whole .. "@"):gmatch("([^@]*)@") do table.insert(parts, part) end
    requests[i] = parts
  end
end

function request()
  n = n + 1
  local parts = requests[n % #requests + 1]
  local id = string.format("%08x%08x%08x%08x", first[1], first[2], first[3], n)
  local trace = "00-" .. id .. string.format("-%08x%08x-01", first[4], n)
  local by_name = parts[1]:lower():sub(-14) == "x-request-id: "
  return parts[1] .. (by_name and id or trace) .. parts[2] .. (by_name and trace or id) .. parts[3]
end
"""


def load(
    port: int, home: Path, path: str = "/predict", script: str = "post.lua", seconds: int = 1, connections: int = 8
) -> tuple[float, float, float]:
    """Requests a second, and the 50th and 99th percentile of their latency in ms; every one must succeed."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script]
    command.append(f"http://127.0.0.1:{port}{path}")
    said = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    found = [re.search(rf"^ +{p}% +(\S+) *$", said, re.MULTILINE) for p in (50, 99)]  # a space follows seconds
    if None in found:
        raise SystemExit(f"wrk measured nothing: {said}")
    latency = [_ms(each[1]) for each in found]
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), *latency


def _ms(text: str) -> float:
    """wrk writes 812.00us, 1.23ms or 1.02s."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]
