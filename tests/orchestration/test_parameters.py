"""Values of the pipeline's parameters are checked before the first task."""

import pytest

from mlops_nb.errors import PipelineError
from mlops_nb.orchestration.parameters import check_values

LEGAL = {
    "auto_promote": [True, False],
    "seed": [0, 1, 2**31],
    "folds": [0, 2, 5],
    "test_size": [0.01, 0.2, 0.99],
    "params": [None, {}, {"C": 1}],
    "search": [None, {"C": [1]}],
    "champion": [None, "production", "staging", "mine"],
    "rows": [None, 1],
    "source": [None, "a.csv"],
    "max_rejects": [0, 0.5, 1],
}
ILLEGAL = {
    "auto_promote": ["no", "off", "flase", "yes", 0, 1, None, "True"],
    "strict_gates": ["no", None],
    "seed": [-1, 0.5, "1", True, None],
    "folds": [1, -5, 2.0, "five", True, None],
    "test_size": [0, 1, 20, -0.2, "0.2", True, None, float("nan")],
    "params": ["C=5", [1], 0],
    "search": ["C", [1]],
    "champion": ["prodution", "", 1, True],
    "rows": [0, -1, 1.5, "all"],
    "source": ["", 5],
    "max_rejects": [-0.1, 1.1, "none"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in LEGAL for value in LEGAL[name]])
def test_legal_value_is_taken(name, value):
    check_values({name: value}, aliases=["mine"])


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in ILLEGAL for value in ILLEGAL[name]])
def test_value_that_a_parameter_cannot_have_is_named(name, value):
    with pytest.raises(PipelineError, match=name if name != "champion" else "champion|There is no alias"):
        check_values({name: value}, aliases=["mine"])
