"""The test set of a version is found again, or it is said why not."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from mlops_nb.errors import DataError
from mlops_nb.model.bundle import read_manifest
from mlops_nb.store.test_set import read_test_set
from tests.factories import several_outputs, split_and_packaged

SPECS = {
    "labels": several_outputs(make=lambda: DecisionTreeClassifier(max_depth=2)),
    "numbers": several_outputs(names=("late", "late by"), kinds=(float, float), make=LinearRegression),
    "one label": several_outputs(names=("late",), kinds=(str,), target="late", make=LogisticRegression),
}


def change(bundle, **values):
    """Write a manifest with other values; None takes one away."""
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in manifest.items() if value is not None}))
    return read_manifest(bundle.path)


@pytest.mark.parametrize("kind", SPECS)
def test_it_is_split_off_as_it_was(kind, tmp_path):
    bundle, artifacts, test = split_and_packaged(SPECS[kind], tmp_path)
    pd.testing.assert_frame_equal(read_test_set(bundle, 1, SPECS[kind], artifacts), test)
    older = change(bundle, asked=None)
    pd.testing.assert_frame_equal(read_test_set(older, 1, SPECS[kind], artifacts, {"test_size": 0.3}), test)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    return split_and_packaged(SPECS["one label"], tmp_path_factory.mktemp("packaged"))[:2]


@pytest.fixture
def made(packaged, tmp_path):
    """A bundle to change, and the store."""
    return read_manifest(shutil.copytree(packaged[0].path, tmp_path / "bundle")), packaged[1]


def test_rows_that_were_given_are_read(made):
    bundle, artifacts = made
    changed = change(bundle, data={"sha256": "gone", "test_rows": 300, "holdout": bundle.manifest["data"]})
    with pytest.raises(DataError, match="cannot be rebuilt"):  # these do not begin with the golden rows
        read_test_set(changed, 1, SPECS["one label"], artifacts)


@pytest.mark.parametrize("test_size", [0.2, 0.29, 0.5])
def test_another_size_is_found(made, test_size):
    with pytest.raises(DataError, match="version 7 of 'several' cannot be rebuilt: its spec splits"):
        read_test_set(change(made[0], asked={"test_size": test_size}), 7, SPECS["one label"], made[1])


def test_another_way_to_split_is_found(made):
    with pytest.raises(DataError, match="cannot be rebuilt"):
        read_test_set(made[0], 1, replace(SPECS["one label"], time="x"), made[1])


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"asked": None}, "its run is gone"), ({"data": {}}, "no snapshot"), ({"data": {"sha256": "0" * 64}}, "is gone")],
)
def test_what_is_not_known_is_said(made, changed, why):
    with pytest.raises(DataError, match=f"The test set of version 1 of 'several' is not known.*{why}"):
        read_test_set(change(made[0], **changed), 1, SPECS["one label"], made[1])
