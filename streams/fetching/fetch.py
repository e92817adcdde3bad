"""Getting a picture's bytes from an address that a stranger chose, without being used by them.

Called by the hasher and the API, through `agents.hash_image`. Promises: a fetch ends in bytes or
in a rejection, within its time limit once its turn has come; no address inside is reached, by
whatever name, number or redirect; no host and no workspace holds more than its share; nothing of
a URL but its origin is told. Each request has a connection of its own, so that nothing a host
sends beyond its answer can become part of another's.
"""

import asyncio
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from random import Random, SystemRandom
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http import HttpProcessingError
from yarl import URL

from schemas.reasons import Reason, Rejection
from streams.errors import RetryableError
from streams.fetching.addresses import is_private, is_public
from streams.fetching.host_limits import FailingHosts, Shares, standing_still
from streams.fetching.outage import PROBE_SECONDS, Outage
from streams.fetching.picture_bytes import Arrival, PictureBytes
from streams.settings import Settings

logger = logging.getLogger(__name__)

_URL_LIMIT_CHARACTERS: Final = 4096
_REDIRECTS: Final = 5
_REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_PASSING_STATUSES: Final = frozenset({408, 425, 429})  # tried again, as are all from 500 on
_OK: Final = 200
_SERVER_ERROR: Final = 500
_ATTEMPTS: Final = 5
# Full jitter: M. Brooker, Exponential Backoff And Jitter (AWS Architecture Blog, 2015). The four
# pauses last 3.75 s on average, 7.5 s at most: a quarter of the default limit.
_FIRST_PAUSE_SECONDS: Final = 0.5
# What a network that is down looks like, and what follows from it.
_SILENCE: Final = frozenset[Reason]({"fetch_failed", "fetch_timeout"})
_OF_AN_OUTAGE: Final = _SILENCE | {"host_failing"}
# A network that comes and goes holds up nobody for ever.
_OUTAGES_WAITED_OUT: Final = 3


