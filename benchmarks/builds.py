"""Builds against a script with the same fitting; one with nothing to do against such a build of plain Ploomber."""

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from benchmarks.measure import ROOT, median, seconds

SPEC = "mlops_nb.examples.diagnosis"
LIMITS = {"full": 4.0, "in process": 2.5, "no-op": 1.2}
PLOOMBER = "Ploomber, five empty tasks"


def measure(rounds: int = 3) -> list[dict]:
    with TemporaryDirectory() as folder:
        home, plain = Path(folder, "project"), Path(folder, "plain")
        _copy_project(home)
        _write_plain_project(plain)
        build = ["ploomber", "build", "--env--spec", SPEC]
        script = ["python", "-m", "benchmarks.script", SPEC, str(home / "model.skops")]
        seconds(["ploomber", "build"], plain)
        seconds(build, home)
        took = {"script": [], "full": [], "in process": [], "no-op": [], PLOOMBER: []}
        bundles = []
        for _ in range(rounds):
            took["script"] += seconds(script, home)
            took["in process"] += seconds([*build, "--force", "--env--engine", "ploomber-engine"], home)
            took["full"] += seconds([*build, "--force"], home)
            bundles.append(_cell_seconds(home / "products" / SPEC / "package.ipynb", "write_bundle("))
            took["no-op"] += seconds(build, home)
            took[PLOOMBER] += seconds(["ploomber", "build"], plain)
    value = {name: median(times) for name, times in took.items()} | {"bundle": median(bundles)}
    against = {"full": "script", "in process": "script", "no-op": PLOOMBER}
    return [
        _row("the same fitting in one script", value["script"], "itself", 1.0),
        _row("nothing to do, plain Ploomber", value[PLOOMBER], "itself", 1.0),
        *(
            _row(f"build, {name}", value[name], f"{peer} (limit {LIMITS[name]} x)", value[name] / value[peer])
            for name, peer in against.items()
        ),
        _row(
            "its bundle: ONNX and its parity",
            value["bundle"],
            "script, which has none",
            value["bundle"] / value["script"],
        ),
    ]


def _row(what: str, value: float, against: str, ratio: float) -> dict:
    return {"what": what, "value": value, "unit": "s", "against": against, "ratio": ratio}


def _copy_project(home: Path):
    """Copy what git knows of the project, and what is new."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, home / name)


def _write_plain_project(folder: Path):
    """Write the peer: a pipeline of the same form with five notebooks that do nothing, and nothing of ours."""
    folder.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    names = ["ingest", "train", "evaluate", "package", "register"]
    tasks = []
    for number, name in enumerate(names):
        parameters = new_code_cell("upstream = None\nproduct = None", metadata={"tags": ["parameters"]})
        nbformat.write(
            new_notebook(cells=[parameters, new_code_cell("pass")], metadata=kernel), folder / f"{name}.ipynb"
        )
        task = {"name": name, "source": f"{name}.ipynb", "product": {"nb": f"products/{name}.ipynb"}}
        tasks.append(task | ({"upstream": [names[number - 1]]} if number else {}))
    pipeline = {"meta": {"extract_upstream": False, "extract_product": False}, "tasks": tasks}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))


def _cell_seconds(notebook: Path, code: str) -> float:
    """Return the seconds of the cell of an executed notebook that has some code."""
    (cell,) = (c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code" and code in c.source)
    return cell.metadata["papermill"]["duration"]
