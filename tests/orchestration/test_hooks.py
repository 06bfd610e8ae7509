"""What a build does to its process."""

import atexit
import gc

import pytest

from mlops_nb.errors import SpecError
from mlops_nb.orchestration import hooks


def test_interpreter_that_ends_looks_for_no_garbage_however_often_a_pipeline_was_rendered(monkeypatch):
    registered = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(atexit, "unregister", lambda function: registered.remove(function) if registered else None)
    hooks._prepare({})
    hooks._prepare({})
    assert registered == [gc.freeze]


def test_garbage_collector_waits_while_a_spec_is_imported(tmp_path, monkeypatch):
    (tmp_path / "spec_that_looks.py").write_text("import gc\n\nraise ValueError(gc.isenabled())\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match="ValueError: False"):
        hooks.data_fingerprint("spec_that_looks")
    assert gc.isenabled()
