"""How many bytes of pictures are in memory between their hosts and a decode process.

One ledger per process. The fetcher counts each picture while it arrives, whoever decodes counts
it while it waits and is decoded. Only arrivals are made to wait: what has arrived leaves by
itself, so the oldest arrival can always be let on, and nothing waits for ever.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from schemas.topics import MEBIBYTE

# Two pictures of the largest size, or hundreds of usual ones: more than decode processes of one
# machine get through in a second.
_LIMIT_BYTES: Final = 64 * MEBIBYTE


class PictureBytes:
    """Bounds what is arriving and what is waiting to the limit and one picture."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        """Begin empty."""
        self._limit_bytes = limit_bytes
        self._waiting_bytes = 0
        # In the order in which their first bytes came.
        self._arriving: dict[int, int] = {}
        self._numbers = 0
        self._changed = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        """How many there are now."""
        return self._waiting_bytes + sum(self._arriving.values())

    @contextmanager
    def arriving(self) -> Iterator["Arrival"]:
        """Count one picture for as long as it is being received."""
        self._numbers += 1
        number = self._numbers
        self._arriving[number] = 0
        try:
            yield Arrival(self, number)
        finally:
            del self._arriving[number]
            self._change()

    @contextmanager
    def waiting(self, size_bytes: int) -> Iterator[None]:
        """Count one picture that is there whole, until it is decoded."""
        self._waiting_bytes += size_bytes
        try:
            yield
        finally:
            self._waiting_bytes -= size_bytes
            self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _has_room(self, number: int, size_bytes: int) -> bool:
        is_oldest = next(iter(self._arriving)) == number
        return self.held_bytes + size_bytes <= self._limit_bytes or (
            is_oldest and self._waiting_bytes == 0
        )

    async def _grow(self, number: int, size_bytes: int) -> None:
        while not self._has_room(number, size_bytes):
            await self._changed.wait()
        self._arriving[number] += size_bytes


class Arrival:
    """One picture that is being received."""

    def __init__(self, ledger: PictureBytes, number: int) -> None:
        self._ledger = ledger
        self._number = number

    def fits(self, size_bytes: int) -> bool:
        """Whether there is room for so many more bytes now."""
        return self._ledger._has_room(self._number, size_bytes)  # noqa: SLF001 - one module

    async def grow(self, size_bytes: int) -> None:
        """Wait until there is room for so many more bytes, and count them."""
        await self._ledger._grow(self._number, size_bytes)  # noqa: SLF001 - one module
