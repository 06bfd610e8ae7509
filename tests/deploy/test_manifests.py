"""serve/k8s against the schemas of Kubernetes, and against the application: whatever a manifest names exists."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from runpy import run_path

import click
import kubernetes_validate
import pytest
import yaml

from mlops_nb.cli.main import main
from mlops_nb.settings import Settings
from serve.app import create_app
from tests.deploy.dockerfile import ROOT, Stages

FOLDER = ROOT / "serve" / "k8s"
VERSIONS = ("1.30", "1.37")  # The oldest and the newest that the schemas are there for
NOT_OURS = {"PLOOMBER_STATS_ENABLED", "WANDB_MODE", "WANDB_API_KEY", "OMP_NUM_THREADS", "HOME"}
IMAGES = {"mlops-serve": "serve", "mlops-pipeline": "pipeline"}  # An image to the stage of serve/Dockerfile


def manifests() -> list[dict]:
    files = sorted(p for p in FOLDER.glob("*.yaml") if p.name != "kustomization.yaml")
    return [m for path in files for m in yaml.safe_load_all(path.read_text())]


def pods() -> Iterator[tuple[str, dict]]:
    """The name of what makes a pod, and the pod's spec."""
    for m in manifests():
        spec = m["spec"]["jobTemplate"]["spec"] if m["kind"] == "CronJob" else m.get("spec", {})
        if "template" in spec:
            yield m["metadata"]["name"], spec["template"]["spec"]


def containers() -> Iterator[tuple[str, dict]]:
    for name, pod in pods():
        for container in pod["containers"]:
            yield name, container


