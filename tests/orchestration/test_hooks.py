"""What a build does to its process."""

import atexit
import gc

from mlops_nb.orchestration import hooks


def test_interpreter_that_ends_looks_for_no_garbage_however_often_a_pipeline_was_rendered(monkeypatch):
    registered = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(atexit, "unregister", lambda function: registered.remove(function) if registered else None)
    hooks._prepare({})
    hooks._prepare({})
    assert registered == [gc.freeze]
