"""The command line as a whole: what it costs to start, and how it fails."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from mlops_nb.cli.main import COMMANDS, main

HEAVY = ("pandas", "sklearn", "numpy", "sqlalchemy", "flask", "http.client")


def test_command_line_answers_without_heavy_imports():
    code = f"import sys, mlops_nb.cli.main; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("words", [[], ["models"], ["runs"], *([command.name] for command in COMMANDS)])
def test_every_command_has_help(words):
    done = CliRunner().invoke(main, [*words, "--help"])
    assert done.exit_code == 0
    assert done.output.startswith(f"Usage: {' '.join(['main', *words])} ")


def test_error_of_the_library_is_one_line_and_exit_code_1(tmp_path):
    done = CliRunner().invoke(main, ["models", "show", "toy"], env={"MLOPS_HOME": str(tmp_path)})
    assert (done.exit_code, done.output) == (1, "Error: No model 'toy' is registered. There is none yet.\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["monitor", "toy", "--last", "1h", "--rows", "5"], "Give --last or --rows, not both."),
        (["retrain", "toy", "--last", "1h", "--rows", "5"], "Give --last or --rows, not both."),
        (["predict", "toy"], "Give NAME, --input and --output; or --list."),
        (["new", "shop", "--target", "y"], "give it with --data."),
        (["new", "shop", "--target", "late", "--target", "y"], "write target=['late', 'y'] in the ModelSpec"),
        (["new", "shop", "--header", "--no-header"], "--header/--no-header is given twice"),
    ],
)
def test_arguments_that_contradict_each_other_are_a_usage_error(words, problem, tmp_path):
    done = CliRunner().invoke(main, words, env={"MLOPS_HOME": str(tmp_path)})
    assert done.exit_code == 2
    assert problem in done.output


def _options(command, words=()):
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _options(inner, (*words, name))
        return
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag and not option.multiple:
            yield pytest.param([*words, *[option.opts[0], "1"] * 2], id=" ".join([*words, option.opts[0]]))


@pytest.mark.parametrize("words", list(_options(main)))
def test_option_of_one_value_is_refused_if_it_is_given_twice(words, tmp_path):
    done = CliRunner().invoke(main, words, env={"MLOPS_HOME": str(tmp_path)})
    assert done.exit_code == 2
    assert f"{words[-2]} is given twice, and it takes one value." in done.output.replace("\n", " ")