class Fetcher:
    """Fetches pictures, some at a time."""

    def __init__(
        self,
        settings: Settings,
        *,
        picture_bytes: PictureBytes | None = None,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the limits; `random` spreads repeated attempts, `clock` counts seconds.

        `picture_bytes` counts what was fetched and is not decoded yet.
        """
        self._settings = settings
        self._bytes = picture_bytes or PictureBytes()
        self._outage = Outage(clock)
        self._network_is_back = asyncio.Event()
        self._prober = asyncio.Lock()
        self._random = random or SystemRandom()
        self._shares = Shares(settings.fetches_at_once, settings.fetch_share_percent)
        self._failing = FailingHosts(clock)
        # Hears why an attempt failed, and how long the pause before the next one is.
        self.on_retry: Callable[[Reason, float], None] = lambda _reason, _seconds: None

    @property
    def in_flight(self) -> int:
        """Pictures being fetched now; in any thread, as the next one."""
        return self._shares.held

    @property
    def failing_hosts(self) -> int:
        """Hosts that are not asked at all now."""
        return self._failing.resting

    async def start(self) -> None:
        """Open the client; belongs to the running event loop."""
        settings = self._settings
        # A lookup cannot be cancelled. With a name server that never answers, libc takes up to 30 s
        # and we go on after 5: what half of the places leaves behind is three times all places.
        self._lookups = ThreadPoolExecutor(4 * settings.fetches_at_once, "lookup")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Resolver(self._lookups, self._is_allowed),
                socket_factory=self._socket,
                use_dns_cache=False,
                force_close=True,
                limit=0,
            ),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=settings.connect_timeout_seconds,
                sock_read=settings.read_timeout_seconds,
            ),
            headers={
                "Accept": "image/*, */*;q=0.1",
                "Accept-Encoding": "identity",
                "User-Agent": "check-dedup",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the client; fetches that still run are retryable."""
        await self._session.close()
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def is_paused(self) -> bool:
        """Whether our own network is taken to be down, and all fetches wait for it."""
        return self._outage.is_on

    async def fetch(self, url: str, workspace: str) -> bytes | Rejection:
        """Fetch a picture on behalf of a workspace. Its type is not looked at.

        Rejections: `url_refused`, `address_refused`, `fetch_failed`, `fetch_timeout`,
        `http_status`, `too_many_redirects`, `body_length_wrong`, `host_failing`,
        `picture_empty`, `picture_too_large`.

        Raises:
            RetryableError: the fetcher is closed.
        """
        outages_before = self._outage.ended
        while True:
            is_probe = await self._await_network()
            ended = self._outage.ended
            outcome = await self._limited(url, workspace, 1 if is_probe else _ATTEMPTS)
            if isinstance(outcome, bytes) or outcome.reason not in _OF_AN_OUTAGE:
                return outcome
            is_disturbed = self._outage.is_on or self._outage.ended > ended
            if not is_disturbed or self._outage.ended - outages_before > _OUTAGES_WAITED_OUT:
                return outcome

    async def _await_network(self) -> bool:
        """Wait while our network is down; True for the one who is to try it, all take turns."""
        while self._outage.is_on:
            async with self._prober:
                while self._outage.is_on:
                    if self._session.closed:
                        raise RetryableError("the fetcher is closed")
                    if self._outage.may_probe():
                        return True
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._network_is_back.wait(), PROBE_SECONDS / 4)
        return False

    async def _limited(self, url: str, workspace: str, attempts: int) -> bytes | Rejection:
        """Fetch, and try again while there is time.

        Where that is up in another attempt, or in a host's queue for it, the silence before tells
        more: a host that refuses connections is `fetch_failed`, however late it is asked again.
        """
        # No error is kept, here or where it is raised: its traceback holds the frames, so that what
        # had come of a picture would stay until the next garbage collection.
        failed = in_all = Rejection("fetch_timeout", "in all")
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_seconds) as limit:
                for attempt in range(attempts):
                    try:
                        return await self._follow(_checked(url), workspace, limit)
                    except _RefusedError as refused:
                        failed = Rejection(refused.reason, refused.detail)
                        pause = self._random.uniform(0, _FIRST_PAUSE_SECONDS * 2**attempt)
                        if refused.pause_seconds is not None:
                            pause = refused.pause_seconds
                        left = (limit.when() or 0) - asyncio.get_running_loop().time()
                        if not refused.is_passing or attempt == attempts - 1 or pause >= left:
                            break
                    self.on_retry(failed.reason, pause)
                    logger.info(
                        "trying again in %.1f s: %s, %s", pause, failed.reason, failed.detail
                    )
                    await asyncio.sleep(pause)
        except TimeoutError:
            if failed.reason not in _SILENCE:
                failed = in_all
        if self._session.closed:
            raise RetryableError("the fetcher is closed")
        return failed

    async def _follow(self, url: URL, workspace: str, limit: asyncio.Timeout) -> bytes:
        for _ in range(_REDIRECTS + 1):
            answer = await self._request(url, workspace, limit)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise _RefusedError("too_many_redirects", _origin(url))

    async def _request(self, url: URL, workspace: str, limit: asyncio.Timeout) -> bytes | URL:
        """One request and its answer, or where it redirects to."""
        origin = _origin(url)
        if self._failing.is_resting(origin):
            raise _RefusedError("host_failing", origin)
        async with self._shares.hold(url.host or "", workspace, limit):
            if not self._failing.admit(origin):  # it may have been given up meanwhile
                raise _RefusedError("host_failing", origin)
            if self._session.closed:
                raise RetryableError("the fetcher is closed")
            has_answered = False
            try:
                with _translated(origin):
                    async with self._session.get(url, allow_redirects=False) as response:
                        has_answered = True
                        self._network_works(url)
                        answer = await self._answer(url, response, limit)
            except _RefusedError as refused:
                if refused.is_passing:
                    is_silence = refused.reason in _SILENCE and not has_answered
                    self._host_failed(url, is_silence=is_silence)
                elif refused.reason != "address_refused":
                    self._failing.answered(origin)
                raise
            except asyncio.CancelledError:
                if limit.expired():
                    self._host_failed(url, is_silence=not has_answered)
                raise
            self._failing.answered(origin)
            return answer

    def _host_failed(self, url: URL, *, is_silence: bool) -> None:
        if self._session.closed:
            return
        if is_silence and self._outage.failed(url.host or ""):
            self._network_is_back.clear()
            silent, heard = self._outage.counts()
            logger.warning(
                "no network, it seems: %d of %d hosts do not answer; fetching pauses", silent, heard
            )
        if not self._outage.is_on:
            self._failing.failed(_origin(url))

    def _network_works(self, url: URL) -> None:
        seconds = self._outage.seconds
        if self._outage.answered(url.host or ""):
            self._failing.forgive()
            self._network_is_back.set()
            logger.warning("a host answers again after %.0f s; fetching goes on", seconds)

    async def _answer(
        self, url: URL, response: aiohttp.ClientResponse, limit: asyncio.Timeout
    ) -> bytes | URL:
        status, origin = response.status, _origin(url)
        if status in _REDIRECT_STATUSES and "Location" in response.headers:
            return _checked(response.headers["Location"], base=url)
        if status != _OK:
            raise _RefusedError(
                "http_status",
                f"{status} {origin}",
                is_passing=status in _PASSING_STATUSES or status >= _SERVER_ERROR,
                pause_seconds=_retry_after(response),
            )
        limit_bytes = self._settings.picture_limit_bytes
        too_large = f"over {limit_bytes} bytes, {origin}"
        if (response.content_length or 0) > limit_bytes:
            raise _RefusedError("picture_too_large", too_large)
        protocol = response.connection.protocol if response.connection is not None else None
        pieces, received_bytes = list[bytes](), 0
        with self._bytes.arriving() as arrival:
            # Counted as it comes in, and after decompression where a host compresses all the same.
            async for piece in response.content.iter_any():
                received_bytes += len(piece)
                if received_bytes > limit_bytes:
                    raise _RefusedError("picture_too_large", too_large)
                await _make_room(arrival, len(piece), limit)
                pieces.append(piece)
        beyond = protocol.exception() if protocol is not None else None
        if isinstance(beyond, HttpProcessingError):  # bytes beyond the end, which is no HTTP
            raise _RefusedError("body_length_wrong", f"too long, {origin}", is_passing=True)
        if received_bytes == 0:
            raise _RefusedError("picture_empty", origin)
        return b"".join(pieces)

    def _is_allowed(self, address: str) -> bool:
        return is_public(address) or (
            self._settings.allow_private_addresses and is_private(address)
        )

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """The only place where sockets are made: nothing else can be connected to."""
        family, kind, protocol, _, target = address
        if not self._is_allowed(str(target[0])):
            raise _RefusedError("address_refused")
        made = socket.socket(family, kind, protocol)
        made.settimeout(0)
        return made


