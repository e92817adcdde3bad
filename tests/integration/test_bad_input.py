"""Bad input ends in dead letters, each with its reason, odd pictures in outcomes; all unharmed.

All of it is published at once, each bad record between two good ones, and each test looks at one.
"""

import base64
import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from confluent_kafka import KafkaException

from deploy.local.client import Client, Record
from deploy.local.stack import Stack
from schemas.codec import Headers, encode_json
from schemas.records import ImageIngested
from schemas.topics import IMAGE_INGESTED, INLINE_PICTURE_LIMIT_BYTES, MEBIBYTE, TOPICS
from tests.integration.conftest import PICTURE_LIMIT_BYTES
from tests.integration.pictures import bomb, odd_files, photograph, photograph_file, written

WAIT_SECONDS = 90.0
SILENT_SECONDS = 30.0
PICTURE = photograph_file(1_000)
# A header of the producer's own, twice, and one without a value: all of them are kept.
HEADERS: list[tuple[str, bytes | None]] = [
    ("x-trace", b"\x00\xff"),
    ("x-trace", b"2"),
    ("x-empty", None),
]


class Host(BaseHTTPRequestHandler):
    """A host of pictures that misbehaves as its path says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer, in one of many bad ways."""
        self.close_connection = True
        match self.path:
            case "/silent":
                time.sleep(SILENT_SECONDS)
            case "/missing":
                self._answer(404, {"Content-Length": "0"}, b"")
            case "/empty":
                self._answer(200, {"Content-Length": "0"}, b"")
            case "/text.jpg":
                text = b"This is no picture."
                self._answer(200, {"Content-Length": str(len(text))}, text)
            case "/shorter-than-announced":
                self._answer(200, {"Content-Length": str(len(PICTURE) + 10)}, PICTURE)
            case "/longer-than-announced":
                self._answer(200, {"Content-Length": str(len(PICTURE) - 10)}, PICTURE)
            case "/announced-too-large":
                self._answer(200, {"Content-Length": str(PICTURE_LIMIT_BYTES + 1)}, PICTURE)
            case "/endless":
                self._answer(200, {}, bytes(PICTURE_LIMIT_BYTES + MEBIBYTE))
            case _:
                self._answer(302, {"Location": "/round-and-round", "Content-Length": "0"}, b"")

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Does not wait for silent answers when it stops, nor report that a client left."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client that refuses the rest of a body is what is wanted."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """The misbehaving host's URL."""
    with Server(("127.0.0.1", 0), Host) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def inline(image_id: str, content: bytes) -> bytes:
    """An event as a producer would write it by hand."""
    encoded = base64.b64encode(content).decode()
    return json.dumps({"workspace": "bad", "image_id": image_id, "content": encoded}).encode()


def by_url(image_id: str, url: str) -> bytes:
    """The same, with a URL."""
    return json.dumps({"workspace": "bad", "image_id": image_id, "url": url}).encode()


