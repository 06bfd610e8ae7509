"""The workflows of GitHub: valid by their schema, pinned, and made of commands that a person can run."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from check_jsonschema.cli import main as check_jsonschema
from click.testing import CliRunner

from mlops_nb.settings import Settings
from tests.deploy.dockerfile import ROOT
from tests.deploy.test_manifests import parsed
from tests.pipeline.conftest import Project, copy_project

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
VALUES = {  # What GitHub would put in
    "MLOPS_MODEL": "toy",
    "GITHUB_OUTPUT": "outputs",
    "WHY": "release 7",
    "SPEC": "toy",
}


def steps(workflow: str) -> Iterator[tuple[str, dict]]:
    """Job and step of a workflow, in order."""
    for name, job in yaml.safe_load((ROOT / ".github/workflows" / f"{workflow}.yml").read_text())["jobs"].items():
        for step in job["steps"]:
            yield name, step


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_workflows_are_what_github_takes(schema, tmp_path):
    def check(*files) -> int:
        return CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, *map(str, files)]).exit_code

    assert check(*WORKFLOWS) == 0
    wrong = yaml.safe_load(WORKFLOWS[0].read_text())
    next(iter(wrong["jobs"].values())).pop("timeout-minutes")
    next(iter(wrong["jobs"].values()))["runs_on"] = "ubuntu-latest"
    (tmp_path / "wrong.yml").write_text(yaml.safe_dump(wrong))
    assert check(tmp_path / "wrong.yml") == 1


@pytest.mark.parametrize("schema", ["dependabot", "github-issue-forms", "github-issue-config"])
def test_forms_and_updates_are_what_github_takes(schema):
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    config = ROOT / ".github/ISSUE_TEMPLATE/config.yml"
    files = {
        "dependabot": [ROOT / ".github/dependabot.yml"],
        "github-issue-forms": [f for f in forms if f != config],
        "github-issue-config": [config],
    }[schema]
    assert CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, *map(str, files)]).exit_code == 0


def test_every_action_is_pinned_by_a_commit_that_its_version_names():
    used = [step["uses"] for path in WORKFLOWS for _, step in steps(path.stem) if "uses" in step]
    lines = [line.strip() for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert [u for u in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", u)] == []
    assert [line for line in lines if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []
    assert len({line.split("uses: ")[1] for line in lines}) == len({u.split("@")[0] for u in used}), "one version each"


MAY_MORE = {("publish", "pypi"): {"contents": "read", "id-token": "write"}, ("publish", "tag"): {"contents": "write"}}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_job_may_do_more_than_read_only_where_it_publishes(path):
    jobs = yaml.safe_load(path.read_text())["jobs"]
    more = {(path.stem, name): job["permissions"] for name, job in jobs.items() if "permissions" in job}
    assert more == {key: value for key, value in MAY_MORE.items() if key[0] == path.stem}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_may_read_only_and_its_secrets_are_settings(path):
    text, workflow = path.read_text(), yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    named = {n for place in (workflow, *workflow["jobs"].values()) for n in place.get("env", {})}
    Settings.read({n: "1" for n in named if n.startswith("MLOPS_") and not n.endswith("_URL")})
    assert {n for n in named if n.startswith("MLOPS_")} <= {f"MLOPS_{f.upper()}" for f in Settings.__dataclass_fields__}
    shown = [line for line in text.splitlines() if re.search(r"run:.*\$\{\{", line)]
    assert shown == [], "what somebody typed would become a part of a command"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_every_command_is_one_that_a_person_can_run(path):
    makefiles = (ROOT / "Makefile").read_text() + (ROOT / "development.mk").read_text()
    for _, step in steps(path.stem):
        for line in step.get("run", "").splitlines():
            words = line.split()
            if words[0] == "make":
                assert re.search(rf"^{re.escape(words[1])}:", makefiles, re.MULTILINE), line
            elif words[0].endswith("mlops-nb"):
                parsed(
                    [
                        "mlops-nb",
                        *(w.strip('"').replace("$VERSION", "1").replace("$MLOPS_MODEL", "toy") for w in words[1:]),
                    ]
                )
            else:
                assert words[0] in ("docker", "jq", "cat") or (ROOT / words[0]).is_file(), line


def carry_out(project: Project, workflow: str, job: str | None = None, **more: str) -> str:
    """Run the `run` lines of a workflow as a person would type them, and return their output."""
    (project.path / ".venv").mkdir(exist_ok=True)
    if not (project.path / ".venv/bin").exists():
        (project.path / ".venv/bin").symlink_to(Path(sys.executable).parent)
        for stamp in ("installed", "complete"):
            (project.path / ".venv" / stamp).touch()
    output = ""
    for name, step in steps(workflow):
        if job in (None, name) and "run" in step:
            done = project.run("bash", "-ec", step["run"], **(VALUES | more))
            output += done.stdout + done.stderr
            if done.returncode:
                return f"{output}{step['run']} ended with {done.returncode}"
    return output


@pytest.mark.slow
@pytest.mark.soak
def test_a_model_is_built_evaluated_and_released_by_the_steps_of_the_workflow(tmp_path):
    project = copy_project(tmp_path)
    project.replace("env.yaml", "engine: papermill", "engine: ploomber-engine")
    output = carry_out(project, "release", "build")
    assert "ended with" not in output, output
    assert (tmp_path / "outputs").read_text() == "version=1\n"
    assert not project.read("registration.json")["promoted"]
    assert "waits in staging" in output
    output = carry_out(project, "release", "release", VERSION="1")
    assert "production of toy: nowhere -> version 1" in output, output
    assert "release 7" in output, output
    assert carry_out(project, "scheduled", "monitor").endswith("ended with 1"), "no row was predicted yet"
    (tmp_path / "arrived.csv").write_text("x\n1.0\n90.0\n")
    output = carry_out(project, "scheduled", "score", INPUT="arrived.csv", OUTPUT="scores.csv")
    assert [line.split(",")[1] for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]] == ["0", "1"], output
    project.replace("toy.py", "i > 45", "i > 40")
    project.replace("toy.py", '"accuracy": 0.8', '"accuracy": 1.1')
    assert carry_out(project, "release", "build").endswith("evaluation.json ended with 1"), "a gate that is not met"
    assert carry_out(project, "release", "release", VERSION="2").endswith("ended with 1")
    assert [(m["versions"], m["production"]) for m in project.json("models", "list")] == [(2, 1)]


@pytest.mark.parametrize(("heading", "code"), [("0.1.0 (unreleased)", 2), ("0.1.0 (2026-12-01)", 0), ("0.0.9", 2)])
def test_release_is_refused_until_its_section_of_the_changelog_is_closed(heading, code, tmp_path):
    for name in ("Makefile", "development.mk", "requirements.lock", "env.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "settings.ini").write_text("version = 0.1.0\n")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n\n- One thing\n\n## 0.0.8\n\n- Another\n")
    command = ["make", "--no-print-directory", "notes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout == ("" if code else f"## {heading}\n\n- One thing\n\n")


def test_lock_names_the_hashes_of_uv_for_the_environment_that_publishes():
    command = ["sed", "-n", "/^uv==/,/# via/p", str(ROOT / "requirements.lock")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0].startswith("uv==")
    assert [line for line in lines[1:-1] if not line.startswith("    --hash=sha256:")] == []
