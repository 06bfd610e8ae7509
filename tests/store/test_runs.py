"""Records of runs: whole after a crash, without secrets, true about the code."""

import html
import json
import os
import subprocess
import sys

import nbformat
import pytest
from nbformat import v4

from mlops_nb.errors import NotFoundError
from mlops_nb.orchestration.products import redact_notebooks
from mlops_nb.store.git import GitState, git_state
from mlops_nb.store.privacy import REDACTED, redact, secret_values
from mlops_nb.store.runs import Run, RunStore
from mlops_nb.store.wandb import log_to_wandb

CLEAN = GitState("a" * 40, "main", False, "", ())


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def test_store_that_does_not_exist_yet_has_no_runs(store):
    assert store.list() == []
    with pytest.raises(NotFoundError, match=r"There is no run 'x'\. There is none yet"):
        store.get("x")


def test_beginning_of_an_id_is_enough_when_it_is_clear(store):
    runs = [store.new() for _ in range(2)]
    for run in runs:
        run.start("toy", CLEAN, spec="toy")
    assert store.get(runs[0].id).id == runs[0].id
    with pytest.raises(NotFoundError, match="2 runs begin with '20"):
        store.get("20")


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "*", "run.json"])
def test_run_id_cannot_leave_the_store(store, name):
    run = store.new()
    run.start("toy", CLEAN, spec="toy")
    with pytest.raises(NotFoundError, match="There is no run"):
        store.get(name)


def test_crash_while_writing_leaves_the_last_whole_record(store, monkeypatch):
    from pathlib import Path

    run = store.new()
    run.start("toy", CLEAN, spec="toy", seed=1)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run.update(seed=2)
    monkeypatch.undo()
    assert run.record["seed"] == 1


