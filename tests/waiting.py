"""Waiting for what no event tells of."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

_BETWEEN_SECONDS: Final = 0.1
_BETWEEN_TURNS_SECONDS: Final = 0.002


def wait_until(
    holds: Callable[[], object],
    seconds: float,
    *,
    told: Callable[[], object] = lambda: "",
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Ask until something holds; fail after so long, with what `told` gives then.

    `meanwhile` is called between two questions: what it raises ends the wait.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {told()}"
        meanwhile()
        time.sleep(_BETWEEN_SECONDS)


async def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Ask until something holds that other tasks bring about; fail after so long."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - sockets and processes set no events
            await asyncio.sleep(_BETWEEN_TURNS_SECONDS)
