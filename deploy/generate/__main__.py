"""`make manifests`: write what deploy/k8s holds that is made from declarations.

A test compares each file with what is made now, so that none goes stale.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import yaml

from deploy.generate import dashboards, strimzi

K8S: Final = Path(__file__).resolve().parents[1] / "k8s"
RULES: Final = K8S / "alerts" / "check-dedup.rules.yaml"
_COMPONENTS: Final = K8S / "components"


def files() -> Mapping[Path, Callable[[], str]]:
    """Every generated file, and what makes its text."""
    made: dict[Path, Callable[[], str]] = {
        _COMPONENTS / "strimzi" / "topics.yaml": strimzi.topics,
        _COMPONENTS / "strimzi" / "users.yaml": strimzi.users,
        _COMPONENTS / "prometheus-operator" / "prometheus-rule.yaml": prometheus_rule,
    }
    for declared in dashboards.DASHBOARDS:
        file = _COMPONENTS / "dashboards" / f"{declared.name}.json"
        made[file] = lambda declared=declared: dashboards.to_json(declared)  # type: ignore[misc]
    return made


def prometheus_rule() -> str:
    """Give the alert rules as the Prometheus operator takes them."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "check-dedup", "namespace": "check-dedup"},
        "spec": yaml.safe_load(RULES.read_text()),
    }
    return strimzi.WRITTEN + yaml.safe_dump(rule, sort_keys=False, width=1000)


def main() -> None:
    """Write every file."""
    for path, make in files().items():
        path.write_text(make())
        print(path.relative_to(K8S.parents[1]))


if __name__ == "__main__":
    main()
