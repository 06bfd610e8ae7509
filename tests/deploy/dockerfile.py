"""Carries out the stages of serve/Dockerfile in a folder: no engine runs where the tests do."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
NEEDS_ROOT = ("groupadd", "useradd", "apt-get", "install")  # What the user of a container and its folders are made with


class Stages:
    """The instructions of a Dockerfile, a list for each stage, those of its parent first."""

    def __init__(self, file: Path = ROOT / "serve" / "Dockerfile"):
        parser = DockerfileParser(fileobj=BytesIO(file.read_bytes()), env_replace=False)
        self.arguments: dict[str, str] = {}
        self.of: dict[str, list[tuple[str, str]]] = {}
        stage = None
        for step in parser.structure:
            kind, value = step["instruction"], step["value"]
            if kind == "FROM":
                parent, stage = re.fullmatch(r"(\S+) AS (\w+)", value).groups()
                self.of[stage] = list(self.of.get(parent, []))
            elif kind == "ARG":
                name, _, default = value.partition("=")
                self.arguments[name] = default
            elif kind != "COMMENT":
                self.of[stage].append((kind, value))

    def last(self, stage: str, kind: str) -> str:
        """What the last instruction of a kind says."""
        return [value for k, value in self.of[stage] if k == kind][-1]

    def environment(self, stage: str) -> dict[str, str]:
        """What its ENV instructions set."""
        words = [word for kind, value in self.of[stage] if kind == "ENV" for word in shlex.split(value)]
        return dict(word.split("=", 1) for word in words)

    def command(self, stage: str) -> list[str]:
        """Of CMD."""
        return json.loads(self.last(stage, "CMD"))

    def health_check(self, stage: str) -> list[str]:
        """The command of HEALTHCHECK."""
        return json.loads(self.last(stage, "HEALTHCHECK").split("CMD", 1)[1])


class Machine:
    """A folder that stands for the file system of an image; packages come from the index, as they would."""

    def __init__(self, folder: Path, context: Path, **arguments: str):
        self.folder, self.context, self.stages = folder, context, Stages()
        self.arguments = self.stages.arguments | arguments
        self.ignored = ignored_names(context)

    def build(self, stage: str):
        """Carry out a stage; what it copies from another stage is there already."""
        place = self.folder
        for kind, value in self.stages.of[stage]:
            if kind == "WORKDIR":
                place = self.inside(value)
                place.mkdir(parents=True, exist_ok=True)
            elif kind == "RUN" and not value.startswith(NEEDS_ROOT):
                self.run(value, place)
            elif kind == "COPY" and not value.startswith("--from="):
                self.copy(value, place)

    def inside(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def mapped(self, text: str) -> str:
        """A text with the folders of the image as they are called here."""
        return re.sub(r"(?<![\w/.])/(opt|srv|build)\b", rf"{self.folder}/\1", text)

    def run(self, command: str, place: Path):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "PYTHON"))}
        command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", self.mapped(command))
        done = subprocess.run(command, shell=True, cwd=place, env=kept, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"RUN {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    def copy(self, value: str, place: Path):
        """What a COPY names must be in the context, and not in .dockerignore."""
        for name, default in self.arguments.items():
            value = value.replace(f"${{{name}}}", default)
        *sources, target = [word for word in value.split() if not word.startswith("--")]
        goal = self.inside(target) if target.startswith("/") else place / target
        for source in sources:
            found = [p for p in sorted(self.context.glob(source)) if not self.is_ignored(p)]
            assert found, f"COPY {value}: there is no {source} in the context"
            goal.mkdir(parents=True, exist_ok=True)
            for path in found:
                if path.is_dir():
                    shutil.copytree(path, goal, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy2(path, goal)

    def is_ignored(self, path: Path) -> bool:
        """The last line of .dockerignore that fits decides."""
        name, result = path.relative_to(self.context).as_posix(), False
        for pattern in self.ignored:
            plain = pattern.removeprefix("!")
            fits = any(fnmatch.fnmatch(str(p), plain) for p in (name, *Path(name).parents))
            result = (not pattern.startswith("!")) if fits else result
        return result


def ignored_names(context: Path) -> list[str]:
    """The lines of .dockerignore."""
    lines = (context / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]
