"""Every overlay and component: rendered by kubectl, held against schemas and policies.

Each check is a function that names the problems of a folder like deploy/k8s; ours has none, and a
copy with one mistake planted has one.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import jsonschema
import kubernetes_validate
import pytest
import yaml

from streams.engine.transport import STOP_SECONDS
from streams.errors import MisconfiguredError
from streams.settings import Settings
from tests.operations.custom_resources import SCHEMAS
from tests.operations.tools import K8S, ROOT, Resource, kustomize, resources, run

# The oldest release that still gets fixes, and the newest that the validator knows.
KUBERNETES: Final = ("1.31", "1.35")
WORKLOADS: Final = ("Deployment", "StatefulSet", "Job")

# All components together, so that one that no overlay names is checked too.
_EVERYTHING: Final = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../base]
components:
{components}
images: [{{name: check-dedup, newTag: "1"}}]
"""


@cache
def rendered(folder: Path) -> dict[str, list[Resource]]:
    """Render every overlay, and the base with every component."""
    everything = folder / "everything"
    everything.mkdir(exist_ok=True)
    names = sorted(path.name for path in (folder / "components").iterdir())
    listed = "\n".join(f"  - ../components/{name}" for name in names)
    (everything / "kustomization.yaml").write_text(_EVERYTHING.format(components=listed))
    places = {place.name: place for place in sorted((folder / "overlays").glob("*"))}
    places["everything"] = everything
    return {name: resources(kustomize(place)) for name, place in places.items()}


def _each(folder: Path) -> Iterator[tuple[str, Resource]]:
    for overlay, found in rendered(folder).items():
        for resource in found:
            name = resource["metadata"]["name"]
            yield f"{overlay}: {resource['kind']} {name}", resource


def not_as_the_schemas_say(folder: Path) -> list[str]:
    """Hold each resource against Kubernetes' schemas, strictly, or our closed ones."""
    problems = []
    for place, resource in _each(folder):
        own = SCHEMAS.get((resource["apiVersion"], resource["kind"]))
        if own is not None:
            found = jsonschema.Draft202012Validator(own).iter_errors(resource)
            problems += [f"{place}: {error.json_path}: {error.message}" for error in found]
            continue
        for version in KUBERNETES:
            problem = _problem(json.dumps(resource), version)
            if problem:
                problems.append(f"{place}: {problem}")
    return problems


@cache
def _problem(resource: str, version: str) -> str | None:
    """Say what Kubernetes' schema has against a resource; most are the same in each overlay."""
    try:
        kubernetes_validate.validate(json.loads(resource), version, strict=True)
    except (
        kubernetes_validate.ValidationError,
        kubernetes_validate.SchemaNotFoundError,
    ) as error:
        return f"{type(error).__name__}: {error}"
    return None


def pods(folder: Path) -> Iterator[tuple[str, Resource, Resource]]:
    """Give each workload with its pod's specification."""
    for place, resource in _each(folder):
        if resource["kind"] in WORKLOADS:
            yield place, resource, resource["spec"]["template"]["spec"]