# Reason, and the picture that is sent inline.
PICTURES: dict[str, tuple[str, bytes]] = {
    "truncated-jpeg": ("picture_truncated", PICTURE[: len(PICTURE) // 2]),
    "zero-bytes": ("picture_empty", b""),
    "text-named-jpg": ("not_an_image", b"This is no picture."),
    "bomb": ("too_many_pixels", bomb()),
    "inline-too-large": ("picture_too_large", bytes(INLINE_PICTURE_LIMIT_BYTES + 1)),
}
# Reason, and what follows the host in the URL.
PATHS: dict[str, tuple[str, str]] = {
    "never-answers": ("fetch_timeout", "/silent"),
    "not-found": ("http_status", "/missing"),
    "zero-bytes-by-url": ("picture_empty", "/empty"),
    "text-named-jpg-by-url": ("not_an_image", "/text.jpg"),
    "shorter-than-announced": ("body_length_wrong", "/shorter-than-announced"),
    "longer-than-announced": ("body_length_wrong", "/longer-than-announced"),
    "announced-too-large": ("picture_too_large", "/announced-too-large"),
    "endless": ("picture_too_large", "/endless"),
    "redirects-for-ever": ("too_many_redirects", "/redirect"),
}
# Reason, and the whole URL.
URLS: dict[str, tuple[str, str]] = {
    "nobody-listens": ("fetch_failed", "http://127.0.0.1:1/picture.jpg"),
    "not-http": ("url_refused", "ftp://127.0.0.1/picture.jpg"),
}
# Reason, key (an image id stands for itself) and value.
RECORDS: dict[str, tuple[str, bytes | None, bytes | None]] = {
    "key-missing": ("key_missing", None, inline("key-missing", PICTURE)),
    "key-empty": ("key_missing", b"", inline("key-empty", PICTURE)),
    "key-with-newline": ("key_invalid", b"a\nb", inline("a\nb", PICTURE)),
    "key-of-another": ("key_mismatch", b"another", inline("key-of-another", PICTURE)),
    "workspace-missing": (
        "workspace_missing",
        b"workspace-missing",
        b'{"image_id":"workspace-missing","url":"http://127.0.0.1/"}',
    ),
    "workspace-with-nul": (
        "workspace_invalid",
        b"workspace-with-nul",
        b'{"workspace":"a\\u0000b","image_id":"workspace-with-nul","url":"http://127.0.0.1/"}',
    ),
    "no-json": ("not_json", b"no-json", b"\xff\xd8\xff picture bytes without an envelope"),
    "wrong-schema": (
        "schema_violation",
        b"wrong-schema",
        b'{"workspace":"bad","image_id":"wrong-schema","url":7}',
    ),
    "neither-url-nor-content": (
        "schema_violation",
        b"neither",
        b'{"workspace":"bad","image_id":"neither"}',
    ),
    "null-value": ("value_missing", b"null-value", None),
}
REASON = {
    name: entry[0] for table in (PICTURES, PATHS, URLS, RECORDS) for name, entry in table.items()
}
ODD = odd_files(photograph(1_001))


@dataclass(frozen=True, slots=True)
class Published:
    """One record as it was published, and what came of it."""

    key: bytes | None
    value: bytes | None
    letters: list[Record]


@pytest.fixture(scope="module")
def ended(client: Client, stack: Stack, host: str) -> tuple[dict[str, Published], list[str]]:
    """Publish all bad records between good ones; wait until each has ended."""
    bad: dict[str, tuple[bytes | None, bytes | None]] = {}
    for name, (_, content) in PICTURES.items():
        bad[name] = name.encode(), inline(name, content)
    for name, (_, path) in PATHS.items():
        bad[name] = name.encode(), by_url(name, host + path)
    for name, (_, url) in URLS.items():
        bad[name] = name.encode(), by_url(name, url)
    for name, (_, key, value) in RECORDS.items():
        bad[name] = key, value
    neighbours = [f"neighbour-{uuid.uuid4().hex}" for _ in bad]
    records: list[tuple[str, bytes | None, bytes | None, Headers]] = []
    for neighbour, (key, value) in zip(neighbours, bad.values(), strict=True):
        records.append((IMAGE_INGESTED, neighbour.encode(), inline(neighbour, PICTURE), ()))
        records.append((IMAGE_INGESTED, key, value, HEADERS))
    places = client.send(*records)
    by_place = dict(zip(places[1::2], bad, strict=True))

    def letters(name: str) -> list[Record]:
        return [r for r in client.dead_letters() if by_place.get(_source(r)) == name]

    assert client.wait(
        lambda: all(map(letters, bad)) and all(map(client.ended, neighbours)),
        WAIT_SECONDS,
        meanwhile=stack.require_alive,
    ), [name for name in bad if not letters(name)]
    return {name: Published(*bad[name], letters(name)) for name in bad}, neighbours


def _source(letter: Record) -> tuple[int, int]:
    return int(letter.header("dlq-source-partition")), int(letter.header("dlq-source-offset"))


@pytest.mark.parametrize("name", REASON)
def test_a_dead_letter(
    ended: tuple[dict[str, Published], list[str]], client: Client, name: str
) -> None:
    """It is the only thing that comes of it: the record as it was, on its partition, and why."""
    published = ended[0][name]
    (letter,) = published.letters
    assert letter.header("dlq-reason") == REASON[name]
    assert letter.header("dlq-source-topic") == IMAGE_INGESTED
    assert (letter.key, letter.value) == (published.key, published.value)
    assert list(letter.headers[: len(HEADERS)]) == HEADERS
    assert letter.partition == int(letter.header("dlq-source-partition"))
    assert client.outcomes((published.key or b"").decode()) == []


def test_neighbours_are_unharmed(
    ended: tuple[dict[str, Published], list[str]], client: Client
) -> None:
    """Each good picture between the bad ones has its outcome, and no dead letter."""
    for neighbour in ended[1]:
        assert len(client.outcomes(neighbour)) == 1
        assert client.dead_letters(neighbour) == []


@pytest.fixture(scope="module")
def odd(client: Client, stack: Stack) -> dict[str, Record]:
    """Publish a photograph, and once it is known all odd files of it."""
    dot = written(photograph(1_002).resize((1, 1)), "PNG")
    other_dot = written(photograph(1_003).resize((1, 1)), "BMP")
    workspace = f"odd-{uuid.uuid4().hex}"
    batches = [
        {"plain": written(photograph(1_001), "PNG"), "one-pixel": dot},
        ODD | {"one-pixel-again": dot, "one-pixel-other": other_dot},
    ]
    ids = {name: f"{name}-{workspace}" for batch in batches for name in batch}
    for batch in batches:
        client.ingest(*(ImageIngested(workspace, ids[name], content=batch[name]) for name in batch))
        assert client.wait(
            lambda batch=batch: all(client.ended(ids[name]) for name in batch),  # type: ignore[misc]
            WAIT_SECONDS,
            meanwhile=stack.require_alive,
        )
    return {name: record for name in ids for record in client.outcomes(ids[name])}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_matches_the_plain_one(odd: dict[str, Record], name: str) -> None:
    """However it is stored, it is hashed as it is displayed, animations by their first frame."""
    plain = odd["plain"].outcome()
    found = {match.image_id: match for match in odd[name].outcome().matches}
    # A palette's colours and its transparent one change the picture a little: not the tier counts.
    assert found[plain.image_id].score <= 4


def test_one_pixel_relates_to_identical_bytes_only(odd: dict[str, Record]) -> None:
    """It is hashed, marked as low information, and no other small picture is like it."""
    first, again, other = (
        odd[name].outcome() for name in ("one-pixel", "one-pixel-again", "one-pixel-other")
    )
    assert first.low_information
    assert [(m.image_id, m.relation) for m in again.matches] == [(first.image_id, "identical")]
    assert other.matches == ()


def _padded(image_id: str, size: int, *, good: bool) -> bytes:
    """An event of so many bytes, with an unknown field; or garbage of as many."""
    if not good:
        return b"\xff" * size
    event = encode_json(ImageIngested("sizes", image_id, content=PICTURE))
    head = event[:-1] + b',"padding":"'
    return head + b"x" * (size - len(head) - 2) + b'"}'


@pytest.mark.parametrize("good", [True, False], ids=["good", "garbage"])
def test_the_largest_record_that_the_topic_takes(
    client: Client, stack: Stack, *, good: bool
) -> None:
    """A good one gets an outcome, garbage goes to the dead letters whole; nobody stops."""
    limit = TOPICS[IMAGE_INGESTED].max_message_bytes
    image_id = f"largest-{uuid.uuid4().hex}"

    tries = 0

    def accepted(size: int) -> bool:
        nonlocal tries
        record = (IMAGE_INGESTED, image_id.encode(), _padded(image_id, size, good=good), ())
        try:
            client.send(record)
        except KafkaException:
            return False
        tries += 1
        return True

    # A record's frame has some 110 bytes with this key; what fits is found by trying.
    low, high = limit - 256, limit
    assert accepted(low)
    assert not accepted(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepted(middle) else (low, middle)
    largest = _padded(image_id, low, good=good)

    def told() -> bool:
        if good:
            return len(client.outcomes(image_id)) == tries
        return any(letter.value == largest for letter in client.dead_letters(image_id))

    assert client.wait(told, WAIT_SECONDS, meanwhile=stack.require_alive)
    assert limit - low < 128
    reasons = {letter.header("dlq-reason") for letter in client.dead_letters(image_id)}
    assert reasons == (set() if good else {"not_json"})
