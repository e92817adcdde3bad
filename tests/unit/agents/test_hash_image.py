"""One event: fetched where it must be, hashed where it can be, rejected with the first reason."""

import pytest

from agents.hash_image import hash_image
from schemas.reasons import Rejection
from schemas.records import Fingerprint, ImageIngested

FINGERPRINT = Fingerprint(
    version=1,
    sha256=bytes(32),
    format="PNG",
    width_pixels=1,
    height_pixels=1,
    decoded_width_pixels=1,
    decoded_height_pixels=1,
    views=(),
)
BY_URL = ImageIngested(workspace="w", image_id="i", url="https://check.example/i.png")
INLINE = ImageIngested(workspace="w", image_id="i", content=b"inline")


async def fetch(url: str, workspace: str) -> bytes | Rejection:
    """Fetch what only this URL and workspace give."""
    assert (url, workspace) == (BY_URL.url, "w")
    return b"fetched"


async def fetch_nothing(url: str, workspace: str) -> bytes | Rejection:
    """Fail as hosts do."""
    del url, workspace
    return Rejection("http_status", "404")


async def no_fetch(url: str, workspace: str) -> bytes | Rejection:
    """Fail the test: nothing is to be fetched."""
    raise AssertionError(url, workspace)


async def no_hash(content: bytes) -> Fingerprint | Rejection:
    """Fail the test: nothing is to be hashed."""
    raise AssertionError(content)


@pytest.mark.parametrize(
    ("event", "expected", "fetcher"),
    [(BY_URL, b"fetched", fetch), (INLINE, b"inline", no_fetch)],
)
async def test_a_picture_is_fetched_or_taken_from_the_event(
    event: ImageIngested, expected: bytes, fetcher: object
) -> None:
    """Inline bytes are hashed as they are, others are fetched for the event's workspace."""
    hashed = []

    async def hash_picture(content: bytes) -> Fingerprint | Rejection:
        hashed.append(content)
        return FINGERPRINT

    assert await hash_image(event, fetcher, hash_picture) == FINGERPRINT  # type: ignore[arg-type]
    assert hashed == [expected]


async def test_what_cannot_be_fetched_is_not_hashed() -> None:
    """The fetch's rejection is the event's."""
    assert await hash_image(BY_URL, fetch_nothing, no_hash) == Rejection("http_status", "404")


async def test_what_cannot_be_hashed_is_rejected() -> None:
    """The decoder's rejection is the event's."""

    async def hash_picture(content: bytes) -> Fingerprint | Rejection:
        del content
        return Rejection("not_an_image")

    assert await hash_image(INLINE, no_fetch, hash_picture) == Rejection("not_an_image")


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (ImageIngested(workspace="w", image_id="i", content=b""), "picture_empty"),
        (ImageIngested(workspace="w", image_id="i"), "schema_violation"),
    ],
)
async def test_an_event_without_a_picture_costs_nothing(event: ImageIngested, reason: str) -> None:
    """Neither fetched nor hashed."""
    rejection = await hash_image(event, no_fetch, no_hash)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason
