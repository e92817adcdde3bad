"""`check-dedup api`: the HTTP side. Reads requests within their limits, and writes answers.

Stateless, any number of replicas. All that a request can end in is a documented body; a client that
is gone has its work cancelled, and a stop lets what is under way finish within a bound.
"""

import asyncio
import logging
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler, RequestPayloadError
from msgspec import Struct

from agents.hash_image import HashPicture
from schemas.codec import encode_json
from schemas.http import Code, Health, ImagesResponse
from schemas.reasons import Rejection
from schemas.records import Fingerprint
from streams.api.answers import AnswerReader, Answers
from streams.api.documents import (
    COMPARE_PATH,
    MATCH_PATH,
    OTHER_MATCH_PATHS,
    docs_page,
    openapi,
)
from streams.api.keys import Key, Keyring, Right
from streams.api.limits import Guest, Rates, Room
from streams.api.page import Page
from streams.api.problems import ProblemError
from streams.api.requests import ENVELOPE_LIMIT_BYTES, match_request, picture_pair
from streams.api.service import IDEMPOTENCY_KEY, Service, Times
from streams.decoding.hashing import PictureHashing
from streams.decoding.pool import DecodePool
from streams.engine.process import die, require_topics
from streams.engine.watchdog import LoopBeat, Watchdog
from streams.errors import MisconfiguredError, RetryableError
from streams.fetching.fetch import Fetcher
from streams.fetching.picture_bytes import PictureBytes
from streams.kafka.producer import DeliveringProducer
from streams.settings import Settings
from streams.telemetry import metrics
from streams.telemetry.delivery import CountedDelivery
from streams.telemetry.http import RequestMetrics
from streams.telemetry.process import Telemetry, timed_fetch
from streams.telemetry.registry import Registry, Steps

logger = logging.getLogger(__name__)
# aiohttp's own logger prints the header that it could not read, which may be an API key.
_SILENT: Final = logging.Logger("silent", logging.CRITICAL + 1)  # noqa: LOG001 - nobody else's

# A connection without a whole request header is closed after this; so is an idle one.
_HEADER_SECONDS: Final = 15.0
# What a client still sends after it was refused is read and dropped for so long, so that it sees
# the refusal and not a broken connection.
_LINGERING_SECONDS: Final = 2.0
_IDEMPOTENCY_KEY_FORM: Final = re.compile(r"[\x21-\x7e]{1,200}")
_SHA256_FORM: Final = re.compile(r"[0-9a-f]{64}")
_JSON: Final = "application/json"
# After the requests under way: what is left of a stop.
_CLOSING_SECONDS: Final = 10.0

_IMAGES_PATH: Final = "/v1/images/{sha256}"
_ENDPOINTS: Final = {
    **dict.fromkeys((MATCH_PATH, *OTHER_MATCH_PATHS), "match"),
    COMPARE_PATH: "compare",
    _IMAGES_PATH: "images",
    "/healthz": "health",
    "/readyz": "health",
    "/openapi.json": "openapi",
    "/docs": "docs",
}

