"""What `mlops-nb new` reads of a table and decides, without its trials, and the rows that a model is trained on."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandera.pandas as pa
from pandera.engines.pandas_engine import DateTime

from mlops_nb.data.column_summary import ColumnSummary
from mlops_nb.data.dialect import Dialect
from mlops_nb.data.explore import TableSummary, explore, usable_rows
from mlops_nb.data.number_format import NumberFormat
from mlops_nb.data.tables import DIALECT, load_table, read_table, validate
from mlops_nb.model.columns import rows_of, to_table
from mlops_nb.model.signature import Signature, make_signature
from mlops_nb.project.spec_code import schema_code
from mlops_nb.project.table_formats import in_own_formats
from mlops_nb.project.table_source import open_table


@dataclass(frozen=True)
class Drafted:
    """The summary of a table, what its texts became, and its rows as in training."""

    summary: TableSummary
    conversions: tuple[str, ...]
    signature: Signature
    rows: dict[int, list]  # by their number in the table

    def __getitem__(self, name: str) -> ColumnSummary:
        return next(c for c in self.summary.columns if c.name == name)


def draft(data: str, target: str, keep: bool = False) -> Drafted:
    """Read a table as the project made of it does."""
    table = in_own_formats(open_table(data), target=None if keep else target)
    summary = explore(table.frame, target)
    names = {"pa": pa, "DateTime": DateTime, "Dialect": Dialect, "NumberFormat": NumberFormat}
    exec(schema_code(summary), names)  # as in the project's notebook
    declared = eval(table.source.dialect, names) if table.source.dialect else None
    read = load_table(partial(read_table, data, dialect=declared))
    found = Dialect.from_dict(read.attrs.get(DIALECT, {}))
    dialect = replace(declared, texts=found.texts, codes=found.codes) if declared else found
    inputs = [c.name for c in summary.used]
    left_out = [c.name for c in summary.columns if c.name not in inputs] + [target]
    schema = names["schema"]
    signature = make_signature(schema, inputs, target, summary.target.task, ignored=left_out, dialect=dialect)
    checked = validate(usable_rows(read, summary.target), schema, dialect=declared)
    numbers = np.flatnonzero(read[target].notna() & ~read[target].isin(summary.target.rare)).tolist()
    return Drafted(
        summary,
        table.source.conversions,
        signature,
        dict(zip(numbers, rows_of(signature, to_table(signature, checked)), strict=True)),
    )
