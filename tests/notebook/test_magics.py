"""`%load_ext mlops_nb` in a real IPython: production, its predictions and their labels."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from mlops_nb.data.tables import load_table, snapshot, split, validate
from mlops_nb.errors import DataError, NotFoundError
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import signature_of
from mlops_nb.model.train import fit
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.orchestration.fingerprint import project_modules
from mlops_nb.settings import Settings
from mlops_nb.spec import load_spec
from mlops_nb.store.git import GitState
from mlops_nb.store.registry import Registry
from mlops_nb.store.runs import RunStore
from tests.factories import package
from tests.pipeline.conftest import copy_project

ROOT = Path(__file__).parents[2]
SEEDS = {"diagnosis": (3, 5), "tides": (3,)}  # One version a seed; the first is in production
MODULES = {"diagnosis": "mlops_nb.examples.diagnosis", "tides": "tides_of_magics"}
TIDES = """
import pandas as pd
import pandera.pandas as pa
from sklearn.linear_model import LinearRegression

from mlops_nb.spec import ModelSpec

# from the newest to the oldest
days = pd.date_range("2024-01-01", periods=100, unit="us")[::-1]
table = pd.DataFrame({"day": days, "moon": [i % 28.0 for i in range(100)], "level": [i % 5.0 for i in range(100)]})
spec = ModelSpec(
    name="tides",
    load=lambda: table,
    target="level",
    schema=pa.DataFrameSchema({c: pa.Column(t) for c, t in (("day", None), ("moon", float), ("level", float))}),
    make_estimator=lambda params: LinearRegression(),
    scorer="r2",
    task="regression",
    time="day",
)
"""


def build(settings: Settings, name: str, seed: int, given: bool = False) -> pd.DataFrame:
    """What a build does, without its notebooks; returns the test set: split off, or given."""
    spec = load_spec(MODULES[name])
    table = validate(load_table(spec.load), spec.schema)
    train, test = split(table, spec.target, 0.3, seed, spec.time, spec.task == "classification")
    kept, apart = (snapshot(rows, Path(settings.artifacts) / "data") for rows in (train if given else table, test))
    data = {"sha256": kept.sha256} | ({"holdout": {"source": "test", "sha256": apart.sha256}} if given else {})
    run = RunStore(Path(settings.runs)).new()
    run.start(name, GitState(None, None, False, "", ()), params={"test_size": 0.3, "seed": seed})
    run.finish(version=1)
    training = fit(spec, train[spec.inputs], train[spec.target], seed=seed)
    facts = {"params": {}, "seed": seed, "data": data, "python": "", "packages": {}}
    facts |= {"code": {"spec": MODULES[name]}, "evaluation": {"metrics": {}, "gates": [], "passed": True}}
    signature = signature_of(spec, training.estimator)
    bundle = write_bundle(settings.home / "bundle", name, training.estimator, signature, test, table, facts)
    registry = Registry.open(settings)
    version, is_new = registry.register(bundle, run.id)
    registry.close()
    assert is_new, version
    return test


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with two models, and the test sets of their production versions."""
    home = tmp_path_factory.mktemp("made")
    settings = Settings.read({"MLOPS_HOME": str(home)})
    (home / "tides_of_magics.py").write_text(TIDES)
    rows = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(home)
        for name, seeds in SEEDS.items():
            rows[name], *_ = [build(settings, name, seed) for seed in seeds]
    registry = Registry.open(settings)
    registry.register(package(home / "bundle", 1.0))
    for name in (*SEEDS, "toy"):
        registry.promote(name, 1)
    registry.close()
    return home, rows


