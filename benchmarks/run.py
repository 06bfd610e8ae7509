"""Run the benchmarks (all, or those that are named), print a table, write benchmarks/results/<time>.json."""

import json
import platform
import signal
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

ALL = ("command_line", "builds", "drift", "batch", "scale", "service", "sustained", "batching", "many_models")


def main(names: list[str]):
    print(f"{'what':36}{'value':>12} {'unit':12}{'ratio':>8}  against")
    rows = []
    for name in names or ALL:
        for row in import_module(f"benchmarks.{name}").measure():
            rows.append({"benchmark": name, **row})
            value, ratio = _shown(row["value"]), _shown(row["ratio"])
            print(f"{row['what']:36}{value:>12} {row['unit']:12}{ratio:>8}  {row['against']}", flush=True)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    file = folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    file.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends, too
    main(sys.argv[1:])
