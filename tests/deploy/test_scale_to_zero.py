"""serve/k8s-scale-to-zero: what it names exists in serve/k8s, and it renders."""

import shutil
import subprocess

import pytest
import yaml

from tests.deploy.test_manifests import of_kind
from tests.factories import ROOT

FOLDER = ROOT / "serve" / "k8s-scale-to-zero"


@pytest.fixture
def manifests() -> dict[str, dict]:
    return {m["kind"]: m for m in yaml.safe_load_all((FOLDER / "scaler.yaml").read_text())}


def test_scaler_names_the_service_and_the_deployment(manifests):
    target = manifests["InterceptorRoute"]["spec"]["target"]
    (service,) = [s for s in of_kind("Service") if s["metadata"]["name"] == target["service"]]
    assert target["portName"] in {port["name"] for port in service["spec"]["ports"]}
    scaled = manifests["ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"]["name"] in {d["metadata"]["name"] for d in of_kind("Deployment")}
    assert scaled["minReplicaCount"] == 0
    (trigger,) = scaled["triggers"]
    assert trigger["metadata"]["interceptorRoute"] == manifests["InterceptorRoute"]["metadata"]["name"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders the manifests")
def test_rendered_manifests_have_one_autoscaler_and_a_quick_probe():
    command = ["kubectl", "kustomize", str(FOLDER)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [m for m in yaml.safe_load_all(rendered) if m]
    kinds = [m["kind"] for m in found]
    assert "HorizontalPodAutoscaler" not in kinds
    assert kinds.count("ScaledObject") == 1
    (serve,) = [m for m in found if m["kind"] == "Deployment" and m["metadata"]["name"] == "mlops-serve"]
    (container,) = serve["spec"]["template"]["spec"]["containers"]
    assert container["startupProbe"] == {
        "httpGet": {"path": "/health/ready", "port": "http"},
        "periodSeconds": 1,
        "failureThreshold": 90,
    }
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
