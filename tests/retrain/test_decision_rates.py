"""How often a retraining decides rightly, at a size that fits CI; benchmarks.decisions has more."""

import pytest

from benchmarks.decisions import retrained


@pytest.mark.slow
def test_retraining_is_refused_in_an_unchanged_world_and_promoted_in_a_changed_one():
    assert sum(retrained(seed, 0.0) == "better" for seed in range(40)) <= 2
    assert sum(retrained(seed, 1.0) == "better" for seed in range(40)) >= 38
