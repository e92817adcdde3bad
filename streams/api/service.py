"""What the API does with a request once it is read: hash, ask or append, wait, tell.

Free of HTTP. What is refused before anything was appended says so (503), and what may have been
appended says that (504) and names the key with which a retry is the same picture.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from agents.compare import compare
from agents.hash_image import Fetch, HashPicture
from schemas.http import (
    ClosestMatch,
    ComparedPicture,
    ComparedView,
    CompareResponse,
    MatchResponse,
)
from schemas.reasons import Rejection
from schemas.records import (
    AskImage,
    AskMatch,
    Fingerprint,
    Hashed,
    KnownImage,
    MatchAnswered,
    MatchSettings,
    ReplyAddress,
)
from streams.api.answers import Answers
from streams.api.keys import Key
from streams.api.problems import ProblemError
from streams.api.requests import MatchRequest
from streams.errors import RetryableError
from streams.telemetry.timeline import Done, Tracer

IDEMPOTENCY_KEY: Final = "Idempotency-Key"


class Times:
    """How long each part of a request took, for its Server-Timing header."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin now."""
        self._clock = clock
        self._since = clock()
        self._parts: list[tuple[str, float]] = []

    def end(self, part: str) -> None:
        """End a part, and begin the next."""
        now = self._clock()
        self._parts.append((part, now - self._since))
        self._since = now

    def header(self) -> str:
        """Give the header's value; milliseconds, as its specification has it."""
        return ", ".join(f"{part};dur={seconds * 1000:.1f}" for part, seconds in self._parts)