@pytest.fixture
def home(made, tmp_path, monkeypatch) -> Path:
    for name in [n for n in os.environ if n.startswith("MLOPS_")]:
        monkeypatch.delenv(name)
    shutil.copytree(made[0], tmp_path / "home")
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def shell(home, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    shell.run_cell("%load_ext mlops_nb").raise_error()
    yield shell
    if production := shell.user_ns.get("production"):
        production.close()
    shell.restore_sys_module_state()


@pytest.mark.slow
def test_rows_of_production_are_its_test_set(shell, made):
    table = shell.run_line_magic("production", "diagnosis")
    rows, spec = made[1]["diagnosis"], load_spec("mlops_nb.examples.diagnosis")
    assert isinstance(table, pd.DataFrame)
    assert type(table.head()) is pd.DataFrame
    assert list(table.columns) == [*spec.inputs, spec.target, "prediction", "probability", "correct"]
    pd.testing.assert_frame_equal(table[[*spec.inputs, spec.target]], rows[[*spec.inputs, spec.target]])
    assert (table["correct"] == (table["prediction"] == rows[spec.target])).all()
    assert 0.9 < table["correct"].mean() < 1
    assert table["probability"].between(0.5, 1).all(), "of the class that was predicted, of two"


@pytest.mark.slow
def test_predictor_is_at_hand_and_printed(shell, capsys):
    table = shell.run_line_magic("production", "diagnosis")
    printed = f"production: Predictor of diagnosis version 1, verified\n{len(table)} rows of the test set\n"
    assert capsys.readouterr().out == printed
    production = shell.user_ns["production"]
    assert isinstance(production, Predictor)
    assert production.predict_frame(table).prediction.tolist() == table["prediction"].tolist()


def test_table_knows_model_version_and_run_and_last_rows_can_be_chosen(shell, home):
    shell.run_cell("t = %production diagnosis --last 4\nhead = t.head(2)").raise_error()
    all_rows = shell.run_line_magic("production", "diagnosis")
    assert shell.user_ns["t"].equals(all_rows.tail(4))
    run = RunStore(home / "store/runs").list("diagnosis")[-1]["id"]
    known = {"model": "diagnosis", "version": 1, "run": run, "rows": "test set"}
    assert known.items() <= shell.user_ns["head"].attrs.items()


def test_regression_split_by_time_has_errors_in_place_of_correct(shell, made):
    table = shell.run_line_magic("production", "tides")
    spec = load_spec("tides_of_magics")
    assert list(table.columns) == [*spec.inputs, spec.target, "prediction", "error"]
    assert table[spec.target].tolist() == made[1]["tides"][spec.target].tolist()
    assert (table["error"] == table["prediction"] - table[spec.target]).all()


@pytest.mark.slow
def test_version_that_moved_is_followed(shell, home):
    before = shell.run_line_magic("production", "diagnosis")
    registry = Registry.open()
    registry.promote("diagnosis", 2)
    registry.close()
    shell.user_ns["production"].close()
    after = shell.run_line_magic("production", "diagnosis")
    assert (after.attrs["version"], shell.user_ns["production"].version) == (2, 2)
    assert len(after) == len(before)
    assert not after.equals(before)


@pytest.mark.slow
@pytest.mark.parametrize("line", ["diagnosis", "diagnosis --test"])
def test_version_with_a_test_set_of_its_own_shows_that(shell, home, line):
    settings = Settings.read({"MLOPS_HOME": str(home)})
    rows = build(settings, "diagnosis", seed=7, given=True)
    registry = Registry.open(settings)
    registry.promote("diagnosis", 3)
    registry.close()
    shutil.rmtree(home / "store/runs")  # the version names its rows itself
    table, spec = shell.run_line_magic("production", line), load_spec(MODULES["diagnosis"])
    assert (table.attrs["version"], table.attrs["rows"]) == (3, "test set")
    assert table[[*spec.inputs, spec.target]].equals(rows[[*spec.inputs, spec.target]])


def log_predictions(home: Path, name: str, rows: list, predictions: list, probability: list | None, **more):
    """Put into the log what a service would, with the key of its time."""
    names, at, version = load_spec(MODULES[name]).inputs, more.get("at", 1e9), more.get("version", 1)
    values = [*map(str, names)], rows, predictions, probability
    log = PredictionLog.open(Settings.read({"MLOPS_HOME": str(home)}))
    log.add([PredictionRecord(f"{at:.0f}", at, name, version, "production", 0.5, *values)])
    log.close()


def label(home: Path, **labels):
    log = PredictionLog.open(Settings.read({"MLOPS_HOME": str(home)}))
    log.add([LabelRecord(key.replace("_", "-")[1:], value, 1e9) for key, value in labels.items()])
    log.close()


@pytest.fixture
def logged(shell, home) -> pd.DataFrame:
    """Five rows that the service answered; the first two are labelled, one of them otherwise."""
    table = shell.run_line_magic("production", "diagnosis").head(5)
    production, names = shell.user_ns["production"], load_spec(MODULES["diagnosis"]).inputs
    answer = production.predict_frame(table)
    predictions, probability = answer.prediction.tolist(), answer.probability.tolist()
    production.close()
    log_predictions(home, "diagnosis", table[names].to_numpy().tolist(), predictions, probability)
    other = next(c for c in production.signature.classes if c != predictions[1])
    label(home, _1000000000_0=predictions[0], _1000000000_1=other)
    return table


@pytest.mark.slow
def test_rows_of_the_log_come_before_those_of_the_test_set(shell, logged, capsys):
    capsys.readouterr()
    table, spec = shell.run_line_magic("production", "diagnosis"), load_spec(MODULES["diagnosis"])
    assert capsys.readouterr().out.endswith("5 rows of the prediction log\n")
    columns = [*spec.inputs, spec.target, "prediction", "probability", "correct", "requested_at"]
    assert (list(table.columns), table.attrs["rows"]) == (columns, "prediction log")
    assert table.index.tolist() == [f"1000000000-{i}" for i in range(5)]
    assert table["correct"].tolist() == [True, False, None, None, None]
    requested, probability = table.reset_index(drop=True), logged["probability"].tolist()
    pd.testing.assert_frame_equal(
        requested[spec.inputs], logged[spec.inputs].reset_index(drop=True), check_column_type=False
    )
    assert requested["probability"].tolist() == pytest.approx(probability)
    assert shell.user_ns["production"].predict_frame(table).prediction.tolist() == table["prediction"].tolist()
    shell.user_ns["production"].close()
    assert len(shell.run_line_magic("production", "diagnosis --test")) > 5


@pytest.mark.slow
def test_mistakes_are_those_whose_truth_is_known(shell, logged):
    wrong = shell.run_line_magic("production", "diagnosis --last 2 --wrong")
    assert wrong.index.tolist() == ["1000000000-1"]
    shell.user_ns["production"].close()
    of_test = shell.run_line_magic("production", "diagnosis --wrong --test")
    assert len(of_test)
    assert not of_test["correct"].any()


@pytest.mark.slow
def test_last_are_the_newest_of_the_version_that_is_in_production(shell, logged, home):
    row, probability = logged.iloc[:1, :30].to_numpy().tolist(), [[0.5, 0.5]]
    log_predictions(home, "diagnosis", row, logged["prediction"].tolist()[:1], probability, at=2e9)
    log_predictions(home, "diagnosis", row, logged["prediction"].tolist()[:1], probability, at=3e9, version=2)
    assert shell.run_line_magic("production", "diagnosis --last 2").index.tolist() == ["1000000000-4", "2000000000-0"]


def test_worst_errors_of_a_regression_come_first(shell, home):
    label(home, _1000000000_0=1.0, _1000000000_2=-5.0)
    log_predictions(home, "tides", [[1.0], [2.0], [3.0]], [2.0, 2.5, 3.0], None)
    table = shell.run_line_magic("production", "tides")
    assert table["error"].tolist()[::2] == [1.0, 8.0]
    assert table["error"].isna().tolist() == [False, True, False]
    shell.user_ns["production"].close()
    assert shell.run_line_magic("production", "tides --wrong")["error"].tolist() == [8.0, 1.0]


def test_no_label_yet_is_no_mistake_and_not_the_test_set(shell, home):
    log_predictions(home, "tides", [[1.0]], [2.0], None)
    assert not len(shell.run_line_magic("production", "tides --wrong"))


def test_misspelt_names_get_the_nearest(shell):
    for line, message in (
        ("production diagnoses", "No model 'diagnoses' is registered. Did you mean 'diagnosis'?"),
        ("models tids", "No model 'tids' is registered. Did you mean 'tides'?"),
        ("runs tids", "There is no run of 'tids'. Did you mean 'tides'?"),
    ):
        with pytest.raises(NotFoundError) as e:
            shell.run_line_magic(*line.split())
        assert str(e.value) == message


@pytest.mark.parametrize("line", ["", "diagnosis --last x", "diagnosis --last 0", "diagnosis --lst 3"])
def test_words_that_mean_nothing_are_a_usage_error(shell, line):
    with pytest.raises(UsageError):
        shell.run_line_magic("production", line)


@pytest.mark.slow
def test_snapshot_that_is_gone_or_changed(shell, home):
    for path in (home / "store/artifacts/data").iterdir():
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"version 1 of 'diagnosis' is not known\. The data was changed"):
        shell.run_line_magic("production", "diagnosis")
    shutil.rmtree(home / "store/artifacts/data")
    with pytest.raises(DataError, match=r"The test set of version 1 of 'diagnosis' is not known\. The data is gone"):
        shell.run_line_magic("production", "diagnosis")
    assert "production" not in shell.user_ns