# The headers that an answer to this request has, whatever it is.
_HEADERS: Final = web.RequestKey("headers", dict[str, str])

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def run_api(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        MisconfiguredError: topics are not as declared, or the address cannot be listened on.
    """
    telemetry = Telemetry("api", settings)
    require_topics(settings)
    asyncio.run(_serve(settings, telemetry))


async def _serve(settings: Settings, telemetry: Telemetry) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Somebody waits for each record. Nobody waits longer for one than a request may take, but the
    # first has to wait for the connection, too.
    producer = DeliveringProducer(
        settings,
        linger_ms=0,
        timeout_seconds=min(
            settings.delivery_timeout_seconds, 2 * settings.request_timeout_seconds
        ),
    )
    steps = Steps(telemetry.registry)
    answers = Answers(settings, deliver=CountedDelivery(producer, telemetry.registry, steps))
    telemetry.registry.computed(
        metrics.API_SILENT_PARTITIONS, lambda: len(answers.late_partitions())
    )
    async with AsyncExitStack() as stack:
        stack.callback(producer.close, 1.0)
        pool = await stack.enter_async_context(DecodePool(settings))
        picture_bytes = PictureBytes()
        fetcher = await stack.enter_async_context(Fetcher(settings, picture_bytes=picture_bytes))
        telemetry.picture_parts(fetcher, pool)
        reader = AnswerReader(settings, answers.hear, die)
        await reader.start()
        stack.push_async_callback(reader.close)
        watching = asyncio.create_task(answers.watch())
        watching.add_done_callback(partial(_unless_cancelled, die))
        stack.callback(watching.cancel)
        beat = LoopBeat()
        beating = asyncio.create_task(beat.run())
        stack.callback(beating.cancel)
        telemetry.registry.computed(metrics.EVENT_LOOP_DELAY_SECONDS, beat.late_seconds)
        watchdog = Watchdog(
            beat.look,
            stall_seconds=settings.stall_timeout_seconds,
            is_stopping=stop.is_set,
        )
        watchdog.add_to(telemetry.probes)
        telemetry.probes.add("ready", "answers", partial(_unready, answers, stop, settings))
        watchdog.start()
        hashing = Hashing(settings, PictureHashing(settings, pool, steps.took), picture_bytes)
        service = Service(
            answers,
            fetch=timed_fetch(fetcher.fetch, steps),
            hash_picture=hashing.hash_picture,
            tracer=telemetry.tracer,
        )
        api = Api(settings, service=service, answers=answers, registry=telemetry.registry)
        runner = api.runner()
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, settings.api_host, settings.api_port)
        try:
            await site.start()
        except OSError as error:
            raise MisconfiguredError(f"cannot listen: {error}") from error
        telemetry.probes.started()
        logger.info("listening on %s", runner.addresses)
        await stop.wait()
        logger.info("stopping")
        api.stop()
        seconds = settings.request_timeout_seconds + _CLOSING_SECONDS
        deadline = threading.Timer(seconds, os._exit, (1,))
        deadline.daemon = True
        deadline.start()


def _unready(answers: Answers, stop: asyncio.Event, settings: Settings) -> str | None:
    """Say why it is of no use to send requests here; some partitions are of use."""
    if stop.is_set():
        return "told to stop"
    if len(answers.late_partitions()) == settings.partitions:
        return "no matcher answers"
    return None


def _unless_cancelled(fail: Callable[[BaseException], object], task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        fail(error)


class Hashing:
    """Hashes pictures in the pool, without letting clients that go away kill its children.

    Cancelling a job of the pool costs half a second of a core for a new child. Here a job that has
    begun is finished (it has a limit of its own); one that has not is given up.
    """

    def __init__(
        self, settings: Settings, hash_picture: HashPicture, picture_bytes: PictureBytes
    ) -> None:
        """Take what hashes in the pool; as many jobs begin at once as that has children."""
        self._hash_picture = hash_picture
        self._bytes = picture_bytes
        self._turns = asyncio.Semaphore(settings.decode_processes)
        self._running: set[asyncio.Future[Fingerprint | Rejection]] = set()

    async def hash_picture(self, content: bytes, /) -> Fingerprint | Rejection:
        """Give the fingerprint of a picture's bytes."""
        with self._bytes.waiting(len(content)):
            await self._turns.acquire()
        job = asyncio.ensure_future(self._hash_picture(content))
        self._running.add(job)
        job.add_done_callback(self._done)
        return await asyncio.shield(job)

    def _done(self, job: asyncio.Future[Fingerprint | Rejection]) -> None:
        self._running.discard(job)
        self._turns.release()
        if not job.cancelled():
            job.exception()  # its caller may be gone, who would have taken it


class Api:
    """The routes, and what is checked before a request is read."""

    def __init__(
        self,
        settings: Settings,
        *,
        service: Service,
        answers: Answers,
        registry: Registry | None = None,
    ) -> None:
        """Take the parts."""
        self._settings = settings
        self._service = service
        self._answers = answers
        self._keyring = Keyring(settings.keys_file)
        self._rates = Rates(settings.rate_per_second, settings.rate_burst, time.monotonic)
        self._room = Room(settings.requests_at_once, settings.uploads_limit_bytes)
        self._openapi = openapi()
        self._docs = docs_page(self._openapi)
        self._page = Page()
        endpoints = _ENDPOINTS | dict.fromkeys(self._page.paths, "page")
        self._metrics = RequestMetrics(registry or Registry("api"), endpoints)
        self._stopping = False

    def application(self) -> web.Application:
        """Give the aiohttp application."""
        application = web.Application(middlewares=[self._metrics.middleware, self._answered])
        router = application.router
        for path in (MATCH_PATH, *OTHER_MATCH_PATHS):
            router.add_post(path, self._match, expect_handler=_expected)
        router.add_post(COMPARE_PATH, self._compare, expect_handler=_expected)
        router.add_get(_IMAGES_PATH, self._images, allow_head=False)
        router.add_get("/healthz", self._healthz, allow_head=False)
        router.add_get("/readyz", self._readyz, allow_head=False)
        router.add_get("/openapi.json", self._openapi_json, allow_head=False)
        router.add_get("/docs", self._docs_html, allow_head=False)
        for path in self._page.paths:
            router.add_get(path, self._page.answer, allow_head=False)
        return application

    def runner(self) -> web.AppRunner:
        """Give what serves the application, with the limits of its connections."""
        return _Runner(
            self.application(),
            handler_cancellation=True,
            access_log=None,
            logger=_SILENT,
            keepalive_timeout=_HEADER_SECONDS,
            lingering_time=_LINGERING_SECONDS,
            shutdown_timeout=self._settings.request_timeout_seconds,
            # A body that unpacks into something larger is refused, not unpacked.
            auto_decompress=False,
        )

    def stop(self) -> None:
        """Refuse new requests."""
        self._stopping = True

    # --- every request ------------------------------------------------------------------------

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn everything that is no answer into one."""
        try:
            return await handler(request)
        except ProblemError as problem:
            return self._refused(request, problem)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            return self._refused(
                request, ProblemError("method_not_allowed", headers={"Allow": allowed})
            )
        except web.HTTPException:
            return self._refused(request, ProblemError("not_found"))
        except RetryableError as error:
            logger.warning("refused: %s", error)
            return self._refused(request, ProblemError("busy"))
        except Exception:
            logger.exception("a request failed: %s %s", request.method, request.path)
            return self._refused(request, ProblemError("failed"))

    @staticmethod
    def _refused(request: web.Request, problem: ProblemError) -> web.Response:
        headers = {**request.get(_HEADERS, {}), **problem.headers}
        return _json(problem.body, status=problem.status, headers=headers)

    async def _admitted(self, request: web.Request, right: Right) -> Key:
        """Give the key of a request that may go on."""
        if self._stopping:
            raise ProblemError("stopping")
        try:
            key = self._keyring.find(_key_text(request))
        except MisconfiguredError as error:
            logger.error("API keys: %s", error)  # noqa: TRY400 - the message says it all
            raise ProblemError("keys_unreadable") from error
        if key is None:
            raise ProblemError("key_wrong", headers={"WWW-Authenticate": "Bearer"})
        allowance = self._rates.take(key.id)
        request[_HEADERS] = allowance.headers()
        if allowance.retry_after_seconds:
            retry = {"Retry-After": str(allowance.retry_after_seconds)}
            raise ProblemError("rate_exceeded", headers=retry)
        if not key.may(right):
            raise ProblemError("right_missing")
        return key

    # --- routes -------------------------------------------------------------------------------

    async def _match(self, request: web.Request) -> web.Response:
        deadline = self._deadline()
        key = await self._admitted(request, "match")
        settings = self._service.require_answers(key.workspace)
        idempotency_key = request.headers.get(IDEMPOTENCY_KEY, uuid.uuid4().hex)
        if not _IDEMPOTENCY_KEY_FORM.fullmatch(idempotency_key):
            raise ProblemError("parameter_invalid", f"{IDEMPOTENCY_KEY}: 1 to 200 visible ASCII.")
        times = Times()
        with self._room.enter() as guest:
            body = await self._body(request, guest, deadline, pictures=1)
            content_type = request.headers.get("Content-Type", "")
            wanted = match_request(request.query.items(), content_type, body, settings)
            del body
            self._require_size(wanted.content or b"")
            times.end("read")
            answer = await self._service.match(
                wanted, key, idempotency_key, deadline=deadline, times=times
            )
        return _json(answer, headers=request[_HEADERS] | {"Server-Timing": times.header()})

    async def _compare(self, request: web.Request) -> web.Response:
        deadline = self._deadline()
        key = await self._admitted(request, "match")
        self._service.require_answers(key.workspace)
        with self._room.enter() as guest:
            body = await self._body(request, guest, deadline, pictures=2)
            first, second = picture_pair(request.headers.get("Content-Type", ""), body)
            del body
            self._require_size(first, second)
            answer = await self._service.compare(first, second, key, deadline=deadline)
        return _json(answer, headers=request[_HEADERS])

    async def _images(self, request: web.Request) -> web.Response:
        deadline = self._deadline()
        key = await self._admitted(request, "read")
        sha256 = request.match_info["sha256"]
        if not _SHA256_FORM.fullmatch(sha256):
            raise ProblemError("parameter_invalid", "sha256: 64 lower-case hex digits.")
        with self._room.enter():
            found = await self._service.images(bytes.fromhex(sha256), key, deadline=deadline)
        return _json(ImagesResponse(success=True, images=found), headers=request[_HEADERS])

    async def _healthz(self, _: web.Request) -> web.Response:
        return _json(Health("ok"))

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._stopping:
            return _json(Health("stopping"), status=503)
        late = self._answers.late_partitions()
        return _json(Health("degraded" if late else "ok", late))

    async def _openapi_json(self, _: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type=_JSON)

    async def _docs_html(self, _: web.Request) -> web.Response:
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(text=self._docs, content_type="text/html", headers=policy)

    # --- reading ------------------------------------------------------------------------------

    async def _body(
        self, request: web.Request, guest: Guest, deadline: float, *, pictures: int
    ) -> bytes:
        """Read a body of so many pictures within its limits, counted as it comes in."""
        if request.headers.get("Content-Encoding", "").lower() not in {"", "identity"}:
            raise ProblemError("type_unsupported", "The body is encoded.")
        limit_bytes = pictures * self._settings.picture_limit_bytes + ENVELOPE_LIMIT_BYTES
        if (request.content_length or 0) > limit_bytes:
            raise ProblemError("body_too_large", f"The limit is {limit_bytes} bytes.")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # that was no answer yet
        pieces: list[bytes] = []
        received_bytes = 0
        try:
            async with asyncio.timeout_at(deadline):
                async for piece in request.content.iter_any():
                    received_bytes += len(piece)
                    if received_bytes > limit_bytes:
                        raise ProblemError("body_too_large", f"The limit is {limit_bytes} bytes.")
                    guest.hold(len(piece))
                    pieces.append(piece)
        except TimeoutError:
            raise ProblemError("body_too_slow") from None
        except RequestPayloadError as error:
            raise ProblemError("body_invalid", "It ends early.") from error
        return b"".join(pieces)

    def _require_size(self, *pictures: bytes) -> None:
        """Refuse what the hasher would: the body may be a little larger than its picture."""
        limit_bytes = self._settings.picture_limit_bytes
        if any(len(content) > limit_bytes for content in pictures):
            raise ProblemError("picture_too_large", f"The limit is {limit_bytes} bytes.")

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._settings.request_timeout_seconds


async def _expected(_: web.Request) -> None:
    """Promise nothing: a body is asked for when its request is admitted."""


class _Connection(RequestHandler):
    """A connection whose refusals are the API's own: aiohttp's would repeat what it could not read.

    That may be a header with an API key in it.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002 - aiohttp's signature
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> web.Response:
        """Answer what never became a request, and close."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun")
        code: Code = "failed" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "request_invalid"
        problem = ProblemError(code)
        response = _json(problem.body, status=problem.status)
        response.force_close()
        return response


class _Server(web.Server):
    """Makes such connections."""

    def __call__(self) -> _Connection:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """Runs such a server; aiohttp has no parameter for it."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server


def _key_text(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.headers.get("X-Api-Key", "")


def _json(
    body: Struct, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(body=encode_json(body), status=status, headers=headers, content_type=_JSON)
