"""One trace from an event to its outcome, told by real processes to a real receiver of OTLP."""

import os
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from deploy.local.broker import Broker
from deploy.local.client import Client
from deploy.local.stack import Stack, without_settings
from schemas.codec import encode_json
from schemas.records import ImageIngested
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED, INDEX_LOG
from tests.integration.pictures import photograph_file

WAIT_SECONDS = 60.0
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Receiver(ThreadingHTTPServer):
    """Takes traces as OTLP over HTTP; spans by the service that told them."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[tuple[str, Span]] = []

    def of(self, trace_id: bytes) -> dict[str, dict[str, Span]]:
        """The spans of a trace: by service, by name."""
        found: dict[str, dict[str, Span]] = {}
        for service, span in list(self.spans):
            if span.trace_id == trace_id:
                found.setdefault(service, {})[span.name] = span
        return found


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        """Read a batch."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] is None and self.path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {one.key: one.value.string_value for one in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.server.spans += [(names["service.name"], span) for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A running one."""
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def traced(
    own_broker: Broker, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The product with the standard variables set, and nothing else."""
    with Stack(
        tmp_path_factory.mktemp("traced"),
        broker=own_broker,
        environment={
            **without_settings(os.environ),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        },
    ) as running:
        running.await_ready()
        yield running


def test_one_trace_from_the_event_to_its_outcome(
    traced: Stack, receiver: Receiver, stack: Stack, client: Client
) -> None:
    """Both processes' parts, with their steps, linked to the producer's span; the same records."""
    image_id = f"picture-{uuid.uuid4().hex}"
    event = encode_json(ImageIngested("traced", image_id, content=photograph_file(20_000)))
    record = (IMAGE_INGESTED, image_id.encode(), event, (("traceparent", PARENT.encode()),))
    with Client(traced.settings, (IMAGE_MATCHED, INDEX_LOG)) as listening:
        listening.send(record)
        assert listening.wait(
            lambda: bool(listening.outcomes(image_id)),
            WAIT_SECONDS,
            meanwhile=traced.require_alive,
        )
        (outcome,) = listening.outcomes(image_id)
        trace_id = bytes.fromhex(outcome.header("ce_id"))
        assert listening.wait(
            lambda: receiver.of(trace_id).keys() == {"check-dedup-hasher", "check-dedup-matcher"},
            WAIT_SECONDS,
            meanwhile=traced.require_alive,
        )
        logged = listening.records(INDEX_LOG)[-1]
    hasher, matcher = (
        receiver.of(trace_id)[f"check-dedup-{process}"] for process in ("hasher", "matcher")
    )
    assert hasher.keys() == {"ingest", "queue", "decode", "hash", "deliver"}
    assert matcher.keys() == {"match", "stage", "search", "decide", "deliver", "apply"}
    assert matcher["match"].parent_span_id == hasher["ingest"].span_id
    assert hasher["ingest"].links[0].trace_id.hex() == PARENT[3:35]
    assert {matcher[step].parent_span_id for step in matcher.keys() - {"match"}} == {
        matcher["match"].span_id
    }
    # Without traces the same event gives the same records, but for keys, places and times.
    client.send(record)
    assert client.wait(
        lambda: bool(client.outcomes(image_id)), WAIT_SECONDS, meanwhile=stack.require_alive
    )
    (plain,), plain_logged = client.outcomes(image_id), client.records(INDEX_LOG)[-1]
    for one, other in ((plain, outcome), (plain_logged, logged)):
        assert [name for name, _ in one.headers] == [name for name, _ in other.headers]
    assert plain.header("ce_id") == outcome.header("ce_id")
