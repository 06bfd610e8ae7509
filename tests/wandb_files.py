"""Offline runs of W&B, read with its own reader."""

import json
import subprocess

from mlops_nb.store.runs import Run
from mlops_nb.store.wandb import offline_folder


def records_of(run: Run) -> list[dict]:
    """The records of an offline run, one a line."""
    from wandb.util import get_core_path

    file = next(offline_folder(run).glob("*.wandb"))
    command = [
        get_core_path(),
        "leet",
        "inspect",
        "--no-observability",
        "--json",
        "--run-file",
        str(file),
        str(file.parent),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_kind(records: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in records if record["type"] == kind]


def updates(records: list[dict], kind: str) -> dict:
    """All updates of the config or of the summary, the last first."""
    values: dict = {}
    for record in of_kind(records, kind):
        values |= record.get("update", {})
    return values


def artifacts(records: list[dict]) -> dict[str, dict]:
    return {found["name"]: found for found in of_kind(records, "artifact")}


def table_of(run: Run, name: str) -> dict:
    """A table that an offline run has, by its key."""
    file = next((offline_folder(run) / "files/media/table").glob(f"{name}_*.table.json"))
    return json.loads(file.read_text())
