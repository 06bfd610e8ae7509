"""Ten minutes of load without a pause: requests a second and latency by minute, the memory, and what is left to ship.

python -m benchmarks.run sustained
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.models import put_into_production
from benchmarks.service import SERVERS, load, row, running, sent, write_requests

MINUTES = 10
MEMORY_GROWTH = 1.1  # from the second minute to the last, at most


def measure(minutes: int = MINUTES) -> Iterator[dict]:
    with TemporaryDirectory() as folder:
        home = Path(folder)
        put_into_production("logistic", home)
        body = write_requests(home / "traced.lua", [{"features": [row]} for row in sent(home)], is_traced=True)
        with running(SERVERS["ours"], home, body) as (port, server):
            memory = []
            for minute in range(1, minutes + 1):
                rate, _, p99 = load(port, home, script="traced.lua", seconds=60)
                memory.append(sum(p.memory_full_info().uss for p in psutil.Process(server.pid).children()) / 2**20)
                against = f"p99 {p99:.1f} ms, spool {spool_mib(home):.1f} MiB, workers {memory[-1]:.0f} MiB"
                yield row(f"sustained, minute {minute}", rate, "requests/s", against, None)
    if len(memory) > 2:
        limit = f"the second minute, at most {MEMORY_GROWTH} x"
        yield row("sustained, memory at the end", memory[-1], "MiB", limit, memory[-1] / memory[1])


def spool_mib(home: Path) -> float:
    """MiB of the log that the database does not have yet."""
    return sum(file.stat().st_size for file in home.rglob("store/spool/**/*") if file.is_file()) / 2**20
