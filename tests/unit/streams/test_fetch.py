"""Hosts that lie, hang, fail or point inside: each fetch ends in bytes or in its reason."""

import asyncio
import contextlib
import gc
import gzip
import logging
import socket
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from schemas.reasons import Rejection
from streams.errors import RetryableError
from streams.fetching import fetch, host_limits, outage
from streams.fetching.addresses import is_private, is_public
from streams.fetching.fetch import Fetcher
from streams.fetching.picture_bytes import PictureBytes
from streams.settings import Settings
from tests.waiting import until

SETTINGS = Settings(
    allow_private_addresses=True,
    fetch_timeout_seconds=10.0,
    connect_timeout_seconds=2.0,
    read_timeout_seconds=2.0,
    picture_limit_bytes=1_000_000,
)
BOUND_SECONDS = 10.0
PICTURE = b"picture" * 1000

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class NoPause(Random):
    """Full jitter that always draws nothing."""

    def uniform(self, a: float, b: float) -> float:
        """Give the shortest pause."""
        return min(a, b)


class Host:
    """A server on loopback that answers as it is told and counts what it is asked."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.paths: list[str] = []
        self.heads: list[str] = []
        self.connections = 0
        self.closed = 0

    async def start(self, address: str = "127.0.0.1", port: int = 0) -> None:
        """Listen."""
        self.server = await asyncio.start_server(self._serve, address, port)
        self.port = self.server.sockets[0].getsockname()[1]

    def url(self, path: str = "/p", host: str = "127.0.0.1") -> str:
        """URL of a path."""
        return f"http://{host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        answering = None
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            self.paths.append(head.split(" ")[1])
            answering = asyncio.ensure_future(self.handler(self.paths[-1], writer))
            gone = asyncio.ensure_future(_hung_up(reader))
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            if answering is not None:
                answering.cancel()
            writer.close()
            self.closed += 1


async def _hung_up(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read()


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    """A host that gives a picture; tests give it other manners."""
    host = Host(ok)
    await host.start()
    yield host
    host.server.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names resolve to; any other that ends in `.test` is on loopback."""
    answers: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(name: str, port: int, family: int = 0, kind: int = 0) -> list[Any]:
        found = answers.get(name, ["127.0.0.1"] if name.endswith(".test") else [name])
        return [info for address in found for info in real(address, port, family, kind)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


def head(body_bytes: int | None, *headers: str, status: int = 200) -> bytes:
    """Write the head of an answer."""
    length = [] if body_bytes is None else [f"Content-Length: {body_bytes}"]
    return "\r\n".join([f"HTTP/1.1 {status} Status", *length, *headers, "", ""]).encode()


async def ok(path: str, writer: asyncio.StreamWriter) -> None:
    """Give a picture, as text."""
    del path
    writer.write(head(len(PICTURE), "Content-Type: text/html") + PICTURE)
    await writer.drain()


def says(*answers: bytes) -> Handler:
    """Give these answers in turn, and the last one for ever."""
    left = list(answers)

    async def handler(path: str, writer: asyncio.StreamWriter) -> None:
        del path
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    return handler


async def never(path: str, writer: asyncio.StreamWriter) -> None:
    """Give nothing, and do not hang up."""
    del path, writer
    await asyncio.sleep(60)


def fetcher(**changes: Any) -> Fetcher:  # noqa: ANN401 - settings of all types
    """A fetcher that may reach loopback and does not pause between attempts."""
    return Fetcher(replace(SETTINGS, **changes), random=NoPause())


async def once(url: str, **changes: Any) -> bytes | Rejection:  # noqa: ANN401
    """Fetch one URL."""
    async with fetcher(**changes) as fetching:
        return await fetching.fetch(url, "w")


def reason(outcome: bytes | Rejection) -> str:
    """Why there are no bytes."""
    assert isinstance(outcome, Rejection), outcome[:100]
    return outcome.reason


# --- plain fetching ---------------------------------------------------------------------------


async def test_a_picture_is_fetched_whatever_its_type_is_said_to_be(host: Host) -> None:
    """The bytes count; the request asks for no compression and sends no referrer or cookie."""
    assert await once(host.url()) == PICTURE
    request = host.heads[0].lower()
    assert "accept-encoding: identity" in request
    assert "connection: close" in request
    assert "cookie" not in request


async def test_a_url_is_sent_as_it_is_written(host: Host) -> None:
    """A signature may depend on every escape; spaces and letters are escaped for their writers."""
    await once(host.url("/a%2Fb%7e+c?sig=%2b%2F&x=a%20b"))
    await once(host.url("/ä b"))
    assert host.paths == ["/a%2Fb%7e+c?sig=%2b%2F&x=a%20b", "/%C3%A4%20b"]


async def test_no_proxy_and_no_cookie(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor an earlier answer has a say in a request."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    host.handler = says(head(1, "Set-Cookie: a=b") + b"x")
    async with fetcher() as fetching:
        assert await fetching.fetch(host.url(), "w") == b"x"
        assert await fetching.fetch(host.url(), "w") == b"x"
    assert "a=b" not in host.heads[1]
    assert host.connections == 2


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/p",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "127.0.0.1/p",
        "//127.0.0.1/p",
        "http://",
        "http:///p",
        "http://[::1/p",
        "http://127.0.0.1:99999/p",
        "http://127.0.0.1:x/p",
        "http://user:password@127.0.0.1/p",
        "http://user@127.0.0.1/p",
        "http://:password@127.0.0.1/p",
        "http://127.0.0.1%2f@example.test/p",
        "http://127.0.0.1\\@example.test/p",
        "http:\\\\127.0.0.1/p",
        "http:127.0.0.1/p",
        "http://127.0.0.1/p\r\nHost: other",
        "http://127.0.0.1/\x00",
        "http://127.0.0.1/" + "a" * 4096,
        "http://" + "a" * 64 + ".test/p",
        "http://a..test/p",
        "",
    ],
)
async def test_a_url_that_is_none_of_ours_is_refused(url: str) -> None:
    """Only http and https, with a host, without credentials, of a bounded length."""
    assert reason(await once(url)) == "url_refused"


