"""The whole way of random tables of mixed kinds and dirt: drafted, built, served, asked for each row in three forms.

`python -m benchmarks.tables --seeds 0-29` runs it. A row is sent as CSV, as a JSON object of texts, and as one of typed
values, and must have the same answer in each.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from benchmarks.measure import BIN, environment
from benchmarks.service import free_port
from tests.factories import send
from tests.new.random_tables import random_table


def whole_way(seed: int, minutes: float) -> dict:
    """Draft, build and serve a random table; count the rows that have one answer in all forms."""
    with TemporaryDirectory() as place:
        folder, start = Path(place), time.perf_counter()
        given, rows, _ = random_table(folder, seed)
        name = f"random_{seed}"
        words = ("--data", given.data, "--target", given.target, "--minutes", str(minutes))
        result = {"seed": seed, "file": given.data, "rows": len(rows), "answered": 0, "stopped": ""}
        commands = (
            ([f"{BIN}/mlops-nb", "new", name, *words], folder),
            ([f"{BIN}/ploomber", "build", "--env--spec", f"{name}.model"], folder / name),
        )
        for command, where in commands:
            done = subprocess.run(
                command, cwd=where, env=environment(where), capture_output=True, text=True, check=False
            )
            if done.returncode:
                return result | {"stopped": f"{command[1]}: {(done.stdout + done.stderr).strip().splitlines()[-1]}"}
        try:
            with serving(folder / name, f"{name}.model") as port:
                answers = [*ask(port, rows, typed_rows(folder / name, name))]
        except RuntimeError as e:
            return result | {"stopped": str(e)}
        shown = next((a for a in answers if isinstance(a, str)), "")
        if shown:
            return result | {"stopped": shown}
        csv, texts, typed = answers
        same = sum(csv[number] == texts[number] == typed.get(number, csv[number]) for number in csv)
        return result | {"answered": same, "seconds": time.perf_counter() - start}


@contextmanager
def serving(project: Path, spec: str) -> Iterator[int]:
    """The service of a project, until it is ready: its port."""
    port = free_port()
    command = [f"{BIN}/mlops-nb", "serve", "--spec", spec, "--port", str(port), "--workers", "1"]
    with (project / "service.log").open("w") as log:
        service = subprocess.Popen(command, cwd=project, env=environment(project), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while send(port, "GET", "/health/ready")[0] != 200:
            if service.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no service: {(project / 'service.log').read_text()[-300:]}")
            time.sleep(0.1)
        yield port
    finally:
        service.terminate()
        service.wait(timeout=60)


def typed_rows(project: Path, name: str) -> dict[str, dict]:
    """The rows as training has them, by their number; those of rare classes are not among them."""
    code = f"from {name}.model import spec; print(spec.load().to_json(orient='index', date_format='iso'))"
    done = subprocess.run(
        [f"{BIN}/python", "-c", code],
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def ask(port: int, rows: list[dict], typed: dict[str, dict]) -> Iterator[dict[int, object] | str]:
    """The predictions for all rows in each form, or what the service says against it."""
    csv = pd.DataFrame(rows).to_csv(index=False)
    bodies = [("/invocations", "text/csv", csv, "predictions", range(len(rows)))]
    for numbers, features in ((range(len(rows)), rows), (map(int, typed), [*typed.values()])):
        bodies.append(("/predict", "application/json", json.dumps({"features": features}), "prediction", numbers))
    for path, kind, body, key, numbers in bodies:
        status, answer = send(port, "POST", path, body.encode(), {"Content-Type": kind}, timeout=120)
        if status != 200:
            yield f"{path} as {kind}: {answer[:300].decode(errors='replace')}"
            continue
        values = json.loads(answer)[key]
        values = [round(v, 9) if isinstance(v, float) and np.isfinite(v) else v for v in values]
        yield dict(zip(numbers, values, strict=True))