def test_run_that_is_gone_or_never_was(shell, home):
    shutil.rmtree(home / "store/runs")
    with pytest.raises(DataError, match=r"The test set of version 1 of 'diagnosis' is not known: its run 2\d+"):
        shell.run_line_magic("production", "diagnosis")
    with pytest.raises(DataError, match="'toy' is not known: it was registered without a run"):
        shell.run_line_magic("production", "toy")


def test_spec_that_splits_otherwise_now_is_refused(shell, home):
    for path in (home / "store/runs").glob("*/run.json"):
        record = json.loads(path.read_text())
        record["params"]["test_size"] = 0.5
        path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="cannot be rebuilt: its spec splits the data differently now"):
        shell.run_line_magic("production", "diagnosis")


def test_models_and_runs_are_shown_all_or_of_one_model(shell):
    registry, store = shell.run_line_magic("models", ""), shell.run_line_magic("runs", "")
    for shown in (registry, store):
        assert "diagnosis" in shown._repr_html_()
        assert "tides" in shown._repr_html_()
    registry.close()
    assert [v.aliases for v in shell.run_line_magic("models", "diagnosis")] == [("production",), ()]
    assert len(shell.run_line_magic("runs", "diagnosis")) == 2


@pytest.mark.slow
def test_extension_costs_nothing_before_it_is_loaded_and_no_build_depends_on_it():
    code = "import sys, mlops_nb; print(sorted({'IPython', 'pandas', 'numpy', 'sqlalchemy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    modules = project_modules("nbs/pipeline/ingest.ipynb", ROOT)
    assert "mlops_nb" in modules
    assert "mlops_nb.notebook.magics" not in modules


SHOW_PRODUCTION = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
shell.run_cell("%load_ext mlops_nb").raise_error()
table = shell.run_line_magic("production", "toy")
shell.user_ns["production"].close()
print(table.attrs["version"], table["x"].tolist())
"""


@pytest.mark.slow
@pytest.mark.soak
def test_rows_of_production_survive_a_later_build_of_another_version(tmp_path):
    project = copy_project(tmp_path)
    project.build("--env--test_size", "0.3", "--env--seed", "7")
    rows = pd.read_parquet(project.products / "test.parquet")["x"].tolist()
    project.build("--env--seed", "8", "--env--auto_promote", "false")
    assert pd.read_parquet(project.products / "test.parquet")["x"].tolist() != rows
    command = [sys.executable, "-W", "ignore", "-c", SHOW_PRODUCTION]
    done = subprocess.run(
        command, cwd=tmp_path / "nbs", env=project.environment(IPYTHONDIR=str(tmp_path / "ipython")),
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == [f"1 {rows}"], done.stderr
