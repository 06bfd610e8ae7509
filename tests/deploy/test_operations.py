"""What docs/operations.md says can be done, is done here; and it says something of every alert."""

import ast
import re
import time
from datetime import UTC, datetime
from functools import cache
from importlib import import_module

import pytest
import sqlalchemy as sa

from mlops_nb.monitor.prediction_log import PredictionLog, PredictionRecord
from mlops_nb.store.database import migrate, open_database
from tests.deploy.dockerfile import ROOT

TEXT = (ROOT / "docs" / "operations.md").read_text()


@cache
def kinds() -> set[str]:
    """Of all alerts that the code can open: the first argument of every `alerts.Finding`."""
    found = set()
    for path in (ROOT / "mlops_nb").rglob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").endswith("alerts")]
        if "Finding" not in {alias.name for n in imports for alias in n.names}:
            continue
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "Finding"]
        found |= {eval(ast.unparse(c.args[0]), vars(module)) for c in calls}  # a string or a constant of the module
    return found


@pytest.mark.slow
def test_it_says_what_to_do_for_every_kind_of_alert():
    assert {"drift", "performance", "latency"} <= kinds()
    assert set(re.findall(r"^### `(\w+)`", TEXT, re.MULTILINE)) == kinds()


def test_its_commands_and_settings_exist():
    from mlops_nb.cli.main import main
    from mlops_nb.settings import Settings

    known = {f"MLOPS_{name.upper()}" for name in Settings.__dataclass_fields__}
    assert set(re.findall(r"\bMLOPS_[A-Z_0-9]+", TEXT)) <= known
    for words in re.findall(r"`mlops-nb ([a-z ]+)", TEXT):
        first, *rest = words.split()
        command = main.commands[first]
        assert not rest or rest[0] in command.commands
    assert set(re.findall(r"\bmlops_[a-z]+_[a-z_]+", TEXT)) <= {*re.findall(r"\bmlops_\w+", _metrics())}


def _metrics() -> str:
    return (ROOT / "docs" / "service.md").read_text()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_log_works_in_partitions_which_end_a_day_at_once(database_url):
    engine = open_database(database_url)
    log = PredictionLog(engine)
    days = [datetime(2026, 5, day, 12, tzinfo=UTC).timestamp() for day in (30, 31)]
    days.append(datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp())
    log.add(predicted(days[0]))
    [statements] = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
    with engine.begin() as connection:
        connection.exec_driver_sql(statements)
    for at in (*days, *days):  # each twice: it is stored once
        log.add(predicted(at))
    assert len(log.read("toy")) == 3
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM predictions_20260601")).scalar() == 1
        connection.execute(sa.text("DROP TABLE predictions_20260601"))
    assert len(log.read("toy")) == 2
    migrate(engine)
    engine.dispose()


def predicted(at: float) -> list[PredictionRecord]:
    """A row with an id as the service makes them; the same for the same time."""
    id = f"{int(at * 1000):012x}{0:016x}"
    return [PredictionRecord(id, at, "toy", 1, "production", 1.0, ["a"], [[1.0]], [1])]


def test_ids_begin_with_their_time():
    from mlops_nb.serving.http.request_id import make_id

    assert abs(int(make_id()[:12], 16) / 1000 - time.time()) < 60
