"""`%mlops` in a real IPython on a real project: the loop without a terminal."""

import os
import urllib.request

import pytest
from bs4 import BeautifulSoup
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from mlops_nb.errors import NotFoundError, PipelineError
from mlops_nb.monitor.health_report import HealthReport
from mlops_nb.store.runs import Run
from tests.pipeline.conftest import Project, copy_project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    project = copy_project(tmp_path_factory.mktemp("magic"))
    project.replace("env.yaml", "engine: papermill", "engine: ploomber-engine")
    return project


@pytest.fixture(scope="module")
def shell(project, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        for name in [n for n in os.environ if n.startswith("MLOPS_")]:
            patched.delenv(name)
        for name, value in project.environment(IPYTHONDIR=str(tmp_path_factory.mktemp("ipython"))).items():
            patched.setenv(name, value)
        patched.setenv("MLOPS_HOME", str(project.path))
        patched.chdir(project.path / "nbs")
        patched.syspath_prepend(project.path)
        shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))  # `display` looks for it
        shell.run_cell("%load_ext mlops_nb").raise_error()
        yield shell
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()


def text_of(html: str) -> str:
    """The text that markup shows."""
    return BeautifulSoup(html.partition("</style>")[2] or html, "html.parser").get_text(" ", strip=True)


@pytest.fixture(scope="module")
def built(shell) -> tuple[Run, list[str]]:
    """The run of a build, and what its cell showed in turn."""
    with capture_output() as captured:
        run = shell.run_line_magic("mlops", "build toy --seed 3")
    return run, [text_of(o.data["text/html"]) for o in captured.outputs]


def test_build_shows_a_line_for_each_task_and_then_gates_and_version(built):
    run, shown = built
    assert shown[0].startswith("Build of toy · ingest · train · evaluate · package · register")
    assert any("✓ ingest" in text and "· register" in text for text in shown), "while it runs"
    assert shown[-1].count("✓") == 5
    assert "gates passed" in shown[-1]
    assert run.record["params"]["seed"] == 3
    result = text_of(run._repr_html_())
    assert "✓ finished" in result
    assert "✓ passed minimum accuracy" in result
    assert "version 1" in result


def test_build_of_what_is_built_says_unchanged_and_returns_the_run_that_built_it(shell, built):
    with capture_output() as captured:
        again = shell.run_line_magic("mlops", "build toy --seed 3")
    shown = text_of(captured.outputs[-1].data["text/html"])
    assert again.id == built[0].id
    assert shown.count("unchanged") == shown.count("✓") == 5
    assert len(list(built[0].folder.parent.glob("*/build.log"))) == 1, "of what did not run nothing is left"


def test_failed_build_shows_its_cell_and_links_the_executed_notebook(shell, project, built):
    with capture_output() as captured, pytest.raises(PipelineError) as e:
        shell.run_line_magic("mlops", "build toy --source no/such/table.csv")
    assert "no/such/table.csv" in str(e.value)
    project.replace("toy.py", "LogisticRegression(**params)", "LogisticRegression(solver='none')")
    try:
        with capture_output() as captured, pytest.raises(PipelineError) as e:
            shell.run_line_magic("mlops", "build toy --seed 4")
    finally:
        project.replace("toy.py", "LogisticRegression(solver='none')", "LogisticRegression(**params)")
    page = BeautifulSoup(captured.outputs[-1].data["text/html"], "html.parser")
    assert "fit(" in page.find("pre").get_text()
    link = project.path / "nbs" / page.find("a")["href"]
    assert link.resolve().is_file()
    assert link.name == "train.ipynb"
    assert len(e.value._render_traceback_()) == 1, "one sentence, no frames"


def test_alias_moves_and_goes_back(shell, built):
    shell.run_line_magic("mlops", "build toy --seed 5 --auto_promote false")
    assert "from version 1 to version 2" in shell.run_line_magic("mlops", "promote toy 2 --reason better")
    assert "from version 2 to version 1" in shell.run_line_magic("mlops", "rollback toy")
    assert "at version 1 already" in shell.run_line_magic("mlops", "promote toy 1")
    assert [v.version for v in shell.run_line_magic("mlops", "models toy")] == [1, 2]
    assert "accuracy" in text_of(shell.run_line_magic("mlops", "runs toy")._repr_html_())
    assert isinstance(shell.run_line_magic("mlops", "monitor toy"), HealthReport)


def test_service_runs_beside_the_notebook_until_it_is_stopped(shell, built):
    shown = shell.run_line_magic("mlops", "serve toy")
    url = BeautifulSoup(shown, "html.parser").find("a")["href"]
    try:
        with urllib.request.urlopen(f"{url}health/ready", timeout=10) as response:
            assert response.status == 200
        assert url in shell.run_line_magic("mlops", "serve toy"), "the same service"
        with pytest.raises(PipelineError, match=r"is served at .* already: end that first"):
            shell.run_line_magic("mlops", "serve toy --port 1")
    finally:
        assert "has ended" in shell.run_line_magic("mlops", "serve toy --stop")
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}health/ready", timeout=10)
    assert "does not run" in shell.run_line_magic("mlops", "serve toy --stop")


@pytest.mark.parametrize(
    ("line", "error", "sentence"),
    [
        ("build to", NotFoundError, "No module of this project declares the model 'to'. Did you mean 'toy'?"),
        ("build toy --sed 3", PipelineError, "There is no parameter 'sed'. Did you mean 'seed'?"),
        ("build toy --test_size 3", PipelineError, "'test_size' must be a number between 0 and 1"),
        ("promote toy 9", NotFoundError, "'toy' has no version"),
        ("monitor tyo", NotFoundError, "Did you mean 'toy'?"),
        ("biuld toy", UsageError, "There is no command 'biuld'. Did you mean 'build'?"),
        (
            "promote toy",
            UsageError,
            "The following arguments are required: VERSION. Write %mlops promote",
        ),
        ("build", UsageError, "are required: MODEL. Write %mlops build MODEL --seed 3"),
        ("monitor toy --rows few", UsageError, "Argument --rows: invalid int value: 'few'. Write %mlops monitor"),
        ('build toy --params {"C": 1}', UsageError, "Quotes hold a value together"),
        ("build --help", None, "%mlops build MODEL --seed 3"),
        ("help", None, "%mlops rollback MODEL"),
    ],
)
def test_errors_of_a_person_are_one_sentence(shell, built, capsys, line, error, sentence):
    shell.run_cell(f"%mlops {line}")
    seen = "".join(capsys.readouterr())
    assert sentence in seen
    assert "Traceback" not in seen
    assert "File " not in seen


def test_names_aliases_and_parameters_are_completed_and_nothing_else(shell, built):
    def completed(line: str) -> list[str]:
        with provisionalcompleter():  # what the tabulator key of JupyterLab asks
            return [line[: c.start] + c.text for c in shell.Completer.completions(line, len(line))]

    assert completed("%mlops bu") == ["%mlops build"]
    assert completed("run = %mlops build to") == ["run = %mlops build toy"]
    assert completed("%mlops build toy --se") == ["%mlops build toy --seed", "%mlops build toy --search"]
    assert completed("%mlops build toy --auto_promote t") == ["%mlops build toy --auto_promote true"]
    assert completed("%mlops promote toy pro") == ["%mlops promote toy production"]
    assert completed("%mlops promote toy 1 --alias ca") == ["%mlops promote toy 1 --alias canary"]
    assert completed("%production t") == ["%production toy"]
    names = [line.removeprefix("%mlops build ") for line in completed("%mlops build ")]
    assert "toy" in names
    assert not {"and", "if", "print"} & set(names), "words of Python"
