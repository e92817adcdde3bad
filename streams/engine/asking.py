"""What a feed asks of its topic's log, and how: again for as long as the broker does not answer."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from typing import Final, ParamSpec, Protocol, TypeVar

from schemas.topics import MEBIBYTE
from streams.entry import LogEntry
from streams.errors import RetryableError
from streams.kafka.client import Committed, TopicIdentity

logger = logging.getLogger(__name__)

# Events may hold whole pictures; what is read at once is in memory until it has entered a window.
PIECE_BYTES: Final = 4 * MEBIBYTE
_ASK_AGAIN_SECONDS = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class Log(Protocol):
    """What a feed asks of its topic; `streams.kafka.log.LogReader` is one."""

    def watermarks(self, partition: int, timeout_seconds: float = 10.0, /) -> tuple[int, int]:
        """Give a partition's first offset and the one after its last."""
        ...

    def committed(self, group: str, partition: int, /) -> Committed | None:
        """Give what a group has committed."""
        ...

    def identity(self) -> TopicIdentity:
        """Give what the topic is."""
        ...

    def leader_epochs(self, partitions: Iterable[int], /) -> dict[int, int]:
        """Give how often each partition has got a leader; without those that get no answer."""
        ...

    def read_range(
        self, partition: int, low: int, high: int, /, *, headers: bool
    ) -> Generator[list[LogEntry]]:
        """Read all records in [low, high)."""
        ...


async def until_answered(question: Callable[[], Awaitable[T]]) -> T:
    """Ask the broker, and again for as long as it does not answer."""
    while True:
        try:
            return await question()
        except RetryableError as error:
            logger.warning("asking again: %s", error)
            await asyncio.sleep(_ASK_AGAIN_SECONDS)


async def ask(question: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Ask in a thread of its own, until it is answered."""
    return await until_answered(partial(asyncio.to_thread, question, *args, **kwargs))


async def read_piece(log: Log, partition: int, low: int, high: int) -> tuple[list[LogEntry], int]:
    """Read from `low` on, as far as a piece goes; give what was read, and the offset reached."""
    return await ask(_read_piece, log, partition, low, high)


def _read_piece(log: Log, partition: int, low: int, high: int) -> tuple[list[LogEntry], int]:
    found: list[LogEntry] = []
    size_bytes = 0
    with closing(log.read_range(partition, low, high, headers=True)) as batches:
        for batch in batches:
            for entry in batch:
                found.append(entry)
                size_bytes += len(entry.value or b"")
                if size_bytes >= PIECE_BYTES:
                    return found, entry.offset + 1
    return found, high
