"""The telemetry of a process: its metrics, its probes, and the server that tells both.

Called first by each long-running process, so that it is seen from its start.
"""

import os
from typing import Final

from agents.hash_image import Fetch
from schemas.reasons import Reason, Rejection
from streams.decoding.pool import DecodePool
from streams.fetching.fetch import Fetcher
from streams.probes import Probes
from streams.settings import Settings
from streams.telemetry import metrics
from streams.telemetry.metrics import Process
from streams.telemetry.registry import Registry, Steps
from streams.telemetry.server import TelemetryServer
from streams.telemetry.timeline import Tracer

# Why a fetch may be tried again; there from the start, so that the first retry is a rise.
_PASSING: Final[tuple[Reason, ...]] = (
    "fetch_failed",
    "fetch_timeout",
    "http_status",
    "body_length_wrong",
)

_MAKE_TRACES: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)


def timed_fetch(fetch: Fetch, steps: Steps) -> Fetch:
    """Give a fetch whose time is told as the step `fetch`."""

    async def timed(url: str, workspace: str, /) -> bytes | Rejection:
        with steps.time("fetch"):
            return await fetch(url, workspace)

    return timed


class Telemetry:
    """What one process tells of itself."""

    def __init__(self, process: Process, settings: Settings) -> None:
        """Serve at once, where the settings name a port.

        Raises:
            MisconfiguredError: the address cannot be listened on, or traces are wanted that there
                are not.
        """
        self.tracer = tracer(process)
        self.registry = Registry(process)
        self.probes = Probes()
        self.server: TelemetryServer | None = None
        if settings.metrics_port:
            self.server = TelemetryServer(
                settings.metrics_host,
                settings.metrics_port,
                self.registry.prometheus,
                self.probes,
            )

    def picture_parts(self, fetcher: Fetcher, pool: DecodePool) -> None:
        """Tell of fetching and of the decode processes."""
        registry = self.registry
        retries = registry.counter(metrics.FETCH_RETRIES_TOTAL)
        for reason in _PASSING:
            retries.labels(reason)
        pauses = registry.counter(metrics.FETCH_PAUSE_SECONDS_TOTAL)

        def retrying(reason: str, pause_seconds: float) -> None:
            retries.labels(reason).inc()
            pauses.inc(pause_seconds)

        fetcher.on_retry = retrying
        registry.computed(metrics.FETCHES_IN_FLIGHT, lambda: fetcher.in_flight)
        registry.computed(metrics.FETCH_FAILING_HOSTS, lambda: fetcher.failing_hosts)
        registry.computed(metrics.DECODE_RESTARTS_TOTAL, lambda: pool.restarts)


def tracer(process: str) -> Tracer:
    """Give the tracer that the standard variables of OpenTelemetry want.

    Raises:
        MisconfiguredError: they want what there is not.
    """
    if not any(os.environ.get(name) for name in _MAKE_TRACES):
        return Tracer()
    from streams.telemetry.tracing import tracer_from_environment  # noqa: PLC0415 - 0.4 s

    return tracer_from_environment(process) or Tracer()
