"""Tables, fields and JSON of the command line."""

import json
from datetime import UTC, datetime

from mlops_nb.cli.output import print_fields, print_json, print_table


def test_columns_are_aligned_and_missing_values_are_a_dash(capsys):
    print_table([{"name": "loans", "auc": 0.912345}, {"name": "x", "aliases": ["a", "b"]}], ["name", "auc", "aliases"])
    assert capsys.readouterr().out.splitlines() == ["name   auc     aliases", "loans  0.9123  -", "x      -       a, b"]


def test_message_for_no_rows_goes_to_stderr(capsys):
    print_table([], ["name"], "There is none.")
    assert capsys.readouterr() == ("", "There is none.\n")


def test_nested_fields_are_indented(capsys):
    print_fields({"name": "loans", "data": {"rows": 1000, "source": None}, "notes": {}})
    assert capsys.readouterr().out == "name: loans\ndata:\n  rows: 1000\n  source: -\nnotes: {}\n"


def test_times_are_text_in_json(capsys):
    print_json({"at": datetime(2026, 1, 2, tzinfo=UTC)})
    assert json.loads(capsys.readouterr().out) == {"at": "2026-01-02 00:00:00+00:00"}
