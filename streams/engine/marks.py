"""What was read of each partition, remembered until it is known to be in the log for good.

A log may lose its end and grow again (an unclean election, a disk that lied, an old backup): then
other records are at offsets that were read, which no offset shows. Kafka's own answer is the epoch
of each fetch (KIP-320), which aiokafka does not use; so the feed compares records.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from streams.delivery import TopicPartition
from streams.entry import LogEntry, Mark

# Of one partition: 5 MB. Above its watermark no more events are in work or parked.
_MOST_MARKS: Final = 50_000

_offset = attrgetter("offset")


class Marks:
    """The marks of what was read, by partition; asked by the thread that commits too."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._lock = threading.Lock()
        self._marks: dict[tuple[str, int], list[Mark]] = {}

    def begin(self, partition: TopicPartition, last: Mark | None) -> None:
        """Begin behind the record that was committed as the last one."""
        with self._lock:
            self._marks[partition] = [] if last is None else [last]

    def read(self, partition: TopicPartition, entries: Iterable[LogEntry]) -> None:
        """Remember what comes next."""
        with self._lock:
            marks = self._marks[partition]
            marks += [entry.mark for entry in entries]
            del marks[:-_MOST_MARKS]

    def before(self, partition: tuple[str, int], offset: int) -> Mark | None:
        """Give the last record below an offset."""
        with self._lock:
            marks = self._marks.get(partition, [])
            place = bisect_left(marks, offset, key=_offset)
            return marks[place - 1] if place else None

    def end(self, partition: TopicPartition, start: int) -> int:
        """Give the offset after the last record that was read; `start` where none was."""
        with self._lock:
            marks = self._marks[partition]
            return max(start, marks[-1].offset + 1) if marks else start

    def below(self, partition: TopicPartition, offset: int) -> list[Mark]:
        """Give all that is remembered below an offset."""
        with self._lock:
            marks = self._marks[partition]
            return marks[: bisect_left(marks, offset, key=_offset)]

    def forget(self, partition: TopicPartition, offset: int) -> None:
        """Remember no more than the last record below an offset, and what comes from there on."""
        with self._lock:
            marks = self._marks[partition]
            del marks[: max(0, bisect_left(marks, offset, key=_offset) - 1)]
