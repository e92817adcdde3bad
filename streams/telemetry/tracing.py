"""OpenTelemetry traces: one for each picture, from its event to its outcome.

Off unless the standard variables turn them on: `OTEL_EXPORTER_OTLP_ENDPOINT` (or
`..._TRACES_ENDPOINT`) names a collector, or `OTEL_TRACES_EXPORTER` is `otlp` or `console`.
`OTEL_SDK_DISABLED=true` and `OTEL_TRACES_EXPORTER=none` turn them off whatever else is set. All
others (headers, sampler, service name and so on) are read by the SDK itself.

Nothing is carried from process to process, so that what is written to Kafka is the same bytes with
traces and without. The id of a picture's trace is the id of its outcome, which follows from
workspace and image id (`ce_id` of `image-matched`, `event_id` in log lines and exemplars); the id
of its first span follows from that. The span in which a producer sent an event (`ce_traceparent` as
in the CloudEvents extension, or `traceparent`) is linked to.

The steps are those of `check_dedup_step_duration_seconds`. The matcher works on groups: each
picture has the steps of its group.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from schemas.codec import event_id
from schemas.topics import IMAGE_MATCHED
from streams.errors import MisconfiguredError
from streams.telemetry.timeline import CURRENT, Done, Timeline, Tracer

_PROTOCOL: Final = "http/protobuf"
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PARENTS: Final = ("ce_traceparent", "traceparent")


def tracer_from_environment(process: str) -> Tracer | None:
    """Give a tracer, or None where traces are turned off.

    Raises:
        MisconfiguredError: an exporter or a protocol is wanted that there is not.
    """
    exporter = _exporter(os.environ)
    if exporter is None:
        return None
    return PictureTracer(os.environ.get("OTEL_SERVICE_NAME") or f"check-dedup-{process}", exporter)


class PictureTracer(Tracer):
    """Tells an exporter of pictures; used by one thread."""

    def __init__(self, service: str, exporter: SpanExporter) -> None:
        """Begin to export, in batches and in a thread of its own, until the process ends."""
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: service}), id_generator=self._ids
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("check-dedup")

    @contextmanager
    def noting(self) -> Iterator[Timeline | None]:
        """Have the steps noted that are heard of inside; gives what they are noted in."""
        timeline = Timeline()
        before = CURRENT.set(timeline)
        try:
            yield timeline
        finally:
            CURRENT.reset(before)

    def tell(self, timeline: Timeline | None, done: Done) -> None:
        """Make a span of what was done and one of each step."""
        if timeline is None:
            return
        begun_ns, context = timeline.begun_ns, Context()
        trace_id, first_span_id = trace_ids(done.workspace, done.image_id)
        if done.since_ms is not None:
            begun_ns = done.since_ms * 1_000_000
            self._ids.next = trace_id, first_span_id
        else:
            context = self._below(trace_id, first_span_id)
        span = self._tracer.start_span(
            done.name,
            context,
            kind=SpanKind.CONSUMER,
            attributes=_attributes(done),
            links=_links(done.headers),
            start_time=begun_ns,
        )
        self._ids.next = None
        if done.failed is not None:
            span.set_status(Status(StatusCode.ERROR, done.failed))
        inside = set_span_in_context(span)
        for step, start_ns, end_ns in timeline.steps:
            self._tracer.start_span(step, inside, start_time=start_ns).end(end_ns)
        span.end()

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()

    def _below(self, trace_id: int, first_span_id: int) -> Context:
        """The first span of a trace as another process told it; all sample the same traces."""
        sampled = self._provider.sampler.should_sample(None, trace_id, "").decision
        flags = TraceFlags.SAMPLED if sampled == Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT
        first = SpanContext(trace_id, first_span_id, is_remote=True, trace_flags=TraceFlags(flags))
        return set_span_in_context(NonRecordingSpan(first), Context())


def trace_ids(workspace: str, image_id: str) -> tuple[int, int]:
    """Give the ids of a picture's trace and of its first span."""
    outcome = event_id(IMAGE_MATCHED, workspace, image_id)
    return int(outcome, 16), int(event_id("span", outcome)[:16], 16)


def _attributes(done: Done) -> dict[str, str | int]:
    """By the semantic conventions where these have a name for it."""
    found: dict[str, str | int] = {
        "check_dedup.workspace": done.workspace,
        "check_dedup.image_id": done.image_id,
    }
    if done.place is not None:
        topic, partition, offset = done.place
        found |= {
            "messaging.system": "kafka",
            "messaging.destination.name": topic,
            "messaging.destination.partition.id": str(partition),
            "messaging.kafka.offset": offset,
        }
    return found


class _Ids(RandomIdGenerator):
    """Random ids, but for the next first span of a trace."""

    def __init__(self) -> None:
        self.next: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return self.next[0] if self.next else super().generate_trace_id()

    def generate_span_id(self) -> int:
        return self.next[1] if self.next else super().generate_span_id()

    def is_trace_id_random(self) -> bool:
        return False


def _exporter(environment: Mapping[str, str]) -> SpanExporter | None:
    # Without a choice an endpoint has been named: see `streams.telemetry.process.tracer`.
    wanted = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_disabled or wanted == "none":
        return None
    if wanted == "console":
        return ConsoleSpanExporter()
    if wanted != "otlp":
        raise MisconfiguredError(f"OTEL_TRACES_EXPORTER: {wanted!r} is none of otlp, console, none")
    for name in _PROTOCOLS:
        if environment.get(name, _PROTOCOL) not in {"", _PROTOCOL}:
            raise MisconfiguredError(f"{name}: {environment[name]!r} is not there, {_PROTOCOL} is")
    return OTLPSpanExporter()


def _links(headers: Sequence[tuple[str, bytes | None]]) -> list[Link]:
    """The span in which an event was sent; what is malformed is none."""
    given = dict(headers)
    for name in _PARENTS:
        value = (given.get(name) or b"").decode("ascii", "replace")
        context = TraceContextTextMapPropagator().extract({"traceparent": value}, Context())
        found = get_current_span(context).get_span_context()
        if found.is_valid:
            return [Link(found)]
    return []
