"""What `mlops-nb new` refuses: one clear error, and nothing is written."""

import sqlite3

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from mlops_nb.cli.main import main

GOOD = pd.DataFrame({"age": np.arange(60) % 30, "plan": ["a", "b", "c"] * 20, "left": ["yes", "no"] * 30})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where somebody works who has a table."""
    monkeypatch.chdir(tmp_path)
    GOOD.to_csv("good.csv", index=False)
    GOOD.assign(left="yes").to_csv("constant.csv", index=False)
    GOOD.assign(left=None).to_csv("unlabelled.csv", index=False)
    GOOD.head(1).to_csv("one.csv", index=False)
    GOOD.head(0).to_csv("header.csv", index=False)
    GOOD[["left"]].to_csv("alone.csv", index=False)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "zip.parquet").write_bytes(b"PK")
    (tmp_path / "good.json").write_text("{}")
    lines = GOOD.to_csv(index=False).splitlines(keepends=True)
    (tmp_path / "page.csv").write_text("\n<!DOCTYPE html>\n<html><table>")
    (tmp_path / "lines.csv").write_text('{"age": 1, "left": "yes"}\n')
    GOOD.to_excel("sheet.xlsx", index=False)
    (tmp_path / "sheet.csv").write_bytes((tmp_path / "sheet.xlsx").read_bytes())
    (tmp_path / "title.csv").write_text("".join(["Customers 2024,,\n", *lines]))
    (tmp_path / "comment.csv").write_text("".join([*lines[:9], "# checked until here\n", *lines[9:]]))
    with pd.ExcelWriter("second.xlsx") as book:
        GOOD.head(0).to_excel(book, sheet_name="Notes", index=False)
        GOOD.to_excel(book, sheet_name="Customers", index=False)
    (tmp_path / "taken").mkdir()
    database = sqlite3.connect("good.db")
    GOOD.to_sql("t", database, index=False)
    database.close()
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("churn --data good.csv --target lefft", "There is no column 'lefft' to predict. Did you mean 'left'?"),
        ("churn --data good.csv", "Which column is to be predicted? Say --target with one of 'age', 'plan', 'left'"),
        ("churn --data constant.csv --target left", "The target 'left' is 'yes' in every row"),
        ("churn --data unlabelled.csv --target left", "The table has 0 row(s) with a value of the target 'left'; "),
        (
            "churn --data one.csv --target left",
            "The table has 1 row(s) with a value of the target 'left'. At least",
        ),
        ("churn --data header.csv --target left", "The table has no rows"),
        ("churn --data empty.csv --target left", "Cannot read empty.csv: No columns to parse"),
        ("churn --data alone.csv --target left", "The table has the target 'left' alone: there is no column"),
        ("churn --data zip.parquet --target left", "Cannot read zip.parquet"),
        ("churn --data good.json --target left", "Cannot read good.json: its rows have no names"),
        ("churn --data page.csv --target left", "Cannot read page.csv: it is an HTML page, not a table of text"),
        ("churn --data lines.csv --target left", "it is JSON, not a table of text"),
        ("churn --data sheet.csv --target left", "it is a ZIP archive or an Excel sheet, not a table of text"),
        (
            "churn --data title.csv --target left",
            "the first line has one value, 'Customers 2024', for 3 columns",
        ),
        (
            "churn --data comment.csv --target left",
            "row 8: the row has 1 values, the table has 3 columns. It begins",
        ),
        ("churn --data second.xlsx --target left", "its first sheet, 'Notes', has no rows. Move the table there"),
        ("churn --data nowhere.csv --target left", "Cannot read nowhere.csv"),
        ("churn --data sqlite:///good.db --target left", "is a database: name what to read"),
        ("churn --data sqlite:///good.db --query SELECT --target left", "Cannot read sqlite:///good.db"),
        ("churn --data good.csv --target left --time plan", "Cannot split by 'plan': it holds category"),
        ("churn --data good.csv --target left --time when", "no column 'when' beside the target"),
        ("churn --data good.csv --target left --index ages", "no column 'ages' beside the target. Did you mean 'age'"),
        ("churn --target left", "give it with --data"),
        ("taken --data good.csv --target left", "taken exists already, and nothing is ever overwritten"),
        ("good.csv --data good.csv --target left", "is not a name for a project"),
        ("Churn --data good.csv --target left", "use lower-case letters"),
        ("tests --data good.csv --target left", "name of something else that a project needs"),
        ("pandas --data good.csv --target left", "name of something else that a project needs"),
        ("class --data good.csv --target left", "cannot be a Python package"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error_and_nothing_is_written(folder, words, message):
    before = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    done = CliRunner().invoke(main, ["new", *words.split()])
    assert done.exit_code in (1, 2), done.stderr
    assert message in done.stderr, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == before


@pytest.mark.parametrize("place", ["shop", "nbs/deeper/shop"])
def test_place_inside_a_project_is_refused_with_one_beside_it(folder, monkeypatch, place):
    (folder / "outer/nbs").mkdir(parents=True)
    (folder / "outer/settings.ini").touch()
    monkeypatch.chdir(folder / "outer")
    done = CliRunner().invoke(main, ["new", place, "--data", "../good.csv", "--target", "left"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "is inside the project outer. Give a place beside it: mlops-nb new ../shop\n" in done.stderr
    assert sorted(p.name for p in (folder / "outer").rglob("*")) == ["nbs", "settings.ini"]


@pytest.mark.slow
def test_project_that_fails_half_way_leaves_nothing(folder, monkeypatch):
    from mlops_nb.errors import PipelineError
    from mlops_nb.project import scaffold

    def fail(_):
        raise PipelineError("The wheel of mlops-nb could not be made: no disk")

    monkeypatch.setattr(scaffold, "vendor_wheel", fail)
    before = sorted(folder.iterdir())
    done = CliRunner().invoke(main, ["new", "churn", "--data", "good.csv", "--target", "left"])
    assert done.exit_code == 1
    assert "no disk" in done.stderr
    assert sorted(folder.iterdir()) == before
