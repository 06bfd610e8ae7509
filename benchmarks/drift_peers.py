"""Drift checks of Evidently, NannyML and Alibi Detect beside ours: `python -m benchmarks.drift_peers`.

Each library has an environment of its own under benchmarks/.peers/ and runs with its defaults, without telemetry, on
the same windows. A false alert is a daily window of 1,000 rows without drift in which any column drifted.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from benchmarks.peers import ENVIRONMENTS, PACKAGES, _environment
from mlops_nb.model.profile import profile_numbers
from mlops_nb.monitor.false_alerts import measure_newest, spend_budget

PACKAGES |= {"evidently": ["evidently", "pandas<3"], "nannyml": ["nannyml", "statsmodels"], "alibi": ["alibi-detect"]}
COLUMNS, REFERENCE, ROWS, HEALTHY, SEEDS = 20, 5000, 1000, 40, 5
FEW, FEW_ROWS = 10, 100  # healthy windows of few rows: where these have an alarm, one in few rows shows nothing
SIZES = (50, 75, 100, 150, 200, 300, 400, 600, 800)  # rows of the new world, the only ones of their window
RUN = """
import json, sys, time
import numpy as np, pandas as pd
data = np.load("windows.npz")
names = [f"x{i}" for i in range(data["reference"].shape[1])]
frame = lambda rows: pd.DataFrame(rows, columns=names)
reference = frame(data["reference"])
%s
alarms, began = {}, time.perf_counter()
for key in data.files:
    if key != "reference":
        alarms[key] = bool(is_drift(frame(data[key])))
json.dump({"alarms": alarms, "seconds": (time.perf_counter() - began) / len(alarms)}, open("result.json", "w"))
"""
CODE = {
    "evidently": """
from evidently import Report
from evidently.presets import DataDriftPreset
def is_drift(window):
    found = Report([DataDriftPreset()]).run(window, reference).dict()["metrics"]
    return next(m["value"]["count"] for m in found if "DriftedColumnsCount" in str(m)) > 0
""",
    "nannyml": """
import nannyml
nannyml.disable_usage_logging()
def is_drift(window):
    calculator = nannyml.UnivariateDriftCalculator(column_names=names, chunk_size=len(window)).fit(reference)
    found = calculator.calculate(window).filter(period="analysis").to_df()
    return found.xs("alert", axis=1, level=2).to_numpy().any()
""",
    "alibi": """
from alibi_detect.cd import TabularDrift
detector = TabularDrift(reference.to_numpy(), p_val=0.05)
def is_drift(window):
    return detector.predict(window.to_numpy())["data"]["is_drift"]
""",
}
OPTED_OUT = {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1", "NML_DISABLE_USER_ANALYTICS": "1"}
OPTED_OUT |= {"OMP_NUM_THREADS": "1"}


def windows() -> dict[str, np.ndarray]:
    """The reference, windows without drift, and windows whose first column has 0.5 sigma more."""
    rng = np.random.default_rng(0)
    made = {"reference": rng.normal(size=(REFERENCE, COLUMNS))}
    made |= {f"healthy-{i}": rng.normal(size=(ROWS, COLUMNS)) for i in range(HEALTHY)}
    few = np.random.default_rng(1)
    made |= {f"few-{i}": few.normal(size=(FEW_ROWS, COLUMNS)) for i in range(FEW)}
    shift = np.eye(1, COLUMNS)[0] / 2
    return made | {f"{n}-{s}": rng.normal(size=(n, COLUMNS)) + shift for n in SIZES for s in range(SEEDS)}


def of_peer(name: str, data: dict[str, np.ndarray]) -> dict:
    """Run a library in its own environment."""
    bin_ = _environment(name)
    with TemporaryDirectory() as folder:
        np.savez(Path(folder) / "windows.npz", **data)
        own = {k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "PYTHON", "VIRTUAL_ENV"))} | OPTED_OUT
        command = [bin_ / "python", "-W", "ignore", "-c", RUN % CODE[name]]
        done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} in {ENVIRONMENTS.name}: {done.stderr[-500:]}")
        return json.loads((Path(folder) / "result.json").read_text())


def of_ours(data: dict[str, np.ndarray]) -> dict:
    """Check the same windows as `mlops-nb monitor` does, once a day with a budget of one false alert a year."""
    names, alarms = [f"x{i}" for i in range(COLUMNS)], {}
    profile = {"inputs": {n: profile_numbers(column) for n, column in zip(names, data["reference"].T, strict=True)}}
    level, began = spend_budget(1.0).level, time.perf_counter()  # half of what a day accrues, and as much is left
    for key, rows in data.items():
        if key != "reference":
            alarms[key] = bool(measure_newest(profile, pd.DataFrame(rows, columns=names), None, level).drifting)
    return {"alarms": alarms, "seconds": (time.perf_counter() - began) / len(alarms)}


def main() -> None:
    """Print the table."""
    data = windows()
    of_few = f"of {FEW} healthy windows of {FEW_ROWS} rows"
    print(f"| library | healthy windows with an alarm | a year | {of_few} | rows to 0.5 sigma | seconds a window |")
    print("|---|---|---|---|---|---|")
    for name in sys.argv[1:] or ["ours", *CODE]:
        result = of_ours(data) if name == "ours" else of_peer(name, data)
        false = sum(result["alarms"][f"healthy-{i}"] for i in range(HEALTHY))
        found = [n for n in SIZES if np.mean([result["alarms"][f"{n}-{s}"] for s in range(SEEDS)]) > 0.5]
        rows = f"{found[0]}" if found else f"not by {SIZES[-1]}"
        year = false / HEALTHY * 365
        small = sum(result["alarms"][f"few-{i}"] for i in range(FEW))
        print(
            f"| {name} | {false} of {HEALTHY} | {year:.0f} | {small} | {rows} | {result['seconds']:.3f} |", flush=True
        )


if __name__ == "__main__":
    main()
