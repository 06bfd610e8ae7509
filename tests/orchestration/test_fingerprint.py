"""What a notebook depends on, in this project and in odd ones."""

from pathlib import Path

import nbformat
import pytest

from mlops_nb.errors import PipelineError
from mlops_nb.orchestration import fingerprint
from mlops_nb.orchestration.fingerprint import code_fingerprint, project_modules

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "app").mkdir()
    for name, code in {
        "__init__": "",
        "a": "from . import b\n",
        "b": "from .deep.c import f\n",
        "deep/__init__": "",
        "deep/c": "from ..a import *\nf = 1\n",
        "d": "def late():\n    import app.e\n",
        "e": "x = 1\n",
        "f": "",
    }.items():
        path = tmp_path / "app" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    return tmp_path


def write(project, *cells):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), project / "t.ipynb")
    return "t.ipynb"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("import app.a", {"app", "app.a", "app.b", "app.deep", "app.deep.c"}),
        ("from app import d", {"app", "app.d", "app.e"}),
        ("def f():\n    from app.e import x", {"app", "app.e"}),
        ("import os, numpy", set()),
        ("!pip list\n%matplotlib inline\nfrom app import f", {"app", "app.f"}),
    ],
)
def test_imports_are_followed_cycles_and_late_ones_too(project, cell, expected):
    assert set(project_modules(write(project, "x = 1", cell), project)) == expected


def test_fingerprint_changes_when_and_only_when_what_is_imported_does(project):
    notebook = write(project, "from app import a")
    before = code_fingerprint(notebook, project)
    (project / "app/f.py").write_text("changed = 1\n")
    (project / "app/a.py").write_text("# a comment\nfrom . import b\n\n\n")
    assert code_fingerprint(notebook, project) == before
    (project / "app/deep/c.py").write_text("from ..a import *\nf = 2\n")
    assert code_fingerprint(notebook, project) != before


def test_upgrade_of_a_package_that_is_imported_is_a_change_and_of_another_is_not(project, monkeypatch):
    import importlib.metadata

    notebook, real = write(project, "import numpy"), importlib.metadata.version
    before = code_fingerprint(notebook, project)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0" if name == "flask" else real(name))
    assert code_fingerprint(notebook, project) == before
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0" if name == "numpy" else real(name))
    assert code_fingerprint(notebook, project) != before


def test_cell_that_is_not_python_is_named(project):
    with pytest.raises(PipelineError, match=r"t\.ipynb has a cell that is not Python"):
        code_fingerprint(write(project, "x = = 1"), project)


@pytest.mark.slow
def test_each_task_depends_on_what_its_notebook_uses():
    modules = {
        p.stem: {m.removeprefix("mlops_nb.") for m in project_modules(p.relative_to(ROOT), ROOT)}
        for p in (ROOT / "nbs/pipeline").glob("*.ipynb")
    }
    assert {"data.tables", "spec", "settings"} <= modules["ingest"]
    assert "model.train" not in modules["ingest"]
    assert "model.train" in modules["train"]
    assert not {"store.registry", "model.bundle"} & modules["train"]
    assert {"store.registry", "model.bundle", "model.evaluate", "model.engine"} <= modules["evaluate"]
    assert "data.tables" not in modules["evaluate"]
    assert "model.model_card" in modules["package"]
    assert "model.model_card" not in modules["register"] | modules["evaluate"]


@pytest.fixture
def forget():
    """As a new process: nothing is remembered but what is in the folder of products."""

    def clear():
        for cached in (fingerprint._read, fingerprint._kept, fingerprint._distributions):
            cached.cache_clear()

    clear()
    yield clear
    clear()


def test_modules_that_did_not_change_since_a_build_are_not_parsed_again(project, forget, monkeypatch):
    notebook = write(project, "from app import a\nimport numpy")
    before = code_fingerprint(notebook, project)
    fingerprint.keep_found(project)
    forget()
    real, parsed = fingerprint.ast.parse, []
    monkeypatch.setattr(fingerprint.ast, "parse", lambda *given, **more: parsed.append(given) or real(*given, **more))
    monkeypatch.setattr(fingerprint, "distributions", lambda: pytest.fail("all distributions were listed again"))
    assert code_fingerprint(notebook, project) == before
    assert {given[0] for given in parsed} == {"from app import a\nimport numpy"}, "the notebook alone"
    (project / "app/deep/c.py").write_text("from ..a import *\nf = 2\n")
    assert code_fingerprint(notebook, project) != before


@pytest.mark.parametrize("content", ["", "{", "\x00\xff"])
def test_fingerprint_is_the_same_when_what_was_kept_cannot_be_read(project, forget, content):
    notebook = write(project, "from app import a")
    before = code_fingerprint(notebook, project)
    forget()
    (project / "products").mkdir()
    (project / "products/.code.json").write_text(content, encoding="latin-1")
    assert code_fingerprint(notebook, project) == before


def test_folder_of_products_that_cannot_be_written_keeps_nothing(project, forget):
    (project / "products").write_text("a file")
    notebook = write(project, "from app import a")
    before = code_fingerprint(notebook, project)
    fingerprint.keep_found(project)
    forget()
    assert code_fingerprint(notebook, project) == before