HOLDER = """
import sys
from pathlib import Path
from mlops_nb.store.git import GitState
from mlops_nb.store.runs import Run
Run(Path(sys.argv[1])).start("toy", GitState(None, None, False, "", ()), spec="toy", products="products/toy")
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(store):
    """A build in a process of its own, and its run."""
    run = store.new()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    yield run, process
    process.kill()
    process.communicate()


def test_run_whose_process_was_killed_is_interrupted_for_readers_and_then_in_its_record(store, other):
    run, process = other
    written = run.folder / "run.json"
    assert store.list()[0]["state"] == "running"
    store.close_interrupted("products/other")
    assert store.list()[0]["state"] == "running"
    process.kill()
    process.wait()
    before = written.read_bytes()
    assert [store.list()[0]["state"], store.get(run.id).record["error"]] == [
        "interrupted",
        "The process of the build is gone.",
    ]
    assert written.read_bytes() == before
    store.close_interrupted("products/other")
    assert json.loads(written.read_text())["state"] == "interrupted"
    assert json.loads(written.read_text())["ended"]


def test_number_of_a_process_that_another_has_now_keeps_no_run_alive(store, other):
    run, process = other
    process.kill()
    process.wait()
    run.update(state="running", pid=os.getppid())  # an unrelated process that lives
    assert run.record["state"] == "interrupted"


def test_run_of_another_host_is_left_alone_unless_its_products_are_free(store, other):
    run, process = other
    run.update(host="elsewhere")
    process.kill()
    process.wait()
    assert run.record["state"] == "running"
    store.close_interrupted("products/other")
    assert run.record["state"] == "running"
    store.close_interrupted("products/toy")
    assert run.record["state"] == "interrupted"


def test_run_of_an_earlier_release_lives_as_long_as_its_process(store):
    sleeper = subprocess.Popen(["sleep", "60"])
    run = store.new()
    run.update(id=run.id, model="toy", state="running", pid=sleeper.pid, attempts=1)
    assert run.record["state"] == "running"
    sleeper.kill()
    sleeper.wait()
    assert run.record["state"] == "interrupted"


def test_ended_run_is_what_it_was(store):
    for state in ("finished", "failed", "interrupted"):
        run = store.new()
        run.start("toy", CLEAN, products="products/toy")
        run.finish(state)
        before = (run.folder / "run.json").read_bytes()
        store.close_interrupted("products/toy")
        assert run.record["state"] == state
        assert (run.folder / "run.json").read_bytes() == before
        assert [p.name for p in run.folder.iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\xff\xfe", b"null"])
def test_record_that_cannot_be_read_hides_no_other_run(store, content):
    whole, broken = store.new(), store.new()
    whole.start("toy", CLEAN)
    whole.finish()
    broken.folder.mkdir()
    (broken.folder / "run.json").write_bytes(content)
    assert [r["state"] for r in store.list()] == ["unreadable", "finished"]
    assert [r["state"] for r in store.list("toy")] == ["finished"]


def test_secrets_are_blacked_out_wherever_they_stand(store, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("DATABASE_URL", "postgresql://ada:pa55word@db/x")
    run = store.new()
    run.start(
        "toy", GitState("a" * 40, "main", True, "+key = '0123456789abcdef'", ()), spec="toy", params={"u": ["pa55word"]}
    )
    run.finish("failed", error="cannot connect to postgresql://ada:pa55word@db/x")
    text = "".join(p.read_text() for p in run.folder.iterdir())
    assert "0123456789abcdef" not in text
    assert "pa55word" not in text
    assert "[secret]" in text


def test_harmless_values_are_left_alone(monkeypatch, tmp_path):
    environ = {"SSH_AUTH_SOCK": str(tmp_path), "KEYBOARD": "de", "TOKENIZERS_PARALLELISM": "false", "AUTH_PORT": "5432"}
    assert secret_values(environ) == []
    assert redact("false 5432", environ) == "false 5432"


def test_secret_longer_than_a_file_name_is_blacked_out():
    assert redact(f"bearer {'x' * 5000}", {"API_TOKEN": "x" * 5000}) == "bearer [secret]"


def test_notebooks_are_kept_without_secrets(store, tmp_path, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "token-of-the-team")
    (tmp_path / "a.ipynb").write_text(json.dumps({"output": "token-of-the-team"}))
    run = Run(store.folder / "r")
    run.save_notebooks([tmp_path / "a.ipynb", tmp_path / "absent.ipynb"])
    assert [p.name for p in (run.folder / "notebooks").iterdir()] == ["a.ipynb"]
    assert "token-of-the-team" not in (run.folder / "notebooks/a.ipynb").read_text()


PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----"
ACCOUNT = json.dumps({"type": "service_account", "private_key": PEM + "\n"}, indent=2)


@pytest.mark.parametrize("secret", ['p"ss\\word9', "geheim-für-'alle'", "fish&chips<3", PEM, ACCOUNT])
def test_secret_is_found_however_python_json_and_notebooks_write_it(store, tmp_path, monkeypatch, secret):
    monkeypatch.setenv("DB_PASSWORD", secret)
    shown = {"text/plain": repr(secret), "text/html": f"<td>{html.escape(secret, quote=False)}</td>"}
    outputs = [v4.new_output("stream", text=f"{text}\n") for text in (secret, json.dumps(secret), repr([secret]))]
    outputs += [v4.new_output("display_data", data=shown), v4.new_output("error", traceback=[f"E: {secret}"])]
    notebook = v4.new_notebook(cells=[v4.new_code_cell("1", outputs=outputs)])
    (tmp_path / "ascii.ipynb").write_text(json.dumps(notebook))
    nbformat.write(notebook, tmp_path / "ingest.ipynb")
    run = Run(store.folder / "r")
    run.save_notebooks(tmp_path.glob("*.ipynb"))
    redact_notebooks(tmp_path)
    monkeypatch.delenv("DB_PASSWORD")
    for path in (*tmp_path.glob("*.ipynb"), *run.folder.glob("notebooks/*.ipynb")):
        shown = "".join(str(value) for output in nbformat.read(path, 4).cells[0].outputs for value in output.values())
        assert shown.count(REDACTED) >= 6
        for part in ("ss", "geheim", "für", "chips", "MIIEv", "AQEFA", "service_account"):
            assert part not in shown or part not in secret, shown


@pytest.mark.parametrize("name", ["MYSQL_PWD", "DB_PASS", "DBPASS", "PASS_2", "GPG_PASSPHRASE", "PGPASSWORD"])
def test_passwords_have_many_names(name):
    assert redact("log in with tiger99!", {name: "tiger99!"}) == "log in with [secret]"


@pytest.mark.parametrize("name", ["PWD", "OLDPWD", "PATH", "PASSENGER_APP_ENV"])
def test_names_that_only_sound_like_passwords_hide_nothing(name):
    assert secret_values({name: "/a/folder/that/is/gone"}) == []


def test_code_outside_a_repository_or_without_git_has_no_commit(tmp_path, monkeypatch):
    assert git_state(tmp_path).commit is None
    monkeypatch.setenv("PATH", os.devnull)
    assert git_state(tmp_path) == GitState(None, None, False, "", ())


def test_kept_diff_applies_to_the_commit_whatever_git_is_configured_to_print(store, tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*command):
        author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", "-C", folder, *author, *command], check=True, capture_output=True)

    git("init")
    git("config", "diff.noprefix", "true")
    (folder / "a.py").write_text("a = 1\n\n\n\nb = 1\n")
    (folder / "b.bin").write_bytes(bytes(range(256)))
    git("add", "-A")
    git("commit", "-m", "first")
    (folder / "a.py").write_text("a = 2\n\n\n\nb = 1\n")  # The last line of the diff is an empty line of its context
    (folder / "b.bin").write_bytes(bytes(range(255, -1, -1)))
    run = store.new()
    run.start("toy", git_state(folder), spec="toy")
    git("stash")
    git("apply", str(run.folder / "diff.patch"))
    assert (folder / "a.py").read_text() == "a = 2\n\n\n\nb = 1\n"
    assert (folder / "b.bin").read_bytes() == bytes(range(255, -1, -1))


@pytest.mark.slow
def test_wandb_gets_the_decision_about_a_retraining_and_leaves_no_process(store, monkeypatch):
    import psutil

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = store.new()
    run.start("toy", CLEAN, spec="toy")
    decision = {"action": "promoted", "reasons": ["all 3 gates passed", "drift of age: younger"], "champion": 1}
    run.finish(metrics={"accuracy": 0.9}, version=2, decision=decision)
    assert log_to_wandb(run, "a-project") is None
    content = next(store.folder.glob(f"wandb/offline-run-*-{run.id}/*.wandb")).read_bytes()
    for word in (b"retrain", b"promoted", b"all 3 gates passed\ndrift of age: younger"):
        assert word in content
    assert not [p for p in psutil.Process().children(recursive=True) if "wandb" in p.name()]


def test_wandb_that_is_disabled_is_not_even_loaded(store, monkeypatch):
    run = store.new()
    run.start("toy", CLEAN, spec="toy")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert log_to_wandb(run, "a-project") is None
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert log_to_wandb(run, "a-project").startswith("ModuleNotFoundError")
