"""One partition's index: a function of its part of `index-log`, and nothing else.

Used by the matcher (and by rebuilds, which are the same thing without outcomes). A group of log
records goes through in three steps: `stage` applies it in memory, the caller decides the
outcomes and delivers them, `commit` writes rows, outcomes and the next offset in one batch. A
process that dies in between has written nothing. An index with a staged group that will never
be committed is closed and opened anew.

What is searched is in `streams.index.arrays`, what is on disk in `streams.index.store`.

Not thread-safe: one thread at a time.
"""

import bisect
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from schemas.codec import UnknownLogRecordError, decode_log, encode_log
from schemas.records import Fingerprint, Hashed, LogRecord, MatchSettings, Removed
from streams.entry import LogEntry
from streams.errors import CorruptStateError
from streams.index.arrays import PictureArrays
from streams.index.columns import NEVER
from streams.index.store import (
    FORMAT_VERSION,
    Batch,
    Identity,
    Progress,
    Row,
    Storage,
    Store,
    picture_key,
)

# With 10,000 at once, each of 26 openings of an index of up to 8,000 pictures left 1 MB more of
# Python's heap in pieces, and took three times as long.
_LOAD_ROWS = 250


class Arrival(msgspec.Struct, frozen=True):
    """A picture's record in the log. `first` is the offset of the first record of its id."""

    offset: int
    first: int
    record: Hashed


@dataclass(frozen=True, slots=True)
class Numbers:
    """How large an index is, as of its last commit."""

    pictures: int
    codes: int
    merges: int
    """Since it was opened."""
    band_files_bytes: int
    delta_bytes: int


@dataclass(slots=True)
class _Staged:
    """What `stage` has applied in memory and `commit` will write.

    `firsts` and `marks`: by what names a picture in the store's keys.
    """

    batch: Batch
    progress: Progress
    rows: dict[int, Row] = field(default_factory=dict)
    firsts: dict[bytes, int] = field(default_factory=dict)
    marks: dict[bytes, int] = field(default_factory=dict)


