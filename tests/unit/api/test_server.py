"""Hashing for clients that may go away: what has begun is finished, what waits is given up."""

import asyncio
from contextlib import suppress

import pytest

from schemas.reasons import Rejection
from streams.api.server import Hashing
from streams.errors import RetryableError
from streams.fetching.picture_bytes import PictureBytes
from streams.settings import Settings


class Pool:
    """A pool whose jobs end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def hash_picture(self, content: bytes, /) -> Rejection:
        """Run a job."""
        self.begun.append(content)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return Rejection("not_an_image")


@pytest.fixture
def pool() -> Pool:
    """Give a pool."""
    return Pool()


@pytest.fixture
def hashing(pool: Pool) -> Hashing:
    """Give what hashes one picture at a time in it."""
    return Hashing(Settings(decode_processes=1), pool.hash_picture, PictureBytes())


async def gone(task: asyncio.Task[object]) -> None:
    """Cancel a task, and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_job_that_has_begun_is_not_cancelled(hashing: Hashing, pool: Pool) -> None:
    """Its child goes on to the next picture instead of being started anew."""
    first = asyncio.create_task(hashing.hash_picture(b"1"))
    second = asyncio.create_task(hashing.hash_picture(b"2"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await gone(first)
    assert (pool.begun, pool.cancelled) == ([b"1"], 0)
    pool.gate.set()
    assert await second == Rejection("not_an_image")
    assert pool.begun == [b"1", b"2"]


async def test_a_job_that_waits_is_given_up(hashing: Hashing, pool: Pool) -> None:
    """Nobody hashes for a client that is gone."""
    first = asyncio.create_task(hashing.hash_picture(b"1"))
    second = asyncio.create_task(hashing.hash_picture(b"2"))
    await asyncio.sleep(0)
    await gone(second)
    pool.gate.set()
    await first
    assert await hashing.hash_picture(b"3") == Rejection("not_an_image")
    assert pool.begun == [b"1", b"3"]


async def test_an_error_reaches_who_waits(hashing: Hashing, pool: Pool) -> None:
    """And the next picture has its turn."""
    pool.gate.set()
    pool.error = RetryableError("closed")
    for _ in range(2):
        with pytest.raises(RetryableError):
            await hashing.hash_picture(b"1")
