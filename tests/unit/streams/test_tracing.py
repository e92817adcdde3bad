"""Traces: off unless asked for, one for a picture, whoever tells its parts."""

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_trace_id

from schemas.codec import event_id
from schemas.topics import IMAGE_MATCHED
from streams.errors import MisconfiguredError
from streams.telemetry.process import tracer
from streams.telemetry.registry import Registry, Steps
from streams.telemetry.timeline import CURRENT, Done, Tracer
from streams.telemetry.tracing import PictureTracer

VARIABLES = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_SERVICE_NAME",
)
ENDPOINT = "http://127.0.0.1:9/"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def told(service: str, *pictures: Done) -> list[ReadableSpan]:
    """What a process exports for these pictures, each with two steps."""
    exporter = InMemorySpanExporter()
    one = PictureTracer(service, exporter)
    steps = Steps(Registry("hasher"))
    for done in pictures:
        with one.noting() as timeline:
            steps.took("decode", 0.25, 0.5)
            steps.took("hash", 0.5)
        one.tell(timeline, done)
    one.close()
    return list(exporter.get_finished_spans())


def spans(found: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    """Those of a name."""
    return [span for span in found if span.name == name]


def test_without_variables_nothing_is_noted_and_nothing_imported() -> None:
    """Not even the SDK: it takes a good part of a second."""
    one = tracer("hasher")
    assert type(one) is Tracer
    with one.noting() as timeline:
        assert timeline is None
        assert CURRENT.get() is None
    one.tell(timeline, Done("ingest", "w", "1"))
    program = (
        "import sys, streams.hasher, streams.matcher, streams.api.server\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert said.stdout.strip() == b"[]"


@pytest.mark.parametrize(
    ("settings", "on"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ENDPOINT}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_the_standard_variables_decide(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, on: bool
) -> None:
    """As OpenTelemetry's specification has them."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    one = tracer("hasher")
    assert isinstance(one, PictureTracer) == on
    if isinstance(one, PictureTracer):
        one.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
def test_what_there_is_not_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, with the variable."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT)
    monkeypatch.setenv(name, value)
    with pytest.raises(MisconfiguredError, match=name):
        tracer("hasher")


def test_one_trace_for_a_picture() -> None:
    """Two processes that know nothing of each other: one trace, whose id is the outcome's."""
    hashed = told("a", Done("ingest", "w", "1", since_ms=1_000, place=("image-ingested", 2, 7)))
    matched = told("b", Done("match", "w", "1", place=("index-log", 0, 3)))
    (first,), (second,) = spans(hashed, "ingest"), spans(matched, "match")
    assert first.context is not None
    assert second.parent is not None
    assert format_trace_id(first.context.trace_id) == event_id(IMAGE_MATCHED, "w", "1")
    assert second.parent.span_id == first.context.span_id
    everything = [*hashed, *matched]
    assert {span.context and span.context.trace_id for span in everything} == {
        first.context.trace_id
    }
    assert len({span.context and span.context.span_id for span in everything}) == len(everything)
    assert first.parent is None
    assert first.start_time == 1_000_000_000
    assert (first.attributes or {})["messaging.kafka.offset"] == 7
    assert first.resource.attributes["service.name"] == "a"


def test_steps_lie_where_they_were() -> None:
    """Below their picture, with their length, each at its time."""
    found = told("a", Done("ingest", "w", "1", since_ms=1_000))
    (first,) = (span for span in found if span.parent is None)
    (decode,) = spans(found, "decode")
    (hashed,) = spans(found, "hash")
    assert decode.parent is not None
    assert first.context is not None
    assert decode.parent.span_id == first.context.span_id
    assert (decode.end_time or 0) - (decode.start_time or 0) == 250_000_000
    assert abs((decode.end_time or 0) - (hashed.start_time or 0)) < 50_000_000


def test_the_producers_span_is_linked_to() -> None:
    """In either spelling; what is no traceparent is none."""
    for name in ("traceparent", "ce_traceparent"):
        found = told("a", Done("ingest", "w", "1", 1, headers=[(name, PARENT.encode())]))
        (link,) = next(span for span in found if span.parent is None).links
        assert format_trace_id(link.context.trace_id) == PARENT[3:35]
    for value in (None, b"", b"\xff\x00", b"00-0-0-0", PARENT.encode()[:-4]):
        found = told("a", Done("ingest", "w", "1", 1, headers=[("traceparent", value)]))
        assert not next(span for span in found if span.parent is None).links


def test_a_dead_letter_is_an_error() -> None:
    """With its reason."""
    found = told("a", Done("ingest", "w", "1", 1, failed="not_an_image"))
    status = next(span for span in found if span.parent is None).status
    assert (status.status_code, status.description) == (StatusCode.ERROR, "not_an_image")


def test_all_processes_sample_the_same_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of them, as the standard variables say."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.3")
    names = [str(number) for number in range(300)]
    hashed = told("a", *(Done("ingest", "w", name, 1) for name in names))
    matched = told("b", *(Done("match", "w", name) for name in names))
    of_hashed, of_matched = (
        {span.context.trace_id for span in found if span.context is not None}
        for found in (hashed, matched)
    )
    assert of_hashed == of_matched
    assert 40 < len(of_hashed) < 140
