"""A full build and a build with nothing to do, each as a multiple of a script that does the same fitting."""

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import ROOT, median, seconds

SPEC = "mlops_nb.examples.diagnosis"


def measure(rounds: int = 3) -> list[dict]:
    with TemporaryDirectory() as folder:
        home = Path(folder)
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in listed.split():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, home / name)
        build = ["ploomber", "build", "--env--spec", SPEC]
        script = ["python", "-m", "benchmarks.script", SPEC, str(home / "model.skops")]
        took = {"script": [], "full": [], "in process": [], "no-op": []}
        for _ in range(rounds):
            took["script"] += seconds(script, home)
            took["in process"] += seconds([*build, "--force", "--env--engine", "ploomber-engine"], home)
            took["full"] += seconds([*build, "--force"], home)
            took["no-op"] += seconds(build, home)
    peer = median(took["script"])
    rows = [{"what": "the same fitting in one script", "value": peer, "unit": "s", "against": "itself", "ratio": 1.0}]
    for name in ("full", "in process", "no-op"):
        value = median(took[name])
        rows.append({"what": f"build, {name}", "value": value, "unit": "s", "against": "script", "ratio": value / peer})
    return rows
