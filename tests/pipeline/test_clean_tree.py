"""A build changes nothing that git sees, wherever it writes."""

import json
import subprocess

import pytest

from tests.pipeline.conftest import copy_project

pytestmark = pytest.mark.slow


def git(folder, *words: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("place", ["repository", "folder of a repository"])
def test_build_into_other_folders_leaves_the_tree_clean(tmp_path, place):
    project = copy_project(tmp_path if place == "repository" else tmp_path / "models" / "toy")
    (tmp_path / "README").touch()
    git(tmp_path, "init")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "-m", "first")
    elsewhere = {"MLOPS_RUNS": str(project.path / "records"), "MLOPS_ARTIFACTS": str(project.path / "made/here")}
    project.build("--env--products", "other", **elsewhere)
    assert (project.path / "other/toy/registration.json").is_file()
    assert (project.path / "made/here/bundles/toy").is_dir()
    assert git(tmp_path, "status", "--porcelain") == ""
    (record,) = (project.path / "records").glob("*/run.json")
    assert json.loads(record.read_text())["code"]["dirty"] is False