def of_kind(kind: str) -> list[dict]:
    return [m for m in manifests() if m["kind"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_what_kubernetes_takes(version):
    kinds = set()
    for manifest in manifests():
        kubernetes_validate.validate(manifest, version, strict=True)
        kinds.add(manifest["kind"])
    required = {"Deployment", "HorizontalPodAutoscaler", "Service", "PodDisruptionBudget", "NetworkPolicy", "CronJob"}
    assert required <= kinds
    wrong = of_kind("Deployment")[0]
    wrong["spec"]["template"]["spec"]["containers"][0]["port"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="Additional properties are not allowed"):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_kustomization_names_every_file_and_every_image():
    body = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert set(body["resources"]) == {p.name for p in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert {i["name"] for i in body["images"]} == {c["image"] for _, c in containers()}
    assert {*IMAGES.values()} <= set(Stages().of)
    assert {c["image"] for _, c in containers()} <= IMAGES.keys()


def variables() -> Iterator[tuple[str, str | None]]:
    """Environment variables of the manifests, with their values where they are not in a Secret."""
    for config in of_kind("ConfigMap"):
        yield from config["data"].items()
    for _, container in containers():
        for one in container.get("env", []):
            yield one["name"], one.get("value")


def test_every_variable_is_a_setting_with_a_value_that_it_can_have():
    named = dict(variables())
    ours = {n: v for n, v in named.items() if n not in NOT_OURS}
    Settings.read({n: "x" * 16 if v is None else v for n, v in ours.items()})
    assert all(n.startswith("MLOPS_") for n in ours)
    secret = {n for n in named if named[n] is None}
    assert secret
    assert not any(n in secret for n in of_kind("ConfigMap")[0]["data"])
    hidden = {f"MLOPS_{f.upper()}" for f, d in Settings.__dataclass_fields__.items() if not d.repr}
    assert not {n for n, v in named.items() if n in hidden and v is not None}, "a secret is in a manifest"


@pytest.mark.slow
def test_what_is_referred_to_exists():
    config = {m["metadata"]["name"] for m in of_kind("ConfigMap")}
    claims = {m["metadata"]["name"] for m in of_kind("PersistentVolumeClaim")}
    notes = (FOLDER / "config.yaml").read_text()
    for _, pod in pods():
        volumes = {v["name"] for v in pod["volumes"]}
        assert {
            v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v
        } <= claims
        for container in pod["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} <= volumes
            assert {r["configMapRef"]["name"] for r in container["envFrom"]} <= config
            for one in container["env"]:
                if "valueFrom" in one:
                    ref = one["valueFrom"]["secretKeyRef"]
                    result = rf"create secret generic {ref['name']} .*--from-literal={ref['key']}="
                    assert re.search(result, notes), "it says how to make each Secret"
    labels = {m["metadata"]["name"]: m["spec"]["template"]["metadata"]["labels"] for m in of_kind("Deployment")}
    for m in manifests():
        selector = m.get("spec", {}).get("selector") or m.get("spec", {}).get("podSelector") or {}
        wanted = selector.get("matchLabels", selector if m["kind"] == "Service" else {})
        assert not wanted or any(wanted.items() <= found.items() for found in labels.values()), m["metadata"]["name"]
    for scaler in of_kind("HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] in labels
        scaled = next(
            m for m in of_kind("Deployment") if m["metadata"]["name"] == scaler["spec"]["scaleTargetRef"]["name"]
        )
        assert "replicas" not in scaled["spec"], "an apply would take back what the autoscaler did"


def test_ports_and_paths_are_those_of_the_service():
    stage = Stages()
    served = int(stage.environment("serve")["MLOPS_PORT"])
    app = create_app(Settings.read({"MLOPS_MODEL": "toy", "MLOPS_HOME": "/nonexistent"}))
    routes = {rule.rule for rule in app.url_map.iter_rules() if "GET" in rule.methods}
    deployment = next(m for m in of_kind("Deployment") if m["metadata"]["name"] == "mlops-serve")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": served}]
    probes = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {p["path"] for p in probes.values()} <= routes
    assert {p["port"] for p in probes.values()} == {"http"}
    assert probes["readinessProbe"]["path"] == "/health/ready"
    assert probes["livenessProbe"]["path"] == "/health/live"
    noted = deployment["spec"]["template"]["metadata"]["annotations"]
    assert noted["prometheus.io/port"] == str(served)
    assert noted["prometheus.io/path"] in routes
    assert of_kind("Service")[0]["spec"]["ports"][0]["targetPort"] == "http"


def parsed(command: list[str]):
    """Let click read a command: it exits with a `UsageError` for what does not exist."""
    words = [re.sub(r"\$\(\w+\)", "diagnosis", str(word)) for word in command]
    assert words[0] == "mlops-nb", words
    group, rest = main, words[1:]
    context = click.Context(main, info_name="mlops-nb", **main.context_settings)  # click keeps its -h
    while isinstance(group, click.Group):
        name, group, rest = group.resolve_command(context, rest)
    return group.make_context(name, rest, parent=context)


@pytest.mark.slow
def test_commands_and_their_options_exist():
    commands = [c["command"] for _, c in containers() if "command" in c]
    assert commands
    assert Stages().command("serve")[0] == "mlops-nb"
    for command in [*commands, Stages().command("serve")]:
        parsed(command)
        known = {n for n, _ in variables()}
        assert set(re.findall(r"\$\((\w+)\)", " ".join(map(str, command)))) <= known
    with pytest.raises(click.UsageError, match="No such option"):
        parsed(["mlops-nb", "monitor", "diagnosis", "--lsat", "24h"])


@pytest.mark.parametrize(("name", "pod"), list(pods()), ids=[n for n, _ in pods()])
def test_pod_may_do_nothing_that_it_need_not(name, pod):
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    user = Stages().last("serve", "USER")
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "a Service of this namespace could set MLOPS_..., which is refused"
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
        assert own["capabilities"]["drop"] == ["ALL"]
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert container["resources"]["limits"]["memory"]


def test_places_that_are_written_to_are_mounted():
    settings = of_kind("ConfigMap")[0]["data"]
    pod = dict(pods())["mlops-serve"]
    mounts = {m["mountPath"]: m for m in pod["containers"][0]["volumeMounts"]}
    for name in ("MLOPS_SPOOL", "MLOPS_CACHE"):
        folder = next(p for p in (Path(settings[name]), *Path(settings[name]).parents) if str(p) in mounts)
        assert not mounts[str(folder)].get("readOnly"), name
    assert mounts["/tmp"]
    assert mounts[settings["MLOPS_ARTIFACTS"]]["readOnly"]
    size = next(v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"] == "store")
    assert int(size.removesuffix("Gi")) * 1024 >= 2 * float(settings["MLOPS_SPOOL_MB"]), "a full spool must fit"


def test_a_pod_is_given_more_time_than_its_drain_takes(monkeypatch):
    for name in list(__import__("os").environ):
        if name.startswith("MLOPS_"):
            monkeypatch.delenv(name)
    drain = run_path(str(ROOT / "serve" / "gunicorn.conf.py"))["graceful_timeout"]
    pod = dict(pods())["mlops-serve"]
    wait = re.search(r"sleep\((\d+)\)", " ".join(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]))
    assert pod["terminationGracePeriodSeconds"] >= int(wait[1]) + drain + 10


def test_jobs_do_not_overlap_and_end():
    for job in of_kind("CronJob"):
        spec = job["spec"]
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"]
        fields = spec["schedule"].split()
        assert len(fields) == 5
        assert all(re.fullmatch(r"[\d*/,-]+", f) for f in fields)
    assert all(a != b for a, b in pairwise(sorted(j["spec"]["schedule"] for j in of_kind("CronJob"))))
