"""docs/estimators.md says what each kind of estimator can: every cell is measured."""

import pytest

from tests.factories import optional
from tests.model.estimator_table import COLUMNS, KINDS, PAGE, measured_row, table_rows

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", KINDS)
def test_row_of_the_page_is_what_is_measured(name, tmp_path):
    if KINDS[name].library:
        optional(KINDS[name].library)
    assert measured_row(name, tmp_path) == table_rows(PAGE.read_text())[name], (
        "python -m tests.model.estimator_table writes the table anew; read what changed"
    )


def test_page_has_the_rows_and_columns_that_are_measured():
    page = PAGE.read_text()
    assert list(table_rows(page)) == list(KINDS)
    assert "| kind | " + " | ".join(COLUMNS) + " |" in page
