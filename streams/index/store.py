"""The truth of one partition's index: its RocksDB, the keys in it, and what is written together.

Owned by `partition.PartitionIndex`. Everything else about the index (band arrays, columns) is
derived from these rows and can be lost. One `WriteBatch` holds a group's rows and the next
offset, so that a kill at any moment leaves a prefix of the log, never a part of a group.
"""

import faulthandler
import functools
import gc
import re
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast
from weakref import WeakSet

import msgspec
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteBufferManager,
)

from schemas.codec import UnknownLogRecordError, decode_log
from schemas.records import Hashed, MatchSettings
from streams import failpoints
from streams.errors import CorruptStateError, RetryableError

FORMAT_VERSION = 2

# RocksDB reads one flipped bit of its MANIFEST (a record's type) in a loop without end, and lets no
# other thread of ours run meanwhile. An index of 36 million pictures opens within a second.
_OPEN_SECONDS = 300.0
_NO_ROOM_BYTES = 1024 * 1024
_OPEN_FILES = 512
# Of all indexes of a process together: what it takes does not grow with its partitions.
_BLOCK_CACHE_BYTES = 64 * 1024 * 1024
# Up to 32 indexes. RocksDB counts whole pieces of 1 MB, and writes memtables to files while seven
# eighths are in use: one piece in each of 57 indexes, and it would after every record.
_MEMTABLES_BYTES = 64 * 1024 * 1024
_MEMTABLES_BYTES_EACH = 2 * 1024 * 1024
_WRITE_BUFFER_BYTES = 32 * 1024 * 1024

# Metadata keys sort before all others; the rest is one letter and a fixed layout.
_IDENTITY = b"!identity"
_NEXT = b"!next"
_BANDS = b"!bands"
_ROW = b"r"
_OUTCOME = b"o"
_FIRST = b"i"
_MARK = b"m"
_REMOVED = b"x"
_SETTINGS = b"s"
_WORKSPACE = b"w"

_SIZES = {
    "sst_live": "live-sst-files-size",
    "sst_total": "total-sst-files-size",
    "memtables": "size-all-mem-tables",
    "table_readers": "estimate-table-readers-mem",
}
_STALLS = re.compile(r"\btotal-(delays|stops): (\d+)")

_U64 = struct.Struct(">Q")
_U32 = struct.Struct(">I")
_ROW_HEAD = struct.Struct(">QI")


class Identity(msgspec.Struct, frozen=True):
    """What a database is an index of. Written first; another one found means: rebuild."""

    format_version: int
    topic_id: str
    partition: int


class Progress(msgspec.Struct, frozen=True):
    """How far the log is applied: the next offset, the last applied record's key, what was kept.

    A database that lost a table, and not the newer ones, is found by its rows and removals being
    fewer than were counted.
    """

    next_offset: int
    last_offset: int
    last_key: bytes
    pictures: int
    removals: int


NOTHING_APPLIED = Progress(next_offset=0, last_offset=-1, last_key=b"", pictures=0, removals=0)


class Row(msgspec.Struct, frozen=True):
    """A picture as indexed: its number (dense, in order of arrival) and its log record."""

    ordinal: int
    timestamp_ms: int
    number: int
    record: Hashed


@dataclass(frozen=True, slots=True)
class Storage:
    """How RocksDB does: sizes by part, what compaction has to do, and how it holds writes back."""

    sizes_bytes: dict[str, int]
    pending_compaction_bytes: int
    write_delays: int
    """Times, since the database was opened; so are the stops."""
    write_stops: int
    writes_stopped: bool


def picture_key(workspace: int, image_id: str) -> bytes:
    """Give what names an image id of a workspace, known by its number, in the keys."""
    return _U32.pack(workspace) + image_id.encode()


