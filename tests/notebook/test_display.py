"""In a notebook, what people work with shows itself as tables, not as <object at 0x...>."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from mlops_nb.model.evaluate import Evaluation
from mlops_nb.model.gates import GateResult
from mlops_nb.monitor.report import plot_traffic
from mlops_nb.store.database import open_database
from mlops_nb.store.git import GitState
from mlops_nb.store.registry import Registry
from mlops_nb.store.runs import Differences, RunStore
from tests.factories import package


def tables(value) -> list[list[list[str]]]:
    """The cells of the tables that a value shows, the header first."""
    found = BeautifulSoup(value._repr_html_(), "html.parser").find_all("table")
    return [[[c.get_text() for c in row.find_all(["th", "td"])] for row in table.find_all("tr")] for table in found]


@pytest.fixture
def evaluation():
    gate = GateResult("minimum", "accuracy", 0.9, 0.8, True)
    return Evaluation(
        {"accuracy": 0.9}, {"accuracy": 0.5}, {"accuracy": 0.91}, 3, {"all": {"rows": 5, "accuracy": 0.9}}, [gate]
    )


def test_evaluation_shows_metrics_gates_and_slices(evaluation):
    gates, metrics, slices = tables(evaluation)
    assert gates[-1] == ["✓ passed", "minimum", "accuracy", "0.9", "0.8"]
    assert metrics[0][-1] == "champion (version 3)"
    assert metrics[-1] == ["accuracy", "0.9", "0.5", "0.91"]
    assert slices[-1] == ["all", "5", "", "0.9"], "a bar of the first metric"


@pytest.mark.slow
def test_bundle_shows_facts_metrics_and_inputs(tmp_path):
    facts, metrics, inputs = tables(package(tmp_path / "toy", 1.0))
    assert ["seed", "0"] in facts
    assert metrics[-1] == ["accuracy", "0.9"]
    assert [row[0] for row in inputs] == ["name", "a", "b"]


@pytest.mark.slow
def test_registry_and_runs_show_what_they_hold_also_when_they_hold_nothing(tmp_path):
    registry, store = Registry(open_database(f"sqlite:///{tmp_path}/x.db"), tmp_path), RunStore(tmp_path / "runs")
    assert "version" in tables(registry)[0][0]
    assert "model" in tables(store)[0][0]
    assert "0 models" in registry._repr_html_()
    registry.register(package(tmp_path / "toy", 1.0))
    registry.promote("toy", 1)
    assert tables(registry)[0][1][:3] == ["toy", "1", "production"]
    store.new().start("toy", GitState(None, None, False, "", ()))
    assert tables(store)[0][1][1] == "toy"
    registry.close()


def test_comparison_is_a_table_or_says_that_nothing_differs():
    assert tables(Differences({"params.C": (0.1, 1.0)}))[0][1] == ["params.C", "0.1", "1.0"]
    assert Differences()._repr_html_() == "<p>Nothing differs.</p>"


def test_markup_in_a_value_is_shown_and_not_run():
    html = Differences({"source": ("<script>alert(1)</script>", "x")})._repr_html_()
    assert "<script>" not in html


def test_minute_with_errors_before_hours_without_a_request_is_drawn_as_one_minute():
    at = pd.DatetimeIndex(["2026-05-01 10:00", "2026-05-01 10:01", "2026-05-01 12:30", "2026-05-01 12:31"], tz="UTC")
    requests = pd.DataFrame({200: 20, 422: [0, 0, 0, 3], 503: [0, 12, 0, 0]}, index=at)
    refused, failed = plot_traffic(pd.DataFrame({"at": at, "latency_ms": 1.0}), requests).axes[-1].lines
    minutes = [f"{m:%H:%M}" for m in failed.get_xdata()]
    assert minutes == ["10:00", "10:01", "10:02", "12:30", "12:31", "12:32"], "those where it changes, however long"
    assert failed.get_ydata().tolist() == [0, 12, 0, 0, 0, 0]
    assert refused.get_ydata().tolist() == [0, 0, 0, 0, 3, 0]
