"""The alert rules, by Prometheus's own tools: they are valid, fire, stay quiet, and resolve."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.operations.tools import K8S, run, tool

ALERTS = K8S / "alerts"
RULES = "check-dedup.rules.yaml"
CASES = "check-dedup.rules.test.yaml"


def problems_of(folder: Path) -> str:
    """Give what promtool has against the rules or their cases; empty where nothing."""
    promtool = tool("promtool")
    checked = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", folder / RULES)
    tested = run(promtool, "test", "rules", folder / CASES)
    if checked.returncode or tested.returncode:
        return checked.stdout + checked.stderr + tested.stdout + tested.stderr
    return ""


def test_alerts_fire_stay_quiet_and_resolve() -> None:
    """As the cases beside the rules say."""
    assert problems_of(ALERTS) == ""


def test_each_alert_has_a_case_for_all_three() -> None:
    """Fires, resolves, and does not fire on a blip."""
    rules = yaml.safe_load((ALERTS / RULES).read_text())["groups"]
    cases = yaml.safe_load((ALERTS / CASES).read_text())["tests"]
    for alert in (rule["alert"] for group in rules for rule in group["rules"] if "alert" in rule):
        of_this = [
            [expected["exp_samples"] for expected in case["promql_expr_test"]]
            for case in cases
            if all(alert in expected["expr"] for expected in case["promql_expr_test"])
        ]
        assert any(said[0] and not said[-1] for said in of_this), f"{alert} fires and resolves"
        assert any(not any(said) for said in of_this), f"{alert} is quiet on a blip"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"check_dedup_watermark_age_seconds > 120", "check_dedup_watermark_age_seconds > 20"),
        (r"check_dedup_watermark_age_seconds > 120", "check_dedup_watermark_age_seconds > 1200"),
        (r"> 120\n        for: 2m", "> 120\n        for: 0m"),
        (
            r"sum by \(topic\) \(check_dedup_lag_records\)",
            "sum by (topic (check_dedup_lag_records)",
        ),
        (r"keep_firing_for", "keep_fire_for"),
    ],
)
def test_a_planted_mistake_is_found(tmp_path: Path, old: str, new: str) -> None:
    """A threshold too low or too high, no patience, bad PromQL, a misspelt field."""
    folder = Path(shutil.copytree(ALERTS, tmp_path / "alerts"))
    text = (folder / RULES).read_text()
    spoilt = re.sub(old, new, text)
    assert spoilt != text
    (folder / RULES).write_text(spoilt)

    assert problems_of(folder)
