"""A stretch of the log applied to an index without outcomes: they were delivered before.

Used by the matcher, for what lies below its group's committed offset, and by `index rebuild`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from streams.entry import LogEntry
from streams.index.partition import PartitionIndex

# 7 KB each while they are decoded, and a heap that was large for a moment stays in pieces.
_GROUP_RECORDS: Final = 250


def applied(
    index: PartitionIndex, batches: Iterable[Sequence[LogEntry]], upto: int
) -> Iterator[int]:
    """Apply the log from the index's next offset up to `upto`; say how many records each time.

    Raises:
        CorruptStateError: a record is unknown, or the index cannot be written.
        RetryableError: the disk is full.
    """
    for entries in batches:
        for low in range(0, len(entries), _GROUP_RECORDS):
            group = entries[low : low + _GROUP_RECORDS]
            index.stage(group, group[-1].offset + 1)
            index.commit({})
            yield len(group)
    if index.next_offset < upto:  # a hole ends the range
        index.stage((), upto)
        index.commit({})
        yield 0
