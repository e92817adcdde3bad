"""A real Prometheus on this machine, with our alert rules: how to start it, and how to ask it.

Used by `make up` and by the tests of dashboards and alerts. Whether it is installed is the
machine's: `command` says so.
"""

import json
import math
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.local.broker import ROOT

RULES: Final = ROOT / "deploy" / "k8s" / "alerts" / "check-dedup.rules.yaml"
JOB: Final = "check-dedup"
_ANSWER_SECONDS: Final = 30.0


class PrometheusError(RuntimeError):
    """Prometheus did not take a query; the message is its own."""


def command(
    directory: Path, port: int, targets: Mapping[str, str], *, every_seconds: int
) -> list[str] | None:
    """Write a configuration into `directory` and give the command; None where it is missing.

    `targets`: `host:port` of each process by the name that it has on dashboards.
    """
    program = shutil.which("prometheus")
    if program is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(_configuration(targets, every_seconds), sort_keys=False))
    return [
        program,
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]


def _configuration(targets: Mapping[str, str], every_seconds: int) -> dict[str, object]:
    every = f"{every_seconds}s"
    return {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": JOB,
                "static_configs": [
                    {"targets": [address], "labels": {"instance": name}}
                    for name, address in targets.items()
                ],
            }
        ],
    }


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its labels, and (time, value) in seconds."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs, by its address."""

    url: str

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=_ANSWER_SECONDS):  # noqa: S310 - ours
                return True
        except OSError:
            return False

    def ask(self, expr: str) -> list[Series]:
        """Evaluate an expression now. Raises PrometheusError where it is none."""
        found = self._get("query", query=expr)["result"]
        return [_series(one["metric"], [one["value"]]) for one in found]

    def number(self, expr: str) -> float:
        """Evaluate what gives one number; NaN where it gives nothing."""
        found = self.ask(expr)
        return found[0].points[0][1] if found else math.nan

    def ask_range(self, expr: str, start: float, end: float, step_seconds: float) -> list[Series]:
        """Evaluate an expression over a time. Raises PrometheusError where it is none."""
        found = self._get(
            "query_range", query=expr, start=str(start), end=str(end), step=str(step_seconds)
        )["result"]
        return [_series(one["metric"], one["values"]) for one in found]

    def rules(self) -> list[dict[str, Any]]:
        """Give every rule with its health and its alerts of now."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **parameters: str) -> dict[str, Any]:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(  # noqa: S310 - ours
                f"{self.url}/api/v1/{what}?{query}", timeout=_ANSWER_SECONDS
            ) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise PrometheusError(f"{parameters}: {error.read().decode()}") from error
        return data


def _series(labels: Mapping[str, str], values: list[list[Any]]) -> Series:
    return Series(labels, tuple((float(at), float(value)) for at, value in values))
