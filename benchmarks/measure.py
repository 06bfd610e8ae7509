"""Timing whole commands, in turn."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which the project's own store is left alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "WANDB_", "PYTHONDONTWRITEBYTECODE"))}
    own = {"PATH": f"{BIN}:{os.environ['PATH']}", "PLOOMBER_STATS_ENABLED": "false", "WANDB_MODE": "offline"}
    return kept | own | {"PYTHONPATH": str(home)} | more


def seconds(command: list[str], home: Path, times: int = 1) -> list[float]:
    """Wall-clock seconds of a command, several times; it must succeed."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        done = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
        took.append(time.perf_counter() - start)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return took


def median(values: list[float]) -> float:
    return statistics.median(values)
