"""The recipes in deploy/, read as what they are: YAML that other programs act on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.ray.settings import RaySettings
from server.settings import Settings

KNOWN = {f"EMOLLAMA_{name.upper()}" for name in Settings.model_fields} | {
    f"EMOLLAMA_RAY_{name.upper()}" for name in RaySettings.model_fields
}
SECRETS = {"EMOLLAMA_ADMIN_KEY", "EMOLLAMA_DATABASE_URL", "RAY_AUTH_TOKEN"}


def documents(root: Path, name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((root / "deploy" / name).read_text(encoding="utf-8")))


def pods(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that the manifests make, with what it belongs to."""
    for name in ("kubernetes/service.yaml", "kubernetes/cluster.yaml"):
        for document in documents(root, name):
            label, spec = f"{name} {document['metadata']['name']}", document.get("spec", {})
            if document["kind"] == "Deployment":
                yield label, spec["template"]["spec"]
            if document["kind"] == "RayCluster":
                for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                    yield f"{label} {group.get('groupName', 'head')}", group["template"]["spec"]


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", ())}


@pytest.fixture
def compose(root: Path) -> dict[str, Any]:
    (document,) = documents(root, "compose.yaml")
    return document


def test_every_pod_is_without_privileges_and_secrets_come_from_secrets(root: Path) -> None:
    found = dict(pods(root))
    assert len(found) == 5
    for label, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"], label
        assert pod["securityContext"]["runAsUser"] == 10001, label  # the Dockerfile's
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, label
        for name, value in environment(container).items():
            assert name in KNOWN or name.startswith("RAY_"), f"{label}: no setting {name}"
            assert isinstance(value, dict) == (name in SECRETS), f"{label}: {name}"
        mounted = {each["name"] for each in container["volumeMounts"]}
        assert mounted == {each["name"] for each in pod["volumes"]}, label


def test_the_service_listens_where_it_is_looked_for_and_drains_before_it_is_killed(root: Path) -> None:
    for label, pod in pods(root):
        (container,) = pod["containers"]
        seconds = environment(container).get("EMOLLAMA_SHUTDOWN_SECONDS")
        if seconds is None:
            continue
        sleeps = int(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [0, 0])[1])
        assert pod["terminationGracePeriodSeconds"] > int(seconds) + sleeps, label
        assert container["livenessProbe"]["httpGet"]["path"] == "/health", label
        if "readinessProbe" in container:
            program = container["readinessProbe"]["exec"]["command"][-1]
            compile(program, label, "exec")
            assert "/ready" in program
    for name in ("kubernetes/service.yaml", "kubernetes/cluster.yaml"):
        kinds = {document["kind"]: document for document in documents(root, name)}
        (port,) = kinds["Service"]["spec"]["ports"]
        served = [
            each["spec"]["template"]
            for each in documents(root, name)
            if each["kind"] == "Deployment"
            and kinds["Service"]["spec"]["selector"].items() <= each["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert [each["spec"]["containers"][0]["ports"][0]["name"] for each in served] == [port["targetPort"]]


def test_one_process_has_the_volume_of_sqlite_to_itself(root: Path) -> None:
    kinds = {document["kind"]: document for document in documents(root, "kubernetes/service.yaml")}
    assert kinds["Deployment"]["spec"]["replicas"] == 1
    assert kinds["Deployment"]["spec"]["strategy"]["type"] == "Recreate"
    assert kinds["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_several_doors_share_a_database_and_a_volume_and_run_no_jobs(root: Path) -> None:
    made = documents(root, "kubernetes/cluster.yaml")
    found = {document["metadata"]["name"]: document for document in made if document["kind"] == "Deployment"}
    (claim,) = [document for document in made if document["kind"] == "PersistentVolumeClaim"]
    door, jobs = found["emollama-door"], found["emollama-jobs"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert door["spec"]["replicas"] >= 2
    doors, runner = (environment(each["spec"]["template"]["spec"]["containers"][0]) for each in (door, jobs))
    assert "EMOLLAMA_DATABASE_URL" in doors
    assert doors["EMOLLAMA_JOBS"] == "false"
    assert (runner["EMOLLAMA_JOBS"], runner["EMOLLAMA_DATABASE_URL"]) == ("true", doors["EMOLLAMA_DATABASE_URL"])


def test_nothing_works_on_the_head_and_replicas_come_in_twos(root: Path, compose: dict[str, Any]) -> None:
    (cluster,) = [each for each in documents(root, "kubernetes/cluster.yaml") if each["kind"] == "RayCluster"]
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["minReplicas"] >= 2 for group in cluster["spec"]["workerGroupSpecs"])
    assert cluster["spec"]["rayVersion"] == metadata.version("ray") if has_ray() else True
    assert "--num-cpus=0" in compose["services"]["head"]["entrypoint"]
    doors = [compose["services"]["door"]["environment"]]
    doors += [environment(pod["containers"][0]) for label, pod in pods(root) if label.endswith("emollama-door")]
    for settings in doors:
        assert int(settings["EMOLLAMA_RAY_ENCODERS_MIN"]) >= 2
        assert int(settings["EMOLLAMA_RAY_DECODER_MIN"]) >= 2


def test_the_token_is_everywhere_in_the_cluster_and_usage_is_told_to_nobody(
    root: Path, compose: dict[str, Any]
) -> None:
    members = [environment(pod["containers"][0]) for label, pod in pods(root) if "RAY_" in str(pod)]
    members += [service["environment"] for service in compose["services"].values()]
    assert len(members) == 6
    for each in members:
        assert each["RAY_AUTH_MODE"] == "token"
        assert each["RAY_AUTH_TOKEN"]
        assert each["RAY_USAGE_STATS_ENABLED"] == "0"


def test_only_the_door_is_published_and_only_here(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert published == {"door": ["127.0.0.1:8000:8000"]}
    assert compose["networks"]["cluster"]["internal"] is True
    for name in SECRETS & set(compose["services"]["door"]["environment"]):
        assert compose["services"]["door"]["environment"][name].startswith("${"), name


def has_ray() -> bool:
    try:
        metadata.version("ray")
    except metadata.PackageNotFoundError:
        return False
    return True


def commands(root: Path, compose: dict[str, Any]) -> list[list[str]]:
    """Every command of the recipes, split at ``&&``."""
    lines = [" ".join(service["entrypoint"]) for service in compose["services"].values()]
    for _, pod in pods(root):
        container = pod["containers"][0]
        lines += [" ".join((*container.get("command", ()), *container.get("args", ())))]
    parts = [part for line in lines for part in re.split(r"&&|sh -c", line)]
    return [shlex.split(part.replace("exec ", "")) for part in parts if part.strip()]


@pytest.mark.ray
def test_the_commands_have_these_options(root: Path, compose: dict[str, Any]) -> None:
    from ray.scripts.scripts import start
    from typer.main import get_command

    from server.cli import app

    options = {
        ("ray", "start"): {name for option in start.params for name in option.opts},
        ("emollama", "serve"): {name for option in get_command(app).params for name in option.opts},
    }
    found = commands(root, compose)
    assert {tuple(command[:2]) for command in found} == set(options)
    for command in found:
        for word in command[2:]:
            if word.startswith("--"):
                assert word.split("=")[0] in options[command[0], command[1]], command
