"""Two versions that predict other things are shown side by side, as far as they can be compared."""

import itertools
import json
from contextlib import closing
from dataclasses import replace

import pytest
from click.testing import CliRunner

from mlops_nb.cli.main import main
from mlops_nb.model.bundle import read_manifest
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from tests.factories import NUMBERS, SIGNATURE, package, served, several_outputs

KINDS = {
    "0 and 1": lambda folder: package(folder, 1.0, NUMBERS, "several"),
    "texts": lambda folder: package(folder, 1.0, replace(SIGNATURE, output="side"), "several"),
    "labels": lambda folder: outputs(folder, ("late", "damaged"), (bool, str)),
    "other labels": lambda folder: outputs(folder, ("late", "damaged"), (bool, int)),
    "one in common": lambda folder: outputs(folder, ("late", "lost"), (bool, int)),
    "numbers": lambda folder: outputs(folder, ("late", "days"), (float, float)),
}


def outputs(folder, names, kinds):
    *_, predictor = served(several_outputs(names, kinds, n=80), folder)
    predictor.close()
    return read_manifest(folder / "bundle")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "settings.ini").touch()
    with closing(Registry.open(Settings.read({"MLOPS_HOME": str(home)}))) as registry:
        for number, make in enumerate(KINDS.values(), 1):
            assert registry.register(make(home / f"made-{number}"))[0].version == number
    return home


@pytest.fixture
def diff(home, monkeypatch):
    monkeypatch.setenv("MLOPS_HOME", str(home))

    def diff(first: str, second: str, *words: str):
        versions = [str([*KINDS].index(kind) + 1) for kind in (first, second)]
        result = CliRunner().invoke(main, ["models", "diff", "several", *versions, *words])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if words else result.output

    return diff


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(KINDS, 2)])
def test_any_two_versions_are_shown_side_by_side(diff, first, second):
    shown = diff(first, second)
    assert "signature." in shown
    assert "compared" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        ("numbers", "labels", "not comparable: the task is classification, not regression"),
        ("0 and 1", "labels", "not comparable: it predicts 'late', 'damaged', not 'side'"),
        ("labels", "one in common", "Not compared further: it predicts 'late', 'lost', not 'late', 'damaged'"),
        ("labels", "other labels", "Not compared further: the labels of 'damaged' are 0, 1, not \"maybe\""),
    ],
)
def test_sentence_names_the_part_that_cannot_be_compared(diff, first, second, note):
    assert any(note in one for one in diff(first, second, "--json")["notes"])


def test_output_that_both_have_is_compared(diff):
    compared = diff("labels", "one in common", "--json")["predictions"]
    assert compared["rows"] == 20
    assert {row["output"] for row in compared["first"]} <= {"late"}
