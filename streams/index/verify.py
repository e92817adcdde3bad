"""An index compared with the log that it is a function of, and its search with a plain scan.

Called by `check-dedup index verify`. `Verification.full` reads the log and the rows side by side,
in memory that does not grow with them; `Verification.sampled` reads the log at some rows only. Each
difference is one line for a person; none found means that there is none in what was compared.

Rows are compared with records one by one. Ids and marks need no table of what was seen: what leads
to each record is asked for, and that nothing else leads anywhere follows from their counts.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from schemas.codec import UnknownLogRecordError, decode_log
from schemas.records import Hashed, ImageMatched, LogRecord, MatchSettings, Removed
from streams.entry import LogEntry
from streams.errors import CorruptStateError
from streams.index.arrays import BYTES_SPACE, as_codes, codes_by_space, space_of
from streams.index.columns import NEVER
from streams.index.mih import SortedBands, offsets, rotate, value_counts
from streams.index.partition import PartitionIndex, blank
from streams.index.scan import flat_pairs
from streams.index.space import Codes, Numbers
from streams.index.store import Row, picture_key

ReadLog = Callable[[int, int], Iterator[list[LogEntry]]]
Advance = Callable[[str, int, int], None]
"""What is compared, how far it is, and how far there is to go."""

NAMED_DIFFERENCES: Final = 50
"""The rest is counted: an index of another log differs everywhere."""

SEARCHES: Final = 20
"""Each scans all codes: 0.2 s for ten codes among 36 million."""

_BLOCK_CODES: Final = 1 << 20
_MIX: Final = tuple(np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9))


class Verification:
    """One index, compared with `log`, which holds offsets from `low` up to `end`."""

    def __init__(
        self,
        index: PartitionIndex,
        partition: int,
        log: ReadLog,
        low: int,
        end: int,
        *,
        chance: random.Random,
        advance: Advance,
    ) -> None:
        """Compare nothing yet."""
        self.compared: Counter[str] = Counter()
        self.differences: list[str] = []
        self.unnamed = 0
        self._index = index
        self._partition = partition
        self._log = log
        self._low = low
        self._end = min(end, index.next_offset)
        self._chance = chance
        self._advance = advance
        self._progress(end)

    def full(self) -> None:
        """Compare every record with every row, every code of the bands, and some searches."""
        if self._index.arrays.damaged is not None:
            self._differs(f"band files: {self._index.arrays.damaged}")
        self._rows()
        self._advance("blocks of RocksDB", 0, 0)
        self.compared["keys"] = self._index.store.read_all()
        self._order()
        self._searches()

    def sampled(self, pictures: int) -> None:
        """Compare so many rows with their records, the bands' order, and some searches."""
        if self._index.arrays.damaged is not None:
            self._differs(f"band files: {self._index.arrays.damaged}")
        for offset, settings in self._index.settings:
            self.compared["settings"] += 1
            if self._record(offset) != settings:
                self._differs(f"settings of offset {offset}: the log has no such record there")
        rows = self._chosen(pictures)
        for done, row in enumerate(rows):
            self._advance("pictures", done, len(rows))
            entry = self._entry(row.ordinal)
            record = self._decoded(entry)
            if entry is None or not isinstance(record, Hashed):
                self._differs(f"row of offset {row.ordinal}: the log has no picture there")
                continue
            picture = self._picture(record)
            (first,) = self._index.store.first_ordinals([picture])
            (mark,) = self._index.store.marks([picture])
            self._compare(entry, record, row, first, mark)
            if mark is not None and not _removes(self._record(mark), record):
                self._differs(f"row of offset {row.ordinal}: no removal of it at offset {mark}")
        self._order()
        self._searches()

    # --- rows and records ---------------------------------------------------------------------

    def _rows(self) -> None:
        store = self._index.store
        rows = _Rows(store.rows_from(0))
        digests: dict[str, int] = {}
        changes: list[tuple[int, MatchSettings]] = []
        for entries in self._log(self._low, self._end):
            self._advance("records", entries[0].offset, self._end)
            found = list(rows.upto(entries[-1].offset))
            self._add_digests(digests, found)
            changes += self._stretch(entries, {row.ordinal: row for row in found})
        for row in rows.upto(NEVER):
            self._stray(row)
        if changes != list(self._index.settings):
            self._differs(f"settings: {list(self._index.settings)} instead of {changes}")
        self.compared["settings"] = len(changes)
        for what, stored, told in (
            ("ids", store.all_firsts(), self.compared["pictures"]),
            ("marks", store.all_marks(), self.compared["marks"]),
            ("removals", self._index.removals, self.compared["removals"]),
        ):
            if stored != told:
                self._differs(f"{what}: {stored} are stored, the log gives {told}")
        self._compare_digests(digests)

    def _stretch(
        self, entries: Sequence[LogEntry], rows: dict[int, Row]
    ) -> list[tuple[int, MatchSettings]]:
        """Compare a stretch of the log with the rows of these offsets; give its settings."""
        decoded = [(entry, self._decoded(entry)) for entry in entries]
        pictures = sorted({self._picture(r) for _, r in decoded if isinstance(r, Hashed | Removed)})
        store = self._index.store
        firsts = dict(zip(pictures, store.first_ordinals(pictures), strict=True))
        marks = dict(zip(pictures, store.marks(pictures), strict=True))
        changes: list[tuple[int, MatchSettings]] = []
        for entry, record in decoded:
            self.compared["records"] += 1
            if isinstance(record, MatchSettings):
                changes.append((entry.offset, record))
            elif isinstance(record, Removed):
                self._compare_mark(entry, marks[self._picture(record)])
            elif isinstance(record, Hashed):
                picture = self._picture(record)
                first = firsts[picture]
                if first is None or first >= entry.offset:  # else it is a redelivery
                    row = rows.pop(entry.offset, None)
                    self._compare(entry, record, row, first, marks[picture])
        for row in rows.values():
            self._stray(row)
        return changes

    def _stray(self, row: Row) -> None:
        self._differs(
            f"row of offset {row.ordinal}: the log has no such picture there; if it was erased on "
            "purpose, rebuild the index"
        )

    def _compare(
        self, entry: LogEntry, record: Hashed, row: Row | None, first: int | None, mark: int | None
    ) -> None:
        """Compare the row of a picture's first record with it."""
        where = f"row of offset {entry.offset}"
        self.compared["pictures"] += 1
        if first != entry.offset:
            self._differs(f"{where}: its id leads to {first}")
        if row is None:
            self._differs(f"{where}: there is none")
            return
        before = mark is not None and mark < entry.offset
        if before:
            record = msgspec.structs.replace(record, fingerprint=blank(record.fingerprint))
        if row.record != record:
            names = [
                name
                for name in record.__struct_fields__
                if getattr(record, name) != getattr(row.record, name)
            ]
            self._differs(f"{where}: not as in the log: {', '.join(names)}")
        if row.timestamp_ms != entry.timestamp_ms:
            self._differs(f"{where}: time {row.timestamp_ms} instead of {entry.timestamp_ms}")
        columns = self._index.arrays.columns
        if row.number >= len(columns) or columns.ordinals[row.number] != row.ordinal:
            self._differs(f"{where}: its number {row.number} leads elsewhere")
            return
        workspace = self._index.workspaces.get(record.workspace)
        if columns.workspaces[row.number] != workspace:
            self._differs(f"{where}: in another workspace")
        removed_at = NEVER if mark is None else entry.offset if before else mark
        self.compared["removals"] += removed_at != NEVER
        if columns.removed_at[row.number] != removed_at:
            self._differs(
                f"{where}: visible to {columns.removed_at[row.number]}, the log says {removed_at}"
            )
        self._compare_outcome(row)

    def _compare_outcome(self, row: Row) -> None:
        (stored,) = self._index.store.outcomes([row.ordinal])
        if stored is None:  # only rebuilt: it was delivered before
            return
        self.compared["outcomes"] += 1
        try:
            outcome = msgspec.json.decode(stored, type=ImageMatched)
        except msgspec.MsgspecError as error:
            self._differs(f"outcome of offset {row.ordinal}: {error}")
            return
        told = (outcome.workspace, outcome.image_id, outcome.position.offset)
        if told != (row.record.workspace, row.record.image_id, row.ordinal):
            self._differs(f"outcome of offset {row.ordinal}: of another picture")

    def _compare_mark(self, entry: LogEntry, mark: int | None) -> None:
        if mark is None or mark > entry.offset:
            self._differs(f"removal of offset {entry.offset}: its mark says {mark}")
        self.compared["marks"] += mark == entry.offset

    def _progress(self, end: int) -> None:
        """The last record that was applied must be in this log, under the same key."""
        progress = self._index.progress
        if progress.next_offset > end:
            self._differs(f"next offset {progress.next_offset}: the log ends at {end}")
        if self._low > 0:
            self._differs(f"the log begins at {self._low}: what was before cannot be compared")
        last = progress.last_offset
        if self._low <= last < end:
            entry = self._entry(last)
            if entry is None or (entry.key or b"") != progress.last_key:
                self._differs(f"last applied record, offset {last}: the log has another one there")

    # --- codes --------------------------------------------------------------------------------

    def _order(self) -> None:
        """Codes ascend, and each band value begins where the offsets say."""
        for name, space in self._index.arrays.spaces.items():
            base = space.base
            for band, width in enumerate(base.bands.widths):
                self._advance(f"bands of {name}", band, len(base.bands.widths))
                codes = base.codes[band]
                counts = np.zeros(1 << width, np.int64)
                ascending = True
                for low in range(0, len(codes), _BLOCK_CODES):
                    counts += value_counts(codes[low : low + _BLOCK_CODES], width)
                    some = codes[low : low + _BLOCK_CODES + 1]
                    ascending &= bool(np.all(some[1:] >= some[:-1]))
                if not ascending:
                    self._differs(f"space {name}, band {band}: its codes are not sorted")
                if not np.array_equal(base.offsets[band], offsets(counts)):
                    self._differs(f"space {name}, band {band}: its offsets are not its codes'")
                self.compared["band codes"] += len(codes)

    def _add_digests(self, digests: dict[str, int], rows: Sequence[Row]) -> None:
        codes: dict[str, list[bytes]] = {}
        numbers: dict[str, list[int]] = {}
        for row in rows:
            if row.record.fingerprint.is_blank:
                continue
            for name, found in codes_by_space(row.record.fingerprint):
                codes.setdefault(name, []).extend(found)
                numbers.setdefault(name, []).extend([row.number] * len(found))
        for name, some in codes.items():
            digest = _digest(as_codes(some), np.array(numbers[name], np.uint32))
            digests[name] = (digests.get(name, 0) + digest) % 2**64

    def _compare_digests(self, digests: dict[str, int]) -> None:
        """The codes of each band are those of the rows, each with its picture's number."""
        for name in sorted(digests.keys() | self._index.arrays.spaces.keys()):
            space = self._index.arrays.spaces.get(name)
            if space is None:
                self._differs(f"space {name}: there is none")
                continue
            delta = _digest(*space.freeze())
            for band in range(len(space.base.bands.widths)):
                held = (_band_digest(space.base, band) + delta) % 2**64
                if held != digests.get(name, 0):
                    self._differs(f"space {name}, band {band}: its codes are not those of the rows")

    def _searches(self) -> None:
        """What a search finds is what a scan of all codes finds, for some pictures."""
        rows = [row for row in self._chosen(SEARCHES) if not row.record.fingerprint.is_blank]
        for done, row in enumerate(rows):
            self._advance("searches", done, len(rows))
            try:
                radius = self._index.settings_at(row.ordinal).radius
            except CorruptStateError as error:
                self._differs(str(error))
                continue
            fingerprint = row.record.fingerprint
            asked = fingerprint.asked
            codes = [view.code for view in fingerprint.views]
            codes += [asked[low : low + 8] for low in range(0, len(asked), 8)] if codes else []
            (found,) = self._index.candidates([row], [codes], radius, len(self._index))
            wanted = self._scanned(row, codes, radius)
            self.compared["searches"] += 1
            if set(found) != wanted:
                self._differs(
                    f"search for offset {row.ordinal}: misses {sorted(wanted - set(found))[:5]}, "
                    f"has {sorted(set(found) - wanted)[:5]} too many"
                )

    def _scanned(self, row: Row, codes: list[bytes], radius: int) -> set[int]:
        name = space_of(row.record.fingerprint) if codes else BYTES_SPACE
        space = self._index.arrays.spaces.get(name)
        if space is None:
            return set()
        queries = as_codes(codes or [row.record.fingerprint.sha256[:8]])
        sources = ((space.base.codes[0], space.base.numbers[0]), space.freeze())
        numbers = [
            (pairs >> np.uint64(8)) & np.uint64(0xFFFFFFFF)
            for some, numbered in sources
            for pairs in flat_pairs(some, numbered, queries, radius if codes else 0)
        ]
        near = np.unique(np.concatenate([np.empty(0, np.uint64), *numbers])).astype(np.int64)
        columns = self._index.arrays.columns
        workspace = self._index.workspaces[row.record.workspace]
        return {
            int(columns.ordinals[number])
            for number in near
            if number < row.number
            and columns.workspaces[number] == workspace
            and columns.removed_at[number] > row.ordinal
        }

    # --- reading ------------------------------------------------------------------------------

    def _chosen(self, most: int) -> list[Row]:
        count = len(self._index)
        numbers = sorted(self._chance.sample(range(count), min(most, count)))
        return self._index.store.rows(self._index.arrays.columns.ordinals[numbers].tolist())

    def _entry(self, offset: int) -> LogEntry | None:
        if not self._low <= offset < self._end:
            return None
        found = [entry for entries in self._log(offset, offset + 1) for entry in entries]
        return found[0] if found else None

    def _record(self, offset: int) -> LogRecord | None:
        return self._decoded(self._entry(offset))

    def _decoded(self, entry: LogEntry | None) -> LogRecord | None:
        if entry is None or entry.value is None:
            return None
        try:
            return decode_log(entry.value)
        except UnknownLogRecordError as error:
            self._differs(f"log record of offset {entry.offset}: unknown ({error})")
            return None

    def _picture(self, record: Hashed | Removed) -> bytes:
        workspace = self._index.workspaces.get(record.workspace, _NO_WORKSPACE)
        return picture_key(workspace, record.image_id)

    def _differs(self, what: str) -> None:
        if len(self.differences) < NAMED_DIFFERENCES:
            self.differences.append(f"partition {self._partition}: {what}")
        else:
            self.unnamed += 1


