"""Compose file and Kubernetes manifests, held against the schemas of those who read them."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

INFRA = Path(__file__).parents[2] / "infra"
FOLDER = INFRA / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [manifest for name in KUSTOMIZATION["resources"]
                                   for manifest in yaml.safe_load_all((FOLDER / name).read_text())]
OPERATOR = "postgresql.cnpg.io/v1"
# Secrets that the README lets people make, and the keys in each.
SECRETS = {**{f"postgres-{name}": {"username", "password"} for name in ("prefect", "mlflow", "optuna", "meddiff")},
           **{f"s3-{name}": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} for name in ("mlflow", "worker")},
           "sign-on": {"PREFECT_PASSWORD", "STUDIES_PASSWORD", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_WORKER_PASSWORD",
                       "MLFLOW_COOKIE_KEY", "MLFLOW_WEBHOOK_KEY"}}


def pods() -> list[tuple[str, dict[str, Any]]]:
    return [(manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]) for manifest in MANIFESTS
            if manifest["kind"] in ("Deployment", "StatefulSet")]


def containers() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{name}/{each['name']}", each) for name, pod in pods()
            for each in [*pod["containers"], *pod.get("initContainers", [])]]


@pytest.mark.parametrize("manifest", [m for m in MANIFESTS if m["apiVersion"] != OPERATOR],
                         ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}")
def test_kubernetes_accepts_a_manifest(manifest: dict[str, Any]) -> None:
    for version in ("1.31", "1.34"):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_refuses_what_is_wrong() -> None:
    wrong = json.loads(json.dumps(next(m for m in MANIFESTS if m["kind"] == "StatefulSet")))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_pods_are_what_a_restricted_namespace_admits() -> None:
    namespace = next(m for m in MANIFESTS if m["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert namespace["metadata"]["name"] == KUSTOMIZATION["namespace"]
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False, name
        assert {next(iter(volume.keys() - {"name"})) for volume in pod.get("volumes", [])} <= {
            "emptyDir", "persistentVolumeClaim", "configMap", "secret"}, name
    for name, each in containers():
        assert each["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}, name
        assert each["resources"]["limits"].keys() >= {"cpu", "memory"}, name
        assert each["image"] in {image["name"] for image in KUSTOMIZATION["images"]}, name


def test_each_service_is_probed_and_the_worker_has_a_gpu() -> None:
    for _, pod in pods():
        for each in pod["containers"]:
            ports = {port["name"] for port in each["ports"]}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert next(each[probe][kind] for kind in ("httpGet", "tcpSocket") if kind in each[probe])["port"] in ports
    worker = dict(containers())["worker/worker"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_secrets_are_references_to_what_the_readme_makes() -> None:
    readme = (INFRA / "README.md").read_text()
    used: dict[str, set[str]] = {}
    for name, each in containers():
        for variable in each["env"]:
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                used.setdefault(reference["name"], set()).add(reference["key"])
            elif re.search(r"PASSWORD|KEY|SECRET|AUTH|_URI?L?$", variable["name"]) and "value" in variable:
                secretless = re.fullmatch(r"https?://[\w:/.]+|/tmp/\w+\.ini", variable["value"]) or "$(" in variable["value"]
                assert secretless, f"{name}: {variable['name']} has a value of its own"
    for name, keys in used.items():
        assert keys <= SECRETS[name], name
    for name, keys in SECRETS.items():
        prefix = name.partition("-")[0]
        assert name in readme or f"{prefix}-$" in readme, name
        assert all(key in readme for key in keys), name


def test_each_database_has_the_role_that_its_address_names() -> None:
    cluster = next(m for m in MANIFESTS if m["kind"] == "Cluster")
    assert cluster["apiVersion"] == OPERATOR
    first = cluster["spec"]["bootstrap"]["initdb"]
    roles = {role["name"]: role["passwordSecret"]["name"] for role in cluster["spec"]["managed"]["roles"]} | {
        first["owner"]: first["secret"]["name"]}
    databases = {m["spec"]["name"]: m["spec"]["owner"] for m in MANIFESTS if m["kind"] == "Database"}
    databases[first["database"]] = first["owner"]
    assert databases == {name: name for name in roles}
    assert roles == {name: f"postgres-{name}" for name in roles}
    urls = " ".join({v["value"] for _, each in containers() for v in each["env"] if str(v.get("value")).startswith("postgresql")})
    assert sorted(re.findall(r"//(\w+):\$\(\w+\)@postgres-rw:5432/(\w+)", urls)) == sorted((name, name) for name in roles)


def filled(text: str) -> str:
    """As Compose would fill variables in, with `x` for secrets."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", lambda match: match[2] or "x", text)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_the_compose_file_keeps_to_the_specification(name: str) -> None:
    text = re.sub(r":[\w.]+(@sha256)", r"\1", filled((INFRA / name).read_text()))  # Docker takes both, this reader one of them
    composed = yaml.safe_load(text)  # merge keys and anchors are YAML's own
    composed = {key: value for key, value in composed.items() if not key.startswith("x-")}
    PyCompose.from_yaml(yaml.safe_dump(composed)).validate()
    composed["services"]["worker"]["helthcheck"] = {"test": ["CMD", "true"]}
    with pytest.raises(ValueError, match="helthcheck"):
        PyCompose.from_yaml(yaml.safe_dump(composed))


def test_the_store_knows_the_same_accounts_as_on_one_machine() -> None:
    sys.path.insert(0, str(INFRA))
    try:
        from team import RIGHTS
    finally:
        sys.path.remove(str(INFRA))
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    identities = json.loads(filled(compose["configs"]["storage"]["content"]))["identities"]
    assert {each["name"]: each["actions"] for each in identities} == RIGHTS
    assert all(each["credentials"][0]["accessKey"] == f"meddiff-{each['name']}" for each in identities)