# --- addresses --------------------------------------------------------------------------------

INSIDE = [
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255"),  # noqa: S104
    *("192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192"),
    *("192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "168.63.129.16"),
]
INSIDE_IPV6 = [
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::"),
    *("2001:0:7f00:1::", "2001:db8::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1"),
    *("ff02::1", "100::1", "3fff::1", "5f00::1"),
]


@pytest.mark.parametrize("address", INSIDE + INSIDE_IPV6)
def test_an_address_inside_is_not_public(address: str) -> None:
    """Private, loopback, link-local, shared, multicast, reserved, or one that embeds such."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1"),
        *("192.167.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1"),
        *("64:ff9b::8.8.8.8", "::ffff:8.8.8.8"),
    ],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    """Also where IPv6 is translated to it."""
    assert is_public(address)


@pytest.mark.parametrize("address", ["127.9.9.9", "10.0.0.1", "172.31.255.255", "192.168.1.1"])
@pytest.mark.parametrize("form", ["{}", "::ffff:{}", "64:ff9b::{}"])
def test_a_network_of_ones_own_is_private(address: str, form: str) -> None:
    """Loopback and RFC 1918, however they are written."""
    assert is_private(form.format(address))


@pytest.mark.parametrize("address", ["::1", "fc00::1", "fdff::1", "::1%lo", "100.64.0.1"])
def test_a_network_of_ones_own_is_private_by_other_rules_too(address: str) -> None:
    """RFC 4193 and RFC 6598."""
    assert is_private(address)


METADATA = [
    *("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("fd00:ec2::254", "fd00:ec2::254%1", "fd20:ce::254", "fe80::a9fe:a9fe"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
]


@pytest.mark.parametrize("address", [*METADATA, "fe80::1", "169.254.0.1", "0.0.0.0", "8.8.8.8"])  # noqa: S104
def test_no_link_local_or_metadata_address_is_private(address: str) -> None:
    """What a cloud answers with its credentials is nobody's picture host."""
    assert not is_private(address)


@pytest.mark.parametrize("address", METADATA[:5])
async def test_opening_ones_own_network_opens_no_metadata_service(address: str, host: Host) -> None:
    """The setting for a picture host of one's own is no way to the credentials of the machine."""
    name = f"[{address}]" if ":" in address else address
    outcome = await once(host.url(host=name), allow_private_addresses=True)
    assert reason(outcome) == "address_refused"
    assert host.connections == 0


@pytest.mark.parametrize(
    "name",
    [
        *INSIDE,
        *(f"[{address}]" for address in INSIDE_IPV6),
        *("2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "0"),
        *("127.000.000.001", "00000000177.0.0.1", "0x7f.0x0.0x0.0x1", "[0:0:0:0:0:ffff:7f00:1]"),
        *("[::1%25lo]", "127\u30020\u30020\u30021", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ"),
        *("0x7f.0.0.0x1", "2852039166", "１２７.0.0.1", "①②⑦.0.0.1", "localhost", "LOCALHOST"),  # noqa: RUF001
    ],
)
async def test_no_address_inside_is_connected_to(name: str, host: Host) -> None:
    """In whatever form a URL holds it."""
    outcome = await once(host.url(host=name), allow_private_addresses=False)
    assert reason(outcome) == "address_refused"
    assert host.connections == 0


@pytest.mark.parametrize("name", ["2130706433", "0x7f.1", "0177.0.0.1"])
async def test_a_number_means_the_address_that_it_is(name: str, host: Host) -> None:
    """Numeric forms are refused for the address, not for the form."""
    assert await once(host.url(host=name)) == PICTURE


@pytest.fixture
def loopback_1_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 plays the Internet; the rest of 127/8 is inside."""
    monkeypatch.setattr(fetch, "is_public", lambda a: a == "127.0.0.1" or is_public(a))


@pytest.mark.usefixtures("loopback_1_is_public")
@pytest.mark.parametrize("target", ["127.0.0.2", "[::1]", "2130706434", "inside.test", "10.0.0.1"])
async def test_a_redirect_to_the_inside_is_refused(
    target: str, host: Host, names: dict[str, list[str]]
) -> None:
    """Every hop is checked, also one that comes after others."""
    names["inside.test"] = ["127.0.0.2"]
    inside = Host(ok)
    await inside.start("127.0.0.2", host.port)
    host.handler = says(
        head(0, "Location: /next", status=302),
        head(0, f"Location: {host.url(host=target)}", status=307),
    )
    outcome = await once(host.url(host="outside.test"), allow_private_addresses=False)
    assert reason(outcome) == "address_refused"
    assert (len(host.paths), inside.connections) == (2, 0)
    inside.server.close()


@pytest.mark.usefixtures("loopback_1_is_public")
async def test_a_name_that_changes_its_address_gains_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is connected to is the very answer that was checked; a retry is checked again."""
    inside = Host(ok)
    await inside.start("127.0.0.2", host.port)
    lookups: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(name: str, port: int, family: int, kind: int) -> list[Any]:
        del name
        lookups.append("127.0.0.1" if len(lookups) % 2 == 0 else "127.0.0.2")
        return list(real(lookups[-1], port, family, kind))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    url = host.url(host="rebinding.test")
    assert await once(url, allow_private_addresses=False) == PICTURE
    assert lookups == ["127.0.0.1"]
    lookups.clear()
    host.handler = says(head(0, status=503))
    assert reason(await once(url, allow_private_addresses=False)) == "address_refused"
    assert lookups == ["127.0.0.1", "127.0.0.2"]
    assert inside.connections == 0
    inside.server.close()


@pytest.mark.usefixtures("loopback_1_is_public")
async def test_one_address_inside_spoils_the_whole_answer(
    host: Host, names: dict[str, list[str]]
) -> None:
    """Whoever mixes them has no good reason to."""
    names["mixed.test"] = ["127.0.0.1", "10.0.0.1"]
    outcome = await once(host.url(host="mixed.test"), allow_private_addresses=False)
    assert reason(outcome) == "address_refused"
    assert host.connections == 0


async def test_nothing_is_connected_to_without_a_check(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should an address ever get round the resolver, there is no socket for it."""

    async def resolve(*_: object, **__: object) -> list[dict[str, object]]:
        return [
            {"hostname": "x", "host": "127.0.0.1", "port": host.port, "family": socket.AF_INET,
             "proto": 0, "flags": 0}
        ]  # fmt: skip

    monkeypatch.setattr(fetch._Resolver, "resolve", resolve)
    outcome = await once(host.url(host="x.test"), allow_private_addresses=False)
    assert reason(outcome) == "address_refused"
    assert host.connections == 0


# --- redirects and statuses -------------------------------------------------------------------


async def test_five_redirects_are_followed(host: Host) -> None:
    """Absolute and relative ones, of every kind."""
    network_path = f"//127.0.0.1:{host.port}/5"
    hops = ((301, "/1"), (302, host.url("/2")), (303, "3?q"), (307, "?r"), (308, network_path))
    host.handler = says(
        *(head(0, f"Location: {where}", status=status) for status, where in hops),
        head(1) + b"x",
    )
    assert await once(host.url("/0")) == b"x"
    assert host.paths == ["/0", "/1", "/2", "/3?q", "/3?r", "/5"]


async def test_a_sixth_redirect_is_not(host: Host) -> None:
    """A loop ends, and is not tried again."""
    host.handler = says(head(0, "Location: /loop", status=302))
    assert reason(await once(host.url())) == "too_many_redirects"
    assert len(host.paths) == 6


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("ftp://127.0.0.1/p", "url_refused"),
        ("http://a:b@127.0.0.1/", "url_refused"),
        ("http://[/", "url_refused"),
        ("/" + "a" * 5000, "url_refused"),
    ],
)
async def test_a_redirect_is_checked_as_the_url_was(
    location: str, expected: str, host: Host
) -> None:
    """Scheme, credentials, form and length."""
    target = location.encode("latin-1")
    host.handler = says(
        head(0, status=302).replace(b"\r\n\r\n", b"\r\nLocation: %s\r\n\r\n" % target)
    )
    assert reason(await once(host.url())) == expected
    assert len(host.paths) == 1


@pytest.mark.parametrize("status", [201, 204, 206, 300, 302, 304, 400, 401, 403, 404, 410])
async def test_a_final_status_is_asked_for_once(status: int, host: Host) -> None:
    """Trying again would change nothing."""
    host.handler = says(head(0, status=status))
    assert reason(await once(host.url())) == "http_status"
    assert len(host.paths) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_passing_status_is_tried_again(status: int, host: Host) -> None:
    """Until it has passed, or five times."""
    host.handler = says(head(0, status=status), head(0, status=status), head(1) + b"x")
    assert await once(host.url()) == b"x"
    host.handler = says(head(0, status=status))
    host.paths.clear()
    assert reason(await once(host.url())) == "http_status"
    assert len(host.paths) == 5


async def test_a_pause_that_the_host_asks_for_is_made(host: Host) -> None:
    """Where it fits the time left; else the host has said that trying is vain."""
    host.handler = says(head(0, "Retry-After: 1", status=429), head(1) + b"x")
    began = asyncio.get_running_loop().time()
    assert await once(host.url()) == b"x"
    assert asyncio.get_running_loop().time() - began >= 1.0
    host.handler = says(head(0, "Retry-After: 11", status=503))
    host.paths.clear()
    assert reason(await once(host.url())) == "http_status"
    assert len(host.paths) == 1


async def test_pauses_are_drawn_from_a_growing_range(host: Host) -> None:
    """Full jitter: between nothing and a bound that doubles."""
    drawn = []

    class Recorder(Random):
        def uniform(self, a: float, b: float) -> float:
            drawn.append((a, b))
            return 0.0

    host.handler = says(head(0, status=503))
    async with Fetcher(SETTINGS, random=Recorder()) as fetching:
        await fetching.fetch(host.url(), "w")
    assert drawn[:4] == [(0, 0.5), (0, 1.0), (0, 2.0), (0, 4.0)]


# --- time -------------------------------------------------------------------------------------


async def trickle(path: str, writer: asyncio.StreamWriter) -> None:
    """Give one byte now and then."""
    del path
    writer.write(head(10_000))
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("handler", [never, trickle])
async def test_a_fetch_ends_in_time(handler: Handler, host: Host) -> None:
    """A host that never answers, or a byte at a time, costs the limit and no more."""
    host.handler = handler
    began = asyncio.get_running_loop().time()
    outcome = await once(host.url(), fetch_timeout_seconds=0.5, read_timeout_seconds=0.2)
    assert reason(outcome) == "fetch_timeout"
    assert asyncio.get_running_loop().time() - began < 1.5
    await until(lambda: host.closed == host.connections)


async def test_silence_is_tried_again_within_the_limit(host: Host) -> None:
    """A read that times out is a failure like others."""
    handlers = [never, ok]

    async def handler(path: str, writer: asyncio.StreamWriter) -> None:
        await handlers.pop(0)(path, writer)

    host.handler = handler
    assert await once(host.url(), read_timeout_seconds=0.1) == PICTURE


async def hang_up(path: str, writer: asyncio.StreamWriter) -> None:
    """Close the connection without an answer."""
    del path
    writer.close()


@pytest.mark.parametrize(
    ("before", "told"),
    [
        # aiohttp asks a host that hangs up once more by itself.
        ((hang_up, hang_up), "fetch_failed"),
        ((says(head(0, status=503)),), "fetch_timeout"),
    ],
)
async def test_silence_is_told_where_another_attempt_runs_out_of_time(
    before: tuple[Handler, ...], told: str, host: Host
) -> None:
    """Whether the time is up in another attempt or before it is chance; a host's silence is not."""
    handlers = [*before, never]

    async def handler(path: str, writer: asyncio.StreamWriter) -> None:
        await handlers.pop(0)(path, writer)

    host.handler = handler
    assert reason(await once(host.url(), fetch_timeout_seconds=0.5)) == told
    assert not handlers


async def test_a_refused_picture_is_not_left_to_the_garbage_collector(host: Host) -> None:
    """What had come of it, up to the limit, is free as soon as it is refused."""
    host.handler = says(head(2_000_000))
    async with fetcher(picture_limit_bytes=1_000_000) as fetching:
        gc.collect()
        gc.disable()
        try:
            assert reason(await fetching.fetch(host.url(), "w")) == "picture_too_large"
            assert not [each for each in gc.get_objects() if isinstance(each, fetch._RefusedError)]
        finally:
            gc.enable()


async def test_a_name_server_that_never_answers_holds_up_nobody_else(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lookups outlive their fetches; other names are looked up all the while."""
    answer = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(name: str, port: int, family: int, kind: int) -> list[Any]:
        if name.startswith("stuck"):
            answer.wait(BOUND_SECONDS)
        return list(real("127.0.0.1", port, family, kind))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with fetcher(fetches_at_once=4, connect_timeout_seconds=0.1) as fetching:
        stuck = [fetching.fetch(host.url(host=f"stuck{n}.test"), "evil") for n in range(2)]
        stuck_tasks = [asyncio.create_task(fetch) for fetch in stuck]
        while not all(task.done() for task in stuck_tasks):
            assert await fetching.fetch(host.url(host="good.test"), "w") == PICTURE
        assert [reason(task.result()) for task in stuck_tasks] == ["fetch_timeout"] * 2
        answer.set()


async def test_closing_is_not_the_pictures_fault(host: Host) -> None:
    """What was still being fetched may be tried again elsewhere, and is no dead letter."""
    host.handler = never
    async with fetcher(fetches_at_once=1) as fetching:
        tasks = [asyncio.create_task(fetching.fetch(host.url(), "w")) for _ in range(2)]
        await until(lambda: host.paths)
    busy = says(head(0, status=503))

    async def four_times_busy(path: str, writer: asyncio.StreamWriter) -> None:
        await (busy if host.paths.count("/last") < 5 else never)(path, writer)

    host.handler = four_times_busy
    async with fetcher() as last_attempt:
        tasks.append(asyncio.create_task(last_attempt.fetch(host.url("/last"), "w")))
        await until(lambda: host.paths.count("/last") == 5)
    for task in (*tasks, asyncio.create_task(fetching.fetch(host.url(), "w"))):
        with pytest.raises(RetryableError):
            await task


async def test_a_host_that_cannot_be_reached(host: Host, names: dict[str, list[str]]) -> None:
    """Refused connections, unknown names and hang-ups are failures to fetch."""
    names["unknown.test"] = ["no-such-name.invalid"]
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    host.handler = says(b"")
    for url in (
        f"http://127.0.0.1:{free.getsockname()[1]}/p",
        host.url(host="unknown.test"),
        host.url(),
    ):
        assert reason(await once(url)) == "fetch_failed"
    assert host.connections >= 5
    free.close()


# --- size -------------------------------------------------------------------------------------


def chunked(body: bytes, piece_bytes: int = 50_000) -> bytes:
    """Write a body in chunks."""
    pieces = (body[start : start + piece_bytes] for start in range(0, len(body), piece_bytes))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("size", "expected"), [(1_000_000, None), (1_000_001, "picture_too_large")]
)
async def test_the_limit_holds_however_the_body_comes(
    size: int, expected: str | None, host: Host
) -> None:
    """With a length, in chunks, until the connection's end, compressed."""
    body = bytes(size)
    packed = gzip.compress(body)
    for answer in (
        head(size) + body,
        head(None, CHUNKED) + chunked(body),
        head(None) + body,
        head(len(packed), "Content-Encoding: gzip") + packed,
    ):
        host.handler = says(answer)
        outcome = await once(host.url())
        assert (outcome == body) if expected is None else (reason(outcome) == expected)
    if expected:
        assert len(host.paths) == 4


async def test_an_announced_length_over_the_limit_is_not_waited_for(host: Host) -> None:
    """Nothing of the body is read."""
    host.handler = says(head(10**12))
    assert reason(await once(host.url())) == "picture_too_large"


async def test_a_body_without_end_is_cut(host: Host) -> None:
    """And its connection closed."""

    async def endless(path: str, writer: asyncio.StreamWriter) -> None:
        del path
        writer.write(head(None))
        while True:
            writer.write(bytes(100_000))
            await writer.drain()

    host.handler = endless
    assert reason(await once(host.url())) == "picture_too_large"
    await until(lambda: host.closed == 1)


OK = b"HTTP/1.1 200 OK\r\n"
IN_CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        pytest.param(OK, b"X: aaaaaaaaaaaaaaaa\r\n" * 5_000, id="headers"),
        pytest.param(OK + b"X: ", b"a" * 100_000, id="one header"),
        pytest.param(OK + b"X: a\r\n", b" a\r\n" * 20_000, id="a header in many lines"),
        pytest.param(b"HTTP/1.1 200 ", b"a" * 100_000, id="a status"),
        pytest.param(b"", b"a" * 100_000, id="no HTTP"),
        pytest.param(b"", b"\r\n" * 50_000, id="empty lines"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000, id="answers to come"),
        pytest.param(b"", b"HTTP/1.1 103 Hints\r\nX: a\r\n\r\n" * 2_000, id="hints"),
        pytest.param(IN_CHUNKS + b"1;", b"a" * 100_000, id="a chunk's extension"),
        pytest.param(IN_CHUNKS, b"0" * 100_000, id="a chunk's length"),
        pytest.param(IN_CHUNKS, b"1\r\nx\r\n" * 10_000, id="chunks of one byte"),
        pytest.param(IN_CHUNKS + b"0\r\n", b"X: a\r\n" * 10_000, id="trailers"),
        pytest.param(
            b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"a" * 100_000,
            id="another protocol",
        ),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: /", b"a" * 100_000, id="a redirect"),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b"a" * 100_000, id="a redirect's body"
        ),
    ],
)
async def test_an_answer_without_end_takes_no_memory_and_ends_in_time(
    begins: bytes, goes_on: bytes, host: Host
) -> None:
    """Whichever part of it does not end."""

    async def endless(path: str, writer: asyncio.StreamWriter) -> None:
        del path
        with contextlib.suppress(ConnectionError):
            writer.write(begins)
            while True:
                writer.write(goes_on)
                await writer.drain()

    host.handler = endless
    async with fetcher(fetch_timeout_seconds=0.4, picture_limit_bytes=10_000_000) as fetching:
        tracemalloc.start()
        began = asyncio.get_running_loop().time()
        outcome = await fetching.fetch(host.url(), "w")
        took_seconds = asyncio.get_running_loop().time() - began
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert reason(outcome) in {
        "fetch_timeout",
        "body_length_wrong",
        "http_status",
        "too_many_redirects",
    }
    assert took_seconds < BOUND_SECONDS
    assert peak_bytes < 16_000_000


@pytest.mark.parametrize("members", [1, 300])
async def test_a_compressed_bomb_takes_no_memory(members: int, host: Host) -> None:
    """Bytes are counted after decompression, and never all decompressed at once."""
    bomb = gzip.compress(bytes(300_000_000 // members)) * members
    host.handler = says(head(len(bomb), "Content-Encoding: gzip") + bomb)
    async with fetcher() as fetching:
        tracemalloc.start()
        outcome = await fetching.fetch(host.url(), "w")
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert reason(outcome) == "picture_too_large"
    assert peak_bytes < 8_000_000


@pytest.mark.parametrize(
    "answer",
    [
        head(10) + b"short",
        head(1_000_000) + bytes(999_999),
        head(None, CHUNKED) + b"5\r\nhello\r\n",
        head(5) + b"hello and more",
        head(5, "Connection: close") + b"hello and more",
        head(100_000) + bytes(150_000),
        head(-1) + b"hello",
        head(5, "Content-Length: 7") + b"hello",
    ],
    ids=range(8),
)
async def test_a_body_of_another_length_than_announced_is_refused(
    answer: bytes, host: Host
) -> None:
    """Shorter, longer, or of two lengths; tried again, because transfers do break."""
    host.handler = says(answer)
    assert reason(await once(host.url())) == "body_length_wrong"
    assert len(host.paths) == 5
    host.handler = says(answer, head(1) + b"x")
    assert await once(host.url()) == b"x"


async def test_bytes_beyond_the_end_are_seen_after_a_long_body_too(host: Host) -> None:
    """When the answer's head has long been read."""

    async def handler(path: str, writer: asyncio.StreamWriter) -> None:
        del path
        writer.write(head(400_000))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(bytes(399_999))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"ab")
        await writer.drain()

    host.handler = handler
    assert reason(await once(host.url())) == "body_length_wrong"


@pytest.mark.parametrize(
    "answer", [head(0), head(None, CHUNKED) + b"0\r\n\r\n", head(None)], ids=range(3)
)
async def test_zero_bytes_are_no_picture(answer: bytes, host: Host) -> None:
    """In whatever way nothing is sent."""
    host.handler = says(answer)
    assert reason(await once(host.url())) == "picture_empty"


# --- shares -----------------------------------------------------------------------------------


class Crowd(Host):
    """A host that answers when it is told to, and knows how many wait."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self.gate = asyncio.Event()
        self.inside: Counter[str] = Counter()

    async def _hold(self, path: str, writer: asyncio.StreamWriter) -> None:
        self.inside[path] += 1
        await self.gate.wait()
        await ok(path, writer)


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    """A host with a gate."""
    crowd = Crowd()
    await crowd.start()
    yield crowd
    crowd.server.close()


@pytest.mark.usefixtures("names")
async def test_no_host_and_no_workspace_holds_more_than_its_share(crowd: Crowd) -> None:
    """Of 10 places, one host gets 4, one workspace 4; others need not wait for them."""
    async with fetcher(fetches_at_once=10, fetch_share_percent=40) as fetching:

        def begin(path: str, name: str, workspace: str) -> "asyncio.Task[bytes | Rejection]":
            return asyncio.create_task(fetching.fetch(crowd.url(path, name), workspace))

        tasks = [begin("/slow", "slow.test", f"w{n}") for n in range(20)]
        tasks += [begin("/greedy", f"h{n}.test", "greedy") for n in range(20)]
        await until(lambda: crowd.inside.total() == 8)
        tasks += [begin("/other", f"o{n}.test", f"o{n}") for n in range(5)]
        await until(lambda: crowd.inside.total() == 10)
        await asyncio.sleep(0.05)
        assert crowd.inside == {"/slow": 4, "/greedy": 4, "/other": 2}
        crowd.gate.set()
        assert await asyncio.gather(*tasks) == [PICTURE] * 45
        assert idle(fetching)


async def test_a_free_place_goes_to_whom_has_the_fewest() -> None:
    """Not to the host that stands in line for longest, with all its workspaces."""
    shares = host_limits.Shares(3, 100)
    served = []

    async def hold(host: str, workspace: str) -> None:
        async with asyncio.timeout(5) as limit, shares.hold(host, workspace, limit):
            served.append(host + workspace)

    async with contextlib.AsyncExitStack() as outer:
        limit = await outer.enter_async_context(asyncio.timeout(5))
        await outer.enter_async_context(shares.hold("a", "1", limit))
        await outer.enter_async_context(shares.hold("a", "2", limit))
        async with shares.hold("a", "3", limit):
            names = ("a4", "a4", "a5", "b6", "b6")
            tasks = [asyncio.create_task(hold(*name)) for name in names]
            await until(lambda: sum(map(len, shares._waiting.values())) == 5)
        await asyncio.wait(tasks)
    assert served == ["b6", "b6", "a4", "a5", "a4"]


def idle(fetching: Fetcher) -> bool:
    """Whether nothing is held and nobody waits."""
    shares = fetching._shares
    return (
        shares._held == 0
        and not shares._hosts
        and not shares._workspaces
        and not shares._waiting
        and not fetching._session.connector._acquired  # type: ignore[union-attr]
    )


async def test_waiting_for_a_place_costs_no_time_of_the_fetch(host: Host) -> None:
    """Three fetches of half the limit each, one after the other, all arrive."""

    async def slow(path: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.35)
        await ok(path, writer)

    host.handler = slow
    async with fetcher(fetches_at_once=1, fetch_timeout_seconds=0.7) as fetching:
        fetches = [fetching.fetch(host.url(), "w") for _ in range(4)]
        assert await asyncio.gather(*fetches) == [PICTURE] * 4


async def test_the_time_limit_goes_on_after_the_wait(host: Host) -> None:
    """Who has waited for a place may not hold it for ever."""
    handlers = [ok, never]

    async def handler(path: str, writer: asyncio.StreamWriter) -> None:
        turn = handlers.pop(0)
        await asyncio.sleep(0.1)
        await turn(path, writer)

    host.handler = handler
    began = asyncio.get_running_loop().time()
    async with fetcher(fetches_at_once=1, fetch_timeout_seconds=0.3) as fetching:
        first, second = await asyncio.gather(*(fetching.fetch(host.url(), "w") for _ in range(2)))
        assert first == PICTURE
        assert reason(second) == "fetch_timeout"
    assert asyncio.get_running_loop().time() - began < SETTINGS.read_timeout_seconds


async def test_cancelling_leaves_nothing_behind(crowd: Crowd) -> None:
    """Cancelled while connecting, reading or waiting: no place, no connection, at once."""
    async with fetcher(fetches_at_once=4) as fetching:
        for _ in range(3):
            tasks = [
                asyncio.create_task(fetching.fetch(crowd.url(), f"w{n % 3}")) for n in range(12)
            ]
            await until(lambda: crowd.inside["/p"] - crowd.closed >= 2)
            began = asyncio.get_running_loop().time()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert asyncio.get_running_loop().time() - began < 1.0
            assert all(task.cancelled() for task in tasks)
            await until(lambda: crowd.closed == crowd.connections)
            assert idle(fetching)
        crowd.gate.set()
        assert await fetching.fetch(crowd.url(), "w") == PICTURE


async def test_a_place_given_to_one_who_is_cancelled_goes_to_the_next() -> None:
    """In the moment between being served and running."""
    shares = host_limits.Shares(1, 100)
    served = []

    async def hold(name: str) -> None:
        async with asyncio.timeout(5) as limit, shares.hold("h", "w", limit):
            served.append(name)
            await asyncio.sleep(0)

    async with asyncio.timeout(5) as limit, shares.hold("h", "w", limit):
        first, second = (asyncio.create_task(hold(name)) for name in "ab")
        await until(lambda: sum(map(len, shares._waiting.values())) == 2)
    first.cancel()
    await asyncio.wait({first, second})
    assert first.cancelled()
    assert served == ["b"]
    assert shares._held == 0


# --- failing hosts ----------------------------------------------------------------------------


async def test_a_host_that_keeps_failing_is_not_asked_for_a_while(host: Host) -> None:
    """Then one asks for all; its success ends it. Other hosts are asked as ever."""
    now = [0.0]
    healthy = Host(ok)
    await healthy.start()
    host.handler = says(head(0, status=500))
    async with Fetcher(SETTINGS, random=NoPause(), clock=lambda: now[0]) as fetching:
        for _ in range(3):
            assert reason(await fetching.fetch(host.url(), "w")) == "http_status"
        now[0] = 20.0  # 15 failures in no time are one hiccup; now it is a while
        assert reason(await fetching.fetch(host.url(), "w")) == "host_failing"
        asked = len(host.paths)
        assert reason(await fetching.fetch(host.url(), "v")) == "host_failing"
        assert len(host.paths) == asked
        assert await fetching.fetch(healthy.url(), "w") == PICTURE
        now[0] = 50.0
        assert reason(await fetching.fetch(host.url(), "w")) == "host_failing"
        assert len(host.paths) == asked + 1
        now[0] = 80.0
        host.handler = ok
        outcomes = await asyncio.gather(*(fetching.fetch(host.url(), "w") for _ in range(4)))
        assert outcomes[0] == PICTURE
        assert [reason(outcome) for outcome in outcomes[1:]] == ["host_failing"] * 3
        assert await fetching.fetch(host.url(), "w") == PICTURE
        assert idle(fetching)
    healthy.server.close()


async def test_a_failing_host_is_refused_without_waiting_for_a_place(host: Host) -> None:
    """Its events leave the window at once."""
    host.handler = never
    async with fetcher(fetches_at_once=1) as fetching:
        task = asyncio.create_task(fetching.fetch(host.url(), "w"))
        await until(lambda: host.paths)
        fetching._failing._streaks["http://failing.test:80"] = (10, 0.0, float("inf"))
        async with asyncio.timeout(1):
            assert reason(await fetching.fetch("http://failing.test/", "w")) == "host_failing"
        task.cancel()
        await asyncio.wait({task})


async def test_only_what_the_host_does_wrong_counts(host: Host) -> None:
    """Neither a missing picture, nor one too large, nor an address that we refuse."""
    async with fetcher() as fetching:
        for answer in (
            head(0, status=404),
            head(0),
            head(10**9),
            head(0, "Location: /", status=302),
        ):
            host.handler = says(answer)
            await fetching.fetch(host.url(), "w")
            assert not fetching._failing._streaks
        for answer in (head(0, status=503), head(9), b""):
            host.handler = says(answer)
            await fetching.fetch(host.url(), "w")
            assert fetching._failing._streaks.popitem()[1][0] == 5
    async with fetcher(fetch_timeout_seconds=0.1) as fetching:
        host.handler = never
        await fetching.fetch(host.url(), "w")
        assert len(fetching._failing._streaks) == 1
    async with fetcher(allow_private_addresses=False) as fetching:
        await fetching.fetch(host.url(), "w")
        assert not fetching._failing._streaks
        fetching._failing.failed(host.url(""))
        await fetching.fetch(host.url(), "w")
        assert fetching._failing._streaks


def test_one_probe_at_a_time_and_a_lost_probe_is_made_up_for() -> None:
    """After the rest one is admitted; if nothing is heard of it, another after the next rest."""
    now = [0.0]
    failing = host_limits.FailingHosts(lambda: now[0])
    for second in range(11):
        now[0] = second * 2.0
        assert failing.admit("h")
        failing.failed("h")
    assert failing.is_resting("h")
    now[0] = 50.0
    assert [failing.admit("h") for _ in range(3)] == [True, False, False]
    now[0] = 80.0
    assert [failing.admit("h") for _ in range(2)] == [True, False]
    failing.answered("h")
    assert [failing.admit("h") for _ in range(2)] == [True, True]


def test_the_memory_of_hosts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that failed longest ago is forgotten first."""
    monkeypatch.setattr(host_limits, "_HOSTS_REMEMBERED", 2)
    failing = host_limits.FailingHosts(lambda: 0.0)
    for origin in ("a", "b", "a", "c"):
        failing.failed(origin)
    assert list(failing._streaks) == ["a", "c"]


# --- our own network --------------------------------------------------------------------------


def free_port(address: str) -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a network that is down more often than one should."""
    monkeypatch.setattr(fetch, "PROBE_SECONDS", 0.02)
    monkeypatch.setattr(outage, "PROBE_SECONDS", 0.02)


@pytest.mark.usefixtures("quick_probes")
async def test_while_no_host_answers_nobody_is_rejected(caplog: pytest.LogCaptureFixture) -> None:
    """Twenty hosts refuse; the pictures wait, are fetched once hosts are back, and it is said once.

    A picture that comes meanwhile waits without asking.
    """
    addresses = [f"127.0.0.{number}" for number in range(10, 30)]
    ports = {address: free_port(address) for address in addresses}
    hosts = {address: Host(ok) for address in addresses}
    async with fetcher() as fetching:

        def begin(address: str) -> "asyncio.Task[bytes | Rejection]":
            url = f"http://{address}:{ports[address]}/p"
            return asyncio.create_task(fetching.fetch(url, "w"))

        tasks = [begin(address) for address in addresses * 3]
        await until(lambda: fetching.is_paused)
        tasks += [begin(address) for address in addresses]
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in tasks)
        # All at once: who is asked after the first has answered, and is not there, has failed.
        await asyncio.gather(
            *(host.start(address, ports[address]) for address, host in hosts.items())
        )
        assert await asyncio.gather(*tasks) == [PICTURE] * len(tasks)
        assert not fetching.is_paused
        assert not fetching._failing._streaks
        assert idle(fetching)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split(",")[0].split(" after")[0] for line in said] == [
        "no network",
        "a host answers again",
    ]
    for host in hosts.values():
        host.server.close()


@pytest.mark.usefixtures("quick_probes", "names")
async def test_dead_hosts_are_rejected_once_another_answers(host: Host) -> None:
    """However many there are: after the answer they are tried afresh, and are what they are."""
    port = free_port("127.0.0.1")
    dead = [f"http://dead{number}.test:{port}/p" for number in range(12)]
    async with fetcher() as fetching:
        tasks = [asyncio.create_task(fetching.fetch(url, "w")) for url in dead]
        await until(lambda: fetching.is_paused)
        assert await fetching.fetch(host.url(), "w") == PICTURE
        async with asyncio.timeout(BOUND_SECONDS):
            outcomes = await asyncio.gather(*tasks)
        assert {reason(outcome) for outcome in outcomes} == {"fetch_failed"}
        assert not fetching.is_paused


async def test_one_dead_host_stops_nobody(host: Host) -> None:
    """Nor do a few, nor hosts that answer with errors."""
    port = free_port("127.0.0.1")
    busy = [Host(says(head(0, status=503))) for _ in range(8)]
    async with fetcher() as fetching:
        for number, other in enumerate(busy):
            await other.start(f"127.0.0.{40 + number}")
            outcome = await fetching.fetch(other.url(host=f"127.0.0.{40 + number}"), "w")
            assert reason(outcome) == "http_status"
        for _ in range(3):
            assert reason(await fetching.fetch(f"http://127.0.0.9:{port}/", "w")) == "fetch_failed"
        assert not fetching.is_paused
        assert await fetching.fetch(host.url(), "w") == PICTURE
    for other in busy:
        other.server.close()


@pytest.mark.usefixtures("quick_probes")
async def test_an_outage_can_be_cancelled_and_closed() -> None:
    """Whoever waits for the network is let go: cancelled at once, or retryable."""
    async with fetcher() as fetching:
        for number in range(5):
            fetching._outage.failed(f"h{number}")
        waiting = [asyncio.create_task(fetching.fetch("http://h/", "w")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.wait({waiting[0]}, timeout=1)
        assert waiting[0].cancelled()
    for task in waiting[1:]:
        with pytest.raises(RetryableError):
            await asyncio.wait_for(task, BOUND_SECONDS)


async def test_pictures_that_arrive_wait_for_those_that_wait_to_be_decoded(host: Host) -> None:
    """And it costs them no time of their own."""
    held = PictureBytes(10_000)
    changed = replace(SETTINGS, fetch_timeout_seconds=0.5)
    async with Fetcher(changed, picture_bytes=held, random=NoPause()) as fetching:
        with held.waiting(9_000):
            tasks = [asyncio.create_task(fetching.fetch(host.url(), "w")) for _ in range(5)]
            await until(lambda: len(host.paths) == 5)
            await asyncio.sleep(1.0)
            assert not any(task.done() for task in tasks)
            assert held.held_bytes <= 10_000
        assert await asyncio.gather(*tasks) == [PICTURE] * 5
        assert held.held_bytes == 0


# --- secrets ----------------------------------------------------------------------------------


async def test_nothing_of_a_url_but_its_origin_is_told(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in a log nor in a rejection, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    outcomes = []
    for answer in (
        head(0, status=404),
        head(0, status=503),
        head(9),
        b"",
        b"garbage\r\n\r\n",
        head(0),
        head(10**9),
        head(0, "Location: /secret", status=302),
        head(0, "Location: ftp://secret/", status=302),
        head(0, "Location: http://secret:secret@h/", status=302),
    ):
        host.handler = says(answer)
        outcomes.append(await once(host.url("/secret?token=secret#secret")))
    for url in ("ftp://h/secret", "http://a:secret@h/", "http://h:secret/", "http://[secret/"):
        outcomes.append(await once(url))  # noqa: PERF401
    outcomes.append(await once(host.url("/secret"), allow_private_addresses=False))
    assert all(isinstance(outcome, Rejection) for outcome in outcomes)
    told = caplog.text + "".join(map(repr, outcomes))
    assert "trying again" in told
    assert "secret" not in told
