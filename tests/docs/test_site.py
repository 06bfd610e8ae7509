"""The site is built without a warning: every link, reference and page of it leads somewhere."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from docs.generate import spec_page
from tests.factories import ROOT

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_fields_of_a_spec_are_documented_as_the_code_says():
    assert (ROOT / "docs" / "spec.md").read_text() == spec_page(), "run make docs"


def test_links_of_notebooks_lead_somewhere():
    from nbformat import read

    lost = []
    for path in sorted(ROOT.glob("nbs/**/*.ipynb")):
        text = "\n".join(cell.source for cell in read(path, 4).cells if cell.cell_type == "markdown")
        lost += [
            f"{path.name}: {to}" for to in LINK.findall(text) if "://" not in to and not (path.parent / to).exists()
        ]
    assert lost == []


@pytest.mark.slow
def test_site_is_built_without_a_warning(tmp_path):
    if find_spec("sphinx") is None:
        assert "REQUIRE_SERVICES" not in os.environ
        pytest.skip("Sphinx is not installed: make site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "-c", "docs/site"]
    command += ["-d", tmp_path / "doctrees", "-D", "nb_execution_mode=off", ".", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    warnings = [line for line in done.stderr.splitlines() if line.strip() and "'gallery/" not in line]
    assert warnings == [], "all but the gallery, which `make site` builds first"
    page = (tmp_path / "site" / "docs" / "api" / "mlops_nb.model.train.html").read_text()
    assert "spec.make_estimator" in page, "the comments of parameters are lists"
