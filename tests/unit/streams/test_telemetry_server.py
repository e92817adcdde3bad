"""A process's metrics and probes over HTTP, also while its event loop is blocked."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from streams.errors import MisconfiguredError
from streams.probes import Probes
from streams.telemetry.server import TelemetryServer

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def probes() -> Probes:
    """Of a process that has started, without checks."""
    made = Probes()
    made.started()
    return made


@pytest.fixture
def server(probes: Probes) -> Iterator[TelemetryServer]:
    """Serving one counter, with an exemplar."""
    registry = CollectorRegistry()
    Counter("asked", "Questions.", registry=registry).inc(3, {"event_id": "abc"})
    with TelemetryServer("127.0.0.1", 0, registry, probes) as running:
        yield running


def get(server: TelemetryServer, path: str, accept: str = "*/*") -> tuple[int, str, str]:
    """Status, content type and body."""
    url = f"http://127.0.0.1:{server.port}{path}"
    request = urllib.request.Request(url, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own server
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_metrics(server: TelemetryServer) -> None:
    """As Prometheus's text, and as OpenMetrics with exemplars where that is asked for."""
    status, kind, text = get(server, "/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert "\nasked_total 3.0\n" in text
    status, kind, text = get(server, "/metrics", OPENMETRICS)
    assert (status, kind.split(";")[0]) == (200, "application/openmetrics-text")
    (family,) = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    (sample,) = (sample for sample in family.samples if sample.name == "asked_total")
    assert sample.exemplar is not None
    assert sample.exemplar.labels == {"event_id": "abc"}


def test_probes(server: TelemetryServer, probes: Probes) -> None:
    """Yes without checks; no, with the reasons, where one does not pass or fails itself."""
    assert get(server, "/livez")[0] == get(server, "/readyz")[0] == 200
    reason: str | None = "nothing is assigned"
    probes.add("ready", "assigned", lambda: reason)
    status, _, text = get(server, "/readyz")
    assert (status, json.loads(text)["failing"]) == (503, {"assigned": "nothing is assigned"})
    assert get(server, "/livez")[0] == 200
    reason = None
    assert get(server, "/readyz")[0] == 200
    probes.add("live", "broken", lambda: str(1 // 0))
    status, _, text = get(server, "/livez")
    assert status == 503
    assert "ZeroDivisionError" in json.loads(text)["failing"]["broken"]


def test_nobody_is_ready_before_all_checks_are_there() -> None:
    """A process may wait for its broker before it adds them."""
    probes = Probes()
    assert probes.failing("live") == {}
    assert probes.failing("ready") == {"start": "it has not started yet"}
    probes.add("ready", "assigned", lambda: "nothing is assigned")
    probes.started()
    assert probes.failing("ready") == {"assigned": "nothing is assigned"}


def test_anything_else(server: TelemetryServer) -> None:
    """Is not there."""
    assert get(server, "/")[0] == 404


async def test_a_blocked_event_loop(server: TelemetryServer) -> None:
    """Does not keep a scrape waiting: 50 ms is the goal, and a second bounds a busy machine."""
    seconds: list[float] = []

    def scrape() -> None:
        for _ in range(20):
            began = time.perf_counter()
            assert get(server, "/metrics")[0] == 200
            seconds.append(time.perf_counter() - began)

    scraping = asyncio.get_running_loop().run_in_executor(None, scrape)
    give_up = time.perf_counter() + 30
    while len(seconds) < 20 and time.perf_counter() < give_up:  # the loop never runs in here
        time.sleep(0.01)  # noqa: ASYNC251 - blocking the loop is what this is about
        sum(range(20_000))
    assert len(seconds) == 20, scraping
    print(f"scrapes with the loop blocked: median {sorted(seconds)[10] * 1000:.1f} ms")  # noqa: T201
    assert sorted(seconds)[10] < 1.0
    await scraping


def test_a_port_in_use(server: TelemetryServer, probes: Probes) -> None:
    """Is told by its name."""
    with pytest.raises(MisconfiguredError, match=rf"127\.0\.0\.1:{server.port}"):
        TelemetryServer("127.0.0.1", server.port, CollectorRegistry(), probes)
