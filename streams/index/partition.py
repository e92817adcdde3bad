"""One partition's index: a function of its part of `index-log`, and nothing else.

Used by the matcher (and by rebuilds, which are the same thing without outcomes). A group of log
records goes through in three steps: `stage` applies it in memory, the caller decides the
outcomes and delivers them, `commit` writes rows, outcomes and the next offset in one batch. A
process that dies in between has written nothing. An index with a staged group that will never
be committed is closed and opened anew.

Not thread-safe: one thread at a time. Band files are merged in a thread of their own.
"""

import bisect
import logging
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.codec import UnknownLogRecordError, decode_log, encode_log
from schemas.records import Fingerprint, Hashed, LogRecord, MatchSettings, Removed
from streams.entry import LogEntry
from streams.errors import CorruptStateError
from streams.index import files
from streams.index.columns import NEVER, Columns, ColumnsManifest
from streams.index.mih import EXACT, NEAR, Layout, MultiIndexHash, SortedBands
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

logger = logging.getLogger(__name__)

_Asked = tuple[Row, Sequence[bytes]]

# The exact-match space: the first 64 bits of every picture's sha256, searched at radius 0.
BYTES_SPACE: Final = "sha256"

# A merge rewrites the base, so it is worth its while for a hundredth of the base; below the first
# bound the delta answers as fast as a base would, above the second its memory and its re-sorting
# begin to show (measured: notes of `streams.index.mih`).
_MERGE_LEAST_CODES = 50_000
_MERGE_MOST_CODES = 400_000
_MERGE_SHARE = 100


class BandsManifest(msgspec.Struct, frozen=True):
    """The band files in use: one generation, all spaces up to the same picture."""

    format_version: int
    generation: int
    columns: ColumnsManifest
    spaces: dict[str, files.Manifest]

    @property
    def size_bytes(self) -> int:
        """Give the size of the spaces' files."""
        return sum(file.size_bytes for part in self.spaces.values() for file in part.files)


class _Version(msgspec.Struct, frozen=True):
    format_version: int


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


