"""Pictures between their hosts and a decode process take a bounded number of bytes."""

import asyncio
from contextlib import ExitStack

from streams.fetching.picture_bytes import PictureBytes

BOUND_SECONDS = 5.0


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_arrivals_wait_for_what_waits_to_be_decoded() -> None:
    """Also the oldest: what waits will leave, and makes room."""
    ledger = PictureBytes(100)
    with ledger.waiting(80), ledger.arriving() as arrival:
        assert arrival.fits(20)
        await arrival.grow(20)
        waiting = asyncio.ensure_future(arrival.grow(1))
        await settle()
        assert not waiting.done()
        assert ledger.held_bytes == 100
    with ledger.arriving() as arrival:
        await asyncio.wait_for(arrival.grow(100), BOUND_SECONDS)
    waiting.cancel()


async def test_many_that_arrive_at_once_all_do() -> None:
    """A hundred of half the limit each: the oldest goes on, so nobody waits for ever."""
    ledger = PictureBytes(100)
    most = 0

    async def arrive() -> None:
        nonlocal most
        with ledger.arriving() as arrival:
            for _ in range(10):
                await arrival.grow(5)
                most = max(most, ledger.held_bytes)
                await asyncio.sleep(0)
        with ledger.waiting(50):
            most = max(most, ledger.held_bytes)
            await asyncio.sleep(0)

    async with asyncio.timeout(BOUND_SECONDS):
        await asyncio.gather(*(arrive() for _ in range(100)))
    assert ledger.held_bytes == 0
    assert most <= 100 + 50


async def test_one_that_is_larger_than_the_limit_arrives() -> None:
    """Alone."""
    ledger = PictureBytes(10)
    with ExitStack() as stack:
        first, second = (stack.enter_context(ledger.arriving()) for _ in range(2))
        await asyncio.wait_for(first.grow(50), BOUND_SECONDS)
        assert not second.fits(1)


async def test_who_is_cancelled_leaves_nothing() -> None:
    """Neither bytes nor a place in line."""
    ledger = PictureBytes(10)

    async def arrive() -> None:
        with ledger.arriving() as arrival:
            await arrival.grow(8)
            await asyncio.sleep(60)

    tasks = [asyncio.ensure_future(arrive()) for _ in range(3)]
    await settle()
    assert ledger.held_bytes == 8
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert ledger.held_bytes == 0
