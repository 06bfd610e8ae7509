"""Labels: of rows that were predicted, in the form that a table or a program has them."""

import pytest

from mlops_nb.data.dialect import Dialect
from mlops_nb.errors import InputError
from mlops_nb.model.signature import Signature
from mlops_nb.serving.protocols.feedback import _read_value
from tests.factories import logged


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_label_of_a_row_that_never_was_is_refused(client, app, rows):
    ids = client.post("/predict", json={"features": [[1, 0]] * rows}).get_json()["ids"]
    key = ids[0].rpartition("-")[0]
    for number, status in ((0, 202), (rows - 1, 202), (rows, 400), (rows + 7, 400), (999_999, 400)):
        response = client.post("/feedback", json={"id": f"{key}-{number}", "label": 1})
        assert response.status_code == status, response.text
        assert status == 202 or f"there is no row {number}: its request had {rows} row" in response.get_json()["error"]
    earlier = client.post("/feedback", json={"id": f"{key[:28]}-{rows}", "label": 1})
    assert earlier.status_code == 202, "ids of an earlier release have no number of rows"
    assert logged(app).predictions["label"].notna().sum() == min(rows, 2)


def test_row_that_its_request_refused_has_no_label(client):
    body = {"features": [[1, 0], [1, "x"]], "on_error": "row"}
    id, refused = client.post("/predict", json=body).get_json()["ids"]
    assert refused is None
    assert client.post("/feedback", json={"id": f"{id[:-1]}1", "label": 1}).status_code == 400


@pytest.mark.parametrize("dialect", [None, Dialect(), Dialect(true=("ja",), false=("nein",))])
@pytest.mark.parametrize("label", [True, False])
def test_label_of_a_boolean_may_be_a_text_as_tables_have_it(dialect, label):
    signature = Signature((), "classification", "paid", (False, True), dialect=dialect)
    word = (dialect or Dialect()).true[0] if label else (dialect or Dialect()).false[0]
    for given in (label, word, word.upper(), f" {word.title()} "):
        assert _read_value("Label 0", 0, given, signature) is label
    for given in (1, 0, "maybe", "", None):
        with pytest.raises(InputError, match=r"expected one of \[false, true\], got "):
            _read_value("Label 0", 0, given, signature)


def test_texts_are_labels_of_their_own_where_the_model_has_such():
    signature = Signature((), "classification", "paid", ("True", "true"))
    assert _read_value("Label 0", 0, "true", signature) == "true"
