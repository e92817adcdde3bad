"""The metrics of one process: made from their declarations, and from nothing else.

What a process counts itself is a `counter`, `gauge` or `histogram`; what it can read at the time
of a scrape is `computed`. A scrape runs in a thread of its own: what it reads are plain numbers
and other things that any thread may read.
"""

import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agents.decide import DECISION_VERSION
from agents.fingerprint import FINGERPRINT_VERSION
from streams.telemetry.metrics import BUILD_INFO, METRICS, STEP_DURATION_SECONDS, Metric, Process
from streams.telemetry.timeline import CURRENT

logger = logging.getLogger(__name__)

Samples = Mapping[tuple[str, ...], float]
"""Values by the values of the labels, in the order in which these are declared."""

_PACKAGE: Final = "check-dedup"


class Registry:
    """What one process tells; each declared metric of it exactly once."""

    def __init__(self, process: Process) -> None:
        """Begin with what is told of any process."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.process: Final = process
        self.prometheus = CollectorRegistry()
        ProcessCollector(registry=self.prometheus)
        PlatformCollector(registry=self.prometheus)
        GCCollector(registry=self.prometheus)
        self._made: set[str] = set()
        self.gauge(BUILD_INFO).labels(
            process,
            version(_PACKAGE),
            platform.python_version(),
            str(FINGERPRINT_VERSION),
            str(DECISION_VERSION),
        ).set(1)

    def counter(self, metric: Metric) -> Counter:
        """Make a counter."""
        self._take(metric, "counter")
        return Counter(
            metric.name, metric.help, metric.labels, unit=metric.unit, registry=self.prometheus
        )

    def gauge(self, metric: Metric) -> Gauge:
        """Make a gauge."""
        self._take(metric, "gauge")
        return Gauge(
            metric.name, metric.help, metric.labels, unit=metric.unit, registry=self.prometheus
        )

    def histogram(self, metric: Metric) -> Histogram:
        """Make a histogram."""
        self._take(metric, "histogram")
        return Histogram(
            metric.name,
            metric.help,
            metric.labels,
            unit=metric.unit,
            registry=self.prometheus,
            buckets=metric.buckets,
        )

    def computed(self, metric: Metric, read: Callable[[], Samples | float]) -> None:
        """Tell what `read` gives at each scrape; where it fails, this metric is left out."""
        self._take(metric, "gauge", "counter")
        self.prometheus.register(_Computed(metric, read))

    def missing(self) -> list[str]:
        """Name the metrics that are declared for this process and were not made."""
        return [
            metric.name
            for metric in METRICS
            if self.process in metric.processes and metric.name not in self._made
        ]

    def _take(self, metric: Metric, *kinds: str) -> None:
        if metric.kind not in kinds or self.process not in metric.processes:
            raise AssertionError(f"{metric.name} is not declared as a {kinds} of {self.process}")
        self._made.add(metric.name)


class Steps:
    """Where the time of a process goes."""

    def __init__(self, registry: Registry) -> None:
        """Make the metric."""
        self._seconds = registry.histogram(STEP_DURATION_SECONDS)
        self._children: dict[str, Histogram] = {}

    def took(self, step: str, seconds: float, ago_seconds: float = 0.0) -> None:
        """Count one pass through a step, which ended so long ago."""
        child = self._children.get(step)
        if child is None:
            child = self._children[step] = self._seconds.labels(step)
        child.observe(seconds)
        timeline = CURRENT.get()
        if timeline is not None:
            timeline.took(step, seconds, ago_seconds)

    @contextmanager
    def time(self, step: str) -> Iterator[None]:
        """Time a step that succeeds."""
        began = time.perf_counter()
        yield
        self.took(step, time.perf_counter() - began)


class _Computed(Collector):
    def __init__(self, metric: Metric, read: Callable[[], Samples | float]) -> None:
        self._metric = metric
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        family = self._family()
        try:
            found = self._read()
        except Exception:
            logger.exception("%s cannot be read", self._metric.name)
            return ()
        samples = found if isinstance(found, Mapping) else {(): found}
        for labels, value in samples.items():
            family.add_metric(labels, value)
        return (family,)

    def describe(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        return (self._family(),)

    def _family(self) -> CounterMetricFamily | GaugeMetricFamily:
        metric = self._metric
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        return kind(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