def not_as_we_stop_and_probe(folder: Path) -> list[str]:
    """What no general policy knows: our drain bound, probes, budgets, names and spreads."""
    problems = []
    for place, resource, pod in pods(folder):
        if resource["kind"] == "Job":
            continue
        component = resource["metadata"]["labels"]["app.kubernetes.io/component"]
        (container,) = pod["containers"]
        if pod["terminationGracePeriodSeconds"] < STOP_SECONDS + 10:
            problems.append(f"{place}: is killed before its own drain bound is over")
        paths = {
            probe: container.get(probe, {}).get("httpGet", {}).get("path")
            for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        if list(paths.values()) != ["/livez", "/livez", "/readyz"]:
            problems.append(f"{place}: probes {paths}")
        if component != "canary" and not pod.get("topologySpreadConstraints"):
            problems.append(f"{place}: may end up on one node")
        named = [entry["name"] for entry in container.get("env", ())]
        if ("CHECK_DEDUP_INSTANCE_ID" in named) != (resource["kind"] == "StatefulSet"):
            problems.append(f"{place}: a static member exactly where pods keep their names")
    for overlay, found in rendered(folder).items():
        budgets = {
            resource["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
            for resource in found
            if resource["kind"] == "PodDisruptionBudget"
        }
        problems += [
            f"{overlay}: no disruption budget for the {component}"
            for component in ("hasher", "matcher", "api")
            if component not in budgets
        ]
        denied = [
            resource
            for resource in found
            if resource["kind"] == "NetworkPolicy"
            and not resource["spec"]["podSelector"]
            and resource["spec"]["policyTypes"] == ["Ingress", "Egress"]
            and not {"ingress", "egress"} & set(resource["spec"])
        ]
        if not denied:
            problems.append(f"{overlay}: nothing is denied")
    return problems


def not_a_setting(folder: Path) -> list[str]:
    """Every environment variable of ours is a declared setting with a value that it takes."""
    problems = []
    mounted = folder / "mounted.pem"  # stands for what a Secret holds
    mounted.write_text("certificate")
    for place, resource in _each(folder):
        if resource["kind"] == "ConfigMap" and "settings" in resource["metadata"]["name"]:
            data = {
                name: str(mounted) if text.startswith("/kafka/") else text
                for name, text in resource["data"].items()
            }
            try:
                Settings.from_environment(data)
            except MisconfiguredError as error:
                problems.append(f"{place}: {error}")
    for place, _, pod in pods(folder):
        for container in pod["containers"]:
            names = {entry["name"]: "" for entry in container.get("env", ())}
            try:
                Settings.from_environment(names)
            except MisconfiguredError as error:
                problems.append(f"{place}: {error}")
    return problems


@pytest.fixture(scope="module")
def checkov() -> Path:
    """The policy checker, in an environment of its own: its pins contradict ours."""
    home = ROOT / "build" / "checkov"
    lock = K8S / "policy" / "requirements.lock"
    stamp = home / "installed.lock"
    program = home / "bin" / "checkov"
    if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
        python = ROOT / ".venv" / "bin" / "python"
        uv = ROOT / ".venv" / "bin" / "uv"
        made = run(python, "-m", "venv", "--clear", home)
        assert made.returncode == 0, made.stderr
        into = home / "bin" / "python"
        done = run(uv, "pip", "sync", "--quiet", "--python", into, "--require-hashes", lock)
        if done.returncode != 0:  # uv knows nothing of a mirror that is set up for pip
            done = run(into, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", lock)
        assert done.returncode == 0, done.stderr
        stamp.write_bytes(lock.read_bytes())
    return program


def against_policy(folder: Path, checkov: Path) -> list[str]:
    """Ask checkov about the rendered overlays."""
    places = []
    for overlay, found in rendered(folder).items():
        if overlay != "development":  # nothing that the other two have not
            place = folder / f"{overlay}.rendered.yaml"
            place.write_text(yaml.safe_dump_all(found))
            places += ["--file", str(place)]
    done = run(checkov, "--config-file", folder / "policy" / "checkov.yaml", *places)
    assert done.returncode in (0, 1), done.stderr
    failed = [line for line in done.stdout.splitlines() if "FAILED" in line or "Check:" in line]
    assert bool(failed) == bool(done.returncode), done.stdout + done.stderr
    return failed


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of deploy/k8s that may be spoilt."""
    return Path(shutil.copytree(K8S, tmp_path / "k8s"))


Check = Callable[[Path], list[str]]
CHECKS: Final[tuple[Check, ...]] = (
    not_as_the_schemas_say,
    not_as_we_stop_and_probe,
    not_a_setting,
)


@pytest.mark.parametrize("check", CHECKS)
def test_manifests_are_as_they_must_be(copy: Path, check: Check) -> None:
    """Every overlay, and every component on the base, passes."""
    assert rendered(copy).keys() == {"development", "production", "everything"}
    assert check(copy) == []


@pytest.mark.parametrize(
    ("check", "file", "old", "new"),
    [
        (not_as_the_schemas_say, "base/matcher.yaml", "serviceName:", "servicename:"),
        (not_as_the_schemas_say, "base/hasher.yaml", "readOnlyRootFilesystem", "readOnlyRootFs"),
        (not_as_the_schemas_say, "base/api.yaml", "replicas: 2", "replicas: two"),
        (
            not_as_the_schemas_say,
            "components/keda/scaled-object.yaml",
            "minReplicaCount",
            "minReplicas",
        ),
        (
            not_as_the_schemas_say,
            "components/prometheus-operator/pod-monitor.yaml",
            "interval: 15s",
            "interval: 15",
        ),
        (
            not_as_the_schemas_say,
            "components/prometheus-operator/prometheus-rule.yaml",
            "keep_firing_for",
            "keepFiringFor",
        ),
        (not_as_the_schemas_say, "components/strimzi/topics.yaml", "partitions:", "partition:"),
        (
            not_as_the_schemas_say,
            "components/strimzi/topics.yaml",
            "kafka.strimzi.io/v1",
            "kafka.strimzi.io/v1beta2",
        ),
        (
            not_as_we_stop_and_probe,
            "base/hasher.yaml",
            "terminationGracePeriodSeconds: 45",
            "terminationGracePeriodSeconds: 20",
        ),
        (not_as_we_stop_and_probe, "base/api.yaml", "path: /readyz", "path: /livez"),
        (not_as_we_stop_and_probe, "base/matcher.yaml", "CHECK_DEDUP_INSTANCE_ID", "POD"),
        (
            not_as_we_stop_and_probe,
            "components/network-policy/network-policy.yaml",
            "podSelector: {}",
            "podSelector: {matchLabels: {a: b}}",
        ),
        (not_as_we_stop_and_probe, "base/api.yaml", "PodDisruptionBudget", "PodDisruption"),
        (
            not_a_setting,
            "components/strimzi/kustomization.yaml",
            "KAFKA_SECURITY_PROTOCOL=SSL",
            "KAFKA_SECURITY_PROTOCOL=TLS",
        ),
        (
            not_as_the_schemas_say,
            "components/strimzi/users.yaml",
            "DescribeConfigs",
            "DescribeConfig",
        ),
        (not_a_setting, "base/settings.env", "METRICS_PORT", "METRIC_PORT"),
        (not_a_setting, "base/settings.env", "API_PORT=8080", "API_PORT=http"),
        (not_a_setting, "base/matcher.yaml", "CHECK_DEDUP_INSTANCE_ID", "CHECK_DEDUP_INSTANCE"),
    ],
)
def test_a_planted_mistake_is_found(
    copy: Path, check: Check, file: str, old: str, new: str
) -> None:
    """A misspelt field, a wrong value, a rule of ours that is broken: each is named."""
    spoilt = copy / file
    text = spoilt.read_text()
    assert old in text
    spoilt.write_text(text.replace(old, new))
    shutil.rmtree(copy / "overlays")  # the base with every component says it, and sooner

    assert check(copy)


def test_policies_hold(copy: Path, checkov: Path) -> None:
    """Checkov finds nothing but the exceptions that policy/checkov.yaml gives reasons for."""
    assert against_policy(copy, checkov) == []


def test_a_planted_weakness_is_found(copy: Path, checkov: Path) -> None:
    """A privileged container and a mounted token: policies name both."""
    spoilt = copy / "base" / "hasher.yaml"
    text = spoilt.read_text()
    text = text.replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true")
    spoilt.write_text(text.replace("ServiceAccountToken: false", "ServiceAccountToken: true"))
    shutil.rmtree(copy / "overlays")

    found = "\n".join(against_policy(copy, checkov))

    assert "CKV_K8S_20" in found
    assert "CKV_K8S_38" in found


def test_every_exception_has_its_reason() -> None:
    """Each line of skip-check stands below a comment."""
    lines = (K8S / "policy" / "checkov.yaml").read_text().splitlines()
    start = lines.index("skip-check:")
    for above, line in zip(lines[start:], lines[start + 1 :], strict=False):
        if line.strip().startswith("- "):
            assert above.strip().startswith("#"), line
