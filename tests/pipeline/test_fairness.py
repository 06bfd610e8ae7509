"""A build whose model treats two groups differently, by a column that it is not given."""

import json

import pandas as pd
import pytest

from tests.pipeline.conftest import copy_project

pytestmark = pytest.mark.slow

MODULE = """
import pandas as pd
import pandera.pandas as pa
from sklearn.linear_model import LogisticRegression

from mlops_nb.spec import Gates, ModelSpec


def load():
    rows = pd.DataFrame({"x": [*range(100)] * 20}).astype({"x": float})
    return rows.assign(y=(rows["x"] > 45).astype(int), sex=["m" if x > 30 else "f" for x in rows["x"]], few="a")


spec = ModelSpec(
    name="toy",
    load=load,
    target="y",
    schema=pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column(int)}, coerce=True),
    make_estimator=lambda params: LogisticRegression(**params),
    ignored=["sex", "few"],
    slices={"low": lambda X: X["x"] < 50, "lowest": lambda X: X["x"] < 2},
    gates=Gates(
        minimum={"accuracy": 0.8},
        slices={"accuracy": 0.7},
        groups={"sex": {"selection_rate": 0.1}, "few": {"true_positive_rate": 0.1}},
    ),
)
"""


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """A project whose model selects men far more often than women, and the process that built it."""
    project = copy_project(tmp_path_factory.mktemp("unequal"))
    (project.path / "toy.py").write_text(MODULE)
    options = ("--env--spec", "toy", "--env--engine", "ploomber-engine", "--env--strict_gates", "true")
    return project, project.run("ploomber", "build", *options)


def test_gate_of_groups_fails_and_nothing_is_promoted(unequal):
    project, done = unequal
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 gate failed; production is as it was:" in done.stderr
    assert "FAILED: groups of 'sex' selection_rate difference 0." in done.stderr
    assert "2 gates passed without enough rows to tell:" in done.stderr
    assert "passed (inconclusive): slice 'lowest' accuracy" in done.stderr
    (row,) = project.json("models", "list")
    assert (row["staging"], row["production"]) == (1, None)
    registration = project.read("registration.json")
    assert len(registration["inconclusive_gates"]) == 2
    assert registration["reason"].startswith("not promoted: FAILED: groups of 'sex' selection_rate")


def test_failed_gate_is_in_manifest_card_and_models_show(unequal):
    project, _ = unequal
    manifest = project.read("bundle/manifest.json")
    assert [i["name"] for i in manifest["signature"]["inputs"]] == ["x"], "what makes the groups is no input"
    groups = manifest["evaluation"]["groups"]["sex"]
    assert groups["f"]["selection_rate"] < 0.1 < 0.6 < groups["m"]["selection_rate"]
    assert "sex" in pd.read_parquet(project.products / "test.parquet")
    profile = json.loads((project.products / "bundle" / "profile.json").read_text())
    assert [*profile["inputs"]] == ["x"]
    assert "- FAILED: groups of 'sex'" in (project.products / "bundle" / "model_card.md").read_text()
    shown = project.run("mlops-nb", "models", "show", "toy", "1").stdout
    assert "  FAILED: groups of 'sex' selection_rate difference" in shown
    assert "selection_rate" in json.dumps(project.json("models", "show", "toy", "1")["manifest"]["evaluation"]["gates"])


def test_table_without_the_column_stops_the_build_before_training(unequal):
    project, _ = unequal
    (project.path / "bare.csv").write_text("x,y\n" + "".join(f"{x},{int(x > 45)}\n" for x in range(100)))
    output = project.fail("--env--source", "bare.csv", "--env--products", "other")
    assert "The gates make groups by the column 'sex', which the table does not have. There is: 'x', 'y'." in output
    assert not (project.path / "other" / "toy" / "train.ipynb").exists()
