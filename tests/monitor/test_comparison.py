"""The number that gained the largest share of rows is found among all of them."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.model.profile import profile_numbers
from mlops_nb.monitor.comparison import _name_number, compare_column

NUMBERS = st.lists(
    st.one_of(
        st.integers(-3, 3).map(float), st.floats(-9, 9).map(lambda x: round(x, 1)), st.sampled_from([-0.0, np.inf])
    ),
    min_size=1,
    max_size=60,
)
REFERENCE = st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).normal(0, 3, 60).round(seed % 3))


@given(REFERENCE, NUMBERS)
def test_number_that_gained_most_is_the_one_of_a_plain_count(reference, window):
    profile = profile_numbers(pd.Series(reference))
    if "grid" not in profile:  # few different values: all are compared
        return
    compared, _ = compare_column(profile, pd.Series(window))
    found = next(c for c in compared if c.part == "one value")
    values, counts = np.unique(np.array(window) + 0.0, return_counts=True)
    known = [_known(profile, value) for value in values]
    gains = counts / len(window) - np.array(known) / len(reference)
    best = int(gains.argmax())
    assert _name_number(profile, values[best]) in found.sentence
    assert found.histogram["window"][0] == counts[best] / len(window)


def _known(profile: dict, value: float) -> int:
    """The most rows of the reference that can have had a value, one by one."""
    points, below, upto = (profile["grid"][name] for name in ("points", "below", "upto"))
    if value in points:
        i = points.index(value)
        return upto[i] - below[i]
    left = max((upto[i] for i, p in enumerate(points) if p < value), default=0)
    right = min((below[i] for i, p in enumerate(points) if p > value), default=profile["rows"])
    return right - left