class Service:
    """Answers requests of authenticated keys."""

    def __init__(
        self,
        answers: Answers,
        *,
        fetch: Fetch,
        hash_picture: HashPicture,
        tracer: Tracer | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Take the parts."""
        self._tracer = tracer or Tracer()
        self._answers = answers
        self._fetch = fetch
        self._hash_picture = hash_picture
        self._clock_ms = clock_ms

    def require_answers(self, workspace: str) -> MatchSettings:
        """Give the settings in force for a workspace.

        Raises:
            ProblemError: `not_answering`; nobody would answer a request for it now.
        """
        found = self._answers.settings_of(self._answers.partition_of(workspace))
        if found is None:
            raise ProblemError("not_answering")
        return found

    async def match(
        self,
        request: MatchRequest,
        key: Key,
        idempotency_key: str,
        *,
        deadline: float,
        times: Times,
    ) -> MatchResponse:
        """Answer `/v1/match/`; `deadline` is in the event loop's time.

        Raises:
            ProblemError: there is no answer, and why.
        """
        since_ms = self._clock_ms()
        with self._tracer.noting() as timeline:
            image_id, response = await self._match(request, key, idempotency_key, deadline, times)
        if image_id is not None:
            done = Done("request", key.workspace, image_id, since_ms=since_ms)
            self._tracer.tell(timeline, done)
        return response

    async def _match(
        self,
        request: MatchRequest,
        key: Key,
        idempotency_key: str,
        deadline: float,
        times: Times,
    ) -> tuple[str | None, MatchResponse]:
        """Answer; also the id under which the picture is stored, if it is."""
        try:
            async with asyncio.timeout_at(deadline):
                fingerprint = await self._fingerprint(request, key.workspace)
        except TimeoutError:
            raise ProblemError("busy", "The picture was not hashed in time.") from None
        times.end("hash")
        self.require_answers(key.workspace)  # fetching may have taken a while
        if not request.store:
            answered = await self._asked(key.workspace, fingerprint, request.threshold, deadline)
            image_id = None
        else:
            image_id = request.image_id or _derived_id(key, idempotency_key)
            record = Hashed(
                record_version=1,
                workspace=key.workspace,
                image_id=image_id,
                origin="api",
                fingerprint=fingerprint,
                ingested_at_ms=self._clock_ms(),
                check=request.check,
            )
            answered = await self._stored(
                record, request.threshold, idempotency_key, deadline, times
            )
        times.end("match")
        return image_id, _response(answered, fingerprint, image_id, detail=request.detail)

    async def images(self, sha256: bytes, key: Key, *, deadline: float) -> tuple[KnownImage, ...]:
        """Give what is known of the pictures with these bytes.

        Raises:
            ProblemError: nothing is, or nobody answers.
        """
        self.require_answers(key.workspace)
        partition = self._answers.partition_of(key.workspace)
        with self._answers.expect(partition) as (request_id, answer):
            question = AskImage(request_id, key.workspace, sha256)
            found = (await self._told(question, partition, answer, deadline)).images
        if not found:
            raise ProblemError("not_found")
        return found

    async def compare(
        self, first: bytes, second: bytes, key: Key, *, deadline: float
    ) -> CompareResponse:
        """Relate two pictures by the settings in force for the workspace; nothing is stored.

        Raises:
            ProblemError: one is no good, or there is no time left.
        """
        settings = self.require_answers(key.workspace)
        try:
            async with asyncio.timeout_at(deadline):
                earlier = await self._hashed(first)
                picture = await self._hashed(second)
        except TimeoutError:
            raise ProblemError("busy", "The pictures were not hashed in time.") from None
        found = compare(picture, earlier, settings)
        decision = found.decision
        fine = (pair.fine_distance for pair in found.met if pair.fine_distance is not None)
        return CompareResponse(
            success=True,
            related=decision is not None,
            relation=decision.relation if decision else None,
            tier=decision.tier if decision else None,
            score=min((pair.distance for pair in found.met), default=None),
            fine_distance=min(fine, default=None),
            weight=decision.weight if decision else None,
            views=decision.views if decision else None,
            explanation=found.explanation,
            first=_compared(earlier),
            second=_compared(picture),
        )

    async def _fingerprint(self, request: MatchRequest, workspace: str) -> Fingerprint:
        content: bytes | Rejection = request.content or b""
        if request.url is not None:
            content = await self._fetch(request.url, workspace)
        if isinstance(content, Rejection):
            raise ProblemError(content.reason)
        return await self._hashed(content)

    async def _hashed(self, content: bytes) -> Fingerprint:
        found = await self._hash_picture(content)
        if isinstance(found, Rejection):
            raise ProblemError(found.reason)
        return found

    async def _asked(
        self, workspace: str, fingerprint: Fingerprint, threshold: int, deadline: float
    ) -> MatchAnswered:
        partition = self._answers.partition_of(workspace)
        with self._answers.expect(partition) as (request_id, answer):
            question = AskMatch(request_id, workspace, fingerprint, threshold)
            return await self._told(question, partition, answer, deadline)

    async def _told(
        self,
        question: AskMatch | AskImage,
        partition: int,
        answer: asyncio.Future[MatchAnswered],
        deadline: float,
    ) -> MatchAnswered:
        try:
            async with asyncio.timeout_at(deadline):
                await self._answers.ask(question, partition)
                return await answer
        except (TimeoutError, RetryableError):
            raise ProblemError("not_answering") from None

    async def _stored(
        self,
        record: Hashed,
        threshold: int,
        idempotency_key: str,
        deadline: float,
        times: Times,
    ) -> MatchAnswered:
        partition = self._answers.partition_of(record.workspace)
        with self._answers.expect(partition) as (request_id, answer):
            reply = ReplyAddress(request_id, threshold)
            try:
                async with asyncio.timeout_at(deadline):
                    await self._answers.append(replace(record, reply=reply))
                    times.end("append")
                    answered = await answer
            except (TimeoutError, RetryableError):
                late = {IDEMPOTENCY_KEY: idempotency_key}
                raise ProblemError("answer_late", headers=late) from None
        if answered.outcome is None or answered.outcome.sha256 != record.fingerprint.sha256.hex():
            raise ProblemError("id_reused")
        return answered


def _derived_id(key: Key, idempotency_key: str) -> str:
    """Give the image id of a request: the same key and header are the same picture."""
    digest = hashlib.sha256(f"{key.id}\n{idempotency_key}".encode("utf-8", "surrogateescape"))
    return f"api-{digest.hexdigest()[:32]}"


def _compared(picture: Fingerprint) -> ComparedPicture:
    width, height = picture.decoded_width_pixels, picture.decoded_height_pixels
    views = []
    for view in picture.views:
        left, top, right, bottom = view.rectangle
        box = (left / width, top / height, right / width, bottom / height)
        views.append(ComparedView(view.name, box))
    return ComparedPicture(
        sha256=picture.sha256.hex(),
        width_pixels=picture.width_pixels,
        height_pixels=picture.height_pixels,
        low_information=picture.low_information,
        views=tuple(views),
    )


def _response(
    answered: MatchAnswered, fingerprint: Fingerprint, image_id: str | None, *, detail: bool
) -> MatchResponse:
    closest = answered.closest_match
    response = MatchResponse(
        success=True,
        match=closest is not None,
        closest_match=None if closest is None else ClosestMatch(closest.sha256, closest.score),
    )
    if not detail:
        return response
    return replace(
        response,
        image_id=image_id,
        hash_version=fingerprint.version,
        matches=answered.matches,
        nearest_miss=answered.nearest_miss,
    )
