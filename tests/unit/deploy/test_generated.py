"""What deploy/k8s holds that is made from declarations is up to date, and asks for what exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from deploy.generate.__main__ import K8S, RULES, files
from deploy.generate.dashboards import DASHBOARDS
from schemas.topics import INDEX_LOG, TOPICS
from streams.kafka.access import CLUSTER, USERS
from streams.telemetry.metrics import METRICS

# Grafana's names for the units that our panels use.
UNITS = {"s", "d", "short", "percentunit", "cps", "reqps", "bytes"}
# Given by Prometheus itself, and by prometheus-client for each process.
GIVEN = {
    "up",
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
}
LONG_WINDOWS = {"6h", "1d"}  # of panels that look back over days on purpose


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    """`make manifests` would change nothing."""
    assert path.read_text() == files()[path](), "run `make manifests`"


def test_strimzi_gets_every_topic() -> None:
    """One KafkaTopic for each declared topic, with its configuration."""
    made = {
        found["metadata"]["name"]: found["spec"]["config"]
        for found in yaml.safe_load_all((K8S / "components/strimzi/topics.yaml").read_text())
    }

    assert made == {name: topic.config() for name, topic in TOPICS.items()}


def test_strimzi_gives_each_process_what_it_needs_and_no_more() -> None:
    """The users are those that work on a broker with an authorizer, right by right."""
    made = {
        found["metadata"]["name"]: {
            (acl["resource"]["type"], acl["resource"].get("name", CLUSTER)): set(acl["operations"])
            for acl in found["spec"]["authorization"]["acls"]
        }
        for found in yaml.safe_load_all((K8S / "components/strimzi/users.yaml").read_text())
    }

    assert made == {
        f"check-dedup-{user.name}": {
            (access.resource, access.name): set(access.operations) for access in user.access()
        }
        for user in USERS
    }
    assert "Write" not in made["check-dedup-matcher"]["topic", INDEX_LOG]


def problems_of(dashboard: dict[str, Any]) -> Iterator[str]:
    """Name what a person in the night would miss in a dashboard."""
    variables = [(found["name"], found["type"]) for found in dashboard["templating"]["list"]]
    if ("datasource", "datasource") not in variables:
        yield "no data source to choose"
    titles = [panel["title"] for panel in dashboard["panels"]]
    if len(set(titles)) != len(titles):
        yield "two panels of one title"
    for panel in dashboard["panels"]:
        title = panel["title"]
        if not title:
            yield "a panel without a title"
        # What it is, and what follows: two sentences, or a colon between the two.
        if not re.search(r"[.:;] \S", panel.get("description", "")):
            yield f"{title}: does not say what to do"
        if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
            yield f"{title}: no unit"
        if panel["datasource"]["uid"] != "${datasource}":
            yield f"{title}: one data source, and no other"
        if not panel["targets"]:
            yield f"{title}: asks nothing"
        for target in panel["targets"]:
            yield from _problems_of_query(title, target["expr"])


def _problems_of_query(title: str, expr: str) -> Iterator[str]:
    for window in re.findall(r"\[([^]]*)]", expr):
        if window != "$__rate_interval" and window not in LONG_WINDOWS:
            yield f"{title}: a rate over {window}"
    try:
        promql_parser.parse(expr.replace("$__rate_interval", "1m"))
    except ValueError as error:
        yield f"{title}: {error}"
        return
    for name in series_of(expr) - known_series():
        yield f"{title}: no such metric as {name}"


def series_of(expr: str) -> set[str]:
    """Give the names of the series that an expression reads."""
    found: set[str] = set()

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector) and node.name:
            found.add(node.name)
        return True

    promql_parser.walk(promql_parser.parse(expr.replace("$__rate_interval", "1m")), visit)
    return found


def known_series() -> set[str]:
    """Give the names that Prometheus will know: declared, recorded, and given."""
    rules = yaml.safe_load(RULES.read_text())["groups"]
    recorded = {rule["record"] for group in rules for rule in group["rules"] if "record" in rule}
    declared = {
        metric.name + suffix
        for metric in METRICS
        for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
    }
    return declared | recorded | GIVEN


@pytest.mark.parametrize("declared", DASHBOARDS, ids=lambda declared: declared.name)
def test_dashboards_help_a_person_in_the_night(declared: Any) -> None:  # noqa: ANN401 - by pytest
    """Title, what to do, unit, data source, rate interval, and queries of metrics that exist."""
    file = K8S / "components" / "dashboards" / f"{declared.name}.json"

    assert list(problems_of(json.loads(file.read_text()))) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("title",), ""),
        (("description",), "Lag"),
        (("fieldConfig", "defaults", "unit"), ""),
        (("datasource", "uid"), "prometheus"),
        (("targets", 0, "expr"), "rate(check_dedup_events_total[5m])"),
        (("targets", 0, "expr"), "sum(check_dedup_evnts_total)"),
        (("targets", 0, "expr"), "sum by (topic (check_dedup_events_total)"),
    ],
)
def test_a_planted_mistake_is_found(path: tuple[str | int, ...], value: str) -> None:
    """Each rule finds what breaks it."""
    dashboard = json.loads((K8S / "components/dashboards/flow.json").read_text())
    place = dashboard["panels"][0]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    assert list(problems_of(dashboard))


def test_no_declared_metric_is_on_no_dashboard() -> None:
    """What is measured is shown, or it would be measured for nobody."""
    asked = " ".join(
        query.expr
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for query in panel.queries
    )
    asked += RULES.read_text()

    assert [metric.name for metric in METRICS if metric.name not in asked] == []


def alerts() -> list[dict[str, Any]]:
    """Give every alert rule."""
    rules = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in rules for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_alerts_ask_for_what_exists_and_have_a_runbook(rule: dict[str, Any]) -> None:
    """The series are declared; the runbook has a first command, a radius, and what may restart."""
    assert series_of(rule["expr"]) <= known_series()
    assert rule["labels"]["severity"] in {"page", "ticket"}
    runbook = (K8S.parents[1] / rule["annotations"]["runbook"]).read_text()
    assert runbook.startswith(f"# {rule['alert']}\n")
    for heading in ("## First command", "## Who is affected", "## Safe to restart"):
        assert heading in runbook


def test_each_runbook_has_its_alert() -> None:
    """A runbook that no alert names is read by nobody."""
    names = {path.stem for path in (K8S / "runbooks").glob("*.md")}

    assert names == {rule["alert"] for rule in alerts()}
