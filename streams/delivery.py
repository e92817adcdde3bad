"""The order on which every promise rests: delivered, then applied, then committed.

`commit_group` is the only caller that acknowledges a group; `Window` does the same for events
that complete out of order. What they acknowledge is a watermark per topic partition: below it
everything is delivered and applied. Only watermarks are ever committed to a consumer group.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from streams import failpoints

# Noted of one partition above its watermark, where events are parked: 5 MB, and what is done again
# after a crash. Five days of the capacity that is promised.
_SPAN_EVENTS: Final = 50_000


class TopicPartition(NamedTuple):
    """A partition of a topic; equal to Faust's own type for the same two values."""

    topic: str
    partition: int

    def __str__(self) -> str:
        """Name it as everywhere in logs and errors."""
        return f"{self.topic}[{self.partition}]"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to deliver. `partition` None: the key decides, by murmur2."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None


class Deliver(Protocol):
    """Hand records to the broker and return when it has acknowledged every one of them."""

    async def __call__(self, records: Collection[Outgoing], /) -> None:
        """Deliver; an error means that some may not be there."""
        ...


async def commit_group(
    *,
    outgoing: Collection[Outgoing],
    deliver: Deliver,
    apply: Callable[[], Awaitable[None]],
    acknowledge: Callable[[], None],
) -> None:
    """Deliver all, then apply, then acknowledge; a failure leaves the later steps undone."""
    failpoints.reach("delivery.before")
    await deliver(outgoing)
    failpoints.reach("delivery.after")
    await apply()
    acknowledge()


async def nothing_to_apply() -> None:
    """Apply nothing: what was delivered is all there is."""


class Watermarks:
    """Per topic partition: the assignment it was reached in, and the offset to commit.

    Assignments are counted by this process (`streams.engine.transport`), not by the group: a
    partition may be revoked and assigned again in one generation, and what was in work is gone all
    the same.
    """

    def __init__(self) -> None:
        """Start without assignments."""
        self._offsets: dict[tuple[str, int], tuple[int, int]] = {}

    def advance(self, partition: TopicPartition, assignment: int, offset: int) -> None:
        """Move a partition's watermark up; never down within an assignment."""
        known = self._offsets.get(partition)
        if known is None or (assignment, offset) > known:
            self._offsets[partition] = (assignment, offset)

    def reached(self, partition: TopicPartition) -> tuple[int, int] | None:
        """Give (assignment, offset) of a partition's watermark; None before there is one."""
        return self._offsets.get(partition)

    def committable(
        self, assigned: Collection[tuple[str, int]], assignment: int | None
    ) -> Mapping[tuple[str, int], int]:
        """Give the offsets to commit: of what is assigned now, reached in this assignment."""
        return {
            partition: offset
            for partition, (reached_in, offset) in self._offsets.items()
            if reached_in == assignment and partition in assigned
        }


class Window:
    """The events of one partition that are in work, completing in any order.

    Bounded: `enter` waits while the oldest unfinished event is `size` events behind. Where that one
    is parked, noted and not in work, only the events in work are bounded by `size`. The watermark
    is the lowest offset that is not finished.
    """

    def __init__(self, size: int, start: int, advance: Callable[[int], None]) -> None:
        """Start at the offset `start`; `advance` is called with each new watermark."""
        self._size = size
        self._advance = advance
        self._next = start
        self._watermark = start
        # Its first entry is asked for again and again, for which a dict scans what was deleted.
        self._finished: OrderedDict[int, bool] = OrderedDict()
        self._working = 0
        self._parked = 0
        self._abandoned = False
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        """Count the events that are in work."""
        return self._working

    @property
    def parked(self) -> int:
        """Count the events that are noted and not in work."""
        return self._parked

    async def enter(self, offset: int) -> bool:
        """Admit the event at `offset` (offsets ascend, and may skip); False once abandoned."""
        while self._is_full() and not self._abandoned:
            await self._wait()
        if self._abandoned:
            return False
        self._working += 1
        self._finished[offset] = False
        self._next = offset + 1
        return True

    def park(self, offset: int) -> bool:
        """Note the event at `offset`, for `unpark` later; False where no more can be noted."""
        if len(self._finished) >= _SPAN_EVENTS or self._abandoned:
            return False
        self._parked += 1
        self._finished[offset] = False
        self._next = offset + 1
        return True

    async def unpark(self) -> bool:
        """Admit an event that was parked; False once abandoned."""
        while self._working >= self._size and not self._abandoned:
            await self._wait()
        if self._abandoned:
            return False
        self._parked -= 1
        self._working += 1
        return True

    def _is_full(self) -> bool:
        most = _SPAN_EVENTS if self._parked else self._size
        return self._working >= self._size or len(self._finished) >= most

    async def _wait(self) -> None:
        self._room.clear()
        await self._room.wait()

    def reach(self, offset: int) -> None:
        """Account for what lies below `offset` and is no event: markers, lost records."""
        self._next = max(self._next, offset)
        self._move()

    def abandon(self) -> None:
        """Admit nothing more, and let those go who wait: the partition is revoked."""
        self._abandoned = True
        self._room.set()

    def finish(self, offset: int) -> None:
        """Mark an event as delivered and applied."""
        self._finished[offset] = True
        self._working -= 1
        while self._finished and self._finished[next(iter(self._finished))]:
            del self._finished[next(iter(self._finished))]
        self._room.set()
        self._move()

    def _move(self) -> None:
        watermark = next(iter(self._finished), self._next)
        if watermark > self._watermark:
            self._watermark = watermark
            self._advance(watermark)
