"""What `mlops-nb check` finds, where, and what it leaves alone."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mlops_nb.errors import PipelineError
from mlops_nb.project.lint import check_notebook, check_notebooks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "settings.ini").touch()
    (tmp_path / "nbs/pipeline").mkdir(parents=True)
    (tmp_path / "pipeline.yaml").write_text(
        "tasks:\n- source: nbs/pipeline/train.ipynb\n  params: {seed: 1, folds: 5}\n"
    )
    return tmp_path


def write(project, *sources, name="nbs/a.ipynb", tags=None, counts=None):
    cells = [nbformat.v4.new_code_cell(s) for s in sources]
    for i, cell in enumerate(cells):
        cell.metadata["tags"] = ["parameters"] if tags == i else []
        cell.execution_count = counts[i] if counts else None
    path = project / name
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# t"), *cells]), path)
    return path


def found(path, project):
    return [(p.cell, p.line, p.code) for p in check_notebook(path, project)]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["x = y"], [(2, 1, "undefined-name")]),
        (["x = 1", "\n\nprint(x)\nprint(z)"], [(3, 4, "undefined-name")]),
        (["print(x)", "x = 1"], [(2, 1, "undefined-name")]),
        (["def f():\n    return later", "later = 1\nf()"], []),
        (["[i for i in range(3)]", "i"], [(3, 1, "undefined-name")]),
        (["%load_ext x\n%timeit 1 + 1", "!ls", "%%time\nx = 1", "files = !ls\nprint(files)"], []),
        (["import os.path as p", "p.join('a')", "display(p)", "get_ipython()"], []),
        (["from m import *", "anything"], []),
        (["t = %production toy", "production.close()"], []),
        (["production.close()"], [(2, 1, "undefined-name")]),
        (["x = = 1", "y"], [(2, 1, "syntax")]),
        (["import asyncio\nawait asyncio.sleep(0)"], []),
        (["try:\n    x = 1\nexcept Exception as e:\n    print(e)", "del x\nprint(x)"], [(3, 2, "undefined-name")]),
    ],
)
def test_names_that_nothing_above_defines(project, cells, expected):
    assert found(write(project, *cells), project) == expected


def test_the_missing_name_is_said(project):
    message = str(check_notebook(write(project, "x = 1", "print(threshold)"), project)[0])
    assert (
        message
        == "nbs/a.ipynb, cell 3, line 1: 'threshold' is used here, and no cell above defines it. [undefined-name]"
    )


@pytest.mark.parametrize(
    ("counts", "expected"), [([1, 2, 3], []), ([2, 1, 3], [3]), ([1, 3, 2], [4]), ([None] * 3, []), ([5, 9, 11], [])]
)
def test_cells_that_ran_in_another_order(project, counts, expected):
    assert [c for c, _, _ in found(write(project, "1", "2", "3", counts=counts), project)] == expected


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("'/home/ada/x.csv'", True),
        ("'/Users/ada/x'", True),
        (r"'C:\\data\\x.csv'", True),
        ("f'/home/ada/{1}'", True),
        ("'/predict'", False),
        ("'data/x.csv'", False),
        ("'https://example.org/home/x'", False),
        ("'/'", False),
        ("'/home is where the heart is'", False),
        ("# '/home/ada/x.csv'\n1", False),
    ],
)
def test_paths_of_one_machine(project, source, bad):
    assert [code for _, _, code in found(write(project, source), project)] == (["absolute-path"] if bad else [])


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("password = 'correcthorse'", True),
        ("connect(api_key='0123456789')", True),
        ("{'TOKEN': 'abcdefgh'}", True),
        ("x = 'ghp_0123456789abcdefghij'", True),
        ("x = 'postgresql://u:hunter22@h/x'", True),
        ("x = 'postgresql://u:${PASSWORD}@h/x'", False),
        ("password = os.environ['X']", False),
        ("token_pattern = '(?u) x'", False),
        ("secret = ''", False),
        ("x = 'sk-learn'", False),
    ],
)
def test_things_that_look_like_secrets(project, source, bad):
    path = write(project, f"import os\nfrom m import connect\n{source}")
    problems = check_notebook(path, project)
    assert [p.code for p in problems] == (["secret"] if bad else [])
    assert not any(word in str(problems) for word in ("correcthorse", "hunter22", "0123456789"))


def test_estimator_in_main_is_named_and_an_exported_one_is_not(project):
    code = "from sklearn.base import BaseEstimator\nclass Mine(BaseEstimator): pass"
    assert found(write(project, code), project) == [(2, 2, "class-in-main")]
    assert found(write(project, f"#| export\n{code}"), project) == []


@pytest.mark.parametrize(
    ("cells", "tags", "expected"),
    [
        (["seed = folds = None\nupstream = product = None", "print(seed)"], 0, []),
        (["seed = fold = None\nupstream = product = None"], 0, ["parameters"]),
        (["seed = folds = None\nupstream = product = None"], None, ["parameters"]),
        (["seed = folds = None\nupstream = product = None", "def f(): pass"], 0, ["definition"]),
        (["seed = folds = None\nupstream = product = None", "class A: pass"], 0, ["definition"]),
    ],
)
def test_rules_of_a_pipeline_notebook(project, cells, tags, expected):
    path = write(project, *cells, name="nbs/pipeline/train.ipynb", tags=tags)
    assert [code for _, _, code in found(path, project)] == expected


def test_misspelt_parameter_gets_the_nearest_name(project):
    path = write(project, "seed = fold = upstream = product = None", name="nbs/pipeline/train.ipynb", tags=0)
    assert "passes 'folds', which is no parameter here. Did you mean 'fold'?" in str(check_notebook(path, project)[0])


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json", '{"cells": 1, "nbformat": 4}'])
def test_file_that_is_no_notebook_is_a_problem_not_a_traceback(project, content):
    (project / "nbs/x.ipynb").write_text(content)
    assert [code for _, _, code in found(project / "nbs/x.ipynb", project)] == ["unreadable"]


def test_notebook_that_is_not_there_is_an_error(project):
    with pytest.raises(PipelineError, match=r"There is no notebook nbs/none\.ipynb"):
        check_notebooks(["nbs/none.ipynb"], project)


@pytest.mark.slow
def test_command_exits_with_1_and_prints_json(project):
    write(project, "x = y")
    code = "from mlops_nb.cli.main import main; main()"
    command = [sys.executable, "-c", code, "check", "--json"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)[0]["code"] == "undefined-name"
    write(project, "y = 1")
    done = subprocess.run(command[:-1], cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "No problems found.\n")


@pytest.mark.slow  # `make check` asks for it by itself
def test_notebooks_of_this_project_have_no_problems():
    assert check_notebooks(None, ROOT) == []
