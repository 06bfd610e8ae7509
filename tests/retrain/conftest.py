"""Retrainings in the process of a test, without W&B: tests/store reads back what a retraining writes there."""

import pytest


@pytest.fixture(autouse=True)
def without_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