class Batch:
    """What one group writes; nothing of it is there before `Store.write`, all of it after."""

    def __init__(self) -> None:
        """Start empty."""
        self._batch = WriteBatch(raw_mode=True)

    def put_row(self, row: Row, record: bytes) -> None:
        """Add a picture, under its first record's offset."""
        head = _ROW_HEAD.pack(row.timestamp_ms, row.number)
        self._batch.put(_ROW + _U64.pack(row.ordinal), head + record)

    def put_first(self, picture: bytes, ordinal: int) -> None:
        """Remember which record was the first of an image id; see `picture_key`."""
        self._batch.put(_FIRST + picture, _U64.pack(ordinal))

    def put_mark(self, picture: bytes, ordinal: int) -> None:
        """Mark an image id as removed, for good; see `picture_key`."""
        self._batch.put(_MARK + picture, _U64.pack(ordinal))

    def put_removed(self, ordinal: int, removed_at: int) -> None:
        """End the visibility of the row at `ordinal`."""
        self._batch.put(_REMOVED + _U64.pack(ordinal), _U64.pack(removed_at))

    def put_outcome(self, ordinal: int, outcome: bytes) -> None:
        """Keep the first outcome of the picture at `ordinal`."""
        self._batch.put(_OUTCOME + _U64.pack(ordinal), outcome)

    def put_settings(self, offset: int, record: bytes) -> None:
        """Add settings, in force from `offset` on."""
        self._batch.put(_SETTINGS + _U64.pack(offset), record)

    def put_workspace(self, name: str, number: int) -> None:
        """Give a workspace its number."""
        self._batch.put(_WORKSPACE + name.encode(), _U32.pack(number))

    def put_progress(self, progress: Progress) -> None:
        """Move the next offset."""
        self._batch.put(_NEXT, msgspec.msgpack.encode(progress))

    def put_bands(self, manifest: bytes) -> None:
        """Switch to other band files."""
        self._batch.put(_BANDS, manifest)

    def raw(self) -> WriteBatch:
        """Give RocksDB's batch."""
        return self._batch


