"""Random tables, read without a model: what training reads, and every raw row as text, JSON and typed JSON, agree."""

import json

import pytest

from mlops_nb.model.columns import rows_of
from mlops_nb.model.parser import InputParser
from tests.model.ways import in_a_job, one_by_one
from tests.new.drafted import draft
from tests.new.random_tables import random_table

FEW = 40  # rows that are sent one by one


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 108))
def test_raw_rows_of_a_random_table_are_read_as_in_training(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, rows, text = random_table(tmp_path, seed)
    drafted = draft(given.data, given.target)
    trained, signature = drafted.rows, drafted.signature
    assert len(trained) == len(rows)
    typed = json.loads(json.dumps([dict(zip(signature.names, row, strict=True)) for row in trained.values()]))
    some = {number: trained[number] for number in range(FEW)}
    for sent in (rows, typed):
        assert dict(enumerate(rows_of(signature, InputParser(signature).parse(sent)))) == trained
        assert one_by_one(signature, sent[:FEW]) == (some, {})
    assert in_a_job(signature, text, tmp_path, chunk_rows=64) == (trained, {})
