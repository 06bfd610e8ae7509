"""Random tables, read without a model: what training reads, and every raw row as text, JSON and typed JSON, agree."""

import json
from dataclasses import replace

import pandera.pandas as pa
import pytest
from pandera.engines.pandas_engine import DateTime

from mlops_nb.data.dialect import Dialect
from mlops_nb.data.explore import explore, usable_rows
from mlops_nb.data.number_format import NumberFormat
from mlops_nb.data.tables import DIALECT, read_table, validate
from mlops_nb.model.columns import rows_of, to_table
from mlops_nb.model.parser import InputParser
from mlops_nb.model.signature import make_signature
from mlops_nb.project.spec_code import schema_code
from mlops_nb.project.table_formats import in_own_formats
from mlops_nb.project.table_source import open_table
from tests.model.ways import in_a_job, one_by_one
from tests.new.random_tables import random_table

FEW = 40  # rows that are sent one by one


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 108))
def test_raw_rows_of_a_random_table_are_read_as_in_training(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, rows, text = random_table(tmp_path, seed)
    table = in_own_formats(open_table(given.data))
    summary = explore(table.frame, given.target)
    names = {"pa": pa, "DateTime": DateTime, "Dialect": Dialect, "NumberFormat": NumberFormat}
    exec(schema_code(summary), names)  # as in the project's notebook
    declared = eval(table.source.dialect, names) if table.source.dialect else None
    read = read_table(given.data, dialect=declared)
    found = Dialect.from_dict(read.attrs.get(DIALECT, {}))
    dialect = replace(declared, texts=found.texts) if declared else found
    schema = names["schema"]
    inputs = [c.name for c in summary.used]
    left_out = [c.name for c in summary.columns if c.name not in inputs] + [given.target]
    task = summary.target.task
    signature = make_signature(schema, inputs, given.target, task, ignored=left_out, dialect=dialect)
    checked = validate(usable_rows(read, summary.target), schema, dialect=declared)
    trained = dict(enumerate(rows_of(signature, to_table(signature, checked))))
    assert len(trained) == len(rows)
    typed = json.loads(json.dumps([dict(zip(signature.names, row, strict=True)) for row in trained.values()]))
    some = {number: trained[number] for number in range(FEW)}
    for sent in (rows, typed):
        assert dict(enumerate(rows_of(signature, InputParser(signature).parse(sent)))) == trained
        assert one_by_one(signature, sent[:FEW]) == (some, {})
    assert in_a_job(signature, text, tmp_path, chunk_rows=64) == (trained, {})
