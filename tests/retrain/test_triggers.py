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
    health = SimpleNamespace(performance=None, findings=findings, evaluated=evaluated, inconclusive=[], cause=None)
    assert [reason.split()[0] for reason in reasons_to_retrain(health)] == expected


def test_root_cause_is_a_reason_beside_findings_only():
    health = SimpleNamespace(performance=None, findings=[], evaluated=[], inconclusive=[], cause="other labels")
    assert reasons_to_retrain(health) == []
    health.findings = [Finding("drift", "x", 1.0, "as it should not be")]
    expected = ["drift of x: as it should not be", "root cause: other labels"]
    assert reasons_to_retrain(health) == expected
