"""A word for a missing value in a column of texts: read alike from the file of a model and from every request."""

import pandas as pd
import pandera.pandas as pa
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier

from mlops_nb.data.dialect import NA_VALUES, Dialect
from mlops_nb.data.tables import DIALECT, dialect_of, load_table, read_table
from mlops_nb.errors import InputError
from mlops_nb.model.parser import InputParser
from mlops_nb.model.signature import Signature, signature_of
from mlops_nb.spec import ModelSpec

COUNTRY, CITY = pa.Column(str, nullable=True, required=False), pa.Column(str)
SCHEMA = pa.DataFrameSchema({"country": COUNTRY, "city": CITY, "y": pa.Column(int)})


def signature(table: pd.DataFrame, **of_spec) -> Signature:
    spec = ModelSpec("places", lambda: table, "y", SCHEMA, lambda _: DummyClassifier(), **of_spec)
    return signature_of(spec, DummyClassifier().fit([[0], [1]], [0, 1]), dialect_of(table).get(DIALECT, {}))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    rows = [("NA", "Rundu", 0), ("AO", "Luanda", 1), ("None", "Bern", 1)]
    table = pd.DataFrame(rows, columns=["country", "city", "y"])
    table.to_csv(folder / "places.csv", index=False)
    table.to_excel(folder / "places.xlsx", index=False)
    table.to_parquet(folder / "places.parquet", index=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "is_missing"), [("places.csv", True), ("places.xlsx", True), ("places.parquet", False)]
)
@given(word=st.sampled_from(NA_VALUES) | st.text(max_size=3), as_rows=st.integers(1, 40))
def test_word_is_missing_in_requests_if_it_was_in_the_table(files, name, is_missing, word, as_rows):
    table = load_table(str(files / name), None, SCHEMA)
    assert table["country"].isna().tolist() == [is_missing, False, is_missing]
    parser = InputParser(signature(table))
    expected = None if is_missing and word in NA_VALUES else word
    rows = [[word, "Bern"]] * as_rows
    columns = pyarrow.table({"country": [word] * as_rows, "city": ["Bern"] * as_rows})
    objects = [{"country": word, "city": "Bern"}] * as_rows
    for parsed in map(parser.parse, (rows, objects, columns)):
        assert parsed["country"].tolist() == [expected] * as_rows


def test_column_that_must_have_a_value_keeps_every_text(files):
    parser = InputParser(signature(load_table(str(files / "places.csv"), None, SCHEMA)))
    assert parser.parse([["AO", "None"]])["city"].tolist() == ["None"]
    with pytest.raises(InputError, match="got null"):
        parser.parse([["AO", None]])


def test_word_that_the_load_function_put_in_for_a_missing_value_is_a_value(files):
    table = read_table(files / "places.csv").fillna({"country": "None"})
    assert InputParser(signature(table)).parse([["None", "Bern"]])["country"].tolist() == ["None"]


def test_dialect_of_the_spec_knows_the_columns_of_the_file(files):
    own = Dialect(spellings={"country": ["Angola"]})
    table = load_table(str(files / "places.csv"), None, SCHEMA, own)
    parsed = InputParser(signature(table, dialect=own)).parse([["NA", "Bern"], [" angola", "Bern"]])
    assert parsed["country"].tolist() == [None, "Angola"]


def test_signature_of_an_earlier_release_reads_texts_as_before():
    old = signature(pd.DataFrame({"country": ["NA"], "city": ["Bern"], "y": [1]}))
    assert Signature.from_dict(old.to_dict()) == old
    assert "texts" not in old.to_dict()["dialect"]
    assert InputParser(old).parse([["NA", "Bern"]])["country"].tolist() == ["NA"]