class _RefusedError(Exception):
    """No bytes; `is_passing` where another attempt may go better, by the host's fault."""

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        is_passing: bool = False,
        pause_seconds: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.is_passing = is_passing
        self.pause_seconds = pause_seconds


class _Resolver(AbstractResolver):
    """Looks names up and refuses an answer with any address that is not allowed."""

    def __init__(self, lookups: ThreadPoolExecutor, is_allowed: Callable[[str], bool]) -> None:
        self._lookups = lookups
        self._is_allowed = is_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._lookups, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM
        )
        addresses = [(str(target[0]), family) for family, _, _, _, target in found]
        if not all(self._is_allowed(address) for address, _ in addresses):
            raise _RefusedError("address_refused")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=family,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address, family in addresses
        ]

    async def close(self) -> None:
        """Nothing is open: the threads are the fetcher's."""


def host_of(url: str) -> str | None:
    """Give the host that a URL names; None where it is refused, for which nobody is asked."""
    try:
        return _checked(url).host
    except _RefusedError:
        return None


def _checked(text: str, base: URL | None = None) -> URL:
    """The URL to ask, where it is one that we ask."""
    try:
        if len(text) > _URL_LIMIT_CHARACTERS or re.search(r"[\x00-\x1f\x7f]", text):
            raise _RefusedError("url_refused", "too long, or with control characters")
        # Sent as it was written: signatures in it may depend on every character.
        url = URL(text, encoded=text.isascii() and " " not in text)
        if base is not None:
            url = base.join(url)
        if url.scheme not in {"http", "https"} or not url.host or not url.port:
            raise _RefusedError("url_refused", "not http or https, or no host")
        if url.raw_user is not None or url.raw_password is not None:
            raise _RefusedError("url_refused", f"with credentials, {_origin(url)}")
        return _numeric_host_as_dotted(url)
    except ValueError as error:
        raise _RefusedError("url_refused", "malformed") from error


def _numeric_host_as_dotted(url: URL) -> URL:
    """`http://2130706433/` and `http://0x7f.1/` as what they mean (as browsers and libc do)."""
    try:
        return url.with_host(socket.inet_ntoa(socket.inet_aton(url.host or "")))
    except OSError:
        return url


async def _make_room(arrival: Arrival, size_bytes: int, limit: asyncio.Timeout) -> None:
    if arrival.fits(size_bytes):
        await arrival.grow(size_bytes)
    else:
        with standing_still(limit):
            await arrival.grow(size_bytes)


def _origin(url: URL) -> str:
    return f"{url.scheme}://{url.host}:{url.port}"


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds that the host asks for; the header's other form, a date, is not used."""
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


@contextmanager
def _translated(origin: str) -> Iterator[None]:
    """Errors of the client as rejections; their own texts hold the URL."""
    try:
        yield
    except TimeoutError as error:
        raise _RefusedError("fetch_timeout", origin, is_passing=True) from error
    except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
        # The body ends early; or what came is no HTTP, which is what bytes beyond its end look
        # like where they arrive together with the header.
        raise _RefusedError("body_length_wrong", origin, is_passing=True) from error
    except ValueError as error:  # no host name, aiohttp.InvalidURL
        raise _RefusedError("url_refused", origin) from error
    except (aiohttp.ClientError, OSError) as error:
        kind = type(error).__name__
        raise _RefusedError("fetch_failed", f"{kind} {origin}", is_passing=True) from error