class Store:
    """RocksDB with one partition's rows, opened by one process at a time."""

    def __init__(self, directory: Path, identity: Identity, *, beside: Path | None = None) -> None:
        """Open, or begin anew where what is there belongs to another log or format.

        With `beside`, a folder for notes, it is only looked at, as it is now: also while another
        process writes to it. Nothing is begun then.

        Raises:
            CorruptStateError: the database does not open, or another process holds it.
            RetryableError: its disk is full.
        """
        self._directory = directory
        if beside is None:
            directory.mkdir(parents=True, exist_ok=True)
        # Ends the process from a thread that needs nothing of Python.
        faulthandler.dump_traceback_later(_OPEN_SECONDS, exit=True)
        try:
            if beside is None:
                self._db = self._begun(identity)
            else:
                self._db = _secondary(directory, beside)
            self._db.set_read_options(_verified(cached=True))
        except Exception as error:  # noqa: BLE001 - rocksdict raises it bare for every failure
            self._fail("does not open", error)
        finally:
            faulthandler.cancel_dump_traceback_later()
        found, encoded = self._get([_IDENTITY, _NEXT])
        if found is None:
            # RocksDB opens what is only looked at without the tables that it cannot find.
            self.close()
            raise CorruptStateError(
                f"the index in {directory} is damaged: it does not say what it is of; when no "
                "other process has it open, delete it: it is rebuilt from index-log"
            )
        if found != msgspec.msgpack.encode(identity):
            self.close()
            raise CorruptStateError(
                f"the index in {directory} is of another log or format; a matcher that opens it "
                "begins anew"
            )
        self.progress = (
            NOTHING_APPLIED if encoded is None else msgspec.msgpack.decode(encoded, type=Progress)
        )
        _open_stores.add(self)
        _size_memtables()

    def _begun(self, identity: Identity) -> Rdict:
        """Open to write; empty it where it is of another log or format."""
        wanted = msgspec.msgpack.encode(identity)
        found = _open(self._directory)
        if found.get(_IDENTITY) not in (None, wanted):
            found.close()
            del found
            gc.collect()
            shutil.rmtree(self._directory)
            found = _open(self._directory)
        found.put(_IDENTITY, wanted)
        return found

    def write(self, batch: Batch) -> None:
        """Write all of a batch, or nothing.

        Raises:
            RetryableError: the disk is full.
            CorruptStateError: it cannot be written.
        """
        failpoints.reach("write.before")
        try:
            self._db.write(batch.raw())
        except Exception as error:  # noqa: BLE001 - rocksdict raises it bare for every failure
            self._fail("cannot be written", error)
        failpoints.reach("write.after")

    def rows(self, ordinals: Sequence[int]) -> list[Row]:
        """Read the rows at these ordinals.

        Raises:
            CorruptStateError: one is not there.
        """
        values = self._get([_ROW + _U64.pack(ordinal) for ordinal in ordinals])
        return [
            _row(ordinal, _present(value, "row", ordinal))
            for ordinal, value in zip(ordinals, values, strict=True)
        ]

    def rows_from(self, ordinal: int) -> Iterator[Row]:
        """Read the rows at `ordinal` and after, in order."""
        for key, value in self._scan(_ROW, _ROW + _U64.pack(ordinal)):
            yield _row(_U64.unpack(key[1:])[0], value)

    def outcomes(self, ordinals: Sequence[int]) -> list[bytes | None]:
        """Read the stored first outcomes; None where a row was only rebuilt."""
        return self._get([_OUTCOME + _U64.pack(ordinal) for ordinal in ordinals])

    def first_ordinals(self, pictures: Sequence[bytes]) -> list[int | None]:
        """Find the first record's offset of each image id; see `picture_key`."""
        return self._get_u64([_FIRST + picture for picture in pictures])

    def marks(self, pictures: Sequence[bytes]) -> list[int | None]:
        """Find the removal's offset of each image id; see `picture_key`."""
        return self._get_u64([_MARK + picture for picture in pictures])

    def all_marks(self) -> int:
        """Count the marks."""
        return sum(1 for _ in self._scan(_MARK, _MARK))

    def all_firsts(self) -> int:
        """Count the ids that lead to rows."""
        return sum(1 for _ in self._scan(_FIRST, _FIRST))

    def read_all(self) -> int:
        """Read every key and value, which checks each block; count them.

        Raises:
            CorruptStateError: a block is damaged.
        """
        return sum(1 for _ in self._scan(b"", b""))

    def removals(self) -> Iterator[tuple[int, int]]:
        """Give (ordinal, removed at) of all removed rows."""
        for key, value in self._scan(_REMOVED, _REMOVED):
            yield _U64.unpack(key[1:])[0], _U64.unpack(value)[0]

    def settings(self) -> Iterator[tuple[int, MatchSettings]]:
        """Give (offset, settings) in order."""
        for key, value in self._scan(_SETTINGS, _SETTINGS):
            yield _U64.unpack(key[1:])[0], cast("MatchSettings", decode_log(value))

    def workspaces(self) -> Iterator[tuple[str, int]]:
        """Give (name, number) of all workspaces."""
        for key, value in self._scan(_WORKSPACE, _WORKSPACE):
            yield key[1:].decode(), _U32.unpack(value)[0]

    def bands(self) -> bytes | None:
        """Read the manifest of the band files in use."""
        return self._get([_BANDS])[0]

    def storage(self) -> Storage:
        """Read RocksDB's own numbers; in any thread.

        Raises:
            Exception: it is closed (rocksdict has no other class for it).
        """
        stalls = self._db.property_value("rocksdb.cf-write-stall-stats") or ""
        found = dict(_STALLS.findall(stalls))
        return Storage(
            sizes_bytes={part: self._number(name) for part, name in _SIZES.items()},
            pending_compaction_bytes=self._number("estimate-pending-compaction-bytes"),
            write_delays=int(found.get("delays", 0)),
            write_stops=int(found.get("stops", 0)),
            writes_stopped=bool(self._number("is-write-stopped")),
        )

    def _number(self, name: str) -> int:
        return self._db.property_int_value(f"rocksdb.{name}") or 0

    def close(self) -> None:
        """Close. RocksDB's lock goes when no iterator is alive either, hence the collection.

        Raises:
            CorruptStateError: what was damaged when it was read is told once more.
        """
        try:
            self._db.close()
        except Exception as error:  # noqa: BLE001 - rocksdict raises it bare for every failure
            self._fail("does not close", error)
        finally:
            _open_stores.discard(self)
            _size_memtables()
            gc.collect()

    def _get(self, keys: list[bytes]) -> list[bytes | None]:
        # The cast of `keys` is for the stub, whose list of key types is invariant.
        try:
            found = self._db.get(cast("list[Any]", keys)) if keys else []
        except Exception as error:  # noqa: BLE001 - rocksdict raises it bare for every failure
            self._fail("cannot be read", error)
        return cast("list[bytes | None]", found)

    def _get_u64(self, keys: list[bytes]) -> list[int | None]:
        return [None if value is None else _U64.unpack(value)[0] for value in self._get(keys)]

    def _scan(self, prefix: bytes, start: bytes) -> Iterable[tuple[bytes, bytes]]:
        # What opens an index reads rows by the thousand; those that are asked for again are others.
        iterator = self._db.iter(_verified(cached=False))
        iterator.seek(start)
        while iterator.valid():
            key = cast("bytes", iterator.key())
            if not key.startswith(prefix):
                return
            yield key, cast("bytes", iterator.value())
            iterator.next()
        # An iterator that met a damaged block is invalid too, and says so only here.
        try:
            iterator.status()
        except Exception as error:  # noqa: BLE001 - rocksdict raises it bare for every failure
            self._fail("cannot be read", error)

    def _fail(self, what: str, error: Exception) -> NoReturn:
        """Say what to do: a full disk wants room, anything else a new index."""
        if shutil.disk_usage(self._directory).free < _NO_ROOM_BYTES:
            raise RetryableError(
                f"the index in {self._directory} {what}, because its disk is full: {error}"
            ) from error
        raise CorruptStateError(
            f"the index in {self._directory} {what}: {error}; when no other process has it open, "
            "delete it: it is rebuilt from index-log"
        ) from error