class _Rows:
    """All rows in order, a stretch at a time."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def upto(self, offset: int) -> Iterator[Row]:
        """Give the next rows whose ordinal is not above."""
        while self._next is not None and self._next.ordinal <= offset:
            yield self._next
            self._next = next(self._rows, None)


_NO_WORKSPACE: Final = int(np.iinfo(np.uint32).max)


def _removes(removal: LogRecord | None, record: Hashed) -> bool:
    return isinstance(removal, Removed) and (removal.workspace, removal.image_id) == (
        record.workspace,
        record.image_id,
    )


def _band_digest(base: SortedBands, band: int) -> int:
    back = (64 - base.bands.starts[band]) % 64
    total = 0
    for low in range(0, len(base), _BLOCK_CODES):
        some = slice(low, low + _BLOCK_CODES)
        total += _digest(rotate(base.codes[band][some], back), base.numbers[band][some])
    return total % 2**64


def _digest(codes: Codes, numbers: Numbers) -> int:
    """Add up a mixed 64-bit value of each (code, number), so that their order does not count."""
    mixed = codes ^ (numbers.astype(np.uint64) * _MIX[0])
    for factor in _MIX:
        mixed = (mixed ^ (mixed >> np.uint64(31))) * factor
    return int(np.sum(mixed ^ (mixed >> np.uint64(29)), dtype=np.uint64))
