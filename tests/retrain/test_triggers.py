"""Findings that a new version may mend."""

from types import SimpleNamespace

import pytest

from mlops_nb.monitor.alerts import Finding
from mlops_nb.retrain.triggers import reasons_to_retrain

KINDS = ("drift", "alarms", "latency")


@pytest.mark.parametrize(
    ("evaluated", "expected"), [([], ["drift", "alarms"]), ([("performance", "roc_auc")], ["alarms"])]
)
def test_stable_metrics_excuse_drift_and_no_wrong_alarm_rate(evaluated, expected):
    findings = [Finding(kind, "x", 1.0, "as it should not be") for kind in KINDS]
    health = SimpleNamespace(findings=findings, evaluated=evaluated, inconclusive=[])
    assert [reason.split()[0] for reason in reasons_to_retrain(health)] == expected
