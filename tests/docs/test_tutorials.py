"""Every block of a tutorial is run, in the order of the page, in a clone as a newcomer has it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories import ROOT, free_port

PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```bash( service)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# The environment stands ready; the services of a page are ended with it
PRELUDE = """
set -euo pipefail -m
make() {
  [ -e .venv ] || ln -s "$ENVIRONMENT" .venv
  touch -d 2000-01-01 requirements.lock requirements.later settings.ini setup.py
  command make "$@"
}
answers() {
  for _ in $(seq 600); do
    curl --silent --fail --output /dev/null "http://127.0.0.1:$PORT/health/ready" && return
    kill -0 "$1" || return
    sleep 0.2
  done
  return 1
}
services=()
end() {
  for service in "${services[@]}"; do kill -INT -- "-$service" && wait "$service" || true; done
}
trap end EXIT
[ -e .venv ] || ln -s "$ENVIRONMENT" .venv
"""


def script_of(page: str, port: int) -> str:
    """The blocks of a page as one script; a block marked as a service stays in the background."""
    parts = [PRELUDE]
    for service, block in BLOCK.findall(page):
        block = block.replace("127.0.0.1:5000", f"127.0.0.1:{port}")
        parts.append(f"(\n{block}) >service.log 2>&1 &\nservices+=($!)\nanswers $!\n" if service else block)
    return "\n".join(parts)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_blocks_of_a_tutorial_run_from_top_to_bottom(page, tmp_path):
    clone = tmp_path / "mlops_nb"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, clone], check=True)
    port = str(free_port())
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    environment |= {"PORT": port, "MLOPS_PORT": port, "ENVIRONMENT": sys.prefix, "PYTHONPATH": str(clone)}
    text = page.read_text()
    assert "```bash" in text
    done = subprocess.run(
        ["bash", "-c", script_of(text, port)],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    log = Path(clone, "service.log")
    served = log.read_text() if log.exists() else ""
    assert done.returncode == 0, "\n".join(output[-3000:] for output in (done.stdout, done.stderr, served))
