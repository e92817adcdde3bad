"""The HTTP API as it runs: real processes on a real broker, hostile clients, a killed replica."""

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np
import psutil
import pytest
from PIL import Image

from deploy.local.broker import Broker
from schemas.codec import decode_log
from schemas.records import Hashed
from schemas.topics import INDEX_LOG, MEBIBYTE
from streams.api import keys
from streams.kafka.log import LogReader
from streams.settings import Settings

COMMAND: Final = Path(sys.executable).with_name("check-dedup")
READY_SECONDS: Final = 60.0
MATCH: Final = "/v1/match/"


class Product:
    """Kafka, a hasher, a matcher and API replicas, each the real command."""

    def __init__(self, directory: Path, bootstrap: str) -> None:
        self.directory = directory
        self.environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith("CHECK_DEDUP_")},
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "CHECK_DEDUP_PARTITIONS": "2",
            "CHECK_DEDUP_DECODE_PROCESSES": "1",
            "CHECK_DEDUP_DATA_DIRECTORY": str(directory / "data"),
            "CHECK_DEDUP_KEYS_FILE": str(directory / "keys.json"),
            "CHECK_DEDUP_ANSWER_AGE_LIMIT_SECONDS": "5",
            "CHECK_DEDUP_RATE_BURST": "1000",
            "CHECK_DEDUP_RATE_PER_SECOND": "1000",
            "CHECK_DEDUP_SESSION_TIMEOUT_SECONDS": "6",
            "CHECK_DEDUP_INSTANCE_ID": "test",
        }
        self.settings = Settings.from_environment(self.environment)
        self.processes: list[subprocess.Popen[bytes]] = []

    def command(self, *words: str) -> str:
        """Run a command to its end."""
        done = subprocess.run(
            [COMMAND, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, role: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start a process."""
        with (self.directory / f"{role}.log").open("ab") as log:
            process = subprocess.Popen(
                [COMMAND, role], env={**self.environment, **settings}, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def start_api(self) -> "Replica":
        """Start an API replica on a free port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return Replica(self.start("api", CHECK_DEDUP_API_PORT=str(port)), port)

    def key(self, workspace: str) -> dict[str, str]:
        """Make a key for a workspace, and give its header."""
        path = self.settings.keys_file
        return {"X-Api-Key": keys.create(path, workspace, ["match", "read"], now_ms=0)}

    def logged(self, workspace: str) -> list[Hashed]:
        """Read all pictures of a workspace from the log."""
        found: list[Hashed] = []
        with closing(LogReader(self.settings, INDEX_LOG)) as reader:
            for partition in range(self.settings.partitions):
                for batch in reader.read_range(partition, *reader.watermarks(partition)):
                    records = (decode_log(entry.value or b"") for entry in batch)
                    found += [r for r in records if isinstance(r, Hashed)]
        return [record for record in found if record.workspace == workspace]

    def stop(self) -> None:
        """Stop what still runs."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


class Replica:
    """One API process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def url(self, path: str = MATCH) -> str:
        """Give the address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def resident_bytes(self) -> int:
        """How much memory it has, its pool not counted."""
        found: int = psutil.Process(self.process.pid).memory_info().rss
        return found

    async def ready(self, session: aiohttp.ClientSession) -> None:
        """Wait until somebody answers for each partition."""
        deadline = time.monotonic() + READY_SECONDS
        body: object = None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the API ended"
            try:
                async with session.get(self.url("/readyz")) as response:
                    body = await response.json()
                    if body == {"status": "ok", "late_partitions": []}:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)
        raise AssertionError(f"not ready: {body}")


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Run all of it but the API."""
    directory = tmp_path_factory.mktemp("api")
    with Broker(directory / "kafka") as broker:
        made = Product(directory, broker.bootstrap)
        made.command("topics", "create")
        try:
            made.start("matcher")
            made.start("hasher")
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def replica(product: Product) -> Replica:
    """Run an API replica for the tests that leave it as it was."""
    return product.start_api()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Give an HTTP client."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as made:
        yield made


@pytest.fixture
async def api(replica: Replica, session: aiohttp.ClientSession) -> Replica:
    """Give the replica, ready."""
    await replica.ready(session)
    return replica


@pytest.fixture
def workspace() -> str:
    """Give a workspace that nobody else uses."""
    return f"w-{uuid.uuid4().hex}"


def picture(seed: int, *, side: int = 300, quality: int = 92) -> bytes:
    """Make a picture: another seed is another picture, other sizes are copies."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8))
    file = io.BytesIO()
    scene = coarse.resize((600, 600), Image.Resampling.BICUBIC)
    scene.resize((side, side), Image.Resampling.LANCZOS).save(file, "JPEG", quality=quality)
    return file.getvalue()


async def send(
    session: aiohttp.ClientSession,
    url: str,
    content: bytes,
    headers: dict[str, str],
    **query: str,
) -> tuple[int, dict[str, object]]:
    """Send a picture as a multipart field."""
    form = aiohttp.FormData()
    form.add_field("image", content, filename="p.jpg", content_type="image/jpeg")
    async with session.post(url, data=form, headers=headers, params=query) as response:
        return response.status, await response.json()


async def test_the_three_requests(
    api: Replica, product: Product, session: aiohttp.ClientSession, workspace: str
) -> None:
    """No match; a smaller copy matches the first; another workspace sees nothing."""
    headers = product.key(workspace)
    first = picture(1)
    assert await send(session, api.url(), first, headers) == (
        200,
        {"success": True, "match": False},
    )
    status, body = await send(session, api.url(), picture(1, side=200, quality=70), headers)
    assert (status, body["match"]) == (200, True)
    assert isinstance(body["closest_match"], dict)
    assert set(body["closest_match"]) == {"sha256", "score"}
    status, body = await send(session, api.url(), first, headers, threshold="0", detail="true")
    assert body["closest_match"] is not None
    assert isinstance(body["matches"], list)
    assert body["matches"][0]["relation"] == "identical"
    other = product.key(f"{workspace}-other")
    assert (await send(session, api.url(), first, other))[1]["match"] is False


async def test_events_and_requests_see_each_other(
    api: Replica,
    product: Product,
    session: aiohttp.ClientSession,
    workspace: str,
    tmp_path: Path,
) -> None:
    """One index: what came as an event matches a request, and the other way round."""
    headers = product.key(workspace)
    event = tmp_path / "event.jpg"
    event.write_bytes(picture(2))
    product.command("publish", str(event), "--workspace", workspace, "--wait")
    _, body = await send(session, api.url(), picture(2, side=250), headers, detail="true")
    assert isinstance(body["matches"], list)
    assert body["matches"][0]["origin"] == "event"
    assert (await send(session, api.url(), picture(3), headers))[1]["match"] is False
    event.write_bytes(picture(3, side=250))
    printed = product.command("publish", str(event), "--workspace", workspace, "--wait")
    assert "confirmed" in printed


async def test_asking_leaves_no_trace(
    api: Replica, product: Product, session: aiohttp.ClientSession, workspace: str
) -> None:
    """The same answer as a request, and the log as it was."""
    headers = product.key(workspace)
    await send(session, api.url(), picture(4), headers)
    for _ in range(2):
        _, body = await send(
            session, api.url(), picture(4, side=200), headers, store="false", detail="true"
        )
        assert isinstance(body["matches"], list)
        assert len(body["matches"]) == 1
    assert len(product.logged(workspace)) == 1


async def test_what_is_known(
    api: Replica, product: Product, session: aiohttp.ClientSession, workspace: str
) -> None:
    """A picture's id and relations; for another workspace there is nothing."""
    headers = product.key(workspace)
    content = picture(5)
    await send(session, api.url(), picture(5, side=200), headers, image_id="first")
    await send(session, api.url(), content, headers, image_id="second", team_id="7")
    (record,) = [r for r in product.logged(workspace) if r.image_id == "second"]
    url = api.url(f"/v1/images/{record.fingerprint.sha256.hex()}")
    async with session.get(url, headers=headers) as response:
        (image,) = (await response.json())["images"]
    assert (image["image_id"], image["check"]) == ("second", {"team_id": 7})
    assert [match["image_id"] for match in image["matches"]] == ["first"]
    async with session.get(url, headers=product.key("nobody")) as response:
        assert response.status == 404


async def test_a_retry_is_the_same_picture(
    api: Replica, product: Product, session: aiohttp.ClientSession, workspace: str
) -> None:
    """Same key and body: same answer; the index has one picture more, not two."""
    headers = product.key(workspace)
    await send(session, api.url(), picture(6), headers)
    keyed = headers | {"Idempotency-Key": "one"}
    answers = [
        await send(session, api.url(), picture(6, side=200), keyed, detail="true") for _ in range(2)
    ]
    assert answers[0] == answers[1]
    _, body = await send(session, api.url(), picture(6), headers, store="false", detail="true")
    assert isinstance(body["matches"], list)
    assert len(body["matches"]) == 2
    status, _ = await send(session, api.url(), picture(7), keyed)
    assert status == 422


def bomb() -> bytes:
    """Make a small PNG of 40,000 times 40,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return len(content).to_bytes(4) + checked + zlib.crc32(checked).to_bytes(4)

    side = (40_000).to_bytes(4)
    header = chunk(b"IHDR", side + side + b"\x08\x00\x00\x00\x00")
    pixels = chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://169.254.169.254/latest/meta-data/", "address_refused"),
        ("http://localhost:9092/", "address_refused"),
        ("http://2130706433/", "address_refused"),
        ("http://[::ffff:10.0.0.1]/", "address_refused"),
        ("file:///etc/passwd", "url_refused"),
        ("http://user:word@example.org/", "url_refused"),
    ],
)
async def test_hostile_urls(
    api: Replica, product: Product, session: aiohttp.ClientSession, url: str, code: str
) -> None:
    """No address inside is reached, by whatever name or number."""
    async with session.post(api.url(), json={"url": url}, headers=product.key("w")) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == code


async def test_hostile_bodies(
    api: Replica, product: Product, session: aiohttp.ClientSession
) -> None:
    """A bomb, 200 MB, a multipart without end, a header too long: refused, in bounded memory."""
    headers = product.key("w")
    status, body = await send(session, api.url(), bomb(), headers)
    assert (status, body["error"]["code"]) == (422, "too_many_pixels")  # type: ignore[index]

    async def many(opening: bytes, piece: bytes, pieces: int) -> AsyncIterator[bytes]:
        yield opening
        for _ in range(pieces):
            yield piece

    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n'
    multipart = headers | {"Content-Type": "multipart/form-data; boundary=b"}
    for sent, opening, piece in (
        (headers | {"Content-Type": "image/png"}, b"", bytes(MEBIBYTE)),
        (multipart, b"", part * 20_000),
        (multipart, part[:-4], b"x" * MEBIBYTE),
    ):
        statuses = await asyncio.gather(
            *(_status(session, api.url(), many(opening, piece, 200), sent) for _ in range(4))
        )
        assert set(statuses) <= {413, 503}, statuses
    async with session.post(api.url(), headers=headers | {"X-Long": "a" * 10_000}) as response:
        assert response.status == 400
    assert api.resident_bytes() < 300 * MEBIBYTE
    log = (product.directory / "api.log").read_text()
    assert headers["X-Api-Key"] not in log
    assert "Traceback" not in log


async def _status(
    session: aiohttp.ClientSession, url: str, body: AsyncIterator[bytes], headers: dict[str, str]
) -> int:
    async with session.post(url, data=body, headers=headers) as response:
        return response.status


async def test_a_header_that_never_ends(api: Replica) -> None:
    """A connection that sends a header byte by byte is closed, as is a silent one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"POST /v1/match/ HTTP/1.1\r\nHost: h\r\n")
    trickle = asyncio.create_task(_trickle(writer))
    assert await asyncio.wait_for(reader.read(), 25) == b""
    trickle.cancel()
    writer.close()


async def _trickle(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"X-Slow: 1\r\n")
        await asyncio.sleep(1)


async def test_the_server_is_as_its_document_says(
    api: Replica, product: Product, tmp_path: Path
) -> None:
    """Generated requests, good and bad: no 5xx, no undocumented status, no other body."""
    command = [
        *(COMMAND.with_name("schemathesis"), "run", api.url("/openapi.json")),
        *("--header", f"X-Api-Key: {product.key('schemathesis')['X-Api-Key']}"),
        *("--phases", "coverage,fuzzing,stateful", "--max-examples", "30", "--seed", "1"),
        # Whether bytes are a picture is nothing that a schema can say.
        *("--exclude-checks", "positive_data_acceptance"),
        # The older paths are the same handler.
        *("--exclude-deprecated", "--continue-on-failure", "--no-color"),
    ]
    run = partial(subprocess.run, capture_output=True, text=True, check=False, timeout=240)
    done = await asyncio.to_thread(run, command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


async def test_one_of_two_replicas_is_killed(
    product: Product, session: aiohttp.ClientSession, workspace: str
) -> None:
    """Every request is answered, by a retry where need be; the log knows each picture by one id."""
    replicas = [product.start_api(), product.start_api()]
    for each in replicas:
        await each.ready(session)
    headers = product.key(workspace)
    requests = 80
    done = 0

    async def request(number: int) -> int:
        """Send a picture, in turn to each replica, until it is answered."""
        nonlocal done
        keyed = headers | {"Idempotency-Key": f"request-{number}"}
        for attempt in range(6):
            url = replicas[(number + attempt) % 2].url()
            try:
                status, body = await send(session, url, picture(1000 + number), keyed)
            except aiohttp.ClientError:
                continue
            assert status in {200, 503, 504}, body
            if status == 200:
                assert body["match"] is False
                done += 1
                return attempt
            await asyncio.sleep(0.5)
        raise AssertionError(f"request {number} was not answered")

    async def kill() -> None:
        while done < requests // 4:  # noqa: ASYNC110 - bounded by the requests themselves
            await asyncio.sleep(0.01)
        replicas[0].process.kill()

    running = asyncio.Semaphore(8)

    async def bounded(number: int) -> int:
        async with running:
            return await request(number)

    attempts, _ = await asyncio.gather(
        asyncio.gather(*(bounded(number) for number in range(requests))), kill()
    )
    assert any(attempts), "nobody met the killed replica"
    logged = product.logged(workspace)
    assert len({record.image_id for record in logged}) == requests
    assert len({record.fingerprint.sha256 for record in logged}) == requests


async def test_a_stop_finishes_what_is_under_way(
    product: Product, session: aiohttp.ClientSession, workspace: str
) -> None:
    """After SIGTERM, requests that were accepted are answered, and the process ends with 0."""
    replica = product.start_api()
    await replica.ready(session)
    headers = product.key(workspace)
    under_way = [
        asyncio.create_task(send(session, replica.url(), picture(2000 + number), headers))
        for number in range(20)
    ]
    await asyncio.sleep(0.1)
    replica.process.send_signal(signal.SIGTERM)
    answered = await asyncio.gather(*under_way, return_exceptions=True)
    for each in answered:
        if isinstance(each, BaseException):
            assert isinstance(each, aiohttp.ClientConnectionError)
        else:
            assert each[0] in {200, 503}
    assert await asyncio.to_thread(replica.process.wait, 30) == 0
    accepted = sum(not isinstance(each, BaseException) and each[0] == 200 for each in answered)
    assert len(product.logged(workspace)) == accepted


async def test_without_a_matcher_nothing_is_stored(
    api: Replica, product: Product, session: aiohttp.ClientSession, workspace: str
) -> None:
    """503 while nobody answers, degraded and not failed; answers again when the matcher is back."""
    headers = product.key(workspace)
    matcher = product.processes[0]
    matcher.kill()
    matcher.wait(10)
    deadline = time.monotonic() + 30
    while (await send(session, api.url(), picture(8), headers, store="false"))[0] == 200:
        assert time.monotonic() < deadline
    await asyncio.sleep(6)
    status, body = await send(session, api.url(), picture(8), headers)
    assert (status, body["error"]["code"]) == (503, "not_answering")  # type: ignore[index]
    async with session.get(api.url("/readyz")) as response:
        assert response.status == 200
        assert (await response.json())["status"] == "degraded"
    assert product.logged(workspace) == []
    product.processes[0] = product.start("matcher")
    await api.ready(session)
    assert (await send(session, api.url(), picture(8), headers))[0] == 200
