"""Is a log still the one that an index was made of? It may have lost its end, and have grown again.

Asked by the matcher of each index that it opens, and of open ones at each assignment.
"""

from collections.abc import Callable, Sequence
from typing import Final

from schemas.codec import decode_log
from schemas.records import Hashed
from streams.entry import LogEntry
from streams.index.partition import PartitionIndex
from streams.index.store import Row

ReadRange = Callable[[int, int], Sequence[LogEntry]]
"""Reads the log's records from one offset up to another."""

# Records of the log that are compared at first, from its end; then four times as many, and so on.
_COMPARED_RECORDS: Final = 1_000


def differs_from(
    index: PartitionIndex, read: ReadRange, low: int, high: int, *, was_open: bool
) -> int | None:
    """Say from which offset on the log has another history; None where it has the index's.

    The log begins at `low`, not after the index's last record, and ends before `high`. Of an index
    that `was_open` a log that ends earlier is taken for the index's: a leader that is new may not
    know the end yet, and where it is lost the feed finds that.
    """
    last = index.progress.last_offset
    found = read(last, last + 1) if last < high else ()
    if found and found[0].key == index.progress.last_key:
        return None
    if was_open and not found:
        return None
    return _first_other(index, read, low, min(last + 1, high))


def _first_other(index: PartitionIndex, read: ReadRange, low: int, stop: int) -> int:
    """Find the offset after the last picture that both have: they agree up to it, no further."""
    records = _COMPARED_RECORDS
    while stop > low:
        start = max(low, stop - records)
        rows = {row.ordinal: row for row in index.store.rows_from(start)}
        for entry in reversed(read(start, stop)):
            row = rows.get(entry.offset)
            if row is not None and _is_of(entry, row):
                return entry.offset + 1
        stop, records = start, 4 * records
    return low


def _is_of(entry: LogEntry, row: Row) -> bool:
    """Whether a row was made of this record, by its time at the broker and its source."""
    if entry.timestamp_ms != row.timestamp_ms or entry.value is None:
        return False
    record = decode_log(entry.value)
    return isinstance(record, Hashed) and (record.image_id, record.source) == (
        row.record.image_id,
        row.record.source,
    )