def _open(
    directory: Path, access: AccessType | None = None, open_files: int = _OPEN_FILES
) -> Rdict:
    options = _options()
    options.set_max_open_files(open_files)
    # Said of the family too: without it, rocksdict takes what the database's own file says of a
    # family that is there already, which is a block cache of its own and no Bloom filter.
    families = {"default": options}
    return Rdict(
        str(directory),
        options=options,
        column_families=families,
        access_type=access or AccessType.read_write(),
    )


def _secondary(directory: Path, notes: Path) -> Rdict:
    # All tables stay open: what the writer deletes meanwhile can be read on.
    return _open(directory, AccessType.secondary(str(notes)), open_files=-1)


def _verified(*, cached: bool) -> ReadOptions:
    options = ReadOptions()
    options.set_verify_checksums(True)
    options.fill_cache(cached)  # type: ignore[call-arg] # its stub lacks the argument
    return options


@functools.cache
def _block_cache() -> Cache:
    return Cache(_BLOCK_CACHE_BYTES)


@functools.cache
def _memtables() -> WriteBufferManager:
    return WriteBufferManager(_MEMTABLES_BYTES, allow_stall=False)


_open_stores = WeakSet[Store]()


def _size_memtables() -> None:
    bytes_of_all = max(_MEMTABLES_BYTES, _MEMTABLES_BYTES_EACH * len(_open_stores))
    _memtables().set_buffer_size(bytes_of_all)


def block_cache_bytes() -> int:
    """Give what is in use of the block cache; in any thread."""
    return int(_block_cache().get_usage())


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)  # noqa: FBT003 - the library's signature
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_write_buffer_manager(_memtables())
    options.set_compression_type(DBCompressionType.none())  # hashes do not compress
    options.set_paranoid_checks(True)
    options.set_keep_log_file_num(4)
    table = BlockBasedOptions()
    table.set_block_cache(_block_cache())
    table.set_bloom_filter(10, block_based=False)
    options.set_block_based_table_factory(table)
    return options


def _row(ordinal: int, value: bytes) -> Row:
    timestamp_ms, number = _ROW_HEAD.unpack_from(value)
    try:
        record = cast("Hashed", decode_log(value[_ROW_HEAD.size :]))
    except UnknownLogRecordError as error:
        message = f"the row of offset {ordinal} cannot be decoded ({error}); delete the index"
        raise CorruptStateError(message) from error
    return Row(ordinal, timestamp_ms, number, record)


def _present(value: bytes | None, what: str, ordinal: int) -> bytes:
    if value is None:
        message = f"the {what} of offset {ordinal} is not in the index; delete it to rebuild"
        raise CorruptStateError(message)
    return value