def space_of(fingerprint: Fingerprint) -> str:
    """Name the code space of a fingerprint's views: versions are never compared."""
    return f"views-{fingerprint.version}"


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
        self._merge: _Merge | None = None
        self._workspaces = dict(self._store.workspaces())
        self._settings = list(self._store.settings())
        self._columns = Columns()
        self._spaces: dict[str, MultiIndexHash] = {}
        self._generation = 0
        self._band_files_bytes = 0
        self.damaged_bands: str | None = None
        self._load_bands()
        self._load_rows_after_bands()
        self._removals = 0
        for ordinal, removed_at in self._store.removals():
            self._columns.remove(ordinal, removed_at)
            self._removals += 1
        counted = self._store.progress
        if (len(self), self._removals) != (counted.pictures, counted.removals):
            self.close()
            raise CorruptStateError(
                f"the index in {self._directory} has {len(self)} pictures and {self._removals} "
                f"removals instead of {counted.pictures} and {counted.removals}; delete it: it is "
                "rebuilt from index-log"
            )
        self._merges = 0
        self._count()

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
        return len(self._columns)

    @property
    def codes(self) -> int:
        """Count the codes in all spaces."""
        return sum(len(space) for space in self._spaces.values())

    def storage(self) -> Storage:
        """Read how RocksDB does; in any thread. Raises once it is closed."""
        return self._store.storage()

    def _count(self) -> None:
        # Replaced as a whole: any thread may read it.
        self.numbers = Numbers(
            pictures=len(self),
            codes=self.codes,
            merges=self._merges,
            band_files_bytes=self._band_files_bytes,
            delta_bytes=sum(space.delta_bytes for space in self._spaces.values()),
        )

    @property
    def store(self) -> Store:
        """The rows and all else that is on disk, for whoever compares them with the log."""
        return self._store

    @property
    def columns(self) -> Columns:
        """What is known of each picture in memory."""
        return self._columns

    @property
    def spaces(self) -> Mapping[str, MultiIndexHash]:
        """The code spaces by name."""
        return self._spaces

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

    @property
    def generation(self) -> int:
        """The band files' generation; 0: there are none."""
        return self._generation

    def wipe(self) -> None:
        """Forget everything: the log is another one, or the files are beyond use."""
        self.close()
        shutil.rmtree(self._directory)
        self._open()

    def close(self) -> None:
        """Close; a merge under way is waited for (seconds at most) and not adopted."""
        if self._merge is not None:
            self._merge.thread.join()
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
                self._index(fresh)
                fresh.clear()
                self._remove(staged, entry.offset, picture)
            elif isinstance(record, MatchSettings):
                self._change_settings(staged, entry.offset, record)
            else:
                raise self._unknown(entry.offset, f"type {type(record).__name__}")
        self._index(fresh)
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
        self._merge_bands()
        self._count()

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
        row = Row(entry.offset, entry.timestamp_ms, len(self._columns) + before, record)
        staged.rows[entry.offset] = row
        staged.batch.put_row(row, value)
        return row

    def _index(self, fresh: Sequence[Row]) -> None:
        """Add rows to columns and code spaces."""
        if not fresh:
            return
        workspaces = [self._workspaces[row.record.workspace] for row in fresh]
        self._columns.extend([row.ordinal for row in fresh], workspaces)
        codes: defaultdict[str, list[bytes]] = defaultdict(list)
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for row in fresh:
            if row.record.fingerprint.is_blank:
                self._columns.remove(row.ordinal, row.ordinal)
                continue
            for space, found in codes_by_space(row.record.fingerprint):
                codes[space] += found
                numbers[space] += [row.number] * len(found)
        for space, found in codes.items():
            self._space(space).add(as_codes(found), np.array(numbers[space], np.uint32))

    def _remove(self, staged: _Staged, offset: int, picture: bytes) -> None:
        if picture in staged.marks:
            return
        staged.marks[picture] = offset
        staged.batch.put_mark(picture, offset)
        first = staged.firsts.get(picture)
        if first is not None:
            self._columns.remove(first, offset)
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
        return [row for row in rows if self._columns.removed_at[row.number] == NEVER]

    def all_rows(self) -> Iterator[tuple[Row, int]]:
        """Give every row with the offset of its removal, in order: what a rebuild must equal."""
        for row in self._store.rows_from(0):
            yield row, int(self._columns.removed_at[row.number])

    def outcomes(self, ordinals: Sequence[int]) -> dict[int, bytes]:
        """Give the stored first outcomes; those of rows that were only rebuilt are missing."""
        found = zip(ordinals, self._store.outcomes(ordinals), strict=True)
        return {ordinal: outcome for ordinal, outcome in found if outcome is not None}

    def candidates(
        self, rows: Sequence[Row], codes: Sequence[Sequence[bytes]], radius: int, bound: int
    ) -> list[Sequence[int]]:
        """Find, for each row and its codes, the pictures visible at its ordinal within the radius.

        A row without codes finds identical bytes only. Visible: of the same workspace, born before
        it, not removed before it. At most `bound` ordinals for each row: of the nearest, and of the
        oldest among equally near ones.
        """
        results: list[Sequence[int]] = [()] * len(rows)
        groups: dict[str, list[int]] = {}
        for position, row in enumerate(rows):
            fingerprint = row.record.fingerprint
            if not fingerprint.is_blank:
                space = space_of(fingerprint) if codes[position] else BYTES_SPACE
                groups.setdefault(space, []).append(position)
        for space, positions in groups.items():
            near = space != BYTES_SPACE
            asked = [
                (rows[position], codes[position] if near else _bytes_codes(rows[position]))
                for position in positions
            ]
            found = self._search_all(space, asked, radius if near else 0, bound)
            for position, ordinals in zip(positions, found, strict=True):
                results[position] = ordinals
        return results

    def _search_all(
        self, space: str, asked: Sequence[_Asked], radius: int, bound: int
    ) -> Iterator[list[int]]:
        """Search for a few rows first, and then for as many together as their hits allow.

        A picture that everybody forwards is hit by each of its copies: a group of them among
        20,000 equal ones took 790 MB at once, before the cut to the bound.
        """
        start, size = 0, _FIRST_ROWS_SEARCHED
        while start < len(asked):
            some = asked[start : start + size]
            ordinals, hits = self._search(space, some, radius, bound)
            yield from ordinals
            start += len(some)
            size = max(1, min(4 * size, _HITS_AT_ONCE * len(some) // max(1, hits)))

    def _search(
        self, space: str, asked: Sequence[_Asked], radius: int, bound: int
    ) -> tuple[list[list[int]], int]:
        """Give the ordinals of each row's candidates, and how many hits were looked at."""
        rows, queries = [row for row, _ in asked], [codes for _, codes in asked]
        if space not in self._spaces:  # asked for before any picture came
            return [[] for _ in rows], 0
        asker = np.repeat(np.arange(len(rows)), [len(codes) for codes in queries])
        hits = self._spaces[space].search(as_codes([c for q in queries for c in q]), radius)
        picture = asker[hits.query]
        number = hits.number.astype(np.int64)
        ordinals = np.array([row.ordinal for row in rows], np.int64)[picture]
        numbers = np.array([row.number for row in rows], np.int64)[picture]
        workspaces = np.array(
            [self._workspaces.get(row.record.workspace, _NO_WORKSPACE) for row in rows], np.uint32
        )
        visible = (
            (number < numbers)
            & (self._columns.workspaces[number] == workspaces[picture])
            & (self._columns.removed_at[number] > ordinals)
        )
        picture, number, distance = picture[visible], number[visible], hits.distance[visible]
        # By picture asked for, then nearest, then oldest; of several codes only the nearest counts.
        nearest = np.lexsort((distance, number, picture))
        picture, number, distance = picture[nearest], number[nearest], distance[nearest]
        first = np.ones(len(number), bool)
        first[1:] = (picture[1:] != picture[:-1]) | (number[1:] != number[:-1])
        picture, number, distance = picture[first], number[first], distance[first]
        order = np.lexsort((number, distance, picture))
        picture, number, distance = picture[order], number[order], distance[order]
        starts = np.searchsorted(picture, np.arange(len(rows) + 1))
        found = self._columns.ordinals[number]
        ordinals_of = [
            found[low : min(high, low + bound)].tolist() for low, high in pairwise(starts)
        ]
        return ordinals_of, len(hits)

    # --- band files ---------------------------------------------------------------------------

    def _space(self, name: str) -> MultiIndexHash:
        space = self._spaces.get(name)
        if space is None:
            space = self._spaces[name] = MultiIndexHash(layout=_layout(name))
        return space

    def _bands_directory(self, generation: int) -> Path:
        return self._directory / "bands" / str(generation)

    def _load_bands(self) -> None:
        """Map the files that the store names; without them, the rows give everything again."""
        encoded = self._store.bands()
        if encoded is not None:
            try:
                self._open_bands(_manifest(encoded))
            except files.DamagedFilesError as error:
                logger.warning("band files are rebuilt from the rows: %s", error)
                self._columns, self._spaces = Columns(), {}
                self.damaged_bands = str(error)
        if self._beside is None:
            self._delete_other_bands()

    def _open_bands(self, manifest: BandsManifest) -> None:
        self._generation = manifest.generation
        directory = self._bands_directory(manifest.generation)
        self._columns = Columns.read(directory / "columns", manifest.columns)
        self._spaces = {
            name: MultiIndexHash(files.open_files(directory / name, part), _layout(name))
            for name, part in manifest.spaces.items()
        }
        self._band_files_bytes = manifest.size_bytes

    def _delete_other_bands(self) -> None:
        for found in (self._directory / "bands").glob("*"):
            if found.name != str(self._generation):
                shutil.rmtree(found)

    def _load_rows_after_bands(self) -> None:
        known = len(self._columns)
        start = int(self._columns.ordinals[-1]) + 1 if known else 0
        fresh: list[Row] = []
        for row in self._store.rows_from(start):
            if row.number != known + len(fresh):
                raise CorruptStateError(
                    f"the index in {self._directory} lacks pictures before that of offset "
                    f"{row.ordinal}; delete it: it is rebuilt from index-log"
                )
            fresh.append(row)
            if len(fresh) == _LOAD_ROWS:
                self._index(fresh)
                known += len(fresh)
                fresh.clear()
        self._index(fresh)

    def _merge_bands(self) -> None:
        """Adopt a finished merge, or begin one when the deltas have grown enough."""
        if self._merge is not None:
            if not self._merge.thread.is_alive():
                self._adopt(self._merge)
                self._merge = None
            return
        waiting = sum(space.delta_codes for space in self._spaces.values())
        enough = self.codes // _MERGE_SHARE
        if waiting >= min(max(enough, _MERGE_LEAST_CODES), _MERGE_MOST_CODES):
            self._merge = _Merge(
                self._bands_directory(self._generation + 1),
                self._generation + 1,
                self._columns,
                self._spaces,
            )

    def _adopt(self, merge: "_Merge") -> None:
        if merge.failure is not None:
            message = f"merging the band files failed: {merge.failure}"
            raise CorruptStateError(message) from merge.failure
        manifest = merge.manifest()
        batch = Batch()
        batch.put_bands(msgspec.msgpack.encode(manifest))
        self._store.write(batch)
        for name, base in merge.bases.items():
            self._spaces[name].adopt(base, merge.frozen_codes[name])
        self._generation = merge.generation
        self._merges += 1
        self._band_files_bytes = manifest.size_bytes
        self._delete_other_bands()


# With 10,000 at once, each of 26 openings of an index of up to 8,000 pictures left 1 MB more of
# Python's heap in pieces, and took three times as long.
_LOAD_ROWS = 250
_FIRST_ROWS_SEARCHED = 32
# 60 MB while they are sorted by picture.
_HITS_AT_ONCE = 500_000
_NO_WORKSPACE = np.iinfo(np.uint32).max


class _Merge:
    """A merge in its own thread: all spaces, up to the pictures known when it began."""

    def __init__(
        self,
        directory: Path,
        generation: int,
        columns: Columns,
        spaces: Mapping[str, MultiIndexHash],
    ) -> None:
        """Freeze what is there, and begin."""
        self.generation = generation
        self.failure: Exception | None = None
        self._directory = directory
        self._columns = columns
        self._pictures = len(columns)
        self._frozen = {name: (space.base, *space.freeze()) for name, space in spaces.items()}
        self.frozen_codes = {name: len(codes) for name, (_, codes, _) in self._frozen.items()}
        self.bases: dict[str, SortedBands] = {}
        self._manifest: BandsManifest | None = None
        self.thread = threading.Thread(target=self._run, name="merge", daemon=True)
        self.thread.start()

    def manifest(self) -> BandsManifest:
        """Give the finished files' manifest."""
        if self._manifest is None:
            message = "the merge has not finished"
            raise CorruptStateError(message)
        return self._manifest

    def _run(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            spaces: dict[str, files.Manifest] = {}
            for name, (base, codes, numbers) in self._frozen.items():
                place = self._directory / name
                spaces[name] = files.merge(base, codes, numbers, place, _layout(name))
                # Opened here: reading through 36 million codes takes a second or two.
                self.bases[name] = files.open_files(place, spaces[name])
            self._manifest = BandsManifest(
                format_version=files.FORMAT_VERSION,
                generation=self.generation,
                columns=self._columns.write(self._directory / "columns", self._pictures),
                spaces=spaces,
            )
        except Exception as error:  # noqa: BLE001 - handed to the index's own thread
            self.failure = error


def _manifest(encoded: bytes) -> BandsManifest:
    """Read the manifest; of another version nothing but the version need be as we know it."""
    try:
        version = msgspec.msgpack.decode(encoded, type=_Version).format_version
        if version == files.FORMAT_VERSION:
            return msgspec.msgpack.decode(encoded, type=BandsManifest)
    except msgspec.MsgspecError as error:
        raise files.DamagedFilesError(f"the manifest of the band files: {error}") from error
    raise files.DamagedFilesError(f"the band files are of format {version}")


def blank(fingerprint: Fingerprint) -> Fingerprint:
    """Give what is kept of a picture that was removed before it came."""
    return msgspec.structs.replace(
        fingerprint, views=(), asked=b"", sketch=b"", low_information=False
    )


def _layout(space: str) -> Layout:
    return EXACT if space == BYTES_SPACE else NEAR


def codes_by_space(fingerprint: Fingerprint) -> list[tuple[str, list[bytes]]]:
    """Give a picture's codes by space, 8 bytes each; equal codes of several views once."""
    spaces = [(BYTES_SPACE, [fingerprint.sha256[:8]])]
    if fingerprint.views:
        spaces.append((space_of(fingerprint), list({view.code: 0 for view in fingerprint.views})))
    return spaces


def _bytes_codes(row: Row) -> list[bytes]:
    return [row.record.fingerprint.sha256[:8]]


def as_codes(codes: Sequence[bytes]) -> NDArray[np.uint64]:
    """Give codes as numbers, most significant bit first."""
    return np.frombuffer(b"".join(codes), ">u8").astype(np.uint64)