class PartitionIndex:
    """The index of one partition of `index-log`."""

    def __init__(
        self, directory: Path, topic_id: str, partition: int, *, beside: Path | None = None
    ) -> None:
        """Open what is in `directory`, or an empty index.

        With `beside`, a folder for notes, it is only looked at, as it is now, also while a matcher
        has it open. Nothing can be committed then.

        Raises:
            CorruptStateError: the database does not open, or is damaged.
        """
        self._directory = directory
        self._beside = beside
        self._identity = Identity(FORMAT_VERSION, topic_id, partition)
        self._open()

    def _open(self) -> None:
        self._store = Store(self._directory / "rocksdb", self._identity, beside=self._beside)
        self._staged: _Staged | None = None
        self._workspaces = dict(self._store.workspaces())
        self._settings = list(self._store.settings())
        self._arrays = PictureArrays(
            self._directory / "bands",
            self._store.bands(),
            self._workspaces,
            only_look=self._beside is not None,
        )
        self._load_rows_after_bands()
        self._removals = 0
        for ordinal, removed_at in self._store.removals():
            self._arrays.columns.remove(ordinal, removed_at)
            self._removals += 1
        counted = self._store.progress
        if (len(self), self._removals) != (counted.pictures, counted.removals):
            self.close()
            raise CorruptStateError(
                f"the index in {self._directory} has {len(self)} pictures and {self._removals} "
                f"removals instead of {counted.pictures} and {counted.removals}; delete it: it is "
                "rebuilt from index-log"
            )
        self._count()

    def _load_rows_after_bands(self) -> None:
        columns = self._arrays.columns
        start = int(columns.ordinals[-1]) + 1 if len(columns) else 0
        fresh: list[Row] = []
        for row in self._store.rows_from(start):
            if row.number != len(columns) + len(fresh):
                raise CorruptStateError(
                    f"the index in {self._directory} lacks pictures before that of offset "
                    f"{row.ordinal}; delete it: it is rebuilt from index-log"
                )
            fresh.append(row)
            if len(fresh) == _LOAD_ROWS:
                self._arrays.add(fresh)
                fresh.clear()
        self._arrays.add(fresh)

    @property
    def next_offset(self) -> int:
        """The first offset that is not applied."""
        return self._store.progress.next_offset

    @property
    def progress(self) -> Progress:
        """How far the log is applied."""
        return self._store.progress

    def __len__(self) -> int:
        """Count the pictures, removed ones included."""
        return len(self._arrays.columns)

    def storage(self) -> Storage:
        """Read how RocksDB does; in any thread. Raises once it is closed."""
        return self._store.storage()

    def _count(self) -> None:
        # Replaced as a whole: any thread may read it.
        self.numbers = Numbers(
            pictures=len(self),
            codes=self._arrays.codes,
            merges=self._arrays.merges,
            band_files_bytes=self._arrays.files_bytes,
            delta_bytes=self._arrays.delta_bytes,
        )

    @property
    def store(self) -> Store:
        """The rows and all else that is on disk, for whoever compares them with the log."""
        return self._store

    @property
    def arrays(self) -> PictureArrays:
        """What is searched, for whoever compares it with the rows."""
        return self._arrays

    @property
    def workspaces(self) -> Mapping[str, int]:
        """The workspaces' numbers."""
        return self._workspaces

    @property
    def settings(self) -> Sequence[tuple[int, MatchSettings]]:
        """All settings, each with the offset from which on it is in force."""
        return self._settings

    @property
    def removals(self) -> int:
        """Count the pictures that are removed."""
        return self._removals

    def wipe(self) -> None:
        """Forget everything: the log is another one, or the files are beyond use."""
        self.close()
        shutil.rmtree(self._directory)
        self._open()

    def close(self) -> None:
        """Close; a merge under way is waited for (seconds at most) and not adopted."""
        self._arrays.close()
        self._store.close()

    # --- applying the log ---------------------------------------------------------------------

    def stage(self, entries: Sequence[LogEntry], upto: int) -> list[Arrival]:
        """Apply log entries in memory; give an arrival for each picture record among them.

        `entries` ascend; `upto` is the offset after the last one covered (a hole may end the
        range). Entries below `next_offset` are looked up, not applied again.

        Raises:
            CorruptStateError: a record is unknown to this program; the message names its offset.
        """
        if self._staged is not None:
            message = "a group is staged already and was never committed"
            raise CorruptStateError(message)
        decoded = [(entry, self._decode(entry)) for entry in entries if entry.value is not None]
        applied = self.next_offset
        last = decoded[-1][0] if decoded else None
        progress = self._store.progress
        if upto > applied:
            progress = msgspec.structs.replace(
                progress,
                next_offset=upto,
                last_offset=progress.last_offset if last is None else last.offset,
                last_key=progress.last_key if last is None else last.key or b"",
            )
        staged = _Staged(Batch(), progress)
        self._staged = staged
        pictures = self._look_up(staged, [record for _, record in decoded])
        arrivals: list[Arrival] = []
        fresh: list[Row] = []
        for (entry, record), picture in zip(decoded, pictures, strict=True):
            new = entry.offset >= applied
            if isinstance(record, Hashed):
                if picture in staged.firsts:
                    kept = record
                elif new:
                    fresh.append(self._add(staged, entry, record, picture, len(fresh)))
                    kept = fresh[-1].record
                else:
                    raise CorruptStateError(
                        f"offset {entry.offset} is applied, but its picture is not in the index"
                    )
                arrivals.append(Arrival(entry.offset, staged.firsts[picture], kept))
            elif not new:
                continue
            elif isinstance(record, Removed):
                self._arrays.add(fresh)
                fresh.clear()
                self._remove(staged, entry.offset, picture)
            elif isinstance(record, MatchSettings):
                self._change_settings(staged, entry.offset, record)
            else:
                raise self._unknown(entry.offset, f"type {type(record).__name__}")
        self._arrays.add(fresh)
        staged.progress = msgspec.structs.replace(
            staged.progress, pictures=len(self), removals=self._removals
        )
        staged.batch.put_progress(staged.progress)
        return arrivals

    def commit(self, outcomes: Mapping[int, bytes]) -> None:
        """Write the staged group and these first outcomes (by ordinal) in one batch."""
        staged = self._staged
        if staged is None:
            message = "nothing is staged"
            raise CorruptStateError(message)
        for ordinal, outcome in outcomes.items():
            staged.batch.put_outcome(ordinal, outcome)
        self._store.write(staged.batch)
        self._store.progress = staged.progress
        self._staged = None
        self._adopt_merged_files()
        self._count()

    def _adopt_merged_files(self) -> None:
        merge = self._arrays.merge()
        if merge is not None:
            batch = Batch()
            batch.put_bands(msgspec.msgpack.encode(merge.manifest))
            self._store.write(batch)
            self._arrays.adopt(merge)

    def _decode(self, entry: LogEntry) -> LogRecord:
        try:
            return decode_log(entry.value or b"")
        except UnknownLogRecordError as error:
            raise self._unknown(entry.offset, str(error)) from error

    def _unknown(self, offset: int, what: str) -> CorruptStateError:
        return CorruptStateError(
            f"index-log partition {self._identity.partition} offset {offset}: this program does "
            f"not know the record ({what}); upgrade the matcher before the hasher and the api"
        )

    def _look_up(self, staged: _Staged, records: Sequence[LogRecord]) -> list[bytes]:
        """Read all first records and marks that the group may need, in two calls.

        Give for each record what names its picture in the store's keys; nothing where it has none.
        """
        pictures = [
            picture_key(self._workspace_number(record.workspace, staged.batch), record.image_id)
            if isinstance(record, Hashed | Removed)
            else b""
            for record in records
        ]
        asked = sorted(set(pictures) - {b""})
        for found, values in (
            (staged.firsts, self._store.first_ordinals(asked)),
            (staged.marks, self._store.marks(asked)),
        ):
            found.update(
                (picture, value)
                for picture, value in zip(asked, values, strict=True)
                if value is not None
            )
        return pictures

    def _add(
        self, staged: _Staged, entry: LogEntry, record: Hashed, picture: bytes, before: int
    ) -> Row:
        """Stage the first record of a picture, with so many fresh ones before it."""
        value = entry.value or b""
        staged.firsts[picture] = entry.offset
        staged.batch.put_first(picture, entry.offset)
        if picture in staged.marks:
            # Kept without its hashes, so that a redelivery gets the same outcome again.
            record = msgspec.structs.replace(record, fingerprint=blank(record.fingerprint))
            value = encode_log(record)
            staged.batch.put_removed(entry.offset, entry.offset)
            self._removals += 1
        row = Row(entry.offset, entry.timestamp_ms, len(self) + before, record)
        staged.rows[entry.offset] = row
        staged.batch.put_row(row, value)
        return row

    def _remove(self, staged: _Staged, offset: int, picture: bytes) -> None:
        if picture in staged.marks:
            return
        staged.marks[picture] = offset
        staged.batch.put_mark(picture, offset)
        first = staged.firsts.get(picture)
        if first is not None:
            self._arrays.columns.remove(first, offset)
            staged.batch.put_removed(first, offset)
            self._removals += 1

    def _change_settings(self, staged: _Staged, offset: int, settings: MatchSettings) -> None:
        recorded = self._settings[0][1].partitions if self._settings else settings.partitions
        if settings.partitions != recorded:
            raise CorruptStateError(
                f"index-log partition {self._identity.partition} offset {offset}: settings for "
                f"{settings.partitions} partitions in a log of {recorded}"
            )
        self._settings.append((offset, settings))
        staged.batch.put_settings(offset, encode_log(settings))

    def _workspace_number(self, name: str, batch: Batch) -> int:
        number = self._workspaces.get(name)
        if number is None:
            number = self._workspaces[name] = len(self._workspaces)
            batch.put_workspace(name, number)
        return number

    # --- asking -------------------------------------------------------------------------------

    def settings_at(self, offset: int) -> MatchSettings:
        """Give the settings in force for a record at `offset`.

        Raises:
            CorruptStateError: the log has a picture before its first settings record.
        """
        position = bisect.bisect_left(self._settings, offset, key=lambda item: item[0])
        if position == 0:
            message = (
                f"index-log partition {self._identity.partition} has no settings record before "
                f"offset {offset}; run check-dedup topics create before anything is published"
            )
            raise CorruptStateError(message)
        return self._settings[position - 1][1]

    def rows(self, ordinals: Sequence[int]) -> list[Row]:
        """Give the rows at these ordinals, staged ones included.

        Raises:
            CorruptStateError: one is not there.
        """
        staged = {} if self._staged is None else self._staged.rows
        stored = [ordinal for ordinal in ordinals if ordinal not in staged]
        found = dict(zip(stored, self._store.rows(stored), strict=True)) | staged
        return [found[ordinal] for ordinal in ordinals]

    def asked(self, record: Hashed) -> Row:
        """Give a row for a picture that is not stored: it sees all that is applied."""
        return Row(self.next_offset, 0, len(self), record)

    def as_of_now(self, row: Row) -> Row:
        """Give a stored row that sees what is still there of what came before it."""
        return msgspec.structs.replace(row, ordinal=self.next_offset)

    def visible(self, workspace: str, image_ids: Sequence[str]) -> list[Row]:
        """Give the pictures of these ids that are there and not removed."""
        number = self._workspaces.get(workspace)
        if number is None:
            return []
        pictures = [picture_key(number, image_id) for image_id in image_ids]
        found = self._store.first_ordinals(pictures)
        rows = self.rows([ordinal for ordinal in found if ordinal is not None])
        return [row for row in rows if self._arrays.columns.removed_at[row.number] == NEVER]

    def all_rows(self) -> Iterator[tuple[Row, int]]:
        """Give every row with the offset of its removal, in order: what a rebuild must equal."""
        for row in self._store.rows_from(0):
            yield row, int(self._arrays.columns.removed_at[row.number])

    def outcomes(self, ordinals: Sequence[int]) -> dict[int, bytes]:
        """Give the stored first outcomes; those of rows that were only rebuilt are missing."""
        found = zip(ordinals, self._store.outcomes(ordinals), strict=True)
        return {ordinal: outcome for ordinal, outcome in found if outcome is not None}

    def candidates(
        self, rows: Sequence[Row], codes: Sequence[Sequence[bytes]], radius: int, bound: int
    ) -> list[Sequence[int]]:
        """Find, for each row and its codes, the pictures visible at its ordinal within the radius.

        Staged ones included; see `PictureArrays.candidates`.
        """
        return self._arrays.candidates(rows, codes, radius, bound)


def blank(fingerprint: Fingerprint) -> Fingerprint:
    """Give what is kept of a picture that was removed before it came."""
    return msgspec.structs.replace(
        fingerprint, views=(), asked=b"", sketch=b"", low_information=False
    )
