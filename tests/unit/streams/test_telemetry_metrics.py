"""The declarations of the metrics keep the rules that dashboards and alerts rely on."""

import re

import pytest

from streams.telemetry.metrics import METRICS, Metric

_BASE_UNITS = {"seconds", "bytes", "ratio"}


def test_each_name_is_declared_once() -> None:
    """No two metrics share a name, nor a name with another's series."""
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names)) > 30
    series = {
        f"{metric.name}_{part}"
        for metric in METRICS
        if metric.kind == "histogram"
        for part in ("bucket", "sum", "count")
    }
    assert not series & set(names)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_declaration(metric: Metric) -> None:
    """Own prefix, base unit at the end of the name, help, buckets that ascend, few labels."""
    assert re.fullmatch(r"check_dedup(_[a-z0-9]+)+", metric.name)
    stem = metric.name.removesuffix("_total")
    assert (stem != metric.name) == (metric.kind == "counter")
    assert (stem.rpartition("_")[2] in _BASE_UNITS) == bool(metric.unit)
    assert not metric.unit or stem.endswith(f"_{metric.unit}")
    assert metric.help.endswith(".")
    assert metric.processes
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert not {"image_id", "host", "url", "le", "quantile"} & set(metric.labels)
    assert ("workspace" in metric.labels) == (metric.name == "check_dedup_top_workspace_pictures")
