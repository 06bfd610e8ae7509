"""Execute the pipeline of two models for the gallery, in a store of their own."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODELS = ("diagnosis", "loans")
TASKS = ("ingest", "train", "evaluate", "package", "register")


def execute(model: str, home: Path):
    """Build a model, and copy its executed notebooks where the site finds them."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    environment |= {"MLOPS_HOME": str(home / "store"), "WANDB_MODE": "disabled"}
    products = home / model
    build = ["ploomber", "build", "--env--spec", f"mlops_nb.examples.{model}", "--env--products", str(products)]
    subprocess.run(build, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    gallery = ROOT / "docs" / "gallery" / model
    gallery.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(TASKS):
        (notebook,) = products.glob(f"**/{task}.ipynb")
        text = notebook.read_text().replace(f"{ROOT}/", "")  # paths as they are seen from the project
        (gallery / f"{number}_{task}.ipynb").write_text(text)


if __name__ == "__main__":
    for name in MODELS:
        execute(name, ROOT / "build" / "gallery")
