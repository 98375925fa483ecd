"""deploy/manifests/serving.yaml and the image of the service: their parts fit each other, the code and the models."""

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

from catalog.config import validate_sections, validate_values
from components.params import SECTIONS
from pipelines.cluster import USER_ID
from registry.model_logging import list_requirements
from serving.params import ServingParams

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
NAME = "vitrine-serving"
ENCODER_EXTRAS = ("encoders", "ocr")


def _read_objects() -> dict[str, Any]:
    """The objects of the manifest by kind; each has the name of the service."""
    manifests = [*yaml.safe_load_all((ROOT / "deploy/manifests/serving.yaml").read_text())]
    assert {manifest["metadata"]["name"] for manifest in manifests} == {NAME}
    return {manifest["kind"]: manifest for manifest in manifests}


OBJECTS = _read_objects()
DEPLOYMENT = OBJECTS["Deployment"]["spec"]
POD = DEPLOYMENT["template"]
(CONTAINER,) = POD["spec"]["containers"]


def test_each_selector_selects_the_pods() -> None:
    """One that selects nothing is no error for Kubernetes."""
    selectors = {
        "Deployment": DEPLOYMENT["selector"]["matchLabels"],
        "Service": OBJECTS["Service"]["spec"]["selector"],
        "PodDisruptionBudget": OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": OBJECTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        "spread": POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    }
    for owner, selector in selectors.items():
        assert selector and selector.items() <= POD["metadata"]["labels"].items(), owner


def test_each_name_leads_to_an_object() -> None:
    target = OBJECTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", NAME)
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == set(volumes)
    assert volumes["settings"]["configMap"]["name"] == POD["spec"]["serviceAccountName"] == NAME
    secrets = yaml.safe_load_all((ROOT / "deploy/manifests/secrets.example.yaml").read_text())
    (reference,) = CONTAINER["envFrom"]
    assert reference["secretRef"]["name"] in {secret["metadata"]["name"] for secret in secrets}


def test_all_use_the_port_of_the_container() -> None:
    ((name, port),) = ((port["name"], port["containerPort"]) for port in CONTAINER["ports"])
    assert [port["targetPort"] for port in OBJECTS["Service"]["spec"]["ports"]] == [name]
    probes = {probe: CONTAINER[f"{probe}Probe"]["httpGet"] for probe in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {name}
    (rule,) = OBJECTS["NetworkPolicy"]["spec"]["ingress"]
    assert [allowed["port"] for allowed in rule["ports"]] == [port]
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(port)


def test_the_autoscaler_alone_sets_the_number_of_pods() -> None:
    """With `replicas`, each `kubectl apply` would undo its decision. One pod may always be taken away."""
    assert "replicas" not in DEPLOYMENT
    scaler, budget = (OBJECTS[kind]["spec"] for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget"))
    assert (
        scaler["minReplicas"]
        > budget["maxUnavailable"]
        > DEPLOYMENT["strategy"]["rollingUpdate"]["maxUnavailable"]
    )


def test_it_runs_without_privileges() -> None:
    """As the level `restricted` of Kubernetes' pod security standards demands; and with a read-only root."""
    context = POD["spec"]["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] == USER_ID
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not POD["spec"]["automountServiceAccountToken"]
    (writable,) = (volume["name"] for volume in POD["spec"]["volumes"] if "emptyDir" in volume)
    (home,) = re.findall(r"\bHOME=(\S+)", DOCKERFILE)  # of all caches
    assert {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}[writable] == home


def test_the_command_of_the_image_has_the_port_and_the_settings_of_the_pod() -> None:
    (target,) = re.findall(r"^FROM \w+ AS serving\n(.*?)^FROM ", DOCKERFILE, re.MULTILINE | re.DOTALL)
    command = json.loads(re.findall(r"^CMD (.*)$", target.replace("\\\n", ""), re.MULTILINE)[0])
    flags = dict(zip(command[3::2], command[4::2], strict=True))
    assert command[:3] == ["python", "-m", "serving"] and "command" not in CONTAINER
    assert flags["--port"] == str(CONTAINER["ports"][0]["containerPort"])
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    files = OBJECTS["ConfigMap"]["data"]
    assert {flags[f"--{name}"] for name in ("settings", "params")} == {
        f"{mounts['settings']}/{name}" for name in files
    }
    assert f"COPY serving.yaml params.yaml {mounts['settings']}/" in target
    assert validate_values(ServingParams, yaml.safe_load(files["serving.yaml"]), Path("serving.yaml"))
    assert validate_sections(SECTIONS, yaml.safe_load(files["params.yaml"]), Path("params.yaml"))


def _project_requirements(extras: Iterable[str]) -> set[str]:
    """Names of the project's requirements, with those of some extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    lines = project["dependencies"] + [line for extra in extras for line in optional[extra]]
    return {Requirement(line).name for line in lines}


def test_the_image_has_the_packages_of_every_registered_model() -> None:
    """Others would be installed when a pod starts, which takes minutes and a package index."""
    (words,) = re.findall(r"COMPILE pyproject.toml (.*) > serving.txt", DOCKERFILE)
    (pattern,) = re.findall(r"grep -E '(\^\(.*\)==)' requirements.lock >> serving.txt", DOCKERFILE)
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lock if re.match(pattern, line)}
    assert len(pinned) == pattern.count("|") + 1, "the lock file has not all of them"
    installed = pinned | _project_requirements(words.replace("--extra", "").split())
    packages = _project_requirements(ENCODER_EXTRAS)
    assert {line.split("==")[0] for line in list_requirements(sorted(packages))} <= installed
    assert not installed & {"dvc", "great-expectations", "kfp", "kfp-kubernetes", "kubeflow"}


def test_a_pod_has_the_time_to_finish_its_requests() -> None:
    """Kubernetes kills it `terminationGracePeriodSeconds` after the pod began to end, which starts with `preStop`."""
    seconds = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"] + ServingParams().service.drain_seconds
    assert POD["spec"]["terminationGracePeriodSeconds"] >= seconds + 10
